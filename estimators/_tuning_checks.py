"""What the fine-tuner can put out, and what goes together with differential privacy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from sklearn.base import is_classifier

if TYPE_CHECKING:
    from fedtl.estimators._fine_tuner import FederatedFineTuner

_CLASSIFYING = (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss, torch.nn.MultiMarginLoss)


def classifies(estimator: Any, criterion: Any) -> bool:
    """Return whether an estimator, a plain module with its criterion perhaps, knows classes."""
    if isinstance(estimator, torch.nn.Module):
        return criterion is None or isinstance(criterion, _CLASSIFYING)
    return bool(is_classifier(estimator))


def has_output(method: str) -> Any:
    """Return a check of whether a tuner has a method, as ``available_if`` takes it."""

    def check(tuner: FederatedFineTuner) -> bool:
        if isinstance(tuner.estimator, torch.nn.Module):
            return classifies(tuner.estimator, tuner.criterion)
        if method == "predict_proba" and not is_classifier(tuner.estimator):
            return False  # skorch's regressors have one too
        return hasattr(tuner.estimator, method)

    return check


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
    if isinstance(privacy, str):
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
