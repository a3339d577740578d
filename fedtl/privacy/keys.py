"""Secrets, key agreement and pseudo-random streams, all from OpenSSL through `cryptography`.

X25519 [1]_ for agreement, HKDF-SHA256 [2]_ bound to a context for derivation, AES-256-CTR [3]_ for
streams, AES-256-GCM [4]_ for sealed messages. Secrets come from the operating system only. What
is put together here is *unaudited*.

References
----------
.. [1] RFC 7748, Elliptic curves for security.
.. [2] RFC 5869, HMAC-based extract-and-expand key derivation function.
.. [3] NIST SP 800-38A, Block cipher modes of operation.
.. [4] NIST SP 800-38D, Galois/Counter mode.
"""

from __future__ import annotations

import secrets

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_TAG_BYTES = 16


class CryptoError(ValueError):
    """A key, ciphertext, share or mask that is malformed, out of range or not what it claims."""


def new_seed() -> bytes:
    """Return 32 secret bytes of the operating system."""
    return secrets.token_bytes(KEY_BYTES)


def derive(secret: bytes, context: str) -> bytes:
    """Return the 32 bytes that HKDF-SHA256 derives from a secret for one context."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=context.encode()).derive(secret)


def stream(seed: bytes, context: str, n_bytes: int) -> np.ndarray:
    """Expand a seed to pseudo-random bytes, a stream of its own for every context.

    Parameters
    ----------
    seed : bytes of length 32
        The secret.
    context : str
        What the stream is for. One seed and context always give the same stream, so that a pair
        must not mask two different things.
    n_bytes : int
        Length of the stream.

    Returns
    -------
    ndarray of shape (n_bytes,), dtype uint8
        The AES-256-CTR key stream from counter zero on.

    Raises
    ------
    CryptoError
        If the seed has not 32 bytes.
    """
    if len(seed) != KEY_BYTES:
        raise CryptoError(f"a seed has {KEY_BYTES} bytes, got {len(seed)}")
    encryptor = Cipher(algorithms.AES256(derive(seed, context)), modes.CTR(bytes(16))).encryptor()
    out = np.empty(n_bytes, dtype=np.uint8)
    block = 1 << 20
    zeros = bytes(min(block, n_bytes))
    for start in range(0, n_bytes, block):
        piece = out[start : start + block]
        encryptor.update_into(memoryview(zeros)[: len(piece)], piece.data)
    return out


def uniform(
    seed: bytes, context: str, shape: tuple[int, ...], dtype: type = np.uint64
) -> np.ndarray:
    """Return pseudo-random unsigned integers; see :func:`stream`.

    Parameters
    ----------
    seed : bytes of length 32
        The secret.
    context : str
        What the numbers are for.
    shape : tuple of int
        Shape of the result.
    dtype : type, default=numpy.uint64
        An unsigned integer type.

    Returns
    -------
    ndarray of shape `shape`
        Uniform over all values of the type.
    """
    little = np.dtype(dtype).newbyteorder("<")
    n_bytes = int(np.prod(shape, dtype=np.int64)) * little.itemsize
    return stream(seed, context, n_bytes).view(little).reshape(shape).astype(dtype, copy=False)


class KeyPair:
    """An X25519 key pair whose secret comes from the operating system.

    Parameters
    ----------
    private : bytes of length 32, optional
        A private key that was made before; a new one otherwise.
    """

    def __init__(self, private: bytes | None = None) -> None:
        self._key = (
            X25519PrivateKey.generate()
            if private is None
            else X25519PrivateKey.from_private_bytes(private)
        )

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def private(self) -> bytes:
        """The private key, 32 bytes."""
        return self._key.private_bytes_raw()

    def __reduce__(self) -> tuple[type[KeyPair], tuple[bytes]]:
        return KeyPair, (self.private,)  # simulated parties travel between processes of one owner

    def agree(self, public: bytes, context: str) -> bytes:
        """Agree on a secret with the owner of another key.

        Parameters
        ----------
        public : bytes of length 32
            The other's public key.
        context : str
            What the secret is for; both sides name the same. Both public keys are bound in too.

        Returns
        -------
        bytes
            32 bytes that both sides, and nobody else, can compute.

        Raises
        ------
        CryptoError
            If the other key is malformed or of low order.
        """
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise CryptoError(f"a public key is malformed or of low order: {error}") from None
        first, second = sorted([self.public, public])
        return derive(shared, f"{context}|{first.hex()}|{second.hex()}")


def seal(public: bytes, data: bytes, context: str) -> bytes:
    """Encrypt to the owner of a key, from a sender who stays unnamed.

    Parameters
    ----------
    public : bytes of length 32
        The receiver's public key.
    data : bytes
        What is to be kept secret.
    context : str
        What it is for; opening it in another context fails.

    Returns
    -------
    bytes
        A new public key, the ciphertext and its tag: 48 bytes longer than `data`.
    """
    once = KeyPair()
    return once.public + lock(once.agree(public, f"seal|{context}"), data)


def unseal(pair: KeyPair, sealed: bytes, context: str) -> bytes:
    """Open what was sealed to a key.

    Parameters
    ----------
    pair : KeyPair
        The receiver's keys.
    sealed : bytes
        From :func:`seal`.
    context : str
        What it is for.

    Returns
    -------
    bytes
        What was sealed.

    Raises
    ------
    CryptoError
        If it was changed, was sealed to another key, or is of another context.
    """
    if len(sealed) < KEY_BYTES + _TAG_BYTES:
        raise CryptoError("a sealed message is truncated")
    return unlock(pair.agree(sealed[:KEY_BYTES], f"seal|{context}"), sealed[KEY_BYTES:])


def lock(key: bytes, data: bytes) -> bytes:
    """Encrypt under a key that is used for this one message.

    Parameters
    ----------
    key : bytes of length 32
        The key. The nonce is constant, so that a second message under it would give both away.
    data : bytes
        What is to be kept secret.

    Returns
    -------
    bytes
        Ciphertext and tag: 16 bytes longer than `data`.
    """
    return AESGCM(key).encrypt(bytes(12), data, None)


def unlock(key: bytes, data: bytes) -> bytes:
    """Decrypt and authenticate what :func:`lock` encrypted.

    Parameters
    ----------
    key : bytes of length 32
        The same key.
    data : bytes
        Ciphertext and tag.

    Returns
    -------
    bytes
        What was encrypted.

    Raises
    ------
    CryptoError
        If it was changed or is of another key.
    """
    try:
        return AESGCM(key).decrypt(bytes(12), data, None)
    except InvalidTag:
        raise CryptoError(
            "a sealed message was changed, sealed to another key, or is of another context"
        ) from None
