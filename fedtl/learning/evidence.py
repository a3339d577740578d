"""Held-out evidence: folds, losses, the guard against negative transfer, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

TRUST_STACK, TRUST_AVERAGE = 2.0, 4.0
"""Standard errors at which a joint model is fully trusted. An average is of candidates that the
same rows chose, and is better for being shrunk even where its gain is real."""


def deal_folds(
    strata: np.ndarray, target: np.ndarray, n_folds: int, rng: np.random.Generator
) -> np.ndarray:
    """Deal rows to folds, evenly within each stratum and over the target's range.

    Parameters
    ----------
    strata : ndarray of shape (n_rows,), dtype int
        Rows of one stratum are spread over all folds.
    target : ndarray of shape (n_rows,)
        Class index or real target; neighbours in its order go to different folds.
    n_folds : int
        Number of folds.
    rng : numpy.random.Generator
        Source of the shuffling.

    Returns
    -------
    ndarray of shape (n_rows,), dtype uint8
        Fold of each row.
    """
    order = np.lexsort((rng.random(len(target)), target, strata))
    folds = np.empty(len(target), dtype=np.uint8)
    for start in range(0, len(order), n_folds):
        block = order[start : start + n_folds]
        folds[block] = rng.permutation(n_folds)[: len(block)]
    return folds


def squared_error(target: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the squared error of each row, summed over outputs: shape (n_rows,)."""
    return np.asarray(((target - score) ** 2).sum(axis=1))


def best_share(
    target: np.ndarray, first: np.ndarray, second: np.ndarray, weight: np.ndarray
) -> float:
    """Return how much of a blend the second of two models should have.

    Parameters
    ----------
    target, first, second : ndarray of shape (n_rows, n_outputs), dtype float64
        The target and the models' held-out scores.
    weight : ndarray of shape (n_rows,), dtype float64
        Weight of each row.

    Returns
    -------
    float
        The share with the least squared error, a multiple of 0.2.
    """
    shares = np.linspace(0.0, 1.0, 6)
    errors = [weight @ squared_error(target, first + s * (second - first)) for s in shares]
    return float(shares[int(np.argmin(errors))])


@dataclass(frozen=True)
class Gain:
    """The held-out gain of one model over another, as a relative reduction of squared error.

    Parameters
    ----------
    mean : float
        Reduction of the reference's mean squared error, as a share of it; negative is a loss.
    low, high : float
        Bounds of the 95 % interval of the mean, from the paired differences of rows.
    t : float
        Paired t statistic.
    n_rows : int
        Rows that the evidence rests on.
    """

    mean: float
    low: float
    high: float
    t: float
    n_rows: int


def paired_gain(reference: np.ndarray, candidate: np.ndarray, weight: np.ndarray) -> Gain:
    """Compare two models by their held-out errors on the same rows.

    Parameters
    ----------
    reference, candidate : ndarray of shape (n_rows,), dtype float64
        Squared errors of each row.
    weight : ndarray of shape (n_rows,), dtype float64
        Row weights.

    Returns
    -------
    Gain
        Of the candidate over the reference.
    """
    n = int((weight > 0).sum())
    if n < 2:
        return Gain(0.0, -np.inf, np.inf, 0.0, n)
    w = weight / weight.sum()
    difference = reference - candidate
    mean = float(w @ difference)
    spread = float(np.sqrt(w @ (difference - mean) ** 2))
    scale = max(float(w @ reference), 1e-12)
    error = max(spread * float(np.sqrt((w**2).sum())), 1e-12)
    return Gain(
        mean / scale, (mean - 1.96 * error) / scale, (mean + 1.96 * error) / scale, mean / error, n
    )


def guard_weight(gain: Gain, standard_errors: float) -> float:
    """Return how far the candidate is trusted, from 0 (not at all) to 1.

    The t statistic as a share of what full trust takes. This bounds the harm that a joint model
    that was chosen on few rows can do, and does not make harm impossible.

    Parameters
    ----------
    gain : Gain
        Of the candidate over the reference.
    standard_errors : float
        The t statistic from which on the candidate is fully trusted.

    Returns
    -------
    float
        The trust.
    """
    return float(np.clip(gain.t / standard_errors, 0.0, 1.0))


@dataclass(frozen=True)
class Calibration:
    """Scores to probabilities by a logistic curve that keeps the order of the classes.

    Parameters
    ----------
    slope : float
        Factor of the scores.
    intercept : float
        Added to the scaled score of the positive class (binary only).

    References
    ----------
    J. Platt. Probabilistic outputs for support vector machines. 1999.
    """

    slope: float
    intercept: float = 0.0

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return class probabilities of shape (n_rows, n_classes) for scores."""
        if scores.shape[1] == 1:
            positive = expit(self.slope * scores[:, 0] + self.intercept)
            return np.column_stack([1.0 - positive, positive])
        return np.asarray(softmax(self.slope * scores, axis=1))


def fit_calibration(scores: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Calibration:
    """Fit the logistic curve to held-out scores.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_outputs), dtype float64
        Held-out scores: about the probability of the positive class, or of each class.
    target : ndarray of shape (n_rows,), dtype int
        Class index of each row.
    weight : ndarray of shape (n_rows,), dtype float64
        Row weights.

    Returns
    -------
    Calibration
        The curve of the least logistic loss.
    """
    if scores.shape[1] == 1:
        return _platt(scores[:, 0], target, weight)

    def loss(log_slope: float) -> float:
        p = log_softmax(np.exp(log_slope) * scores, axis=1)
        return -float(weight @ p[np.arange(len(p)), target])

    return Calibration(float(np.exp(minimize_scalar(loss, bounds=(-1.0, 5.0)).x)))


def _platt(score: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Calibration:
    """Newton's method with a weak prior, as both classes may be separable."""
    x = np.column_stack([score, np.ones_like(score)])
    theta = np.array([4.0, -2.0])
    prior = np.array([1e-2, 1e-3])
    for _ in range(50):
        p = expit(x @ theta)
        gradient = x.T @ (weight * (p - target)) + prior * (theta - [4.0, -2.0])
        hessian = (x * (weight * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ x + np.diag(prior)
        step = np.linalg.solve(hessian, gradient)
        theta = theta - np.clip(step, -4.0, 4.0)
        if np.abs(step).max() < 1e-10:
            break
    return Calibration(max(float(theta[0]), 1e-3), float(theta[1]))
