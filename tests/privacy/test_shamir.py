"""Enough shares give a secret back, and fewer say nothing of it."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.privacy import CryptoError
from fedtl.privacy.shamir import PRIME, SHARE_BYTES, evaluate, join, split


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=64), st.integers(1, 7), st.data())
def test_any_so_many_shares_give_the_secret_back(secret, n, data):
    threshold = data.draw(st.integers(1, n))
    shares = split(secret, n, threshold)
    for chosen in itertools.combinations(shares, threshold):
        assert join({x: shares[x] for x in chosen}, threshold, len(secret)) == secret
    assert join(shares, threshold, len(secret)) == secret


def test_a_known_polynomial_has_known_values_and_gives_its_constant_back():
    # 1234 + 166 x + 94 x^2
    values = {x: evaluate([1234, 166, 94], x) for x in range(1, 7)}
    assert values == {1: 1494, 2: 1942, 3: 2578, 4: 3402, 5: 4414, 6: 5614}
    shares = {x: values[x].to_bytes(SHARE_BYTES, "big") for x in (2, 4, 5)}
    assert join(shares, 3, 2) == (1234).to_bytes(2, "big")
    assert evaluate([PRIME - 1, 1], 1) == 0


def test_with_one_share_too_few_every_secret_is_as_likely():
    shares = split(b"\x01", 3, 3)
    # For whatever the secret is, some third share fits the two that are known.
    for secret in (0, 1, 255):
        y = {x: int.from_bytes(shares[x], "big") for x in (1, 2)}
        third = (3 * y[2] - 3 * y[1] + secret) % PRIME  # the parabola through all three
        points = {1: shares[1], 2: shares[2], 3: third.to_bytes(SHARE_BYTES, "big")}
        assert join(points, 3, 1) == bytes([secret])


def test_shares_of_one_secret_differ_from_time_to_time():
    assert not set(split(b"same", 5, 2).values()) & set(split(b"same", 5, 2).values())


def test_too_few_malformed_and_mixed_shares_are_refused():
    shares, others = split(b"a" * 32, 4, 3), split(b"b" * 32, 4, 3)
    with pytest.raises(CryptoError, match="2 shares are left, 3 are needed"):
        join({1: shares[1], 2: shares[2]}, 3, 32)
    for bad in (shares[3][1:], b"\xff" * SHARE_BYTES):
        with pytest.raises(CryptoError, match="malformed"):
            join({1: shares[1], 2: shares[2], 3: bad}, 3, 32)
    with pytest.raises(CryptoError, match="do not belong together"):
        join({1: shares[1], 2: shares[2], 3: others[3]}, 3, 32)


@pytest.mark.parametrize(
    ("secret", "n", "threshold"), [(b"x" * 65, 3, 2), (b"x", 3, 4), (b"x", 3, 0)]
)
def test_what_cannot_be_split_is_refused(secret, n, threshold):
    with pytest.raises(CryptoError):
        split(secret, n, threshold)
