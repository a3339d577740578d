"""
Few labels, many shared rows
============================

Two parties have measured the same digits, one by Fourier coefficients and one by Zernike moments.
Every digit is known to both, but only 50 are labelled. What the two views have in common can be
found without labels (canonical directions), and what the joint model says of unlabelled rows can
teach a model of one view. These are further candidates, averaged with the others by held-out error
and never forced.

The data are UCI's Multiple Features. They are read from the directory that the environment
variable ``FEDTL_DATA`` names, or else from the UCI repository.
"""

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedtl import FederatedTransferClassifier, LabeledFold
from fedtl.datasets import fetch_mfeat, hide_party, split_parties

try:
    mfeat = fetch_mfeat(("fou", "zer"))
except FileNotFoundError as error:
    print(f"Skipped: {error}")
    sys.exit()


def split_with(n_labeled, seed):
    """Share 1,400 rows between both parties and keep some of the labels."""
    return split_parties(
        mfeat.data,
        mfeat.target,
        mfeat.parties,
        n_shared="all",
        n_per_party=1400,
        n_labeled=n_labeled,
        random_state=seed,
    )


# %%
# Unlabelled rows are opt-in
# --------------------------
#
# ``unlabeled=-1`` says that -1 is no class. Without it, every row is labelled and -1 would be one
# more class, as everywhere in scikit-learn.

split = split_with(50, 0)
print(split.y_train.value_counts().sort_index().to_string())

# %%
# With and without the unlabelled rows
# ------------------------------------
#
# "supervised" is the same estimator on the labelled rows alone; "plain" is a logistic regression on
# the columns that are known, pooled where both are. Means over five random choices of the labels
# (and of the test rows), with their standard deviations: with 50 labels, chance is large. The
# networks of the default solver need more labels than this before they get a say, so
# ``solver="moments"`` spares their time.

VIEWS = {"both": (), "fou only": ("zer",), "zer only": ("fou",)}
scores = {view: {"plain": [], "supervised": [], "with unlabelled": []} for view in VIEWS}
for seed in range(5):
    split = split_with(50, seed)
    labeled = split.y_train != -1
    X, y = split.X_train[labeled], split.y_train[labeled]
    clf = FederatedTransferClassifier(
        mfeat.parties, solver="moments", unlabeled=-1, random_state=seed
    )
    for view, hidden in VIEWS.items():
        columns = [c for p, cs in mfeat.parties.items() if p not in hidden for c in cs]
        plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        plain.fit(X[columns], y)
        scores[view]["plain"].append(plain.score(split.X_test[columns], split.y_test))
    for name, rows in (("supervised", labeled), ("with unlabelled", slice(None))):
        clf.fit(split.X_train[rows], split.y_train[rows])
        for view, hidden in VIEWS.items():
            X_test = hide_party(split.X_test, mfeat.parties, *hidden)
            scores[view][name].append(clf.score(X_test, split.y_test))

print(f"{'digits known to':16}" + "".join(f"{name:>20}" for name in scores["both"]))
for view, values in scores.items():
    cells = [f"{np.mean(v):.3f} ± {np.std(v):.3f}" for v in values.values()]
    print(f"{view:16}" + "".join(f"{cell:>20}" for cell in cells))

# %%
# Cross-validation with few labels
# --------------------------------
#
# An unlabelled row cannot be scored, and a stratified fold would take -1 for a class.
# :class:`fedtl.LabeledFold` divides the labelled rows only; every training set has all unlabelled
# rows. Look at the sizes: there are no more folds than the rarest digit has labels, and each fit
# has fewer than 50 labels.

folds = LabeledFold(3, unlabeled=-1)
sizes = [(len(train), len(test)) for train, test in folds.split(split.X_train, split.y_train)]
print(f"training and test rows of each fold: {sizes}")
result = cross_val_score(clf, split.X_train, split.y_train, cv=folds)
print(f"accuracy {result.mean():.3f} ± {result.std():.3f}")

# %%
# What crossed for it
# -------------------
#
# Unlabelled rows need further exchanges of moments: with the active party's principal components in
# place of labels for the canonical directions, and with the joint model's scores in place of labels
# for the model that learns from these. The report counts them.

frame = clf.report_.to_frame("messages")
print(frame[frame["kind"].str.startswith("moments")].to_string(index=False))
