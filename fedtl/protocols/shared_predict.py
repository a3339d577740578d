"""Shared predict: new rows are scored under secret shares by a part of the model that is hidden.

The active party has coefficients, or its share of a layer whose other share the party has. A dealer
deals the randomness of one product of the party's rows with it (:mod:`fedtl.privacy.shares`), and
the active party alone learns the product.

Who learns what:

- ``shared_predict.key/1`` and ``shared_predict.public/1`` give the active party a public key for
  this prediction, signed for the dealer.
- What the dealer learns, and what it gives to whom, is said in :mod:`fedtl.protocols.dealer`.
- ``shared_predict.request/1`` tells the party the ids of the rows that are to be predicted, how
  many outputs there are, and masked coefficients: nothing of its part of the model.
- ``shared_predict.reply/1`` gives the active party, for each row, whether the party knows it,
  masked numbers, which are uniform to it, and one score for each output. *Scores are not protected
  from it*: they are what it asked for. The party learns none of them.

What the dealer and both parties are trusted with is as in :mod:`fedtl.protocols.shared_moments`.
The party cannot see by what its rows are multiplied: an active party that deviates could ask for
other linear combinations of a row each time. ``Policy.max_predicted_rows`` bounds how many.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.parties import PartyService, Session
from fedtl.privacy import FixedPointError, shares
from fedtl.privacy.fixed_point import FixedPoint, magnitude_bits
from fedtl.privacy.keys import KEY_BYTES, KeyPair, new_seed
from fedtl.protocols.dealer import (
    Deals,
    PartyKey,
    check_shape,
    checked_product,
    offer_key,
    open_seed,
)
from fedtl.protocols.serving import Inputs, Scores
from fedtl.wire import Message, Tensor, message

SHARE = "fitted.share"
_KEYS = "shared_predict.keys"
_MOST_KEYS = 64
"""Predictions of one model at the same time."""


@message("shared_predict.key/1")
class Key(Message):
    """Ask for the party's public key for one prediction."""

    session: str


@message("shared_predict.public/1")
class Public(Message):
    """The party's public key and its signature."""

    key: Annotated[np.ndarray, Tensor("uint8", (KEY_BYTES,))]
    proof: Annotated[np.ndarray, Tensor("uint8", ("proof",))]


@message("shared_predict.request/1", protection="shares")
class Request(Message):
    """Rows to be predicted, and masked coefficients, a check column behind them."""

    session: str
    context: str
    fraction_bits: int
    key: Annotated[np.ndarray, Tensor("uint8", (KEY_BYTES,))]
    sealed: Annotated[np.ndarray, Tensor("uint8", ("sealed",))]
    ids: Annotated[np.ndarray, Tensor("int64", ("ids",))]
    masked: Annotated[np.ndarray, Tensor("uint64", ("inputs", "outputs"))]


@message("shared_predict.reply/1", protection="shares")
class Reply(Message):
    """Which rows are known, masked inputs of all, and shares of their scores."""

    known: Annotated[np.ndarray, Tensor("bool", ("ids",))]
    masked: Annotated[np.ndarray, Tensor("uint64", ("ids", "inputs"))]
    shares: Annotated[np.ndarray, Tensor("uint64", ("ids", "outputs"))]


@dataclass(frozen=True, eq=False)
class LayerShare:
    """A party's share of its layer, which says nothing by itself.

    Parameters
    ----------
    inputs : Inputs
        From encoded rows to inputs.
    share : ndarray of shape (n_inputs, n_outputs + 1), dtype uint64
        The share, a check column behind it.
    """

    inputs: Inputs
    share: np.ndarray


