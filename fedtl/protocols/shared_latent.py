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
- ``shared_latent.layer/1`` tells the party masked residuals: how many outputs there are and nothing
  of them, neither labels nor residuals nor gradients.
- ``shared_latent.masked/1`` gives the active party masked features, which are uniform to it.
- ``shared_latent.score/1`` tells the party masked shares of the layer without each fold: nothing.
- ``shared_latent.scores/1`` gives the active party, for each row and output, one number: the row's
  features times a layer of the other folds' rows. *These are not protected from it.* Since it knows
  the residuals, it learns as many linear combinations of each row's features as there are outputs
  and exchanges in the training; as many as there are features would give them away, up to a
  rotation, and the party refuses to tell half as many. ``Policy.max_row_scores`` bounds them too.
- ``shared_latent.keep/1`` gives the party the other share of the final layer, of all rows, by which
  it serves new rows, and a secret by which it checks that the shares add up: *the party learns its
  own part of the model*, and from it how its features predict the target; it remembers labels of
  rows. Eight rows a feature are the least, and the solver adds noise to the residuals of this last
  layer.

What the dealer and both parties are trusted with is as in :mod:`fedtl.protocols.shared_moments`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel, opened
from fedtl.learning.whitening import WhitenedLayer, Whitening
from fedtl.parties import PartyService
from fedtl.privacy import shares
from fedtl.privacy.fixed_point import FixedPoint, FixedPointError, magnitude_bits
from fedtl.privacy.keys import KEY_BYTES, KeyPair, new_seed
from fedtl.protocols.dealer import Deals, Hand, PartyKey, check_shape, offer_key, open_seed
from fedtl.protocols.moments import allow_sums, count_scores
from fedtl.wire import Message, Tensor, message

LAYER = "fitted.shared_layer"
_TRAINING = "shared_latent.training"
_TOLD = "shared_latent.told"
_FEATURE_BITS = 20
_FEWEST_BITS = 8
_FEWEST_ROWS = 20


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
    """Masked residuals, a check column behind them."""

    session: str
    context: str
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


@message("shared_latent.keep/1")
class Keep(Message):
    """The active party's share of the final layer, a check column behind it, and its secret."""

    session: str
    fraction_bits: int
    check: Annotated[np.ndarray, Tensor("uint8", (KEY_BYTES,))]
    share: Annotated[np.ndarray, Tensor("uint64", ("features", "outputs"))]


@message("shared_latent.kept/1")
class Kept(Message):
    """The party holds its layer."""


