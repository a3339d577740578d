"""Shamir's secret sharing [1]_ over the prime 2**521 - 1.

Any `threshold` shares give the secret back; fewer say nothing of it. *Unaudited*, and Python's
integers are not constant-time.

References
----------
.. [1] A. Shamir. How to share a secret. Communications of the ACM 22, 1979.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from fedtl.privacy.keys import CryptoError

PRIME = 2**521 - 1
SHARE_BYTES = 66
_MOST_SECRET_BYTES = 64


def split(secret: bytes, n_shares: int, threshold: int) -> dict[int, bytes]:
    """Split a secret.

    Parameters
    ----------
    secret : bytes
        At most 64 bytes.
    n_shares : int
        How many shares.
    threshold : int
        How many of them give the secret back.

    Returns
    -------
    dict of int to bytes
        Shares of 66 bytes by their places, 1 to `n_shares`.

    Raises
    ------
    CryptoError
        If the secret is too long, or the threshold not between 1 and `n_shares`.

    Examples
    --------
    >>> from fedtl.privacy.shamir import join, split
    >>> shares = split(b"secret", n_shares=3, threshold=2)
    >>> join({3: shares[3], 1: shares[1]}, threshold=2, n_bytes=6)
    b'secret'
    """
    if len(secret) > _MOST_SECRET_BYTES:
        raise CryptoError(f"a secret has at most {_MOST_SECRET_BYTES} bytes, got {len(secret)}")
    if not 1 <= threshold <= n_shares:
        raise CryptoError(f"a threshold of {threshold} does not lie between 1 and {n_shares}")
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    return {
        x: evaluate(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in range(1, n_shares + 1)
    }


def evaluate(coefficients: list[int], x: int) -> int:
    """Return a polynomial's value at `x`; the constant coefficient comes first."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


def join(shares: Mapping[int, bytes], threshold: int, n_bytes: int) -> bytes:
    """Put a secret together.

    Parameters
    ----------
    shares : mapping of int to bytes
        Shares by their places; of more than needed, any are taken.
    threshold : int
        How many are needed.
    n_bytes : int
        Length of the secret.

    Returns
    -------
    bytes
        The secret.

    Raises
    ------
    CryptoError
        If there are fewer shares than needed, one is malformed, or they are of no such secret.
    """
    if len(shares) < threshold:
        raise CryptoError(f"{len(shares)} shares are left, {threshold} are needed")
    points = []
    for x, share in sorted(shares.items())[:threshold]:
        y = int.from_bytes(share, "big")
        if len(share) != SHARE_BYTES or x < 1 or y >= PRIME:
            raise CryptoError("a share is malformed")
        points.append((x, y))
    secret = 0
    for x, y in points:
        numerator, denominator = 1, 1
        for other, _ in points:
            if other != x:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - x) % PRIME
        secret = (secret + y * numerator * pow(denominator, -1, PRIME)) % PRIME
    if secret >= 1 << (8 * n_bytes):
        raise CryptoError("shares do not belong together: they are of no secret of this length")
    return secret.to_bytes(n_bytes, "big")
