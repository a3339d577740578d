"""What sums of products say of held-out scores, so that no score of a row need be told.

A held-out score is linear in columns, so that its products with other scores and with the target,
summed over a fold, follow from those of the columns. They give what evidence needs: how scores are
calibrated, how they are pooled, and what one gains over another. For two classes and more,
calibration is Fisher's linear discriminant [1]_, and the standard error of a gain is that of
normal errors, whose fourth moments follow from the second.

References
----------
.. [1] R. A. Fisher. The use of multiple measurements in taxonomic problems. Annals of Eugenics,
   1936.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedtl.learning.evidence import Calibration, Gain
from fedtl.learning.ridge import Moments

_STEEPEST = float(np.exp(5.0))
_PRIOR = 0.1
"""Ten rows of scores that explain a hundredth of the target's variance, and are unbiased."""


def score_products(moments: Moments, maps: Sequence[np.ndarray]) -> np.ndarray:
    """Return products of scores, summed over each fold.

    Parameters
    ----------
    moments : Moments
        Of columns and targets.
    maps : sequence of ndarray of shape (n_folds, 1 + n_columns + n_targets, n_outputs)
        Each score as a linear map of columns and targets; each fold has maps of its own, which its
        rows had no part in.

    Returns
    -------
    ndarray of shape (n_folds, 1 + n_scores * n_outputs, 1 + n_scores * n_outputs), dtype float64
        Products; a constant one comes first.
    """
    gram, cross = moments.gram, moments.cross
    whole = np.block([[gram, cross], [cross.transpose(0, 2, 1), moments.square]])
    one = np.zeros((*whole.shape[:2], 1))
    one[:, 0] = 1.0
    stacked = np.concatenate([one, *maps], axis=2)
    return np.asarray(stacked.transpose(0, 2, 1) @ whole @ stacked)


def calibrate(products: np.ndarray, task: str, correction: float = 1.0) -> Calibration | None:
    """Return the curve from a score to probabilities, by the discriminant of normal classes.

    Parameters
    ----------
    products : ndarray of shape (1 + 2 * n_outputs, 1 + 2 * n_outputs), dtype float64
        Of one, score and target.
    task : {"binary", "multiclass", "regression"}
        What the target is.
    correction : float, default=1.0
        Factor of the slope, for classes that are not normal.

    Returns
    -------
    Calibration or None
        The curve; None for real targets.
    """
    if task == "regression":
        return None
    n = (len(products) - 1) // 2
    total, shares = products[0, 0], products[0, 1 + n :] / products[0, 0]
    sums, by_class = products[0, 1 : 1 + n], products[1 : 1 + n, 1 + n :]
    square = products[1 : 1 + n, 1 : 1 + n]
    if n == 1:
        share = float(shares[0])
        if not 0.0 < share < 1.0:
            return Calibration(4.0, -2.0)
        high = float(by_class[0, 0] / (share * total))
        low = float((sums[0] - by_class[0, 0]) / ((1.0 - share) * total))
        within = float(square[0, 0]) / total - share * high**2 - (1.0 - share) * low**2
        slope = correction * _slope(high - low, within, shares, total)
        return Calibration(slope, float(np.log(share / (1 - share))) - slope * (high + low) / 2)
    means = by_class / np.maximum(shares * total, 1e-12)
    within = float(np.trace(square) / total - (means**2 * shares).sum()) / n
    apart = float(n * np.trace(means) - means.sum()) / (n * (n - 1))
    return Calibration(correction * _slope(apart, within, shares, total))


def _slope(apart: float, within: float, shares: np.ndarray, total: float) -> float:
    """Distance of the classes' means by the variance within, drawn to that of unbiased scores."""
    variance = float(np.mean(shares * (1.0 - shares)))
    prior = _PRIOR * variance / total
    slope = (apart + prior / variance) / (max(within, 0.0) + prior)
    return float(np.clip(slope, 1e-3, _STEEPEST))


def correction_of(products: np.ndarray, task: str, fitted: Calibration) -> float:
    """Return how far a calibration by sums is off, for scores of which the rows are at hand.

    Parameters
    ----------
    products : ndarray of shape (1 + 2 * n_outputs, 1 + 2 * n_outputs), dtype float64
        Of one, score and target.
    task : {"binary", "multiclass"}
        What the target is.
    fitted : Calibration
        What rows say.

    Returns
    -------
    float
        The factor of the slope, between a tenth and one.
    """
    by_sums = calibrate(products, task)
    return 1.0 if by_sums is None else float(np.clip(fitted.slope / by_sums.slope, 0.1, 1.0))


def error_of_mixture(products: np.ndarray, share: float) -> float:
    """Return the mean squared error of a mixture of two scores.

    Parameters
    ----------
    products : ndarray of shape (1 + 3 * n_outputs, 1 + 3 * n_outputs), dtype float64
        Of one, the first score, the second and the target.
    share : float
        Share of the second score.

    Returns
    -------
    float
        Summed over outputs.
    """
    n = (len(products) - 1) // 3
    one = np.eye(n)
    mixed = np.vstack([np.zeros((1, n)), (share - 1.0) * one, -share * one, one])
    return float(np.trace(mixed.T @ products @ mixed) / products[0, 0])


def gain_by_sums(products: np.ndarray) -> Gain:
    """Compare two scores by their squared errors; see :func:`fedtl.learning.evidence.paired_gain`.

    Parameters
    ----------
    products : ndarray of shape (1 + 3 * n_outputs, 1 + 3 * n_outputs), dtype float64
        Of one, the reference's score, the candidate's and the target.

    Returns
    -------
    Gain
        Of the candidate.
    """
    n, total = (len(products) - 1) // 3, float(products[0, 0])
    errors = np.zeros((len(products), 2 * n))
    errors[1 + 2 * n :] = np.tile(np.eye(n), 2)
    errors[1 : 1 + 2 * n] = -np.eye(2 * n)
    squares = errors.T @ products @ errors / total
    first, second, both = squares[:n, :n], squares[n:, n:], squares[:n, n:]
    alone = float(np.trace(first))
    mean, scale = alone - float(np.trace(second)), max(alone, 1e-12)
    # For normal errors a and b, the covariance of |a|^2 and |b|^2 is 2 |E a b'|^2.
    variance = 2.0 * float((first**2).sum() + (second**2).sum() - 2.0 * (both**2).sum())
    error = max(float(np.sqrt(max(variance, 0.0) / total)), 1e-12)
    low, high = (mean - 1.96 * error) / scale, (mean + 1.96 * error) / scale
    return Gain(mean / scale, low, high, mean / error, round(total))
