"""What is solved from sums of products is what ridge regression on the rows would be."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from fedtl.learning.ridge import (
    PENALTIES,
    Family,
    Moments,
    evidence_weights,
    moments_of,
    solve,
    target_squares,
)

N, WIDTH, OUTPUTS, FOLDS = 90, 5, 2, 4
RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 1.0, size=(N, WIDTH)) @ RNG.normal(size=(WIDTH, WIDTH))
ANCHOR = RNG.normal(size=(N, OUTPUTS))
Y = X[:, :OUTPUTS] + 0.5 * ANCHOR + RNG.normal(1.0, 1.0, size=(N, OUTPUTS))
TARGETS = np.hstack([Y, ANCHOR])
FOLD = RNG.integers(0, FOLDS, N)
WEIGHT = RNG.uniform(0.1, 3.0, N)
MOMENTS = moments_of(X, TARGETS, FOLD, WEIGHT, FOLDS)


def centred(values):
    return values - np.average(values, axis=0, weights=WEIGHT)


def assert_same_moments(one, other):
    for name in ("gram", "cross", "square"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), atol=1e-8, err_msg=name
        )


def test_moments_are_weighted_sums_of_products_over_each_fold():
    ones = np.hstack([np.ones((N, 1)), X])
    for fold in range(FOLDS):
        inside = np.diag(WEIGHT * (fold == FOLD))
        np.testing.assert_allclose(MOMENTS.gram[fold], ones.T @ inside @ ones)
        np.testing.assert_allclose(MOMENTS.cross[fold], ones.T @ inside @ TARGETS)
        np.testing.assert_allclose(MOMENTS.square[fold], TARGETS.T @ inside @ TARGETS)
    np.testing.assert_allclose(MOMENTS.total_weight, WEIGHT.sum())
    np.testing.assert_allclose(target_squares(TARGETS, FOLD, WEIGHT, FOLDS), MOMENTS.square)


def test_means_are_those_of_all_rows_and_zero_for_the_constant():
    columns, targets = MOMENTS.means()
    np.testing.assert_allclose(columns, [0.0, *np.average(X, axis=0, weights=WEIGHT)])
    np.testing.assert_allclose(targets, np.average(TARGETS, axis=0, weights=WEIGHT))


def test_centering_moments_is_centering_rows():
    assert_same_moments(
        MOMENTS.centered(), moments_of(centred(X), centred(TARGETS), FOLD, WEIGHT, FOLDS)
    )


def test_centering_twice_is_centering_once():
    assert_same_moments(MOMENTS.centered().centered(), MOMENTS.centered())


def test_combinations_of_columns_are_as_if_they_had_been_appended_to_the_rows():
    mixing = RNG.normal(size=(WIDTH, 3))
    appended = moments_of(np.hstack([X, X @ mixing]), TARGETS, FOLD, WEIGHT, FOLDS)
    assert_same_moments(MOMENTS.with_combinations(mixing), appended)
    assert_same_moments(MOMENTS.centered().with_combinations(mixing), appended.centered())


ANCHORED = np.vstack([np.zeros((OUTPUTS, OUTPUTS)), np.diag([1.0, 0.7])])
FAMILIES = [
    Family(np.arange(1, WIDTH + 1), np.zeros((2 * OUTPUTS, OUTPUTS))),
    Family(np.array([4, 2]), ANCHORED),
]


def ridge_path(family, train, test):
    """Return explicit ridge solutions and their held-out errors for every penalty."""
    columns = centred(X)[:, family.columns - 1]
    residual = centred(Y) - centred(TARGETS) @ family.offset
    solved, errors = [], []
    for penalty in PENALTIES:
        ridge = Ridge(penalty, fit_intercept=False, solver="cholesky")
        ridge.fit(columns[train], residual[train], sample_weight=WEIGHT[train])
        solved.append(ridge.coef_.T)
        error = ((residual - ridge.predict(columns)) ** 2).sum(axis=1)
        errors.append(WEIGHT[test] @ error[test])
    return np.array(solved), np.array(errors)


def explicit(families):
    """Average explicit ridge regressions over families and penalties, fold by fold."""
    everything, nothing = np.full(N, True), np.full(N, False)
    errors = (
        np.array(
            [
                np.sum(
                    [ridge_path(f, fold != FOLD, fold == FOLD)[1] for fold in range(FOLDS)], axis=0
                )
                for f in families
            ]
        )
        / WEIGHT.sum()
    )
    weights = np.exp(-WEIGHT.sum() * (errors - errors.min()) / (2.0 * errors.min()))
    weights /= weights.sum()

    def average(train):
        total = np.zeros((1 + WIDTH, OUTPUTS))
        for family, w in zip(families, weights, strict=True):
            total[family.columns] += np.tensordot(w, ridge_path(family, train, nothing)[0], 1)
        return total

    return errors, weights, average(everything), [average(fold != FOLD) for fold in range(FOLDS)]


@pytest.mark.parametrize("families", [FAMILIES[:1], FAMILIES[1:], FAMILIES], ids=str)
def test_the_average_is_that_of_explicit_ridge_regressions_on_the_rows(families):
    solved = solve(MOMENTS.centered(), families, OUTPUTS)
    errors, weights, full, held_out = explicit(families)
    np.testing.assert_allclose(solved.weights, weights, atol=1e-8)
    np.testing.assert_allclose(solved.error, errors.min(), rtol=1e-9)
    np.testing.assert_allclose(solved.coefficients, full, atol=1e-8)
    np.testing.assert_allclose(solved.held_out, held_out, atol=1e-8)
    offset = sum(w.sum() * f.offset for w, f in zip(weights, families, strict=True))
    np.testing.assert_allclose(solved.offset, offset, atol=1e-8)


def test_a_family_that_was_solved_elsewhere_joins_the_average():
    from fedtl.learning.ridge import Path

    other = FAMILIES[1]
    nothing = np.full(N, False)
    folds = [ridge_path(other, fold != FOLD, fold == FOLD) for fold in range(FOLDS)]
    path = Path(
        other,
        ridge_path(other, ~nothing, nothing)[0],
        np.array([solved for solved, _ in folds]),
        np.sum([errors for _, errors in folds], axis=0),
    )
    one = solve(MOMENTS.centered(), FAMILIES[:1], OUTPUTS, more=[path])
    both = solve(MOMENTS.centered(), FAMILIES, OUTPUTS)
    for name in ("coefficients", "held_out", "offset", "weights", "error"):
        np.testing.assert_allclose(getattr(one, name), getattr(both, name), atol=1e-8)


@pytest.mark.parametrize("penalty", range(len(PENALTIES)), ids=lambda i: f"{PENALTIES[i]:g}")
def test_the_held_out_error_at_each_penalty_is_that_of_explicit_folds(penalty, monkeypatch):
    monkeypatch.setattr("fedtl.learning.ridge.PENALTIES", PENALTIES[penalty : penalty + 1])
    for family in FAMILIES:
        expected = sum(
            ridge_path(family, fold != FOLD, fold == FOLD)[1][penalty] for fold in range(FOLDS)
        )
        solved = solve(MOMENTS.centered(), [family], OUTPUTS)
        np.testing.assert_allclose(solved.error, expected / WEIGHT.sum(), rtol=1e-9)


def test_coefficients_of_a_fold_do_not_depend_on_its_targets(monkeypatch):
    # One penalty, so that the average has no weights for the fold's error to change.
    monkeypatch.setattr("fedtl.learning.ridge.PENALTIES", PENALTIES[3:4])
    changed = TARGETS.copy()
    changed[FOLD == 1] = RNG.normal(size=changed[FOLD == 1].shape)
    one, other = (
        solve(moments_of(X, targets, FOLD, WEIGHT, FOLDS), FAMILIES[:1], OUTPUTS)
        for targets in (TARGETS, changed)
    )
    np.testing.assert_allclose(one.held_out[1], other.held_out[1], rtol=1e-9)
    assert not np.allclose(one.held_out[0], other.held_out[0])
    assert not np.allclose(one.error, other.error)


def test_a_constant_makes_coefficients_for_columns_that_are_not_centred():
    solved = solve(MOMENTS.centered(), FAMILIES, OUTPUTS)
    column_mean, target_mean = MOMENTS.means()
    constant = target_mean @ solved.offset + target_mean[:OUTPUTS]
    coefficients, held_out = solved.with_constant(column_mean, constant)
    ones = np.hstack([np.ones((N, 1)), X])
    np.testing.assert_allclose(
        ones @ coefficients, constant + centred(X) @ solved.coefficients[1:], atol=1e-9
    )
    for fold in range(FOLDS):
        np.testing.assert_allclose(
            ones @ held_out[fold], constant + centred(X) @ solved.held_out[fold][1:], atol=1e-9
        )
    assert not solved.coefficients[0].any()  # what was given is left as it was


def test_the_last_penalty_leaves_the_offset_alone(monkeypatch):
    monkeypatch.setattr("fedtl.learning.ridge.PENALTIES", PENALTIES[-1:])
    solved = solve(MOMENTS.centered(), FAMILIES[1:], OUTPUTS)
    np.testing.assert_allclose(solved.coefficients, 0.0, atol=1e-5)
    residual = centred(Y) - centred(TARGETS) @ ANCHORED
    expected = WEIGHT @ (residual**2).sum(axis=1) / WEIGHT.sum()
    np.testing.assert_allclose(solved.error, expected, rtol=1e-5)


def test_evidence_weights_are_those_of_a_gaussian_likelihood():
    weights = evidence_weights(np.array([[1.0, 1.1], [2.0, 1.0]]), 20.0)
    np.testing.assert_allclose(weights.sum(), 1.0)
    np.testing.assert_allclose(weights[0, 1] / weights[0, 0], np.exp(-1.0))
    np.testing.assert_allclose(weights[1, 0] / weights[0, 0], np.exp(-10.0))
    assert weights[0, 0] == weights[1, 1]


def test_columns_without_variance_and_a_perfect_fit_do_no_harm():
    x = np.hstack([X, np.zeros((N, 1)), X[:, :1]])
    moments = moments_of(x, X[:, :1], FOLD, np.ones(N), FOLDS).centered()
    solved = solve(moments, [Family(np.arange(1, 8), np.zeros((1, 1)))], 1)
    assert np.isfinite(solved.coefficients).all()
    assert abs(solved.coefficients[6, 0]) < 1e-12
    assert 0.0 <= solved.error < 1e-3
    np.testing.assert_allclose(solved.weights.sum(), 1.0)


def test_no_weight_at_all_gives_finite_coefficients():
    nothing = Moments(
        *(np.zeros_like(part) for part in (MOMENTS.gram, MOMENTS.cross, MOMENTS.square))
    )
    solved = solve(nothing.centered(), FAMILIES[:1], OUTPUTS)
    assert not solved.coefficients.any()
    np.testing.assert_allclose(solved.weights.sum(), 1.0)
