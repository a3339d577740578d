"""Updates in fewer bytes: the largest changes only, and eight bits a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedtl.learning.strategies import Memory

BLOCK = 256


@dataclass(frozen=True)
class Compression:
    """How updates are made smaller on their way to the coordinator.

    What is lost in one round a party adds to its update of the next (error feedback), so that
    nothing is lost for good.

    Parameters
    ----------
    eight_bits : bool, default=False
        Whether numbers are rounded to 256 levels between the least and the greatest of each
        block of 256.
    top : float, default=1.0
        Share of numbers that are sent, those of greatest magnitude.

    Notes
    -----
    Top-k with error feedback: Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS
    2018. Eight bits: Dettmers, "8-bit approximations for parallelism in deep learning", ICLR
    2016, with linear levels.
    """

    eight_bits: bool = False
    top: float = 1.0

    @property
    def lossless(self) -> bool:
        """Whether everything is sent as it is."""
        return not self.eight_bits and self.top >= 1.0


@dataclass(frozen=True, eq=False)
class Packed:
    """Vectors in fewer bytes.

    Parameters
    ----------
    indices : ndarray of shape (n_vectors, n_sent), dtype uint32
        Which numbers were sent, in increasing order; of length 0 if all.
    values : ndarray of shape (n_vectors, n_sent), dtype float32
        The numbers; of length 0 if they are in `codes`.
    codes : ndarray of shape (n_vectors, n_sent), dtype uint8
        Levels; of length 0 if they are in `values`.
    ranges : ndarray of shape (n_vectors, n_blocks, 2), dtype float32
        The least number and the width of a level, for each block of codes.
    """

    indices: np.ndarray
    values: np.ndarray
    codes: np.ndarray
    ranges: np.ndarray


def pack(vectors: np.ndarray, how: Compression) -> Packed:
    """Make vectors smaller.

    Parameters
    ----------
    vectors : ndarray of shape (n_vectors, n), dtype float32
        What is to be sent.
    how : Compression
        How.

    Returns
    -------
    Packed
        What is sent.
    """
    n_vectors, n = vectors.shape
    indices = np.empty((n_vectors, 0), dtype=np.uint32)
    if how.top < 1.0:
        kept = max(1, math.ceil(how.top * n))
        largest = np.argpartition(-np.abs(vectors), kept - 1, axis=1)[:, :kept]
        indices = np.sort(largest, axis=1).astype(np.uint32)
        vectors = np.take_along_axis(vectors, indices.astype(np.int64), axis=1)
    if not how.eight_bits:
        codes = np.empty((n_vectors, 0), dtype=np.uint8)
        return Packed(indices, vectors, codes, np.empty((n_vectors, 0, 2), dtype=np.float32))
    starts = np.arange(0, vectors.shape[1], BLOCK)
    low = np.minimum.reduceat(vectors, starts, axis=1)
    width = (np.maximum.reduceat(vectors, starts, axis=1) - low) / np.float32(255.0)
    block = np.arange(vectors.shape[1]) // BLOCK
    safe = np.where(width > 0, width, np.float32(1.0))
    codes = np.rint((vectors - low[:, block]) / safe[:, block]).clip(0, 255).astype(np.uint8)
    values = np.empty((n_vectors, 0), dtype=np.float32)
    return Packed(indices, values, codes, np.stack([low, width], axis=2))


def pack_with_feedback(vectors: np.ndarray, memory: Memory, how: Compression) -> Packed:
    """Make an update smaller, and remember what was lost for the next one.

    Parameters
    ----------
    vectors : ndarray of shape (n_vectors, n), dtype float32
        What is to be sent.
    memory : Memory
        What the sender remembers; its ``"residual"`` is added now, and replaced.
    how : Compression
        How.

    Returns
    -------
    Packed
        What is sent.
    """
    if how.lossless:
        return pack(vectors, how)
    wanted = vectors + memory.get("residual", np.zeros_like(vectors))
    packed = pack(wanted, how)
    memory["residual"] = wanted - unpack(packed, vectors.shape[1])
    return packed


def unpack(packed: Packed, n: int) -> np.ndarray:
    """Return what :func:`pack` was given, as far as it was sent.

    Parameters
    ----------
    packed : Packed
        What came.
    n : int
        Length of the vectors.

    Returns
    -------
    ndarray of shape (n_vectors, n), dtype float32
        The vectors, zero where nothing was sent.

    Raises
    ------
    ValueError
        If the parts do not fit together.
    """
    coded = packed.codes.shape[1] > 0
    sent = packed.codes if coded else packed.values
    sparse = packed.indices.shape[1] > 0
    n_blocks = math.ceil(sent.shape[1] / BLOCK) if coded else 0
    if coded and packed.values.shape[1]:
        raise ValueError("numbers came both as they are and in eight bits")
    if packed.ranges.shape[1] != n_blocks:
        raise ValueError(f"{packed.ranges.shape[1]} blocks came, expected {n_blocks}")
    if sent.shape[1] != (packed.indices.shape[1] if sparse else n):
        expected = packed.indices.shape[1] if sparse else n
        raise ValueError(f"{sent.shape[1]} numbers came, expected {expected}")
    if coded:
        block = np.arange(sent.shape[1]) // BLOCK
        low, width = packed.ranges[:, block, 0], packed.ranges[:, block, 1]
        sent = low + sent.astype(np.float32) * width
    if not sparse:
        return sent
    indices = packed.indices.astype(np.int64)
    if indices.max() >= n or (np.diff(indices, axis=1) <= 0).any():
        raise ValueError("positions are out of range or not in increasing order")
    vectors = np.zeros((len(sent), n), dtype=np.float32)
    np.put_along_axis(vectors, indices, sent, axis=1)
    return vectors
