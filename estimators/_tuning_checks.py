"""What goes together with differential privacy, and with remote parties, in fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedtl.federation import Federation
from fedtl.privacy import DifferentialPrivacy, SecureAggregation

if TYPE_CHECKING:
    from fedtl.estimators._fine_tuner import FederatedFineTuner


def check_private(tuner: FederatedFineTuner) -> None:
    """Refuse what would be told without noise, or done more often than is paid for.

    Parameters
    ----------
    tuner : FederatedFineTuner
        The estimator.

    Raises
    ------
    ValueError
        Naming the parameter that does not go together with ``privacy``.
    """
    privacy = tuner.privacy
    if not isinstance(privacy, DifferentialPrivacy):
        return
    if privacy.unit == "label":
        raise ValueError(
            "unit='label' is for FederatedTransferClassifier; here labels are part of rows, which "
            "unit='row' protects"
        )
    reasons = {
        "validation": "what parties say of held-out rows is told without noise",
        "patience": "what parties say of held-out rows is told without noise",
        "checkpoint": "a round that is done again after a crash would be paid for once",
    }
    for name, reason in reasons.items():
        if getattr(tuner, name) is not None:
            raise ValueError(f"{name} does not go together with differential privacy: {reason}")
    if tuner.deploy != "federated":
        raise ValueError(
            f"deploy={tuner.deploy!r} trains on rows without noise; with differential privacy use "
            "deploy='federated'"
        )


def rounds_privacy(
    tuner: FederatedFineTuner,
) -> SecureAggregation | DifferentialPrivacy | None:
    """Return what protects updates: with "auto", secure aggregation if parties are remote.

    Parameters
    ----------
    tuner : FederatedFineTuner
        The estimator.

    Returns
    -------
    SecureAggregation, DifferentialPrivacy or None
        None for nothing.
    """
    if tuner.privacy == "auto":
        return SecureAggregation() if isinstance(tuner.federation, Federation) else None
    return None if tuner.privacy == "none" else tuner.privacy


def check_remote(tuner: FederatedFineTuner) -> None:
    """Refuse what needs parties to keep something after the fit, if they are remote.

    Parameters
    ----------
    tuner : FederatedFineTuner
        The estimator.

    Raises
    ------
    ValueError
        Naming the parameter that does not go together with remote parties.
    """
    if not isinstance(tuner.federation, Federation):
        return
    if tuner.checkpoint is not None:
        raise ValueError(
            "checkpoint does not go together with remote parties: what these remember between "
            "rounds is not saved here"
        )
    if tuner.deploy != "federated" or tuner.personal:
        raise ValueError(
            f"deploy={tuner.deploy!r} and personal={tuner.personal!r}: this estimator serves rows "
            "of remote parties by the federated model; use deploy='federated' and no personal parts"
        )
