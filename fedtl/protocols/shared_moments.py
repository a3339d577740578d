"""Shared moments: what :mod:`fedtl.protocols.moments` does, under secret shares with a dealer.

A dealer, which has no data, deals the randomness of one-sided Beaver triples
(:mod:`fedtl.privacy.shares`). The active party alone learns products of its targets with the
party's encoded columns; what else crosses is uniform to whoever receives it.

Who learns what:

- ``shared_moments.key/1`` and ``shared_moments.public/1`` give the active party a public key of
  this session, signed for the dealer, and a bound of encoded values that follows from their number
  alone.
- What the dealer learns, and what it gives to whom, is said in :mod:`fedtl.protocols.dealer`.
- ``shared_moments.request/1`` tells the party which rows are in which fold, and masked targets:
  it learns how many there are and nothing of them, neither labels nor scores nor components.
- ``shared_moments.reply/1`` gives the active party masked columns, which are uniform to it, and
  two sums over whole folds: products of the party's columns with each other, and, once it takes
  its masks off, products with its targets. No row crosses.

New rows are scored by :mod:`fedtl.protocols.shared_predict`: the party is given no coefficients.

What this rests on: the dealer colludes with neither party, since together with one of them it
could read the other's masked numbers; all follow the protocol. Between machines, key and seed are
signed (:mod:`fedtl.protocols.dealer`), so that the active party cannot deal by itself. Wrong
shares, of the dealer or the party, are found out, as products are checked; columns that a party
makes up are not.
Folds are dealt by label, so the seed of the folds must not be known to the party.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel, opened
from fedtl.parties import PartyService, Session
from fedtl.privacy import FixedPointError, shares
from fedtl.privacy.fixed_point import FixedPoint, magnitude_bits, plan_product
from fedtl.privacy.keys import KEY_BYTES, KeyPair, new_seed
from fedtl.protocols.dealer import (
    Deals,
    PartyKey,
    check_shape,
    checked_product,
    offer_key,
    open_seed,
)
from fedtl.protocols.moments import allow_sums, fold_moments, pack, unpack
from fedtl.protocols.restraint import ProtectedExchange, equal_weight, more_rows_than_targets
from fedtl.protocols.shared_latent import SharedLatent
from fedtl.protocols.shared_predict import SharedServing
from fedtl.wire import Message, Tensor, message

_KEY = "shared_moments.key"
_SEEDS = "shared_moments.seeds"


@message("shared_moments.key/1")
class Key(Message):
    """Ask for the party's public key in this session."""

    session: str


@message("shared_moments.public/1")
class Public(Message):
    """The party's public key and its signature, a bound of encoded values as a power of two."""

    key: Annotated[np.ndarray, Tensor("uint8", (KEY_BYTES,))]
    proof: Annotated[np.ndarray, Tensor("uint8", ("proof",))]
    magnitude_bits: int
    width: int


@message("shared_moments.request/1", protection="shares")
class Request(Message):
    """Masked targets on shared rows, a check column behind them."""

    session: str
    context: str
    n_folds: int
    fraction_bits: int
    sealed: Annotated[np.ndarray, Tensor("uint8", ("sealed",))]
    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]
    folds: Annotated[np.ndarray, Tensor("uint8", ("rows",))]
    masked: Annotated[np.ndarray, Tensor("uint64", ("rows", "targets"))]


@message("shared_moments.reply/1", protection="shares")
class Reply(Message):
    """Masked columns, shares of sums, and the party's own sums, a constant column first."""

    gram: Annotated[np.ndarray, Tensor("float64", ("folds", "triangle"))]
    masked: Annotated[np.ndarray, Tensor("uint64", ("rows", "columns"))]
    shares: Annotated[np.ndarray, Tensor("uint64", ("folds", "columns", "targets"))]


