"""The local anchor: the active party's own best model on its own columns.

A blend of ridge regression on the piecewise-linear encoding with a second model: gradient-boosted
trees for two classes and real targets, multinomial logistic regression for more classes, where
trees are slow. Its share is the one with the least held-out error. The anchor serves the rows that
only the active party knows, and its held-out scores are what the other parties' models are judged
against. They also start from them, but for many classes from the ridge part: nearly certain
probabilities leave nothing over for a linear model to add to.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fedtl.learning.columns import Columns
from fedtl.learning.evidence import squared_error
from fedtl.learning.ridge import Family, Moments, solve, target_squares
from fedtl.parties import Session
from fedtl.protocols.moments import fold_moments, fold_scores
from fedtl.solvers.problem import ACTIVE, Problem

_SHARES = np.linspace(0.0, 1.0, 6)
_ROWS_FOR_TREES = 500
_ROWS_FOR_LOGISTIC = 50


@dataclass(frozen=True, eq=False)
class Anchor:
    """The fitted anchor.

    Parameters
    ----------
    coefficients : ndarray of shape (1 + width, n_outputs), dtype float64
        Ridge coefficients, constant first.
    second : estimator or None
        The second model.
    share : float
        Its share in the blend.
    held_out : ndarray of shape (n_rows, n_outputs), dtype float64
        Held-out scores of the labelled training rows that the active party knows, zero elsewhere.
    start : ndarray of shape (n_rows, n_outputs), dtype float64
        The held-out scores that the other parties' models start from.
    without : list of Anchor
        The same model without each fold, while a fit is under way.
    """

    coefficients: np.ndarray
    second: Any
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
        if self.second is None or not len(rows):
            return scores
        n_outputs = scores.shape[1]
        inputs = _inputs(session, columns, rows, n_outputs)
        return scores + self.share * (_second_scores(self.second, inputs, n_outputs) - scores)

    def start_scores(self, session: Session, columns: Columns, rows: np.ndarray) -> np.ndarray:
        """Return the scores that the other parties' models start from; as :meth:`scores`."""
        if self.coefficients.shape[1] > 1:
            return self._ridge_scores(session, columns, rows)
        return self.scores(session, columns, rows)

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
    second, share, start = None, 0.0, scores
    fold_models: list[Any] = [None] * problem.n_folds
    if _second_pays(problem, rows):
        assert session.columns is not None
        inputs = _inputs(session, session.columns, rows, problem.n_outputs)
        fold_models, others = _held_out_second(inputs, problem, rows)
        errors = [
            problem.weight[rows]
            @ squared_error(problem.target[rows], scores + s * (others - scores))
            for s in _SHARES
        ]
        share = float(_SHARES[int(np.argmin(errors))])
        scores = scores + share * (others - scores)
        second = _fit_second(problem, inputs, rows, slice(None)) if share else None
    held_out, started = np.zeros_like(problem.target), np.zeros_like(problem.target)
    held_out[rows] = scores
    started[rows] = start if problem.n_outputs > 1 else scores
    nothing = held_out[:0]
    parts = [
        Anchor(c, model if share else None, share, nothing, nothing)
        for c, model in zip(without, fold_models, strict=True)
    ]
    return Anchor(coefficients, second, share, held_out, started, parts)


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


def _second_pays(problem: Problem, rows: np.ndarray) -> bool:
    """A second model needs rows, and in every fold two classes to tell apart."""
    if problem.task == "regression":
        return len(rows) >= _ROWS_FOR_TREES
    if len(rows) < (_ROWS_FOR_TREES if problem.task == "binary" else _ROWS_FOR_LOGISTIC):
        return False
    classes, folds = problem.order[rows], problem.folds[rows]
    return all(len(np.unique(classes[folds != f])) > 1 for f in range(problem.n_folds))


def _inputs(session: Session, columns: Columns, rows: np.ndarray, n_outputs: int) -> np.ndarray:
    """What the second model is given: the encoding for many classes, plain columns for trees."""
    features = session.features.features(columns[rows])
    if n_outputs > 1:
        return session.features.encoding_.transform(features)
    return session.features.encoding_.base(features)


def _held_out_second(
    inputs: np.ndarray, problem: Problem, rows: np.ndarray
) -> tuple[list[Any], np.ndarray]:
    """Second models without each fold, and their scores of it."""
    scores, fitted = np.empty((len(rows), problem.n_outputs)), []
    for fold in range(problem.n_folds):
        inside = problem.folds[rows] == fold
        fitted.append(_fit_second(problem, inputs, rows, ~inside))
        if inside.any():
            scores[inside] = _second_scores(fitted[-1], inputs[inside], problem.n_outputs)
    return fitted, scores


def _fit_second(problem: Problem, inputs: np.ndarray, rows: np.ndarray, part: Any) -> Any:
    # Not at the top: importing trees would cost every user of the package.
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression

    weight = problem.weight[rows][part]
    if problem.task == "multiclass":
        logistic = LogisticRegression(C=0.1, max_iter=100)
        with warnings.catch_warnings():
            # Stopped early it is a little more regular, and judged by its held-out error anyway.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return logistic.fit(inputs[part], problem.order[rows][part], sample_weight=weight)
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
    return trees.fit(inputs[part], problem.target[rows, 0][part], sample_weight=weight)


def _second_scores(model: Any, inputs: np.ndarray, n_outputs: int) -> np.ndarray:
    """Score on the scale of the target, also where a class was missing in the fit."""
    if not hasattr(model, "predict_proba"):
        return np.asarray(model.predict(inputs)[:, None])
    probabilities = model.predict_proba(inputs)
    if n_outputs == 1:
        return np.asarray(probabilities[:, 1:])
    scores = np.zeros((len(inputs), n_outputs))
    scores[:, model.classes_.astype(int)] = probabilities
    return scores
