"""Noise has the distribution that is accounted for."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare, kstest

from fedtl.privacy.noise import (
    gaussian,
    kept_probability,
    poisson_sample,
    randomised_response,
    symmetric_gaussian,
    true_probabilities,
)


def test_gaussian_noise_is_standard_normal_and_never_the_same():
    first, second = gaussian((200_000,)), gaussian((200_000,))
    assert kstest(first, "norm").pvalue > 1e-4
    assert kstest(np.square(first[:1000]) + np.square(second[:1000]), "chi2", (2,)).pvalue > 1e-4
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_symmetric_noise_has_the_variance_of_its_frobenius_norm():
    noise = symmetric_gaussian((20_000, 3, 3))
    np.testing.assert_array_equal(noise, noise.transpose(0, 2, 1))
    variance = noise.var(axis=0)
    np.testing.assert_allclose(variance, np.where(np.eye(3), 1.0, 0.5), rtol=0.06)


def test_each_row_takes_part_by_itself_with_the_rate_that_is_accounted():
    sizes = [len(poisson_sample(1000, 0.2)) for _ in range(400)]
    assert binomtest(sum(sizes), 400_000, 0.2).pvalue > 1e-4
    # The number that takes part varies as that of a binomial, not as that of equal batches.
    assert np.var(sizes) == pytest.approx(1000 * 0.2 * 0.8, rel=0.35)
    np.testing.assert_array_equal(poisson_sample(5, 1.0), np.arange(5))


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomised_response_has_the_exact_probabilities(n_classes, epsilon):
    told = randomised_response(np.full(60_000, 1), n_classes, epsilon)
    keep = math.exp(epsilon) / (math.exp(epsilon) + n_classes - 1)
    assert kept_probability(n_classes, epsilon) == pytest.approx(keep)
    expected = np.full(n_classes, (1.0 - keep) / (n_classes - 1))
    expected[1] = keep
    assert chisquare(np.bincount(told, minlength=n_classes), 60_000 * expected).pvalue > 1e-4


def test_probabilities_of_true_labels_are_recovered():
    truth = np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    keep, epsilon = kept_probability(3, 1.0), 1.0
    told = truth @ np.where(np.eye(3), keep, (1 - keep) / 2)
    np.testing.assert_allclose(true_probabilities(told, epsilon), truth, atol=1e-9)


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0]])
def test_labels_that_are_no_class_are_refused(labels):
    with pytest.raises(ValueError, match="positions of 2 classes"):
        randomised_response(np.array(labels), 2, 1.0)