class SharedLatent:
    """The active party's end of one party's layer.

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
        self.rows = rows
        self.inside = [folds == fold for fold in range(n_folds)]
        begin = Begin(
            session=session,
            n_folds=n_folds,
            rows=rows.astype(np.uint32),
            folds=folds.astype(np.uint8),
        )
        self._ready = channel.ask(begin, Ready)
        if self._ready.n_features < 1 or not 0 < self._ready.bound < 2.0**16:
            raise PartyError(channel.name, "number and bound of its features make no sense")

    @property
    def n_features(self) -> int:
        """Number of the party's features."""
        return self._ready.n_features

    def scores(self, residuals: np.ndarray) -> np.ndarray:
        """Train a layer on residuals and return what it scores each row without the row's fold.

        Parameters
        ----------
        residuals : ndarray of shape (n_rows, n_outputs), dtype float64
            Negative gradients of the loss for the scores; they stay here.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs), dtype float64
            Scores, to the fixed-point error.

        Raises
        ------
        FixedPointError
            If they do not fit; nothing was sent.
        PartyError
            If dealer or party answered with wrong numbers.
        """
        check, fixed = new_seed(), self._scale(residuals)
        private = shares.with_check(fixed.encode(residuals, "a residual").view(np.uint64), check)
        parts = self._layer(private)
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
        if not shares.adds_up(product, check):
            raise PartyError(
                self.channel.name,
                "its shares and the dealer's do not add up: one of them answered with wrong "
                "numbers; nothing was learnt from them",
            )
        scores = fixed.decode(_signed(product[:, :-1]), 2 * _FEATURE_BITS)
        # Less than all rows made the layer: brought to the scale of one of all rows.
        for i in self.inside:
            scores[i] *= len(i) / max(int((~i).sum()), 1)
        opened(self.channel.name, "shared_latent.scores", rows=self.rows, scores=scores)
        return scores

    def keep(self, residuals: np.ndarray) -> None:
        """Train the final layer on all rows and leave it with the party; see :meth:`scores`."""
        # The party does the check, whose secret is told when nobody can act on it any more.
        check, fixed = new_seed(), self._scale(residuals)
        private = shares.with_check(fixed.encode(residuals, "a residual").view(np.uint64), check)
        request = Keep(
            session=self.session,
            fraction_bits=fixed.fraction_bits,
            check=np.frombuffer(check, dtype=np.uint8),
            share=self._layer(private).sum(axis=0),
        )
        self.channel.ask(request, Kept)

    def _layer(self, private: np.ndarray) -> np.ndarray:
        """The active party's shares of each fold's part: (n_folds, n_features, n_outputs)."""
        shapes = [(self.n_features, int(i.sum()), private.shape[1]) for i in self.inside]
        hand = self._ask(shapes)
        masked = np.empty_like(private)
        for fold, i in enumerate(self.inside):
            masked[i] = shares.mask(hand.seed, hand.place(fold), private[i])
        request = Layer(
            session=self.session, context=hand.context, sealed=hand.sealed, masked=masked
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

    def _scale(self, residuals: np.ndarray) -> FixedPoint:
        """As many bits as are left beside those of scores, which are bounded by Cauchy-Schwarz."""
        largest = self._ready.bound**2 * np.linalg.norm(residuals, axis=0).max(initial=0.0)
        bits = 61 - 2 * _FEATURE_BITS - magnitude_bits(np.array([largest]))
        if bits < _FEWEST_BITS:
            raise FixedPointError(
                f"scores of {len(residuals)} rows may reach {largest:.3g}, which leaves {bits} "
                f"bits for the fractions of residuals, at least {_FEWEST_BITS} are needed; "
                "use fewer rows"
            )
        return FixedPoint(bits, magnitude_bits(residuals))


@dataclass(eq=False)
class _Training:
    """What the party keeps while its layer is trained."""

    rows: np.ndarray
    folds: np.ndarray
    n_folds: int
    pair: KeyPair
    whitening: Whitening
    features: np.ndarray
    parts: np.ndarray | None
    used: set[bytes]


def answer_begin(party: PartyService, request: Begin) -> Ready:
    """Make the party's features, without labels, and a key pair."""
    session = party.session(request.session)
    rows = party.training_rows(session, request.rows)
    everywhere = np.ones(len(rows), dtype=bool)
    summed = allow_sums(party, session.ids[rows], request.folds, request.n_folds, everywhere)
    n_rows = sum(summed.values())
    if n_rows < _FEWEST_ROWS or n_rows < len(rows):
        raise PartyError(
            party.name,
            f"shares {n_rows} different labelled rows; protected joint training needs at least "
            f"{_FEWEST_ROWS}, each of them once, so that a layer says little about each row",
        )
    width = session.features.encoding_.width
    party.policy.limits.allow(8 * len(rows) * Whitening.n_features_for(n_rows, width))
    encoded = np.concatenate([part for _, part in session.encoded(np.flatnonzero(session.known))])
    whitening = Whitening(encoded, n_rows)
    features = np.concatenate([whitening.transform(part) for _, part in session.encoded(rows)])
    fixed = FixedPoint(_FEATURE_BITS, magnitude_bits(np.array([whitening.bound])))
    pair = KeyPair()
    key, proof = offer_key(party, request.session, pair)
    session.state[_TRAINING] = _Training(
        rows=rows,
        folds=request.folds,
        n_folds=request.n_folds,
        pair=pair,
        whitening=whitening,
        features=fixed.encode(features, "a feature").view(np.uint64),
        parts=None,
        used=set(),
    )
    return Ready(
        key=key,
        proof=proof,
        n_features=features.shape[1],
        bound=whitening.bound,
    )


def answer_layer(party: PartyService, request: Layer) -> Masked:
    """Keep a share of each fold's part of the layer, and mask the features."""
    training = _training(party, request.session)
    check_shape(party.name, request.masked, (len(training.rows), request.masked.shape[1]))
    n_features = training.features.shape[1]
    party.policy.limits.allow(8 * training.n_folds * n_features * request.masked.shape[1])
    seed = _opened_seed(party, training, request)
    masked = np.empty_like(training.features)
    parts = []
    for fold in range(training.n_folds):
        inside, place = training.folds == fold, f"{request.context} {fold}"
        masked[inside] = shares.mask(seed, place, training.features[inside].T).T
        parts.append(shares.left_share(seed, place, n_features, request.masked[inside]))
    training.parts = np.stack(parts)
    return Masked(masked=masked)


def answer_score(party: PartyService, request: Score) -> Scores:
    """Score each row by the layer of the other folds; the active party alone learns the sum."""
    training = _training(party, request.session)
    parts = training.parts
    if parts is None or request.masked.shape != parts.shape:
        raise PartyError(party.name, "scores were asked for before their layer was trained")
    n_outputs = parts.shape[2]
    session = party.session(request.session)
    n_told = session.state.get(_TOLD, 0) + n_outputs
    if 2 * n_told > training.features.shape[1] + 2:
        raise PartyError(
            party.name,
            f"{n_told} scores of each row were asked for, more than half its "
            f"{training.features.shape[1]} features: as many as features would give them away. "
            "Share more labelled rows, or ask for fewer exchanges or outputs",
        )
    count_scores(party, session, training.rows, n_outputs)
    session.state[_TOLD] = n_told
    seed = _opened_seed(party, training, request)
    without = parts.sum(axis=0) - parts
    masked = np.empty_like(training.features)
    told = np.empty((len(training.rows), n_outputs), dtype=np.uint64)
    for fold in range(training.n_folds):
        inside, place = training.folds == fold, f"{request.context} {fold}"
        own = training.features[inside]
        masked[inside] = shares.mask(seed, place, own)
        told[inside] = shares.left_share(seed, place, len(own), request.masked[fold])
        told[inside] += shares.matmul(own, without[fold])
    return Scores(masked=masked, shares=told)


def answer_keep(party: PartyService, request: Keep) -> Kept:
    """Put the shares of the final layer together, for new rows."""
    training = _training(party, request.session)
    parts = training.parts
    if parts is None or parts.shape[2] < 2 or request.share.shape != parts.shape[1:]:
        raise PartyError(party.name, "a layer was to be kept before it was trained")
    if not 0 <= request.fraction_bits <= 62 - _FEATURE_BITS:
        raise PartyError(party.name, f"{request.fraction_bits} fraction bits make no sense")
    both = parts.sum(axis=0) + request.share
    if not shares.adds_up(both, request.check.tobytes()):
        raise PartyError(
            party.name,
            "the shares of its layer do not add up: dealer or active party dealt wrong numbers; "
            "nothing was kept",
        )
    total = _signed(both[:, :-1])
    weights = FixedPoint(_FEATURE_BITS, 0).decode(total, request.fraction_bits)
    _opened_layer(party.name, training, weights)
    session = party.session(request.session)
    session.state[LAYER] = WhitenedLayer(training.whitening, weights)
    del session.state[_TRAINING]
    return Kept()


def _training(party: PartyService, name: str) -> _Training:
    training: _Training | None = party.session(name).state.get(_TRAINING)
    if training is None:
        raise PartyError(party.name, "no protected joint training is under way in this session")
    return training


def _opened_layer(party: str, training: _Training, weights: np.ndarray) -> None:
    """Say what the party now knows: it can score its rows, and solve the layer for residuals."""
    rows, features = training.rows, _signed(training.features) / 2.0**_FEATURE_BITS
    opened(party, "shared_latent.layer", holder=party, rows=rows, scores=features @ weights)
    opened(
        party,
        "latent.layer_gradient",
        holder=party,
        rows=rows,
        inputs=features,
        gradient=weights,
    )


def _opened_seed(party: PartyService, training: _Training, request: Layer | Score) -> bytes:
    return open_seed(
        party,
        request.session,
        training.pair,
        context=request.context,
        sealed=request.sealed,
        used=training.used,
    )


def _signed(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.int64)
