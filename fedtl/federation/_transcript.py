"""The messages of a fit themselves, for whoever attacks them to see what they tell.

A ledger counts messages; a transcript keeps them. It holds what the parties want to keep from one
another, so nothing is recorded unless it is asked for, and nothing of it is kept with an estimator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

from fedtl.wire import Message, Tensor


@dataclass(frozen=True, eq=False)
class Crossing:
    """One message that crossed a border.

    Parameters
    ----------
    party : str
        The other party, as seen from the one that asks.
    direction : {"sent", "received"}
        As seen from the one that asks.
    message : Message
        A copy of what crossed.
    """

    party: str
    direction: str
    message: Message


@dataclass(frozen=True, eq=False)
class Opening:
    """What a party made of protected messages, with secrets that are in no message.

    Parameters
    ----------
    holder : str
        Who knows these numbers; empty for the one that asks.
    party : str
        The other party, with whom messages were exchanged.
    kind : str
        What the numbers are, as ``"moments.scores"``; the same with and without protection.
    numbers : dict of str to ndarray
        The numbers, by name.
    """

    holder: str
    party: str
    kind: str
    numbers: dict[str, np.ndarray]


@dataclass(eq=False)
class Transcript:
    """Everything that crossed, in order; made by :func:`record_transcript`.

    Attributes
    ----------
    events : list of (Crossing or Opening)
        What happened, in order.

    Examples
    --------
    >>> from fedtl import FederatedTransferClassifier
    >>> from fedtl.datasets import load_wine_parties
    >>> from fedtl.federation import record_transcript
    >>> wine = load_wine_parties()
    >>> clf = FederatedTransferClassifier(wine.parties, solver="moments", random_state=0)
    >>> with record_transcript() as transcript:
    ...     clf = clf.fit(wine.data, wine.target)
    >>> [message.kind for message in transcript.seen_by("colour")][2:4]
    ['moments.request/1', 'moments.keep/1']
    """

    events: list[Crossing | Opening] = field(default_factory=list)

    def add(self, party: str, direction: str, message: Message) -> None:
        """Keep a copy of a message that crosses.

        Parameters
        ----------
        party : str
            The other party.
        direction : {"sent", "received"}
            As seen from the one that asks.
        message : Message
            What crosses.
        """
        tensors = {
            name: getattr(message, name).copy()
            for name, declared in message.schema.items()
            if isinstance(declared, Tensor)
        }
        copied: Message = dataclasses.replace(message, **tensors)  # type: ignore[type-var]
        self.events.append(Crossing(party, direction, copied))

    @property
    def parties(self) -> list[str]:
        """Names of the parties that were asked, in the order in which they were."""
        return list(dict.fromkeys(event.party for event in self.events))

    def with_party(self, party: str) -> list[Crossing]:
        """Return the messages to and from one party.

        Parameters
        ----------
        party : str
            Its name.

        Returns
        -------
        list of Crossing
            In order.
        """
        return [e for e in self.events if isinstance(e, Crossing) and e.party == party]

    def seen_by(self, party: str) -> list[Message]:
        """Return the messages that one of the asked parties received.

        Parameters
        ----------
        party : str
            Its name.

        Returns
        -------
        list of Message
            In order.
        """
        return [c.message for c in self.with_party(party) if c.direction == "sent"]

    def openings(self, party: str, kind: str, holder: str = "") -> list[dict[str, np.ndarray]]:
        """Return what protected messages with a party were opened to.

        Parameters
        ----------
        party : str
            The party that was asked.
        kind : str
            What the numbers are.
        holder : str, default=""
            Who opened them; empty for the one that asks.

        Returns
        -------
        list of dict of str to ndarray
            Numbers by name, in order.
        """
        wanted = (holder, party, kind)
        return [
            e.numbers
            for e in self.events
            if isinstance(e, Opening) and (e.holder, e.party, e.kind) == wanted
        ]

    def __repr__(self) -> str:
        crossings = [event for event in self.events if isinstance(event, Crossing)]
        return f"Transcript({len(crossings)} messages with {', '.join(self.parties) or 'nobody'})"


_RECORDING: ContextVar[Transcript | None] = ContextVar("fedtl_transcript", default=None)


@contextmanager
def record_transcript() -> Iterator[Transcript]:
    """Record the messages of all fits and predictions that begin in the block.

    Both directions are recorded where a party is simulated, which is all that either side sees.
    With remote parties it is what this process sends and receives. Everything stays in memory, as
    large as what crossed.

    Yields
    ------
    Transcript
        The messages, once they have crossed.

    See Also
    --------
    fedtl.inspection.leakage_report : Attacks what was recorded.
    """
    transcript = Transcript()
    token = _RECORDING.set(transcript)
    try:
        yield transcript
    finally:
        _RECORDING.reset(token)


def recording() -> Transcript | None:
    """Return the transcript that is being recorded, if any."""
    return _RECORDING.get()


def opened(party: str, kind: str, holder: str = "", **numbers: np.ndarray) -> None:
    """Say what protected messages were opened to, for a transcript that is being recorded.

    A protocol says it where a party gets to know numbers that are in no message in the clear, so
    that attacks see what that party sees.

    Parameters
    ----------
    party : str
        The party that was asked.
    kind : str
        What the numbers are.
    holder : str, default=""
        Who knows them now; empty for the one that asks.
    **numbers : ndarray
        The numbers.
    """
    transcript = _RECORDING.get()
    if transcript is not None:
        copies = {name: np.array(value) for name, value in numbers.items()}
        transcript.events.append(Opening(holder, party, kind, copies))
