"""Private set intersection with Diffie-Hellman on ristretto255.

The passive party has a secret scalar b and maps each of its ids y to H(y)^b. The asking side
blinds its ids, H(x)^a, has them raised to b, and takes its own a off again: it then holds H(x)^b
and finds out where it equals one of the party's. The party sees H(x)^a only, which is a random
element to whoever does not know a.

From H(y)^b both sides derive a **label**: a tag of 128 bits, which the party gives away for all
of its ids, and a *position* of 63 bits, which it never does. Only whoever had the party raise an
id to b knows the position of that id's row, so that nobody can name a row without its id.

This is the semi-honest protocol of Huberman, Franklin and Hogg (1999), in the form of De Cristofaro
and Tsudik (2010) with hashed results; as an oblivious pseudo-random function it is 2HashDH of
Jarecki, Kiayias and Krawczyk (2014). The code has not been audited.

References
----------
- B. Huberman, M. Franklin, T. Hogg: Enhancing privacy and trust in electronic communities. 1999.
- E. De Cristofaro, G. Tsudik: Practical private set intersection protocols with linear
  complexity. 2010.
- S. Jarecki, A. Kiayias, H. Krawczyk: Round-optimal password-protected secret sharing and T-PAKE
  in the password-only model. 2014.
- RFC 9496: The ristretto255 and decaf448 Groups. 2023.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from fedtl.alignment._group import (
    hash_to_group,
    invert,
    multiply,
    random_scalar,
    scalar_from,
)

TAG_BYTES = 16
UNKNOWN = -1
_LABEL = b"fedtl/alignment/1/label/"
_LIST = b"fedtl/alignment/1/list/"


def label(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derive the tag and the position of each H(x)^b.

    Parameters
    ----------
    points : ndarray of shape (n_ids, 32), dtype uint8
        Encoded elements.

    Returns
    -------
    tags : ndarray of shape (n_ids, 16), dtype uint8
        What is compared.
    positions : ndarray of shape (n_ids,), dtype int64
        What names a row, not negative.
    """
    data = np.ascontiguousarray(points).tobytes()
    hashed = b"".join(
        hashlib.sha512(_LABEL + data[i : i + 32]).digest()[:24] for i in range(0, len(data), 32)
    )
    parts = np.frombuffer(hashed, dtype=np.uint8).reshape(-1, 24)
    positions = parts[:, TAG_BYTES:].copy().view("<i8")[:, 0].astype(np.int64)
    return parts[:, :TAG_BYTES].copy(), positions & np.int64(2**63 - 1)


