"""Secure sums: numbers of several parties added up, of which the coordinator sees the sum only.

Each sum is one secure aggregation (see :mod:`fedtl.privacy.secure_aggregation`, after Bonawitz et
al.): in four exchanges the parties advertise keys, hand one another shares of their secrets through
the coordinator, send masked numbers, and reveal what takes the masks off the sum. What is added
up is said by the protocols that use this one, `secure_rounds` and `secure_statistics`: the third
exchange is theirs. Their requests differ, the masked reply is the same. *Unaudited*.

Who learns what:

- ``secure_sums.begin/1`` tells the party who takes part in the sum and how many must stay.
  ``secure_sums.keys/1`` are its public keys, made for this one sum, and its signature of them.
- ``secure_sums.share/1`` hands it all parties' public keys and signatures; ``secure_sums.shares/1``
  are shares of its secrets, each encrypted to one other party. The coordinator cannot read them.
- ``secure_sums.masked/1`` are its numbers, masked: random to whoever lacks the masks.
- ``secure_sums.reveal/1`` says whose numbers came. ``secure_sums.revealed/1`` holds, for each
  party, a share of either its own mask or its pairwise key, never of both. With as many as the
  threshold, the coordinator learns the sum over the parties that stayed.

A coordinator that has rows of its own is one of the members, and can subtract its part: so a sum
has three members or more, and is then over two others at least. *A coordinator that works together
with all members but one learns that one's numbers.* Sums over different sets of members can be
subtracted from one another.

Keys pass through the coordinator, which could put its own in their place, or make members up.
Between machines a party can find that out: each member's identity signs its keys, together with
the sum, all members and the threshold, and a party whose policy names `members` takes part

- in sums of just these, itself, and one member of the caller at most; a subset is refused, and so
  is a threshold with which two groups of members could be told different things of who stayed;
- with keys that the named member has signed for this sum, and the caller for its own member;
- if shares came of everybody whose keys it was told: with masks in common with few, it would be
  uncovered as soon as these are said to have dropped out.

Always, shares open only for those who were told the same keys, and masks go away only among those
who were asked the same.

What that leaves to a coordinator is to say that a member dropped out, down to the threshold: two
such sums of the same numbers, one without a member, give that member's. It can also begin the fit
differently at others, so that they add little. A party that names nobody takes the coordinator at
its word, and a simulated party has no identity, and signs nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.parties import Answer, PartyService
from fedtl.privacy import CryptoError, FixedPointError
from fedtl.privacy.keys import KEY_BYTES
from fedtl.privacy.secure_aggregation import Group, Keys, Member, Revealed
from fedtl.privacy.shamir import SHARE_BYTES
from fedtl.wire import Message, Tensor, encode, message

LEAST_MEMBERS = 3
DTYPE = "uint64"
MOST_PROOF_BYTES = 2**14
SEALED_BYTES = 2 * SHARE_BYTES + 16
_STATE = "secure_sums"
_STATEMENT = "fedtl secure_sums.keys/1"


@message("secure_sums.begin/1")
class Begin(Message):
    """Begin a sum."""

    fit: str
    index: int
    members: Annotated[np.ndarray, Tensor("uint8", ("characters",))]
    threshold: int


@message("secure_sums.keys/1")
class PublicKeys(Message):
    """See :class:`fedtl.privacy.secure_aggregation.Keys`; no proof from a simulated party."""

    keys: Annotated[np.ndarray, Tensor("uint8", (3, KEY_BYTES))]
    proof: Annotated[np.ndarray, Tensor("uint8", ("proof",))]


@message("secure_sums.share/1")
class Share(Message):
    """Split your secrets among these members; zeros for one that dropped out.

    Proofs are filled up with zeros to the length of the longest.
    """

    fit: str
    keys: Annotated[np.ndarray, Tensor("uint8", ("members", 3, KEY_BYTES))]
    proofs: Annotated[np.ndarray, Tensor("uint8", ("members", "proof"))]


@message("secure_sums.shares/1", protection="encryption between parties")
class Shares(Message):
    """Encrypted shares by receiver; zeros for oneself and for those that dropped out."""

    sealed: Annotated[np.ndarray, Tensor("uint8", ("members", SEALED_BYTES))]


@message("secure_sums.masked/1", protection="secure aggregation")
class Masked(Message):
    """A party's numbers, masked; what they are follows from the request."""

    values: Annotated[np.ndarray, Tensor(DTYPE, ("values",))]


