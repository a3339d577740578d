"""Secure rounds: rounds of which the coordinator sees the parties' mean update and no single one.

Each round is one secure aggregation (see :mod:`fedtl.privacy.secure_aggregation`, after Bonawitz et
al.): in four exchanges the parties advertise keys, hand one another shares of their secrets through
the coordinator, send masked updates, and reveal what takes the masks off the sum. A party may drop
out between any two of them. *Unaudited*.

Who learns what:

- ``secure_rounds.begin/1`` tells the party who takes part in the round, how many must stay, and its
  weight in the mean, from which the number of all rows follows. ``secure_rounds.keys/1`` are its
  public keys, made for this one round.
- ``secure_rounds.share/1`` hands it all parties' public keys; ``secure_rounds.shares/1`` are shares
  of its secrets, each encrypted to one other party. The coordinator cannot read them.
- ``secure_rounds.round/1`` gives the party the shared parameters, as ``rounds.round/1`` does, and
  the shares meant for it. ``secure_rounds.masked/1`` is its update, weighed, in fixed point and
  masked: random numbers to whoever lacks the masks.
- ``secure_rounds.reveal/1`` says whose masked updates came. ``secure_rounds.revealed/1`` holds, for
  each party, a share of either its own mask or its pairwise key, never of both. With as many as the
  threshold, the coordinator learns the sum over the parties that stayed: their mean change, mean
  loss and mean statistics.

A coordinator that has rows of its own is one of the members, and can subtract its part: so a round
has three members or more, whose sum is then over two others at least. *A coordinator that works
together with all members but one learns that one's update, and one that forges parties of its own
does too*: parties on other machines cannot tell members that exist from made up ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.learning.local import LocalRecipe
from fedtl.parties import Answer, PartyService
from fedtl.privacy import CryptoError, FixedPointError
from fedtl.privacy.keys import KEY_BYTES
from fedtl.privacy.secure_aggregation import Group, Keys, Member, Revealed, plan_sum
from fedtl.privacy.shamir import SHARE_BYTES
from fedtl.protocols.rounds import Round, answer_round, party_rounds
from fedtl.wire import Message, Tensor, message

LEAST_MEMBERS = 3
MAGNITUDE_BITS = 20
"""Weighed changes and statistics are below 2**20; what is larger is refused, never wrapped."""
DTYPE = "uint64"
SEALED_BYTES = 2 * SHARE_BYTES + 16
_STATE = "secure_rounds"


@message("secure_rounds.begin/1")
class Begin(Message):
    """Begin the sum of one round."""

    fit: str
    index: int
    members: Annotated[np.ndarray, Tensor("uint8", ("characters",))]
    threshold: int
    weight: float


@message("secure_rounds.keys/1")
class PublicKeys(Message):
    """See :class:`fedtl.privacy.secure_aggregation.Keys`."""

    keys: Annotated[np.ndarray, Tensor("uint8", (3, KEY_BYTES))]


@message("secure_rounds.share/1")
class Share(Message):
    """Split your secrets among these members; zeros for one that dropped out."""

    fit: str
    keys: Annotated[np.ndarray, Tensor("uint8", ("members", 3, KEY_BYTES))]


@message("secure_rounds.shares/1", protection="encryption between parties")
class Shares(Message):
    """Encrypted shares by receiver; zeros for oneself and for those that dropped out."""

    sealed: Annotated[np.ndarray, Tensor("uint8", ("members", SEALED_BYTES))]


@message("secure_rounds.round/1")
class SecureRound(Message):
    """Train from these parameters, and mask what comes of it."""

    fit: str
    index: int
    vectors: Annotated[np.ndarray, Tensor("float32", ("vectors", "parameters"))]
    buffers: Annotated[np.ndarray, Tensor("float32", ("buffers",))]
    sealed: Annotated[np.ndarray, Tensor("uint8", ("members", SEALED_BYTES))]


@message("secure_rounds.masked/1", protection="secure aggregation")
class Masked(Message):
    """Change of parameters, statistics, loss and steps, weighed and masked."""

    values: Annotated[np.ndarray, Tensor(DTYPE, ("values",))]


@message("secure_rounds.reveal/1")
class Reveal(Message):
    """Take the masks off the sum over these members."""

    fit: str
    stayed: Annotated[np.ndarray, Tensor("bool", ("members",))]


@message("secure_rounds.revealed/1")
class RevealedShares(Message):
    """For each member that took part, a share; of which secret follows from `stayed`."""

    shares: Annotated[np.ndarray, Tensor("uint8", ("members", SHARE_BYTES))]


@dataclass(eq=False)
class _Sum:
    """What a party keeps for one round."""

    index: int
    weight: float
    member: Member


def begin(fit: str, index: int, group: Group, weight: float) -> Begin:
    """Return the message that begins a round for one party."""
    members = np.frombuffer(json.dumps(list(group.members)).encode(), dtype=np.uint8)
    return Begin(
        fit=fit, index=index, members=members, threshold=group.threshold, weight=float(weight)
    )


def group_of(fit: str, index: int, members: Sequence[str], threshold: int) -> Group:
    """Return who adds up in a round; its context binds all keys to this one sum."""
    return Group(tuple(members), threshold, f"{fit} round {index}", DTYPE)


def pack_keys(group: Group, keys: Mapping[str, Keys]) -> np.ndarray:
    """Return all members' public keys: (n_members, 3, 32), zeros for those that are missing."""
    packed = np.zeros((len(group.members), 3, KEY_BYTES), dtype=np.uint8)
    for name, own in keys.items():
        packed[group.place(name) - 1] = [
            np.frombuffer(part, dtype=np.uint8) for part in (own.channel, own.masks, own.commitment)
        ]
    return packed


