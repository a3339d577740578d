"""Alignment: which rows of a party's own table are about the active party's ids.

Private set intersection with Diffie-Hellman on ristretto255 (see ``fedtl/alignment/_psi.py``),
semi-honest: both sides are assumed to follow the protocol. It comes before everything else where a
party's columns are not in X. The active party ends with one int64 *position* for each of its rows,
by which ``session.open/1`` and ``predict.request/1`` name the party's rows; -1 where the party does
not have the id.

Who learns what, of ids x of the active party and y of the passive one:

- ``alignment.begin/1`` tells the party how many different ids are to be asked about, and by which
  normalisation they are compared. ``alignment.begun/1`` tells the active party how many different
  ids the party has, and the name of its list, which changes when the set of its ids does.
- ``alignment.blind/1`` holds H(x)^a, in the order of random numbers, with a secret a of this one
  exchange: the party learns nothing but how many there are. It cannot tell which of them it has,
  and not whether one was asked about before or by somebody else.
- ``alignment.blinded/1`` holds H(x)^ab. Once a is taken off, the active party knows tag and
  position for each x, and nothing of other ids.
- ``alignment.tags/1`` and ``alignment.tag_list/1`` give the active party a tag of each y, sorted.
  So it learns **which of its x the party has**. A tag of a y that it does not ask about is a random
  number to it, without whoever knows the party's secret b.
- ``session.open/1`` and ``predict.request/1``, later, tell the party **which of its rows** the
  active party has, by their positions, and how often each; and how many rows of it are unknown.

With several parties, each of them aligns with the active party and with nobody else. It learns,
row by row, who of them has its ids; of ids that it does not have, it does not learn that two
parties share them. The passive parties learn nothing of one another's ids: each is asked with
secrets of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import numpy as np

from fedtl.alignment import (
    AlignmentCache,
    InvalidPoint,
    KnownList,
    Matcher,
    as_list,
    canonical_ids,
)
from fedtl.alignment import is_sorted as are_tags
from fedtl.exceptions import PartyError, StaleAlignment
from fedtl.federation import Channel
from fedtl.parties import KeyedTable, PartyService
from fedtl.protocols.session import Open
from fedtl.wire import Message, Tensor, message

POINTS_PER_MESSAGE = 32_768
TAGS_PER_MESSAGE = 65_536
MAX_PARTY_IDS = 20_000_000

R = TypeVar("R")
M = TypeVar("M", bound=Message)


@message("alignment.begin/1")
class Begin(Message):
    """Ask for the party's list, before ids are blinded."""

    normalisation: str
    n_ids: int


@message("alignment.begun/1")
class Begun(Message):
    """Name of the party's list, and how many ids it has."""

    list: str
    n_ids: int


@message("alignment.tags/1")
class Tags(Message):
    """Ask for a piece of the party's tags."""

    list: str
    first: int


@message("alignment.tag_list/1")
class TagList(Message):
    """Tags from the first one asked for, sorted, of the party's ids."""

    tags: Annotated[np.ndarray, Tensor("uint8", ("tags", 16))]


@message("alignment.blind/1")
class Blind(Message):
    """Ids, blinded by the active party."""

    list: str
    points: Annotated[np.ndarray, Tensor("uint8", ("points", 32))]


@message("alignment.blinded/1")
class Blinded(Message):
    """The same, raised to the party's secret as well, in the same order."""

    points: Annotated[np.ndarray, Tensor("uint8", ("points", 32))]


def align(
    channel: Channel,
    keys: Any,
    *,
    normalisation: str = "exact",
    cache: AlignmentCache | None = None,
    min_intersection: int = 0,
    n_threads: int | None = None,
) -> np.ndarray:
    """Find out which ids a party has, and by which positions it calls their rows.

    Parameters
    ----------
    channel : Channel
        The party.
    keys : array-like of shape (n_rows,)
        Ids of the active party's rows. Several rows may have one id; an id that is missing is
        unknown to everybody.
    normalisation : {"exact", "casefold", "digits"}, default="exact"
        How ids are compared, as the party declares it; see
        :func:`fedtl.alignment.canonical_ids`.
    cache : AlignmentCache, optional
        What was asked before. Ids in it are not asked about again, as long as the party's ids are
        the same. No message is sent if all are in it and one of them is known to the party.
    min_intersection : int, default=0
        How many different ids must be shared.
    n_threads : int, optional
        Threads that blind and unblind; all cores by default.

    Returns
    -------
    ndarray of shape (n_rows,), dtype int64
        Position of each row in the party's list, to be sent as its id; -1 where the party does
        not know it.

    Raises
    ------
    ValueError
        If an id is neither text nor a whole number.
    PartyError
        If the party has another normalisation, too few ids are shared, or its answer is not that
        of the protocol.
    PolicyRefusal
        If the party does not allow so many ids to be asked about.
    """
    cache = AlignmentCache() if cache is None else cache
    canonical = canonical_ids(keys, normalisation)
    has_id = np.array([i is not None for i in canonical], dtype=bool)
    distinct = list(dict.fromkeys(i for i in canonical if i is not None))
    digests = cache.digests(distinct, normalisation)
    # Sorted by a keyed hash: an order that tells the party nothing.
    order = np.argsort(digests)
    with cache.lock(channel.name):
        found = _positions(
            channel,
            [distinct[i] for i in order],
            digests[order],
            normalisation=normalisation,
            cache=cache,
            n_threads=n_threads,
        )
    if (found >= 0).sum() < min_intersection:
        raise PartyError(
            channel.name,
            f"has {int((found >= 0).sum())} of the {len(distinct)} different ids, "
            f"{min_intersection} are required; check that both sides mean the same ids "
            f"(normalisation={normalisation!r})",
        )
    position_of = dict(zip((distinct[i] for i in order), found.tolist(), strict=True))
    positions = np.full(len(canonical), -1, dtype=np.int64)
    positions[has_id] = [position_of[i] for i in canonical if i is not None]
    return positions