class KeyList:
    """A party's ids, as another party may ask about them.

    Parameters
    ----------
    ids : sequence of (bytes or None)
        Canonical id of each row, different ones; None where a row has none.
    secret : bytes, optional
        What the list's key is derived from, together with the ids: the same secret and ids give
        the same list, so that positions outlive a restart. New and random by default.
    n_threads : int, optional
        Threads to share the work; all cores by default.

    Attributes
    ----------
    name : str
        Names this list; another secret, or other ids, have another name.
    tags : ndarray of shape (n_ids, 16), dtype uint8
        Tag of each id, in the order of the tags, which says nothing of the rows.

    Examples
    --------
    >>> from fedtl.alignment import KeyList, Matcher
    >>> shop = KeyList([b"ann", b"bob", None])
    >>> bank = Matcher([b"eve", b"bob"])
    >>> positions = bank.positions(shop.answer(bank.points), shop.tags)
    >>> shop.rows(positions)
    array([-1,  1])
    """

    def __init__(
        self,
        ids: Sequence[bytes | None],
        secret: bytes | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.n_threads = n_threads
        rows = np.array([r for r, i in enumerate(ids) if i is not None], dtype=np.int64)
        self._points = hash_to_group([i for i in ids if i is not None], n_threads)
        seed = _seed(self._points, os.urandom(32) if secret is None else secret)
        self.name = hashlib.sha512(seed + b"name").hexdigest()[:32]
        self._key = scalar_from(hashlib.sha512(seed + b"key").digest())
        tags, positions = label(multiply(self._key, self._points, n_threads))
        self.tags = tags[np.argsort(_as_text(tags))]
        order = np.argsort(positions)
        self._positions, self._rows = positions[order], rows[order]
        if len(np.unique(positions)) < len(positions):
            raise ValueError("two ids have one position: an id occurs more than once")

    def __len__(self) -> int:
        return len(self.tags)

    def answer(self, points: np.ndarray) -> np.ndarray:
        """Raise blinded ids to the list's key.

        Parameters
        ----------
        points : ndarray of shape (n_points, 32), dtype uint8
            What the asking side sent.

        Returns
        -------
        ndarray of shape (n_points, 32), dtype uint8
            The same, raised to the key.

        Raises
        ------
        InvalidPoint
            If a point is none.
        """
        return multiply(self._key, points, self.n_threads)

    def shuffled(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raise blinded ids to a key of this call alone, and forget their order.

        With the list's own key the asking side could recognise an id that it asks about in two
        calls, and so find out which of the ids are shared.

        Parameters
        ----------
        points : ndarray of shape (n_points, 32), dtype uint8
            What the asking side sent.

        Returns
        -------
        points : ndarray of shape (n_points, 32), dtype uint8
            The same, raised to the key, in a random order.
        tags : ndarray of shape (n_ids, 16), dtype uint8
            The party's tags under that key, sorted.

        Raises
        ------
        InvalidPoint
            If a point is none.
        """
        key = random_scalar()
        raised = multiply(key, points, self.n_threads)
        tags, _ = label(multiply(key, self._points, self.n_threads))
        # The encodings are random elements: their own order is a random one.
        return raised[np.argsort(_as_text(raised))], tags[np.argsort(_as_text(tags))]

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Find rows.

        Parameters
        ----------
        positions : ndarray of shape (n,), dtype int64
            Positions of this list.

        Returns
        -------
        ndarray of shape (n,), dtype int64
            Row of each; -1 where the position is none of this list's.
        """
        if not len(self):
            return np.full(len(positions), UNKNOWN, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._positions, positions), len(self) - 1)
        return np.where(self._positions[at] == positions, self._rows[at], UNKNOWN)


class Matcher:
    """The asking side of one exchange: ids that are blinded with a secret of this object alone.

    Parameters
    ----------
    ids : sequence of bytes
        Canonical ids, different ones.
    n_threads : int, optional
        Threads to share the work; all cores by default.

    Attributes
    ----------
    points : ndarray of shape (n_ids, 32), dtype uint8
        What is sent.
    """

    def __init__(self, ids: Sequence[bytes], n_threads: int | None = None) -> None:
        self.n_threads = n_threads
        self._key = random_scalar()
        self.points = multiply(self._key, hash_to_group(ids, n_threads), n_threads)

    def positions(self, raised: np.ndarray, tags: np.ndarray) -> np.ndarray:
        """Find out which ids the party has.

        Parameters
        ----------
        raised : ndarray of shape (n_ids, 32), dtype uint8
            The party's answer to the points, in their order or, for a count, in any.
        tags : ndarray of shape (n_tags, 16), dtype uint8
            The party's tags, sorted.

        Returns
        -------
        ndarray of shape (n_ids,), dtype int64
            Position of each id in the party's list, -1 where it does not have it.

        Raises
        ------
        InvalidPoint
            If a point is none.
        """
        own, positions = label(multiply(invert(self._key), raised, self.n_threads))
        if not len(tags):
            return np.full(len(own), UNKNOWN, dtype=np.int64)
        theirs, mine = _as_text(tags), _as_text(own)
        at = np.minimum(np.searchsorted(theirs, mine), len(theirs) - 1)
        return np.where(theirs[at] == mine, positions, UNKNOWN)


def is_sorted(tags: np.ndarray) -> bool:
    """Return whether tags are in order and different, as a party must send them."""
    text = _as_text(tags)
    return bool((text[1:] > text[:-1]).all())


def _as_text(rows: np.ndarray) -> np.ndarray:
    # NumPy ignores zeros at the end of a byte string: no two of one length become equal by that.
    return np.ascontiguousarray(rows).view(f"S{rows.shape[1]}")[:, 0]


def _seed(points: np.ndarray, secret: bytes) -> bytes:
    """A secret of this list: of the party's secret and the set of its ids."""
    ids = hashlib.sha512(np.sort(_as_text(points)).tobytes()).digest()
    return _LIST + hashlib.sha512(_LIST + secret + ids).digest()
