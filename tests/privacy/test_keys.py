"""Keys agree, streams are AES in counter mode, and what is sealed opens for its owner only."""

import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedtl.privacy import CryptoError
from fedtl.privacy.keys import KeyPair, derive, new_seed, seal, stream, uniform, unseal

# RFC 7748, section 6.1
PRIVATE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")


def test_derivation_is_hkdf_of_rfc_5869():
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert derive(b"\x0b" * 22, "").hex() == expected


def test_derivation_is_two_rounds_of_hmac():
    extracted = hmac.digest(bytes(32), b"secret", "sha256")
    assert derive(b"secret", "masks") == hmac.digest(extracted, b"masks\x01", "sha256")


def test_a_stream_is_the_cipher_of_consecutive_counters():
    seed, n = bytes(range(32)), 5 * 2**20 + 7
    encryptor = Cipher(algorithms.AES256(derive(seed, "x")), modes.ECB()).encryptor()
    made = stream(seed, "x", n)
    for block in (0, 1, 2**16, n // 16 - 1):
        expected = encryptor.update(block.to_bytes(16, "big"))
        assert made[16 * block : 16 * block + 16].tobytes() == expected
    assert len(made) == n


def test_a_short_stream_is_the_beginning_of_a_long_one():
    seed = new_seed()
    np.testing.assert_array_equal(stream(seed, "x", 2**21)[:1000], stream(seed, "x", 1000))


def test_every_context_has_a_stream_of_its_own():
    seed = new_seed()
    streams = {uniform(seed, context, (4,)).tobytes() for context in ("a", "b", "mask 1")}
    assert len(streams) == 3
    assert uniform(seed, "a", (4,), np.uint32).tobytes() == uniform(seed, "a", (2,)).tobytes()


def test_a_seed_of_the_wrong_length_is_refused():
    with pytest.raises(CryptoError, match="32 bytes, got 16"):
        stream(bytes(16), "x", 3)


def test_the_public_key_is_that_of_rfc_7748():
    assert KeyPair(PRIVATE).public == PUBLIC
    assert KeyPair(PRIVATE).private == PRIVATE


def test_two_owners_agree_for_one_context_and_on_other_secrets_for_another():
    alice, bob, eve = KeyPair(), KeyPair(), KeyPair()
    secret = alice.agree(bob.public, "masks")
    assert secret == bob.agree(alice.public, "masks")
    others = [alice.agree(bob.public, "shares"), eve.agree(bob.public, "masks")]
    assert len({secret, *others}) == 3


@pytest.mark.parametrize("public", [bytes(32), b"short"], ids=["low order", "short"])
def test_a_weak_or_malformed_public_key_is_refused(public):
    with pytest.raises(CryptoError, match="malformed or of low order"):
        KeyPair().agree(public, "masks")


def test_what_is_sealed_opens_for_its_owner_and_in_its_context_only():
    owner = KeyPair()
    sealed = seal(owner.public, b"a seed", "deal")
    assert unseal(owner, sealed, "deal") == b"a seed"
    assert sealed != seal(owner.public, b"a seed", "deal")
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for pair, data, context in [
        (KeyPair(), sealed, "deal"),
        (owner, sealed, "other"),
        (owner, changed, "deal"),
    ]:
        with pytest.raises(CryptoError, match="was changed, sealed to another key"):
            unseal(pair, data, context)
    with pytest.raises(CryptoError, match="truncated"):
        unseal(owner, sealed[:40], "deal")
