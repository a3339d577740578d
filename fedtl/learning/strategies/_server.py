"""The coordinator as an adaptive optimiser: the FedOpt family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedtl.learning.strategies._contract import Setting, State, Strategy, Update, weighted_mean


@dataclass(frozen=True)
class FedOpt(Strategy):
    """Take the mean change of the parties as a gradient of an adaptive optimiser.

    At the party it is :class:`FedAvg`. At the coordinator, with the mean change ``d``, the
    momentum is ``m = beta1 m + (1 - beta1) d`` and the parameters move by
    ``lr * m / (sqrt(v) + tau)``; what ``v`` is makes the member of the family. It starts at
    ``tau^2``.

    Parameters
    ----------
    lr : float, default=0.1
        The coordinator's step.
    beta1 : float, default=0.9
        Decay of the momentum.
    beta2 : float, default=0.99
        Decay of the second moment; Adagrad has none.
    tau : float, default=0.001
        Degree of adaptivity: smaller adapts more.

    Notes
    -----
    Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan, "Adaptive federated
    optimization", ICLR 2021.
    """

    averages: ClassVar[bool] = True
    lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def start(self, parameters: np.ndarray) -> State:
        """Start without momentum."""
        n = len(parameters)
        moments = {"momentum": np.zeros(n), "second": np.full(n, self.tau**2)}
        return {**super().start(parameters), **moments}

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Take one step of the optimiser."""
        change = weighted_mean(updates)
        momentum = self.beta1 * state["momentum"] + (1.0 - self.beta1) * change
        second = self._second(state["second"], np.square(change))
        step = momentum / (np.sqrt(second) + self.tau)
        return {
            "parameters": state["parameters"] + self.lr * step,
            "momentum": momentum,
            "second": second,
        }

    @abstractmethod
    def _second(self, second: np.ndarray, squared: np.ndarray) -> np.ndarray:
        """Return the next second moment."""


@dataclass(frozen=True)
class FedAdam(FedOpt):
    """FedOpt with Adam: ``v = beta2 v + (1 - beta2) d^2``; see :class:`FedOpt`."""

    name: ClassVar[str] = "fedadam"

    def _second(self, second: np.ndarray, squared: np.ndarray) -> np.ndarray:
        return self.beta2 * second + (1.0 - self.beta2) * squared


@dataclass(frozen=True)
class FedYogi(FedOpt):
    """FedOpt with Yogi: ``v = v - (1 - beta2) d^2 sign(v - d^2)``; see :class:`FedOpt`."""

    name: ClassVar[str] = "fedyogi"

    def _second(self, second: np.ndarray, squared: np.ndarray) -> np.ndarray:
        return second - (1.0 - self.beta2) * squared * np.sign(second - squared)


@dataclass(frozen=True)
class FedAdagrad(FedOpt):
    """FedOpt with Adagrad: ``v = v + d^2``; see :class:`FedOpt`."""

    name: ClassVar[str] = "fedadagrad"

    def _second(self, second: np.ndarray, squared: np.ndarray) -> np.ndarray:
        return second + squared
