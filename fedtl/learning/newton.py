"""Newton's method, one evaluation of the derivatives a step: where they are asked for, a round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedtl.learning.pooled import Derivatives, solve_positive

_LEAST_STEP = 2.0**-30


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where Newton's method ended.

    Parameters
    ----------
    coefficients : ndarray of shape (n_outputs, n_columns), dtype float64
        The coefficients.
    n_steps : int
        Steps that were taken.
    converged : bool
        Whether the last of them was within the tolerance.
    """

    coefficients: np.ndarray
    n_steps: int
    converged: bool


def minimize(
    evaluate: Callable[[np.ndarray], Derivatives],
    shape: tuple[int, int],
    penalty: np.ndarray,
    *,
    max_iter: int,
    tol: float,
    center: np.ndarray | None = None,
) -> Minimum:
    """Minimise a sum of logistic losses with a ridge penalty, from the penalty's center.

    Full steps are halved until the objective falls (Armijo's rule). The method stops with the
    first full step that is within the tolerance; as it converges quadratically, the error left
    is about the square of that. `n` steps take `n` evaluations, if none is halved.

    Parameters
    ----------
    evaluate : callable
        From coefficients of the shape `shape` to the derivatives of the unpenalised loss.
    shape : tuple of (int, int)
        Outputs and columns.
    penalty : ndarray of shape (n_columns,), dtype float64
        Twice the factor of each column's squared coefficients in the objective.
    max_iter : int
        Most steps.
    tol : float
        Largest change of a coefficient, relative to the largest coefficient or to 1, that ends
        the search.
    center : ndarray of shape `shape`, dtype float64, default=None
        Coefficients without penalty; zeros with None.

    Returns
    -------
    Minimum
        The coefficients and how they were found.
    """
    ridge = np.tile(penalty, shape[0])
    origin = np.zeros(shape[0] * shape[1]) if center is None else center.ravel()

    def penalized(w: np.ndarray) -> Derivatives:
        found = evaluate(w.reshape(shape))
        return Derivatives(
            found.loss + 0.5 * float(ridge @ (w - origin) ** 2),
            found.gradient + ridge * (w - origin),
            found.hessian + np.diag(ridge),
        )

    w, here = origin, penalized(origin)
    for n_steps in range(1, max_iter + 1):
        step = solve_positive(_fix_gauge(here.hessian, shape, penalty), -here.gradient)
        if np.abs(step).max() <= tol * max(1.0, np.abs(w).max()):
            return Minimum((w + step).reshape(shape), n_steps, True)
        if n_steps == max_iter:
            return Minimum((w + step).reshape(shape), n_steps, False)
        length, slope = 1.0, float(here.gradient @ step)
        while True:
            tried = w + length * step
            there = penalized(tried)
            # Near the minimum the objective changes by less than it is rounded.
            slack = 1e-13 * abs(here.loss)
            if there.loss <= here.loss + 1e-4 * length * slope + slack:
                break
            length /= 2.0
            if length < _LEAST_STEP:
                return Minimum(w.reshape(shape), n_steps, False)
        w, here = tried, there
    raise AssertionError("unreachable: max_iter is positive")


def _fix_gauge(hessian: np.ndarray, shape: tuple[int, int], penalty: np.ndarray) -> np.ndarray:
    """Make steps unique where a shift of all outputs changes nothing.

    With one output for each class, only differences between outputs count. Where no penalty
    decides, the shift gets a curvature of its own; as no gradient points that way, steps stay
    orthogonal to it, and coefficients sum to zero over the classes.
    """
    n_outputs, width = shape
    if n_outputs == 1:
        return hessian
    fixed = hessian.copy().reshape(n_outputs, width, n_outputs, width)
    for column in np.flatnonzero(penalty == 0.0):
        scale = np.mean([fixed[k, column, k, column] for k in range(n_outputs)])
        fixed[:, column, :, column] += max(scale, np.finfo(float).tiny)
    return fixed.reshape(hessian.shape)