def read_keys(packed: np.ndarray) -> Keys:
    """Return one member's public keys."""
    return Keys(*(part.tobytes() for part in packed))


def answers(recipe: LocalRecipe) -> Mapping[str, tuple[str, Answer]]:
    """Return the party's end of the protocol, by kinds of requests, for a party with a recipe."""
    ends: dict[type[Message], Callable[..., Message]] = {
        Begin: answer_begin,
        Share: answer_share,
        SecureRound: partial(answer_masked, recipe),
        Reveal: answer_reveal,
    }
    return {
        request.kind: ("secure_rounds", partial(_guarded, answer))
        for request, answer in ends.items()
    }


def _guarded(answer: Callable[..., Message], party: PartyService, request: Message) -> Message:
    """Answer; whatever is wrong with keys or shares ends this round for the party, and is told."""
    try:
        return answer(party, request)
    except (CryptoError, FixedPointError) as error:
        raise PartyError(party.name, f"secure aggregation: {error}") from error


def answer_begin(party: PartyService, request: Begin) -> PublicKeys:
    """Make keys for one sum."""
    state = party_rounds(party, request.fit)
    if state.plan.eight_bits or state.plan.top < 1.0 or not state.strategy.averages:
        raise PartyError(
            party.name,
            "masked updates can be averaged and nothing else; the strategy "
            f"{state.strategy.name!r}, or its compression, needs more",
        )
    members = _names(party, request.members)
    if len(members) < LEAST_MEMBERS or not 0.0 < request.weight <= 1.0:
        raise PartyError(
            party.name,
            f"adds its update to those of {LEAST_MEMBERS - 1} others at least, got "
            f"{len(members)} members in all and a weight of {request.weight:g}",
        )
    kept = party.row_fit(request.fit)
    last = kept.get(_STATE)
    if last is not None and request.index <= last.index:
        raise PartyError(party.name, f"round {request.index} was begun before")
    group = group_of(request.fit, request.index, members, request.threshold)
    own = _Sum(request.index, request.weight, Member(party.name, group))
    kept[_STATE] = own
    return PublicKeys(keys=pack_keys(group, {party.name: own.member.advertise()})[_place(own)])


