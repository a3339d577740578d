"""How a message reaches a party and its reply comes back."""

from __future__ import annotations

from typing import Protocol, TypeVar

from fedtl.exceptions import PartyError
from fedtl.federation._ledger import Ledger
from fedtl.federation._transcript import recording
from fedtl.parties import PartyService
from fedtl.wire import Message, checked_size, decode, encode

R = TypeVar("R", bound=Message)


class Channel(Protocol):
    """The active party's end of the border to one other party.

    Every solver reaches a party through :meth:`ask` and in no other way; which channel it is
    decides whether the party is simulated or real.
    """

    name: str

    def ask(self, request: Message, expected: type[R]) -> R:
        """Send a request and return its reply."""
        ...


class InProcessChannel:
    """A border inside one process: nothing is copied, every byte is counted.

    Parameters
    ----------
    service : PartyService
        The party on the other side.
    ledger : Ledger
        Where messages are counted.
    serialize : bool, default=False
        Encode and decode every message, as a remote channel would.
    """

    def __init__(self, service: PartyService, ledger: Ledger, serialize: bool = False) -> None:
        self.name = service.name
        self._service, self._ledger, self._serialize = service, ledger, serialize
        # Taken here: threads that ask later do not see what their caller records.
        self._transcript = recording()

    def ask(self, request: Message, expected: type[R]) -> R:
        """Send a request and return its reply.

        Parameters
        ----------
        request : Message
            What is asked.
        expected : type
            The message that its protocol replies with.

        Returns
        -------
        Message
            The reply, of the type `expected`.

        Raises
        ------
        WireError
            If either message breaks its schema or the party's limits.
        PartyError
            If the party cannot or will not answer.
        """
        reply = self._cross("received", self._service.answer(self._cross("sent", request)))
        if not isinstance(reply, expected):
            raise PartyError(self.name, f"replied {reply.kind!r} instead of {expected.kind!r}")
        return reply

    def record(self, direction: str, crossed: Message) -> None:
        """Keep a message, if that was asked for when the channel was made."""
        if self._transcript is not None:
            self._transcript.add(self.name, direction, crossed)

    def _cross(self, direction: str, sent: Message) -> Message:
        if self._serialize:
            data = encode(sent)
            self._ledger.add(self.name, direction, sent.kind, len(data), sent.protection)
            self.record(direction, sent)
            return decode(data, self._service.policy.limits)
        n_bytes = checked_size(sent)
        self._service.policy.limits.allow(n_bytes)
        self._ledger.add(self.name, direction, sent.kind, n_bytes, sent.protection)
        self.record(direction, sent)
        return sent
