"""Masks, secret shares and encryption, on numbers alone: nothing here knows a party. Unaudited."""

from fedtl.privacy._differential import DifferentialPrivacy
from fedtl.privacy._options import Paillier, SecretSharing, SecureAggregation
from fedtl.privacy.accounting import PrivacyBudget
from fedtl.privacy.fixed_point import FixedPointError
from fedtl.privacy.keys import CryptoError

__all__ = [
    "CryptoError",
    "DifferentialPrivacy",
    "FixedPointError",
    "Paillier",
    "PrivacyBudget",
    "SecretSharing",
    "SecureAggregation",
]
