"""Additive shares modulo 2**64, and products of two parties' private matrices with a dealer.

A product ``L @ R`` of one party's matrix and another's takes one Beaver triple [1]_, which is
one-sided here since each factor belongs to one party. The dealer draws masks ``U`` and ``V`` from a
seed for each side, and gives the right side the correction ``C = U @ V - W``, where the left side
derives ``W`` from its seed. The left side opens ``E = L - U`` and ``S = U @ F + W``, the right side
opens ``F = R - V``. Then ``E @ R + S + C = L @ R``. Only the right side learns it; ``E``, ``F`` and
``S`` are uniform to whoever does not hold the seeds.

Products of fixed-point numbers are opened at the scale of the product: nothing is truncated, so
that no share can be truncated wrongly.

References
----------
.. [1] D. Beaver. Efficient multiparty protocols using circuit randomization. CRYPTO 1991.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtl.privacy.keys import new_seed, uniform

_LIMB = 22
_HALF, _MASK = 1 << (_LIMB - 1), (1 << _LIMB) - 1
_MOST_TERMS = 1 << (53 - 2 * (_LIMB - 1))
"""Sums of so many products of two limbs stay exact in float64."""

Shape = tuple[int, int, int]
"""Rows of the left factor, terms of each sum, columns of the right factor."""


def matmul(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Multiply matrices exactly modulo 2**64.

    Each number is cut into three limbs of 22 bits about zero, so that six products in float64,
    each exact, make the product. NumPy's own integer product is ten times slower.

    Parameters
    ----------
    left : ndarray of shape (m, k), dtype uint64
        Left factor.
    right : ndarray of shape (k, n), dtype uint64
        Right factor.

    Returns
    -------
    ndarray of shape (m, n), dtype uint64
        The product.
    """
    product = np.zeros((left.shape[0], right.shape[1]), dtype=np.uint64)
    for start in range(0, left.shape[1], _MOST_TERMS):
        terms = slice(start, start + _MOST_TERMS)
        a, b = _limbs(left[:, terms]), _limbs(right[terms])
        for place in range(3):
            for i in range(place + 1):
                exact = (a[i] @ b[place - i]).astype(np.int64).view(np.uint64)
                product += exact << np.uint64(_LIMB * place)
    return product


def _limbs(values: np.ndarray) -> list[np.ndarray]:
    rest = np.ascontiguousarray(values).view(np.int64)
    limbs = []
    for _ in range(2):
        limb = ((rest + _HALF) & _MASK) - _HALF
        limbs.append(limb.astype(np.float64))
        rest = (rest - limb) >> _LIMB
    # What is left counts modulo 2**20 only.
    limbs.append((((rest + (1 << 19)) & ((1 << 20) - 1)) - (1 << 19)).astype(np.float64))
    return limbs