def answer_share(party: PartyService, request: Share) -> Shares:
    """Split this party's secrets among those that are left."""
    own = _sum_of(party, request.fit)
    group = own.member.group
    _check_members(party, group, len(request.keys))
    keys = {
        name: read_keys(part)
        for name, part in zip(group.members, request.keys, strict=True)
        if part.any()
    }
    if len(keys) < LEAST_MEMBERS:
        raise PartyError(party.name, f"{len(keys)} members are left, too few for a sum")
    sent = own.member.share(keys)
    sealed = np.zeros((len(group.members), SEALED_BYTES), dtype=np.uint8)
    for name, data in sent.items():
        sealed[group.place(name) - 1] = np.frombuffer(data, dtype=np.uint8)
    return Shares(sealed=sealed)


def answer_masked(recipe: LocalRecipe, party: PartyService, request: SecureRound) -> Masked:
    """Train, and mask the update."""
    own = _sum_of(party, request.fit)
    group = own.member.group
    _check_members(party, group, len(request.sealed))
    if request.index != own.index:
        raise PartyError(party.name, f"round {request.index} was not begun; {own.index} was")
    sent = {
        name: part.tobytes()
        for name, part in zip(group.members, request.sealed, strict=True)
        if name != party.name and part.any()
    }
    if len(sent) + 1 < LEAST_MEMBERS:
        raise PartyError(party.name, f"{len(sent) + 1} members are left, too few for a sum")
    own.member.receive(sent)
    plain = Round(
        fit=request.fit, index=request.index, vectors=request.vectors, buffers=request.buffers
    )
    reply = answer_round(recipe, party, plain)
    values = np.concatenate([reply.values[0], reply.buffers, [reply.loss, reply.n_steps, 1.0]])
    fixed = plan_sum(MAGNITUDE_BITS, len(group.members), DTYPE)
    weighed = fixed.encode(own.weight * values.astype(np.float64))
    return Masked(values=own.member.mask(weighed.astype(DTYPE)))


def answer_reveal(party: PartyService, request: Reveal) -> RevealedShares:
    """Reveal a share of one secret of each member."""
    own = _sum_of(party, request.fit)
    group = own.member.group
    _check_members(party, group, len(request.stayed))
    stayed = {name for name, is_in in zip(group.members, request.stayed, strict=True) if is_in}
    if len(stayed) < LEAST_MEMBERS:
        raise PartyError(party.name, f"{len(stayed)} members stayed, too few for a sum")
    revealed = own.member.reveal(stayed)
    shares = np.zeros((len(group.members), SHARE_BYTES), dtype=np.uint8)
    for name, share in {**revealed.own_masks, **revealed.mask_keys}.items():
        shares[group.place(name) - 1] = np.frombuffer(share, dtype=np.uint8)
    return RevealedShares(shares=shares)


def revealed_by(
    group: Group, stayed: set[str], shared: set[str], reply: RevealedShares
) -> Revealed:
    """Return what a member revealed.

    Parameters
    ----------
    group : Group
        All members.
    stayed, shared : set of str
        Whose masked updates came, and whose shares were handed on.
    reply : RevealedShares
        What it sent.

    Returns
    -------
    Revealed
        Shares by member.
    """
    shares = {name: reply.shares[group.place(name) - 1].tobytes() for name in shared}
    return Revealed(
        {name: share for name, share in shares.items() if name in stayed},
        {name: share for name, share in shares.items() if name not in stayed},
    )


def _names(party: PartyService, text: np.ndarray) -> list[str]:
    try:
        found = json.loads(text.tobytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise PartyError(party.name, "names of members cannot be read")
    return found


def _sum_of(party: PartyService, fit: str) -> _Sum:
    party_rounds(party, fit)
    own: _Sum | None = party.row_fit(fit).get(_STATE)
    if own is None:
        raise PartyError(party.name, "no secure round was begun")
    return own


def _place(own: _Sum) -> int:
    return own.member.group.place(own.member.name) - 1


def _check_members(party: PartyService, group: Group, n: int) -> None:
    if n != len(group.members):
        raise PartyError(party.name, f"{len(group.members)} members were agreed on, got {n}")