def align_and_ask(
    channel: Channel,
    keys: Any,
    ask: Callable[[np.ndarray], R],
    *,
    cache: AlignmentCache,
    **options: Any,
) -> R:
    """Align, ask, and align anew if the party's ids have changed since they were remembered.

    Parameters
    ----------
    channel : Channel
        The party.
    keys : array-like of shape (n_rows,)
        Ids of the active party's rows.
    ask : callable
        Called with their positions; sends a request that names rows by them.
    cache : AlignmentCache
        What was asked before.
    **options : dict
        Further arguments of :func:`align`.

    Returns
    -------
    object
        What `ask` returned.
    """
    try:
        return ask(align(channel, keys, cache=cache, **options))
    except StaleAlignment:
        cache.forget(channel.name)
    return ask(align(channel, keys, cache=cache, **options))


class KeyedChannel:
    """A channel to a party whose rows are found by key, for whoever numbers rows as in X.

    What is asked about rows by ``ids``, as ``session.open/1`` and ``predict.request/1`` are, is
    aligned first and sent with the party's positions in their place; other messages pass. So
    solvers do the same with a party that has a table of its own as with a block of X.

    Parameters
    ----------
    channel : Channel
        The party.
    keys : array-like of shape (n_rows,)
        Ids of the rows of X.
    cache : AlignmentCache
        What was asked before; to be shared by all channels of a federation, so that the fits of
        a cross-validation and predictions do not ask again.
    normalisation : {"exact", "casefold", "digits"}, default="exact"
        How ids are compared, as the party declares it.
    min_intersection : int, default=0
        How many different ids must be shared for a fit.
    """

    def __init__(
        self,
        channel: Channel,
        keys: Any,
        *,
        cache: AlignmentCache,
        normalisation: str = "exact",
        min_intersection: int = 0,
    ) -> None:
        self.name = channel.name
        self._channel, self._keys, self._cache = channel, as_list(keys), cache
        self._normalisation, self._min_intersection = normalisation, min_intersection

    def ask(self, request: Message, expected: type[M]) -> M:
        """Send a request and return its reply.

        Parameters
        ----------
        request : Message
            What is asked; its ``ids``, if it has any, are row numbers of X.
        expected : type
            The message that its protocol replies with.

        Returns
        -------
        Message
            The reply, of the type `expected`.

        Raises
        ------
        PartyError
            If the party cannot or will not answer, or shares too few ids.
        """
        if "ids" not in request.schema:
            return self._channel.ask(request, expected)

        def ask_by_position(positions: np.ndarray) -> M:
            named: Message = replace(request, ids=positions)  # type: ignore[type-var]
            return self._channel.ask(named, expected)

        return align_and_ask(
            self._channel,
            [self._keys[number] for number in request.ids.tolist()],  # type: ignore[attr-defined]
            ask_by_position,
            cache=self._cache,
            normalisation=self._normalisation,
            min_intersection=self._min_intersection if isinstance(request, Open) else 0,
        )


def answer_begin(party: PartyService, request: Begin) -> Begun:
    """Name the party's list, making it if this is the first time."""
    table = keyed_table(party, request.normalisation)
    if request.n_ids < 0:
        raise PartyError(party.name, "the number of ids must not be negative")
    party.usage.allow_align(party.name, party.policy, request.n_ids)
    return Begun(list=table.key_list.name, n_ids=len(table.key_list))


def answer_tags(party: PartyService, request: Tags) -> TagList:
    """Give a piece of the tags."""
    table = keyed_table(party, None, request.list)
    tags = table.key_list.tags
    if not 0 <= request.first < len(tags):
        raise PartyError(party.name, f"has {len(tags)} tags, number {request.first} was asked for")
    return TagList(tags=tags[request.first : request.first + TAGS_PER_MESSAGE])


