"""A model for each party beside the shared one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedtl.learning.strategies._averaging import FedAvg
from fedtl.learning.strategies._contract import LocalProblem, Memory, Update


@dataclass(frozen=True)
class Ditto(FedAvg):
    """Average, and let every party train a model of its own that stays near the shared one.

    The shared model is that of :class:`FedAvg`. Beside it a party keeps a model of its own, which
    never leaves it, and trains it in each round with ``mu / 2 * ||own - received||^2`` added to
    the loss. It costs the local training twice.

    Parameters
    ----------
    lr : float, default=1.0
        The coordinator's step.
    mu : float, default=0.1
        How strongly the party's own model is held near the shared one.

    Notes
    -----
    Li, Hu, Beirami and Smith, "Ditto: fair and robust federated learning through
    personalization", ICML 2021.
    """

    name: ClassVar[str] = "ditto"
    needs_gradients: ClassVar[bool] = True
    keeps_model: ClassVar[bool] = True
    trains_once: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    mu: float = 0.1

    @property
    def strength(self) -> float:
        """How strongly the party's own model is held."""
        return self.mu

    @classmethod
    def with_strength(cls, strength: float) -> Ditto:
        """Make the party's side."""
        return cls(mu=strength)

    def at_party(self, local: LocalProblem, received: np.ndarray, memory: Memory) -> Update:
        """Train the shared model, then the party's own."""
        shared = received[0]
        own = local.train(memory.get("model", shared), proximal=self.mu, towards=shared)
        memory["model"] = own.parameters
        return super().at_party(local, received, memory)
