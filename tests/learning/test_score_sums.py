"""What sums say of scores is what the rows say."""

import numpy as np
import pytest
from scipy.special import expit

from fedtl.learning.evidence import fit_calibration, paired_gain, squared_error
from fedtl.learning.ridge import moments_of, target_squares
from fedtl.learning.score_sums import calibrate, correction_of, gain_by_sums, score_products

N = 4000


def summed(*parts):
    numbers = np.hstack([np.ones((len(parts[0]), 1)), *parts])
    return target_squares(numbers, np.zeros(len(numbers), int), np.ones(len(numbers)), 1)[0]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_products_of_held_out_scores_are_those_of_their_rows(rng):
    columns, targets = rng.normal(size=(60, 4)), rng.normal(size=(60, 3))
    folds, weight = np.arange(60) % 3, rng.uniform(size=60)
    maps = [rng.normal(size=(3, 8, 2)) for _ in range(2)]
    whole = np.hstack([np.ones((60, 1)), columns, targets])
    scores = [np.einsum("nc,nco->no", whole, m[folds]) for m in maps]
    expected = target_squares(np.hstack([np.ones((60, 1)), *scores]), folds, weight, 3)
    found = score_products(moments_of(columns, targets, folds, weight, 3), maps)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_two_normal_classes_are_calibrated_as_by_their_rows(share, rng):
    y = (rng.random(N) < share).astype(float)[:, None]
    score = 0.2 * y + 0.1 * rng.normal(size=(N, 1))
    by_sums = calibrate(summed(score, y), "binary")
    by_rows = fit_calibration(score, y[:, 0].astype(int), np.ones(N))
    assert by_sums.slope == pytest.approx(by_rows.slope, rel=0.1)
    odds = [expit(c.slope * score + c.intercept) for c in (by_sums, by_rows)]
    assert np.abs(odds[0] - odds[1]).max() < 0.05
    assert correction_of(summed(score, y), "binary", by_rows) == pytest.approx(1.0, abs=0.1)


def test_many_classes_are_calibrated_about_as_by_their_rows(rng):
    classes = rng.integers(0, 4, N)
    y = np.eye(4)[classes]
    score = 0.3 * y + 0.2 * rng.normal(size=(N, 4))
    by_rows = fit_calibration(score, classes, np.ones(N))
    assert calibrate(summed(score, y), "multiclass").slope == pytest.approx(by_rows.slope, rel=0.1)


@pytest.mark.parametrize("constant", [0.0, 0.3])
def test_a_score_that_says_nothing_makes_nobody_sure(constant, rng):
    y = (np.arange(50) % 5 == 0).astype(float)[:, None]
    score = constant + 1e-9 * rng.normal(size=(50, 1))
    curve = calibrate(summed(score, y), "binary")
    assert np.abs(curve.probabilities(score)[:, 1] - 0.2).max() < 0.01
    assert calibrate(summed(score, 0 * y), "binary").slope == 4.0  # one class alone
    assert calibrate(summed(score, y), "regression") is None


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("better", [0.0, 0.3])
def test_gain_and_its_interval_are_those_of_paired_rows(n_outputs, better, rng):
    y = rng.normal(size=(N, n_outputs))
    first = y + rng.normal(size=y.shape)
    second = first + better * (y - first) + 0.05 * rng.normal(size=y.shape)
    expected = paired_gain(squared_error(y, first), squared_error(y, second), np.ones(N))
    found = gain_by_sums(summed(first, second, y))
    assert found.mean == pytest.approx(expected.mean)
    assert found.n_rows == expected.n_rows == N
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.1)
