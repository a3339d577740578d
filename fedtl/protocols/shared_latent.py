"""Shared latent: a layer on a party's own features, trained and applied under secret shares.

It takes the place of :mod:`fedtl.protocols.latent` where labels and columns are to be protected.
The layer in which the parties meet is linear in features that the party makes by itself, without
labels (:mod:`fedtl.learning.whitening`). Its weights are ``F.T @ r``, the gradient of the loss
summed over rows: ``F`` has the features, ``r`` the residuals, which are the active party's. Weights
exist as two shares only, one at each side, made anew in each exchange; with them, a row is scored
by weights that its own fold had no part in. Shares are those of :mod:`fedtl.privacy.shares`, dealt
by a dealer; nothing is truncated.

Who learns what:

- ``shared_latent.begin/1`` tells the party which labelled rows are trained on and their folds.
- ``shared_latent.ready/1`` gives the active party a public key of this session, the number of
  features and a bound of their norm, both of which follow from numbers of rows and columns.
- What the dealer learns, and what it gives to whom, is said in :mod:`fedtl.protocols.dealer`.
- ``shared_latent.layer/1`` tells the party masked residuals: how many outputs there are, whether
  this is the final layer, and nothing of labels, residuals or gradients.
- ``shared_latent.masked/1`` gives the active party masked features, which are uniform to it.
- ``shared_latent.score/1`` tells the party masked shares of the layer without each fold: nothing.
- ``shared_latent.scores/1`` gives the active party, for each row and output, one number: the row's
  features times a layer of the other folds' rows. *These are not protected from it.* Since it knows
  the residuals, it learns as many linear combinations of each row's features as there are outputs
  and exchanges in the training; as many as there are features would give them away, up to a
  rotation, and the party refuses to tell half as many. ``Policy.max_row_scores`` bounds them too.

The final layer, of all rows, stays two shares, by which new rows are scored
(:mod:`fedtl.protocols.shared_predict`): neither side learns it.

What the dealer and both parties are trusted with is as in :mod:`fedtl.protocols.shared_moments`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.parties import PartyService
from fedtl.privacy import shares
from fedtl.privacy.keys import KEY_BYTES, KeyPair, new_seed
from fedtl.protocols.dealer import (
    Deals,
    Hand,
    PartyKey,
    check_shape,
    checked_product,
    offer_key,
    open_seed,
)
from fedtl.protocols.layers import (
    FEATURE_BITS,
    NewFeatures,
    OwnFeatures,
    allow_scores,
    check_outputs,
    check_ready,
    make_features,
    open_scores,
    scale_of,
)
from fedtl.protocols.shared_predict import SHARE, LayerShare, SharedServing
from fedtl.wire import Message, Tensor, message

_TRAINING = "shared_latent.training"


@message("shared_latent.begin/1")
class Begin(Message):
    """Rows that are trained on, and their folds."""

    session: str
    n_folds: int
    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]
    folds: Annotated[np.ndarray, Tensor("uint8", ("rows",))]


@message("shared_latent.ready/1")
class Ready(Message):
    """The party's public key and its signature, and its features' number and bound."""

    key: Annotated[np.ndarray, Tensor("uint8", (KEY_BYTES,))]
    proof: Annotated[np.ndarray, Tensor("uint8", ("proof",))]
    n_features: int
    bound: float


@message("shared_latent.layer/1", protection="shares")
class Layer(Message):
    """Masked residuals, a check column behind them; of a layer that is kept if `final`."""

    session: str
    context: str
    final: bool
    sealed: Annotated[np.ndarray, Tensor("uint8", ("sealed",))]
    masked: Annotated[np.ndarray, Tensor("uint64", ("rows", "outputs"))]


@message("shared_latent.masked/1", protection="shares")
class Masked(Message):
    """Masked features."""

    masked: Annotated[np.ndarray, Tensor("uint64", ("rows", "features"))]


@message("shared_latent.score/1", protection="shares")
class Score(Message):
    """Masked shares of the layer without each fold."""

    session: str
    context: str
    sealed: Annotated[np.ndarray, Tensor("uint8", ("sealed",))]
    masked: Annotated[np.ndarray, Tensor("uint64", ("folds", "features", "outputs"))]


@message("shared_latent.scores/1", protection="shares")
class Scores(Message):
    """Features masked anew, and shares of the scores."""

    masked: Annotated[np.ndarray, Tensor("uint64", ("rows", "features"))]
    shares: Annotated[np.ndarray, Tensor("uint64", ("rows", "outputs"))]


class SharedLatent:
    """The active party's end of one party's layer; a :class:`~fedtl.protocols.layers.Layer`.

    Parameters
    ----------
    channel : Channel
        The party.
    session : str
        Name of the session.
    deals : Deals
        Asks the dealer.
    rows, folds : ndarray of shape (n_rows,), dtype int
        Rows that are trained on, and the fold of each.
    n_folds : int
        Number of folds.

    Raises
    ------
    PartyError
        If the party shares too few rows, or answers with numbers that make no sense.
    """

    def __init__(
        self,
        channel: Channel,
        session: str,
        deals: Deals,
        *,
        rows: np.ndarray,
        folds: np.ndarray,
        n_folds: int,
    ) -> None:
        self.channel, self.session, self._deals = channel, session, deals
        self.rows, self.folds = rows, folds
        self.inside = [folds == fold for fold in range(n_folds)]
        begin = Begin(
            session=session,
            n_folds=n_folds,
            rows=rows.astype(np.uint32),
            folds=folds.astype(np.uint8),
        )
        self._ready = channel.ask(begin, Ready)
        check_ready(channel.name, self._ready.n_features, self._ready.bound)

    @property
    def n_features(self) -> int:
        """Number of the party's features."""
        return self._ready.n_features

    def scores(self, residuals: np.ndarray) -> np.ndarray:
        """Train a layer and score rows with it; see :meth:`fedtl.protocols.layers.Layer.scores`."""
        check, fixed = new_seed(), scale_of(residuals, self._ready.bound)
        private = shares.with_check(fixed.encode(residuals, "a residual").view(np.uint64), check)
        parts = self._layer(private, final=False)
        without = parts.sum(axis=0) - parts
        n_outputs = private.shape[1]
        shapes = [(int(i.sum()), self.n_features, n_outputs) for i in self.inside]
        hand = self._ask(shapes)
        request = Score(
            session=self.session,
            context=hand.context,
            sealed=hand.sealed,
            masked=np.stack(
                [shares.mask(hand.seed, hand.place(f), part) for f, part in enumerate(without)]
            ),
        )
        reply = self.channel.ask(request, Scores)
        check_shape(self.channel.name, reply.masked, (len(residuals), self.n_features))
        check_shape(self.channel.name, reply.shares, (len(residuals), n_outputs))
        product = np.empty((len(residuals), n_outputs), dtype=np.uint64)
        for fold, i in enumerate(self.inside):
            product[i] = shares.right_product(
                without[fold], reply.masked[i], reply.shares[i], hand.corrections[fold]
            )
        integers = checked_product(self.channel.name, product, check)
        return open_scores(self.channel.name, integers, fixed, rows=self.rows, folds=self.folds)

    def keep(self, residuals: np.ndarray) -> SharedServing:
        """Train the final layer on all rows; see :meth:`fedtl.protocols.layers.Layer.keep`."""
        check, fixed = new_seed(), scale_of(residuals, self._ready.bound)
        private = shares.with_check(fixed.encode(residuals, "a residual").view(np.uint64), check)
        own = self._layer(private, final=True).sum(axis=0)
        score_bits = fixed.fraction_bits + 2 * FEATURE_BITS
        nothing = np.zeros(residuals.shape[1])
        return SharedServing(own, check, FEATURE_BITS, score_bits, nothing)

    def _layer(self, private: np.ndarray, final: bool) -> np.ndarray:
        """The active party's shares of each fold's part: (n_folds, n_features, n_outputs)."""
        shapes = [(self.n_features, int(i.sum()), private.shape[1]) for i in self.inside]
        hand = self._ask(shapes)
        masked = np.empty_like(private)
        for fold, i in enumerate(self.inside):
            masked[i] = shares.mask(hand.seed, hand.place(fold), private[i])
        request = Layer(
            session=self.session,
            context=hand.context,
            final=final,
            sealed=hand.sealed,
            masked=masked,
        )
        reply = self.channel.ask(request, Masked)
        check_shape(self.channel.name, reply.masked, (len(private), self.n_features))
        nothing = np.zeros((self.n_features, private.shape[1]), dtype=np.uint64)
        return np.stack(
            [
                shares.right_product(private[i], reply.masked[i].T, nothing, hand.corrections[fold])
                for fold, i in enumerate(self.inside)
            ]
        )

    def _ask(self, shapes: list[shares.Shape]) -> Hand:
        key = PartyKey(self.channel.name, self._ready.key, self._ready.proof)
        return self._deals.ask(self.session, key, shapes)


