"""Protected moments: what :mod:`fedtl.protocols.moments` does, under Paillier encryption.

Two parties and no helper. The active party encrypts its targets, packed into the slots of one
ciphertext a row; a row's fold has slots of its own, so that one sum over all rows gives the sums of
every fold. The party multiplies by its encoded columns without a key (:mod:`.paillier_sums`
exploits that they are mostly zeros and ones), and only the active party can decrypt the sums.

Who learns what:

- ``protected_moments.request/1`` tells the party which rows are in which fold, how many targets
  there are, and ciphertexts: nothing of labels, scores or components.
- ``protected_moments.reply/1`` gives the active party sums over whole folds: products of the
  party's columns with each other, in the clear, and with its targets, which it decrypts. The
  ciphertexts are randomised anew, so that nothing but the sums is in them. No row crosses.
- ``protected_moments.keep/1`` gives the party ciphertexts of the coefficients on its columns,
  solved on all folds, by which it serves new rows (:mod:`fedtl.protocols.protected_predict`)
  without learning them: how many outputs there are and nothing else. ``protected_moments.kept/1``
  says that it has them.

What this rests on: both follow the protocol; the party cannot see how many targets a ciphertext
holds and takes the active party's word. Encryption is not constant-time. Folds are dealt by label,
so the seed of the folds must not be known to the party.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel, opened
from fedtl.learning.unit_columns import UnitColumns
from fedtl.parties import PartyService, Session
from fedtl.privacy.fixed_point import FixedPoint, FixedPointError, magnitude_bits
from fedtl.privacy.keys import CryptoError
from fedtl.privacy.packing import SLOT_BITS, Layout
from fedtl.privacy.paillier import Noise, PrivateKey, PublicKey, Slots
from fedtl.privacy.paillier_sums import column_sums, combine
from fedtl.protocols.dealer import check_shape
from fedtl.protocols.moments import allow_sums, check_width, fold_moments, pack, unpack
from fedtl.protocols.protected_latent import ProtectedLatent
from fedtl.protocols.protected_predict import SEALED, EncryptedServing, Sealed
from fedtl.protocols.restraint import ProtectedExchange, equal_weight, more_rows_than_targets
from fedtl.wire import Message, Tensor, message

_NOISE = "protected_moments.noise"
_TARGET_BITS = 20
_WEIGHT_BITS = 16
_MATRIX_BITS = 20
_COLUMN_BITS = 12
"""Encoded values lie below 2**12, unless an encoding has more than 160,000 columns."""
_KEPT_WEIGHT_BITS = 12
_KEPT_MATRIX_BITS = 16
_FEWEST_BITS = 12


@message("protected_moments.request/1", protection="paillier")
class Request(Message):
    """Encrypted targets on shared rows."""

    session: str
    n_folds: int
    folds_together: int
    n_targets: int
    key: Annotated[np.ndarray, Tensor("uint8", ("modulus",))]
    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]
    folds: Annotated[np.ndarray, Tensor("uint8", ("rows",))]
    ciphertexts: Annotated[np.ndarray, Tensor("uint8", ("rows", "parts", "bytes"))]


@message("protected_moments.reply/1", protection="paillier")
class Reply(Message):
    """Encrypted sums for groups of folds, and the party's own sums, a constant column first."""

    gram: Annotated[np.ndarray, Tensor("float64", ("folds", "triangle"))]
    sums: Annotated[np.ndarray, Tensor("uint8", ("groups", "parts", "columns", "bytes"))]


@message("protected_moments.keep/1", protection="paillier")
class Keep(Message):
    """Encrypted coefficients on the party's columns."""

    session: str
    n_outputs: int
    key: Annotated[np.ndarray, Tensor("uint8", ("modulus",))]
    ciphertexts: Annotated[np.ndarray, Tensor("uint8", ("columns", "parts", "bytes"))]


@message("protected_moments.kept/1")
class Kept(Message):
    """The party holds its coefficients."""


