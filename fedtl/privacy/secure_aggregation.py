"""Secure aggregation: a sum over members of which nobody sees a summand.

The protocol of Bonawitz et al. [1]_ for members and an aggregator who follow it. Every pair of
members agrees on a mask that one adds and the other subtracts, and every member adds a mask of its
own; so what a member sends is uniform to whoever lacks either. Shares of both secrets lie with the
other members: of one that dropped out, the key of its pairwise masks is put together, of one that
did not, its own mask, and *never both*, which would uncover its summand. *Unaudited*.

Four exchanges: :meth:`Member.advertise`, :meth:`Member.share`, :meth:`Member.mask` and
:meth:`Member.reveal`. Members may drop out between any two of them, as long as `threshold` are
left. All sums are modulo 2**32 or 2**64; :func:`plan_sum` and :class:`.fixed_point.FixedPoint`
keep them from wrapping around. A member's object serves one sum and refuses to be used again.

What is not promised: the aggregator learns the sum, and who took part. Members whose number reaches
the threshold can, together with it, uncover the others' summands. An aggregator that hands out
keys of its own making is not found out unless members know each other's keys from elsewhere.
Shares open only for those who were handed out the same keys of everybody.

References
----------
.. [1] K. Bonawitz et al. Practical secure aggregation for privacy-preserving machine learning.
   CCS 2017.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtl.privacy.fixed_point import FixedPoint, FixedPointError
from fedtl.privacy.keys import KEY_BYTES, CryptoError, KeyPair, lock, new_seed, uniform, unlock
from fedtl.privacy.shamir import SHARE_BYTES, join, split


@dataclass(frozen=True)
class Group:
    """Who adds up, and how.

    Parameters
    ----------
    members : tuple of str
        Names, in the same order for all.
    threshold : int
        How many must stay to the end; more than half of the members.
    context : str
        What this one sum is, as the name of a session and the number of a round.
    dtype : {"uint32", "uint64"}, default="uint32"
        Type of the summands.
    """

    members: tuple[str, ...]
    threshold: int
    context: str
    dtype: str = "uint32"

    def __post_init__(self) -> None:
        n = len(self.members)
        if len(set(self.members)) != n or n < 2:
            raise CryptoError("secure aggregation needs two members or more, each named once")
        if not n < 2 * self.threshold <= 2 * n:
            raise CryptoError(
                f"a threshold of {self.threshold} is not more than half of {n} members and at "
                "most all of them"
            )
        if self.dtype not in ("uint32", "uint64"):
            raise CryptoError(f"summands are uint32 or uint64, not {self.dtype}")

    def place(self, name: str) -> int:
        """Return a member's place, from 1 on."""
        if name not in self.members:
            raise CryptoError(f"{name!r} is no member; those are {', '.join(self.members)}")
        return self.members.index(name) + 1

    def enough(self, names: Set[str] | Mapping[str, Any], when: str) -> None:
        """Refuse to go on with too few members or with strangers."""
        for name in names:
            self.place(name)
        if len(names) < self.threshold:
            raise CryptoError(
                f"{when}: {len(names)} of {len(self.members)} members are left, the threshold is "
                f"{self.threshold}"
            )


@dataclass(frozen=True)
class Keys:
    """What a member shows to all.

    Parameters
    ----------
    channel : bytes of length 32
        Public key under which shares are sent to it.
    masks : bytes of length 32
        Public key of its pairwise masks.
    commitment : bytes of length 32
        Hash of the seed of its own mask.
    """

    channel: bytes
    masks: bytes
    commitment: bytes


@dataclass(frozen=True)
class Revealed:
    """The shares that a member reveals at the end, by the member whose secret they are of.

    Parameters
    ----------
    own_masks : dict of str to bytes
        Shares of seeds, of members that stayed.
    mask_keys : dict of str to bytes
        Shares of keys, of members that dropped out.
    """

    own_masks: dict[str, bytes]
    mask_keys: dict[str, bytes]


