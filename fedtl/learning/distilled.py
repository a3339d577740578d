"""A model of few columns that learns from a better one of more columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedtl.learning.encoding import PiecewiseLinear
from fedtl.learning.evidence import deal_folds
from fedtl.learning.ridge import Family, moments_of, solve
from fedtl.learning.threads import tree_threads

_N_FOLDS = 5
_ROWS_FOR_TREES = 200


@dataclass(frozen=True, eq=False)
class Additive:
    """A sum of piecewise-linear functions, one of each column.

    Parameters
    ----------
    edges : tuple of ndarray
        Each column's bin edges; none where it is not bent.
    frequent : ndarray of shape (n_columns,), dtype float64
        Each column's over-frequent value, NaN if it has none.
    mean : ndarray of shape (n_encoded,), dtype float64
        Mean of the encoding, which stands for a missing value.
    coefficients : ndarray of shape (1 + n_encoded, n_outputs), dtype float64
        Of the encoding less its mean, the constant's first.
    """

    edges: tuple[np.ndarray, ...]
    frequent: np.ndarray
    mean: np.ndarray
    coefficients: np.ndarray

    def scores(self, numbers: np.ndarray) -> np.ndarray:
        """Score rows.

        Parameters
        ----------
        numbers : ndarray of shape (n_rows, n_columns), dtype float64
            Rows; NaN for a missing value.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs), dtype float64
            Scores on the scale of the target.
        """
        encoded = np.nan_to_num(_encode(self.edges, self.frequent, numbers) - self.mean)
        return np.asarray(encoded @ self.coefficients[1:] + self.coefficients[0])


def distill(
    numbers: np.ndarray,
    shared: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    *,
    n_bins: int,
    classes: bool,
    seed: int,
) -> Additive:
    """Fit a model of all columns, and to its held-out scores a model of the shared ones.

    The scores of a model that sees more columns are a less noisy target than labels. Where rows
    are few, or classes more than two (trees are slow there), the labels themselves are the target.

    Parameters
    ----------
    numbers : ndarray of shape (n_rows, n_columns), dtype float64
        Rows; NaN for a missing value.
    shared : ndarray of int
        Which columns the model may use.
    target : ndarray of shape (n_rows, n_outputs), dtype float64
        Targets, or indicators of classes.
    weight : ndarray of shape (n_rows,), dtype float64
        Weights.
    n_bins : int
        Bins of a column.
    classes : bool
        Whether the targets indicate classes.
    seed : int
        Seed of folds and trees.

    Returns
    -------
    Additive
        The model of the shared columns.
    """
    rng = np.random.default_rng(seed)
    order = target[:, 0] if target.shape[1] == 1 else target.argmax(axis=1)
    n_folds = min(_N_FOLDS, len(target))
    folds = deal_folds(np.zeros(len(target)), order, n_folds, rng)
    learnt = target
    if target.shape[1] == 1 and len(target) >= _ROWS_FOR_TREES:
        learnt = _held_out_trees(numbers, target, weight, folds, classes=classes, seed=seed)
    # Not the extremes: each would be the value of one row.
    own = numbers[:, shared]
    inner = np.clip(own, *np.nanquantile(own, [0.01, 0.99], axis=0))
    piecewise = PiecewiseLinear(n_bins).fit(inner)
    edges = tuple(
        e if len(e) else _ends(x) for (e, _), x in zip(piecewise.columns_, inner.T, strict=True)
    )
    frequent = np.array([f for _, f in piecewise.columns_])
    encoded = _encode(edges, frequent, own)
    mean = np.nan_to_num(np.nanmean(encoded, axis=0))
    encoded = np.nan_to_num(encoded - mean)
    moments = moments_of(encoded, learnt, folds, weight, n_folds)
    n_outputs = target.shape[1]
    family = Family(np.arange(1, encoded.shape[1] + 1), np.zeros((n_outputs, n_outputs)))
    averaged = solve(moments.centered(), [family], n_outputs)
    coefficients, _ = averaged.with_constant(*moments.means())
    return Additive(edges, frequent, mean, coefficients)


def _ends(x: np.ndarray) -> np.ndarray:
    """Edges of a column of at most two values, which has no bins of its own."""
    ends = np.unique(x[~np.isnan(x)])
    return ends if len(ends) == 2 else np.empty(0)


def _encode(edges: tuple[np.ndarray, ...], frequent: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    piecewise = PiecewiseLinear(0)
    piecewise.columns_ = list(zip(edges, frequent.tolist(), strict=True))
    return piecewise.transform(numbers)


def _held_out_trees(
    numbers: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    folds: np.ndarray,
    *,
    classes: bool,
    seed: int,
) -> np.ndarray:
    # Not at the top: importing trees would cost every user of the package.
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    scores = target.copy()
    for fold in np.unique(folds):
        inside = folds == fold
        if len(np.unique(target[~inside])) < 2:
            continue
        trees = kind(
            max_iter=100,
            learning_rate=0.08,
            max_leaf_nodes=15,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        )
        with tree_threads(len(target)):
            trees.fit(numbers[~inside], target[~inside, 0], sample_weight=weight[~inside])
            scores[inside, 0] = (
                trees.predict_proba(numbers[inside])[:, 1]
                if classes
                else trees.predict(numbers[inside])
            )
    return scores
