"""The audit log: JSON lines, each with the hash of the one before.

A line is written, with one call, before the answer that it tells of leaves. It then survives the
death of the process; against a power cut it is forced to the disk once a second, or at every line
if asked for. A line is ``{"n": .., "time": .., "previous": .., ..., "hash": ..}``: `hash` is the
SHA-256 of the line without it, `previous` the hash of the line before. ``n`` counts up whatever
the clock does. Beside the log, ``<log>.head`` holds number and hash of the last line.

A changed, removed, inserted or reordered line breaks the chain. Lines cut off at the end leave
an intact chain: they are found by the head file, or, where that was changed too, by a number and
hash that somebody noted down (``fedtl audit verify --head``). Whoever can write both files and
whose reader has noted nothing can cut off the end unseen.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_START = "0" * 64
_HEAD_BYTES = 86


class AuditError(OSError):
    """The audit log cannot be written, or is not what it was."""


@dataclass(frozen=True)
class Head:
    """The last line of a log.

    Parameters
    ----------
    n : int
        Its number; 0 for an empty log.
    hash : str
        Its hash.
    """

    n: int
    hash: str

    def __str__(self) -> str:
        return f"{self.n}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read ``"number:hash"``."""
        n, _, digest = text.strip().partition(":")
        if not n.isdigit() or len(digest) != 64:
            raise ValueError(f"a head is written as NUMBER:HASH with 64 digits, got {text[:80]!r}")
        return cls(int(n), digest)