@message("secure_sums.reveal/1")
class Reveal(Message):
    """Take the masks off the sum over these members."""

    fit: str
    stayed: Annotated[np.ndarray, Tensor("bool", ("members",))]


@message("secure_sums.revealed/1")
class RevealedShares(Message):
    """For each member that took part, a share; of which secret follows from `stayed`."""

    shares: Annotated[np.ndarray, Tensor("uint8", ("members", SHARE_BYTES))]


@dataclass(eq=False)
class _Sum:
    """What a party keeps for one sum."""

    index: int
    member: Member
    told: frozenset[str] = frozenset()


def begin(fit: str, index: int, group: Group) -> Begin:
    """Return the message that begins a sum."""
    members = np.frombuffer(json.dumps(list(group.members)).encode(), dtype=np.uint8)
    return Begin(fit=fit, index=index, members=members, threshold=group.threshold)


def group_of(fit: str, index: int, members: Sequence[str], threshold: int) -> Group:
    """Return who adds up; the context binds all keys to this one sum."""
    return Group(tuple(members), threshold, f"{fit} sum {index}", DTYPE)


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


def pack_proofs(group: Group, proofs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return all members' proofs as one array.

    Parameters
    ----------
    group : Group
        All members.
    proofs : mapping of str to ndarray of shape (n_bytes,), dtype uint8
        By member; some may be missing.

    Returns
    -------
    ndarray of shape (n_members, n_longest), dtype uint8
        Filled up with zeros.

    Raises
    ------
    PartyError
        If a member sent a proof that is too long to be handed on.
    """
    for name, proof in proofs.items():
        if len(proof) > MOST_PROOF_BYTES:
            raise PartyError(
                name,
                f"sent a proof of {len(proof):,} bytes with its keys; {MOST_PROOF_BYTES:,} at most "
                "are handed on",
            )
    longest = max((len(proof) for proof in proofs.values()), default=0)
    packed = np.zeros((len(group.members), longest), dtype=np.uint8)
    for name, proof in proofs.items():
        packed[group.place(name) - 1, : len(proof)] = proof
    return packed


def guarded(answer: Callable[[PartyService, Any], Message]) -> Answer:
    """Return an answer that says of what is wrong with keys, shares or sizes whose error it is."""

    @functools.wraps(answer)
    def answers(party: PartyService, request: Any) -> Message:
        try:
            return answer(party, request)
        except (CryptoError, FixedPointError) as error:
            raise PartyError(party.name, f"secure aggregation: {error}") from error

    return answers


@guarded
def answer_begin(party: PartyService, request: Begin) -> PublicKeys:
    """Make keys for one sum, and sign them."""
    party.rows(request.fit)
    members = _names(party, request.members)
    if len(members) < LEAST_MEMBERS:
        raise PartyError(
            party.name,
            f"adds its numbers to those of {LEAST_MEMBERS - 1} others at least, and there are "
            f"{len(members)} members in all",
        )
    party.policy.allow_members(party.name, members, request.threshold)
    kept = party.row_fit(request.fit)
    last = kept.get(_STATE)
    if last is not None and request.index <= last.index:
        raise PartyError(party.name, f"sum {request.index} was begun before")
    group = group_of(request.fit, request.index, members, request.threshold)
    own = _Sum(request.index, Member(party.name, group))
    kept[_STATE] = own
    keys, proof = own.member.advertise(), b""
    if party.identity is not None:
        proof = party.identity.sign(_statement(group, party.name, keys))
    return PublicKeys(
        keys=pack_keys(group, {party.name: keys})[group.place(party.name) - 1],
        proof=np.frombuffer(proof, dtype=np.uint8),
    )


@guarded
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
    if party.policy.members:
        _check_proofs(party, group, keys, request.proofs)
    sent, own.told = own.member.share(keys), frozenset(keys)
    sealed = np.zeros((len(group.members), SEALED_BYTES), dtype=np.uint8)
    for name, data in sent.items():
        sealed[group.place(name) - 1] = np.frombuffer(data, dtype=np.uint8)
    return Shares(sealed=sealed)


def asked(request: Any) -> bytes:
    """Return a hash of what all members are asked alike: everything but the shares for each."""
    alike = replace(request, sealed=np.zeros((0, SEALED_BYTES), dtype=np.uint8))
    return hashlib.sha256(encode(alike)).digest()


def masked(party: PartyService, request: Any, numbers: Callable[[], np.ndarray]) -> Masked:
    """Mask a party's numbers for a sum.

    Parameters
    ----------
    party : PartyService
        The party.
    request : Message
        What asks for them. Its ``fit`` and ``index`` say which sum it is, its ``sealed`` are the
        shares that the others sent to the party, zeros where there are none; all else must be the
        same for all members.
    numbers : callable
        Works out the party's summand, dtype uint64, once it is sure that it will be masked.

    Returns
    -------
    Masked
        What may be sent.

    Raises
    ------
    PartyError
        If the sum was not begun, or too few members are left.
    """
    own = _sum_of(party, request.fit)
    _check_members(party, own.member.group, len(request.sealed))
    if request.index != own.index:
        raise PartyError(party.name, f"sum {request.index} was not begun; {own.index} was")
    sent = {
        name: part.tobytes()
        for name, part in zip(own.member.group.members, request.sealed, strict=True)
        if name != party.name and part.any()
    }
    if len(sent) + 1 < LEAST_MEMBERS:
        raise PartyError(party.name, f"{len(sent) + 1} members are left, too few for a sum")
    withheld = sorted(own.told - set(sent) - {party.name})
    if withheld and party.policy.members:
        # Without a mask in common with them it could be uncovered by saying that the rest is gone.
        raise PartyError(
            party.name,
            f"no shares came of {withheld}, who had sent keys; with a policy that names members, "
            "nobody may drop out between these two exchanges: begin the sum again",
        )
    own.member.receive(sent)
    return Masked(values=own.member.mask(numbers(), asked(request)))


@guarded
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
        # JSON can hold text that is no Unicode.
        readable = isinstance(found, list) and all(isinstance(n, str) and n.encode() for n in found)
    except (ValueError, RecursionError):
        readable = False
    if not readable:
        raise PartyError(party.name, "names of members cannot be read")
    return list(found)


def _sum_of(party: PartyService, fit: str) -> _Sum:
    party.rows(fit)
    own: _Sum | None = party.fits.get(fit, {}).get(_STATE)
    if own is None:
        raise PartyError(party.name, "no secure sum was begun")
    return own


def _check_proofs(
    party: PartyService, group: Group, keys: Mapping[str, Keys], proofs: np.ndarray
) -> None:
    """Refuse keys that others than the members may have made."""
    for name, shown in keys.items():
        if name != party.name:  # its own are compared
            proof = proofs[group.place(name) - 1].tobytes().rstrip(b"\0")  # PEM ends in no zero
            stated = _statement(group, name, shown)
            signer = party.identity.signer(stated, proof) if party.identity is not None else None
            party.policy.allow_member_keys(party.name, name, signer, caller=party.caller)


def _statement(group: Group, name: str, keys: Keys) -> bytes:
    """What a member signs: its keys, and the one sum of these members that they are for."""
    shown = [part.hex() for part in (keys.channel, keys.masks, keys.commitment)]
    parts = [_STATEMENT, group.context, list(group.members), group.threshold, name, shown]
    return json.dumps(parts).encode()


def _check_members(party: PartyService, group: Group, n: int) -> None:
    if n != len(group.members):
        raise PartyError(party.name, f"{len(group.members)} members were agreed on, got {n}")
