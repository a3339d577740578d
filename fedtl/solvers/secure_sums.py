"""The coordinator's side of secure sums: four exchanges, and who is left after each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel, ask_all
from fedtl.privacy.secure_aggregation import Group, total
from fedtl.protocols.secure_sums import (
    LEAST_MEMBERS,
    SEALED_BYTES,
    Masked,
    PublicKeys,
    Reveal,
    RevealedShares,
    Share,
    Shares,
    asked,
    begin,
    pack_keys,
    pack_proofs,
    read_keys,
    revealed_by,
)
from fedtl.wire import Message

R = TypeVar("R", bound=Message)


def check_members(n_parties: int) -> None:
    """Refuse a sum over so few parties that it hides nothing.

    Parameters
    ----------
    n_parties : int
        Parties that add up.

    Raises
    ------
    ValueError
        Saying how many are needed.
    """
    if n_parties < LEAST_MEMBERS:
        raise ValueError(
            f"secure aggregation needs {LEAST_MEMBERS} parties, there are {n_parties}: of two, "
            "each would know the other's numbers from the sum; say privacy='none' if it may"
        )


class TooFew(Exception):
    """Fewer members are left than a sum needs."""


class Exchange:
    """One sum.

    Parameters
    ----------
    fit : str
        Name of the fit.
    index : int
        Number of the sum in it.
    group : Group
        Who adds up.
    channels : mapping of str to Channel
        The members.

    Attributes
    ----------
    left : dict of str to Channel
        Members that have answered everything so far.
    stayed : list of str
        Members that are in the sum.
    errors : list of PartyError
        Why others are not, or are left no more.
    """

    def __init__(self, fit: str, index: int, group: Group, channels: Mapping[str, Channel]) -> None:
        self.fit, self.index, self.group = fit, index, group
        self.left = dict(channels)
        self.stayed: list[str] = []
        self.errors: list[PartyError] = []

    def run(self, request: Callable[[np.ndarray], Message], length: int) -> np.ndarray:
        """Carry the sum out.

        Parameters
        ----------
        request : callable
            From the shares meant for a member to what it is asked for its numbers.
        length : int
            How many numbers each member adds.

        Returns
        -------
        ndarray of shape (length,), dtype uint64
            The sum over the members in `stayed`.

        Raises
        ------
        TooFew
            If fewer members are left than the threshold.
        CryptoError
            If shares do not give the secrets that members committed to.
        PartyError
            If a member sends something of another size.
        """
        members = self.group.members
        begun = [begin(self.fit, self.index, self.group)] * len(self.left)
        shown = self._ask(begun, PublicKeys)
        keys = {name: read_keys(reply.keys) for name, reply in shown.items()}
        proofs = pack_proofs(self.group, {name: reply.proof for name, reply in shown.items()})
        share = Share(fit=self.fit, keys=pack_keys(self.group, keys), proofs=proofs)
        shares = self._ask([share] * len(self.left), Shares)
        sealed = np.zeros((len(members), len(members), SEALED_BYTES), dtype=np.uint8)
        for name, reply in shares.items():
            _expect(name, reply.sealed.shape, sealed.shape[1:])
            sealed[self.group.place(name) - 1] = reply.sealed
        requests = [request(sealed[:, self.group.place(name) - 1]) for name in self.left]
        masked = {name: reply.values for name, reply in self._ask(requests, Masked).items()}
        for name, values in masked.items():
            _expect(name, values.shape, (length,))
        self.stayed = list(masked)
        stayed = np.array([name in masked for name in members])
        revealed = {
            name: revealed_by(self.group, set(masked), set(shares), reply)
            for name, reply in self._ask(
                [Reveal(fit=self.fit, stayed=stayed)] * len(self.left), RevealedShares
            ).items()
        }
        return total(self.group, keys, set(shares), masked, revealed, asked=asked(requests[0]))

    def _ask(self, requests: Sequence[Message], expected: type[R]) -> dict[str, R]:
        """Ask those that are left; who fails is left no more, and too few end the sum."""
        answers = ask_all(list(self.left.values()), requests, expected)
        replies = dict(zip(self.left, answers, strict=True))
        came = {n: r for n, r in replies.items() if not isinstance(r, PartyError)}
        self.errors += [r for r in replies.values() if isinstance(r, PartyError)]
        self.left = {name: self.left[name] for name in came}
        if len(came) < self.group.threshold:
            raise TooFew
        return came


def _expect(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise PartyError(name, f"sent numbers of the shape {found} where {expected} is expected")
