"""What the asking side remembers of an alignment, so that no id is asked about twice."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedtl.alignment._psi import TAG_BYTES, UNKNOWN


@dataclass(eq=False)
class KnownList:
    """What is known of one party's list.

    Parameters
    ----------
    name : str
        Name of the list.
    tags : ndarray of shape (n_tags, 16), dtype uint8
        The party's tags.
    """

    name: str
    tags: np.ndarray
    digests: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=f"S{TAG_BYTES}"))
    positions: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def look_up(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return position and whether it is known already, for each digest of an id."""
        if not len(self.digests):
            none = np.zeros(len(digests), dtype=bool)
            return np.full(len(digests), UNKNOWN, dtype=np.int64), none
        at = np.minimum(np.searchsorted(self.digests, digests), len(self.digests) - 1)
        asked = self.digests[at] == digests
        return np.where(asked, self.positions[at], UNKNOWN), asked

    def add(self, digests: np.ndarray, positions: np.ndarray, max_ids: int) -> None:
        """Remember the positions of new ids; if there is no room, instead of all others."""
        if len(self.digests) + len(digests) <= max_ids:
            digests = np.concatenate([self.digests, digests])
            positions = np.concatenate([self.positions, positions])
        elif len(digests) > max_ids:
            digests, positions = digests[:max_ids], positions[:max_ids]
        order = np.argsort(digests)
        self.digests, self.positions = digests[order], positions[order]


class AlignmentCache:
    """Positions that parties gave for ids, by party; may be used by several threads at once.

    The ids of a cross-validation are aligned once: a fold's are a part of those that were asked
    about before. It holds keyed hashes of ids, not the ids. A copy in another process starts with
    all that was known when it was made, and goes on by itself.

    Parameters
    ----------
    max_ids : int, default=2_000_000
        Ids that are remembered for each party; about 24 bytes each.

    See Also
    --------
    fedtl.protocols.alignment.align : Aligns ids with a party.

    Examples
    --------
    >>> from fedtl.alignment import AlignmentCache
    >>> AlignmentCache()
    AlignmentCache({})
    """

    def __init__(self, max_ids: int = 2_000_000) -> None:
        self.max_ids = max_ids
        self.lists: dict[str, KnownList] = {}
        self._salt = os.urandom(32)
        self._make_locks()

    def digests(self, ids: Sequence[bytes], normalisation: str) -> np.ndarray:
        """Return keyed hashes by which ids are remembered.

        Parameters
        ----------
        ids : sequence of bytes
            Canonical ids.
        normalisation : str
            What they were normalised by.

        Returns
        -------
        ndarray of shape (n_ids,), dtype S16
            One for each.
        """
        start = hashlib.blake2b(
            normalisation.encode().ljust(64), digest_size=TAG_BYTES, key=self._salt
        )
        hashed = []
        for each in ids:
            one = start.copy()
            one.update(each)
            hashed.append(one.digest())
        return np.frombuffer(b"".join(hashed), dtype=f"S{TAG_BYTES}")

    def lock(self, party: str) -> threading.Lock:
        """Return what is held while a party is asked, so that two threads do not ask the same."""
        with self._lock:
            return self._locks.setdefault(party, threading.Lock())

    def forget(self, party: str) -> None:
        """Forget what a party said; the next alignment asks it anew.

        Parameters
        ----------
        party : str
            Name of the party.
        """
        with self.lock(party):
            self.lists.pop(party, None)

    def _make_locks(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in {"_lock", "_locks"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_locks()

    def __repr__(self) -> str:
        held = {party: len(known.digests) for party, known in sorted(self.lists.items())}
        return f"AlignmentCache({held})"
