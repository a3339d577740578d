"""A party's trees on its own plain columns, with held-out scores for the evidence.

Gradient-boosted trees for two classes and real targets, small and strongly regularised, whose
number is the one with the least held-out error; extremely randomised trees [1]_ for more classes,
where boosting is slow. They see interactions and thresholds within one party's columns that a
linear model does not.

References
----------
.. [1] P. Geurts, D. Ernst, L. Wehenkel. Extremely randomized trees. Machine Learning 63, 2006.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from fedtl.learning.evidence import squared_error
from fedtl.learning.threads import tree_threads

MIN_ROWS = 100
_MAX_ITER = 150
_STAGE = 10
_N_RANDOMISED = 100


@dataclass(frozen=True, eq=False)
class Trees:
    """Fitted trees.

    Parameters
    ----------
    model : estimator
        Of scikit-learn.
    task : {"binary", "multiclass", "regression"}
        What the target is.
    n_outputs : int
        Number of outputs.
    n_iter : int
        How many of the boosted trees are used.
    """

    model: Any
    task: str
    n_outputs: int
    n_iter: int = 0

    def scores(self, inputs: np.ndarray) -> np.ndarray:
        """Score rows.

        Parameters
        ----------
        inputs : ndarray of shape (n_rows, n_columns), dtype float64
            A party's plain columns; NaN where a value is missing.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs), dtype float64
            On the scale of the target, also where a class was missing in the fit.
        """
        if not len(inputs):
            return np.empty((0, self.n_outputs))
        with tree_threads(len(inputs)):
            return self._scores(inputs)

    def _scores(self, inputs: np.ndarray) -> np.ndarray:
        if self.task == "multiclass":
            scores = np.zeros((len(inputs), self.n_outputs))
            scores[:, self.model.classes_.astype(int)] = self.model.predict_proba(inputs)
            return scores
        return next(islice(_stages(self.model, inputs), self.n_iter - 1, None))


@dataclass(frozen=True, eq=False)
class HeldOutTrees:
    """Trees with those that did not see each fold.

    Parameters
    ----------
    full : Trees
        Fitted to all rows.
    without : list of Trees
        Fitted without each fold.
    held_out : ndarray of shape (n_rows, n_outputs), dtype float64
        Score of each row by the trees that did not see its fold.
    """

    full: Trees
    without: list[Trees]
    held_out: np.ndarray


def trees_can_learn(task: str, target: np.ndarray, folds: np.ndarray) -> bool:
    """Return whether there are rows enough, and two classes outside of every fold.

    Parameters
    ----------
    task : {"binary", "multiclass", "regression"}
        What the target is.
    target : ndarray of shape (n_rows, n_outputs), dtype float64
        Target.
    folds : ndarray of shape (n_rows,), dtype int
        Fold of each row.

    Returns
    -------
    bool
        Whether :func:`fit_trees` can be used.
    """
    if len(target) < MIN_ROWS:
        return False
    classes, least = _order(task, target), 1 if task == "regression" else 2
    return all(len(np.unique(classes[folds != fold])) >= least for fold in np.unique(folds))


def fit_trees(
    task: str,
    inputs: np.ndarray,
    target: np.ndarray,
    *,
    weight: np.ndarray,
    folds: np.ndarray,
    n_folds: int,
    seed: int,
) -> HeldOutTrees:
    """Fit trees to all rows and without each fold.

    Parameters
    ----------
    task : {"binary", "multiclass", "regression"}
        What the target is.
    inputs : ndarray of shape (n_rows, n_columns), dtype float64
        Plain columns; NaN where a value is missing.
    target : ndarray of shape (n_rows, n_outputs), dtype float64
        1 for the positive class, one-hot classes, or real targets.
    weight : ndarray of shape (n_rows,), dtype float64
        Weight of each row.
    folds : ndarray of shape (n_rows,), dtype int
        Fold of each row.
    n_folds : int
        Number of folds.
    seed : int
        Seed of what is drawn.

    Returns
    -------
    HeldOutTrees
        The trees and the held-out scores.
    """
    with tree_threads(len(target)):
        return _fit_trees(task, inputs, target, weight, folds, n_folds, seed)


def _fit_trees(  # noqa: PLR0917
    task: str,
    inputs: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    folds: np.ndarray,
    n_folds: int,
    seed: int,
) -> HeldOutTrees:
    order, n_outputs = _order(task, target), target.shape[1]
    fitted = [
        _new_model(task, _MAX_ITER, len(order), seed).fit(
            inputs[folds != fold],
            order[folds != fold],
            sample_weight=_needed(weight[folds != fold]),
        )
        for fold in range(n_folds)
    ]
    n_iter = 0 if task == "multiclass" else _best_stage(fitted, inputs, target, weight, folds)
    without = [Trees(model, task, n_outputs, n_iter) for model in fitted]
    held_out = np.empty(target.shape)
    for fold, trees in enumerate(without):
        held_out[folds == fold] = trees.scores(inputs[folds == fold])
    model = _new_model(task, n_iter, len(order), seed).fit(
        inputs, order, sample_weight=_needed(weight)
    )
    return HeldOutTrees(Trees(model, task, n_outputs, n_iter), without, held_out)


def _needed(weight: np.ndarray) -> np.ndarray | None:
    """Leave out weights of one: weighted quantiles for the bins cost several times the trees."""
    return None if np.allclose(weight, 1.0, rtol=0.0, atol=1e-12) else weight


def _order(task: str, target: np.ndarray) -> np.ndarray:
    return target.argmax(axis=1) if task == "multiclass" else target[:, 0]


def _new_model(task: str, max_iter: int, n_rows: int, seed: int) -> Any:
    # Not at the top: importing trees would cost every user of the package.
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
    )

    if task == "multiclass":
        leaf = max(1, n_rows // 2000)  # or many rows would make trees of many megabytes
        return ExtraTreesClassifier(_N_RANDOMISED, min_samples_leaf=leaf, random_state=seed)
    boosting = (
        HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    )
    return boosting(
        max_iter=max_iter,
        learning_rate=0.1,
        max_leaf_nodes=6,
        min_samples_leaf=min(max(n_rows // 40, 5), 40),
        l2_regularization=10.0,
        max_features=0.3,
        early_stopping=False,
        random_state=seed,
    )


def _best_stage(
    fitted: list[Any],
    inputs: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    folds: np.ndarray,
) -> int:
    """The number of trees with the least held-out error, the same for all folds."""
    stages = np.arange(_STAGE, _MAX_ITER + 1, _STAGE)
    errors = np.zeros(len(stages))
    for fold, model in enumerate(fitted):
        inside = folds == fold
        if inside.any():
            for i, scores in enumerate(
                islice(_stages(model, inputs[inside]), _STAGE - 1, None, _STAGE)
            ):
                errors[i] += weight[inside] @ squared_error(target[inside], scores)
    return int(stages[errors.argmin()])


def _stages(model: Any, inputs: np.ndarray) -> Any:
    """Scores after each boosted tree, of shape (n_rows, 1)."""
    if hasattr(model, "staged_predict_proba"):
        return (p[:, 1:] for p in model.staged_predict_proba(inputs))
    return (p[:, None] for p in model.staged_predict(inputs))
