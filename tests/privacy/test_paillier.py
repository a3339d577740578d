"""Paillier encryption is Paillier's, keys and ciphertexts are checked, slots do not spill over."""

import copy
import math
import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedtl.privacy import CryptoError
from fedtl.privacy.paillier import Noise, PrivateKey, PublicKey, Slots, good_primes

gmpy2 = pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")

# The least keys of the right kind, for known answers by hand: 7 * 11 and 19 * 23.
TINY = [(19, 23), (23, 31)]


def encrypt(key, noise, *numbers):
    return [
        key.public.encrypt(n, r) for n, r in zip(numbers, noise.take(len(numbers)), strict=True)
    ]


@pytest.mark.parametrize(("p", "q"), TINY)
def test_every_number_of_a_tiny_key_is_encrypted_as_the_textbook_says(p, q):
    key, n = PrivateKey(p, q), p * q
    lam = math.lcm(p - 1, q - 1)
    for number in range(-(n // 2), n // 2 + 1):
        for r in (1, 2, 5):
            c = pow(1 + n, number, n * n) * pow(r, n, n * n) % (n * n)
            assert key.public.encrypt(number, pow(r, n, n * n)) == c
            assert key.decrypt([gmpy2.mpz(c)]) == [number]
            textbook = (pow(c, lam, n * n) - 1) // n * pow(lam, -1, n) % n
            assert textbook == number % n


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_sums_and_multiples_of_ciphertexts_are_those_of_numbers(key, noise, data):
    bound = int(key.public.n) // 2**70
    a, b = (data.draw(st.integers(-bound, bound)) for _ in range(2))
    factor = data.draw(st.integers(-(2**64), 2**64))
    one, two = encrypt(key, noise, a, b)
    square = key.public.square
    assert key.decrypt([one, two, one * two % square]) == [a, b, a + b]
    assert key.decrypt([gmpy2.powmod(two, factor, square)]) == [b * factor]


def test_numbers_beyond_half_the_modulus_are_refused(key, noise):
    half = int(key.public.n) // 2
    assert key.decrypt(encrypt(key, noise, half, -half)) == [half, -half]
    with pytest.raises(CryptoError, match="does not fit the key"):
        encrypt(key, noise, half + 1)


def test_both_kinds_of_noise_encrypt_zero_and_no_two_are_the_same(key):
    for noise in (Noise(key.public), key.noise()):
        noise.make(3)
        assert len(noise) == 3
        taken = noise.take(5)
        assert not len(noise)
        assert key.decrypt(taken) == [0] * 5
        assert len(set(taken)) == 5


def test_two_parties_draw_bases_of_their_own(key):
    assert Noise(key.public).take(1) != Noise(key.public).take(1)


def test_a_number_encrypted_twice_looks_different_and_so_does_one_randomised_anew(key, noise):
    one, two = encrypt(key, noise, 7, 7)
    again = noise.rerandomize([one])[0]
    assert len({one, two, again}) == 3
    assert key.decrypt([one, two, again]) == [7, 7, 7]


def test_bytes_of_ciphertexts_are_uniform_whatever_is_encrypted(key):
    noise = key.noise()
    for number in (0, 1, int(key.public.n) // 3):
        data = key.public.pack_ciphertexts(encrypt(key, noise, *[number] * 60))
        # The highest bytes are bounded by the modulus. One failure by chance in 10**6.
        low = data[:, :-8].ravel()
        assert chisquare(np.bincount(low, minlength=256)).pvalue > 1e-6


def test_a_generated_key_has_all_bits_and_the_right_primes(key):
    assert key.public.bits == 2048
    p, q = key._p, key._q
    assert good_primes(p, q)
    assert p % 4 == q % 4 == 3
    assert gmpy2.gcd(p - 1, q - 1) == 2
    assert "2048" in repr(key)
    assert str(int(p)) not in repr(key)


def test_two_keys_have_no_prime_in_common(key):
    other = PrivateKey.generate(2048)
    assert gmpy2.gcd(key.public.n, other.public.n) == 1


@pytest.mark.parametrize(("p", "q"), [(7, 7), (5, 11), (7, 19), (9, 11), (7, 31), (7, 11)])
def test_unsuitable_primes_are_refused(p, q):
    with pytest.raises(CryptoError, match="3 modulo 4"):
        PrivateKey(p, q)


@pytest.mark.parametrize("bits", [1024, 2047, 0])
def test_small_keys_are_not_made(bits):
    with pytest.raises(CryptoError, match="2048, 3072 or 4096"):
        PrivateKey.generate(bits)


def odd_number(bits):
    return secrets.randbits(bits) | 1 | 1 << (bits - 1)


def bad_moduli(key):
    n = int(key.public.n)
    p = int(key._p)
    return {
        "1024 bits": odd_number(1024).to_bytes(128, "big"),
        "a bit short": (n >> 1 | 1).to_bytes(256, "big"),
        "even": (n & ~1).to_bytes(256, "big"),
        "a small factor": (n - n % 9973).to_bytes(256, "big"),
        "a square": (p * p).to_bytes(256, "big"),
        "a prime": int(gmpy2.next_prime(1 << 2047)).to_bytes(256, "big"),
        "empty": b"",
    }


@pytest.mark.parametrize(
    "fault", ["1024 bits", "a bit short", "even", "a small factor", "a square", "a prime", "empty"]
)
def test_weak_and_malformed_moduli_are_refused(key, fault):
    data = bad_moduli(key)[fault]
    with pytest.raises(CryptoError, match="Paillier modulus"):
        PublicKey.from_bytes(data)


def test_a_modulus_crosses_as_bytes(key):
    assert PublicKey.from_bytes(key.public.to_bytes()).n == key.public.n


def test_ciphertexts_cross_as_bytes_and_are_checked(key, noise):
    public = key.public
    ciphertexts = encrypt(key, noise, 1, 2, 3)
    data = public.pack_ciphertexts(ciphertexts)
    assert data.shape == (3, 512)
    assert public.unpack_ciphertexts(data) == ciphertexts
    with pytest.raises(CryptoError, match="512 bytes"):
        public.unpack_ciphertexts(data[:, 1:])
    for bad, said in [
        (0, "out of range"),
        (public.square, "out of range"),
        (key._p * 12, "shares a factor"),
    ]:
        wrong = data.copy()
        wrong[1] = public.pack_ciphertexts([bad])[0]
        with pytest.raises(CryptoError, match=said):
            public.unpack_ciphertexts(wrong)


@given(st.integers(4, 90), st.data())
def test_sums_of_products_stay_in_their_slots(bits, data):
    slots = Slots.of_key(2048, bits)
    most = 2 ** (bits - 1) - 1
    count = data.draw(st.integers(1, min(slots.count, 6)))
    first = data.draw(st.integers(0, slots.count - count))
    numbers = data.draw(st.lists(st.integers(-most, most), min_size=count, max_size=count))
    zeros = [0] * slots.count
    expected = zeros[:first] + numbers + zeros[first + count :]
    assert slots.unpack(slots.pack(numbers, first)) == expected
    halves = [n // 2 for n in numbers]
    rest = [n - h for n, h in zip(numbers, halves, strict=True)]
    assert slots.unpack(slots.pack(halves, first) + slots.pack(rest, first)) == expected


def test_the_most_extreme_numbers_fit_under_a_key_of_their_size(key, noise):
    slots = Slots.of_key(2048, 64)
    for number in (2**63 - 1, -(2**63) + 1):
        packed = slots.pack([number] * slots.count)
        assert slots.unpack(key.decrypt(encrypt(key, noise, packed))[0]) == [number] * slots.count


def test_what_does_not_fit_into_slots_is_refused():
    slots = Slots(8, 3)
    with pytest.raises(CryptoError, match="4 numbers do not fit into 3 slots"):
        slots.pack([1, 2], first=2)
    with pytest.raises(CryptoError, match="8 bits does not fit into a slot of 8"):
        slots.pack([128])
    with pytest.raises(CryptoError, match="more than its slots can hold"):
        slots.unpack(1 << 30)


def test_an_independent_implementation_decrypts_ours_and_the_other_way_round(key, noise):
    phe = pytest.importorskip("phe", reason="phe, a GPL library, is only an oracle here")
    public = phe.PaillierPublicKey(int(key.public.n))
    private = phe.PaillierPrivateKey(public, int(key._p), int(key._q))
    for number in (0, 1, 123456789, 2**500):
        assert private.raw_decrypt(int(encrypt(key, noise, number)[0])) == number
        assert key.decrypt([gmpy2.mpz(public.raw_encrypt(number))]) == [number]


def test_a_key_cannot_be_copied_by_accident_into_a_message(key):
    assert not hasattr(key, "to_bytes")
    assert copy.copy(key).public.n == key.public.n