class SharedMoments(ProtectedExchange):
    """Moments under secret shares; a :class:`~fedtl.protocols.moments.MomentsExchange`.

    It begins layers as well, with the same dealer (:mod:`fedtl.protocols.shared_latent`).

    Parameters
    ----------
    deals : Deals
        Asks the dealer.
    """

    def __init__(self, deals: Deals) -> None:
        self._deals = deals
        self._public: dict[tuple[str, str], Public] = {}

    def ask_moments(
        self,
        channel: Channel,
        session: str,
        rows: np.ndarray,
        *,
        folds: np.ndarray,
        weight: np.ndarray,
        targets: np.ndarray,
        n_folds: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ask a party for its moments with these targets, which it does not learn.

        Parameters and results are those of :func:`fedtl.protocols.moments.ask_moments`.

        Parameters
        ----------
        channel : Channel
            The party.
        session : str
            Name of the session.
        rows, folds, weight, targets : ndarray of shape (n_rows, ...)
            Rows and what belongs to them; all weights must be equal.
        n_folds : int
            Number of folds.

        Returns
        -------
        gram : ndarray of shape (n_folds, 1 + width, 1 + width), dtype float64
            Products of the party's columns, a constant one first.
        cross : ndarray of shape (n_folds, 1 + width, n_targets), dtype float64
            Products with the targets, to the fixed-point error.

        Raises
        ------
        ValueError
            If weights differ.
        FixedPointError
            If the sums do not fit; nothing was sent.
        PartyError
            If dealer or party answered with wrong numbers.
        """
        factor = equal_weight(channel.name, weight)
        public, check = self._key(channel, session), new_seed()
        inside = [folds == fold for fold in range(n_folds)]
        largest = max((int(i.sum()) for i in inside), default=0)
        left, right = plan_product(largest, public.magnitude_bits, magnitude_bits(targets))
        encoded = right.encode(targets, "a target").view(np.uint64)
        private = shares.with_check(encoded, check)
        n_targets = private.shape[1]
        shapes = [(public.width, int(i.sum()), n_targets) for i in inside]
        hand = self._deals.ask(session, _of(channel, public), shapes)
        masked = np.empty_like(private)
        for fold, i in enumerate(inside):
            masked[i] = shares.mask(hand.seed, hand.place(fold), private[i])
        request = Request(
            session=session,
            context=hand.context,
            n_folds=n_folds,
            fraction_bits=left.fraction_bits,
            sealed=hand.sealed,
            rows=rows.astype(np.uint32),
            folds=folds.astype(np.uint8),
            masked=masked,
        )
        reply = channel.ask(request, Reply)
        check_shape(channel.name, reply.masked, (len(rows), public.width))
        check_shape(channel.name, reply.shares, (n_folds, public.width, n_targets))
        cross = np.empty((n_folds, 1 + public.width, targets.shape[1]))
        for fold, i in enumerate(inside):
            product = shares.right_product(
                private[i], reply.masked[i].T, reply.shares[fold], hand.corrections[fold]
            )
            cross[fold, 0] = targets[i].sum(axis=0)
            integers = checked_product(channel.name, product, check)
            cross[fold, 1:] = left.decode(integers, right.fraction_bits)
        gram, cross = factor * unpack(reply.gram, 1 + public.width), factor * cross
        opened(channel.name, "moments.sums", gram=gram, cross=cross)
        return gram, cross

    def keep(self, channel: Channel, session: str, coefficients: np.ndarray) -> SharedServing:
        """Keep coefficients for new rows here, and return what asks for scores; nothing is sent.

        Parameters
        ----------
        channel : Channel
            The party.
        session : str
            Name of the session.
        coefficients : ndarray of shape (1 + width, n_outputs), dtype float64
            Coefficients, constant column first.

        Returns
        -------
        SharedServing
            With the coefficients.

        Raises
        ------
        PartyError
            If they do not fit the party's encoding.
        FixedPointError
            If scores do not fit.
        """
        public, slopes = self._key(channel, session), coefficients[1:]
        if len(slopes) != public.width:
            raise PartyError(
                channel.name,
                f"coefficients for {len(coefficients)} columns were solved, its encoding has "
                f"{1 + public.width} with the constant",
            )
        left, right = plan_product(public.width, public.magnitude_bits, magnitude_bits(slopes))
        integers = right.encode(slopes, "a coefficient").view(np.uint64)
        return SharedServing.of_coefficients(integers, left, right, coefficients[0])

    def layer(
        self, channel: Channel, session: str, *, rows: np.ndarray, folds: np.ndarray, n_folds: int
    ) -> SharedLatent:
        """Begin the training of a layer; see :class:`fedtl.protocols.layers.LayerExchange`."""
        return SharedLatent(channel, session, self._deals, rows=rows, folds=folds, n_folds=n_folds)

    def _key(self, channel: Channel, session: str) -> Public:
        if (channel.name, session) not in self._public:
            public = channel.ask(Key(session=session), Public)
            if not 0 <= public.magnitude_bits <= 32 or public.width < 1:
                raise PartyError(channel.name, "its bound of encoded values makes no sense")
            self._public[channel.name, session] = public
        return self._public[channel.name, session]


def answer_key(party: PartyService, request: Key) -> Public:
    """Make a key pair for this session, or repeat its public key."""
    # A fit that could not serve a row is refused before anything is computed.
    party.policy.allow_protocol(party.name, "shared_predict")
    session = party.session(request.session)
    if session.columns is None:
        raise PartyError(party.name, "no fit is under way in this session")
    pair = session.state.setdefault(_KEY, KeyPair())
    key, proof = offer_key(party, request.session, pair)
    encoding = session.features.encoding_
    return Public(
        key=key,
        proof=proof,
        magnitude_bits=magnitude_bits(np.array([encoding.bound])),
        width=encoding.width,
    )


def answer_moments(party: PartyService, request: Request) -> Reply:
    """Sum the party's own products, mask its columns and return its shares."""
    session = party.session(request.session)
    rows = party.training_rows(session, request.rows)
    everywhere = np.ones(len(rows), dtype=bool)
    summed = allow_sums(party, session.ids[rows], request.folds, request.n_folds, everywhere)
    more_rows_than_targets(party.name, summed, request.masked.shape[1] - 1)
    encoded = _encoded(party, session, rows, request.fraction_bits)
    seed = _opened_seed(party, request)
    n_columns, n_targets = encoded.shape[1], request.masked.shape[1]
    masked = np.empty_like(encoded)
    parts = np.empty((request.n_folds, n_columns, n_targets), dtype=np.uint64)
    for fold in range(request.n_folds):
        inside = request.folds == fold
        place = f"{request.context} {fold}"
        masked[inside] = shares.mask(seed, place, encoded[inside].T).T
        parts[fold] = shares.left_share(seed, place, n_columns, request.masked[inside])
    gram, _ = fold_moments(
        session,
        rows,
        folds=request.folds,
        weight=np.ones(len(rows)),
        targets=np.empty((len(rows), 0)),
        n_folds=request.n_folds,
    )
    return Reply(gram=pack(gram), masked=masked, shares=parts)


def _of(channel: Channel, public: Public) -> PartyKey:
    return PartyKey(channel.name, public.key, public.proof)


def _opened_seed(party: PartyService, request: Request) -> bytes:
    session = party.session(request.session)
    pair: KeyPair | None = session.state.get(_KEY)
    if pair is None:
        raise PartyError(party.name, "masked numbers came before its key was asked for")
    used: set[bytes] = session.state.setdefault(_SEEDS, set())
    return open_seed(
        party, request.session, pair, context=request.context, sealed=request.sealed, used=used
    )


def _encoded(
    party: PartyService, session: Session, rows: np.ndarray, fraction_bits: int
) -> np.ndarray:
    """Encode rows as integers, after a check of what was declared."""
    encoding = session.features.encoding_
    try:
        fixed = FixedPoint(fraction_bits, magnitude_bits(np.array([encoding.bound])))
        integers = np.empty((len(rows), encoding.width), dtype=np.int64)
        for piece, encoded in session.encoded(rows):
            integers[piece] = fixed.encode(encoded, "an encoded value")
    except FixedPointError as error:
        raise PartyError(party.name, str(error)) from None
    return integers.view(np.uint64)
