"""Cardinality: how many of the active party's ids a party has, and not which.

The same private set intersection as in :mod:`fedtl.protocols.alignment`, semi-honest, with an
answer that has lost its order. A policy may allow it where it does not allow ``alignment``: to
find out whether a cooperation is worth its while.

Who learns what:

- ``cardinality.count/1`` holds H(x)^a for each different id x, with a secret a of this one
  exchange: the party learns how many ids the active party has, and nothing else.
- ``cardinality.counted/1`` holds H(x)^ac for each x and tags of H(y)^c for each of the party's ids
  y, with a secret c of this one message, each sorted, which is a random order: the active party
  learns how many ids the party has, and **how many of its x are among them**. It cannot tell
  which, nor recognise them in a second answer.

Asked twice with sets that differ in one id, the two numbers say of that id what an alignment would.
The party cannot see that; its ``max_aligned_ids`` bounds it, and ``min_intersection`` refuses small
sets.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from fedtl.alignment import InvalidPoint, Matcher, canonical_ids
from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.parties import PartyService
from fedtl.protocols.alignment import keyed_table, matched
from fedtl.wire import Message, Tensor, message


@message("cardinality.count/1")
class Count(Message):
    """Ids, blinded by the active party, of which the shared ones are to be counted."""

    normalisation: str
    points: Annotated[np.ndarray, Tensor("uint8", ("points", 32))]


@message("cardinality.counted/1")
class Counted(Message):
    """The same and the party's tags, under a secret of this message and sorted."""

    points: Annotated[np.ndarray, Tensor("uint8", ("points", 32))]
    tags: Annotated[np.ndarray, Tensor("uint8", ("tags", 16))]


def count_shared(
    channel: Channel, keys: Any, *, normalisation: str = "exact", n_threads: int | None = None
) -> int:
    """Find out how many different ids a party has, and not which.

    Parameters
    ----------
    channel : Channel
        The party.
    keys : array-like of shape (n_rows,)
        Ids of the active party's rows.
    normalisation : {"exact", "casefold", "digits"}, default="exact"
        How ids are compared, as the party declares it.
    n_threads : int, optional
        Threads that blind and unblind; all cores by default.

    Returns
    -------
    int
        Size of the intersection.

    Raises
    ------
    ValueError
        If an id is neither text nor a whole number.
    PartyError
        If the party has another normalisation, or its answer is not that of the protocol.
    PolicyRefusal
        If the party does not allow it.
    """
    distinct = {i for i in canonical_ids(keys, normalisation) if i is not None}
    asking = Matcher(list(distinct), n_threads)
    counted = channel.ask(Count(normalisation=normalisation, points=asking.points), Counted)
    shared = matched(channel, asking, counted.points, counted.tags)
    return int((shared >= 0).sum())


def answer_count(party: PartyService, request: Count) -> Counted:
    """Raise blinded ids and the party's own to a new secret, and forget their order."""
    table = keyed_table(party, request.normalisation)
    party.policy.allow_intersection(party.name, len(request.points))
    party.usage.align(party.name, party.policy, len(request.points))
    try:
        points, tags = table.key_list.shuffled(request.points)
    except InvalidPoint as error:
        raise PartyError(party.name, f"was sent no blinded ids: {error}") from None
    return Counted(points=points, tags=tags)
