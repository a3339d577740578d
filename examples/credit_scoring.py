"""
Credit scoring by a bank and a partner
======================================

A bank knows its clients, their limits and their bills, and which of them failed to pay. A partner
knows how they repaid in earlier months. They may match the clients that they have in common, but
neither may see the other's columns. How much is that worth, and how many common clients does it
take?

The data are UCI's default of credit card clients. They are read from the directory that the
environment variable ``FEDTL_DATA`` names, or else from OpenML.
"""

import sys

from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from fedtl import FederatedTransferClassifier
from fedtl.datasets import fetch_credit_default, hide_party, split_parties

try:
    credit = fetch_credit_default()
except FileNotFoundError as error:
    print(f"Skipped: {error}")
    sys.exit()

bank_columns = credit.parties["bank"]
print({name: len(columns) for name, columns in credit.parties.items()})

# %%
# Who knows which client
# ----------------------
#
# Each party knows 4,000 clients. Of these, 200, 1,000 or all are common to both. A client that a
# party does not know is a row that is missing in all of the party's columns, and the bank has no
# label (-1) for a client of the partner alone.

splits = {
    n_shared: split_parties(
        credit.data, credit.target, credit.parties, n_shared=n_shared, random_state=0
    )
    for n_shared in (200, 1000, "all")
}


def auc(model, X, y):
    """Area under the ROC curve."""
    return roc_auc_score(y, model.predict_proba(X)[:, 1])


# %%
# Federated, alone, centralised
# -----------------------------
#
# The same fitted model serves clients that both know, that the bank knows, and that the partner
# knows. It is compared with gradient boosting on the bank's columns, and with gradient boosting
# on one table of all columns, as if there were no border.
#
# Look at three things. Clients of both gain the more, the more of them are common. Clients of the
# bank alone gain nothing: they are served by the bank's own model. And the partner, which has no
# label at all, gets a model for the clients that only it knows.

models = {}
print(f"{'common clients':>15}  {'known to':16}{'bank alone':>11}{'federated':>11}{'pooled':>8}")
for n_shared, split in splits.items():
    labeled = split.y_train != -1
    X, y = split.X_train[labeled], split.y_train[labeled]
    alone = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.08).fit(X[bank_columns], y)
    pooled = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.08).fit(X, y)

    clf = FederatedTransferClassifier(credit.parties, unlabeled=-1, random_state=0)
    models[n_shared] = clf.fit(split.X_train, split.y_train)
    for hidden, known in ((), "bank and partner"), (("partner",), "bank"), (("bank",), "partner"):
        X_test = hide_party(split.X_test, credit.parties, *hidden)
        cells = [
            "-" if "bank" in hidden else f"{auc(alone, X_test[bank_columns], split.y_test):.3f}",
            f"{auc(clf, X_test, split.y_test):.3f}",
            "-" if hidden else f"{auc(pooled, X_test, split.y_test):.3f}",
        ]
        print(f"{n_shared:>15}  {known:16}{cells[0]:>11}{cells[1]:>11}{cells[2]:>8}")

# %%
# The report
# ----------
#
# Without a test set, the fitted model tells the same story from held-out rows: for each subset of
# parties, what the federation gained over the bank alone, with its interval; what the guard
# decided; and every kind of message that crossed the border.

print(models[1000].report_)
