"""Session: which of the active party's rows another party knows, and what both call the model.

Who learns what:

- ``session.open/1`` tells the party the ids of the active party's rows.
- ``session.opened/1`` tells the active party which of them this party knows. (Where parties are
  remote, ids are positions from an alignment by private set intersection: of ids that it does not
  know, the party learns no more than that they are unknown.)
- ``session.prepare/1`` asks the party to encode its own rows, or to keep some principal components
  of its encoding; in ``session.prepared/1`` it says how many columns that gives.
- ``session.end/1`` and ``session.ended/1`` say that training is over: the party forgets the
  order of rows and whatever only training needs.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.parties import LocalFeatures, PartyService, Session
from fedtl.wire import Message, Tensor, message

_MAX_BINS = 256


@message("session.open/1")
class Open(Message):
    """Begin a fit, of a new model or of one that goes on from an earlier fit."""

    session: str
    resume: bool
    ids: Annotated[np.ndarray, Tensor("int64", ("ids",))]


@message("session.opened/1")
class Opened(Message):
    """Which ids the party knows."""

    known: Annotated[np.ndarray, Tensor("bool", ("ids",))]


@message("session.prepare/1")
class Prepare(Message):
    """Fit the party's own encoding on its own rows."""

    session: str
    n_bins: int
    seed: int
    n_components: int = 0


@message("session.prepared/1")
class Prepared(Message):
    """The party has encoded its rows."""

    width: int


@message("session.end/1")
class End(Message):
    """Training is over; the fitted session stays for predictions."""

    session: str


@message("session.ended/1")
class Ended(Message):
    """Training rows are forgotten."""

    session: str


def open_session(channel: Channel, session: str, ids: np.ndarray, resume: bool) -> np.ndarray:
    """Ask a party to begin a fit on the rows with these ids.

    Parameters
    ----------
    channel : Channel
        The party.
    session : str
        Name of the session, the same for all parties of a model.
    ids : ndarray of shape (n_ids,), dtype int64
        Ids of the active party's rows.
    resume : bool
        Whether to go on from an earlier fit of this session (warm start).

    Returns
    -------
    ndarray of shape (n_ids,), dtype bool
        Which ids the party knows.
    """
    return channel.ask(Open(session=session, resume=resume, ids=ids), Opened).known


def prepare_session(
    channel: Channel, session: str, n_bins: int, seed: int, n_components: int = 0
) -> int:
    """Ask a party to encode its rows, and return how many columns that gives.

    Parameters
    ----------
    channel : Channel
        The party.
    session : str
        Name of the session.
    n_bins : int
        Bins of the piecewise-linear encoding.
    seed : int
        Seed of what the party draws.
    n_components : int, default=0
        If positive, its encoding is so many of its principal components at most.

    Returns
    -------
    int
        Width of its encoding.
    """
    request = Prepare(session=session, n_bins=n_bins, seed=seed, n_components=n_components)
    return channel.ask(request, Prepared).width


def end_session(channel: Channel, session: str) -> None:
    """Tell a party that training is over."""
    channel.ask(End(session=session), Ended)


def answer_open(party: PartyService, request: Open) -> Opened:
    """Say which ids the party knows."""
    if party.recipe is None:
        raise PartyError(party.name, "has no recipe for encoding its columns")
    features = LocalFeatures(party.name, party.recipe)
    if request.resume:
        features = party.session(request.session).features
    known = features.known(party.table, request.ids)
    party.policy.allow_intersection(party.name, len(np.unique(request.ids[known])))
    # Not before it is known that the ids are those of the present table.
    party.usage.begin_fit(party.name, party.policy)
    if not request.resume:
        party.sessions[request.session] = Session(features)
    session = party.session(request.session)
    session.end_fit()  # rows and training of a fit that was broken off belong to other ids
    session.ids, session.known = request.ids, known
    return Opened(known=session.known)


def answer_prepare(party: PartyService, request: Prepare) -> Prepared:
    """Fit the party's own encoding, unless an earlier fit's is kept."""
    session = party.session(request.session)
    if not 0 <= request.n_bins <= _MAX_BINS or not 0 <= request.seed < 2**32:
        raise PartyError(party.name, f"n_bins must lie in [0, {_MAX_BINS}] and seed in [0, 2**32)")
    if request.n_components < 0:
        raise PartyError(party.name, "n_components must not be negative")
    if not session.features.fitted:
        session.features.fit(party.table.block, request.n_bins, request.seed, request.n_components)
    session.read(party.table)
    return Prepared(width=session.features.encoding_.width)


def answer_end(party: PartyService, request: End) -> Ended:
    """Forget what only training needs."""
    party.session(request.session).end_fit()
    return Ended(session=request.session)
