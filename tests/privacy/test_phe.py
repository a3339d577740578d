"""Ciphertexts and sums are those of python-paillier, an implementation of its own; needs phe."""

import numpy as np
import pytest

phe = pytest.importorskip("phe", reason="an oracle, installed by hand: pip install phe")
pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")

from fedtl.privacy.packing import Layout  # noqa: E402
from fedtl.privacy.paillier import PrivateKey, PublicKey  # noqa: E402
from fedtl.privacy.paillier_sums import column_sums, combine  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def keys():
    """Our pair, and theirs of the same primes."""
    ours = PrivateKey.generate(2048)
    p, q = (int.from_bytes(prime, "big") for prime in ours.primes)
    public = phe.PaillierPublicKey(p * q)
    return ours, public, phe.PaillierPrivateKey(public, p, q)


def test_each_reads_what_the_other_encrypted(keys):
    ours, public, private = keys
    noise = ours.noise()
    for number in (0, 1, 12345678901234567890, int(ours.public.n) // 2 - 1):
        theirs = public.raw_encrypt(number)
        (mine,) = ours.public.unpack_ciphertexts(
            np.frombuffer(theirs.to_bytes(512, "little"), dtype=np.uint8)[None]
        )
        assert ours.decrypt([mine]) == [number]
        (fresh,) = noise.take(1)
        assert private.raw_decrypt(int(ours.public.encrypt(number, fresh))) == number


def test_a_key_that_they_made_is_accepted_and_used(keys):
    public, private = phe.generate_paillier_keypair(n_length=2048)
    mine = PublicKey.from_bytes(public.n.to_bytes(256, "big"))
    assert private.raw_decrypt(int(mine.encrypt(7, 1))) == 7


def test_sums_and_products_are_those_that_they_compute(keys):
    ours, public, private = keys
    numbers = RNG.integers(0, 2**30, 20)
    theirs = [phe.EncryptedNumber(public, public.raw_encrypt(int(n))) for n in numbers]
    mine = ours.public.unpack_ciphertexts(
        np.stack(
            [np.frombuffer(c.ciphertext().to_bytes(512, "little"), dtype=np.uint8) for c in theirs]
        )
    )
    weights = np.where(RNG.random((20, 3)) < 0.5, 1 << 16, RNG.integers(0, 1 << 16, (20, 3)))
    matrix = RNG.integers(-(2**17), 2**17, (20, 9))
    expected = [
        sum(c * int(w) for c, w in zip(theirs, column, strict=True)) for column in weights.T
    ]
    found = column_sums(ours.public, mine, weights, 16)
    assert [private.raw_decrypt(int(c)) for c in found] == [private.decrypt(e) for e in expected]
    expected = [sum(c * int(w) for c, w in zip(theirs, column, strict=True)) for column in matrix.T]
    found = combine(ours.public, mine, matrix, 18)
    assert ours.decrypt(found) == [private.decrypt(e) for e in expected]


def test_packed_slots_are_one_number_to_them(keys):
    ours, _, private = keys
    layout = Layout.of_key(ours.public, 2)
    items = RNG.integers(1, 2**40, (3, 2))
    sealed = layout.join(ours.public, layout.encrypt(ours.public, items, ours.noise()))
    shifts = [1 << (64 * i) for i in range(6)]
    assert [private.raw_decrypt(int(c)) for c in sealed] == [
        sum(int(n) * s for n, s in zip(items.ravel(), shifts, strict=True))
    ]
