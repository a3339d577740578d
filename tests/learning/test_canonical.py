"""Directions that two parties share are found without labels."""

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA

from fedtl.learning.canonical import N_COMPONENTS, canonical_directions, whitening

N = 2000
RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(size=N)
OWN = np.outer(SIGNAL, RNG.choice([-1, 1, 2], 6)) + RNG.normal(size=(N, 6)) + 3.0
OTHER = np.outer(SIGNAL, RNG.choice([-1, 1, 2], 8)) + RNG.normal(size=(N, 8)) - 1.0


def with_one(columns):
    return np.hstack([np.ones((len(columns), 1)), columns])


def directions(own, other, weight):
    one, two = with_one(own), with_one(other)
    own_white = whitening(one.T @ (weight[:, None] * one))
    other_white = whitening(two.T @ (weight[:, None] * two))
    products = two.T @ (weight[:, None] * (one @ own_white))
    first, second = canonical_directions(own_white, other_white, products, weight.sum())
    return one @ first, two @ second


@pytest.mark.parametrize(
    "weight", [np.ones(N), RNG.uniform(0.1, 2.0, N)], ids=["equal", "weighted"]
)
def test_whitened_columns_are_uncorrelated_with_mean_zero_and_variance_one(weight):
    one = with_one(OWN)
    white = one @ whitening(one.T @ (weight[:, None] * one))
    share = weight / weight.sum()
    np.testing.assert_allclose(share @ white, 0.0, atol=1e-9)
    np.testing.assert_allclose(white.T @ (share[:, None] * white), np.eye(6), atol=1e-9)


def test_only_leading_components_with_variance_are_kept():
    wide = RNG.normal(size=(N, 3)) @ RNG.normal(size=(3, 60))
    one = with_one(wide)
    assert whitening(one.T @ one).shape == (61, 3)
    full = with_one(RNG.normal(size=(N, 60)) * np.append(np.ones(59), 5))
    assert whitening(full.T @ full).shape == (61, N_COMPONENTS)
    largest = full @ whitening(full.T @ full, 1)
    assert abs(np.corrcoef(largest[:, 0], full[:, 60])[0, 1]) > 0.9


def test_the_first_direction_is_the_shared_signal_on_both_sides():
    for side in directions(OWN, OTHER, np.ones(N)):
        assert abs(np.corrcoef(side[:, 0], SIGNAL)[0, 1]) > 0.9
        assert side[:, 0].std() > 3 * side[:, 1].std()


def test_directions_are_those_of_canonical_correlation_analysis_scaled_by_correlation():
    cca = CCA(2, tol=1e-10, max_iter=5000).fit(OWN, OTHER)
    own, other = directions(OWN, OTHER, np.ones(N))
    assert own.shape == other.shape == (N, 6)
    for k, (a, b) in enumerate(zip(*(part.T for part in cca.transform(OWN, OTHER)), strict=True)):
        correlation = np.corrcoef(a, b)[0, 1]
        assert abs(np.corrcoef(own[:, k], a)[0, 1]) > 1 - 1e-4
        assert abs(np.corrcoef(other[:, k], b)[0, 1]) > 1 - 1e-4
        for side in (own, other):
            np.testing.assert_allclose(side[:, k].std(), correlation, atol=1e-4)
        np.testing.assert_allclose(
            np.corrcoef(own[:, k], other[:, k])[0, 1], correlation, atol=1e-4
        )


def test_all_correlations_are_the_cosines_between_the_two_column_spaces():
    own, other = directions(OWN, OTHER, np.ones(N))
    one, two = (np.linalg.qr(part - part.mean(0))[0] for part in (OWN, OTHER))
    cosines = np.linalg.svd(one.T @ two, compute_uv=False)
    np.testing.assert_allclose(own.std(axis=0), cosines, atol=1e-9)
    np.testing.assert_allclose(other.std(axis=0), cosines, atol=1e-9)


def test_views_without_anything_in_common_are_scaled_down():
    own, other = directions(OWN, RNG.normal(size=(N, 8)), np.ones(N))
    assert own.std(axis=0).max() < 0.2
    assert other.std(axis=0).max() < 0.2


def test_weights_count_rows():
    weight = RNG.integers(0, 3, N).astype(float)
    own, _ = directions(OWN, OTHER, weight)
    repeated = np.repeat(np.arange(N), weight.astype(int))
    again, _ = directions(OWN[repeated], OTHER[repeated], np.ones(len(repeated)))
    np.testing.assert_allclose(np.abs(own[repeated]), np.abs(again), atol=1e-7)
