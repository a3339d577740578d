"""The living part of a handle on remote parties, in one process: connections and conversations."""

from __future__ import annotations

import atexit
import contextlib
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fedtl.exceptions import PartyBusy, PartyError, PartyUnreachable
from fedtl.federation._transport import Transport, Unreached
from fedtl.wire import (
    Close,
    ConversationLost,
    Failure,
    Frame,
    Message,
    WireError,
    decode,
    encode,
    pack,
    raised,
    unpack,
)

_IN_FLIGHT = 4  # fewer than a party works on for one caller: more would be told to wait
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_FORGOTTEN_AFTER = 300.0
_CLOSING_SECONDS = 5.0
_AWAY_SECONDS = 1.0  # longer than a connection needs to be tried again


@dataclass(frozen=True)
class Patience:
    """How long is waited, in seconds.

    Parameters
    ----------
    deadline : float
        For one answer, with all attempts.
    reconnect : float
        For a party that cannot be reached to be reachable again.
    compress : bool
        Whether messages that become half as long at least are compressed.
    on_missing : {"raise", "local"}, default="raise"
        What a prediction does without a party that could not be reached for so long.
    """

    deadline: float
    reconnect: float
    compress: bool
    on_missing: str = "raise"


@dataclass
class _Talk:
    """A conversation with one party, of one thread."""

    name: bytes = field(default_factory=lambda: secrets.token_bytes(8))
    number: int = 0
    used: float = field(default_factory=time.monotonic)


