"""
Four hospitals, one model, one round
====================================

Cleveland, Budapest, Zurich and Long Beach fill the same form for patients with chest pain, each
with its own holes: hardly anyone outside of Cleveland records the number of coloured vessels
(``ca``) or the thallium scan (``thal``), and Zurich records no cholesterol at all. Rows belong to
the hospitals; no row is pooled. Means, scales and the coefficients of a linear model follow from
sums over rows, so that no gradient rounds are needed.

The data are UCI's Heart Disease. They are read from the directory that the environment variable
``FEDTL_DATA`` names, or else from the UCI repository.
"""

import sys

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn import set_config
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, StratifiedShuffleSplit, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from fedtl import (
    FederatedLogisticRegression,
    FederatedRidge,
    FederatedSimpleImputer,
    FederatedStandardScaler,
)
from fedtl.datasets import fetch_heart
from fedtl.federation import Simulation
from fedtl.parties import Policy

try:
    heart = fetch_heart()
except FileNotFoundError as error:
    print(f"Skipped: {error}")
    sys.exit()

X, y, hospital = heart.data, heart.target.to_numpy(), heart.sample_party
names = sorted(set(hospital))
print("share of missing values, in per cent")
print((X.isna().groupby(hospital).mean() * 100).round().astype(int).T.to_string())

# %%
# Whose row is whose
# ------------------
#
# ``sample_party`` says it. It is metadata of ``fit`` and travels through a pipeline once the steps
# request it. A column that a hospital does not record is filled with the mean over the hospitals
# that do; a code that is missing is none of the categories, which all hospitals know beforehand.

set_config(enable_metadata_routing=True)
CODES = {"cp": [1, 2, 3, 4], "restecg": [0, 1, 2], "slope": [1, 2, 3], "thal": [3, 6, 7]}
numbers = [c for c in X.columns if c not in CODES]


def pipeline(model, federation=None):
    """Return preprocessing and model, all of whose steps ask for whose row is whose."""

    def ask(step):
        return step.set_params(federation=federation).set_fit_request(sample_party=True)

    fill = make_pipeline(ask(FederatedStandardScaler()), ask(FederatedSimpleImputer()))
    one_hot = OneHotEncoder(
        categories=list(CODES.values()), handle_unknown="ignore", sparse_output=False
    )
    return make_pipeline(
        make_column_transformer((fill, numbers), (one_hot, list(CODES))), ask(model)
    )


# No hospital answers for fewer than ten patients, and a column with fewer values stays at home.
policies = Simulation(policies={name: Policy(min_rows=10) for name in names})
ridge = pipeline(FederatedRidge(alpha=10.0), policies)
logistic = pipeline(FederatedLogisticRegression(C=0.01), policies)

# %%
# The floors
# ----------
#
# Each hospital by itself, the pooled rows, and federated averaging (McMahan et al., 2017): 30
# rounds, in each of which every hospital takes 20 gradient steps and the coefficients are averaged.


def federated_averaging(Z, target, owner, *, n_rounds=30, n_steps=20, lr=0.3, penalty=0.1):
    """Return coefficients of a logistic regression, the intercept first."""
    design = np.hstack([np.ones((len(Z), 1)), Z])
    w = np.zeros(design.shape[1])
    for _ in range(n_rounds):
        mean = np.zeros_like(w)
        for name in names:
            A, t, local = design[owner == name], target[owner == name], w.copy()
            for _ in range(n_steps):
                shrink = np.r_[0.0, local[1:]] * penalty
                local -= lr * (A.T @ (expit(A @ local) - t) / len(A) + shrink)
            mean += local * len(A) / len(design)
        w = mean
    return w


def scores_of(train):
    """Fit everything on the training rows and return the scores of all rows by method."""
    own = {"sample_party": hospital[train]}
    model = clone(ridge).fit(X.iloc[train], y[train], **own)
    newton = clone(logistic).fit(X.iloc[train], y[train], **own)
    Z = model[0].transform(X)
    pooled = Ridge(alpha=10.0).fit(Z[train], y[train])
    assert abs(model[-1].coef_ - pooled.coef_).max() < 1e-8
    table = pd.DataFrame(Z).add_prefix("z").assign(hospital=hospital)
    best = FederatedRidge(alpha=10.0, deploy="best", party="hospital", random_state=0)
    best.fit(table.iloc[train], y[train])
    w = federated_averaging(Z[train], y[train], hospital[train])
    alone = np.zeros(len(y))
    for name in names:
        mine = train[hospital[train] == name]
        alone[hospital == name] = (
            Ridge(alpha=10.0).fit(Z[mine], y[mine]).predict(Z[hospital == name])
        )
    return (
        model,
        best,
        {
            "each alone": alone,
            "federated averaging, 30 rounds": w[0] + Z @ w[1:],
            "FederatedRidge, one round": model.predict(X),
            "FederatedLogisticRegression": newton.decision_function(X),
            "FederatedRidge, deploy='best'": best.predict(table),
        },
    )


# %%
# Ten random splits
# -----------------
#
# 70 per cent of each hospital's patients train, the others test. The ridge regression equals that
# on pooled rows (asserted above), so "pooled" needs no line of its own.

splits = StratifiedShuffleSplit(10, test_size=0.3, random_state=0)
strata = [f"{name} {target}" for name, target in zip(hospital, y, strict=True)]
table: dict[str, list[list[float]]] = {}
for train, test in splits.split(X, strata):
    model, best, scores = scores_of(train)
    for method, score in scores.items():
        rows = [test[hospital[test] == name] for name in names]
        table.setdefault(method, []).append([roc_auc_score(y[i], score[i]) for i in rows])

print(f"\n{'AUC on held-out patients':34}" + "".join(f"{n:>13}" for n in [*names, "mean"]))
for method, values in table.items():
    means = [*np.mean(values, axis=0), np.mean(values)]
    print(f"{method:34}" + "".join(f"{v:13.3f}" for v in means))
print(
    "\nZurich's tests have two or three healthy patients: its column is mostly noise. The\n"
    "federation helps Zurich and Long Beach; Cleveland and Budapest do as well alone."
)

# %%
# Do no harm
# ----------
#
# With ``deploy="best"`` each hospital compares the federated model, a model of its own around it
# and one of its own by itself, on held-out patients of its own, and serves itself the best. The
# evidence is a loss, and not AUC: nearly all of Zurich's patients are ill, which its own model
# knows, so that its error is the least although the federated model ranks patients better.

print("\nheld-out squared error in the last split")
print(best.report_)

# %%
# What crossed
# ------------

ledger = model[-1].ledger_
print(f"\nridge regression: {ledger.messages} messages, {ledger.n_bytes:,} bytes")
for row in ledger.rows():
    print(f"  {row['party']:12} {row['direction']:8} {row['kind']:28} {row['bytes']:6,} bytes")

# %%
# A hospital that was never seen
# ------------------------------
#
# Leave-one-party-out: scikit-learn's own cross-validation, with one array for groups and parties.

result = cross_validate(
    pipeline(FederatedLogisticRegression(C=0.01)),
    X,
    y,
    cv=LeaveOneGroupOut(),
    scoring="roc_auc",
    params={"sample_party": hospital, "groups": hospital},
    n_jobs=2,
)
print("\nAUC of a model that the other three hospitals trained")
for name, score in zip(names, result["test_score"], strict=True):
    print(f"  {name:12} {score:.3f}")