class Member:
    """One member's part in one sum.

    Parameters
    ----------
    name : str
        The member.
    group : Group
        All of them.

    Examples
    --------
    >>> import numpy as np
    >>> from fedtl.privacy.secure_aggregation import Group, Member, total
    >>> group = Group(("a", "b", "c"), threshold=2, context="doctest")
    >>> members = {name: Member(name, group) for name in group.members}
    >>> keys = {name: member.advertise() for name, member in members.items()}
    >>> shares = {name: member.share(keys) for name, member in members.items()}
    >>> for name, member in members.items():
    ...     member.receive({s: sent[name] for s, sent in shares.items() if s != name})
    >>> values = np.array([1, 2], dtype=np.uint32)
    >>> masked = {name: member.mask(values) for name, member in members.items() if name != "b"}
    >>> revealed = {name: members[name].reveal(set(masked)) for name in masked}  # b dropped out
    >>> total(group, keys, set(shares), masked, revealed)
    array([2, 4], dtype=uint32)
    """

    def __init__(self, name: str, group: Group) -> None:
        group.place(name)
        self.name, self.group = name, group
        self._channel, self._masks, self._seed = KeyPair(), KeyPair(), new_seed()
        self._keys: dict[str, Keys] = {}
        self._told = ""
        self._own: tuple[bytes, bytes] | None = None
        self._held: dict[str, tuple[bytes, bytes]] = {}
        self._state = "new"

    def advertise(self) -> Keys:
        """Return this member's public keys, for all others."""
        return Keys(self._channel.public, self._masks.public, _commitment(self._seed))

    def share(self, keys: Mapping[str, Keys]) -> dict[str, bytes]:
        """Split this member's secrets.

        Parameters
        ----------
        keys : mapping of str to Keys
            The keys of all members that are left, this one's included.

        Returns
        -------
        dict of str to bytes
            For each other member, its shares, encrypted to it.

        Raises
        ------
        CryptoError
            If too few are left, this member's own keys were changed, or it was asked before.
        """
        self._step("new", "shared")
        self.group.enough(keys, "before sharing")
        if keys.get(self.name) != self.advertise():
            raise CryptoError(f"{self.name!r}: its own keys came back changed")
        if len({k.masks for k in keys.values()}) != len(keys):
            raise CryptoError("two members have the same key")
        self._keys, self._told = dict(keys), _digest(self.group, keys)
        n, threshold = len(self.group.members), self.group.threshold
        seeds = split(self._seed, n, threshold)
        privates = split(self._masks.private, n, threshold)
        sent = {}
        for name in keys:
            place = self.group.place(name)
            if name == self.name:
                self._own = seeds[place], privates[place]
            else:
                sent[name] = lock(
                    self._channel_key(self.name, name), seeds[place] + privates[place]
                )
        return sent

    def receive(self, sent: Mapping[str, bytes]) -> None:
        """Take the shares that the others sent to this member.

        Parameters
        ----------
        sent : mapping of str to bytes
            By sender; who is missing has dropped out and takes no part.

        Raises
        ------
        CryptoError
            If too few are left, or a share was changed or meant for somebody else.
        """
        self._step("shared", "received")
        self.group.enough(set(sent) | {self.name}, "after sharing")
        for name, data in sent.items():
            if name not in self._keys or name == self.name:
                raise CryptoError(f"{self.name!r}: shares of {name!r} came unasked for")
            both = unlock(self._channel_key(name, self.name), data)
            if len(both) != 2 * SHARE_BYTES:
                raise CryptoError(f"{self.name!r}: shares of {name!r} are malformed")
            self._held[name] = both[:SHARE_BYTES], both[SHARE_BYTES:]
        assert self._own is not None
        self._held[self.name] = self._own

    def mask(self, values: np.ndarray, asked: bytes = b"") -> np.ndarray:
        """Mask this member's summand, once.

        Parameters
        ----------
        values : ndarray of any shape, dtype as in the group
            The summand.
        asked : bytes, optional
            What it was asked for: masks go away only among those who were asked the same.

        Returns
        -------
        ndarray of the same shape and dtype
            What may be sent to the aggregator.

        Raises
        ------
        CryptoError
            If the type is another, or a summand was masked before.
        """
        if values.dtype != np.dtype(self.group.dtype):
            raise CryptoError(f"summands are {self.group.dtype}, got {values.dtype}")
        self._step("received", "masked")
        masked = values + _own_mask(self._seed, values)
        for name in self._held:
            if name != self.name:
                public = self._keys[name].masks
                _add_pair(masked, self.group, (self.name, name), self._masks, public, asked=asked)
        return np.asarray(masked)

    def reveal(self, stayed: Set[str]) -> Revealed:
        """Reveal shares that take masks off the sum, once and for one set of members.

        Parameters
        ----------
        stayed : set of str
            Members whose masked summands have arrived.

        Returns
        -------
        Revealed
            Of each member, a share of either its own mask or its key, never of both.

        Raises
        ------
        CryptoError
            If too few stayed, a stranger is among them, or shares were revealed before.
        """
        self._step("masked", "revealed")
        self.group.enough(stayed, "after masking")
        if not stayed <= set(self._held):
            raise CryptoError(
                f"{self.name!r}: {sorted(stayed - set(self._held))} took no part in the sharing"
            )
        own = {name: seed for name, (seed, _) in self._held.items() if name in stayed}
        keys = {name: key for name, (_, key) in self._held.items() if name not in stayed}
        return Revealed(own, keys)

    def _step(self, expected: str, then: str) -> None:
        if self._state != expected:
            raise CryptoError(
                f"{self.name!r}: masks serve one sum; this step follows {expected!r}, and the "
                f"member is at {self._state!r}"
            )
        self._state = then

    def _channel_key(self, sender: str, receiver: str) -> bytes:
        other = receiver if sender == self.name else sender
        context = f"fedtl shares/1|{self.group.context}|{sender}|{receiver}|{self._told}"
        return self._channel.agree(self._keys[other].channel, context)

    def __repr__(self) -> str:
        return f"Member({self.name!r}, {self._state})"