@dataclass(frozen=True, eq=False)
class SharedServing:
    """The active party's end, for one party; a :class:`~fedtl.protocols.serving.Serving`.

    Parameters
    ----------
    factor : ndarray of shape (n_inputs, n_outputs + 1), dtype uint64
        Coefficients, or the share of a layer, a check column behind them.
    check : bytes of length 32
        The secret of the check column.
    fraction_bits : int
        Of the party's inputs.
    score_bits : int
        Fraction bits of the scores.
    constant : ndarray of shape (n_outputs,), dtype float64
        What is added to the scores of known rows.
    """

    factor: np.ndarray = field(repr=False)
    check: bytes = field(repr=False)
    fraction_bits: int
    score_bits: int
    constant: np.ndarray

    @classmethod
    def of_coefficients(
        cls, integers: np.ndarray, left: FixedPoint, right: FixedPoint, constant: np.ndarray
    ) -> SharedServing:
        """Return what scores by coefficients that the party has no share of.

        Parameters
        ----------
        integers : ndarray of shape (n_inputs, n_outputs), dtype uint64
            Coefficients in fixed point.
        left, right : FixedPoint
            Scales of the party's inputs and of the coefficients.
        constant : ndarray of shape (n_outputs,), dtype float64
            What is added to the scores of known rows.

        Returns
        -------
        SharedServing
            With a check column of its own.
        """
        check = new_seed()
        factor = shares.with_check(integers, check)
        score_bits = left.fraction_bits + right.fraction_bits
        return cls(factor, check, left.fraction_bits, score_bits, constant)

    def ask(self, channel: Channel, session: str, ids: np.ndarray, deals: Deals | None) -> Scores:
        """Ask for scores of new rows; see :meth:`fedtl.protocols.serving.Serving.ask`."""
        if deals is None:
            raise ValueError(
                "the model was fitted under secret shares, and rows are predicted under them too: "
                "set privacy back to SecretSharing, with its dealer"
            )
        public = channel.ask(Key(session=session), Public)
        n_inputs, n_outputs = self.factor.shape
        party = PartyKey(channel.name, public.key, public.proof)
        hand = deals.ask(session, party, [(len(ids), n_inputs, n_outputs)])
        request = Request(
            session=session,
            context=hand.context,
            fraction_bits=self.fraction_bits,
            key=public.key,
            sealed=hand.sealed,
            ids=ids,
            masked=shares.mask(hand.seed, hand.place(0), self.factor),
        )
        reply = channel.ask(request, Reply)
        check_shape(channel.name, reply.known, (len(ids),))
        check_shape(channel.name, reply.masked, (len(ids), n_inputs))
        check_shape(channel.name, reply.shares, (len(ids), n_outputs))
        product = shares.right_product(self.factor, reply.masked, reply.shares, hand.corrections[0])
        integers = checked_product(channel.name, product, self.check)
        scores = integers * 2.0**-self.score_bits + self.constant
        return Scores(reply.known, np.where(reply.known[:, None], scores, 0.0))


def answer_key(party: PartyService, request: Key) -> Public:
    """Make a key pair for one prediction."""
    session = party.session(request.session)
    if not session.features.fitted:
        raise PartyError(party.name, "nothing was fitted yet in this session")
    pair, keys = KeyPair(), session.state.setdefault(_KEYS, {})
    if len(keys) >= _MOST_KEYS:
        del keys[next(iter(keys))]
    keys[pair.public] = pair.private
    key, proof = offer_key(party, request.session, pair)
    return Public(key=key, proof=proof)


def answer_predictions(party: PartyService, request: Request) -> Reply:
    """Mask the rows that the party knows, and return its shares of their scores."""
    session = party.session(request.session)
    private: bytes | None = session.state.get(_KEYS, {}).pop(request.key.tobytes(), None)
    if private is None:
        raise PartyError(party.name, "masked numbers came before its key was asked for")
    pair = KeyPair(private)
    layer: LayerShare | None = session.state.get(SHARE)
    n_inputs = session.features.encoding_.width if layer is None else len(layer.share)
    n_outputs = request.masked.shape[1] if layer is None else layer.share.shape[1]
    check_shape(party.name, request.masked, (n_inputs, n_outputs))
    party.policy.limits.allow(len(request.ids) * (1 + 8 * (n_inputs + n_outputs)))
    seed = open_seed(
        party, request.session, pair, context=request.context, sealed=request.sealed, used=set()
    )
    party.usage.predict(party.name, party.policy, len(request.ids))
    integers, known = _integers(party, session, request, layer)
    place, inputs = f"{request.context} 0", integers.view(np.uint64)
    told = shares.left_share(seed, place, len(inputs), request.masked)
    if layer is not None:
        told += shares.matmul(inputs, layer.share)
    return Reply(known=known, masked=shares.mask(seed, place, inputs), shares=told)


def _integers(
    party: PartyService, session: Session, request: Request, layer: LayerShare | None
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of all rows that were asked about, zero where the party does not know them."""
    columns, known = session.features.read(party.table, request.ids)
    rows, encoding = np.flatnonzero(known), session.features.encoding_
    try:
        fixed = FixedPoint(request.fraction_bits, magnitude_bits(np.array([encoding.bound])))
        width = encoding.width if layer is None else len(layer.share)
        integers = np.zeros((len(known), width), dtype=np.int64)
        for piece, encoded in session.features.chunks(columns, rows):
            integers[rows[piece]] = (
                fixed.encode(encoded, "an encoded value")
                if layer is None
                else layer.inputs.integers(encoded)
            )
    except FixedPointError as error:
        raise PartyError(party.name, str(error)) from None
    return integers, known
