"""Dealer: the randomness of products of two parties' private matrices, from a helper without data.

The active party asks; what the other party gets is sealed to its key, so that passive parties
never have to ask. The dealer must not collude with either party: together with one of them, it
could take the masks off what the other sent.

Who learns what:

- ``dealer.deal/1`` tells the dealer the shapes of the products (numbers of rows, columns and
  targets), the name of the session and the party's public key.
- ``dealer.dealt/1`` gives the active party a seed and corrections, which are uniform to it, and
  the other party's seed sealed to that party's key, which it hands on and cannot read.

The party's key reaches the dealer through the active party. That holds against a curious active
party; one that puts in a key of its own, and so reads the seed, deviates from the protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.parties import Answer, PartyService, Table
from fedtl.privacy import CryptoError, shares
from fedtl.privacy.keys import KEY_BYTES, KeyPair, seal, unseal
from fedtl.wire import Message, Tensor, message

_CONTEXT = "fedtl dealer/1"
_MOST_DEALT = 2**28


@message("dealer.deal/1")
class Deal(Message):
    """Ask for the randomness of some products."""

    context: str
    party_key: Annotated[np.ndarray, Tensor("uint8", (KEY_BYTES,))]
    shapes: Annotated[np.ndarray, Tensor("int64", ("products", 3))]


@message("dealer.dealt/1", protection="shares")
class Dealt(Message):
    """A seed and corrections for the asking party, and a seed that only the other can open."""

    seed: Annotated[np.ndarray, Tensor("uint8", (KEY_BYTES,))]
    sealed: Annotated[np.ndarray, Tensor("uint8", ("sealed",))]
    corrections: Annotated[np.ndarray, Tensor("uint64", ("numbers",))]


@dataclass(frozen=True, eq=False)
class Hand:
    """What the dealer gave out for one exchange.

    Parameters
    ----------
    context : str
        What it is for.
    sealed : ndarray of shape (n_bytes,), dtype uint8
        The other party's seed, for it alone.
    seed : bytes
        The active party's seed.
    corrections : list of ndarray of shape (m, n), dtype uint64
        The active party's, one for each product.
    """

    context: str
    sealed: np.ndarray
    seed: bytes
    corrections: list[np.ndarray]

    def place(self, i: int) -> str:
        """Name a product within its context."""
        return f"{self.context} {i}"


class Deals:
    """The active party's end: asks the dealer, and never takes the same randomness twice.

    Parameters
    ----------
    dealer : Channel
        The dealer.
    """

    def __init__(self, dealer: Channel) -> None:
        self._dealer = dealer
        self._seeds: set[bytes] = set()
        self._n_deals = 0

    def ask(self, session: str, party_key: np.ndarray, shapes: list[shares.Shape]) -> Hand:
        """Ask for the randomness of some products.

        Parameters
        ----------
        session : str
            Name of the session.
        party_key : ndarray of shape (32,), dtype uint8
            Public key of the party with the left factors.
        shapes : list of (m, k, n)
            Shapes of the products.

        Returns
        -------
        Hand
            What was dealt.

        Raises
        ------
        PartyError
            If the dealer repeats itself or does not deal what was asked for.
        """
        self._n_deals += 1
        context = f"{session} {self._n_deals}"
        request = Deal(
            context=context,
            party_key=party_key,
            shapes=np.array(shapes, dtype=np.int64).reshape(-1, 3),
        )
        dealt = self._dealer.ask(request, Dealt)
        seed = dealt.seed.tobytes()
        if seed in self._seeds:
            raise PartyError(self._dealer.name, "dealt the same randomness twice; nothing was sent")
        self._seeds.add(seed)
        sizes = [m * n for m, _, n in shapes]
        check_shape(self._dealer.name, dealt.corrections, (sum(sizes),))
        parts = np.split(dealt.corrections, np.cumsum(sizes)[:-1])
        corrections = [part.reshape(m, n) for part, (m, _, n) in zip(parts, shapes, strict=True)]
        return Hand(context, dealt.sealed, seed, corrections)


def answer_deal(dealer: PartyService, request: Deal) -> Dealt:
    """Deal what some products need, the other party's seed sealed to its key."""
    shapes = [(int(m), int(k), int(n)) for m, k, n in request.shapes]
    if (request.shapes < 0).any() or (request.shapes > _MOST_DEALT).any():
        raise PartyError(dealer.name, "shapes of products must not be negative or beyond 2**28")
    if sum(m * k + k * n + m * n for m, k, n in shapes) > _MOST_DEALT:
        raise PartyError(
            dealer.name, "more than 2**28 numbers were asked for at once; ask for fewer rows"
        )
    dealt = shares.deal(shapes, request.context)
    sealed = seal(request.party_key.tobytes(), dealt.left_seed, f"{_CONTEXT} {request.context}")
    parts = [part.ravel() for part in dealt.corrections]
    return Dealt(
        seed=_bytes(dealt.right_seed),
        sealed=_bytes(sealed),
        corrections=np.concatenate([np.empty(0, dtype=np.uint64), *parts]),
    )


DEALER_ANSWERS: dict[str, tuple[str, Answer]] = {Deal.kind: ("dealer", answer_deal)}
"""What a dealer answers."""


class Dealer(PartyService):
    """The service of a dealer: reached by messages as a party is, without rows.

    Examples
    --------
    >>> from fedtl.privacy import SecretSharing
    >>> from fedtl.protocols.dealer import Dealer
    >>> SecretSharing(dealer=Dealer()).dealer.name
    'dealer'
    """

    def __init__(self) -> None:
        super().__init__("dealer", Table(()), _NoColumns(), DEALER_ANSWERS)


@dataclass
class _NoColumns:
    """The recipe of who has no columns."""

    preprocessor: Any = None
    module: Any = None
    frozen: Any = True
    lr: float | None = None


def open_seed(
    party: str, pair: KeyPair, context: str, sealed: np.ndarray, used: set[bytes]
) -> bytes:
    """Open a seed that was dealt to a party.

    Parameters
    ----------
    party : str
        Whose seed it is.
    pair : KeyPair
        Its keys.
    context : str
        What the seed is for.
    sealed : ndarray of shape (n_bytes,), dtype uint8
        What came.
    used : set of bytes
        Seeds that were used before; the new one is added.

    Returns
    -------
    bytes
        The seed.

    Raises
    ------
    PartyError
        If it cannot be opened or was used before.
    """
    try:
        seed = unseal(pair, sealed.tobytes(), f"{_CONTEXT} {context}")
    except CryptoError as error:
        raise PartyError(party, f"the dealer's seed cannot be opened: {error}") from None
    if len(seed) != KEY_BYTES or seed in used:
        raise PartyError(party, "the dealer's seed is malformed or was used before")
    used.add(seed)
    return seed


def check_shape(party: str, came: np.ndarray, expected: tuple[int, ...]) -> None:
    """Refuse numbers of another shape than was asked for."""
    if came.shape != expected:
        raise PartyError(party, f"numbers of shape {came.shape} came, {expected} were expected")


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)
