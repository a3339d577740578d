"""Weighted sums of encrypted numbers, exploiting that most weights are zero or one.

What a party's encoding puts into sums is mostly zero and one, as piecewise-linear codes and
one-hot categories are; the rest lies between. Ones are counted as a histogram: where each column's
ones are among those of the column before it, only the differences are multiplied up, then summed
from the last column back. Fractions go through Pippenger's buckets, a rotation of all columns
through tables of their powers (Straus).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fedtl.privacy._work import joined, products_from_table, sums_of_columns
from fedtl.privacy._workers import in_processes, n_workers
from fedtl.privacy.paillier import PublicKey, need_gmpy2

_TABLES = 256
"""A process holds tables of so many ciphertexts at a time: some 15 MiB at 3,072 bits."""


def column_sums(
    public: PublicKey, ciphertexts: Sequence[Any], weights: np.ndarray, bits: int
) -> list[Any]:
    """Return an encrypted weighted sum for each column of weights.

    Parameters
    ----------
    public : PublicKey
        Key of the ciphertexts.
    ciphertexts : sequence of mpz
        Encrypted numbers, one for each row.
    weights : ndarray of shape (n_rows, n_columns), dtype int64
        From 0 to ``2**bits``, where ``2**bits`` stands for one.
    bits : int
        Bits of a fraction.

    Returns
    -------
    list of mpz
        Ciphertexts of ``sum(weights[:, j] * number)``.
    """
    ones, fractions = weights == 1 << bits, np.where(weights == 1 << bits, 0, weights)
    work = int(ones.sum()) + 2 * int((fractions > 0).sum())
    pieces = _pieces(ones.shape[1], n_workers(work))
    args = (int(public.n), ciphertexts, bits)
    return in_processes(sums_of_columns, [(*args, ones[:, p], fractions[:, p]) for p in pieces])


def combine(
    public: PublicKey, ciphertexts: Sequence[Any], matrix: np.ndarray, bits: int
) -> list[Any]:
    """Multiply encrypted numbers by a known matrix.

    Parameters
    ----------
    public : PublicKey
        Key of the ciphertexts.
    ciphertexts : sequence of mpz of length n_in
        Encrypted numbers.
    matrix : ndarray of shape (n_in, n_out), dtype int64
        Signed integers.
    bits : int
        Bits of their absolute values.

    Returns
    -------
    list of mpz of length n_out
        Ciphertexts of ``number @ matrix``.
    """
    n_powers = int((matrix != 0).sum())
    # A table of 64 powers each, and a product for every six bits, or squarings and products.
    by_table = len(ciphertexts) * 64 + n_powers * -(-bits // 6)
    if n_powers * bits * 5 // 4 <= by_table:
        return [_few_powers(public, ciphertexts, column) for column in matrix.T]
    at_once = n_workers(by_table)
    total = [need_gmpy2().mpz(1)] * matrix.shape[1]
    for start in range(0, len(ciphertexts), _TABLES * at_once):
        # Each process makes tables of other ciphertexts, so that none is made twice.
        few = slice(start, start + _TABLES * at_once)
        pieces = _pieces(len(ciphertexts[few]), at_once)
        parts = [(ciphertexts[few][p], bits, matrix[few][p]) for p in pieces]
        found = in_processes(products_from_table, [(int(public.n), *part) for part in parts])
        for i, product in enumerate(found):
            j = i % matrix.shape[1]
            total[j] = total[j] * product % public.square
    return total


def join(public: PublicKey, ciphertexts: Sequence[Any], bits: int, at_once: int) -> list[Any]:
    """Put the numbers of several ciphertexts side by side in one, without a key.

    Parameters
    ----------
    public : PublicKey
        Key of the ciphertexts.
    ciphertexts : sequence of mpz
        Encrypted numbers.
    bits : int
        How far apart they are put.
    at_once : int
        How many are put into one ciphertext.

    Returns
    -------
    list of mpz
        Ciphertexts of ``sum(number << (i * bits))`` over `at_once` numbers each, fewer in the last.
    """
    groups = [ciphertexts[i : i + at_once] for i in range(0, len(ciphertexts), at_once)]
    pieces = _pieces(len(groups), n_workers(len(ciphertexts) * bits))
    return in_processes(joined, [(int(public.n), groups[p], bits) for p in pieces])


def _pieces(n: int, n_pieces: int) -> list[slice]:
    edges = np.linspace(0, n, n_pieces + 1).astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]


def _few_powers(public: PublicKey, ciphertexts: Sequence[Any], exponents: np.ndarray) -> Any:
    gmpy2 = need_gmpy2()
    total = gmpy2.mpz(1)
    for i in np.flatnonzero(exponents).tolist():
        power = gmpy2.powmod(ciphertexts[i], int(exponents[i]), public.square)
        total = total * power % public.square
    return total
