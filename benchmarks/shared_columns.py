"""What a hospital's model of few shared columns is worth to a clinic with few labels.

``python -m benchmarks.shared_columns`` draws, five times for each setting, a few labelled rows of
the active party and 3,000 other rows of the passive one, which also records two of the active
party's columns, and prints AUCs on 5,000 rows of which only the active party's columns are known:
of the active party alone, of the passive party's curves alone, and of both, guarded. Data are read
from ``FEDTL_DATA`` or fetched.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from fedtl import FederatedSharedColumnsClassifier
from fedtl.datasets import fetch_adult, fetch_credit_default

SETTINGS = {
    "credit default": (fetch_credit_default, ("LIMIT_BAL", "BILL_AMT1")),
    "adult": (fetch_adult, ("age", "sex_Male")),
}
N_DRAWS, N_PASSIVE, N_TEST = 5, 3000, 5000


def main() -> None:
    """Print one line for each data set and number of labels."""
    print(f"{'':16}{'labels':>8}{'alone':>8}{'curves':>8}{'both':>8}{'worst':>8}{'trust':>8}")
    for name, (fetch, shared) in SETTINGS.items():
        data = fetch()
        coded = {p: pd.get_dummies(data.data[c], dtype=float) for p, c in data.parties.items()}
        for n_labels in (50, 200):
            draws = np.array([_draw(data, coded, shared, n_labels, s) for s in range(N_DRAWS)])
            means, worst = draws.mean(axis=0), (draws[:, 2] - draws[:, 0]).min()
            cells = "".join(f"{v:8.3f}" for v in [*means[:3], worst, means[3]])
            print(f"{name:16}{n_labels:8}{cells}", flush=True)


def _draw(data: Any, coded: Any, shared: Any, n_labels: int, seed: int) -> list[float]:
    active, passive = coded.values()
    y = np.unique(data.target, return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(len(y))
    test, rows = order[:N_TEST], order[N_TEST : N_TEST + n_labels + N_PASSIVE]
    X, X_test = (pd.concat([active.iloc[i], passive.iloc[i]], axis=1) for i in (rows, test))
    owner = np.repeat(["active", "passive"], [n_labels, N_PASSIVE])
    X.loc[owner == "active", passive.columns] = np.nan
    X.loc[owner == "passive", active.columns.difference(list(shared))] = np.nan
    X_test[passive.columns] = np.nan
    mine = owner == "active"
    clf = FederatedSharedColumnsClassifier("active", random_state=seed)
    alone = FederatedSharedColumnsClassifier("active", random_state=seed)
    alone.fit(X[mine], y[rows][mine], sample_party=owner[mine])
    clf.fit(X, y[rows], sample_party=owner)
    columns, curves = clf.model_.donors[0]
    scores = [
        alone.predict_proba(X_test)[:, 1],
        curves.scores(X_test.to_numpy()[:, columns])[:, 0],
        clf.predict_proba(X_test)[:, 1],
    ]
    return [*(roc_auc_score(y[test], s) for s in scores), clf.trust_]


if __name__ == "__main__":
    main()
