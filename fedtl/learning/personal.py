"""A party's own linear models beside the federated one, judged on its own held-out rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from fedtl.learning.newton import minimize
from fedtl.learning.pooled import Derivatives, logistic_derivatives, solve_positive

CANDIDATES = ("federated", "tuned", "local")
"""The federated model; the party's own around it; the party's own by itself."""

_MAX_ITER, _TOL = 100, 1e-6


@dataclass(frozen=True)
class Task:
    """What is learnt.

    Parameters
    ----------
    n_classes : int
        Number of classes; 0 for squared error of real targets.
    penalty : float
        Factor of the squared coefficients: `alpha`, or ``1 / C``.
    intercept : bool
        Whether the first coefficient of each output is an intercept.
    """

    n_classes: int
    penalty: float
    intercept: bool

    def design(self, X: np.ndarray) -> np.ndarray:
        """Return the rows, with a constant column before them if there is an intercept."""
        return np.hstack([np.ones((len(X), 1)), X]) if self.intercept else X

    def losses(self, design: np.ndarray, y: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Return the squared error or logarithmic loss of each row: (n_rows,), float64."""
        scores = design @ coefficients.T
        if not self.n_classes:
            return np.asarray(((y.reshape(len(y), -1) - scores) ** 2).sum(axis=1))
        if scores.shape[1] == 1:
            return np.logaddexp(0.0, np.where(y == 1, -1.0, 1.0) * scores[:, 0])
        return -np.take_along_axis(log_softmax(scores, axis=1), y[:, None], axis=1)[:, 0]


def own_models(
    task: Task, X: np.ndarray, y: np.ndarray, weight: np.ndarray, federated: np.ndarray
) -> list[np.ndarray | None]:
    """Fit a party's own models beside the federated one.

    The tuned model is penalised for its distance from the federated one instead of from zero, its
    intercept included, so that few rows move it little.

    Parameters
    ----------
    task : Task
        What is learnt.
    X : ndarray of shape (n_rows, n_columns), dtype float64
        The party's rows.
    y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
        Targets, or classes by position.
    weight : ndarray of shape (n_rows,), dtype float64
        Weights.
    federated : ndarray of shape (n_outputs, intercept + n_columns), dtype float64
        The federated model.

    Returns
    -------
    list of ndarray of the shape of `federated`, or None
        In the order of `CANDIDATES`; None for a local classifier of rows of one class.
    """
    design, width = task.design(X), federated.shape[1]
    everything = np.full(width, task.penalty)
    slopes = everything.copy()
    slopes[: int(task.intercept)] = 0.0
    zero = np.zeros_like(federated)
    if not task.n_classes:
        gram = (design.T * weight) @ design

        def around(center: np.ndarray, penalty: np.ndarray) -> np.ndarray:
            residual = y.reshape(len(y), -1) - design @ center.T
            cross = (design.T * weight) @ residual
            return center + solve_positive(gram + np.diag(penalty), cross).T

        return [federated, around(federated, everything), around(zero, slopes)]

    def fit(center: np.ndarray, penalty: np.ndarray) -> np.ndarray:
        def evaluate(coefficients: np.ndarray) -> Derivatives:
            return logistic_derivatives(design, y, weight, coefficients)

        found = minimize(
            evaluate, federated.shape, penalty, max_iter=_MAX_ITER, tol=_TOL, center=center
        )
        return found.coefficients

    local = fit(zero, slopes) if len(np.unique(y)) > 1 else None
    return [federated, fit(federated, everything), local]


@dataclass(frozen=True, eq=False)
class Choice:
    """What a party's held-out rows say.

    Parameters
    ----------
    losses : ndarray of shape (n_candidates,), dtype float64
        Mean held-out loss of each candidate; infinite for one that cannot be fitted.
    best : int
        Which one has the least; of equal ones, the first.
    gain_error : float
        Standard error of the difference between the local model's loss and the best one's.
    """

    losses: np.ndarray
    best: int
    gain_error: float


def choose(
    task: Task,
    X: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    *,
    folds: np.ndarray,
    held_out: np.ndarray,
) -> Choice:
    """Judge the candidates on a party's own rows, each by models that have not seen it.

    Parameters
    ----------
    task : Task
        What is learnt.
    X, y, weight : ndarray
        The party's rows; see :func:`own_models`.
    folds : ndarray of shape (n_rows,), dtype int
        Fold of each row.
    held_out : ndarray of shape (n_folds, n_outputs, width), dtype float64
        Federated models to which no party's rows of that fold belonged.

    Returns
    -------
    Choice
        Losses, and the candidate with the least.
    """
    losses = np.full((len(CANDIDATES), len(X)), np.inf)
    for fold, federated in enumerate(held_out):
        inside = folds == fold
        if not inside.any():
            continue
        models = own_models(task, X[~inside], y[~inside], weight[~inside], federated)
        for losses_of, model in zip(losses, models, strict=True):
            if model is not None:
                losses_of[inside] = task.losses(task.design(X[inside]), y[inside], model)
    share = weight / weight.sum()
    means = np.array([share @ row if np.isfinite(row).all() else np.inf for row in losses])
    best, gain_error = int(means.argmin()), 0.0
    if np.isfinite(means[-1]):
        difference = losses[-1] - losses[best]
        spread = share @ (difference - share @ difference) ** 2
        gain_error = float(np.sqrt(spread * (share**2).sum()))
    return Choice(means, best, gain_error)
