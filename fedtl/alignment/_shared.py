"""An alignment cache that several processes of one machine share, in files of its owner alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedtl.alignment._cache import AlignmentCache, KnownList

_SALT = "salt"


class SharedCache(AlignmentCache):
    """What all processes that use one handle know of parties' ids.

    Whoever asks a party holds a lock on its file meanwhile, so that two processes do not ask the
    same; what is already in the file is read first. Where the folder has gone, or the system has no
    such locks, the cache goes on by itself.

    Parameters
    ----------
    folder : Path
        Where it is; made by :meth:`share`.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._salt = (folder / _SALT).read_bytes()
        self._seen: dict[str, int] = {}

    @classmethod
    def share(cls, cache: AlignmentCache, folder: Path) -> SharedCache:
        """Write down what a cache knows, for other processes to go on from.

        Parameters
        ----------
        cache : AlignmentCache
            A cache of this process.
        folder : Path
            A folder that is not there so far.

        Returns
        -------
        SharedCache
            The same, shared.

        Raises
        ------
        OSError
            If the folder cannot be made.
        """
        folder.mkdir(mode=0o700, parents=True)
        _write(folder / _SALT, lambda file: file.write(cache._salt))
        shared = cls(folder)
        for party, known in list(cache.lists.items()):
            with shared.lock(party):
                shared.lists[party] = known
        return shared

    def remove(self) -> None:
        """Delete the files; processes that still use them go on by themselves."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def lock(self, party: str) -> Iterator[None]:  # type: ignore[override]
        """Hold what is known of a party while it is asked: read before, written afterwards."""
        path = self.folder / party.encode().hex()
        with super().lock(party), _alone(path.with_suffix(".lock")) as shared:
            if shared:
                self._read(party, path)
            before = self.lists.get(party)
            digests = None if before is None else before.digests
            try:
                yield
            finally:
                known = self.lists.get(party)
                if shared and known is None:
                    path.unlink(missing_ok=True)
                elif shared and known is not None and known.digests is not digests:
                    _write(path, lambda file: _save(file, known))
                    self._seen[party] = path.stat().st_mtime_ns

    def _read(self, party: str, path: Path) -> None:
        if not path.exists():  # another process was told that the party's ids have changed
            self.lists.pop(party, None)
        elif path.stat().st_mtime_ns != self._seen.get(party):
            self._seen[party] = path.stat().st_mtime_ns
            with np.load(path, allow_pickle=False) as held:
                self.lists[party] = KnownList(
                    str(held["name"]), held["tags"], held["digests"], held["positions"]
                )


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Have a file to oneself; tells whether that is so."""
    try:
        import fcntl

        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except (ImportError, OSError):
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield True
    finally:
        os.close(file)


def _write(path: Path, put: Callable[[BinaryIO], object]) -> None:
    """Replace a file at once, readable by its owner only."""
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        put(file)
    os.replace(draft, path)


def _save(file: BinaryIO, known: KnownList) -> None:
    np.savez(
        file,
        name=np.array(known.name),
        tags=known.tags,
        digests=known.digests,
        positions=known.positions,
    )
