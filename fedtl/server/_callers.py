"""What a party keeps for each caller: sessions with leases, conversations, last replies.

A session belongs to the caller that opened it, by being in that caller's own service object:
another caller has no way to name it.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fedtl.exceptions import PartyBusy, PolicyRefusal
from fedtl.parties import PartyService
from fedtl.wire import ConversationLost, Frame, WireError


@dataclass(frozen=True)
class Bounds:
    """What a caller may take of the service.

    Parameters
    ----------
    sessions : int, default=256
        Sessions that are open at once.
    session_seconds : float, default=86400.0
        How long a session is kept that nobody asks about.
    in_flight : int, default=6
        Requests that are worked on at once: fewer than the service has threads, so that one
        caller cannot keep all of them from the others.
    conversations : int, default=1024
        Conversations that are known at once.
    conversation_seconds : float, default=900.0
        How long one is known that nothing is said in: for so long a repeated request is not
        carried out again.
    reply_bytes : int, default=2**26
        Bytes of the last replies that are kept for requests that are repeated. The reply to the
        last request is kept whatever its size.
    """

    sessions: int = 256
    session_seconds: float = 86_400.0
    in_flight: int = 6
    conversations: int = 1024
    conversation_seconds: float = 900.0
    reply_bytes: int = 2**26


@dataclass(eq=False)
class Conversation:
    """Requests of one thread of a caller, and what the last one was answered.

    Its lock is held while a request is worked on, so that one that is repeated meanwhile waits
    for the reply.
    """

    number: int = 0
    checksum: int = 0
    reply: bytes | None = None
    used: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def repeated(self, frame: Frame) -> bytes | None:
        """Return the reply if this request was answered before; refuse what is out of order."""
        if frame.number > self.number:
            return None
        if frame.number < self.number:
            raise WireError(
                f"message {frame.number} of a conversation came after message {self.number}: "
                "replayed or reordered"
            )
        if checksum(frame.body) != self.checksum:
            raise WireError(f"message {frame.number} of a conversation came again with other words")
        if self.reply is None:
            raise WireError(
                f"message {frame.number} of a conversation came again when its reply was no "
                "longer kept"
            )
        return self.reply


def checksum(body: bytes) -> int:
    """Return what tells messages apart that came under one number by mistake."""
    # Whoever makes two of one checksum on purpose gets a reply that it had before.
    return zlib.crc32(body)


@dataclass(eq=False)
class _Lease:
    group: bytes
    used: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class Caller:
    """One partner: its service object, with its own sessions and quotas.

    Parameters
    ----------
    service : PartyService
        With the caller's usage, and no sessions of others.
    bounds : Bounds
        What it may take.
    """

    def __init__(self, service: PartyService, bounds: Bounds) -> None:
        self.service, self.bounds = service, bounds
        self._lock = threading.Lock()
        self._kept_bytes = 0
        self._flights = threading.BoundedSemaphore(bounds.in_flight)
        self._conversations: OrderedDict[tuple[bytes, bytes], Conversation] = OrderedDict()
        self._leases: dict[str, _Lease] = {}

    @contextmanager
    def flight(self) -> Iterator[None]:
        """Be one of the requests in flight, or refuse it."""
        if not self._flights.acquire(blocking=False):
            raise PartyBusy(
                self.service.name,
                f"{self.bounds.in_flight} requests of this caller are being worked on; ask again",
            )
        try:
            yield
        finally:
            self._flights.release()

    def conversation(self, frame: Frame) -> Conversation:
        """Return the conversation that a frame belongs to, a new one for its first message."""
        key = (frame.group, frame.conversation)
        with self._lock:
            found = self._conversations.get(key)
            if found is None:
                if frame.number != 1:
                    raise ConversationLost(
                        self.service.name,
                        "was started anew, or has heard nothing for too long; fit the estimator "
                        "again",
                    )
                self._make_room()
                found = self._conversations[key] = Conversation()
            found.used = time.monotonic()
            self._conversations.move_to_end(key)
            return found

    def _make_room(self) -> None:
        if len(self._conversations) < self.bounds.conversations:
            return
        oldest, conversation = next(iter(self._conversations.items()))
        if conversation.used > time.monotonic() - self.bounds.conversation_seconds:
            # Forgetting it now might carry out a repeated request twice.
            raise PartyBusy(
                self.service.name,
                f"{self.bounds.conversations} conversations with this caller are going on; use "
                "one Federation object for all estimators",
            )
        self._forget_reply(self._conversations.pop(oldest))

    def remember(self, conversation: Conversation, reply: bytes) -> None:
        """Keep a reply, and forget older ones that are too many bytes together."""
        with self._lock:
            self._kept_bytes += len(reply) - len(conversation.reply or b"")
            conversation.reply = reply
            if self._kept_bytes <= self.bounds.reply_bytes:
                return
            for other in self._conversations.values():  # those of long ago first
                if other is not conversation and self._kept_bytes > self.bounds.reply_bytes:
                    self._forget_reply(other)

    def _forget_reply(self, conversation: Conversation) -> None:
        self._kept_bytes -= len(conversation.reply or b"")
        conversation.reply = None

    @contextmanager
    def session(self, name: str, group: bytes, opens: bool) -> Iterator[None]:
        """Have a session for oneself, while a request about it is answered."""
        with self._lock:
            lease = self._leases.get(name)
            if lease is None and opens:
                if len(self._leases) >= self.bounds.sessions:
                    raise PolicyRefusal(
                        self.service.name,
                        f"{self.bounds.sessions} sessions of this caller are open; close its "
                        "Federation or delete fitted estimators that are not needed",
                    )
                lease = self._leases[name] = _Lease(group, time.monotonic())
        if lease is None:
            yield  # there is no such session, which the protocol will say
            return
        with lease.lock:
            try:
                yield
            finally:
                lease.used = time.monotonic()
                if name not in self.service.sessions and name not in self.service.fits:
                    with self._lock:
                        self._leases.pop(name, None)

    def close(self, name: str, group: bytes) -> int:
        """End a session, or all of a handle if the name is empty; return how many."""
        with self._lock:
            names = [n for n, lease in self._leases.items() if not name and lease.group == group]
        return sum(self._end(n) for n in ([name] if name else names))

    def sweep(self) -> int:
        """End sessions and forget conversations that were not used for long; count sessions."""
        now = time.monotonic()
        with self._lock:
            last = now - self.bounds.session_seconds
            # One whose lock is taken is being used.
            old = [n for n, x in self._leases.items() if x.used < last and not x.lock.locked()]
            last = now - self.bounds.conversation_seconds
            for key in [k for k, x in self._conversations.items() if x.used < last]:
                self._forget_reply(self._conversations.pop(key))
        return sum(self._end(name) for name in old)

    def _end(self, name: str) -> int:
        with self._lock:
            lease = self._leases.pop(name, None)
        if lease is None:
            return 0
        with lease.lock:
            self.service.sessions.pop(name, None)
            self.service.fits.pop(name, None)
        return 1

    @property
    def n_sessions(self) -> int:
        """How many sessions are open."""
        return len(self._leases)
