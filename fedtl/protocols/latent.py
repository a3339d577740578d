"""Latent: joint training of one encoder a party, a mini-batch an exchange.

One exchange carries the gradient of the last batch one way and the latents of the next batch the
other way, so ``n`` steps cost ``n + 1`` exchanges with each party, or a `q`-th of it when every
exchange is followed by ``q`` local updates.

Who learns what:

- ``latent.begin/1`` tells the party the sizes, learning rate and seed of the training, and
  ``latent.ready/1`` the active party how many parameters the party's encoder has.
- ``latent.exchange/1`` tells the party which shared rows are in the next batch, and the gradient
  of the loss with respect to the latents it sent last. *Without protection these gradients say a
  lot about the labels of the rows.*
- ``latent.latents/1`` gives the active party the latents of the rows of the batch: a learnt map
  of a row's columns to a few numbers. *Without protection they say something about the columns.*
- ``latent.encode/1`` and ``latent.encoded/1`` give it the final latents of training rows, for the
  held-out evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.learning.network import HIDDEN, PartyEncoder
from fedtl.learning.training import EncoderTraining, encode
from fedtl.parties import LocalFeatures, PartyService, Session
from fedtl.wire import Message, Tensor, message

_ENCODER = "fitted.encoder"
_TRAINING = "latent.training"
_MAX_LATENTS, _MAX_UPDATES, _MAX_SIZE, _MAX_LR = 4096, 1000, 1_000_000, 1000.0


@dataclass(frozen=True)
class Plan:
    """Sizes of a joint training, the same for all parties.

    Parameters
    ----------
    members : int
        Networks side by side.
    n_components : int
        Width of the latent space.
    n_exchanges : int
        Mini-batches.
    local_updates : int
        Steps that each side takes on one batch.
    lr : float
        Highest learning rate.
    """

    members: int
    n_components: int
    n_exchanges: int
    local_updates: int
    lr: float

    @property
    def n_steps(self) -> int:
        """Number of optimiser steps at each side."""
        return self.n_exchanges * self.local_updates


@message("latent.begin/1")
class Begin(Message):
    """Begin a joint training, from the encoder of an earlier one if it is kept."""

    session: str
    members: int
    n_components: int
    n_exchanges: int
    local_updates: int
    n_local_rows: int
    lr: float
    seed: int
    keep_encoder: bool


@message("latent.ready/1")
class Ready(Message):
    """The party is ready to train."""

    n_parameters: int


@message("latent.exchange/1")
class Exchange(Message):
    """The next batch, and the gradient of the last one."""

    session: str
    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]
    gradient: Annotated[np.ndarray, Tensor("float32", ("members", "last", "components"))]


@message("latent.latents/1")
class Latents(Message):
    """The latents of a batch."""

    latents: Annotated[np.ndarray, Tensor("float32", ("members", "rows", "components"))]


@message("latent.encode/1")
class Encode(Message):
    """Ask for final latents of training rows."""

    session: str
    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]


@message("latent.encoded/1")
class Encoded(Message):
    """Final latents of training rows."""

    latents: Annotated[np.ndarray, Tensor("float32", ("members", "rows", "components"))]


def begin(
    channel: Channel,
    session: str,
    plan: Plan,
    *,
    n_local_rows: int,
    seed: int,
    keep_encoder: bool,
) -> None:
    """Ask a party to begin a joint training.

    Parameters
    ----------
    channel : Channel
        The party.
    session : str
        Name of the session.
    plan : Plan
        Sizes.
    n_local_rows : int
        Rows of the party's own choice in each batch, for its self-supervision.
    seed : int
        Seed of the party's weights, noise and choices.
    keep_encoder : bool
        Whether to go on from the encoder of an earlier training.
    """
    request = Begin(
        session=session,
        members=plan.members,
        n_components=plan.n_components,
        n_exchanges=plan.n_exchanges,
        local_updates=plan.local_updates,
        n_local_rows=n_local_rows,
        lr=plan.lr,
        seed=seed,
        keep_encoder=keep_encoder,
    )
    channel.ask(request, Ready)


def exchange(channel: Channel, session: str, rows: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Send a batch's gradient and ask for the latents of the next batch.

    Parameters
    ----------
    channel : Channel
        The party.
    session : str
        Name of the session.
    rows : ndarray of shape (n_rows,), dtype int
        Positions of the next batch's rows; empty after the last batch.
    gradient : ndarray of shape (members, n_last, n_components), dtype float32
        Gradient with respect to the last latents; empty before the first batch.

    Returns
    -------
    ndarray of shape (members, n_rows, n_components), dtype float32
        Latents.
    """
    request = Exchange(session=session, rows=rows.astype(np.uint32), gradient=gradient)
    return channel.ask(request, Latents).latents


def final_latents(channel: Channel, session: str, rows: np.ndarray) -> np.ndarray:
    """Ask for the final latents of training rows: (members, n_rows, n_components), float32."""
    request = Encode(session=session, rows=rows.astype(np.uint32))
    return channel.ask(request, Encoded).latents


