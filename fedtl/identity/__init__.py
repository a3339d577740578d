"""Who a party is: its private key, its certificate, and the partners whose certificates it pins."""

from fedtl.identity._identity import Identity, Partner, fingerprint_of, name_of

__all__ = ["Identity", "Partner", "fingerprint_of", "name_of"]
