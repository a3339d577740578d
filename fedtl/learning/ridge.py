"""Ridge regression from second moments, averaged over penalties by held-out evidence.

Everything here needs sums of products only, one set for each fold: the held-out squared error of
a model that was solved on the other folds is itself a function of the held-out fold's moments.
A family is one way of posing the regression (which columns, which offset); families and penalties
are averaged with weights ``exp(-n * excess / (2 * best))`` of their held-out mean squared error,
which is what a Gaussian likelihood gives. Averaging beats picking where rows are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

PENALTIES = np.concatenate([10.0 ** np.arange(-1.0, 4.6, 0.5), [1e9]])
"""The last one stands for infinity: the offset alone."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted second moments of columns and targets, for each fold.

    Parameters
    ----------
    gram : ndarray of shape (n_folds, 1 + n_columns, 1 + n_columns), dtype float64
        Products of the columns; the first column is constant one.
    cross : ndarray of shape (n_folds, 1 + n_columns, n_targets), dtype float64
        Products of columns and targets.
    square : ndarray of shape (n_folds, n_targets, n_targets), dtype float64
        Products of targets.
    """

    gram: np.ndarray
    cross: np.ndarray
    square: np.ndarray

    @property
    def total_weight(self) -> float:
        """Sum of the row weights."""
        return float(self.gram[:, 0, 0].sum())

    def with_combinations(self, mixing: np.ndarray) -> Moments:
        """Return the moments with linear combinations of the columns put behind them.

        Parameters
        ----------
        mixing : ndarray of shape (n_columns, n_new), dtype float64
            The combinations, of the columns after the constant one.

        Returns
        -------
        Moments
            With ``1 + n_columns + n_new`` columns.
        """
        mixing = np.vstack([np.zeros((1, mixing.shape[1])), mixing])
        mixed = self.gram @ mixing
        gram = np.block([[self.gram, mixed], [mixed.transpose(0, 2, 1), mixing.T @ mixed]])
        cross = np.concatenate([self.cross, mixing.T @ self.cross], axis=1)
        return Moments(gram, cross, self.square)

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the weighted means of the columns (zero for the constant) and of the targets."""
        total = max(self.total_weight, 1e-12)
        columns = self.gram[:, 0, :].sum(0) / total
        columns[0] = 0.0
        return columns, self.cross[:, 0, :].sum(0) / total

    def centered(self) -> Moments:
        """Return the moments about the mean over all folds, of columns and targets alike."""
        weight = self.gram[:, 0, 0]
        mean, target = self.means()
        column_sum, target_sum = self.gram[:, 0, :], self.cross[:, 0, :]
        w = weight[:, None, None]
        gram = self.gram - _sym(mean, column_sum) + w * np.outer(mean, mean)
        cross = (
            self.cross
            - mean[None, :, None] * target_sum[:, None, :]
            - column_sum[:, :, None] * target
            + w * np.outer(mean, target)
        )
        square = self.square - _sym(target, target_sum) + w * np.outer(target, target)
        return Moments(gram, cross, square)


def _sym(mean: np.ndarray, sums: np.ndarray) -> np.ndarray:
    product = sums[:, :, None] * mean[None, None, :]
    return np.asarray(product + product.transpose(0, 2, 1))


def target_squares(
    targets: np.ndarray, folds: np.ndarray, weight: np.ndarray, n_folds: int
) -> np.ndarray:
    """Return products of targets for each fold.

    Parameters
    ----------
    targets : ndarray of shape (n_rows, n_targets), dtype float64
        Targets.
    folds : ndarray of shape (n_rows,), dtype int
        Fold of each row.
    weight : ndarray of shape (n_rows,), dtype float64
        Weight of each row.
    n_folds : int
        Number of folds.

    Returns
    -------
    ndarray of shape (n_folds, n_targets, n_targets), dtype float64
        Weighted sums of products.
    """
    weighted = targets * weight[:, None]
    return np.stack([weighted[folds == f].T @ targets[folds == f] for f in range(n_folds)])


def moments_of(
    columns: np.ndarray, targets: np.ndarray, folds: np.ndarray, weight: np.ndarray, n_folds: int
) -> Moments:
    """Compute the moments of columns and targets that lie in one place.

    Parameters
    ----------
    columns : ndarray of shape (n_rows, n_columns), dtype float64
        Without the constant column.
    targets : ndarray of shape (n_rows, n_targets), dtype float64
        Targets.
    folds : ndarray of shape (n_rows,), dtype int
        Fold of each row.
    weight : ndarray of shape (n_rows,), dtype float64
        Weight of each row.
    n_folds : int
        Number of folds.

    Returns
    -------
    Moments
        With a constant column put first.
    """
    ones = np.hstack([np.ones((len(columns), 1)), columns])
    joined = target_squares(np.hstack([ones, targets]), folds, weight, n_folds)
    width = ones.shape[1]
    return Moments(joined[:, :width, :width], joined[:, :width, width:], joined[:, width:, width:])


@dataclass(frozen=True)
class Family:
    """One way of posing the regression on centred moments.

    Parameters
    ----------
    columns : ndarray of int
        Which columns may be used.
    offset : ndarray of shape (n_targets_in, n_outputs), dtype float64
        The offset as a linear map of the targets; the outputs themselves are the first targets.
    """

    columns: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True, eq=False)