class ProtectedMoments(ProtectedExchange):
    """Moments under Paillier encryption; a :class:`~fedtl.protocols.moments.MomentsExchange`.

    It begins layers as well, under the same key (:mod:`fedtl.protocols.protected_latent`).

    Parameters
    ----------
    key_bits : {2048, 3072, 4096}, default=3072
        Bits of the key, which is made for this object and never leaves it.
    """

    def __init__(self, key_bits: int = 3072) -> None:
        self._key = PrivateKey.generate(key_bits)
        self._noise = self._key.noise()

    def prepare(self, n_ciphertexts: int) -> None:
        """Make noise ahead, before there is anything to encrypt."""
        self._noise.make(n_ciphertexts)

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
            If the sums do not fit into the slots of the key; nothing was sent.
        PartyError
            If the party answers with what is no ciphertext of the key.
        """
        factor, n_targets = equal_weight(channel.name, weight), targets.shape[1]
        fixed = FixedPoint(_TARGET_BITS, magnitude_bits(targets))
        slots = self._slots(len(rows), fixed)
        together = max(min(slots.count // n_targets, n_folds), 1)
        request = Request(
            session=session,
            n_folds=n_folds,
            folds_together=together,
            n_targets=n_targets,
            key=np.frombuffer(self._key.public.to_bytes(), dtype=np.uint8),
            rows=rows.astype(np.uint32),
            folds=folds.astype(np.uint8),
            ciphertexts=self._encrypted(fixed.encode(targets, "a target"), folds, together, slots),
        )
        reply = channel.ask(request, Reply)
        n_groups, n_parts = -(-n_folds // together), request.ciphertexts.shape[1]
        gram = unpack(reply.gram, _width(channel.name, reply.gram.shape[1]))
        n_columns = gram.shape[1] - 1
        width = self._key.public.ciphertext_bytes
        check_shape(channel.name, reply.sums, (n_groups, n_parts, n_columns, width))
        decrypted = self._opened(channel.name, reply.sums, slots)
        cross = np.empty((n_folds, 1 + n_columns, n_targets))
        for fold in range(n_folds):
            inside = folds == fold
            cross[fold, 0] = targets[inside].sum(axis=0)
            group, first = divmod(fold, together)
            numbers = decrypted[group, :, :, : min(slots.count, together * n_targets)]
            if n_parts == 1:
                numbers = numbers[:, :, first * n_targets : (first + 1) * n_targets]
            in_a_row = numbers.transpose(1, 0, 2).reshape(n_columns, -1)
            cross[fold, 1:] = in_a_row[:, :n_targets]
        gram, cross = factor * gram, factor * cross
        opened(channel.name, "moments.sums", gram=gram, cross=cross)
        return gram, cross

    def keep(self, channel: Channel, session: str, coefficients: np.ndarray) -> EncryptedServing:
        """Give a party encrypted coefficients for new rows, and return what asks for scores.

        Parameters
        ----------
        channel : Channel
            The party.
        session : str
            Name of the session.
        coefficients : ndarray of shape (1 + width, n_outputs), dtype float64
            Coefficients, constant column first, which stays here.

        Returns
        -------
        EncryptedServing
            With the key of this object.

        Raises
        ------
        FixedPointError
            If scores do not fit into the slots of the key; nothing was sent.
        """
        slopes, public = coefficients[1:], self._key.public
        layout = Layout.of_key(public, slopes.shape[1])
        largest = magnitude_bits(np.abs(slopes).sum(axis=0))
        scale = _KEPT_WEIGHT_BITS + _KEPT_MATRIX_BITS
        bits = min(SLOT_BITS - 2 - scale - _COLUMN_BITS - largest, 30)
        if bits < _FEWEST_BITS:
            raise FixedPointError(
                f"coefficients up to 2**{largest} in all leave {bits} bits for their fractions, at "
                f"least {_FEWEST_BITS} are needed; scale the target down"
            )
        integers = FixedPoint(bits, magnitude_bits(slopes)).encode(slopes, "a coefficient")
        packed = public.pack_ciphertexts(layout.encrypt(public, integers, self._noise))
        request = Keep(
            session=session,
            n_outputs=layout.n_outputs,
            key=np.frombuffer(public.to_bytes(), dtype=np.uint8),
            ciphertexts=packed.reshape(len(slopes), layout.n_parts, public.ciphertext_bytes),
        )
        channel.ask(request, Kept)
        return EncryptedServing(self._key.primes, bits + scale, coefficients[0])

    def layer(
        self, channel: Channel, session: str, *, rows: np.ndarray, folds: np.ndarray, n_folds: int
    ) -> ProtectedLatent:
        """Begin the training of a layer; see :class:`fedtl.protocols.layers.LayerExchange`."""
        return ProtectedLatent(
            channel, session, self._key, self._noise, rows=rows, folds=folds, n_folds=n_folds
        )

    def _slots(self, n_rows: int, fixed: FixedPoint) -> Slots:
        """Slots in which the largest possible sum fits with a guard bit."""
        bits = _TARGET_BITS + fixed.magnitude_bits + _WEIGHT_BITS + _MATRIX_BITS + _COLUMN_BITS
        bits += max(n_rows, 1).bit_length() + 2
        slots = Slots.of_key(self._key.public.bits, bits)
        if not slots.count:
            raise FixedPointError(
                f"targets up to 2**{fixed.magnitude_bits} do not fit into a key of "
                f"{self._key.public.bits} bits; scale them down"
            )
        return slots

    def _encrypted(
        self, integers: np.ndarray, folds: np.ndarray, together: int, slots: Slots
    ) -> np.ndarray:
        public, n_targets = self._key.public, integers.shape[1]
        n_parts = -(-n_targets // slots.count)
        noise = self._noise.take(len(integers) * n_parts)
        ciphertexts = []
        for row, fold in zip(integers.tolist(), folds.tolist(), strict=True):
            first = (fold % together) * n_targets
            for part in range(n_parts):
                numbers = row[part * slots.count : (part + 1) * slots.count]
                ciphertexts.append(public.encrypt(slots.pack(numbers, first), noise.pop()))
        return public.pack_ciphertexts(ciphertexts).reshape(
            len(integers), n_parts, public.ciphertext_bytes
        )

    def _opened(self, party: str, sums: np.ndarray, slots: Slots) -> np.ndarray:
        """Decrypt sums: (groups, parts, columns, slots), float64."""
        scale = 2.0 ** -(_TARGET_BITS + _WEIGHT_BITS + _MATRIX_BITS)
        try:
            ciphertexts = self._key.public.unpack_ciphertexts(sums.reshape(-1, sums.shape[-1]))
            numbers = [slots.unpack(n) for n in self._key.decrypt(ciphertexts)]
        except CryptoError as error:
            raise PartyError(party, f"its sums cannot be decrypted: {error}") from None
        values = np.array([[float(v) for v in row] for row in numbers]) * scale
        return values.reshape(*sums.shape[:3], slots.count)


def answer_moments(party: PartyService, request: Request) -> Reply:
    """Sum the party's own products, and its columns' products with what is encrypted."""
    # A fit that could not serve a row is refused before anything is computed.
    party.policy.allow_protocol(party.name, "protected_predict")
    session = party.session(request.session)
    rows = party.training_rows(session, request.rows)
    everywhere = np.ones(len(rows), dtype=bool)
    ids = session.ids[rows]
    summed = allow_sums(party, ids, request.folds, request.n_folds, everywhere)
    if not 1 <= request.folds_together <= request.n_folds or request.n_targets < 1:
        raise PartyError(party.name, "targets and folds in a ciphertext must be at least one")
    more_rows_than_targets(party.name, summed, request.n_targets)
    n_rows, n_parts, width = request.ciphertexts.shape
    public, flat = _read(party.name, request)
    units, expanded = _unit_columns(party.name, session, rows, _WEIGHT_BITS)
    weights = units.integers(expanded)
    matrix = units.matrix(session.features.encoding_, _MATRIX_BITS)
    bits = int(np.abs(matrix).max(initial=1)).bit_length()
    noise = session.state.get(_NOISE)
    if noise is None or noise.public.n != public.n:
        noise = session.state[_NOISE] = Noise(public)
    n_groups = -(-request.n_folds // request.folds_together)
    sums = np.empty((n_groups, n_parts, matrix.shape[1], width), dtype=np.uint8)
    for group in range(n_groups):
        inside = np.flatnonzero(request.folds // request.folds_together == group)
        for part in range(n_parts):
            encrypted = [flat[i * n_parts + part] for i in inside.tolist()]
            columns = column_sums(public, encrypted, weights[inside], _WEIGHT_BITS)
            mixed = combine(public, columns, matrix, bits)
            sums[group, part] = public.pack_ciphertexts(noise.rerandomize(mixed))
    gram, _ = fold_moments(
        session,
        rows,
        folds=request.folds,
        weight=np.ones(n_rows),
        targets=np.empty((n_rows, 0)),
        n_folds=request.n_folds,
    )
    return Reply(gram=pack(gram), sums=sums)


def answer_keep(party: PartyService, request: Keep) -> Kept:
    """Keep encrypted coefficients, as what the codes of new rows are multiplied by."""
    session = party.session(request.session)
    if session.columns is None:
        raise PartyError(party.name, "no fit is under way in this session")
    check_width(party.name, session, 1 + len(request.ciphertexts))
    if request.n_outputs < 1:
        raise PartyError(party.name, "outputs must be at least one")
    n_columns, n_parts, width = request.ciphertexts.shape
    public, flat = _read(party.name, request)
    expected = n_columns, Layout.of_key(public, request.n_outputs).n_parts, width
    check_shape(party.name, request.ciphertexts, expected)
    known = np.flatnonzero(session.known)
    units, _ = _unit_columns(party.name, session, known, _KEPT_WEIGHT_BITS)
    matrix = units.matrix(session.features.encoding_, _KEPT_MATRIX_BITS).T
    bits = int(np.abs(matrix).max(initial=1)).bit_length()
    parts = [combine(public, flat[part::n_parts], matrix, bits) for part in range(n_parts)]
    session.state[SEALED] = Sealed.of(public, parts, request.n_outputs, units)
    return Kept()


def _read(party: str, request: Request | Keep) -> tuple[PublicKey, list[Any]]:
    """Check the key and what was encrypted: ciphertexts, the parts of one row after the other."""
    try:
        public = PublicKey.from_bytes(request.key.tobytes())
        width = request.ciphertexts.shape[2]
        return public, public.unpack_ciphertexts(request.ciphertexts.reshape(-1, width))
    except CryptoError as error:
        raise PartyError(party, f"its partner's encryption is refused: {error}") from None


def _unit_columns(
    party: str, session: Session, rows: np.ndarray, bits: int
) -> tuple[UnitColumns, np.ndarray]:
    """Return weights that lie between zero and one for some rows, and these rows."""
    encoding = session.features.encoding_
    if encoding.bound > 2.0**_COLUMN_BITS:
        raise PartyError(party, "its encoding has too many columns for sums under encryption")
    pieces = [np.empty((0, len(encoding.mean_)))]
    pieces += [expanded for _, expanded in session.encoded(rows, rotated=False)]
    expanded = np.concatenate(pieces)
    return UnitColumns(expanded, bits), expanded


def _width(party: str, n_numbers: int) -> int:
    """Return the side of a triangle of so many numbers."""
    width = int((np.sqrt(8 * n_numbers + 1) - 1) / 2)
    if width * (width + 1) // 2 != n_numbers or width < 1:
        raise PartyError(party, f"{n_numbers} numbers are no triangle of sums")
    return width
