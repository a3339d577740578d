"""Held-out evidence is what textbooks say it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from fedtl.learning.evidence import (
    Calibration,
    Gain,
    deal_folds,
    fit_calibration,
    guard_weight,
    paired_gain,
    squared_error,
)

RNG = np.random.default_rng(0)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_folds_are_even_in_all_and_within_each_stratum_and_class(data):
    n, n_folds = data.draw(st.integers(1, 200)), data.draw(st.integers(2, 10))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    strata, target = rng.integers(0, 3, n), rng.integers(0, 2, n)
    folds = deal_folds(strata, target, n_folds, rng)
    assert folds.dtype == np.uint8

    def spread(rows):
        return np.ptp(np.bincount(folds[rows], minlength=n_folds))

    assert spread(np.full(n, True)) <= 1
    # Rows are dealt in rounds: a stratum has at most one unfinished round at each of its ends.
    for stratum in range(3):
        assert spread(strata == stratum) <= 2
        for label in range(2):
            assert spread((strata == stratum) & (target == label)) <= 2
    assert spread(strata == 0) <= 1  # the first begins with a round


def test_neighbours_in_the_order_of_a_real_target_go_to_different_folds():
    target = RNG.normal(size=103)
    folds = deal_folds(np.zeros(103, int), target, 5, RNG)
    in_order = folds[np.argsort(target)]
    for start in range(0, 100, 5):
        assert sorted(in_order[start : start + 5]) == [0, 1, 2, 3, 4]


def test_one_generator_state_gives_one_dealing():
    strata, target = np.zeros(60, int), np.arange(60) % 2
    one, two, other = (
        deal_folds(strata, target, 5, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2)
    )
    assert one == two
    assert one != other


def test_squared_errors_are_summed_over_outputs():
    errors = squared_error(np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 3.0]]))
    assert errors.tolist() == [5.0, 9.0]


def test_a_paired_gain_with_unit_weights_is_the_paired_t_test():
    reference = RNG.exponential(size=80)
    candidate = reference * RNG.uniform(0.5, 1.2, size=80)
    gain = paired_gain(reference, candidate, np.ones(80))
    test = stats.ttest_rel(reference, candidate)
    # The variance here is divided by n, there by n - 1.
    np.testing.assert_allclose(gain.t, test.statistic * np.sqrt(80 / 79))
    np.testing.assert_allclose(gain.mean, (reference - candidate).mean() / reference.mean())
    np.testing.assert_allclose(gain.high - gain.mean, gain.mean - gain.low)
    np.testing.assert_allclose((gain.high - gain.mean) / gain.mean, 1.96 / gain.t)
    assert gain.n_rows == 80


def test_a_gain_does_not_depend_on_the_scale_of_weights_or_on_rows_without_weight():
    reference, candidate = RNG.exponential(size=(2, 50))
    weight = RNG.uniform(0.5, 2.0, 50)
    gain = paired_gain(reference, candidate, weight)
    scaled = paired_gain(7.0 * reference, 7.0 * candidate, 3.0 * weight)
    np.testing.assert_allclose([gain.mean, gain.t], [scaled.mean, scaled.t])
    padded = paired_gain(
        np.append(reference, 99.0), np.append(candidate, 0.0), np.append(weight, 0.0)
    )
    np.testing.assert_allclose([gain.mean, gain.t, gain.n_rows], [padded.mean, padded.t, 50])


def test_a_weighted_mean_is_that_of_repeated_rows():
    reference, candidate = RNG.exponential(size=(2, 20))
    weight = RNG.integers(1, 4, 20)
    weighted = paired_gain(reference, candidate, weight.astype(float))
    repeated = paired_gain(
        np.repeat(reference, weight), np.repeat(candidate, weight), np.ones(weight.sum())
    )
    np.testing.assert_allclose(weighted.mean, repeated.mean)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_rows_prove_nothing(n):
    gain = paired_gain(np.full(n, 9.0), np.zeros(n), np.ones(n))
    assert (gain.mean, gain.t, gain.low, gain.high) == (0.0, 0.0, -np.inf, np.inf)
    assert guard_weight(gain, 4.0) == 0.0


def test_equal_models_gain_nothing_and_are_not_trusted():
    errors = RNG.exponential(size=30)
    assert guard_weight(paired_gain(errors, errors, np.ones(30)), 4.0) == 0.0


@pytest.mark.parametrize(("t", "trust"), [(-3, 0), (0, 0), (1, 0.25), (2, 0.5), (4, 1), (9, 1)])
def test_trust_is_a_quarter_of_the_t_statistic_between_zero_and_one(t, trust):
    assert guard_weight(Gain(0.1, 0.0, 0.2, t, 10), 4.0) == trust


@pytest.mark.parametrize("informative", [True, False, "inverted"])
def test_a_calibrated_probability_keeps_the_order_of_the_scores(informative):
    scores = RNG.normal(0.5, 0.3, size=(200, 1))
    p = {True: expit(8 * (scores - 0.5)), False: 0.5, "inverted": expit(-8 * (scores - 0.5))}
    target = (RNG.random((200, 1)) < p[informative]).astype(int)[:, 0]
    calibration = fit_calibration(scores, target, np.ones(200))
    probabilities = calibration.probabilities(scores)
    assert calibration.slope > 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert (np.diff(probabilities[np.argsort(scores[:, 0]), 1]) > 0).all()


def test_a_binary_calibration_is_logistic_regression_on_the_score():
    scores = RNG.normal(0.5, 0.3, size=(500, 1))
    target = (RNG.random(500) < expit(6 * scores[:, 0] - 2)).astype(int)
    weight = RNG.uniform(0.5, 2.0, 500)
    calibration = fit_calibration(scores, target, weight)
    logistic = LogisticRegression(C=np.inf, tol=1e-10).fit(scores, target, sample_weight=weight)
    # The prior is weak, not absent.
    np.testing.assert_allclose(calibration.slope, logistic.coef_[0, 0], rtol=1e-2)
    np.testing.assert_allclose(calibration.intercept, logistic.intercept_[0], rtol=2e-2)


@pytest.mark.parametrize("target", [[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]])
def test_classes_that_are_separable_or_alone_give_finite_probabilities(target):
    scores = np.array([[0.0], [0.1], [0.9], [1.0]])
    calibration = fit_calibration(scores, np.array(target), np.ones(4))
    probabilities = calibration.probabilities(scores)
    assert np.isfinite(probabilities).all()
    assert (np.diff(probabilities[:, 1]) >= 0).all()


def test_calibrated_classes_keep_the_order_within_each_row():
    target = RNG.integers(0, 4, 300)
    scores = 0.5 * np.eye(4)[target] + 0.3 * RNG.normal(size=(300, 4))
    calibration = fit_calibration(scores, target, np.ones(300))
    probabilities = calibration.probabilities(scores)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    np.testing.assert_array_equal(np.argsort(probabilities), np.argsort(scores))

    def loss(slope):
        p = Calibration(slope).probabilities(scores)
        return -np.log(p[np.arange(300), target]).sum()

    assert loss(calibration.slope) <= min(loss(0.98 * calibration.slope), loss(1.0))
    assert loss(calibration.slope) <= loss(1.02 * calibration.slope)