class Averaged:
    """An average of ridge models over families and penalties.

    Parameters
    ----------
    coefficients : ndarray of shape (n_columns, n_outputs), dtype float64
        Solved on all folds; zero where no family uses a column.
    held_out : ndarray of shape (n_folds, n_columns, n_outputs), dtype float64
        Solved without each fold.
    offset : ndarray of shape (n_targets_in, n_outputs), dtype float64
        The averaged offset map.
    weights : ndarray of shape (n_families, n_penalties), dtype float64
        The weights of the average; they sum to one.
    error : float
        Held-out mean squared error of the best member, summed over outputs.
    """

    coefficients: np.ndarray
    held_out: np.ndarray
    offset: np.ndarray
    weights: np.ndarray
    error: float

    def with_constant(
        self, column_mean: np.ndarray, constant: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the coefficients for columns that are not centred.

        Parameters
        ----------
        column_mean : ndarray of shape (n_columns,), dtype float64
            What was subtracted from the columns.
        constant : ndarray of shape (n_outputs,), dtype float64
            The score at the mean.

        Returns
        -------
        coefficients : ndarray of shape (n_columns, n_outputs), dtype float64
            The constant column's first.
        held_out : ndarray of shape (n_folds, n_columns, n_outputs), dtype float64
            The same without each fold.
        """
        coefficients, held_out = self.coefficients.copy(), self.held_out.copy()
        coefficients[0] = constant - column_mean @ self.coefficients
        held_out[:, 0] = constant - column_mean @ self.held_out
        return coefficients, held_out


@dataclass(frozen=True, eq=False)
class Path:
    """The solutions of one family at every penalty.

    Parameters
    ----------
    family : Family
        The way of posing the regression.
    full : ndarray of shape (n_penalties, n_used, n_outputs), dtype float64
        Solved on all folds.
    without : ndarray of shape (n_folds, n_penalties, n_used, n_outputs), dtype float64
        Solved without each fold.
    errors : ndarray of shape (n_penalties,), dtype float64
        Held-out squared errors, summed over rows and outputs.
    """

    family: Family
    full: np.ndarray
    without: np.ndarray
    errors: np.ndarray


def solve(
    moments: Moments, families: Sequence[Family], n_outputs: int, more: Sequence[Path] = ()
) -> Averaged:
    """Solve every family at every penalty and average them by held-out error.

    Parameters
    ----------
    moments : Moments
        Centred. The first `n_outputs` targets are what is to be predicted.
    families : sequence of Family
        Candidates.
    n_outputs : int
        Number of outputs.
    more : sequence of Path, optional
        Candidates that were solved elsewhere.

    Returns
    -------
    Averaged
        The averaged model.
    """
    n_folds, n_columns = len(moments.gram), moments.gram.shape[1]
    paths = [*(_path(moments, family, n_outputs) for family in families), *more]
    errors = np.stack([path.errors for path in paths]) / max(moments.total_weight, 1e-12)
    weights = evidence_weights(errors, moments.total_weight)
    full = np.zeros((n_columns, n_outputs))
    held_out = np.zeros((n_folds, n_columns, n_outputs))
    offset = np.zeros_like(families[0].offset)
    for path, w in zip(paths, weights, strict=True):
        columns = path.family.columns
        full[columns] += np.tensordot(w, path.full, 1)
        held_out[:, columns] += np.einsum("l,fldo->fdo", w, path.without)
        offset = offset + w.sum() * path.family.offset
    return Averaged(full, held_out, offset, weights, float(errors.min()))


def evidence_weights(errors: np.ndarray, n_rows: float) -> np.ndarray:
    """Turn held-out mean squared errors into weights that sum to one."""
    best = max(float(errors.min()), 1e-12)
    weights = np.exp(-n_rows * (errors - best) / (2.0 * best))
    return np.asarray(weights / weights.sum())


def _path(moments: Moments, family: Family, n_outputs: int) -> Path:
    residual = _residual_map(family, moments.square.shape[1], n_outputs)
    gram = moments.gram[:, family.columns[:, None], family.columns]
    cross = moments.cross[:, family.columns] @ residual
    square = np.einsum("tr,ftu,ur->f", residual, moments.square, residual)
    full = ridge(gram.sum(0), cross.sum(0))
    without = np.stack(
        [ridge(gram.sum(0) - g, cross.sum(0) - c) for g, c in zip(gram, cross, strict=True)]
    )
    return Path(family, full, without, held_out_errors(gram, cross, square, without))


def held_out_errors(
    gram: np.ndarray, cross: np.ndarray, square: np.ndarray, without: np.ndarray
) -> np.ndarray:
    """Return the squared errors on each fold of what was solved without it, from moments alone.

    Parameters
    ----------
    gram : ndarray of shape (n_folds, n_used, n_used), dtype float64
        Products of columns.
    cross : ndarray of shape (n_folds, n_used, n_outputs), dtype float64
        Products of columns and targets.
    square : ndarray of shape (n_folds,), dtype float64
        Squares of the targets, summed over outputs.
    without : ndarray of shape (n_folds, n_penalties, n_used, n_outputs), dtype float64
        Solutions.

    Returns
    -------
    ndarray of shape (n_penalties,), dtype float64
        Errors, summed over folds.
    """
    errors = np.zeros(without.shape[1])
    for g, c, s, solved in zip(gram, cross, square, without, strict=True):
        errors += s + np.einsum("ldo,ldo->l", solved, g @ solved - 2.0 * c)
    return np.maximum(errors, 0.0)


def _residual_map(family: Family, n_targets: int, n_outputs: int) -> np.ndarray:
    return np.asarray(np.eye(n_targets)[:, :n_outputs] - family.offset)


def ridge(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Ridge solutions for every penalty, of shape (n_penalties, n_columns, n_outputs)."""
    values, vectors = eigh(gram, check_finite=False)
    shrunk = 1.0 / (np.maximum(values, 0.0) + PENALTIES[:, None])
    return np.asarray(vectors @ (shrunk[:, :, None] * (vectors.T @ cross)))