def split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split integers into two additive shares, each of them uniform by itself.

    Parameters
    ----------
    values : ndarray, dtype uint64
        What is to be shared.

    Returns
    -------
    tuple of (ndarray, ndarray)
        Shares that add up to `values` modulo 2**64.
    """
    one = uniform(new_seed(), "share", values.shape)
    return one, values - one


@dataclass(frozen=True, eq=False)
class Dealt:
    """What a dealer gives out for some products.

    Parameters
    ----------
    left_seed, right_seed : bytes of length 32
        For the owner of the left and of the right factors.
    corrections : list of ndarray of shape (m, n), dtype uint64
        For the owner of the right factors, one for each product.
    """

    left_seed: bytes
    right_seed: bytes
    corrections: list[np.ndarray]


def deal(shapes: Sequence[Shape], context: str) -> Dealt:
    """Deal the triples of some products; the dealer's part.

    Parameters
    ----------
    shapes : sequence of (m, k, n)
        Shape of each product.
    context : str
        What they are for. A seed that came twice would give other masks in another context.

    Returns
    -------
    Dealt
        Two seeds and the corrections. Nothing in it may be used twice.
    """
    left_seed, right_seed = new_seed(), new_seed()
    corrections = []
    for i, (m, k, n) in enumerate(shapes):
        place = f"{context} {i}"
        product = matmul(_mask(left_seed, place, (m, k)), _mask(right_seed, place, (k, n)))
        corrections.append(product - _own_share(left_seed, place, (m, n)))
    return Dealt(left_seed, right_seed, corrections)


def mask(seed: bytes, place: str, factor: np.ndarray) -> np.ndarray:
    """Mask a factor of a product; the owner's part, for either side.

    Parameters
    ----------
    seed : bytes of length 32
        The owner's.
    place : str
        Context and number of the product, as "context 0".
    factor : ndarray of shape (rows, columns), dtype uint64
        The private factor.

    Returns
    -------
    ndarray of the same shape, dtype uint64
        What may be opened to the other side.
    """
    return factor - _mask(seed, place, factor.shape)


def left_share(seed: bytes, place: str, n_rows: int, right_masked: np.ndarray) -> np.ndarray:
    """Return the left side's share of a product.

    Parameters
    ----------
    seed : bytes of length 32
        The left side's.
    place : str
        Context and number of the product, as "context 0".
    n_rows : int
        Rows of the left factor.
    right_masked : ndarray of shape (k, n), dtype uint64
        What the right side opened.

    Returns
    -------
    ndarray of shape (n_rows, n), dtype uint64
        The share, which is uniform to the right side but for the product itself.
    """
    k, n = right_masked.shape
    mask = _mask(seed, place, (n_rows, k))
    return matmul(mask, right_masked) + _own_share(seed, place, (n_rows, n))


def right_product(
    right: np.ndarray, left_masked: np.ndarray, left_share: np.ndarray, correction: np.ndarray
) -> np.ndarray:
    """Return the product; the right side's part.

    Parameters
    ----------
    right : ndarray of shape (k, n), dtype uint64
        Its private factor.
    left_masked : ndarray of shape (m, k), dtype uint64
        What the left side opened.
    left_share : ndarray of shape (m, n), dtype uint64
        The left side's share.
    correction : ndarray of shape (m, n), dtype uint64
        From the dealer.

    Returns
    -------
    ndarray of shape (m, n), dtype uint64
        The product modulo 2**64.
    """
    return np.asarray(matmul(left_masked, right) + left_share + correction)


def with_check(factor: np.ndarray, seed: bytes) -> np.ndarray:
    """Append a secret random combination of a right factor's columns, by which errors show.

    Parameters
    ----------
    factor : ndarray of shape (k, n), dtype uint64
        Right factor.
    seed : bytes of length 32
        Secret of the right side, used once.

    Returns
    -------
    ndarray of shape (k, n + 1), dtype uint64
        With the combination as its last column.
    """
    weights = uniform(seed, "check", (factor.shape[1], 1))
    return np.hstack([factor, matmul(factor, weights)])


def adds_up(product: np.ndarray, seed: bytes) -> bool:
    """Return whether a product's last column is the combination of its other columns.

    Parameters
    ----------
    product : ndarray of shape (m, n + 1), dtype uint64
        Product with a factor from :func:`with_check`.
    seed : bytes of length 32
        The same secret.

    Returns
    -------
    bool
        False if anything was added to the product on its way, but for odds of one in two for
        errors that are multiples of 2**63 and far less for any other.
    """
    weights = uniform(seed, "check", (product.shape[1] - 1, 1))
    return bool((matmul(product[:, :-1], weights) == product[:, -1:]).all())


def _mask(seed: bytes, place: str, shape: tuple[int, ...]) -> np.ndarray:
    return uniform(seed, f"mask {place}", shape)


def _own_share(seed: bytes, place: str, shape: tuple[int, ...]) -> np.ndarray:
    return uniform(seed, f"share {place}", shape)
