"""Protected latent: what :mod:`fedtl.protocols.shared_latent` does, under Paillier encryption.

Two parties and no helper. The active party encrypts its residuals, the outputs of a row packed into
the slots of one ciphertext. Without a key the party multiplies them by its features, fold by fold:
these are the weights of its layer, ``F.T @ r``, which nobody can read, since the active party has
the key and the party has the ciphertexts. It goes on with them: it multiplies each row's features
by the weights of the other folds, and sends these scores, many of them put together in a
ciphertext. There are no shares of the layer, which a score could be set against. Weights and
scores are the integers that they are under shares, so that both forms give the same model.

Who learns what:

- ``protected_latent.begin/1`` tells the party which labelled rows are trained on, their folds, and
  a public key.
- ``protected_latent.ready/1`` gives the active party the number of features and a bound of their
  norm, both of which follow from numbers of rows and columns.
- ``protected_latent.score/1`` tells the party how many outputs there are, and ciphertexts: nothing
  of labels, residuals or gradients.
- ``protected_latent.scores/1`` gives the active party, for each row and output, one number: the
  row's features times a layer of the other folds' rows. *These are not protected from it*, and are
  bounded as in :mod:`fedtl.protocols.shared_latent`. Nothing else is in these ciphertexts: they are
  randomised anew, every number lies in a slot of its own that it cannot leave, and slots that hold
  no score are filled with random numbers.
- ``protected_latent.layer/1`` tells the party as little as ``protected_latent.score/1``. It makes
  ciphertexts of the final layer, of all rows, keeps them, and says so in
  ``protected_latent.kept/1``. By them it scores new rows, and neither side learns the layer
  (:mod:`fedtl.protocols.protected_predict`).

What this rests on: both follow the protocol. The party cannot see how many outputs a ciphertext
holds and takes the active party's word: one that lies gets the 64 bits of a slot for each row and
output that it owns up to, and those bits of each ciphertext that are in no slot, 64 again. The
party could compute with other numbers than its features; wrong ones are found out only where they
leave their bounds. Encryption is not constant-time, and re-randomises with short
exponents (:mod:`fedtl.privacy.paillier`). Folds are dealt by label, so the seed of the folds must
not be known to the party.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.parties import PartyService
from fedtl.privacy.keys import CryptoError
from fedtl.privacy.packing import Layout
from fedtl.privacy.paillier import Noise, PrivateKey, PublicKey, need_gmpy2
from fedtl.privacy.paillier_sums import combine
from fedtl.protocols.dealer import check_shape
from fedtl.protocols.layers import (
    FEATURE_BITS,
    SCORE_BITS,
    NewFeatures,
    OwnFeatures,
    allow_scores,
    check_outputs,
    check_ready,
    make_features,
    open_scores,
    scale_of,
)
from fedtl.protocols.protected_predict import SEALED, EncryptedServing, Sealed
from fedtl.wire import Message, Tensor, message

_TRAINING = "protected_latent.training"


@message("protected_latent.begin/1")
class Begin(Message):
    """Rows that are trained on, their folds, and the active party's public key."""

    session: str
    n_folds: int
    key: Annotated[np.ndarray, Tensor("uint8", ("modulus",))]
    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]
    folds: Annotated[np.ndarray, Tensor("uint8", ("rows",))]


@message("protected_latent.ready/1")
class Ready(Message):
    """The number and the bound of the party's features."""

    n_features: int
    bound: float


@message("protected_latent.score/1", protection="paillier")
class Score(Message):
    """Encrypted residuals, of which a layer without each fold is to score the fold's rows."""

    session: str
    n_outputs: int
    ciphertexts: Annotated[np.ndarray, Tensor("uint8", ("rows", "parts", "bytes"))]


@message("protected_latent.scores/1", protection="paillier")
class Scores(Message):
    """Encrypted scores, those of several rows in a ciphertext."""

    ciphertexts: Annotated[np.ndarray, Tensor("uint8", ("parts", "groups", "bytes"))]


@message("protected_latent.layer/1", protection="paillier")
class Layer(Message):
    """Encrypted residuals, of which the final layer is to be made."""

    session: str
    n_outputs: int
    ciphertexts: Annotated[np.ndarray, Tensor("uint8", ("rows", "parts", "bytes"))]


