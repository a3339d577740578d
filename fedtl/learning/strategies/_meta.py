"""Meta-learning: a start from which a few local steps lead far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedtl.learning.strategies._contract import (
    LocalProblem,
    Memory,
    Setting,
    State,
    Strategy,
    Update,
    weighted_mean,
)


@dataclass(frozen=True)
class FedMeta(Strategy):
    """Learn a start whose loss *after* local training is small, by first-order MAML.

    A party trains from the shared parameters on its support rows, and sends the gradient of the
    loss on its query rows at where it arrived, with its sign changed. The coordinator takes a
    step along the mean. What parties use is the shared parameters after their own training.

    Parameters
    ----------
    lr : float, default=0.1
        The coordinator's step.

    Notes
    -----
    Chen, Luo, Dong, Li and He, "Federated meta-learning with fast convergence and efficient
    communication", arXiv:1802.07876, with the first-order approximation of Finn, Abbeel and
    Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017.
    """

    name: ClassVar[str] = "fedmeta"
    needs_gradients: ClassVar[bool] = True
    trains_once: ClassVar[bool] = False
    lr: float = 0.1

    def at_party(self, local: LocalProblem, received: np.ndarray, memory: Memory) -> Update:
        """Train on support rows; return the descent direction of the query rows."""
        trained = local.train(received[0], part="support")
        gradient, loss = local.gradient(trained.parameters)
        return Update(-gradient[None], trained.n_steps, loss)

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Take one gradient step."""
        return {"parameters": state["parameters"] + self.lr * weighted_mean(updates)}


@dataclass(frozen=True)
class Reptile(Strategy):
    """Move the start some way towards where the parties' training leads.

    Parameters
    ----------
    lr : float, default=0.5
        Which part of the way.

    Notes
    -----
    Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", arXiv:1803.02999.
    Tasks, here parties, are not weighted by their rows.
    """

    name: ClassVar[str] = "reptile"
    averages: ClassVar[bool] = True
    weighs_rows: ClassVar[bool] = False
    lr: float = 0.5

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Move towards the unweighted mean."""
        mean = np.mean([update.change for update in updates], axis=0, dtype=np.float64)
        return {"parameters": state["parameters"] + self.lr * mean}