class AuditLog:
    """An audit log that is being written; one process at a time may.

    Parameters
    ----------
    path : str or Path
        The file; made, readable by its owner only, if it is not there.
    every_line : bool, default=False
        Whether each line is forced to the disk. Otherwise :meth:`sync` does it.

    Attributes
    ----------
    head : Head
        The last line.
    writable : bool
        Whether the last line could be written.

    Raises
    ------
    AuditError
        If the log was shortened or changed at its end since it was last written, or another
        process writes it.
    """

    def __init__(self, path: str | Path, *, every_line: bool = False) -> None:
        self.path, self.every_line = Path(path), every_line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self.head = Head(0, _START)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._head_file = os.open(head_path(self.path), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock_file(self._file, self.path)
            torn = self._find_end()
        except BaseException:
            self.close()
            raise
        self._dirty, self.writable = False, True
        if torn:
            # Kept as it is, ended, and told of in the next line: nothing is ever removed.
            self._put(b"\n")
            self.append(event="torn line", bytes=len(torn), sha256=_digest(torn))

    def append(self, **entry: Any) -> Head:
        """Write one line.

        Parameters
        ----------
        **entry : dict
            What is told, as JSON values.

        Returns
        -------
        Head
            The line's number and hash.

        Raises
        ------
        AuditError
            If it cannot be written whole. What was written of it is taken back.
        """
        with self._lock:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            told = {"n": self.head.n + 1, "time": now, "previous": self.head.hash} | entry
            text = _canonical(told)
            digest = _digest(text)
            self._put(_ended(text, digest))
            self.head = Head(self.head.n + 1, digest)
            os.pwrite(self._head_file, f"{self.head}\n".rjust(_HEAD_BYTES).encode(), 0)
            self._dirty = True
            if self.every_line:
                os.fsync(self._file)
            return self.head

    def sync(self) -> None:
        """Force what was written to the disk."""
        with self._lock:
            if self._dirty:
                os.fsync(self._file)
                self._dirty = False

    def close(self) -> None:
        """Force what was written to the disk and close the log; further lines are refused."""
        with self._lock:
            for file in (self._file, self._head_file):
                if file >= 0:
                    os.fsync(file)
                    os.close(file)
            self._file = self._head_file = -1

    def _put(self, data: bytes) -> None:
        if self._file < 0:
            raise AuditError(f"the audit log {self.path} is closed")
        written = 0
        try:
            written = os.write(self._file, data)
            if written != len(data):
                raise OSError(f"{written} of {len(data)} bytes written")
            self.writable = True
        except OSError as error:
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            self.writable = False
            raise AuditError(f"the audit log {self.path} cannot be written: {error}") from error

    def _find_end(self) -> bytes:
        """Find the last whole line, hold it against the head file, return what is torn."""
        before, torn = self.head, b""
        with self.path.open("rb") as file:
            for line in file:
                found = _parsed(line)
                torn = b"" if line.endswith(b"\n") else line
                if found is not None:
                    before, self.head = self.head, Head(found["n"], found["hash"])
        noted = read_head(self.path)
        # The head is written after its line, so that a line may be there without its head.
        if noted is not None and noted not in (self.head, before):
            raise AuditError(
                f"the audit log {self.path} ends with line {self.head.n}, but its last line was "
                f"{noted.n}; bring it back, or move it and {head_path(self.path).name} to where "
                "they are kept as evidence"
            )
        return torn


@dataclass
class Verdict:
    """What :func:`verify` found.

    Parameters
    ----------
    head : Head
        The last line that could be read.
    problems : list of str
        What is wrong, by the number of the line in the file.
    notes : list of str
        What is not wrong but should be known: torn lines that the service has told of.
    """

    head: Head
    problems: list[str]
    notes: list[str]


def verify(path: str | Path, noted: Head | None = None) -> Verdict:
    """Check an audit log.

    Parameters
    ----------
    path : str or Path
        The file.
    noted : Head, optional
        A line that was noted down earlier and must be there.

    Returns
    -------
    Verdict
        Without problems if the log is as it was written, as far as that can be found.
    """
    path = Path(path)
    verdict = Verdict(Head(0, _START), [], [])
    expected = [head for head in (noted, read_head(path)) if head is not None]
    wanted = {head.n: head.hash for head in expected}
    torn: bytes | None = None
    with path.open("rb") as file:
        for position, line in enumerate(file, start=1):
            found = _parsed(line)
            if found is None:
                if torn is not None:
                    verdict.problems.append(f"line {position - 1}: damaged")
                torn = line
                continue
            if torn is not None:
                _explain(torn, found, position, verdict)
                torn = None
            _follow(found, line, position, verdict)
            if wanted.get(found["n"], found["hash"]) != found["hash"]:
                verdict.problems.append(f"line {position}: not the line {found['n']} noted before")
    if torn is not None:
        where = "the last line is torn: the service died while it wrote it, or it was cut"
        (verdict.notes if not torn.endswith(b"\n") else verdict.problems).append(where)
    for head in expected:
        if head.n > verdict.head.n:
            verdict.problems.append(
                f"the log ends with line {verdict.head.n}, but line {head.n} was written"
            )
    return verdict


def head_path(path: Path) -> Path:
    """Return the file that holds the last line's number and hash."""
    return path.with_name(path.name + ".head")


def read_head(path: Path) -> Head | None:
    """Return what the head file of a log says, or None if it says nothing."""
    try:
        return Head.parse(head_path(path).read_text())
    except (OSError, ValueError):
        return None


def _follow(found: dict[str, Any], line: bytes, position: int, verdict: Verdict) -> None:
    text = _canonical({key: value for key, value in found.items() if key != "hash"})
    before = verdict.head
    if _digest(text) != found["hash"] or _ended(text, found["hash"]) != line:
        verdict.problems.append(f"line {position}: changed")
    elif found["previous"] != before.hash or found["n"] != before.n + 1:
        verdict.problems.append(
            f"line {position}: number {found['n']} does not follow number {before.n}; lines "
            "before it were removed, inserted or reordered"
        )
    verdict.head = Head(found["n"], found["hash"])


def _explain(torn: bytes, found: dict[str, Any], position: int, verdict: Verdict) -> None:
    rest = torn[:-1]
    if found.get("event") == "torn line" and found.get("sha256") == _digest(rest):
        verdict.notes.append(f"line {position - 1}: torn when the service died, as line told")
    else:
        verdict.problems.append(f"line {position - 1}: damaged")


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
        whole = line.endswith(b"\n") and type(found["n"]) is int and type(found["hash"]) is str
        return found if whole and type(found["previous"]) is str else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode


def _canonical(told: dict[str, Any]) -> bytes:
    return _to_json(told).encode()


def _ended(text: bytes, digest: str) -> bytes:
    return text[:-1] + f',"hash":"{digest}"}}\n'.encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _lock_file(file: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise AuditError(f"another process writes the audit log {path}") from None
