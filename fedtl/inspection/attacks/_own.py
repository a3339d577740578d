"""Attacks on a table of numbers, one row each: on what was told, and as control on own columns."""

from __future__ import annotations

import numpy as np

from fedtl.inspection.attacks._finding import Estimate, auc, over_draws, over_rows

_DRAWS = 50


def cosine(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return each row's cosine to one direction; zero for rows of zeros."""
    norms = np.linalg.norm(values, axis=1) * np.linalg.norm(reference)
    return np.asarray(values @ reference / np.where(norms > 0, norms, 1.0))


def first_component(
    values: np.ndarray | None, positive: np.ndarray, rng: np.random.Generator
) -> Estimate:
    """Attack labels by the first principal component, up to its sign, without any label.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_numbers) or None
        Numbers; None if there are none.
    positive : ndarray of shape (n_rows,), dtype bool
        The truth.
    rng : Generator
        Draws the bootstrap.

    Returns
    -------
    Estimate
        The AUC.
    """
    if values is None or not values.size:
        return Estimate(np.nan)
    centered = values - values.mean(axis=0)
    scores = centered @ np.linalg.svd(centered, full_matrices=False)[2][0]
    sign = 1.0 if auc(positive, scores) >= 0.5 else -1.0
    return over_rows(lambda i: float(auc(positive[i], sign * scores[i])), len(scores), rng)


def known_positives(
    values: np.ndarray | None, positive: np.ndarray, *, n_known: int, rng: np.random.Generator
) -> Estimate:
    """Attack labels by likeness to a few rows that are known to be positive.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_numbers) or None
        Numbers; None if there are none.
    positive : ndarray of shape (n_rows,), dtype bool
        The truth.
    n_known : int
        Rows that the attacker knows; they are not scored.
    rng : Generator
        Draws them, anew each time, and a bootstrap of the others.

    Returns
    -------
    Estimate
        The AUC, mean over draws, of the cosine or the distance to the mean of those rows, whichever
        is better.
    """
    if values is None or not values.size or positive.sum() <= n_known:
        return Estimate(np.nan)
    found: dict[str, list[float]] = {"cosine": [], "distance": []}
    for _ in range(_DRAWS):
        known = rng.choice(np.flatnonzero(positive), n_known, replace=False)
        others = np.setdiff1d(np.arange(len(values)), known)
        others = rng.choice(others, len(others))
        reference = values[known].mean(axis=0)
        distance = np.linalg.norm(values[others] - reference, axis=1)
        found["cosine"].append(float(auc(positive[others], cosine(values[others], reference))))
        found["distance"].append(float(auc(positive[others], -distance)))
    return over_draws(max(found.values(), key=np.mean))


def best_number(
    values: np.ndarray | None, positive: np.ndarray, *, n_known: int, rng: np.random.Generator
) -> Estimate:
    """Attack labels by one number of each row, chosen with its sign on a few labelled rows.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_numbers) or None
        Numbers; None if there are none.
    positive : ndarray of shape (n_rows,), dtype bool
        The truth.
    n_known : int
        Rows whose label the attacker knows, half of either class; they are not scored.
    rng : Generator
        Draws them, anew each time, and a bootstrap of the others.

    Returns
    -------
    Estimate
        The AUC, mean over draws.
    """
    if values is None or not values.size or min(positive.sum(), (~positive).sum()) <= n_known // 2:
        return Estimate(np.nan)
    found = []
    for _ in range(_DRAWS):
        known = np.concatenate(
            [
                rng.choice(np.flatnonzero(c), n_known // 2, replace=False)
                for c in (positive, ~positive)
            ]
        )
        others = np.setdiff1d(np.arange(len(values)), known)
        others = rng.choice(others, len(others))
        areas = auc(positive[known], values[known])
        best = int(np.abs(areas - 0.5).argmax())
        sign = 1.0 if areas[best] >= 0.5 else -1.0
        found.append(float(auc(positive[others], sign * values[others, best])))
    return over_draws(found)
