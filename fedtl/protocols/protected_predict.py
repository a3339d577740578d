"""Protected predict: new rows are scored by a part of the model that stays encrypted at the party.

Under Paillier encryption a party holds what its rows are multiplied by, coefficients or a layer, as
ciphertexts of the active party's key. It cannot read them; it multiplies its own rows by them, and
sends scores, those of many rows together in a ciphertext.

Who learns what:

- ``protected_predict.request/1`` tells the party the ids of the rows that are to be predicted.
- ``protected_predict.scores/1`` gives the active party, for each of them, whether the party knows
  it, and once it is decrypted one score for each output: a fixed linear map of the row's encoded
  columns. *These are not protected from it*: they are what it asked for. The party learns nothing:
  neither its part of the model nor a score.

What this rests on: both follow the protocol. The party cannot see by what its rows are multiplied,
nor how many outputs there are, and takes the active party's word, which is given once a fit; one
that lies gets the 64 bits of a slot for each output that it owned up to. A party that computes with
other numbers is not found out, unless a score leaves its bound. Encryption is not constant-time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.parties import PartyService
from fedtl.privacy.keys import CryptoError
from fedtl.privacy.packing import SLOT_BITS, Layout
from fedtl.privacy.paillier import Noise, PrivateKey, PublicKey, Slots
from fedtl.privacy.paillier_sums import combine
from fedtl.protocols.dealer import Deals, check_shape
from fedtl.protocols.serving import Inputs, Scores
from fedtl.wire import Message, Tensor, message

SEALED = "fitted.sealed"


@message("protected_predict.request/1")
class Request(Message):
    """Rows to be predicted."""

    session: str
    ids: Annotated[np.ndarray, Tensor("int64", ("ids",))]


@message("protected_predict.scores/1", protection="paillier")
class Encrypted(Message):
    """Which of the rows are known, and encrypted scores, those of several rows in a ciphertext."""

    known: Annotated[np.ndarray, Tensor("bool", ("ids",))]
    ciphertexts: Annotated[np.ndarray, Tensor("uint8", ("parts", "groups", "bytes"))]


@dataclass(frozen=True, eq=False)
class Sealed:
    """A party's part of a model, which it cannot read.

    Parameters
    ----------
    modulus : bytes
        The public key.
    ciphertexts : ndarray of shape (n_inputs, n_parts, n_bytes), dtype uint8
        What each input is multiplied by, the outputs of an input in `n_parts` ciphertexts.
    n_outputs : int
        Scores of a row.
    inputs : Inputs
        From encoded rows to inputs.
    """

    modulus: bytes
    ciphertexts: np.ndarray
    n_outputs: int
    inputs: Inputs

    @classmethod
    def of(
        cls, public: PublicKey, parts: list[list[Any]], n_outputs: int, inputs: Inputs
    ) -> Sealed:
        """Keep ciphertexts of the inputs, those of each part in a list."""
        packed = np.stack([public.pack_ciphertexts(part) for part in parts], axis=1)
        return cls(public.to_bytes(), packed, n_outputs, inputs)

    @property
    def layout(self) -> Layout:
        """How scores lie in ciphertexts."""
        return Layout(Slots.of_key(8 * len(self.modulus), SLOT_BITS), self.n_outputs)

    def scores(self, integers: np.ndarray) -> np.ndarray:
        """Score rows: from (n_rows, n_inputs) to ciphertexts as (n_parts, n_groups, n_bytes)."""
        public = PublicKey.from_bytes(self.modulus)
        layout, n_rows = self.layout, len(integers)
        noise = Noise(public)
        noise.make(layout.n_parts * layout.n_groups(n_rows))
        bits = int(np.abs(integers).max(initial=1)).bit_length()
        sealed = []
        for part in range(layout.n_parts):
            held = public.unpack_ciphertexts(self.ciphertexts[:, part])
            groups = layout.join(public, combine(public, held, integers.T, bits))
            sealed += layout.seal(groups, n_rows, noise)
        shape = layout.n_parts, layout.n_groups(n_rows), public.ciphertext_bytes
        return public.pack_ciphertexts(sealed).reshape(shape)


@dataclass(frozen=True, eq=False)
class EncryptedServing:
    """The active party's end, for one party; a :class:`~fedtl.protocols.serving.Serving`.

    Parameters
    ----------
    primes : (bytes, bytes)
        The private key. What it opens are scores, and a part of the model that belongs to whoever
        holds this object.
    fraction_bits : int
        Of the scores, as integers.
    constant : ndarray of shape (n_outputs,), dtype float64
        What is added to the scores of known rows.
    """

    primes: tuple[bytes, bytes] = field(repr=False)
    fraction_bits: int
    constant: np.ndarray

    def ask(self, channel: Channel, session: str, ids: np.ndarray, deals: Deals | None) -> Scores:
        """Ask for scores of new rows; see :meth:`fedtl.protocols.serving.Serving.ask`."""
        reply = channel.ask(Request(session=session, ids=ids), Encrypted)
        key = PrivateKey.from_primes(self.primes)
        layout = Layout.of_key(key.public, len(self.constant))
        check_shape(channel.name, reply.known, (len(ids),))
        n_known = int(reply.known.sum())
        shape = layout.n_parts, layout.n_groups(n_known), key.public.ciphertext_bytes
        check_shape(channel.name, reply.ciphertexts, shape)
        try:
            came = key.public.unpack_ciphertexts(reply.ciphertexts.reshape(-1, shape[2]))
            integers = layout.read(key.decrypt(came), n_known)
        except CryptoError as error:
            raise PartyError(
                channel.name, f"its scores cannot be decrypted: {error}; nothing was learnt from it"
            ) from None
        scores = np.zeros((len(ids), len(self.constant)))
        scores[reply.known] = integers * 2.0**-self.fraction_bits + self.constant
        return Scores(reply.known, scores)


def answer_predictions(party: PartyService, request: Request) -> Encrypted:
    """Score the rows that the party knows, without being able to read the scores."""
    session = party.session(request.session)
    sealed: Sealed | None = session.state.get(SEALED)
    if sealed is None:
        raise PartyError(party.name, "nothing was fitted under encryption in this session")
    n_parts, n_bytes = sealed.ciphertexts.shape[1:]
    groups = sealed.layout.n_groups(len(request.ids))
    party.policy.limits.allow(len(request.ids) + n_parts * groups * n_bytes)
    party.usage.predict(party.name, party.policy, len(request.ids))
    columns, known = session.features.read(party.table, request.ids)
    rows = np.flatnonzero(known)
    integers = np.empty((len(rows), len(sealed.ciphertexts)), dtype=np.int64)
    for piece, encoded in session.features.chunks(columns, rows, sealed.inputs.rotated):
        integers[piece] = sealed.inputs.integers(encoded)
    return Encrypted(known=known, ciphertexts=sealed.scores(integers))