def answer_begin(party: PartyService, request: Begin) -> Ready:
    """Build the party's encoder and lay its rows ready."""
    session = party.session(request.session)
    sizes = (request.members, request.n_components, request.n_exchanges, request.local_updates)
    if session.columns is None:
        raise PartyError(party.name, "a joint training was begun before its rows were prepared")
    if min(sizes) < 1 or min(request.n_local_rows, request.seed) < 0:
        raise PartyError(party.name, "sizes of a joint training must be positive")
    if not 0.0 < request.lr <= _MAX_LR:  # a step of more may not fit into single precision
        raise PartyError(party.name, f"a learning rate must be in (0, {_MAX_LR:g}]")
    latents, updates = request.members * request.n_components, request.local_updates
    if latents > _MAX_LATENTS or updates > _MAX_UPDATES or max(sizes) > _MAX_SIZE:
        raise PartyError(
            party.name,
            f"a joint training may have {_MAX_LATENTS} latents of all members together, "
            f"{_MAX_UPDATES} updates on a batch and {_MAX_SIZE} batches at most",
        )
    plan = Plan(
        members=request.members,
        n_components=request.n_components,
        n_exchanges=request.n_exchanges,
        local_updates=request.local_updates,
        lr=request.lr,
    )
    _allow_batch(party, plan, request.n_local_rows)
    kept = session.state.get(_ENCODER) if request.keep_encoder else None
    training = LocalTraining(
        session, plan, n_local_rows=request.n_local_rows, seed=request.seed, encoder=kept
    )
    session.state[_TRAINING] = training
    return Ready(n_parameters=sum(p.numel() for p in training.encoder.parameters()))


def answer_exchange(party: PartyService, request: Exchange) -> Latents:
    """Learn from the last batch's gradient and encode the next batch."""
    session = party.session(request.session)
    training: LocalTraining | None = session.state.get(_TRAINING)
    if training is None or training.finished:
        raise PartyError(party.name, "no joint training is under way in this session")
    _allow_batch(party, training.plan, len(request.rows) + training.training.n_local_rows)
    rows = party.training_rows(session, request.rows)  # first: what is refused teaches nothing
    training.learn(party.name, request.gradient)
    return Latents(latents=training.latents(rows))


def answer_encode(party: PartyService, request: Encode) -> Encoded:
    """End the training and encode rows with what it learnt."""
    session = party.session(request.session)
    training: LocalTraining | None = session.state.get(_TRAINING)
    if training is None:
        raise PartyError(party.name, "no joint training is under way in this session")
    party.policy.limits.allow(
        8 * len(request.rows) * training.plan.members * training.plan.n_components
    )
    training.finish()
    session.state[_ENCODER] = training.encoder
    rows = training.position[party.training_rows(session, request.rows)]
    latents = encode(training.encoder, training.training.inputs[rows].numpy())
    return Encoded(latents=latents.astype(np.float32))


def _allow_batch(party: PartyService, plan: Plan, n_rows: int) -> None:
    """Refuse a batch whose activations are larger than a message may be, before it is computed."""
    party.policy.limits.allow(4 * n_rows * plan.members * (HIDDEN + plan.n_components))


class LocalTraining:
    """A party's encoder in training, and where its rows are.

    The active party holds one too, for its own columns, without messages.

    Parameters
    ----------
    session : Session
        The party's features and rows.
    plan : Plan
        Sizes.
    n_local_rows : int
        Rows of the party's own choice in each batch.
    seed : int
        Seed.
    encoder : PartyEncoder, optional
        An encoder to go on from.
    """

    def __init__(
        self,
        session: Session,
        plan: Plan,
        *,
        n_local_rows: int,
        seed: int,
        encoder: PartyEncoder | None = None,
    ) -> None:
        assert session.columns is not None
        known = np.flatnonzero(session.known)
        self.plan, self.finished = plan, False
        self.position = np.full(len(session.known), -1, dtype=np.int64)
        self.position[known] = np.arange(len(known))
        self.encoder = encoder or new_encoder(session.features, plan, seed)
        self.encoder.encoder.float()
        self.n_updates = plan.local_updates
        self.training = EncoderTraining(
            self.encoder,
            session.features.latent_input(session.columns, known),
            n_steps=plan.n_steps,
            n_local_rows=n_local_rows,
            lr=plan.lr,
            trunk_lr=session.features.recipe.lr or plan.lr / 10.0,
            seed=seed,
        )
        self._rows = torch.empty(0, dtype=torch.int64)
        self._latents: torch.Tensor | None = None

    def latents(self, rows: np.ndarray) -> np.ndarray:
        """Encode a batch and remember it until its gradient comes."""
        self._rows, self._latents = torch.from_numpy(self.position[rows]), None
        if not len(rows):
            shape = (self.encoder.members, 0, self.encoder.encoder.skip.weight.shape[2])
            return np.empty(shape, dtype=np.float32)
        self._latents = self.training.latents(self._rows)
        return np.asarray(self._latents.detach().numpy())

    def learn(self, party: str, gradient: np.ndarray) -> None:
        """Learn from the gradient of the batch that was encoded last."""
        if not gradient.size:
            return
        if self._latents is None or gradient.shape != tuple(self._latents.shape):
            raise PartyError(party, "a gradient came that belongs to no batch")
        latents, self._latents = self._latents, None  # a batch is learnt from once
        self.training.learn(self._rows, latents, torch.tensor(gradient), self.n_updates)

    def finish(self) -> None:
        """End the training: from here on the encoder computes in double precision.

        Predictions then do not depend on how rows are batched. A pretrained network below keeps
        its own precision.
        """
        self.encoder.encoder.double()
        self.finished = True


def new_encoder(features: LocalFeatures, plan: Plan, seed: int) -> PartyEncoder:
    """Build a party's encoder for its features: a trunk's copies below it where one is trained."""
    generator = torch.Generator().manual_seed(seed)
    width = features.encoding_.width if features.trunk is None else features.trunk_width
    return PartyEncoder(plan.members, width, plan.n_components, generator, features.trunk)
