"""Predict: what a party's fitted models say of new rows.

Who learns what:

- ``predict.request/1`` tells the party the ids of the rows that are to be predicted.
- ``predict.reply/1`` gives the active party, for each of them: whether the party knows it, its
  partial scores (a linear map of its encoded columns), the scores of its trees and its latents, or
  in their place the latents that were told with noise of training rows, without noise.

Where a fit was protected, :mod:`fedtl.protocols.protected_predict` or
:mod:`fedtl.protocols.shared_predict` take its place.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.learning.columns import Columns
from fedtl.learning.network import PartyEncoder
from fedtl.learning.training import encode
from fedtl.parties import PartyService, Session
from fedtl.protocols.assistance import local_scores
from fedtl.wire import Message, Tensor, message

PROJECTION = "fitted.projection"
"""Where a party keeps what makes its latents, if they are told with noise of training rows."""


@message("predict.request/1")
class Request(Message):
    """Rows to be predicted, and what is wanted of them."""

    session: str
    ids: Annotated[np.ndarray, Tensor("int64", ("ids",))]
    scores: bool
    trees: bool
    latents: bool


@message("predict.reply/1")
class Reply(Message):
    """Zero where the party does not know the row; no outputs where none were asked for."""

    known: Annotated[np.ndarray, Tensor("bool", ("ids",))]
    scores: Annotated[np.ndarray, Tensor("float64", ("ids", "kept"))]
    trees: Annotated[np.ndarray, Tensor("float64", ("ids", "outputs"))]
    latents: Annotated[np.ndarray, Tensor("float64", ("members", "ids", "components"))]


def ask_predictions(
    channel: Channel,
    session: str,
    ids: np.ndarray,
    *,
    scores: bool,
    latents: bool,
    trees: bool = False,
) -> Reply:
    """Ask a party about new rows.

    Parameters
    ----------
    channel : Channel
        The party.
    session : str
        Name of the session.
    ids : ndarray of shape (n_ids,), dtype int64
        Ids of the rows.
    scores, latents : bool
        What is wanted.
    trees : bool, default=False
        Whether the scores of its trees are wanted.

    Returns
    -------
    Reply
        Its answer.
    """
    request = Request(session=session, ids=ids, scores=scores, trees=trees, latents=latents)
    return channel.ask(request, Reply)


def answer_predictions(party: PartyService, request: Request) -> Reply:
    """Score and encode the rows that the party knows."""
    session = party.session(request.session)
    if not session.features.fitted:
        raise PartyError(party.name, "nothing was fitted yet in this session")
    coefficients = session.state.get("fitted.coefficients") if request.scores else None
    encoder = session.state.get("fitted.encoder") if request.latents else None
    projection = session.state.get(PROJECTION) if request.latents else None
    numbers = 0 if coefficients is None else coefficients.shape[1]
    if encoder is not None:
        numbers += encoder.members * encoder.encoder.skip.weight.shape[2]
    numbers += 0 if projection is None else projection.weights.shape[1]
    trees = session.state.get("fitted.trees") if request.trees else None
    numbers += 0 if trees is None else trees.n_outputs
    party.policy.limits.allow(len(request.ids) * (1 + 8 * numbers))
    party.usage.predict(party.name, party.policy, len(request.ids))
    columns, known = session.features.read(party.table, request.ids)
    rows = np.flatnonzero(known)
    scores = np.zeros((len(known), 0))
    if coefficients is not None:
        scores = np.zeros((len(known), coefficients.shape[1]))
        for piece, encoded in session.features.chunks(columns, rows):
            scores[rows[piece]] = encoded @ coefficients[1:] + coefficients[0]
    of_trees = np.zeros((len(known), 0))
    if trees is not None:
        of_trees = local_scores(session, trees, columns, rows)
    latents = np.zeros((0, len(known), 0))
    if encoder is not None:
        latents = local_latents(session, encoder, columns, rows)
    elif projection is not None:
        latents = np.zeros((1, len(known), projection.weights.shape[1]))
        for piece, encoded in session.features.chunks(columns, rows):
            latents[0, rows[piece]] = projection.scores(encoded)
    return Reply(known=known, scores=scores, trees=of_trees, latents=latents)


def local_latents(
    session: Session, encoder: PartyEncoder, columns: Columns, rows: np.ndarray
) -> np.ndarray:
    """Encode known rows, zero elsewhere: (members, n_rows, n_components), float64."""
    encoded = encode(encoder, session.features.latent_input(columns, rows))
    latents = np.zeros((encoded.shape[0], len(columns), encoded.shape[2]))
    latents[:, rows] = encoded
    return latents
