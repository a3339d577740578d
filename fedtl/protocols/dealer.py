"""Dealer: the randomness of products of two parties' private matrices, from a helper without data.

The active party asks; what the other party gets is sealed to its key, so that passive parties
never have to ask. The dealer must not collude with either party: together with one of them, it
could take the masks off what the other sent.

Who learns what:

- ``dealer.deal/1`` tells the dealer the shapes of the products (numbers of rows, columns and
  targets), the names of party and session, and the party's public key of this session.
- ``dealer.dealt/1`` gives the active party a seed and corrections, which are uniform to it, and
  the other party's seed sealed to that party's key, which it hands on and cannot read.

Key and sealed seed pass through the active party. Between machines it cannot put others in their
place: the party has signed the key, which the dealer checks, and the dealer has signed the seed
inside the seal, which the party checks against the dealers that its policy names. A simulated
party has no identity: there the active party is taken at its word.

No randomness is used twice. A party opens a seed once, for its own session, whose key is new and
whose name is in what the masks are derived from; the active party refuses a seed that it has had.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.parties import Answer, PartyService, Policy, Signing, Table
from fedtl.privacy import CryptoError, shares
from fedtl.privacy.keys import KEY_BYTES, KeyPair, seal, unseal
from fedtl.wire import Message, Tensor, message

_CONTEXT = "fedtl dealer/1"
_MOST_DEALT = 2**28


@message("dealer.deal/1")
class Deal(Message):
    """Ask for the randomness of some products."""

    context: str
    party: str
    party_key: Annotated[np.ndarray, Tensor("uint8", (KEY_BYTES,))]
    proof: Annotated[np.ndarray, Tensor("uint8", ("proof",))]
    shapes: Annotated[np.ndarray, Tensor("int64", ("products", 3))]


@message("dealer.dealt/1", protection="shares")
class Dealt(Message):
    """A seed and corrections for the asking party, and a seed that only the other can open."""

    seed: Annotated[np.ndarray, Tensor("uint8", (KEY_BYTES,))]
    sealed: Annotated[np.ndarray, Tensor("uint8", ("sealed",))]
    corrections: Annotated[np.ndarray, Tensor("uint64", ("numbers",))]


@dataclass(frozen=True, eq=False)
class PartyKey:
    """A party's public key of one session.

    Parameters
    ----------
    party : str
        Name of the party.
    key : ndarray of shape (32,), dtype uint8
        The key.
    proof : ndarray of shape (n_bytes,), dtype uint8
        The party's signature, for the dealer; empty from a simulated party.
    """

    party: str
    key: np.ndarray
    proof: np.ndarray


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

    def ask(self, session: str, key: PartyKey, shapes: list[shares.Shape]) -> Hand:
        """Ask for the randomness of some products.

        Parameters
        ----------
        session : str
            Name of the session.
        key : PartyKey
            Of the party with the left factors.
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
            party=key.party,
            party_key=key.key,
            proof=key.proof,
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
    n_numbers = sum(m * k + k * n + m * n for m, k, n in shapes)
    if n_numbers > _MOST_DEALT:
        raise PartyError(
            dealer.name, "more than 2**28 numbers were asked for at once; ask for fewer rows"
        )
    key = request.party_key.tobytes()
    if dealer.identity is not None:
        stated = _key_statement(request.party, request.context.rpartition(" ")[0], key)
        if dealer.identity.signer(stated, request.proof.tobytes()) != request.party:
            raise PartyError(
                dealer.name,
                f"the key is not signed by {request.party!r}, or that party's certificate is not "
                "pinned at the dealer: have the dealer pin it; nothing was dealt",
            )
    dealer.usage.deal(dealer.name, dealer.policy, n_numbers)
    dealt = shares.deal(shapes, request.context)
    seed = dealt.left_seed
    if dealer.identity is not None:
        seed += dealer.identity.sign(_seed_statement(request.context, key, seed))
    parts = [part.ravel() for part in dealt.corrections]
    try:
        sealed = seal(key, seed, f"{_CONTEXT} {request.context}")
    except CryptoError as error:
        raise PartyError(dealer.name, f"nothing can be sealed to the key: {error}") from None
    return Dealt(
        seed=_bytes(dealt.right_seed),
        sealed=_bytes(sealed),
        corrections=np.concatenate([np.empty(0, dtype=np.uint64), *parts]),
    )


DEALER_ANSWERS: dict[str, tuple[str, Answer]] = {Deal.kind: ("dealer", answer_deal)}
"""What a dealer answers."""


