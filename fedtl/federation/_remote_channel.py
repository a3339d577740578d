"""The border between machines, and the lease of sessions behind it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fedtl.exceptions import PartyError
from fedtl.federation._ledger import Ledger
from fedtl.federation._lines import Lines
from fedtl.federation._transcript import recording
from fedtl.wire import Failure, Message, decode, encode, raised

if TYPE_CHECKING:
    from fedtl.federation._remote import Federation

R = TypeVar("R", bound=Message)
_OPENS = ("session.open/", "row_session.open/")


class RemoteChannel:
    """A border between machines.

    Parameters
    ----------
    name : str
        Name of the party.
    federation : Federation
        The handle it belongs to.
    ledger : Ledger
        Where messages are counted.
    lease : RemoteParties, optional
        What ends the sessions that are opened.
    """

    def __init__(
        self,
        name: str,
        federation: Federation,
        ledger: Ledger,
        lease: RemoteParties | None = None,
    ) -> None:
        self.name = name
        self._federation, self._ledger, self._lease = federation, ledger, lease
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
            If the party cannot or will not answer: a :class:`~fedtl.exceptions.PolicyRefusal`,
            :class:`~fedtl.exceptions.SessionExpired` or
            :class:`~fedtl.exceptions.PartyUnreachable` among them.
        """
        body = encode(request)
        if self._lease is not None and request.kind.startswith(_OPENS):
            self._lease.hold(self.name, getattr(request, "session", ""))
        self._count("sent", request, len(body))
        came = self._federation.lines.ask(self.name, body)
        reply = decode(came)
        self._count("received", reply, len(came))
        if isinstance(reply, Failure):
            raise raised(reply, self.name)
        if not isinstance(reply, expected):
            raise PartyError(self.name, f"replied {reply.kind!r} instead of {expected.kind!r}")
        return reply

    def _count(self, direction: str, crossed: Message, n_bytes: int) -> None:
        if self._transcript is not None:
            self._transcript.add(self.name, direction, crossed)
        for ledger in (self._ledger, self._federation.ledger):
            ledger.add(self.name, direction, crossed.kind, n_bytes, crossed.protection)


class RemoteParties:
    """What a fitted estimator holds on to: remote parties, and a lease of its sessions there.

    The sessions end when this object is deleted. A pickle of it has the sessions and no lease:
    they then end with the handle, or when the parties' own time is up.

    Parameters
    ----------
    federation : Federation
        The handle.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self._held: list[tuple[str, str]] = []
        self._finalizer: Any = None

    @property
    def names(self) -> list[str]:
        """Names of the parties."""
        return self.federation.names

    def channels(self, blocks: Sequence[Any], ledger: Ledger) -> list[RemoteChannel]:
        """Return a channel to each party.

        Parameters
        ----------
        blocks : sequence
            Columns of parties in X; there are none.
        ledger : Ledger
            Where messages are counted.

        Returns
        -------
        list of RemoteChannel
            In the order of the names.
        """
        assert not blocks
        return [RemoteChannel(name, self.federation, ledger, self) for name in self.names]

    def resumed(self) -> RemoteParties:
        """Refuse to train on: a fit that fails could not be undone at the parties."""
        raise PartyError(
            self.names[0],
            "is remote, and training on (warm_start, partial_fit) is for simulated parties only: "
            "fit the estimator anew",
        )

    def hold(self, party: str, session: str) -> None:
        """End this session when this object is deleted."""
        lines = self.federation.lines
        lines.hold(party, session)
        self._held.append((party, session))
        if self._finalizer is None:
            self._finalizer = weakref.finalize(self, _let_go, lines, self._held)
            self._finalizer.atexit = False  # the connections have a better moment for it

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteParties:
        return self  # one lease: the sessions end when no copy of an estimator needs them

    def __getstate__(self) -> dict[str, Any]:
        if self._finalizer is not None and self._finalizer.detach() is not None:
            self.federation.lines.release(self._held)
        return {"federation": self.federation}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["federation"])  # type: ignore[misc]


def _let_go(lines: Lines, held: list[tuple[str, str]]) -> None:
    for party, session in held:
        lines.end_later(party, session)
