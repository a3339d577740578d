"""An encoding lets a linear model bend, and nothing in a column can break it."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn.decomposition import PCA

from fedtl.learning.columns import Columns
from fedtl.learning.encoding import Encoding, PiecewiseLinear

RNG = np.random.default_rng(0)


def numbers(*columns):
    table = np.column_stack(columns).astype(np.float64)
    return Columns(table, np.empty((len(table), 0), dtype=object))


def words(*columns):
    table = np.column_stack([np.array(column, dtype=object) for column in columns])
    return Columns(np.empty((len(table), 0)), table)


tables = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30),
    # Few values, so that ties and frequent values are common, and some of any size.
    elements=st.sampled_from([0.0, 0.0, 1.0, -2.5, np.nan]) | st.floats(-1e9, 1e9),
)


@pytest.mark.filterwarnings("ignore:overflow encountered in divide:RuntimeWarning")
@settings(max_examples=100, deadline=None)
@given(tables, st.integers(1, 12))
def test_piecewise_linear_values_lie_between_zero_and_one_and_nan_stays(table, n_bins):
    for x in table.T:
        encoder = PiecewiseLinear(n_bins).fit(x[:, None])
        encoded = encoder.transform(x[:, None])
        missing = np.isnan(x)
        assert np.isnan(encoded[missing]).all()
        assert ((encoded[~missing] >= 0) & (encoded[~missing] <= 1)).all()


@pytest.mark.filterwarnings("ignore:overflow encountered in divide:RuntimeWarning")
@settings(max_examples=100, deadline=None)
@given(tables, st.integers(1, 12))
def test_bins_rise_with_the_number_and_add_up_to_it(table, n_bins):
    for x in table.T:
        encoder = PiecewiseLinear(n_bins).fit(x[:, None])
        edges, frequent = encoder.columns_[0]
        new = np.sort(np.concatenate([x[~np.isnan(x)], np.linspace(-3, 3, 20), [1e9]]))
        encoded = encoder.transform(new[:, None])
        bins = encoded[:, : max(len(edges) - 1, 0)]
        assert encoded.shape[1] == bins.shape[1] + (not np.isnan(frequent))
        assert (np.diff(bins, axis=0) >= 0).all()
        if bins.shape[1]:
            rebuilt = edges[0] + bins @ np.diff(edges)
            tolerance = 1e-9 * np.ptp(edges) + 1e-9
            np.testing.assert_allclose(
                rebuilt, np.clip(new, edges[0], edges[-1]), atol=tolerance, rtol=1e-9
            )


def test_a_column_of_many_values_has_as_many_equally_full_bins_as_asked_for():
    x = RNG.lognormal(size=1000)
    encoder = PiecewiseLinear(8).fit(x[:, None])
    edges, frequent = encoder.columns_[0]
    assert np.isnan(frequent)
    assert len(edges) == 9
    counts = np.histogram(x, edges)[0]
    assert counts.min() >= 124
    assert counts.max() <= 126


def test_a_column_of_few_values_has_an_edge_at_each_of_them():
    x = np.tile([1.0, 2.0, 5.0, 9.0, 10.0, 11.0, 12.0, 13.0], 10)
    assert PiecewiseLinear(8).fit(x[:, None]).columns_[0][0].tolist() == [
        1,
        2,
        5,
        9,
        10,
        11,
        12,
        13,
    ]


def test_a_zero_inflated_column_keeps_its_bins_and_gets_an_indicator():
    x = np.concatenate([np.zeros(700), RNG.lognormal(size=300)])
    encoder = PiecewiseLinear(8).fit(x[:, None])
    edges, frequent = encoder.columns_[0]
    assert frequent == 0.0
    assert len(edges) == 10  # those of the amounts, and zero
    np.testing.assert_allclose(edges[1:], np.quantile(x[x > 0], np.linspace(0, 1, 9)))
    encoded = encoder.transform(np.array([[0.0], [1.0], [-1.0], [np.nan]]))
    assert encoded[:3, -1].tolist() == [1.0, 0.0, 0.0]
    assert np.isnan(encoded[3]).all()


@pytest.mark.parametrize("x", [np.zeros(9), np.tile([0.0, 1.0], 9), np.full(9, np.nan)])
def test_a_column_of_no_more_than_two_values_needs_no_bins(x):
    assert PiecewiseLinear(8).fit(x[:, None]).transform(x[:, None]).shape == (len(x), 0)


def test_an_encoded_column_has_mean_zero_and_variance_about_one():
    columns = numbers(RNG.uniform(size=500), RNG.normal(size=500), RNG.integers(0, 3, 500))
    encoded = Encoding(8, 256).fit(columns).transform(columns)
    # Clipping at five deviations is all that moves the mean, and damping the variance.
    np.testing.assert_allclose(encoded.mean(axis=0), 0.0, atol=0.02)
    assert (encoded.std(axis=0) > 0.8).all()
    assert (encoded.std(axis=0) <= 1.0).all()


def test_scaled_numbers_keep_their_order_and_lose_their_unit_their_skew_and_their_outliers():
    def scaled(x):
        return Encoding(0, 256).fit(numbers(x)).base(numbers(x))[:, 0]

    x = np.append(RNG.lognormal(sigma=2.0, size=2000), 1e9)
    np.testing.assert_allclose(scaled(3 * x + 7), scaled(x), atol=1e-6)
    assert (np.diff(scaled(x)[np.argsort(x)]) >= 0).all()
    assert abs(stats.skew(scaled(x))) < 0.2
    assert scaled(x).max() == 3.0
    assert scaled(-x).min() == -3.0


def test_a_missing_value_is_the_mean_and_is_marked():
    x = RNG.normal(size=(50, 2))
    x[::5, 0] = np.nan
    encoding = Encoding(4, 256).fit(numbers(x))
    encoded = encoding.transform(numbers(x))
    assert encoding.base(numbers(x)).shape[1] == 3
    assert not encoded[::5, 0].any()
    marker = encoded[:, 2]
    assert len(np.unique(marker)) == 2
    assert (marker[::5] > 0).all()
    assert not encoded[::5, 3:7].any()
    # A column without holes has no marker; a hole in it later is the mean.
    assert Encoding(4, 256).fit(numbers(x[:, 1])).transform(numbers([np.nan])).tolist() == [[0] * 5]


@pytest.mark.parametrize("value", [0.0, 7.0, 1e12])
def test_a_constant_column_says_nothing_even_where_it_changes_later(value):
    encoding = Encoding(8, 256).fit(numbers(np.full(30, value), np.arange(30)))
    encoded = encoding.transform(numbers([value, -1e6, 1e15, np.nan], [0, 1, 2, 3]))
    assert not encoded[:, 0].any()
    assert np.isfinite(encoded).all()


def test_a_nearly_empty_bin_is_not_blown_up():
    x = np.zeros(10_000)
    x[:2] = [1.0, 2.0]
    encoded = Encoding(8, 256).fit(numbers(x)).transform(numbers(x))
    assert np.abs(encoded).max() <= 5.0


def test_categories_are_one_hot_and_missing_and_unseen_ones_have_columns_of_their_own():
    encoding = Encoding(8, 256).fit(words(["a", "b", None, "a", "b"]))
    base = encoding.base(words(["a", "b", None, "new"]))
    np.testing.assert_array_equal(base, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    assert np.isfinite(encoding.transform(words(["new"]))).all()


def test_a_value_may_be_missing_that_never_was_in_the_fit():
    encoding = Encoding(8, 256).fit(words(["a", "b", "a", "b"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoding.base(words([None, "c"])).tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]


def test_rare_categories_share_a_column_with_unseen_ones():
    column = ["a"] * 500 + ["b"] * 495 + [f"rare{i}" for i in range(5)]
    encoding = Encoding(8, 256).fit(words(column))
    base = encoding.base(words(["a", "b", "rare3", "unseen"]))
    np.testing.assert_array_equal(base, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]])


def test_without_bins_or_without_scaling_numbers_stand_alone():
    x = RNG.lognormal(size=(60, 2))
    assert Encoding(0, 256).fit(numbers(x)).width == 2
    encoding = Encoding(8, 256, scaled=False).fit(numbers(x))
    np.testing.assert_array_equal(encoding.base(numbers(x)), x)
    expected = np.clip((x - x.mean(0)) / (x.std(0) + 1e-2), -5, 5)
    np.testing.assert_allclose(encoding.transform(numbers(x)), expected)


def test_a_wide_encoding_is_rotated_to_its_principal_components():
    x = RNG.normal(size=(400, 4)) @ RNG.normal(size=(4, 30)) + RNG.normal(size=(400, 30))
    wide = Encoding(8, 10**6).fit(numbers(x)).transform(numbers(x))
    encoding = Encoding(8, 256).fit(numbers(x))
    encoded = encoding.transform(numbers(x))
    assert wide.shape[1] > 256
    assert encoding.width == encoded.shape[1] == 256
    pca = PCA(256, svd_solver="full").fit(wide)
    expected = pca.transform(wide)
    # The leading components are compared up to sign, all of them by what they span.
    np.testing.assert_allclose(np.abs(encoded[:, :5]), np.abs(expected[:, :5]), atol=1e-8)
    np.testing.assert_allclose(encoded @ encoded.T, expected @ expected.T, atol=1e-6)


def test_an_encoding_at_the_bound_is_not_rotated():
    x = RNG.normal(size=(50, 3))
    assert Encoding(4, 15).fit(numbers(x)).rotation_ is None
    assert Encoding(4, 14).fit(numbers(x)).rotation_ is not None


def test_with_fewer_rows_than_the_bound_there_are_as_many_components_as_rows():
    x = RNG.normal(size=(10, 30))
    encoding = Encoding(0, 20).fit(numbers(x))
    assert encoding.width == 10
    assert np.isfinite(encoding.transform(numbers(x))).all()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_one_row_of_many_columns_is_encoded_without_nan():
    x = RNG.normal(size=(1, 30))
    assert np.isfinite(Encoding(0, 20).fit(numbers(x)).transform(numbers(x))).all()


@pytest.mark.filterwarnings("ignore:overflow encountered in divide:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Degrees of freedom:RuntimeWarning")
@settings(max_examples=50, deadline=None)
@given(tables, st.integers(0, 9))
def test_whatever_the_numbers_the_encoding_is_finite_and_bounded(table, n_bins):
    encoding = Encoding(n_bins, 10**6).fit(numbers(table))
    for rows in (table, table[:1], table[:0], np.full((2, table.shape[1]), 1e12)):
        encoded = encoding.transform(numbers(rows)) if len(rows) else np.empty((0, encoding.width))
        assert encoded.shape == (len(rows), encoding.width)
        assert np.isfinite(encoded).all()
        assert (np.abs(encoded) <= 5.0).all()


def test_a_column_that_is_missing_in_every_row_is_encoded_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Encoding(4, 256).fit(numbers(np.arange(9), np.full(9, np.nan)))


def test_the_seed_decides_what_is_drawn():
    x = RNG.normal(size=(25_000, 1))
    base = [
        Encoding(0, 9, random_state=seed).fit(numbers(x)).base(numbers(x)) for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(base[0], base[1])
    assert not np.array_equal(base[0], base[2])


def test_trees_are_given_numbers_in_proportion_without_those_far_out():
    # Randomised thresholds are drawn between the ends: zero-inflated columns must not be pulled
    # apart, and one large number must not press all others together.
    rng = np.random.RandomState(0)
    mostly_zero = np.where(rng.rand(400) < 0.7, 0.0, rng.uniform(1, 2, 400))
    outlier = np.append(rng.uniform(5, 6, 399), 1e12)
    encoding = Encoding(8, 256).fit(numbers(np.column_stack([mostly_zero, outlier])))
    plain = encoding.plain(numbers(np.column_stack([mostly_zero, outlier])))
    np.testing.assert_allclose(plain[:, 0], mostly_zero / np.percentile(mostly_zero, 99))
    assert np.ptp(plain[:-1, 1]) > 0.99
    assert plain[-1, 1] == 2.0


@pytest.mark.parametrize("column", [[-1.7e308, 1.7e308, 0.0, 1.0], [3.0] * 4, [np.nan] * 4])
def test_trees_are_given_finite_numbers_whatever_the_column(column):
    x = np.array(column)[:, None]
    plain = Encoding(8, 256).fit(numbers(x)).plain(numbers(x))
    assert np.isfinite(plain).all()
    assert np.abs(plain).max() <= 2.0