def total(
    group: Group,
    keys: Mapping[str, Keys],
    shared: Set[str],
    masked: Mapping[str, np.ndarray],
    revealed: Mapping[str, Revealed],
    *,
    asked: bytes = b"",
) -> np.ndarray:
    """Add up and take the masks off; the aggregator's part.

    Parameters
    ----------
    group : Group
        All members.
    keys : mapping of str to Keys
        What members advertised.
    shared : set of str
        Members whose shares were handed on to the others.
    masked : mapping of str to ndarray
        Masked summands of the members that stayed, of one shape.
    revealed : mapping of str to Revealed
        What members revealed for just these; some may be missing.
    asked : bytes, optional
        What members were asked for.

    Returns
    -------
    ndarray
        The sum over the members in `masked`.

    Raises
    ------
    CryptoError
        If too few are left, shapes differ, or shares do not give the secrets that members
        committed to: never a wrong sum.
    """
    group.enough(masked, "for a sum")
    group.enough(revealed, "for taking masks off")
    if not set(masked) <= set(shared) or not set(shared) <= set(keys):
        raise CryptoError("a summand came of a member that took no part in the sharing")
    dropped = set(shared) - set(masked)
    for name, part in revealed.items():
        if set(part.own_masks) != set(masked) or set(part.mask_keys) != dropped:
            raise CryptoError(f"{name!r} revealed shares for other members than are added up")
    arrays = list(masked.values())
    if any(a.shape != arrays[0].shape or a.dtype != np.dtype(group.dtype) for a in arrays):
        raise CryptoError("masked summands must have one shape and the type of the group")
    result = np.sum(arrays, axis=0, dtype=group.dtype)
    for name in masked:
        seed = _joined(group, name, {n: r.own_masks[name] for n, r in revealed.items()})
        if _commitment(seed) != keys[name].commitment:
            raise CryptoError(f"shares do not give the mask that {name!r} committed to")
        result -= _own_mask(seed, result)
    for name in dropped:
        private = _joined(group, name, {n: r.mask_keys[name] for n, r in revealed.items()})
        pair = KeyPair(private)
        if pair.public != keys[name].masks:
            raise CryptoError(f"shares do not give the key that {name!r} advertised")
        for other in masked:
            # What the one that dropped out would have added cancels what the other did.
            _add_pair(result, group, (name, other), pair, keys[other].masks, asked=asked)
    return result


def plan_sum(magnitude_bits: int, n_members: int, dtype: str = "uint32") -> FixedPoint:
    """Choose the scale at which real summands of so many members add up without wrapping around.

    Parameters
    ----------
    magnitude_bits : int
        Summands are at most ``2**magnitude_bits`` in absolute value.
    n_members : int
        Number of members.
    dtype : {"uint32", "uint64"}, default="uint32"
        Type of the sums.

    Returns
    -------
    FixedPoint
        As fine as fits. Its ``encode(values).astype(dtype)`` is a summand; a sum is read by
        :func:`read_sum`.

    Raises
    ------
    FixedPointError
        If fewer than 8 fraction bits are left.
    """
    bits = 8 * np.dtype(dtype).itemsize
    fraction = min(bits - 2 - magnitude_bits - (n_members - 1).bit_length(), 40)
    if fraction < 8:
        raise FixedPointError(
            f"sums of {n_members} numbers up to 2**{magnitude_bits} leave {max(fraction, 0)} of "
            f"{bits} bits for fractions, at least 8 are needed; use uint64 or scale them down"
        )
    return FixedPoint(fraction, magnitude_bits)


def read_sum(fixed: FixedPoint, integers: np.ndarray) -> np.ndarray:
    """Return the real sum of what :func:`plan_sum` encoded: ndarray of the same shape, float64."""
    signed = integers.view(np.dtype(f"int{8 * integers.dtype.itemsize}"))
    return fixed.decode(signed.astype(np.int64))


def _own_mask(seed: bytes, like: np.ndarray) -> np.ndarray:
    return uniform(seed, "own mask", like.shape, like.dtype.type)


def _add_pair(
    array: np.ndarray,
    group: Group,
    names: tuple[str, str],
    pair: KeyPair,
    public: bytes,
    *,
    asked: bytes,
) -> None:
    """Add the first one's pairwise mask with the second to an array, in place."""
    seed = pair.agree(public, f"fedtl masks/1|{group.context}|{asked.hex()}")
    mask = uniform(seed, "pair mask", array.shape, array.dtype.type)
    if group.place(names[0]) < group.place(names[1]):
        array += mask
    else:
        array -= mask


def _joined(group: Group, name: str, shares: Mapping[str, bytes]) -> bytes:
    try:
        places = {group.place(holder): share for holder, share in shares.items()}
        return join(places, group.threshold, KEY_BYTES)
    except CryptoError as error:
        raise CryptoError(f"a secret of {name!r} cannot be put together: {error}") from None


def _digest(group: Group, keys: Mapping[str, Keys]) -> str:
    """Hash of all members' keys: a member whose sum was begun anew is another one."""
    shown = [keys.get(name) for name in group.members]
    parts = [k.channel + k.masks + k.commitment if k else bytes(3 * KEY_BYTES) for k in shown]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _commitment(seed: bytes) -> bytes:
    return hashlib.sha256(b"fedtl own mask/1|" + seed).digest()
