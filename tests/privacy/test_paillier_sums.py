"""Sums under encryption are sums, whichever way they are put together."""

import numpy as np
import pytest

from fedtl.privacy import _work, _workers, paillier_sums
from fedtl.privacy.paillier import Noise, Slots
from fedtl.privacy.paillier_sums import column_sums, combine, join

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


@pytest.mark.parametrize("n_processes", [1, 2])
def test_many_numbers_are_multiplied_a_few_at_a_time(key, ciphertexts, monkeypatch, n_processes):
    """Tables of all of them at once would not fit into memory."""
    made = []

    def counted(calls, ask=_workers.in_processes):
        made.append([len(few) for _, few, _, _ in calls])
        return ask(_work.products_from_table, calls)

    monkeypatch.setattr(paillier_sums, "_TABLES", 8)
    monkeypatch.setattr(paillier_sums, "n_workers", lambda work: n_processes)
    monkeypatch.setattr(paillier_sums, "in_processes", lambda function, calls: counted(calls))
    matrix = RNG.integers(-(2**17), 2**17, (N, 9))
    products = combine(key.public, ciphertexts, matrix, 18)
    np.testing.assert_array_equal(decrypted(key, products), matrix.T @ TARGETS)
    assert made == {1: [[8]] * 5, 2: [[8, 8], [8, 8], [4, 4]]}[n_processes]


@pytest.mark.parametrize(("n", "at_once"), [(0, 3), (1, 3), (6, 3), (7, 3), (4, 1), (5, 30)])
def test_numbers_are_put_side_by_side(key, n, at_once):
    numbers = RNG.integers(-(2**58), 2**58, n).tolist()
    encrypted = [key.public.encrypt(number, 1) for number in numbers]
    joined = join(key.public, encrypted, SLOTS.bits, at_once)
    slots = Slots(SLOTS.bits, at_once)
    found = [number for packed in key.decrypt(joined) for number in slots.unpack(packed)]
    assert found[:n] == numbers
    assert not any(found[n:])
    assert len(joined) == -(-n // at_once)


def test_several_processes_give_the_same_sums(key, ciphertexts, monkeypatch):
    alone = column_sums(key.public, ciphertexts, WEIGHTS["mixed"], BITS)
    monkeypatch.setattr(_workers, "cpu_count", lambda: 2)
    monkeypatch.setattr(_workers, "_MANY", 0)
    assert column_sums(key.public, ciphertexts, WEIGHTS["mixed"], BITS) == alone
    np.testing.assert_array_equal(decrypted(key, alone), WEIGHTS["mixed"].T @ TARGETS)
    noise = key.noise()
    noise.make(4)
    assert key.decrypt(noise.take(4)) == [0] * 4
    joined = join(key.public, ciphertexts, 60, 3)
    monkeypatch.undo()
    assert joined == join(key.public, ciphertexts, 60, 3)


@pytest.mark.parametrize("count", [1, 40])
def test_noise_is_of_zero_and_never_the_same_with_a_table_of_powers_or_without(key, count):
    for noise in (key.noise(), Noise(key.public)):
        taken = noise.take(count)
        assert key.decrypt(taken) == [0] * count
        assert len(set(taken)) == count


def test_equal_digits_are_put_together_before_they_are_multiplied(ciphertexts, key):
    weights = np.array([5, 0, 5, 1023, 1] + [0] * (N - 5), dtype=np.int64)
    total = _work._bucket_sum(ciphertexts, weights, BITS, key.public.square)
    np.testing.assert_array_equal(decrypted(key, [total])[0], weights @ TARGETS)
