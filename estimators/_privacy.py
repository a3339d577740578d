"""From the parameter `privacy` to the exchange that a fit uses."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedtl.federation import (
    Channel,
    Federation,
    InProcessChannel,
    Ledger,
    RemoteParties,
    SimulatedParties,
)
from fedtl.privacy import DifferentialPrivacy, Paillier, SecretSharing
from fedtl.privacy.accounting import Response
from fedtl.privacy.noise import randomised_response
from fedtl.protocols.dealer import Dealer, Deals
from fedtl.protocols.moments import CLEAR, MomentsExchange
from fedtl.protocols.private_latent import PrivateLatent
from fedtl.protocols.private_moments import PrivateMoments
from fedtl.protocols.protected_moments import ProtectedMoments
from fedtl.protocols.shared_moments import SharedMoments
from fedtl.solvers.transfer import Settings

Protection = Paillier | SecretSharing | DifferentialPrivacy | None

_PROTECTIONS: dict[str, Protection] = {
    "none": None,
    "paillier": Paillier(),
    "sharing": SecretSharing(),
}
NAMES = ("auto", *_PROTECTIONS)


def resolve_privacy(privacy: Any, federation: Any) -> Protection:
    """Return what protects the exchange.

    Parameters
    ----------
    privacy : object
        The parameter. "auto" is encryption where parties are remote, as nobody else is needed for
        it, and nothing where they are simulated.
    federation : object
        The parameter.

    Returns
    -------
    Paillier, SecretSharing, DifferentialPrivacy or None
        None is no protection.
    """
    if privacy == "auto":
        privacy = "paillier" if isinstance(federation, Federation) else "none"
    return _PROTECTIONS[privacy] if isinstance(privacy, str) else privacy


def solver_under(protection: Protection, solver: str) -> str:
    """Return the solver that a fit uses: "auto" is what can be protected, if it has to be.

    Trees of other parties, which "auto" trains otherwise, see the labels.

    Parameters
    ----------
    protection : Paillier, SecretSharing, DifferentialPrivacy or None
        What protects the exchange.
    solver : {"auto", "moments", "latent", "liu"}
        The parameter.

    Returns
    -------
    str
        The solver.
    """
    exchange = protection is not None and getattr(protection, "unit", None) != "label"
    return "moments" if solver == "auto" and exchange else solver


def check_protected(
    protection: Protection, solver: str, weight: np.ndarray, *, resume: bool = False
) -> None:
    """Refuse what cannot be protected.

    Parameters
    ----------
    protection : Paillier, SecretSharing, DifferentialPrivacy or None
        What protects the exchange.
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
    if protection is None:
        return
    unit = getattr(protection, "unit", None)
    if unit == "party":
        raise ValueError("unit='party' is for FederatedFineTuner; use unit='row' or 'label'")
    if solver == "liu" and unit == "row":
        raise ValueError(
            f"{protection!r} adds noise to the sums of solver='moments' only; protect solver='liu' "
            "by privacy='paillier' or 'sharing'"
        )
    if resume:
        raise ValueError(
            f"{protection!r}: a protected model cannot be trained on; fit it anew on all "
            "rows, with warm_start=False"
        )
    if np.ptp(weight) > 1e-12 * weight.max():
        raise ValueError(
            f"{protection!r}: other parties would be told the rows' weights, which often "
            "follow the labels. Leave sample_weight out, or use zeros and one other value"
        )


def open_deals(
    protection: Protection,
    names: list[str],
    services: SimulatedParties | RemoteParties,
    ledger: Ledger,
) -> Deals | None:
    """Return what asks the dealer of secret shares in one fit or prediction; None without shares.

    Parameters
    ----------
    protection : Paillier, SecretSharing, DifferentialPrivacy or None
        What protects the exchange.
    names : list of str
        Names of the parties.
    services : SimulatedParties or RemoteParties
        The other parties.
    ledger : Ledger
        Where messages with the dealer are counted.

    Returns
    -------
    Deals or None
        Nothing is asked yet.

    Raises
    ------
    ValueError
        If secret shares have no dealer that the other parties could trust.
    """
    if not isinstance(protection, SecretSharing):
        return None
    return Deals(_dealer(protection, names, services, ledger))


def open_exchange(
    protection: Protection, deals: Deals | None, settings: Settings
) -> MomentsExchange:
    """Return how moments, or what takes their place, are exchanged in one fit.

    Parameters
    ----------
    protection : Paillier, SecretSharing, DifferentialPrivacy or None
        What protects the exchange.
    deals : Deals or None
        What asks the dealer of secret shares.
    settings : Settings
        How the model is learnt.

    Returns
    -------
    MomentsExchange
        In the clear or protected.
    """
    if deals is not None:
        return SharedMoments(deals)
    if isinstance(protection, DifferentialPrivacy) and protection.unit == "row":
        if settings.solver == "latent":
            return PrivateLatent(protection, settings.n_components)
        return PrivateMoments(protection)
    if isinstance(protection, Paillier):
        return ProtectedMoments(protection.key_bits)
    return CLEAR


def _dealer(
    protection: SecretSharing,
    names: list[str],
    services: SimulatedParties | RemoteParties,
    ledger: Ledger,
) -> Channel:
    named = protection.dealer
    if isinstance(services, RemoteParties):
        if not isinstance(named, Mapping):
            raise ValueError(
                f"{protection!r} needs a dealer who is none of the parties, and one in this "
                "process is the active party itself: nothing would be hidden from it. Name one "
                "that runs elsewhere, as SecretSharing(dealer={'notary': 'host:port'}), or use "
                "privacy='paillier', which needs no dealer"
            )
        [(name, address)] = named.items()
        channel: Channel = services.federation.channel_to_helper(name, address, ledger)
    elif isinstance(named, Mapping):
        raise ValueError(
            f"{protection!r}: a dealer on another machine deals to parties whose certificates it "
            "has pinned, and those here are simulated. Use privacy='sharing'"
        )
    else:
        channel = InProcessChannel(named or Dealer(), ledger, services.serialize)
    if channel.name in names:
        raise ValueError(
            f"party name {channel.name!r} is that of the dealer of secret shares; choose another"
        )
    return channel


def told_labels(privacy: Any, index: np.ndarray, n_classes: int, federation: Any) -> np.ndarray:
    """Return labels as the fit is told them: by randomised response where labels are protected.

    Parameters
    ----------
    privacy : object
        The parameter.
    index : ndarray of shape (n_rows,), dtype int
        Positions of the true classes.
    n_classes : int
        Number of classes.
    federation : object
        The parameter; its budget pays.

    Returns
    -------
    ndarray of shape (n_rows,), dtype int
        Positions of classes.
    """
    if getattr(privacy, "unit", None) != "label":
        return index
    budget = getattr(federation, "budget", None)
    if budget is not None:
        budget.spend("labels", Response(privacy.epsilon))
    return randomised_response(index, n_classes, privacy.epsilon)


def fold_seed(protection: Protection, random_state: Any, rng: np.random.RandomState) -> int:
    """Return a seed of the folds, which is not told.

    Folds are dealt by label and are told to the other parties, so that whoever knows their seed
    learns labels from them. The seed of a fit is told, so this one is drawn after it, and not
    computed from it; a `random_state` that is a small number can still be guessed.

    Parameters
    ----------
    protection : Paillier, SecretSharing, DifferentialPrivacy or None
        What protects the exchange.
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
    if protection is not None and random_state is None:
        return secrets.randbits(128)
    return int.from_bytes(rng.bytes(16), "little")
