"""How a user says what protects an exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paillier:
    """Protection by packed Paillier encryption, between two parties and without a helper.

    The other party holds its part of the model encrypted, and scores new rows by it: some
    milliseconds a row.

    Parameters
    ----------
    key_bits : {3072, 2048, 4096}, default=3072
        Bits of the modulus: 3,072 for a strength of about 128 bits, 2,048 for about 112.

    See Also
    --------
    SecretSharing : Much faster, with a dealer.

    Notes
    -----
    Needs the extra ``fedtl[paillier]``. Unaudited; gmpy2's arithmetic is not constant-time. After
    P. Paillier, "Public-key cryptosystems based on composite degree residuosity classes",
    EUROCRYPT 1999.

    Examples
    --------
    >>> from fedtl import FederatedTransferClassifier
    >>> from fedtl.privacy import Paillier
    >>> FederatedTransferClassifier(solver="moments", privacy=Paillier(key_bits=2048)).privacy
    Paillier(key_bits=2048)
    """

    key_bits: int = 3072

    def __post_init__(self) -> None:
        if self.key_bits not in (2048, 3072, 4096):
            raise ValueError(f"key_bits must be 2048, 3072 or 4096, got {self.key_bits!r}")


@dataclass(frozen=True)
class SecretSharing:
    """Protection by additive secret shares, with a dealer that sees no data.

    The dealer deals randomness for each fit and each prediction. Whoever holds what the dealer
    knows and what crosses between two parties can read both: it must not collude with either.

    Parameters
    ----------
    dealer : mapping of str to str, or object, default=None
        With remote parties, the dealer's name and address, as
        ``{"notary": "notary.example:9445"}``; the name is that of its certificate, which is pinned
        here and at the parties. Where parties are simulated, a dealer's service, as from
        :class:`fedtl.protocols.dealer.Dealer`; None makes one in this process for each fit.

    See Also
    --------
    Paillier : Without a helper, at a price.
    fedtl.server.serve_dealer : A dealer for remote parties.

    Notes
    -----
    Unaudited. After D. Beaver, "Efficient multiparty protocols using circuit randomization",
    CRYPTO 1991.

    Examples
    --------
    >>> from fedtl import FederatedTransferClassifier
    >>> from fedtl.datasets import load_digits_halves
    >>> from fedtl.privacy import SecretSharing
    >>> digits = load_digits_halves()
    >>> clf = FederatedTransferClassifier(
    ...     digits.parties, solver="moments", privacy=SecretSharing(), random_state=0
    ... )
    >>> bool(clf.fit(digits.data, digits.target).score(digits.data, digits.target) > 0.9)
    True
    """

    dealer: Any = None

    def __post_init__(self) -> None:
        named = self.dealer
        if isinstance(named, str) or (isinstance(named, Mapping) and len(named) != 1):
            raise ValueError(
                f"dealer={named!r}: give one name and its address, as "
                "SecretSharing(dealer={'notary': 'host:port'})"
            )


@dataclass(frozen=True)
class SecureAggregation:
    """Protection of a sum over three parties or more: nobody sees a summand.

    Pairs of parties agree on masks that cancel in the sum; shares of the secrets lie with the
    others, so that more than half of the parties are enough to finish a round.

    See Also
    --------
    DifferentialPrivacy : Protects from what the sum itself says.

    Notes
    -----
    Unaudited. After K. Bonawitz et al., "Practical secure aggregation for privacy-preserving
    machine learning", CCS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import SGDClassifier
    >>> from fedtl import FederatedFineTuner
    >>> from fedtl.privacy import SecureAggregation
    >>> X, y = load_digits(return_X_y=True)
    >>> cameras = np.arange(len(y)) % 5
    >>> tuner = FederatedFineTuner(
    ...     SGDClassifier(), n_rounds=5, privacy=SecureAggregation(), random_state=0
    ... )
    >>> tuner.fit(X, y, sample_party=cameras).score(X, y) > 0.9
    True
    """