def answer_blind(party: PartyService, request: Blind) -> Blinded:
    """Raise blinded ids to the list's secret."""
    table = keyed_table(party, None, request.list)
    party.usage.align(party.name, party.policy, len(request.points))
    try:
        return Blinded(points=table.key_list.answer(request.points))
    except InvalidPoint as error:
        raise PartyError(party.name, f"was sent no blinded ids: {error}") from None


def keyed_table(
    party: PartyService, normalisation: str | None, name: str | None = None
) -> KeyedTable:
    """Return a party's table for a request about ids.

    Parameters
    ----------
    party : PartyService
        The party.
    normalisation : str or None
        What the request says of its ids.
    name : str, optional
        The list that it is about.

    Returns
    -------
    KeyedTable
        The table.

    Raises
    ------
    PartyError
        If it has no keys, or its normalisation is another.
    StaleAlignment
        If its list is another.
    """
    table = party.table
    if not isinstance(table, KeyedTable):
        raise PartyError(party.name, "its table has no keys, its rows cannot be found by id")
    if normalisation is not None and normalisation != table.normalisation:
        raise PartyError(
            party.name,
            f"its ids are declared as {table.normalisation!r}, it was asked with "
            f"{normalisation[:20]!r}; declare the same normalisation at both sides",
        )
    if name is not None and name != table.key_list.name:
        raise StaleAlignment(party.name, "its ids have changed during an alignment; align again")
    return table


def matched(channel: Channel, asking: Matcher, raised: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Match a party's answer with its tags.

    Parameters
    ----------
    channel : Channel
        The party, for errors.
    asking : Matcher
        What was asked.
    raised : ndarray of shape (n_ids, 32), dtype uint8
        The answer.
    tags : ndarray of shape (n_tags, 16), dtype uint8
        Tags of the party's ids.

    Returns
    -------
    ndarray of shape (n_ids,), dtype int64
        Position of each id, -1 where the party does not have it.

    Raises
    ------
    PartyError
        If the answer is not that of the protocol.
    """
    if len(raised) != len(asking.points) or not are_tags(tags):
        raise PartyError(channel.name, "did not answer as many ids as were asked about")
    try:
        return asking.positions(raised, tags)
    except InvalidPoint as error:
        raise PartyError(channel.name, f"answered with no blinded ids: {error}") from None


def _positions(
    channel: Channel,
    ids: list[bytes],
    digests: np.ndarray,
    *,
    normalisation: str,
    cache: AlignmentCache,
    n_threads: int | None,
) -> np.ndarray:
    """Positions of different ids, those that are not in the cache by asking the party."""
    known = cache.lists.get(channel.name)
    if known is not None:
        positions, asked = known.look_up(digests)
        # The party finds out by the position of a row whether its ids have changed since. Where
        # there is none, it is asked for the name of its list: it may know the ids by now.
        if asked.all() and ((positions >= 0).any() or not len(ids)):
            return positions
    n_new = len(ids) if known is None else int((~asked).sum())
    begun = channel.ask(Begin(normalisation=normalisation, n_ids=n_new), Begun)
    if known is None or known.name != begun.list:
        known = KnownList(begun.list, _all_tags(channel, begun))
        positions, asked = known.look_up(digests)
    new, done = np.flatnonzero(~asked), 0
    try:
        for start in range(0, len(new), POINTS_PER_MESSAGE):
            piece = new[start : start + POINTS_PER_MESSAGE]
            asking = Matcher([ids[i] for i in piece], n_threads)
            raised = channel.ask(Blind(list=known.name, points=asking.points), Blinded)
            positions[piece] = matched(channel, asking, raised.points, known.tags)
            done += len(piece)
    finally:  # what was answered has been counted by the party, and is not asked again
        known.add(digests[new[:done]], positions[new[:done]], cache.max_ids)
        cache.lists[channel.name] = known
    return positions


def _all_tags(channel: Channel, begun: Begun) -> np.ndarray:
    if not 0 <= begun.n_ids <= MAX_PARTY_IDS:
        raise PartyError(
            channel.name,
            f"says that it has {begun.n_ids} ids; at most {MAX_PARTY_IDS:,} are accepted",
        )
    pieces, n_tags = [np.empty((0, 16), dtype=np.uint8)], 0
    while n_tags < begun.n_ids:
        piece = channel.ask(Tags(list=begun.list, first=n_tags), TagList).tags
        n_tags += len(piece)
        if not len(piece) or n_tags > begun.n_ids:
            break
        pieces.append(piece)
    tags = np.concatenate(pieces)
    if len(tags) != begun.n_ids or not are_tags(tags):
        raise PartyError(channel.name, f"did not send {begun.n_ids} sorted tags, one for each id")
    return tags