@message("protected_latent.kept/1")
class Kept(Message):
    """The party holds its layer, encrypted."""


class ProtectedLatent:
    """The active party's end of one party's layer; a :class:`~fedtl.protocols.layers.Layer`.

    Parameters
    ----------
    channel : Channel
        The party.
    session : str
        Name of the session.
    key : PrivateKey
        The active party's.
    noise : Noise
        Of this key.
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
        key: PrivateKey,
        noise: Noise,
        *,
        rows: np.ndarray,
        folds: np.ndarray,
        n_folds: int,
    ) -> None:
        self.channel, self.session, self._key, self._noise = channel, session, key, noise
        self.rows, self.folds = rows, folds
        begin = Begin(
            session=session,
            n_folds=n_folds,
            key=np.frombuffer(key.public.to_bytes(), dtype=np.uint8),
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
        fixed = scale_of(residuals, self._ready.bound)
        layout = Layout.of_key(self._key.public, residuals.shape[1])
        # One table of powers serves the final layer too.
        self._noise.make(2 * len(residuals) * layout.n_parts)
        encrypted = self._encrypted(fixed.encode(residuals, "a residual"), layout)
        request = Score(session=self.session, n_outputs=layout.n_outputs, ciphertexts=encrypted)
        reply = self.channel.ask(request, Scores)
        numbers = self._decrypted(reply.ciphertexts, layout, len(residuals))
        try:
            integers = layout.read(numbers, len(residuals))
        except CryptoError as error:
            raise self._wrong(error) from None
        if _beyond(integers, SCORE_BITS + 1):
            raise self._wrong("a score is beyond its bound")
        return open_scores(self.channel.name, integers, fixed, rows=self.rows, folds=self.folds)

    def keep(self, residuals: np.ndarray) -> EncryptedServing:
        """Train the final layer on all rows; see :meth:`fedtl.protocols.layers.Layer.keep`."""
        fixed = scale_of(residuals, self._ready.bound)
        layout = Layout.of_key(self._key.public, residuals.shape[1])
        encrypted = self._encrypted(fixed.encode(residuals, "a residual"), layout)
        request = Layer(session=self.session, n_outputs=layout.n_outputs, ciphertexts=encrypted)
        self.channel.ask(request, Kept)
        score_bits = fixed.fraction_bits + 2 * FEATURE_BITS
        return EncryptedServing(self._key.primes, score_bits, np.zeros(layout.n_outputs))

    def _encrypted(self, integers: np.ndarray, layout: Layout) -> np.ndarray:
        public = self._key.public
        packed = public.pack_ciphertexts(layout.encrypt(public, integers, self._noise))
        return packed.reshape(len(integers), layout.n_parts, public.ciphertext_bytes)

    def _decrypted(self, came: np.ndarray, layout: Layout, n_items: int) -> list[int]:
        public = self._key.public
        expected = layout.n_parts, layout.n_groups(n_items), public.ciphertext_bytes
        check_shape(self.channel.name, came, expected)
        try:
            return self._key.decrypt(public.unpack_ciphertexts(came.reshape(-1, came.shape[2])))
        except CryptoError as error:
            raise self._wrong(error) from None

    def _wrong(self, why: object) -> PartyError:
        return PartyError(
            self.channel.name, f"its numbers cannot be decrypted: {why}; nothing was learnt from it"
        )


@dataclass(eq=False)
class _Training:
    """What the party keeps while its layer is trained."""

    own: OwnFeatures
    noise: Noise

    @property
    def public(self) -> PublicKey:
        return self.noise.public


def answer_begin(party: PartyService, request: Begin) -> Ready:
    """Make the party's features, without labels, and check the key."""
    # A fit that could not serve a row is refused before anything is computed.
    party.policy.allow_protocol(party.name, "protected_predict")
    session = party.session(request.session)
    own = make_features(party, session, request.rows, request.folds, request.n_folds)
    try:
        public = PublicKey.from_bytes(request.key.tobytes())
    except CryptoError as error:
        raise _refused(party, error) from None
    session.state[_TRAINING] = _Training(own, Noise(public))
    return Ready(n_features=own.integers.shape[1], bound=own.whitening.bound)


