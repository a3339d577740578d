"""Averaging, and what mends its drift on parties with different rows."""

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
class FedAvg(Strategy):
    """Average the parties' parameters, weighing by rows.

    Parameters
    ----------
    lr : float, default=1.0
        The coordinator's step; 1 is the average itself.

    Notes
    -----
    McMahan, Moore, Ramage, Hampson and Aguera y Arcas, "Communication-efficient learning of deep
    networks from decentralized data", AISTATS 2017. With every party in every round and one local
    gradient step on all rows it is gradient descent on the pooled rows.

    Examples
    --------
    >>> from fedtl.learning.strategies import FedAvg
    >>> FedAvg()
    FedAvg(lr=1.0)
    """

    name: ClassVar[str] = "fedavg"
    averages: ClassVar[bool] = True
    lr: float = 1.0

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Add the mean change."""
        return {"parameters": state["parameters"] + self.lr * weighted_mean(updates)}


@dataclass(frozen=True)
class FedProx(FedAvg):
    """Average, with parties held near the shared parameters.

    At the party, ``mu / 2 * ||parameters - received||^2`` is added to the loss.

    Parameters
    ----------
    lr : float, default=1.0
        The coordinator's step.
    mu : float, default=0.01
        How strongly parties are held.

    Notes
    -----
    Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated optimization in heterogeneous
    networks", MLSys 2020.
    """

    name: ClassVar[str] = "fedprox"
    needs_gradients: ClassVar[bool] = True
    mu: float = 0.01

    @property
    def strength(self) -> float:
        """How strongly parties are held."""
        return self.mu

    @classmethod
    def with_strength(cls, strength: float) -> FedProx:
        """Make the party's side."""
        return cls(mu=strength)

    def at_party(self, local: LocalProblem, received: np.ndarray, memory: Memory) -> Update:
        """Train with the proximal term."""
        trained = local.train(received[0], proximal=self.mu)
        return Update((trained.parameters - received[0])[None], trained.n_steps, trained.loss)


@dataclass(frozen=True)
class Scaffold(Strategy):
    """Correct every local gradient by the difference between all parties' and the party's own.

    The coordinator sends, beside the parameters, its control variate ``c``, an estimate of the
    gradient of all parties. A party keeps its own ``c_i``, adds ``c - c_i`` to every gradient, and
    after ``K`` steps with learning rate ``lr`` sets ``c_i`` to ``c_i - c - change / (K lr)``
    (option II of the paper). It sends the change of both. Means are unweighted.

    Parameters
    ----------
    lr : float, default=1.0
        The coordinator's step.

    Notes
    -----
    Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, "SCAFFOLD: stochastic controlled averaging
    for federated learning", ICML 2020. Local training must be plain gradient descent.
    """

    name: ClassVar[str] = "scaffold"
    needs_gradients: ClassVar[bool] = True
    lr: float = 1.0

    def start(self, parameters: np.ndarray) -> State:
        """Start with control variates of zero."""
        return {**super().start(parameters), "control": np.zeros(len(parameters))}

    def send(self, state: State) -> np.ndarray:
        """Send parameters and control variate."""
        return np.stack([state["parameters"], state["control"]])

    def at_party(self, local: LocalProblem, received: np.ndarray, memory: Memory) -> Update:
        """Train with corrected gradients and renew the party's control variate."""
        if local.lr is None:
            raise ValueError(
                "scaffold needs plain gradient descent at the parties: torch.optim.SGD without "
                "momentum, Nesterov or weight decay"
            )
        parameters, control = received
        own = memory.get("control", np.zeros_like(control))
        trained = local.train(parameters, offset=control - own)
        change = trained.parameters - parameters
        renewed = own - control - change / (trained.n_steps * local.lr)
        memory["control"] = renewed.astype(np.float32)
        return Update(np.stack([change, memory["control"] - own]), trained.n_steps, trained.loss)

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Add the mean change; the control variate is a mean over all parties."""
        stacked = np.stack([update.vectors for update in updates])
        mean: np.ndarray = stacked.mean(axis=0, dtype=np.float64)
        return {
            "parameters": state["parameters"] + self.lr * mean[0],
            "control": state["control"] + mean[1] * (len(updates) / setting.n_parties),
        }


@dataclass(frozen=True)
class FedNova(Strategy):
    """Average directions, not distances: parties that take more steps do not count for more.

    A party's change is divided by ``a_i``, the weight that its ``K`` steps gave to a gradient:
    ``K`` itself for gradient descent, ``(K - m (1 - m^K) / (1 - m)) / (1 - m)`` with momentum
    ``m``. The mean direction is then taken ``sum(p_i a_i)`` times, `p_i` being shares of rows.

    Parameters
    ----------
    lr : float, default=1.0
        The coordinator's step.
    momentum : float, default=0.0
        Momentum of the local optimiser.

    Notes
    -----
    Wang, Liu, Liang, Joshi and Poor, "Tackling the objective inconsistency problem in
    heterogeneous federated optimization", NeurIPS 2020.
    """

    name: ClassVar[str] = "fednova"
    lr: float = 1.0
    momentum: float = 0.0

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Add the mean of normalised changes."""
        total = sum(update.n_rows for update in updates)
        shares = [update.n_rows / total for update in updates]
        steps = [self._gradients(update.n_steps) for update in updates]
        direction = np.zeros_like(state["parameters"])
        for update, share, n in zip(updates, shares, steps, strict=True):
            direction += update.change * (share / n)
        effective = sum(share * n for share, n in zip(shares, steps, strict=True))
        return {"parameters": state["parameters"] + self.lr * effective * direction}

    def _gradients(self, n_steps: int) -> float:
        m = self.momentum
        return (n_steps - m * (1.0 - m**n_steps) / (1.0 - m)) / (1.0 - m)
