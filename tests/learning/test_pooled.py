"""Sums of parts add up to those of the whole, and derivatives are derivatives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from fedtl.learning.pooled import (
    column_moments,
    logistic_derivatives,
    merge_moments,
    merge_products,
    product_moments,
    solve_positive,
)


@given(seed=st.integers(0, 999), n_parts=st.integers(1, 5), offset=st.sampled_from([0.0, 1e7]))
def test_moments_of_parts_merge_to_those_of_all_rows(seed, n_parts, offset):
    rng = np.random.default_rng(seed)
    X, weight = rng.normal(size=(30, 3)) + offset, rng.uniform(0.1, 5.0, 30)
    part, groups = rng.integers(0, n_parts, 30), rng.integers(0, 2, 30)
    part[:n_parts] = np.arange(n_parts)
    holes = np.where(rng.uniform(size=X.shape) < 0.3, np.nan, X)
    pieces = [part == p for p in range(n_parts)]
    merged = merge_moments([column_moments(holes[i], weight[i], groups[i], 2) for i in pieces])
    whole = column_moments(holes, weight, groups, 2)
    assert (merged.count == whole.count).all()
    for name in ("weight", "mean", "squares"):
        a, b = getattr(merged, name), getattr(whole, name)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-6 if offset else 1e-12)
    for group in (0, 1):
        for column in range(3):
            i = (groups == group) & ~np.isnan(holes[:, column])
            if i.any():
                x = holes[i, column]
                expected = np.average(
                    (x - np.average(x, weights=weight[i])) ** 2, weights=weight[i]
                )
                assert whole.variance[group, column] == pytest.approx(expected, rel=1e-7, abs=1e-7)
            else:
                assert np.isnan(whole.variance[group, column])
    merged = merge_products([product_moments(X[i], weight[i]) for i in pieces])
    covariance = np.cov(X.T, aweights=weight, ddof=0) * weight.sum()
    np.testing.assert_allclose(merged.products, covariance, atol=1e-5 if offset else 1e-10)
    assert merged.count == 30
    if not offset:
        np.testing.assert_allclose(merged.uncentered, (X.T * weight) @ X, atol=1e-9)


@pytest.mark.parametrize("n_outputs", [1, 2, 4])
def test_derivatives_are_those_of_the_loss(n_outputs):
    rng = np.random.default_rng(0)
    design, weight = rng.normal(size=(20, 3)), rng.uniform(0.5, 2.0, 20)
    codes = rng.integers(0, max(n_outputs, 2), 20)
    w = rng.normal(size=3 * n_outputs)

    def at(flat):
        return logistic_derivatives(design, codes, weight, flat.reshape(n_outputs, 3))

    found = at(w)
    scores = design @ w.reshape(n_outputs, 3).T
    if n_outputs == 1:
        scores = np.hstack([np.zeros((20, 1)), scores])
    odds = np.exp(scores)
    expected = -weight @ np.log(odds[np.arange(20), codes] / odds.sum(axis=1))
    assert found.loss == pytest.approx(expected)
    np.testing.assert_allclose(found.gradient, approx_fprime(w, lambda v: at(v).loss), atol=1e-4)
    numeric = [approx_fprime(w, lambda v, k=k: at(v).gradient[k]) for k in range(len(w))]
    np.testing.assert_allclose(found.hessian, numeric, atol=1e-4)


def test_a_loss_far_from_the_boundary_does_not_overflow():
    design = np.array([[1e5], [-1e5]])
    found = logistic_derivatives(design, np.array([0, 1]), np.ones(2), np.ones((1, 1)))
    assert found.loss == pytest.approx(2e5)
    assert np.isfinite(found.hessian).all()


@given(seed=st.integers(0, 99), rank=st.integers(1, 4))
def test_equations_are_solved_whatever_their_rank_and_scale(seed, rank):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(rank, 4))
    matrix = root.T @ root
    right = matrix @ rng.normal(size=(4, 2))
    solution = solve_positive(matrix, right)
    np.testing.assert_allclose(matrix @ solution, right, atol=1e-8)
    if rank < 4:
        unit = np.sqrt(np.diag(matrix))
        inverse = np.linalg.pinv(matrix / np.outer(unit, unit), rcond=1e-10, hermitian=True)
        shortest = inverse / np.outer(unit, unit) @ right
        np.testing.assert_allclose(solution, shortest, rtol=1e-5, atol=1e-5)
    scale = 10.0 ** np.arange(-8, 8, 4)
    if rank == 4:
        scaled = solve_positive(matrix * np.outer(scale, scale), (right.T * scale).T)
        np.testing.assert_allclose((scaled.T * scale).T, solution, rtol=1e-4, atol=1e-6)