def answer_score(party: PartyService, request: Score) -> Scores:
    """Score each row by the layer of the other folds, which stays encrypted."""
    training = _training(party, request.session)
    layout, parts = _read(party, training, request)
    allow_scores(party, party.session(request.session), training.own, request.n_outputs)
    n_rows, public = len(training.own.rows), training.public
    groups = layout.n_groups(n_rows)
    training.noise.make(layout.n_parts * groups)
    told = []
    for part in parts:
        joined = layout.join(public, _scored(public, training.own, part))
        told += layout.seal(joined, n_rows, training.noise)
    packed = public.pack_ciphertexts(told)
    return Scores(ciphertexts=packed.reshape(layout.n_parts, groups, public.ciphertext_bytes))


def answer_layer(party: PartyService, request: Layer) -> Kept:
    """Make the layer of all rows, and keep it as it is: encrypted."""
    training = _training(party, request.session)
    layout, parts = _read(party, training, request)
    check_outputs(party.name, training.own, layout.n_outputs)
    public, features = training.public, training.own.integers
    layer = [combine(public, part, features, _bits(features)) for part in parts]
    state = party.session(request.session).state
    inputs = NewFeatures(training.own.whitening)
    state[SEALED] = Sealed.of(public, layer, layout.n_outputs, inputs)
    del state[_TRAINING]
    return Kept()


def _training(party: PartyService, name: str) -> _Training:
    training: _Training | None = party.session(name).state.get(_TRAINING)
    if training is None:
        raise PartyError(party.name, "no encrypted joint training is under way in this session")
    return training


def _refused(party: PartyService, why: object) -> PartyError:
    return PartyError(party.name, f"its partner's encryption is refused: {why}")


def _read(
    party: PartyService, training: _Training, request: Score | Layer
) -> tuple[Layout, list[list[Any]]]:
    """Check what was encrypted, before anything is computed: ciphertexts of all rows, by part."""
    if request.n_outputs < 1:
        raise PartyError(party.name, "outputs must be at least one")
    layout, own = Layout.of_key(training.public, request.n_outputs), training.own
    width = training.public.ciphertext_bytes
    check_shape(party.name, request.ciphertexts, (len(own.rows), layout.n_parts, width))
    party.policy.limits.allow(layout.n_parts * width * (own.n_folds * own.integers.shape[1]))
    try:
        flat = training.public.unpack_ciphertexts(request.ciphertexts.reshape(-1, width))
    except CryptoError as error:
        raise _refused(party, error) from None
    return layout, [flat[part :: layout.n_parts] for part in range(layout.n_parts)]


def _scored(public: PublicKey, own: OwnFeatures, encrypted: list[Any]) -> list[Any]:
    """Encrypted scores of all rows, each without its own fold."""
    bits = _bits(own.integers)
    inside = [np.flatnonzero(own.folds == fold) for fold in range(own.n_folds)]
    layers = [
        combine(public, [encrypted[i] for i in rows], own.integers[rows], bits) for rows in inside
    ]
    whole = [_product(public, weights) for weights in zip(*layers, strict=True)]
    scores: dict[int, Any] = {}
    for rows, layer in zip(inside, layers, strict=True):
        without = [_quotient(public, a, b) for a, b in zip(whole, layer, strict=True)]
        found = combine(public, without, own.integers[rows].T, bits)
        scores.update(zip(rows.tolist(), found, strict=True))
    return [scores[i] for i in range(len(encrypted))]


def _product(public: PublicKey, ciphertexts: Sequence[Any]) -> Any:
    total = ciphertexts[0]
    for c in ciphertexts[1:]:
        total = total * c % public.square
    return total


def _quotient(public: PublicKey, whole: Any, part: Any) -> Any:
    return whole * need_gmpy2().invert(part, public.square) % public.square


def _beyond(integers: np.ndarray, bits: int) -> bool:
    bound = 1 << bits
    return bool((integers != integers.clip(-bound, bound)).any())


def _bits(features: np.ndarray) -> int:
    return int(np.abs(features).max(initial=1)).bit_length()
