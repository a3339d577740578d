"""An encoded number is near, and a number or a sum that does not fit is refused."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtl.privacy import FixedPointError
from fedtl.privacy.fixed_point import FixedPoint, limbs, magnitude_bits, plan_product, read_limbs


@given(
    st.integers(0, 30),
    st.integers(0, 20),
    st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=20),
)
def test_a_number_comes_back_to_half_of_the_last_bit(fraction, magnitude, values):
    fixed = FixedPoint(fraction, magnitude)
    values = np.array(values) * 2.0**magnitude
    assert np.abs(fixed.decode(fixed.encode(values)) - values).max() <= 2.0 ** -(fraction + 1)


@pytest.mark.parametrize("value", [8.001, -9.0, np.inf, np.nan])
def test_a_number_beyond_its_bound_is_refused_with_both(value):
    with pytest.raises(FixedPointError, match=r"a target is .* at most 8 can be encoded"):
        FixedPoint(10, 3).encode(np.array([1.0, value]), "a target")


def test_the_bound_itself_is_encoded():
    assert FixedPoint(10, 3).encode(np.array([8.0, -8.0])).tolist() == [8192, -8192]


@pytest.mark.parametrize("bits", [(-1, 3), (60, 3), (3, -1)])
def test_a_scale_that_does_not_fit_is_refused(bits):
    with pytest.raises(FixedPointError, match="62 bits"):
        FixedPoint(*bits)


def test_magnitude_bits_are_the_least_that_hold_the_numbers():
    assert magnitude_bits(np.array([0.1, -0.9])) == 0
    assert magnitude_bits(np.array([4.0])) == 2
    assert magnitude_bits(np.array([-4.1, 2.0])) == 3
    assert magnitude_bits(np.zeros((0, 2))) == 0


@given(st.integers(1, 2**20), st.integers(0, 8), st.integers(0, 8))
def test_the_largest_possible_sum_fits_into_63_bits(n_terms, left_bits, right_bits):
    left, right = plan_product(n_terms, left_bits, right_bits)
    largest = [int(f.encode(np.array([2.0**f.magnitude_bits]))[0]) for f in (left, right)]
    assert n_terms * largest[0] * largest[1] < 2**63


def test_a_sum_that_leaves_too_few_bits_is_refused_with_the_way_out():
    with pytest.raises(FixedPointError, match="scale the numbers down or use fewer rows"):
        plan_product(2**20, 10, 10)


@given(st.lists(st.floats(-(2.0**50), 2.0**50, allow_nan=False), min_size=1, max_size=8))
def test_sums_of_limbs_are_exact_sums(numbers):
    # What secure statistics rest on: added limb by limb, modulo 2**64, nothing is lost.
    added = np.sum([limbs(np.array([number])) for number in numbers], axis=0, dtype=np.uint64)
    exact = sum((Fraction(number) for number in numbers), Fraction(0))
    error = abs(Fraction(float(read_limbs(added)[0])) - exact)
    assert error <= len(numbers) * Fraction(1, 2**60) + abs(exact) * Fraction(1, 2**51)


@pytest.mark.parametrize("number", [np.nan, np.inf, 2.0**61])
def test_a_number_without_limbs_is_refused(number):
    with pytest.raises(FixedPointError, match="nothing was sent"):
        limbs(np.array([1.0, number]))
