"""Trees score each fold without having seen it, and are as many as held-out rows call for."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from fedtl.learning.evidence import squared_error
from fedtl.learning.trees import MIN_ROWS, fit_trees, trees_can_learn

FOLDS = 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 3))
X[RNG.random(X.shape) < 0.05] = np.nan
CROSSED = (X[:, 0] > 0) != (X[:, 1] > 0.3)  # what no sum over columns says
FOLD = RNG.integers(0, FOLDS, len(X))
WEIGHT = RNG.uniform(0.5, 2.0, len(X))
TARGETS = {
    "binary": CROSSED[:, None].astype(float),
    "multiclass": np.eye(3)[CROSSED.astype(int) + (X[:, 2] > 1.0)],
    "regression": (CROSSED + 0.1 * RNG.normal(size=len(X)))[:, None],
}


def fit(task, target=None, folds=FOLD):
    target = TARGETS[task] if target is None else target
    return fit_trees(task, X, target, weight=WEIGHT, folds=folds, n_folds=FOLDS, seed=0)


@pytest.mark.parametrize("task", TARGETS)
def test_held_out_scores_are_those_of_the_same_trees_without_the_fold(task):
    fitted, target = fit(task), TARGETS[task]
    order = target.argmax(1) if task == "multiclass" else target[:, 0]
    for fold in range(FOLDS):
        inside = fold == FOLD
        model = clone(fitted.full.model)
        model.fit(X[~inside], order[~inside], sample_weight=WEIGHT[~inside])
        expected = {
            "binary": lambda m=model, i=inside: m.predict_proba(X[i])[:, 1:],
            "multiclass": lambda m=model, i=inside: m.predict_proba(X[i]),
            "regression": lambda m=model, i=inside: m.predict(X[i])[:, None],
        }[task]()
        assert_allclose(fitted.held_out[inside], expected, atol=1e-12)
        assert_array_equal(fitted.without[fold].scores(X[inside]), fitted.held_out[inside])


@pytest.mark.parametrize("task", TARGETS)
def test_trees_learn_on_held_out_rows_what_no_sum_over_columns_says(task):
    target = TARGETS[task]
    error = squared_error(target, fit(task).held_out).mean()
    assert error < 0.8 * squared_error(target, target.mean(axis=0)).mean()


def test_where_there_is_nothing_to_learn_few_trees_are_used():
    noise = RNG.integers(0, 2, (len(X), 1)).astype(float)
    assert fit("binary", noise).full.n_iter < fit("binary").full.n_iter


def test_a_class_that_was_not_seen_scores_zero():
    target = TARGETS["multiclass"].copy()
    target[:, 2], target[:, 0] = 0.0, target[:, 0] + target[:, 2]
    scores = fit("multiclass", target).full.scores(X)
    assert_array_equal(scores[:, 2], np.zeros(len(X)))
    assert_allclose(scores.sum(axis=1), 1.0)


def test_trees_need_rows_and_two_classes_outside_of_every_fold():
    target = TARGETS["binary"]
    assert trees_can_learn("binary", target, FOLD)
    assert not trees_can_learn("binary", target[: MIN_ROWS - 1], FOLD[: MIN_ROWS - 1])
    only_in_one = (FOLD == 0)[:, None].astype(float)
    assert not trees_can_learn("binary", only_in_one, FOLD)
    assert trees_can_learn("regression", only_in_one, FOLD)


def test_no_rows_have_no_scores():
    assert fit("binary").full.scores(X[:0]).shape == (0, 1)
