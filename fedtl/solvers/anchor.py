"""The local anchor: the active party's own best model on its own columns.

A blend of ridge regression on the piecewise-linear encoding with trees on the plain columns. The
share of the trees is the one with the least held-out error. The anchor serves the rows that only
the active party knows, and its held-out scores are what the other parties' models are judged
against. They also start from them, but for many classes from the ridge part: nearly certain
probabilities leave nothing over for a linear model to add to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from fedtl.learning.columns import Columns
from fedtl.learning.evidence import best_share
from fedtl.learning.ridge import Family, Moments, solve, target_squares
from fedtl.learning.trees import Trees, fit_trees, trees_can_learn
from fedtl.parties import Session
from fedtl.protocols.assistance import local_scores
from fedtl.protocols.moments import fold_moments, fold_scores
from fedtl.solvers.problem import ACTIVE, Problem


@dataclass(frozen=True, eq=False)
class Anchor:
    """The fitted anchor.

    Parameters
    ----------
    coefficients : ndarray of shape (1 + width, n_outputs), dtype float64
        Ridge coefficients, constant first.
    trees : Trees or None
        The trees, if they have a share.
    share : float
        Their share in the blend.
    held_out : ndarray of shape (n_rows, n_outputs), dtype float64
        Held-out scores of the labelled training rows that the active party knows, zero elsewhere.
    start : ndarray of shape (n_rows, n_outputs), dtype float64
        The held-out scores that the other parties' models start from.
    without : list of Anchor
        The same model without each fold, while a fit is under way.
    """

    coefficients: np.ndarray
    trees: Trees | None
    share: float
    held_out: np.ndarray
    start: np.ndarray
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
        scores = self._ridge_scores(session, columns, rows)
        if self.trees is None:
            return scores
        others = local_scores(session, self.trees, columns, rows)[rows]
        return scores + self.share * (others - scores)

    def start_scores(self, session: Session, columns: Columns, rows: np.ndarray) -> np.ndarray:
        """Return the scores that the other parties' models start from; as :meth:`scores`."""
        if self.coefficients.shape[1] > 1:
            return self._ridge_scores(session, columns, rows)
        return self.scores(session, columns, rows)

    def without_evidence(self) -> Anchor:
        """Return what is kept after a fit: nothing of training rows."""
        nothing = self.held_out[:0]
        return replace(self, held_out=nothing, start=nothing, without=[])

    def _ridge_scores(self, session: Session, columns: Columns, rows: np.ndarray) -> np.ndarray:
        scores = np.empty((len(rows), self.coefficients.shape[1]))
        for piece, encoded in session.features.chunks(columns, rows):
            scores[piece] = encoded @ self.coefficients[1:] + self.coefficients[0]
        return scores


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
    start, share, trees = scores, 0.0, None
    target, weight, folds = problem.target[rows], problem.weight[rows], problem.folds[rows]
    if trees_can_learn(problem.task, target, folds):
        assert session.columns is not None
        inputs = session.features.plain(session.columns, rows)
        trees = fit_trees(
            problem.task,
            inputs,
            target,
            weight=weight,
            folds=folds,
            n_folds=problem.n_folds,
            seed=problem.seed,
        )
        share = best_share(target, scores, trees.held_out, weight)
        scores = scores + share * (trees.held_out - scores)
    held_out, started = np.zeros_like(problem.target), np.zeros_like(problem.target)
    held_out[rows] = scores
    started[rows] = start if problem.n_outputs > 1 else scores
    nothing = held_out[:0]
    used = trees if share else None
    parts = [
        Anchor(c, used.without[fold] if used else None, share, nothing, nothing)
        for fold, c in enumerate(without)
    ]
    return Anchor(coefficients, used.full if used else None, share, held_out, started, parts)


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
