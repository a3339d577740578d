"""
Digits by two half-blind cameras
================================

Two cameras look at the same handwritten digits. The left one sees the left half of each image and
its owner has the labels; the right one sees the right half. Some digits passed both cameras, the
others passed one of them. This example walks through what a fit does with them: who can be served
afterwards, what the report says, and what the shared latent space looks like.

The data ship with scikit-learn.
"""

import matplotlib.pyplot as plt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedtl import Encoder, FederatedTransferClassifier
from fedtl.datasets import hide_party, load_digits_halves, split_parties
from fedtl.inspection import LatentSpaceDisplay, PartyContributionDisplay

digits = load_digits_halves()
split = split_parties(
    digits.data, digits.target, digits.parties, n_shared=250, n_per_party=600, random_state=0
)
left, right = digits.parties["left"], digits.parties["right"]

# %%
# Membership is in the table
# --------------------------
#
# No further argument says who knows which digit. A camera does not know a row whose pixels are all
# missing in its block of columns, and -1 marks the rows without a label.

knows_left = split.X_train[left].notna().any(axis=1)
knows_right = split.X_train[right].notna().any(axis=1)
print(f"known to both {(knows_left & knows_right).sum()}, left only {(~knows_right).sum()}")
print(f"right only {(~knows_left).sum()}; labelled {(split.y_train != -1).sum()}")

# %%
# Fit once, serve everybody
# -------------------------
#
# The first party of the list is the active one, which has the labels. In the diagram that a
# notebook shows, and below, the parties stand side by side.

clf = FederatedTransferClassifier(
    [("left", Encoder(), left), ("right", Encoder(), right)], unlabeled=-1, random_state=0
)
clf.fit(split.X_train, split.y_train)

labeled = split.y_train != -1
alone = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
alone.fit(split.X_train.loc[labeled, left], split.y_train[labeled])
print(
    f"left camera alone, logistic regression: {alone.score(split.X_test[left], split.y_test):.3f}"
)
for name, hidden in (("both", []), ("left only", ["right"]), ("right only", ["left"])):
    X_test = hide_party(split.X_test, digits.parties, *hidden)
    print(f"federated, digits known to {name:10}: {clf.score(X_test, split.y_test):.3f}")

# %%
# What the federation gained
# --------------------------
#
# The report rests on held-out rows of the training data: no test set is needed to decide whether
# the right camera is worth having. As pandas tables it can be worked with.

print(clf.report_)
frame = clf.report_.to_frame()
print(frame[["parties", "n_rows", "score", "score_alone", "decision"]].to_string(index=False))
PartyContributionDisplay.from_estimator(clf)

# %%
# Fewer messages
# --------------
#
# Most messages are those of the networks' joint training, one exchange for each mini-batch. Where
# a message takes milliseconds, several local updates can be made on each of them; the gradients
# grow stale meanwhile. Look at what the accuracy pays for it.

eager = FederatedTransferClassifier(
    digits.parties, local_updates=4, unlabeled=-1, random_state=0
).fit(split.X_train, split.y_train)
for model in (clf, eager):
    report = model.report_
    print(
        f"local_updates={model.local_updates}: {report.rounds} rounds, "
        f"{report.n_bytes / 1e6:.1f} MB, accuracy {model.score(split.X_test, split.y_test):.3f}"
    )

# %%
# What the cameras agree on
# -------------------------
#
# The latent solver maps each camera's pixels into one space, where those of the same digit should
# come to lie close together, whichever camera they come from. ``transform`` returns the sum of
# the latents of those cameras that know a row.

latents = clf.transform(split.X_test)
print(latents.shape)
LatentSpaceDisplay.from_estimator(clf, split.X_test, split.y_test)
plt.show()
