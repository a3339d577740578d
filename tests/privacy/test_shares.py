"""Products of shares are those of Python's integers, and what is opened is uniform."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare

from fedtl.privacy.keys import new_seed, uniform
from fedtl.privacy.shares import (
    adds_up,
    deal,
    left_share,
    mask,
    matmul,
    right_product,
    split,
    with_check,
)


def numbers(*shape):
    return uniform(new_seed(), "test", shape)


def big(a, b):
    """The product in Python's own integers."""
    return [[sum(int(x) * int(y) for x, y in zip(row, column, strict=True)) % 2**64
             for column in b.T] for row in a]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 6), st.integers(1, 4))
def test_a_product_through_limbs_is_that_of_big_integers(data, m, k, n):
    a = data.draw(arrays(np.uint64, (m, k)))
    b = data.draw(arrays(np.uint64, (k, n)))
    assert matmul(a, b).tolist() == big(a, b)


LARGEST_LIMBS = (1 << 21) | (1 << 43) | (1 << 63)


@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 2**63 - 1, LARGEST_LIMBS, (1 << 21) - 1])
@pytest.mark.parametrize("terms", [2048, 4099])
def test_long_sums_of_the_largest_limbs_stay_exact(value, terms):
    a = np.full((2, terms), value, dtype=np.uint64)
    a[1] = numbers(terms)
    assert matmul(a, a.T).tolist() == big(a, a.T)


def test_a_product_over_no_terms_is_zero():
    assert not matmul(numbers(2, 0), numbers(0, 3)).any()


def test_two_shares_add_up_and_neither_is_the_value():
    values = numbers(100)
    one, two = split(values)
    np.testing.assert_array_equal(one + two, values)
    assert not (one == values).any()
    assert not (split(values)[0] == one).any()


def multiply(left, right, dealt, i=0):
    """Both sides of product number `i`: everything opened, and the product."""
    place = f"test {i}"
    masked = mask(dealt.right_seed, place, right)
    share = left_share(dealt.left_seed, place, len(left), masked)
    left_masked = mask(dealt.left_seed, place, left)
    product = right_product(right, left_masked, share, dealt.corrections[i])
    return (left_masked, masked, share), product


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3))
def test_a_dealt_product_is_the_product(data, m, k, n):
    left = data.draw(arrays(np.uint64, (m, k)))
    right = data.draw(arrays(np.uint64, (k, n)))
    dealt = deal([(2, 2, 2), (m, k, n)], "test")
    assert multiply(left, right, dealt, 1)[1].tolist() == big(left, right)


def test_known_seeds_give_known_masks():
    masked = mask(bytes(32), "0", np.zeros((1, 2), dtype=np.uint64))
    assert masked.tolist() == [[-int(x) % 2**64 for x in uniform(bytes(32), "mask 0", (2,))]]
    assert masked.tolist() == [[15174484813996038821, 17844226161831801769]]


def test_no_two_deals_have_a_seed_in_common():
    deals = [deal([(1, 1, 1)], "test") for _ in range(20)]
    assert len({seed for d in deals for seed in (d.left_seed, d.right_seed)}) == 40


def bytes_opened(value):
    shape = (40, 200, 3)
    left = np.full(shape[:2], value, dtype=np.uint64)
    right = np.full(shape[1:], value, dtype=np.uint64)
    opened, _ = multiply(left, right, deal([shape], "test"))
    return [part.view(np.uint8).ravel() for part in opened]


@pytest.mark.parametrize("value", [0, 1, 2**63])
def test_bytes_of_what_is_opened_are_uniform_whatever_the_inputs(value):
    for part in bytes_opened(value):
        # The odds of failing by chance are one in 10**6 for each of 9 samples.
        assert chisquare(np.bincount(part, minlength=256)).pvalue > 1e-6


def test_a_factor_that_is_not_masked_would_not_pass_for_uniform():
    part = np.full(4000, 7, dtype=np.uint64).view(np.uint8)
    assert chisquare(np.bincount(part, minlength=256)).pvalue < 1e-100


def test_the_check_column_holds_for_a_product_and_fails_for_any_added_error():
    left, right, seed = numbers(5, 7), numbers(7, 2), new_seed()
    product = multiply(left, with_check(right, seed), deal([(5, 7, 3)], "test"))[1]
    assert adds_up(product, seed)
    assert product[:, :2].tolist() == big(left, right)
    for place in [(0, 0), (4, 1), (2, 2)]:
        for error in (1, 2**20):
            wrong = product.copy()
            wrong[place] += np.uint64(error)
            assert not adds_up(wrong, seed)