class Dealer(PartyService):
    """The service of a dealer: reached by messages as a party is, without rows.

    Parameters
    ----------
    name : str, default="dealer"
        Its name.
    policy : Policy, optional
        Its ``max_dealt_numbers`` and ``limits``.
    identity : Signing, optional
        By which it signs, and recognises parties' keys. Without one it is simulated.

    See Also
    --------
    fedtl.server.serve_dealer : A dealer on the network.

    Examples
    --------
    >>> from fedtl.privacy import SecretSharing
    >>> from fedtl.protocols.dealer import Dealer
    >>> SecretSharing(dealer=Dealer()).dealer.name
    'dealer'
    """

    def __init__(
        self,
        name: str = "dealer",
        *,
        policy: Policy | None = None,
        identity: Signing | None = None,
    ) -> None:
        super().__init__(name, Table(()), None, DEALER_ANSWERS, policy=policy, identity=identity)


def offer_key(party: PartyService, session: str, pair: KeyPair) -> tuple[np.ndarray, np.ndarray]:
    """Return a party's public key of a session, and its signature for the dealer.

    Parameters
    ----------
    party : PartyService
        The party.
    session : str
        Name of the session.
    pair : KeyPair
        Its keys in this session.

    Returns
    -------
    key : ndarray of shape (32,), dtype uint8
        The key.
    proof : ndarray of shape (n_bytes,), dtype uint8
        The signature; empty from a simulated party.

    Raises
    ------
    PolicyRefusal
        If its policy trusts no dealer.
    """
    party.policy.allow_dealers(party.name)
    proof = b""
    if party.identity is not None:
        proof = party.identity.sign(_key_statement(party.name, session, pair.public))
    return _bytes(pair.public), _bytes(proof)


def open_seed(
    party: PartyService,
    session: str,
    pair: KeyPair,
    *,
    context: str,
    sealed: np.ndarray,
    used: set[bytes],
) -> bytes:
    """Open a seed that was dealt to a party.

    Parameters
    ----------
    party : PartyService
        Whose seed it is.
    session : str
        Name of the session.
    pair : KeyPair
        Its keys in this session.
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
        If it cannot be opened, is of another session or was used before; a PolicyRefusal if it
        is signed by nobody whom the party's policy trusts.
    """
    try:
        opened = unseal(pair, sealed.tobytes(), f"{_CONTEXT} {context}")
    except CryptoError as error:
        raise PartyError(party.name, f"the dealer's seed cannot be opened: {error}") from None
    seed, proof = opened[:KEY_BYTES], opened[KEY_BYTES:]
    if party.policy.dealers is not None:
        stated = _seed_statement(context, pair.public, seed)
        signer = party.identity.signer(stated, proof) if party.identity is not None else None
        party.policy.allow_dealer(party.name, signer)
    if len(seed) != KEY_BYTES or seed in used or context.rpartition(" ")[0] != session:
        raise PartyError(
            party.name, "the dealer's seed is malformed, of another session or was used before"
        )
    used.add(seed)
    return seed


def checked_product(party: str, product: np.ndarray, check: bytes) -> np.ndarray:
    """Return a product under shares, as signed integers, once its check column has been looked at.

    Parameters
    ----------
    party : str
        Whose shares it was made of, besides the dealer's.
    product : ndarray of shape (m, n + 1), dtype uint64
        Product with a factor from :func:`fedtl.privacy.shares.with_check`.
    check : bytes of length 32
        The secret of the check column.

    Returns
    -------
    ndarray of shape (m, n), dtype int64
        The product.

    Raises
    ------
    PartyError
        If it does not add up.
    """
    if not shares.adds_up(product, check):
        raise PartyError(
            party,
            "its shares and the dealer's do not add up: one of them answered with wrong numbers; "
            "nothing was learnt from them",
        )
    return np.ascontiguousarray(product[:, :-1]).view(np.int64)


def check_shape(party: str, came: np.ndarray, expected: tuple[int, ...]) -> None:
    """Refuse numbers of another shape than was asked for."""
    if came.shape != expected:
        raise PartyError(party, f"numbers of shape {came.shape} came, {expected} were expected")


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)


def _key_statement(party: str, session: str, key: bytes) -> bytes:
    return f"{_CONTEXT} key|{party}|{session}|{key.hex()}".encode()


def _seed_statement(context: str, key: bytes, seed: bytes) -> bytes:
    return f"{_CONTEXT} seed|{context}|{key.hex()}|{hashlib.sha256(seed).hexdigest()}".encode()
