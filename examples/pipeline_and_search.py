"""
Pipelines, cross-validation and grid search
===========================================

A federated estimator is a scikit-learn estimator: it stands in pipelines, is cross-validated and
searched over. One thing is different, and it is the subject of this example: *preprocessing
belongs to the party*. Which rows a party knows is told by missing values, so an imputer before a
federated estimator would make every party know every row.

The data are UCI's default of credit card clients, few of them so that the search is quick. They
are read from the directory that the environment variable ``FEDTL_DATA`` names, or else from
OpenML.
"""

import sys

import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from fedtl import (
    Encoder,
    FederatedColumnTransformer,
    FederatedTransferClassifier,
    LabeledFold,
)
from fedtl.datasets import fetch_credit_default, split_parties

try:
    credit = fetch_credit_default()
except FileNotFoundError as error:
    print(f"Skipped: {error}")
    sys.exit()

split = split_parties(
    credit.data, credit.target, credit.parties, n_shared=300, n_per_party=600, random_state=0
)
X, y = split.X_train, split.y_train
bank, partner = credit.parties["bank"], credit.parties["partner"]
folds = LabeledFold(3)

# %%
# An imputer before the federation erases it
# ------------------------------------------
#
# Look at the rows that the partner is said to know.

clf = FederatedTransferClassifier(
    [("bank", Encoder(), bank), ("partner", Encoder(), partner)],
    solver="moments",
    unlabeled=-1,
    random_state=0,
)
print(clf.fit(X, y).report_.to_frame("rows").to_string(index=False))

everywhere = make_pipeline(SimpleImputer(strategy="most_frequent"), clf)
everywhere.set_output(transform="pandas").fit(X, y)
print(clf.report_.to_frame("rows").to_string(index=False))

# %%
# Each party's own preprocessor
# -----------------------------
#
# The way that also works when a party's columns are not in X: the preprocessor is part of the
# party's recipe, and the party fits it on the rows that it knows. Here the bank relates its bills
# to the client's limit, and the partner one-hot encodes the state of each month's repayment.


def add_utilisation(frame: pd.DataFrame) -> pd.DataFrame:
    """Add each bill as a share of the limit."""
    bills = frame.filter(like="BILL_AMT")
    return frame.join(bills.div(frame["LIMIT_BAL"], axis=0).add_suffix("_share"))


utilisation = FunctionTransformer(add_utilisation)
states = make_column_transformer(
    (OneHotEncoder(handle_unknown="ignore", min_frequency=20), make_column_selector("^PAY_[0-9]$")),
    remainder="passthrough",
)
own = FederatedTransferClassifier(
    [
        ("bank", Encoder(preprocessor=utilisation), bank),
        ("partner", Encoder(preprocessor=states), partner),
    ],
    solver="moments",
    max_iter=80,
    unlabeled=-1,
    random_state=0,
)
for name, model in (("no preprocessor", clf), ("own preprocessors", own)):
    scores = cross_val_score(model, X, y, cv=folds, scoring="roc_auc")
    print(f"{name}: AUC {scores.mean():.3f} ± {scores.std():.3f}")

# %%
# A step of a pipeline
# --------------------
#
# :class:`fedtl.FederatedColumnTransformer` is a step of its own that does what a
# ``ColumnTransformer`` does, party by party: a transformer sees only the rows that its party
# knows, and the other rows stay missing. The names of its columns begin with the party's name.

numbers = make_column_selector(dtype_include="number")
categories = make_column_selector(dtype_include="category")
encode_bank = make_column_transformer(
    (StandardScaler(), numbers),
    (OneHotEncoder(sparse_output=False, handle_unknown="ignore"), categories),
)
pipeline = make_pipeline(
    FederatedColumnTransformer(
        [("bank", encode_bank, bank), ("partner", StandardScaler(), partner)]
    ),
    FederatedTransferClassifier(
        [
            ("bank", Encoder(), make_column_selector("^bank__")),
            ("partner", Encoder(), make_column_selector("^partner__")),
        ],
        solver="moments",
        unlabeled=-1,
        random_state=0,
    ),
).set_output(transform="pandas")
scores = cross_val_score(pipeline, X, y, cv=folds, scoring="roc_auc")
print(f"pipeline: AUC {scores.mean():.3f} ± {scores.std():.3f}")
print(pipeline[:-1].fit(X, y).get_feature_names_out()[[0, -1]])

# %%
# Grid search
# -----------
#
# The parties' encoders are nested parameters: ``bank__preprocessor`` is the bank's. Solvers and
# preprocessors are searched over together, in two processes.

search = GridSearchCV(
    own,
    {
        "solver": ["moments", "auto"],
        "bank__preprocessor": [None, utilisation],
    },
    cv=folds,
    scoring="roc_auc",
    n_jobs=2,
)
search.fit(X, y)
table = pd.DataFrame(search.cv_results_)
table["bank__preprocessor"] = table["param_bank__preprocessor"].map(
    lambda step: "none" if step is None else step.func.__name__
)
columns = ["param_solver", "bank__preprocessor", "mean_test_score", "std_test_score"]
print(table.sort_values("rank_test_score")[columns].round(3).to_string(index=False))
print(f"test rows, known to both: AUC {search.score(split.X_test, split.y_test):.3f}")