@dataclass(eq=False)
class _Training:
    """What the party keeps while its layer is trained."""

    own: OwnFeatures
    pair: KeyPair
    features: np.ndarray
    parts: np.ndarray | None
    used: set[bytes]


def answer_begin(party: PartyService, request: Begin) -> Ready:
    """Make the party's features, without labels, and a key pair."""
    # A fit that could not serve a row is refused before anything is computed.
    party.policy.allow_protocol(party.name, "shared_predict")
    session = party.session(request.session)
    own = make_features(party, session, request.rows, request.folds, request.n_folds)
    pair = KeyPair()
    key, proof = offer_key(party, request.session, pair)
    features = own.integers.view(np.uint64)
    session.state[_TRAINING] = _Training(own, pair, features, parts=None, used=set())
    return Ready(
        key=key,
        proof=proof,
        n_features=features.shape[1],
        bound=own.whitening.bound,
    )


def answer_layer(party: PartyService, request: Layer) -> Masked:
    """Keep a share of each fold's part of the layer, and mask the features."""
    training = _training(party, request.session)
    check_shape(party.name, request.masked, (len(training.features), request.masked.shape[1]))
    n_features = training.features.shape[1]
    party.policy.limits.allow(8 * training.own.n_folds * n_features * request.masked.shape[1])
    seed = _opened_seed(party, training, request)
    masked = np.empty_like(training.features)
    parts = []
    for fold in range(training.own.n_folds):
        inside, place = training.own.folds == fold, f"{request.context} {fold}"
        masked[inside] = shares.mask(seed, place, training.features[inside].T).T
        parts.append(shares.left_share(seed, place, n_features, request.masked[inside]))
    training.parts = np.stack(parts)
    if request.final:
        check_outputs(party.name, training.own, training.parts.shape[2] - 1)
        state = party.session(request.session).state
        inputs = NewFeatures(training.own.whitening)
        state[SHARE] = LayerShare(inputs, training.parts.sum(axis=0))
        del state[_TRAINING]
    return Masked(masked=masked)


