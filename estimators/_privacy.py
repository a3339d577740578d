"""From the parameter `privacy` to the exchange that a fit uses."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np

from fedtl.federation import InProcessChannel, Ledger, RemoteParties, SimulatedParties
from fedtl.privacy import Paillier, SecretSharing
from fedtl.protocols.dealer import Dealer
from fedtl.protocols.moments import CLEAR, MomentsExchange
from fedtl.protocols.protected_moments import ProtectedMoments
from fedtl.protocols.shared_moments import SharedMoments

_PROTECTIONS: dict[str, Paillier | SecretSharing | None] = {
    "auto": None,
    "none": None,
    "paillier": Paillier(),
    "sharing": SecretSharing(),
}
NAMES = tuple(_PROTECTIONS)


def resolve_privacy(privacy: Any) -> Paillier | SecretSharing | None:
    """Return what the strings stand for; None is no protection, which is "auto" in process."""
    if isinstance(privacy, str):
        return _PROTECTIONS[privacy]
    return privacy


def check_protected(privacy: Any, solver: str, weight: np.ndarray, *, resume: bool = False) -> None:
    """Refuse what cannot be protected.

    Parameters
    ----------
    privacy : object
        The parameter.
    solver : str
        The solver.
    weight : ndarray of shape (n_rows,), dtype float64
        Row weights other than zero.
    resume : bool, default=False
        Whether networks of an earlier fit are to be trained on.

    Raises
    ------
    ValueError
        If the solver does what is not protected, or weights differ.
    """
    protection = resolve_privacy(privacy)
    if protection is None:
        return
    if solver == "latent" and isinstance(protection, Paillier):
        raise ValueError(
            f"privacy={privacy!r} protects solver='moments' only: joint training is protected by "
            "secret shares, which need a dealer. Use privacy='sharing', or solver='moments'"
        )
    if solver == "auto":
        raise ValueError(
            f"privacy={privacy!r} protects solver='moments' and solver='latent': solver='auto' "
            "trains trees of the other parties on the labels as well, which is not protected. Use "
            "one of the two, or privacy='none' where all parties are simulated"
        )
    if resume:
        raise ValueError(
            f"privacy={privacy!r}: a protected model cannot be trained on; fit it anew on all "
            "rows, with warm_start=False"
        )
    if np.ptp(weight) > 1e-12 * weight.max():
        raise ValueError(
            f"privacy={privacy!r}: other parties would be told the rows' weights, which often "
            "follow the labels. Leave sample_weight out, or use zeros and one other value"
        )


def open_exchange(
    privacy: Any, names: list[str], services: SimulatedParties | RemoteParties, ledger: Ledger
) -> MomentsExchange:
    """Return how the moments of one fit are exchanged.

    Parameters
    ----------
    privacy : object
        The parameter.
    names : list of str
        Names of the parties.
    services : SimulatedParties or RemoteParties
        The other parties.
    ledger : Ledger
        Where messages are counted, those with a dealer included.

    Returns
    -------
    MomentsExchange
        In the clear or protected.

    Raises
    ------
    ValueError
        If secret shares have no dealer that the other parties could trust.
    """
    protection = resolve_privacy(privacy)
    if isinstance(protection, SecretSharing):
        if isinstance(services, RemoteParties):
            raise ValueError(
                f"privacy={privacy!r} needs a dealer who is none of the parties, and one in this "
                "process is the active party itself: nothing would be hidden from it. Use "
                "privacy='paillier', which needs no dealer"
            )
        dealer = protection.dealer or Dealer()
        if dealer.name in names:
            raise ValueError(
                f"party name {dealer.name!r} is that of the dealer of secret shares; choose another"
            )
        return SharedMoments(InProcessChannel(dealer, ledger, services.serialize))
    if isinstance(protection, Paillier):
        return ProtectedMoments(protection.key_bits)
    return CLEAR


def fold_seed(privacy: Any, random_state: Any, rng: np.random.RandomState) -> int:
    """Return a seed of the folds, which is not told.

    Folds are dealt by label and are told to the other parties, so that whoever knows their seed
    learns labels from them. The seed of a fit is told, so this one is drawn after it, and not
    computed from it; a `random_state` that is a small number can still be guessed.

    Parameters
    ----------
    privacy : object
        The parameter.
    random_state : object
        The parameter.
    rng : RandomState
        What the fit's seed was drawn from.

    Returns
    -------
    int
        128 bits: of the operating system's randomness where they protect something and results
        need not be repeatable, of `rng` otherwise.
    """
    if resolve_privacy(privacy) is not None and random_state is None:
        return secrets.randbits(128)
    return int.from_bytes(rng.bytes(16), "little")
