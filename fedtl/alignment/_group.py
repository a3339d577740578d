"""The group of the private set intersection: ristretto255, in batches over threads.

ristretto255 (RFC 9496) is a group of prime order with one encoding of 32 bytes for each element.
So a received encoding is either an element or refused, and there are no small subgroups that could
tell something about a secret scalar. The arithmetic is libsodium's, by the package rbcl; its
scalar multiplication takes the same time for all scalars.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import joblib
import numpy as np

POINT_BYTES = 32
SCALAR_BYTES = 32
_DOMAIN = b"fedtl/alignment/1/id/ristretto255/sha512/"
_CHUNK = 512


class InvalidPoint(ValueError):
    """Bytes that are no element of the group, or its identity, which would match everything."""


def hash_to_group(ids: Sequence[bytes], n_threads: int | None = None) -> np.ndarray:
    """Map ids to group elements of which nobody knows a discrete logarithm.

    SHA-512 with a domain of this protocol's own, then the one-way map of RFC 9496, section 4.3.4.

    Parameters
    ----------
    ids : sequence of bytes
        Canonical ids.
    n_threads : int, optional
        Threads to share the work; all cores by default.

    Returns
    -------
    ndarray of shape (n_ids, 32), dtype uint8
        Encoded elements.

    Examples
    --------
    >>> from fedtl.alignment import hash_to_group
    >>> hash_to_group([b"7", b"8"]).shape
    (2, 32)
    """
    from_hash = _rbcl().crypto_core_ristretto255_from_hash

    def chunk(start: int, stop: int) -> bytes:
        return b"".join(from_hash(hashlib.sha512(_DOMAIN + i).digest()) for i in ids[start:stop])

    return _in_chunks(chunk, len(ids), n_threads)


def multiply(scalar: bytes, points: np.ndarray, n_threads: int | None = None) -> np.ndarray:
    """Multiply group elements by a scalar.

    Parameters
    ----------
    scalar : bytes
        32 bytes, little-endian, below the order of the group and not zero.
    points : ndarray of shape (n_points, 32), dtype uint8
        Encoded elements, from whomever.
    n_threads : int, optional
        Threads to share the work; all cores by default.

    Returns
    -------
    ndarray of shape (n_points, 32), dtype uint8
        Encoded products.

    Raises
    ------
    InvalidPoint
        If an encoding is no element of the group, or is the identity.
    """
    product = _rbcl().crypto_scalarmult_ristretto255
    data = np.ascontiguousarray(points, dtype=np.uint8).tobytes()

    def chunk(start: int, stop: int) -> bytes:
        offsets = range(start * POINT_BYTES, stop * POINT_BYTES, POINT_BYTES)
        return b"".join(product(scalar, data[i : i + POINT_BYTES]) for i in offsets)

    try:
        return _in_chunks(chunk, len(points), n_threads)
    except RuntimeError:  # all that rbcl says of a refused element
        raise InvalidPoint(
            f"one of {len(points)} points is no element of ristretto255, or the identity"
        ) from None


def random_scalar() -> bytes:
    """Return a secret scalar from the operating system's randomness: 32 bytes."""
    return scalar_from(os.urandom(64))


def scalar_from(uniform: bytes) -> bytes:
    """Return 64 uniform bytes modulo the order of the group, as a scalar of 32 bytes."""
    return _rbcl().crypto_core_ristretto255_scalar_reduce(uniform)


def invert(scalar: bytes) -> bytes:
    """Return the scalar that undoes the multiplication by `scalar`."""
    return _rbcl().crypto_core_ristretto255_scalar_invert(scalar)


def _in_chunks(
    chunk: Callable[[int, int], bytes], n_items: int, n_threads: int | None
) -> np.ndarray:
    starts = range(0, n_items, _CHUNK)
    stops = [min(start + _CHUNK, n_items) for start in starts]
    n_threads = min(n_threads or joblib.cpu_count(), len(starts))
    if n_threads <= 1:
        parts = [chunk(start, stop) for start, stop in zip(starts, stops, strict=True)]
    else:  # libsodium is called without the interpreter's lock
        with ThreadPoolExecutor(n_threads) as pool:
            parts = list(pool.map(chunk, starts, stops))
    return np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(n_items, POINT_BYTES)


@cache
def _rbcl() -> Any:
    # Imported on first use, as it unpacks libsodium into a temporary file, which it does not
    # remove. Once it is loaded, the file's name is not needed any more; where the system does
    # not let go of the name, it stays.
    rbcl = importlib.import_module("rbcl")
    with contextlib.suppress(OSError, AttributeError, ImportError):
        os.unlink(importlib.import_module("rbcl._sodium").lib_path)
    return rbcl