def answer_score(party: PartyService, request: Score) -> Scores:
    """Score each row by the layer of the other folds; the active party alone learns the sum."""
    training = _training(party, request.session)
    parts = training.parts
    if parts is None or request.masked.shape != parts.shape:
        raise PartyError(party.name, "scores were asked for before their layer was trained")
    n_outputs = parts.shape[2]
    allow_scores(party, party.session(request.session), training.own, n_outputs)
    seed = _opened_seed(party, training, request)
    without = parts.sum(axis=0) - parts
    masked = np.empty_like(training.features)
    told = np.empty((len(training.features), n_outputs), dtype=np.uint64)
    for fold in range(training.own.n_folds):
        inside, place = training.own.folds == fold, f"{request.context} {fold}"
        own = training.features[inside]
        masked[inside] = shares.mask(seed, place, own)
        told[inside] = shares.left_share(seed, place, len(own), request.masked[fold])
        told[inside] += shares.matmul(own, without[fold])
    return Scores(masked=masked, shares=told)


def _training(party: PartyService, name: str) -> _Training:
    training: _Training | None = party.session(name).state.get(_TRAINING)
    if training is None:
        raise PartyError(party.name, "no protected joint training is under way in this session")
    return training


def _opened_seed(party: PartyService, training: _Training, request: Layer | Score) -> bytes:
    return open_seed(
        party,
        request.session,
        training.pair,
        context=request.context,
        sealed=request.sealed,
        used=training.used,
    )
