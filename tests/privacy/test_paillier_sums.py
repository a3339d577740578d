"""Sums under encryption are sums, whichever way they are put together."""

import numpy as np
import pytest

from fedtl.privacy import _work, _workers
from fedtl.privacy.paillier import Slots
from fedtl.privacy.paillier_sums import column_sums, combine

gmpy2 = pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")

RNG = np.random.default_rng(0)
BITS = 10
ONE = 1 << BITS
SLOTS = Slots.of_key(2048, 60)
N = 40
TARGETS = RNG.integers(-1000, 1000, (N, 2))


@pytest.fixture(scope="module")
def ciphertexts(key):
    noise = key.noise()
    return [
        key.public.encrypt(SLOTS.pack(row.tolist(), first=3), r)
        for row, r in zip(TARGETS, noise.take(N), strict=True)
    ]


def decrypted(key, ciphertexts):
    return np.array([SLOTS.unpack(number)[3:5] for number in key.decrypt(ciphertexts)])


def stairs():
    """A piecewise-linear code: ones, a fraction, zeros, whose ones are nested."""
    x = RNG.uniform(0, 4, N)
    return np.rint(np.clip(x[:, None] - np.arange(4), 0, 1) * ONE).astype(np.int64)


WEIGHTS = {
    "fractions": RNG.integers(0, ONE + 1, (N, 3)),
    "a piecewise-linear code": stairs(),
    "the code backwards": stairs()[:, ::-1],
    "categories": np.eye(4, dtype=np.int64)[RNG.integers(0, 4, N)] * ONE,
    "nothing": np.zeros((N, 2), dtype=np.int64),
    "everything": np.full((N, 2), ONE),
    "no column": np.zeros((N, 0), dtype=np.int64),
    "mixed": np.hstack([np.full((N, 1), ONE), stairs(), RNG.integers(0, ONE, (N, 1))]),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_column_sums_are_weighted_sums(key, ciphertexts, kind):
    weights = WEIGHTS[kind]
    sums = column_sums(key.public, ciphertexts, weights, BITS)
    assert len(sums) == weights.shape[1]
    if sums:
        np.testing.assert_array_equal(decrypted(key, sums), weights.T @ TARGETS)


@pytest.mark.parametrize("n_in", [1, 3, 6])
def test_a_matrix_of_signed_integers_is_multiplied(key, ciphertexts, n_in):
    for matrix in (
        RNG.integers(-(2**20), 2**20, (n_in, 4)),
        np.eye(n_in, dtype=np.int64) * -7,
        np.zeros((n_in, 2), dtype=np.int64),
    ):
        bits = int(np.abs(matrix).max()).bit_length()
        products = combine(key.public, ciphertexts[:n_in], matrix, max(bits, 1))
        np.testing.assert_array_equal(decrypted(key, products), matrix.T @ TARGETS[:n_in])


def test_several_processes_give_the_same_sums(key, ciphertexts, monkeypatch):
    alone = column_sums(key.public, ciphertexts, WEIGHTS["mixed"], BITS)
    monkeypatch.setattr(_workers, "cpu_count", lambda: 2)
    monkeypatch.setattr(_workers, "_MANY", 0)
    assert column_sums(key.public, ciphertexts, WEIGHTS["mixed"], BITS) == alone
    np.testing.assert_array_equal(decrypted(key, alone), WEIGHTS["mixed"].T @ TARGETS)
    noise = key.noise()
    noise.make(4)
    assert key.decrypt(noise.take(4)) == [0] * 4


def test_equal_digits_are_put_together_before_they_are_multiplied(ciphertexts, key):
    weights = np.array([5, 0, 5, 1023, 1] + [0] * (N - 5), dtype=np.int64)
    total = _work._bucket_sum(ciphertexts, weights, BITS, key.public.square)
    np.testing.assert_array_equal(decrypted(key, [total])[0], weights @ TARGETS)
