"""Sums over rows that add up over parties to those of the pooled rows, without cancellation.

Means and sums of squared deviations are merged by the formulas of Chan, Golub and LeVeque
(The American Statistician 37(3), 1983): every deviation is taken from a mean nearby, never from
zero, so that one round gives what two passes over the pooled rows would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq
from scipy.special import expit, log_softmax


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of single columns, in groups of rows; a missing value does not count.

    Parameters
    ----------
    rows : ndarray of shape (n_groups,), dtype int64
        Rows.
    count : ndarray of shape (n_groups, n_columns), dtype int64
        Those of them that have a value.
    weight : ndarray of shape (n_groups, n_columns), dtype float64
        Their weights, summed.
    mean : ndarray of shape (n_groups, n_columns), dtype float64
        Weighted mean; 0 where there is no row.
    squares : ndarray of shape (n_groups, n_columns), dtype float64
        Weighted sum of squared deviations from that mean.
    """

    rows: np.ndarray
    count: np.ndarray
    weight: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Weighted variance, NaN where there is no row: (n_groups, n_columns), float64."""
        return _divide(self.squares, self.weight, np.nan)

    def group(self, k: int) -> Moments:
        """Return the moments of one group of rows."""
        parts = (self.rows, self.count, self.weight, self.mean, self.squares)
        return Moments(*(part[[k]] for part in parts))

    def withhold(self, columns: np.ndarray) -> Moments:
        """Return moments in which some columns of some groups have no value.

        Parameters
        ----------
        columns : ndarray of shape (n_groups, n_columns), dtype bool
            Which ones.

        Returns
        -------
        Moments
            Zeros in these columns.
        """
        parts = (self.count, self.weight, self.mean, self.squares)
        return Moments(self.rows, *(np.where(columns, part.dtype.type(0), part) for part in parts))


@dataclass(frozen=True, eq=False)
class Products:
    """Moments of all pairs of columns.

    Parameters
    ----------
    count : int
        Number of rows.
    weight : float
        Their weights, summed.
    mean : ndarray of shape (n_columns,), dtype float64
        Weighted means.
    products : ndarray of shape (n_columns, n_columns), dtype float64
        Weighted sums of products of deviations from these means.
    """

    count: int
    weight: float
    mean: np.ndarray
    products: np.ndarray

    @property
    def uncentered(self) -> np.ndarray:
        """Weighted sums of products of the columns themselves."""
        return self.products + self.weight * np.outer(self.mean, self.mean)


def column_moments(X: np.ndarray, weight: np.ndarray, groups: np.ndarray, n_groups: int) -> Moments:
    """Return the moments of each column in each group of rows.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_columns), dtype float64
        Rows; NaN for a missing value.
    weight : ndarray of shape (n_rows,), dtype float64
        Their weights, positive.
    groups : ndarray of shape (n_rows,), dtype int
        The group of each row.
    n_groups : int
        Number of groups.

    Returns
    -------
    Moments
        Zeros for a group without rows.
    """
    shape = (n_groups, X.shape[1])
    count, sums = np.zeros(shape, dtype=np.int64), np.zeros((3, *shape))
    for group in range(n_groups):
        own = groups == group
        x, present = X[own], ~np.isnan(X[own])
        w = np.where(present, weight[own, None], 0.0)
        total = w.sum(axis=0)
        x = np.where(present, x, 0.0)
        mean = _divide((w * x).sum(axis=0), total, 0.0)
        mean = mean + _divide((w * (x - mean)).sum(axis=0), total, 0.0)
        count[group] = present.sum(axis=0)
        sums[:, group] = total, mean, (w * (x - mean) ** 2).sum(axis=0)
    return Moments(np.bincount(groups, minlength=n_groups), count, *sums)


def merge_moments(parts: Sequence[Moments]) -> Moments:
    """Return the moments of the pooled rows.

    Parameters
    ----------
    parts : sequence of Moments
        Those of each party.

    Returns
    -------
    Moments
        Equal to those of all rows together, up to rounding.
    """
    weights, means = (np.stack([getattr(p, name) for p in parts]) for name in ("weight", "mean"))
    weight = weights.sum(axis=0)
    mean = _divide((weights * means).sum(axis=0), weight, 0.0)
    mean = mean + _divide((weights * (means - mean)).sum(axis=0), weight, 0.0)
    squares = sum(p.squares for p in parts) + (weights * (means - mean) ** 2).sum(axis=0)
    rows, count = (np.sum([getattr(p, name) for p in parts], axis=0) for name in ("rows", "count"))
    return Moments(rows, count, weight, mean, squares)


def product_moments(columns: np.ndarray, weight: np.ndarray) -> Products:
    """Return the moments of all pairs of columns.

    Parameters
    ----------
    columns : ndarray of shape (n_rows, n_columns), dtype float64
        Rows without missing values.
    weight : ndarray of shape (n_rows,), dtype float64
        Their weights, positive.

    Returns
    -------
    Products
        Means, and products of deviations.
    """
    total = float(weight.sum())
    mean = weight @ columns / total
    mean = mean + weight @ (columns - mean) / total
    deviations = np.sqrt(weight)[:, None] * (columns - mean)
    return Products(len(columns), total, mean, deviations.T @ deviations)


def merge_products(parts: Sequence[Products]) -> Products:
    """Return the moments of the pooled rows; see :func:`merge_moments`."""
    weights = np.array([part.weight for part in parts])
    means = np.stack([part.mean for part in parts])
    total = float(weights.sum())
    mean = weights @ means / total
    mean = mean + weights @ (means - mean) / total
    between = np.sqrt(weights)[:, None] * (means - mean)
    products = sum(part.products for part in parts) + between.T @ between
    return Products(sum(part.count for part in parts), total, mean, products)


@dataclass(frozen=True, eq=False)
class Derivatives:
    """A sum of losses over rows, and its derivatives.

    Parameters
    ----------
    loss : float
        The sum.
    gradient : ndarray of shape (n_coefficients,), dtype float64
        Its first derivatives.
    hessian : ndarray of shape (n_coefficients, n_coefficients), dtype float64
        Its second derivatives.
    """

    loss: float
    gradient: np.ndarray
    hessian: np.ndarray

    def __add__(self, other: Derivatives) -> Derivatives:
        return Derivatives(
            self.loss + other.loss, self.gradient + other.gradient, self.hessian + other.hessian
        )


def logistic_derivatives(
    design: np.ndarray, codes: np.ndarray, weight: np.ndarray, coefficients: np.ndarray
) -> Derivatives:
    """Return the logistic loss of a linear model, summed over rows, and its derivatives.

    Parameters
    ----------
    design : ndarray of shape (n_rows, n_columns), dtype float64
        Rows, with a constant column if the model has an intercept.
    codes : ndarray of shape (n_rows,), dtype int
        Classes by position.
    weight : ndarray of shape (n_rows,), dtype float64
        Weights of the rows.
    coefficients : ndarray of shape (n_outputs, n_columns), dtype float64
        One output for two classes, whose score is that of the second; else one for each class.

    Returns
    -------
    Derivatives
        In the order of ``coefficients.ravel()``.
    """
    scores = design @ coefficients.T
    if len(coefficients) == 1:
        z, target = scores[:, 0], (codes == 1).astype(np.float64)
        p = expit(z)
        loss = float(weight @ (np.logaddexp(0.0, z) - target * z))
        gradient = design.T @ (weight * (p - target))
        return Derivatives(loss, gradient, (design.T * (weight * p * expit(-z))) @ design)
    logs = log_softmax(scores, axis=1)
    p = np.exp(logs)
    loss = -float(weight @ np.take_along_axis(logs, codes[:, None], axis=1)[:, 0])
    residual = p.copy()
    residual[np.arange(len(codes)), codes] -= 1.0
    gradient = ((weight[:, None] * residual).T @ design).ravel()
    n_outputs, width = coefficients.shape
    hessian = np.empty((n_outputs, width, n_outputs, width))
    for j in range(n_outputs):
        for k in range(j, n_outputs):
            curvature = weight * p[:, j] * ((j == k) - p[:, k])
            block = (design.T * curvature) @ design
            hessian[j, :, k] = hessian[k, :, j] = block
    return Derivatives(loss, gradient, hessian.reshape(2 * (n_outputs * width,)))


def solve_positive(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve linear equations with a matrix that has no negative eigenvalue.

    Parameters
    ----------
    matrix : ndarray of shape (n, n), dtype float64
        The matrix.
    right : ndarray of shape (n,) or (n, n_outputs), dtype float64
        The right side.

    Returns
    -------
    ndarray of the shape of `right`, dtype float64
        The solution; the shortest one where there are many, as for columns that are constant or
        repeat others, with every unknown in units of its own scale.
    """
    scale = np.sqrt(np.diag(matrix))
    scale = np.where(scale > 0.0, scale, 1.0)
    scaled = matrix / np.outer(scale, scale)
    right = (right.T / scale).T
    try:
        factor, lower = cho_factor(scaled)
        regular = bool(np.diag(factor).min() > 1e-6)
    except LinAlgError:
        regular = False
    solution = cho_solve((factor, lower), right) if regular else lstsq(scaled, right, cond=1e-12)[0]
    return np.asarray((solution.T / scale).T)


def symmetric(triangle: np.ndarray, width: int) -> np.ndarray:
    """Return the matrix of which the upper triangle is given, row by row.

    Parameters
    ----------
    triangle : ndarray of shape (width * (width + 1) / 2,), dtype float64
        The upper triangle, diagonal included.
    width : int
        Rows and columns.

    Returns
    -------
    ndarray of shape (width, width), dtype float64
        The whole matrix.
    """
    upper = np.triu_indices(width)
    found = np.zeros((width, width))
    found[upper] = triangle
    found[upper[::-1]] = triangle
    return found


def _divide(a: np.ndarray, b: np.ndarray, otherwise: float) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(a), otherwise), where=b != 0)
