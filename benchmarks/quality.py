"""What the federation is worth on real data: means over seeds, default parameters, no tuning.

    python -m benchmarks.quality [names...] [--seeds 100 105]

Needs the data directory that FEDTL_DATA names. A table of mean and standard deviation over seeds
is printed for each task as it ends.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fedtl import FederatedTransferClassifier
from fedtl.datasets import (
    fetch_adult,
    fetch_credit_default,
    fetch_mfeat,
    fetch_wikipedia,
    hide_party,
    split_parties,
)

Scores = dict[str, float]
_SIX = ("fou", "zer", "kar", "mor", "pix", "fac")


def score(classes, truth, probabilities) -> float:
    """ROC AUC for two classes, accuracy for more."""
    if len(classes) == 2:
        return float(roc_auc_score(truth, probabilities[:, 1]))
    return float(accuracy_score(truth, classes[probabilities.argmax(1)]))


def fit_and_score(data, split, **params) -> tuple[FederatedTransferClassifier, Scores]:
    """Fit with defaults and score the full view and each party's view of the test rows."""
    start = time.perf_counter()
    model = FederatedTransferClassifier(data.parties, unlabeled=-1, **params)
    model.fit(split.X_train, split.y_train)
    scores = {"seconds": time.perf_counter() - start}
    names = list(data.parties)
    views = {"joint": ()}
    if len(names) == 2:
        views |= {f"only {names[0]}": (names[1],), f"only {names[1]}": (names[0],)}
    else:
        views |= {f"without {name}": (name,) for name in names}
    for view, hidden in views.items():
        seen = hide_party(split.X_test, data.parties, *hidden)
        scores[view] = score(model.classes_, split.y_test, model.predict_proba(seen))
    scores["megabytes"] = model.report_.n_bytes / 1e6
    scores["messages"] = model.report_.n_messages
    return model, scores


def linear(frame):
    """Logistic regression on standardised numbers and one-hot categories."""
    encode = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (
            OneHotEncoder(handle_unknown="ignore", min_frequency=20),
            make_column_selector(dtype_exclude="number"),
        ),
    )
    return make_pipeline(encode, LogisticRegression(max_iter=500, C=0.1 if len(frame) < 500 else 1))


def trees(frame):
    """Gradient-boosted trees."""
    return HistGradientBoostingClassifier(
        learning_rate=0.08,
        max_leaf_nodes=15,
        l2_regularization=1.0,
        early_stopping=False,
        min_samples_leaf=20 if len(frame) >= 200 else 5,
        categorical_features="from_dtype",
    )


def own_best(data, split, columns, rows, models=(linear, trees)) -> float:
    """The best of some ordinary models on some columns and labelled rows, by test score."""
    X, y = split.X_train.loc[rows, columns], split.y_train[rows]
    found = []
    for make in models:
        model = make(X).fit(X, y)
        found.append(
            score(model.classes_, split.y_test, model.predict_proba(split.X_test[columns]))
        )
    return max(found)


def baselines(data, split) -> Scores:
    """Each of two parties alone, the second given the labels of shared rows, and pooled rows."""
    labeled = np.asarray(split.y_train) != -1
    known = {n: split.X_train[c].notna().any(axis=1) for n, c in data.parties.items()}
    (a, columns_a), (b, columns_b) = data.parties.items()
    models = (linear,) if len(np.unique(data.target)) > 2 else (linear, trees)
    shared = labeled & known[a] & known[b]
    return {
        f"{a} alone": own_best(data, split, columns_a, labeled & known[a], models),
        f"{b} alone": own_best(data, split, columns_b, shared, models),
        "pooled": own_best(data, split, [*columns_a, *columns_b], shared, models),
    }


def split_of(data, seed: int, **sizes):
    """Divide a data set's rows among its parties."""
    return split_parties(data.data, data.target, data.parties, random_state=seed, **sizes)


def two_parties(fetch: Callable, n_shared, n_per_party=4000, n_labeled=None, reverse=False):
    """A task of two parties, with the baselines of each alone and of pooled rows."""
    data = fetch()
    if reverse:
        data.parties = dict(reversed(data.parties.items()))

    def run(seed: int) -> Scores:
        split = split_of(
            data, seed, n_shared=n_shared, n_per_party=n_per_party, n_labeled=n_labeled
        )
        _, scores = fit_and_score(data, split, random_state=seed)
        scores |= baselines(data, split)
        a, b = data.parties
        gain = scores["joint"] - scores[f"only {a}"]
        return {
            **scores,
            "joint - anchor": gain,
            "joint - best single": scores["joint"] - max(scores[f"only {a}"], scores[f"only {b}"]),
        }

    return run