class Lines:
    """Connections of one process to all parties of a handle.

    Parameters
    ----------
    group : bytes of length 8
        Names the handle.
    transports : mapping of str to Transport
        By the parties' names.
    patience : Patience
        How long is waited.
    """

    def __init__(
        self, group: bytes, transports: Mapping[str, Transport], patience: Patience
    ) -> None:
        self.group, self.transports, self.patience = group, transports, patience
        self._helpers: dict[str, tuple[str, Transport]] = {}
        self._local = threading.local()
        self._flights = threading.BoundedSemaphore(_IN_FLIGHT)
        self._ended: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._closer: threading.Thread | None = None
        self._held: set[tuple[str, str]] = set()
        self._away: set[str] = set()
        self._lock = threading.Lock()

    def ask(self, party: str, body: bytes) -> bytes:
        """Send an encoded message and return the encoded reply.

        It is sent again, as the same message, when the connection breaks or the party is busy.

        Parameters
        ----------
        party : str
            Name of the party.
        body : bytes
            The encoded message.

        Returns
        -------
        bytes
            The encoded reply, which may be an error's.

        Raises
        ------
        PartyUnreachable
            If no reply came in time.
        WireError
            If what came is no reply to this message.
        """
        until = time.monotonic() + self.patience.deadline
        if not self._flights.acquire(timeout=self.patience.deadline):
            raise PartyUnreachable(
                party, f"{_IN_FLIGHT} requests of this process were not answered in time"
            )
        try:
            return self._ask(party, body, until)
        finally:
            self._flights.release()

    def reach(self, name: str, address: str, connect: Callable[[], Transport]) -> None:
        """Have somebody to ask who is no party: without sessions, so that there is none to end."""
        with self._lock:
            before = self._helpers.get(name)
            if before is None or before[0] != address:
                self._helpers[name] = address, connect()
        if before is not None and before[0] != address:
            before[1].close()

    def hold(self, party: str, session: str) -> None:
        """Note a session that ends with this process at the latest."""
        with self._lock:
            self._held.add((party, session))
            if self._closer is None:
                self._closer = threading.Thread(
                    target=self._end_sessions, name="fedtl sessions", daemon=True
                )
                self._closer.start()
                atexit.register(self._end_held)

    def release(self, sessions: Iterable[tuple[str, str]]) -> None:
        """Leave sessions open: a copy of the estimator needs them."""
        with self._lock:
            self._held.difference_update(sessions)

    def end_later(self, party: str, session: str) -> None:
        """End a session soon, in a thread of its own; may be called by the garbage collector."""
        self._ended.put((party, session))

    def close(self) -> None:
        """End all sessions of the handle, in other processes too, and let go of connections."""
        with self._lock:
            closer, self._closer = self._closer, None
        if closer is not None:
            atexit.unregister(self._end_held)
            self._ended.put(None)
            closer.join(_CLOSING_SECONDS)
        for party, transport in self.transports.items():
            self._end(party, "")
            transport.close()
        for _, transport in self._helpers.values():
            transport.close()

    def _ask(self, party: str, body: bytes, until: float) -> bytes:
        talk = self._talk(party)
        frame, data = self._frame(talk, body)
        pause, broken_since, anew = _FIRST_PAUSE, 0.0, False
        while True:
            try:
                came = self._transport(party).send(data, max(until - time.monotonic(), 0.001))
                self._away.discard(party)
                reply = self._opened(party, frame, came)
                error = _error_in(reply, party)
                if isinstance(error, ConversationLost) and not anew:
                    # Whatever was said before is lost there, sessions included. What needs one
                    # will be refused, so this one message may begin anew.
                    anew, talk = True, self._talk(party, anew=True)
                    frame, data = self._frame(talk, body)
                    continue
                if not isinstance(error, PartyBusy) or time.monotonic() + pause > until:
                    return reply
                broken_since = 0.0
            except Unreached as problem:
                if problem.too_large:
                    raise WireError(f"party {party!r}: {problem}") from None
                now = time.monotonic()
                broken_since = broken_since or now
                patient_until = min(until, broken_since + self._patience(party))
                if problem.final or now + pause > patient_until:
                    self._away.add(party)
                    raise PartyUnreachable(party, _advice(problem)) from None
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _transport(self, name: str) -> Transport:
        return self.transports[name] if name in self.transports else self._helpers[name][1]

    def _patience(self, party: str) -> float:
        """Seconds for which a broken connection is tried; few if it was broken already."""
        reconnect = self.patience.reconnect
        return min(reconnect, _AWAY_SECONDS) if party in self._away else reconnect

    def _talk(self, party: str, anew: bool = False) -> _Talk:
        talks: dict[str, _Talk] = self._local.__dict__.setdefault("talks", {})
        talk = talks.get(party)
        if anew or talk is None or time.monotonic() - talk.used > _FORGOTTEN_AFTER:
            talk = talks[party] = _Talk()
        talk.used = time.monotonic()
        return talk

    def _frame(self, talk: _Talk, body: bytes) -> tuple[Frame, bytes]:
        talk.number += 1
        frame = Frame(self.group, talk.name, talk.number, body, self.patience.compress)
        return frame, pack(frame)

    def _opened(self, party: str, sent: Frame, came: bytes) -> bytes:
        reply = unpack(came)
        if (reply.group, reply.conversation, reply.number) != (
            sent.group,
            sent.conversation,
            sent.number,
        ):
            told = _error_in(reply.body, party)
            raise told or WireError(f"party {party!r}: replied to another message")
        return reply.body

    def _end_sessions(self) -> None:
        while (ended := self._ended.get()) is not None:
            self._end(*ended)

    def _end_held(self) -> None:
        until = time.monotonic() + _CLOSING_SECONDS
        for party, session in sorted(self._held):
            if time.monotonic() < until:
                self._end(party, session)

    def _end(self, party: str, session: str) -> None:
        """End a session; where the party does not answer, its own lease ends it."""
        self._held.discard((party, session))
        with contextlib.suppress(PartyError, WireError):
            self._ask(party, encode(Close(session=session)), time.monotonic() + _CLOSING_SECONDS)


def _error_in(body: bytes, party: str) -> Exception | None:
    """Return the error that a reply tells; cheap where it tells none."""
    if b"party.error/1" not in body[:400]:
        return None
    reply: Message = decode(body)
    return raised(reply, party) if isinstance(reply, Failure) else None


def _advice(problem: Unreached) -> str:
    return (
        f"{problem}. A fit that was under way has to be begun again once the party is back; "
        "nothing of it was kept"
    )
