"""Log odds are pooled, and weighed as far as rows allow."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from fedtl.learning import stacking
from fedtl.learning.stacking import fit_logit_stack

FOLDS = 4


def made(n=2000, seed=0):
    """Two models that see different columns, and one that sees noise."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 3))
    target = (rng.random(n) < expit(z[:, 0] + z[:, 1] - 1.0)).astype(int)
    scores = [expit(z[:, [i]] * (i < 2) + 0.3 * rng.normal(size=(n, 1)) - 0.5) for i in range(3)]
    return scores, target, np.ones(n), rng.integers(0, FOLDS, n)


def odds(stack, scores):
    return np.column_stack(
        [c.slope * s + c.intercept for c, s in zip(stack.calibrations, scores, strict=True)]
    )


def test_under_a_heavy_penalty_the_stack_is_the_scaled_pool(monkeypatch):
    monkeypatch.setattr(stacking, "_PENALTIES", (1e12,))
    scores, target, weight, folds = made(20_000)
    stack, _ = fit_logit_stack(scores, target, weight, folds, FOLDS)
    pool = odds(stack, scores).mean(axis=1, keepdims=True)
    expected = LogisticRegression(C=np.inf, tol=1e-10).fit(pool, target)
    assert_allclose(
        logit(stack.probabilities(scores)[:, 0]), expected.decision_function(pool), atol=1e-2
    )


def test_without_a_penalty_the_stack_is_logistic_regression(monkeypatch):
    monkeypatch.setattr(stacking, "_PENALTIES", (1e-9,))
    scores, target, weight, folds = made(20_000)
    scores = scores[:2]  # a useless model's odds hardly differ: its weight may be anything
    stack, held_out = fit_logit_stack(scores, target, weight, folds, FOLDS)
    x = odds(stack, scores)
    full = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, target)
    assert_allclose(
        log_loss(target, stack.probabilities(scores)[:, 0]),
        log_loss(target, full.predict_proba(x)[:, 1]),
        rtol=1e-4,
    )
    inside = folds == 0
    without = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    without.fit(x[~inside], target[~inside])
    assert_allclose(
        log_loss(target[inside], held_out[inside, 0]),
        log_loss(target[inside], without.predict_proba(x[inside])[:, 1]),
        rtol=1e-4,
    )


def test_models_that_see_different_columns_are_better_together():
    scores, target, weight, folds = made()
    stack, held_out = fit_logit_stack(scores, target, weight, folds, FOLDS)
    single = max(roc_auc_score(target, s[:, 0]) for s in scores)
    assert roc_auc_score(target, held_out[:, 0]) > single + 0.03
    new, truth, _, _ = made(seed=1)
    assert roc_auc_score(truth, stack.probabilities(new)[:, 0]) > single + 0.03


def test_a_useless_model_has_no_share():
    scores, target, weight, folds = made()
    stack, _ = fit_logit_stack(scores, target, weight, folds, FOLDS)
    assert stack.shares[2] < 0.05
    assert min(stack.shares[:2]) > 0.3


@pytest.mark.parametrize("n", [30, 50])
def test_few_rows_do_not_make_the_stack_overconfident(n):
    worse = []
    for seed in range(8):
        scores, target, weight, folds = made(n, seed)
        stack, _ = fit_logit_stack(scores, target, weight, folds, FOLDS)
        new, truth, _, _ = made(seed=100 + seed)
        known = log_loss(truth, np.full(len(truth), target.mean().clip(0.05, 0.95)))
        worse.append(log_loss(truth, stack.probabilities(new)[:, 0]) - known)
    assert np.mean(worse) < 0.05


def test_weights_of_rows_count_like_copies():
    scores, target, _, folds = made(300)
    twice = np.random.default_rng(1).integers(1, 3, 300)
    weighted, _ = fit_logit_stack(scores, target, twice.astype(float), folds, FOLDS)
    copied, _ = fit_logit_stack(
        [np.repeat(s, twice, axis=0) for s in scores],
        np.repeat(target, twice),
        np.ones(twice.sum()),
        np.repeat(folds, twice),
        FOLDS,
    )
    assert_allclose(weighted.weights, copied.weights, atol=1e-8)
    assert_allclose(weighted.intercept, copied.intercept, atol=1e-8)