def against_liu(fetch: Callable, n_shared: int, n_per_party: int):
    """Liu et al.'s transfer beside the solver "moments", and how far its protected forms differ."""
    data = fetch()
    a, b = data.parties

    def run(seed: int) -> Scores:
        split = split_of(data, seed, n_shared=n_shared, n_per_party=n_per_party)
        result, clear = {}, {}
        views = {"joint": (), f"only {b}": (a,)}
        seen = {view: hide_party(split.X_test, data.parties, *h) for view, h in views.items()}
        for privacy in ("none", "sharing", "paillier"):
            model, scores = fit_and_score(
                data, split, solver="liu", privacy=privacy, random_state=seed
            )
            found = {view: model.predict_proba(rows) for view, rows in seen.items()}
            result[f"kilobytes, {privacy}"] = 1e3 * scores["megabytes"]
            if privacy == "none":
                clear = found
                result |= {f"liu, {view}": scores[view] for view in views}
                continue
            apart = max(float(np.abs(found[view] - clear[view]).max()) for view in views)
            result[f"{privacy} - none"] = apart
        _, scores = fit_and_score(data, split, solver="moments", random_state=seed)
        result |= {f"moments, {view}": scores[view] for view in views}
        return result | baselines(data, split)

    return run


def joint_training(fetch: Callable, n_shared: int, n_per_party: int):
    """The solver "latent" by what protects it: areas, size, and how far predictions differ.

    Areas are under the ROC curve, for more than two classes means of each against the others.
    """
    data = fetch()
    a, b = data.parties

    def run(seed: int) -> Scores:
        split = split_of(data, seed, n_shared=n_shared, n_per_party=n_per_party)
        result, found = {}, {}
        views = {"joint": (), "only " + b: (a,)}
        for privacy in ("none", "sharing", "paillier"):
            start = time.perf_counter()
            model = FederatedTransferClassifier(
                data.parties, unlabeled=-1, solver="latent", privacy=privacy, random_state=seed
            ).fit(split.X_train, split.y_train)
            result[f"seconds, {privacy}"] = time.perf_counter() - start
            result[f"megabytes, {privacy}"] = model.report_.n_bytes / 1e6
            for view, hidden in views.items():
                seen = hide_party(split.X_test, data.parties, *hidden)
                found[privacy, view] = model.predict_proba(seen)
                chosen = found[privacy, view]
                chosen = chosen[:, 1] if len(model.classes_) == 2 else chosen
                area = roc_auc_score(split.y_test, chosen, multi_class="ovr")
                result[f"AUC, {view}, {privacy}"] = float(area)
        result["AUC, joint, sharing - none"] = (
            result["AUC, joint, sharing"] - result["AUC, joint, none"]
        )
        apart = max(np.abs(found["paillier", v] - found["sharing", v]).max() for v in views)
        return result | {"paillier - sharing": float(apart)}

    return run


def six_views(seed: int) -> Scores:
    """All six views of mfeat, everything shared and labelled."""
    data = fetch_mfeat(_SIX)
    split = split_of(data, seed, n_per_party=1400)
    _, scores = fit_and_score(data, split, random_state=seed)
    columns = [c for party in data.parties.values() for c in party]
    pooled = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    pooled.fit(split.X_train[columns], split.y_train)
    scores["pooled"] = float(pooled.score(split.X_test[columns], split.y_test))
    scores["joint - pooled"] = scores["joint"] - scores["pooled"]
    worst = min(v for k, v in scores.items() if k.startswith("without"))
    return {**scores, "worst loss of one party": scores["joint"] - worst}


TASKS: dict[str, Callable] = {
    **{
        f"{name} {n}": (lambda fetch=fetch, n=n: two_parties(fetch, n))
        for name, fetch in (("credit", fetch_credit_default), ("adult", fetch_adult))
        for n in (200, 1000, "all")
    },
    "mfeat 200 shared": lambda: two_parties(fetch_mfeat, 200, 600),
    "mfeat 50 labels": lambda: two_parties(fetch_mfeat, "all", 1400, n_labeled=50),
    "credit 50 labels": lambda: two_parties(fetch_credit_default, "all", 3000, n_labeled=50),
    "reversed credit 50": lambda: two_parties(fetch_credit_default, 50, reverse=True),
    "reversed credit 200": lambda: two_parties(fetch_credit_default, 200, reverse=True),
    "wikipedia 200": lambda: two_parties(fetch_wikipedia, 200, 900),
    "wikipedia 200 reversed": lambda: two_parties(fetch_wikipedia, 200, 900, reverse=True),
    "wikipedia all": lambda: two_parties(fetch_wikipedia, "all", 2000),
    "wikipedia all reversed": lambda: two_parties(fetch_wikipedia, "all", 2000, reverse=True),
    "six views": lambda: six_views,
    "latent credit 1000": lambda: joint_training(fetch_credit_default, 1000, 4000),
    "latent mfeat 200": lambda: joint_training(fetch_mfeat, 200, 600),
    **{
        f"liu {name} {n}": (lambda fetch=fetch, n=n, m=m: against_liu(fetch, n, m))
        for name, fetch, m in (("credit", fetch_credit_default, 4000), ("mfeat", fetch_mfeat, 600))
        for n in (50, 100)
    },
}


def main() -> None:
    """Run the tasks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TASKS)}; all by default")
    parser.add_argument("--seeds", nargs=2, type=int, default=(100, 105))
    options = parser.parse_args()
    for name in options.names or TASKS:
        run = TASKS[name]()
        results = [run(seed) for seed in range(*options.seeds)]
        print(f"== {name}, {len(results)} seeds", flush=True)
        for key in results[0]:
            values = np.array([result[key] for result in results])
            print(
                f"  {key:24s} {values.mean():9.4f} ± {values.std():.4f}   "
                f"min {values.min():.4f} max {values.max():.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
