"""What other processes of this machine do for Paillier encryption.

Nothing here imports fedtl: the functions are sent by value, so that a process is ready as soon as
it has gmpy2, and not only when it has all of fedtl and torch.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

_NOISE_WINDOW = 8
_FEW_NOISES = 28
"""For fewer, a table of powers takes longer than it saves."""
_TABLE_WINDOW = 6


def noises(moduli: Sequence[int], bases: Sequence[int], n_bytes: int, count: int) -> list[Any]:
    """Return powers of a base with secret exponents, for each of some moduli.

    Parameters
    ----------
    moduli, bases : sequence of int
        The same base modulo each.
    n_bytes : int
        Bytes of an exponent.
    count : int
        How many powers.

    Returns
    -------
    list of list of mpz
        For each power, its value for each modulus.
    """
    import gmpy2

    moduli = [gmpy2.mpz(modulus) for modulus in moduli]
    if count < _FEW_NOISES:
        exponents = [int.from_bytes(secrets.token_bytes(n_bytes), "little") for _ in range(count)]
        pairs = list(zip(bases, moduli, strict=True))
        return [[gmpy2.powmod(b, exponent, m) for b, m in pairs] for exponent in exponents]
    tables = []
    for modulus, base in zip(moduli, bases, strict=True):
        table, power = [], gmpy2.mpz(base)
        for _ in range(n_bytes):
            row = [gmpy2.mpz(1)]
            for _ in range(2**_NOISE_WINDOW - 1):
                row.append(row[-1] * power % modulus)
            table.append(row)
            power = row[-1] * power % modulus
        tables.append((modulus, table))
    made = []
    for _ in range(count):
        exponent, values = secrets.token_bytes(n_bytes), []
        for modulus, table in tables:
            value = gmpy2.mpz(1)
            for row, digit in zip(table, exponent, strict=True):
                value = value * row[digit] % modulus
            values.append(value)
        made.append(values)
    return made


def decrypted(halves: Sequence[tuple[int, int, int]], ciphertexts: Sequence[Any]) -> list[Any]:
    """Return what ciphertexts hold, modulo each of the two primes.

    Parameters
    ----------
    halves : sequence of (int, int, int)
        For each prime: itself, its square, and the inverse that turns a power into a number.
    ciphertexts : sequence of mpz
        Ciphertexts.

    Returns
    -------
    list of list of mpz
        For each ciphertext, the residue for each prime.
    """
    import gmpy2

    return [
        [
            (gmpy2.powmod_sec(c % square, prime - 1, square) - 1) // prime * inverse % prime
            for prime, square, inverse in halves
        ]
        for c in ciphertexts
    ]


def sums_of_columns(
    n: int, ciphertexts: Sequence[Any], bits: int, ones: np.ndarray, fractions: np.ndarray
) -> list[Any]:
    """Sum encrypted numbers, weighted by zeros, ones and fractions.

    Parameters
    ----------
    n : int
        Modulus of the key.
    ciphertexts : sequence of mpz
        One for each row.
    bits : int
        Bits of a fraction.
    ones : ndarray of shape (n_rows, n_columns), dtype bool
        Where a weight is one.
    fractions : ndarray of shape (n_rows, n_columns), dtype int64
        The weights between zero and one.

    Returns
    -------
    list of mpz
        A ciphertext for each column.
    """
    import gmpy2

    square = gmpy2.mpz(n) ** 2
    sums: list[Any] = []
    below = gmpy2.mpz(1)
    for j in reversed(range(ones.shape[1])):
        inside = ones[:, j]
        nested = j + 1 < ones.shape[1] and bool((inside | ~ones[:, j + 1]).all())
        total = below if nested else gmpy2.mpz(1)
        for i in np.flatnonzero(inside & ~ones[:, j + 1] if nested else inside).tolist():
            total = total * ciphertexts[i] % square
        below = total
        counted = gmpy2.powmod(total, 1 << bits, square)
        sums.append(counted * _bucket_sum(ciphertexts, fractions[:, j], bits, square) % square)
    return sums[::-1]


def _bucket_sum(ciphertexts: Sequence[Any], weights: np.ndarray, bits: int, square: Any) -> Any:
    """Product of ``ciphertext ** weight``, window by window, equal digits first put together."""
    import gmpy2

    one = gmpy2.mpz(1)
    rows = np.flatnonzero(weights)
    if not len(rows):
        return one
    costs = {c: -(-bits // c) * (len(rows) + 2 ** (c + 1)) for c in range(1, 13)}
    window = min(costs, key=lambda c: costs[c])
    values, rows_list = weights[rows], rows.tolist()
    total = one
    for place in reversed(range(-(-bits // window))):
        for _ in range(window if total != 1 else 0):
            total = total * total % square
        digits = ((values >> (place * window)) & ((1 << window) - 1)).tolist()
        buckets: list[Any] = [None] * (1 << window)
        for row, digit in zip(rows_list, digits, strict=True):
            held = buckets[digit]
            buckets[digit] = ciphertexts[row] if held is None else held * ciphertexts[row] % square
        above, running = one, one
        for held in reversed(buckets[1:]):
            if held is not None:
                above = above * held % square
            if above != 1:
                running = running * above % square
        total = total * running % square
    return total


def products_from_table(
    n: int, ciphertexts: Sequence[Any], bits: int, matrix: np.ndarray
) -> list[Any]:
    """Multiply encrypted numbers by a matrix, through tables of their powers.

    Parameters
    ----------
    n : int
        Modulus of the key.
    ciphertexts : sequence of mpz
        Encrypted numbers.
    bits : int
        Bits of the absolute values of the matrix.
    matrix : ndarray of shape (n_in, n_out), dtype int64
        Signed integers.

    Returns
    -------
    list of mpz
        A ciphertext for each column of the matrix.
    """
    import gmpy2

    square, one = gmpy2.mpz(n) ** 2, gmpy2.mpz(1)
    table = []
    for c in ciphertexts:
        powers = [one]
        for _ in range((1 << _TABLE_WINDOW) - 1):
            powers.append(powers[-1] * c % square)
        table.append(powers)
    products = []
    for column in matrix.T:
        signed = []
        for part in (np.maximum(column, 0), np.maximum(-column, 0)):
            total = one
            for place in reversed(range(-(-bits // _TABLE_WINDOW))):
                for _ in range(_TABLE_WINDOW if total != 1 else 0):
                    total = total * total % square
                digits = (part >> (place * _TABLE_WINDOW)) & ((1 << _TABLE_WINDOW) - 1)
                for i in np.flatnonzero(digits).tolist():
                    total = total * table[i][digits[i]] % square
            signed.append(total)
        products.append(signed[0] * gmpy2.invert(signed[1], square) % square)
    return products


def joined(n: int, groups: Sequence[Sequence[Any]], bits: int) -> list[Any]:
    """Shift encrypted numbers by multiples of some bits, and add them up.

    Parameters
    ----------
    n : int
        Modulus of the key.
    groups : sequence of sequence of mpz
        Encrypted numbers; the first of a group is not shifted.
    bits : int
        Bits between one and the next.

    Returns
    -------
    list of mpz
        A ciphertext for each group.
    """
    import gmpy2

    square = gmpy2.mpz(n) ** 2
    sums = []
    for group in groups:
        total = gmpy2.mpz(1)
        for c in reversed(group):
            total = gmpy2.powmod(total, 1 << bits, square) * c % square if total != 1 else c
        sums.append(total)
    return sums
