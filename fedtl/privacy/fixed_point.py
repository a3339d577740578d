"""Real numbers as bounded integers, so that sums modulo 2**64 are sums.

A number is checked against its declared bound before it is encoded, and the bits of a product are
planned from the bounds and the number of terms. So a sum either fits or is refused; it never wraps
around unnoticed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_LIMBS = (2.0**20, 2.0**-20, 2.0**-60)
_FEWEST = 12
_MOST = 28


class FixedPointError(ValueError):
    """A number beyond its declared bound, or a sum that does not fit at a useful precision."""


@dataclass(frozen=True)
class FixedPoint:
    """A scale and a bound.

    Parameters
    ----------
    fraction_bits : int
        Numbers are rounded to multiples of ``2**-fraction_bits``.
    magnitude_bits : int
        Numbers are at most ``2**magnitude_bits`` in absolute value.

    Examples
    --------
    >>> import numpy as np
    >>> from fedtl.privacy.fixed_point import FixedPoint
    >>> fixed = FixedPoint(fraction_bits=8, magnitude_bits=3)
    >>> fixed.encode(np.array([1.5, -0.25]))
    array([384, -64])
    >>> fixed.decode(fixed.encode(np.array([1.5, -0.25])))
    array([ 1.5 , -0.25])
    """

    fraction_bits: int
    magnitude_bits: int

    def __post_init__(self) -> None:
        if self.fraction_bits < 0 or not 0 <= self.magnitude_bits <= 62 - self.fraction_bits:
            raise FixedPointError(
                f"{self.fraction_bits} fraction bits and {self.magnitude_bits} magnitude bits do "
                "not fit into 62 bits"
            )

    def encode(self, values: np.ndarray, what: str = "a number") -> np.ndarray:
        """Round to integers, after a check of the bound.

        Parameters
        ----------
        values : ndarray, dtype float64
            Numbers.
        what : str, default="a number"
            What they are, for the error.

        Returns
        -------
        ndarray of the same shape, dtype int64
            The nearest multiples of ``2**-fraction_bits``, as integers.

        Raises
        ------
        FixedPointError
            If a number is not finite or beyond the bound.
        """
        bound = 2.0**self.magnitude_bits
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= bound:  # NaN included
            raise FixedPointError(
                f"{what} is {largest:.6g} in absolute value, at most {bound:g} can be encoded; "
                "nothing was sent"
            )
        return np.rint(values * 2.0**self.fraction_bits).astype(np.int64)

    def decode(self, integers: np.ndarray, more_bits: int = 0) -> np.ndarray:
        """Return the real numbers that integers stand for.

        Parameters
        ----------
        integers : ndarray, dtype int64
            Encoded numbers or sums of products of them.
        more_bits : int, default=0
            Fraction bits of the other factor, if they are products.

        Returns
        -------
        ndarray of the same shape, dtype float64
            The numbers.
        """
        return np.asarray(integers.astype(np.float64) * 2.0 ** -(self.fraction_bits + more_bits))


def magnitude_bits(values: np.ndarray) -> int:
    """Return the least `m` with ``abs(values) <= 2**m``, at least zero.

    Parameters
    ----------
    values : ndarray, dtype float64
        Finite numbers.

    Returns
    -------
    int
        Bits.
    """
    largest = float(np.abs(values).max(initial=0.0))
    return max(0, math.ceil(math.log2(largest))) if largest > 0 else 0


def plan_product(n_terms: int, left_bits: int, right_bits: int) -> tuple[FixedPoint, FixedPoint]:
    """Choose the scales of two factors whose products are summed as signed 64-bit integers.

    Parameters
    ----------
    n_terms : int
        Number of products in a sum.
    left_bits, right_bits : int
        Magnitude bits of the factors.

    Returns
    -------
    tuple of FixedPoint
        For the left and the right factor, as fine as fits.

    Raises
    ------
    FixedPointError
        If fewer than 12 fraction bits are left for either.
    """
    free = 62 - max(n_terms - 1, 0).bit_length() - left_bits - right_bits
    if free < 2 * _FEWEST:
        raise FixedPointError(
            f"sums of {n_terms} products of numbers up to 2**{left_bits} and 2**{right_bits} leave "
            f"{max(free, 0)} bits for the fractions of both, at least {2 * _FEWEST} are needed; "
            "scale the numbers down or use fewer rows"
        )
    left = min(free // 2, _MOST)
    return FixedPoint(left, left_bits), FixedPoint(min(free - left, _MOST), right_bits)


def limbs(values: np.ndarray) -> np.ndarray:
    """Write numbers as integers of 120 bits in three limbs that add up without carries.

    A number is the sum of its limbs times 2**20, 2**-20 and 2**-60. Sums of up to 2**22 such
    integers stay below 2**63 in each limb, so that they can be added, and masked, limb by limb.

    Parameters
    ----------
    values : ndarray of shape (n,), dtype float64
        Numbers up to 2**60 in absolute value.

    Returns
    -------
    ndarray of shape (3 * n,), dtype uint64
        The highest limbs of all numbers first; off by at most 2**-61.

    Raises
    ------
    FixedPointError
        If a number is not finite or beyond the bound.

    Examples
    --------
    >>> import numpy as np
    >>> from fedtl.privacy.fixed_point import limbs, read_limbs
    >>> read_limbs(limbs(np.array([1e12, -0.25])) + limbs(np.array([0.5, 0.75]))).tolist()
    [1000000000000.5, 0.5]
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= 2.0**60:  # NaN included
        raise FixedPointError(
            f"a sum is {largest:.6g} in absolute value, at most {2.0**60:g} can be encoded; "
            "nothing was sent. Scale the columns"
        )
    found = []
    for scale in _LIMBS:
        limb = np.rint(values / scale)
        values = values - limb * scale
        found.append(limb.astype(np.int64))
    return np.concatenate(found).view(np.uint64)


def read_limbs(summed: np.ndarray) -> np.ndarray:
    """Return the numbers that sums of limbs stand for: (n,), float64; see :func:`limbs`."""
    high, middle, low = np.split(summed.view(np.int64), 3)
    # Smallest first, so that no digit is lost before the last addition.
    total = low * _LIMBS[2] + middle * _LIMBS[1]
    return np.asarray(total + high * _LIMBS[0])
