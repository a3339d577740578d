"""
Six views of the same digits
============================

Six parties have each measured 2,000 handwritten numerals in their own way: profile correlations,
Fourier coefficients, Karhunen-Loeve coefficients, morphology, pixel averages and Zernike moments.
The first has the labels. After one fit, any subset of the six can be asked: what happens to the
accuracy when a party does not answer? And what do six parties cost, in rounds, messages and bytes?

The data are UCI's Multiple Features. They are read from the directory that the environment
variable ``FEDTL_DATA`` names, or else from the UCI repository.
"""

import sys

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedtl import FederatedTransferClassifier
from fedtl.datasets import fetch_mfeat, hide_party, split_parties

try:
    mfeat = fetch_mfeat(("fac", "fou", "kar", "mor", "pix", "zer"))
except FileNotFoundError as error:
    print(f"Skipped: {error}")
    sys.exit()

split = split_parties(
    mfeat.data, mfeat.target, mfeat.parties, n_shared="all", n_per_party=1400, random_state=0
)
print({name: len(columns) for name, columns in mfeat.parties.items()})

# %%
# One fit with everybody
# ----------------------
#
# The solver "auto" averages two learners by held-out error: "moments", which exchanges sums of
# products once with each party, and "latent", which trains networks together and exchanges a
# message for each mini-batch. Both are fitted here, to see what each of them costs.

models = {
    solver: FederatedTransferClassifier(mfeat.parties, solver=solver, random_state=0).fit(
        split.X_train, split.y_train
    )
    for solver in ("moments", "auto")
}
pooled = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
pooled.fit(split.X_train, split.y_train)

# %%
# When a party is missing
# -----------------------
#
# A party that does not know a row, or does not answer, is a block of missing values. The
# centralised logistic regression has no answer then; the federated model has one for each subset.

print(f"{'answered by':16}{'moments':>9}{'auto':>9}{'centralised':>13}")
for name in (None, *mfeat.parties):
    X_test = split.X_test if name is None else hide_party(split.X_test, mfeat.parties, name)
    scores = [f"{model.score(X_test, split.y_test):.3f}" for model in models.values()]
    central = f"{pooled.score(X_test, split.y_test):.3f}" if name is None else "-"
    who = "all six" if name is None else f"all but {name}"
    print(f"{who:16}{scores[0]:>9}{scores[1]:>9}{central:>13}")

# %%
# What it cost
# ------------
#
# A round is an exchange with a party that has to wait for the one before. Parties do not wait for
# one another, so six of them need as many rounds as two; messages and bytes grow with the parties.
# What "moments" sends is mostly sums, which do not grow with the rows.

print(f"{'':10}{'rounds':>8}{'messages':>10}{'megabytes':>11}{'seconds':>9}")
for solver, model in models.items():
    report = model.report_
    row = [report.rounds, report.n_messages, report.n_bytes / 1e6, sum(report.seconds.values())]
    print(f"{solver:10}{row[0]:>8,}{row[1]:>10,}{row[2]:>11.1f}{row[3]:>9.1f}")

frame = models["auto"].report_.to_frame("messages")
print(frame.groupby(["kind", "direction"], sort=False)[["messages", "bytes"]].sum().to_string())

# %%
# Who contributes what
# --------------------
#
# The report has all subsets of the parties. Those with everybody, and without one party each, say
# on held-out training rows what a party adds to the others: the squared error that the federation
# takes away from the active party alone, and how much less it is without that party.

subsets = models["auto"].report_.to_frame()
large = subsets[subsets["parties"].str.count(r"\+") >= len(mfeat.parties) - 2]
columns = ["parties", "score", "gain", "gain_low", "gain_high", "trust"]
print(large[columns].round(3).to_string(index=False))
