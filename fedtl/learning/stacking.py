"""Stacking of calibrated scores for two classes, around their logarithmic opinion pool.

Held-out scores of several models become log odds, each by its own calibration. Their mean, scaled
and shifted, is the logarithmic opinion pool [1]_, which needs no weights; a logistic regression
whose weights are penalised for leaving it learns whom to believe as far as rows allow. Penalties
are averaged by the likelihood of held-out labels. Log odds add where probabilities do not: two
models that see different columns of a rare class make each other surer.

References
----------
.. [1] C. Genest, J. V. Zidek. Combining probability distributions: a critique and an annotated
   bibliography. Statistical Science, 1986.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from fedtl.learning.evidence import Calibration, fit_calibration

_PENALTIES = (1.0, 10.0, 100.0, 1000.0, 1e9)
"""On the squared distance of the weights from the pool's; the last one stands for the pool."""


@dataclass(frozen=True, eq=False)
class LogitStack:
    """A weighted sum of calibrated log odds.

    Parameters
    ----------
    calibrations : tuple of Calibration
        Of each model's scores.
    weights : ndarray of shape (n_models,), dtype float64
        Of each model's log odds.
    intercept : float
        Added to the sum.
    shares : ndarray of shape (n_models,), dtype float64
        How much each model moves the sum, over all rows of the fit; they sum to one.
    """

    calibrations: tuple[Calibration, ...]
    weights: np.ndarray
    intercept: float
    shares: np.ndarray

    def probabilities(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Combine the scores of some rows.

        Parameters
        ----------
        scores : sequence of ndarray of shape (n_rows, 1), dtype float64
            One for each model.

        Returns
        -------
        ndarray of shape (n_rows, 1), dtype float64
            Probability of the positive class.
        """
        odds = _log_odds(self.calibrations, scores)
        return np.asarray(expit(odds @ self.weights + self.intercept))[:, None]


def fit_logit_stack(
    scores: Sequence[np.ndarray],
    target: np.ndarray,
    weight: np.ndarray,
    folds: np.ndarray,
    n_folds: int,
) -> tuple[LogitStack, np.ndarray]:
    """Fit a stack to held-out scores.

    Parameters
    ----------
    scores : sequence of ndarray of shape (n_rows, 1), dtype float64
        Held-out scores of each model.
    target : ndarray of shape (n_rows,), dtype int
        0 or 1; both occur.
    weight : ndarray of shape (n_rows,), dtype float64
        Weight of each row.
    folds : ndarray of shape (n_rows,), dtype int
        Fold of each row.
    n_folds : int
        Number of folds.

    Returns
    -------
    stack : LogitStack
        Fitted to all rows.
    held_out : ndarray of shape (n_rows, 1), dtype float64
        Probability of the positive class of each row, from weights that did not see its fold.
    """
    calibrations = tuple(fit_calibration(score, target, weight) for score in scores)
    odds = _log_odds(calibrations, scores)
    x = np.column_stack([np.ones(len(odds)), odds.mean(axis=1), _deviations(odds)])
    likelihood = np.zeros(len(_PENALTIES))
    held_out = np.zeros((len(odds), len(_PENALTIES)))
    for fold in range(n_folds):
        inside = folds == fold
        if not inside.any():
            continue
        for i, theta in enumerate(_path(x[~inside], target[~inside], weight[~inside])):
            held_out[inside, i] = x[inside] @ theta
        sign = 1.0 - 2.0 * target[inside]
        loss = np.logaddexp(0.0, sign[:, None] * held_out[inside])
        likelihood -= weight[inside] @ loss
    shares = np.exp(likelihood - likelihood.max())
    shares /= shares.sum()
    theta = shares @ _path(x, target, weight)
    n_models = odds.shape[1]
    weights = theta[1] / n_models + theta[2:] - theta[2:].mean()
    moves = np.abs(weights) * odds.std(axis=0)
    stack = LogitStack(
        calibrations, weights, float(theta[0]), moves / max(float(moves.sum()), 1e-12)
    )
    return stack, np.asarray(expit(held_out @ shares))[:, None]


def _log_odds(calibrations: Sequence[Calibration], scores: Sequence[np.ndarray]) -> np.ndarray:
    return np.column_stack(
        [c.slope * s[:, 0] + c.intercept for c, s in zip(calibrations, scores, strict=True)]
    )


def _deviations(odds: np.ndarray) -> np.ndarray:
    return odds - odds.mean(axis=1, keepdims=True)


def _path(x: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Newton's method at each penalty: (n_penalties, n_columns)."""
    solutions = []
    theta = np.zeros(x.shape[1])
    theta[1] = 1.0
    start = theta.copy()
    for penalty in reversed(_PENALTIES):
        prior = np.full(len(theta), penalty)
        prior[:2] = 1e-2, 1.0  # so that few rows that are separable do not make it sure
        for _ in range(30):
            p = expit(x @ theta)
            gradient = x.T @ (weight * (p - target)) + prior * (theta - start)
            hessian = (x * (weight * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ x + np.diag(prior)
            step = np.clip(np.linalg.solve(hessian, gradient), -2.0, 2.0)
            theta = theta - step
            if np.abs(step).max() < 1e-9:
                break
        solutions.append(theta)
    return np.stack(solutions[::-1])
