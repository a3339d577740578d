"""Membership inference: was a row trained on, as far as the final model shows it.

N. Carlini, S. Chien, M. Nasr, S. Song, A. Terzis, F. Tramer. Membership inference attacks from
first principles. IEEE S&P 2022 (LiRA). The attacker trains models like the one it attacks, on rows
of its own choice, and compares how sure each of them is of a row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils._indexing import _safe_indexing

from fedtl.inspection.attacks._finding import Finding, over_draws, true_positives

_FALSE_ALARMS = 0.01
_MOST_CONFIDENT = 1e-7


def membership_attack(
    estimator: Any, X: Any, y: Any, sample_party: Any, *, n_shadows: int, seed: int
) -> list[Finding]:
    """Attack the model that all parties are told, with shadow models.

    Parameters
    ----------
    estimator : estimator
        A row-wise federated estimator; it is cloned.
    X : array-like or dataframe of shape (n_rows, ...)
        Rows.
    y : array-like of shape (n_rows,)
        Their targets.
    sample_party : array-like of shape (n_rows,)
        Whose row is whose; it is passed to fit unless a column of X says it.
    n_shadows : int
        Models that the attacker trains, each on half of each party's rows.
    seed : int
        Seed of the halves.

    Returns
    -------
    list of Finding
        One: the rows that are found at one false alarm in a hundred, where each model in turn is
        the one attacked. The control guesses members at random.
    """
    frame = Finding(
        "7",
        "membership",
        "any party",
        "all parties",
        "members",
        metric=f"members found at {_FALSE_ALARMS:.0%} false alarms",
        knows=f"{n_shadows} models of its own",
        chance=_FALSE_ALARMS,
        margin=0.01,
        source="rounds.round/1: vectors",
    )
    if n_shadows < 4:
        return [replace(frame, why=f"n_shadows={n_shadows} models are too few; use 16 or more")]
    rng = np.random.default_rng([seed, 10])
    y, owners = np.asarray(y), np.asarray(sample_party).astype(str)
    groups = np.char.add(owners, [f" {v}" for v in y]) if _classifies(estimator) else owners
    members = np.stack([_half(groups, rng) for _ in range(n_shadows + 1)])
    sure = np.stack([_sureness(estimator, X, y, owners, inside) for inside in members])
    score, control = [], []
    for target in range(len(members)):
        others = np.delete(np.arange(len(members)), target)
        ratio = _likelihood_ratio(sure[target], sure[others], members[others])
        score.append(true_positives(members[target], ratio, _FALSE_ALARMS))
        control.append(true_positives(rng.permutation(members[target]), ratio, _FALSE_ALARMS))
    return [replace(frame, score=over_draws(score), control=over_draws(control))]


def _classifies(estimator: Any) -> bool:
    return getattr(estimator.__sklearn_tags__(), "estimator_type", None) == "classifier"


def _half(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw half of the rows of each party and class, so that all of them stay."""
    inside = np.zeros(len(groups), dtype=bool)
    for group in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == group))
        inside[rows[: max((len(rows) + int(rng.integers(2))) // 2, 1)]] = True
    return inside


def _sureness(
    estimator: Any, X: Any, y: np.ndarray, owners: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Fit on some rows, and return how sure the federated model is of the truth of every row."""
    rows = np.flatnonzero(inside)
    model = clone(estimator)
    whose = {} if estimator.party is not None else {"sample_party": owners[rows]}
    model.fit(_safe_indexing(X, rows), y[rows], **whose)
    if hasattr(model, "predict_proba"):
        place = np.searchsorted(model.classes_, y)
        true = model.predict_proba(X)[np.arange(len(y)), place]
        true = np.clip(true, _MOST_CONFIDENT, 1.0 - _MOST_CONFIDENT)
        return np.asarray(np.log(true / (1.0 - true)))
    if not hasattr(model, "decision_function"):
        return -np.abs(y - model.predict(X))
    scores = model.decision_function(X)
    if scores.ndim == 1:
        return np.where(y == model.classes_[1], scores, -scores)
    place = np.searchsorted(model.classes_, y)
    true = scores[np.arange(len(y)), place].copy()
    scores[np.arange(len(y)), place] = -np.inf
    return np.asarray(true - scores.max(axis=1))


def _likelihood_ratio(target: np.ndarray, shadows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Log ratio of normal densities of a row's sureness with and without it, one spread for all."""
    n_in = np.maximum(inside.sum(axis=0), 1)
    n_out = np.maximum((~inside).sum(axis=0), 1)
    with_row = np.where(inside, shadows, 0.0).sum(axis=0) / n_in
    without = np.where(inside, 0.0, shadows).sum(axis=0) / n_out
    known = inside.any(axis=0) & ~inside.all(axis=0)
    spread = np.maximum(shadows.std(axis=0), 0.1)
    ratio = (target - without) ** 2 - (target - with_row) ** 2
    return np.where(known, ratio / spread**2, -np.inf)
