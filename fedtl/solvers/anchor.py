"""The local anchor: the active party's own best model on its own columns.

A blend of ridge regression on the piecewise-linear encoding and of gradient-boosted trees, with
the share that has the least held-out error. It serves the rows that only the active party knows,
and its held-out scores are what the other parties' models start from and are judged against.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedtl.learning.columns import Columns
from fedtl.learning.evidence import squared_error
from fedtl.learning.ridge import Family, Moments, solve, target_squares
from fedtl.parties import Session
from fedtl.protocols.moments import fold_moments, fold_scores
from fedtl.solvers.problem import ACTIVE, Problem

_SHARES = np.linspace(0.0, 1.0, 6)
_ROWS_FOR_TREES = 500


@dataclass(frozen=True, eq=False)
class Anchor:
    """The fitted anchor.

    Parameters
    ----------
    coefficients : ndarray of shape (1 + width, n_outputs), dtype float64
        Ridge coefficients, constant first.
    trees : estimator or None
        Gradient-boosted trees on the active party's scaled columns.
    share : float
        Share of the trees in the blend.
    held_out : ndarray of shape (n_rows, n_outputs), dtype float64
        Held-out scores of the labelled training rows that the active party knows, zero elsewhere.
    without : list of Anchor
        The same model without each fold, while a fit is under way.
    """

    coefficients: np.ndarray
    trees: Any
    share: float
    held_out: np.ndarray
    without: list[Anchor] = field(default_factory=list)

    def scores(self, session: Session, columns: Columns, rows: np.ndarray) -> np.ndarray:
        """Score rows that the active party knows.

        Parameters
        ----------
        session : Session
            The active party's features.
        columns : Columns
            Its rows.
        rows : ndarray of shape (n,), dtype int
            Which of them.

        Returns
        -------
        ndarray of shape (n, n_outputs), dtype float64
            Scores on the scale of the target.
        """
        scores = np.empty((len(rows), self.coefficients.shape[1]))
        for piece, encoded in session.features.chunks(columns, rows):
            scores[piece] = encoded @ self.coefficients[1:] + self.coefficients[0]
        if self.trees is None or not len(rows):
            return scores
        base = session.features.encoding_.base(session.features.features(columns[rows]))
        return scores + self.share * (_tree_scores(self.trees, base) - scores)


def fit_anchor(session: Session, problem: Problem) -> Anchor:
    """Fit the active party's own model.

    Parameters
    ----------
    session : Session
        The active party's features and rows.
    problem : Problem
        What is to be learnt; at least two labelled rows are known to the active party.

    Returns
    -------
    Anchor
        The model and its held-out scores.
    """
    rows = problem.rows(ACTIVE)
    coefficients, without, scores = _fit_ridge(session, problem, rows)
    trees, share = None, 0.0
    fold_trees: list[Any] = [None] * problem.n_folds
    if _trees_pay(problem, rows):
        assert session.columns is not None
        base = session.features.encoding_.base(session.features.features(session.columns[rows]))
        fold_trees, tree_scores = _held_out_trees(base, problem, rows)
        errors = [
            problem.weight[rows]
            @ squared_error(problem.target[rows], scores + s * (tree_scores - scores))
            for s in _SHARES
        ]
        share = float(_SHARES[int(np.argmin(errors))])
        scores = scores + share * (tree_scores - scores)
        trees = _grow(problem, base, rows, slice(None)) if share else None
    held_out = np.zeros_like(problem.target)
    held_out[rows] = scores
    parts = [
        Anchor(c, t if share else None, share, held_out[:0])
        for c, t in zip(without, fold_trees, strict=True)
    ]
    return Anchor(coefficients, trees, share, held_out, parts)


def _fit_ridge(
    session: Session, problem: Problem, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coefficients, those without each fold, and held-out scores."""
    folds, weight, target = problem.folds[rows], problem.weight[rows], problem.target[rows]
    gram, cross = fold_moments(
        session, rows, folds=folds, weight=weight, targets=target, n_folds=problem.n_folds
    )
    moments = Moments(gram, cross, target_squares(target, folds, weight, problem.n_folds))
    everything = np.arange(1, gram.shape[1])
    n_outputs = problem.n_outputs
    averaged = solve(
        moments.centered(), [Family(everything, np.zeros((n_outputs, n_outputs)))], n_outputs
    )
    column_mean, target_mean = moments.means()
    coefficients, held_out = averaged.with_constant(column_mean, target_mean)
    return coefficients, held_out, fold_scores(session, rows, folds, held_out)


def _trees_pay(problem: Problem, rows: np.ndarray) -> bool:
    """Trees need rows, and are slow where there are many classes."""
    if problem.task == "multiclass" or len(rows) < _ROWS_FOR_TREES:
        return False
    if problem.task == "binary":
        positive = problem.target[rows, 0].sum()
        return bool(min(positive, len(rows) - positive) >= 2 * problem.n_folds)
    return True


def _held_out_trees(
    base: np.ndarray, problem: Problem, rows: np.ndarray
) -> tuple[list[Any], np.ndarray]:
    """Trees without each fold, and their scores of it."""
    scores, grown = np.empty((len(rows), 1)), []
    for fold in range(problem.n_folds):
        inside = problem.folds[rows] == fold
        grown.append(_grow(problem, base, rows, ~inside))
        if inside.any():
            scores[inside] = _tree_scores(grown[-1], base[inside])
    return grown, scores


def _grow(problem: Problem, base: np.ndarray, rows: np.ndarray, part: Any) -> Any:
    # Not at the top: the import of this module would cost every user of the package.
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = (
        HistGradientBoostingRegressor
        if problem.task == "regression"
        else HistGradientBoostingClassifier
    )
    trees = kind(
        max_iter=100,
        learning_rate=0.08,
        max_leaf_nodes=15,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=problem.seed,
    )
    target = problem.target[rows, 0][part]
    return trees.fit(base[part], target, sample_weight=problem.weight[rows][part])


def _tree_scores(trees: Any, base: np.ndarray) -> np.ndarray:
    if hasattr(trees, "predict_proba"):
        return np.asarray(trees.predict_proba(base)[:, 1:])
    return np.asarray(trees.predict(base)[:, None])
