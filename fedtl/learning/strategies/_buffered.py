"""Rounds that do not wait for the slowest party."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedtl.learning.strategies._contract import Setting, State, Strategy, Update


@dataclass(frozen=True)
class FedBuff(Strategy):
    """Make a new version of the model whenever some updates have come, however old they are.

    Parties train all the time, each from the version that was newest when it began. When
    `buffer` updates have come, the mean of ``change / sqrt(1 + staleness)`` is added; staleness
    counts the versions made since the party began. Updates are not weighted by rows.

    Parameters
    ----------
    lr : float, default=1.0
        The coordinator's step.
    buffer : int, default=5
        Updates that make a new version.

    Notes
    -----
    Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba, "Federated learning with buffered
    asynchronous aggregation", AISTATS 2022.
    """

    name: ClassVar[str] = "fedbuff"
    trains_once: ClassVar[bool] = False
    lr: float = 1.0
    buffer: int = 5

    @property
    def updates_per_version(self) -> int:
        """Updates that make a new version of the model."""
        return self.buffer

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Add the mean of discounted changes."""
        mean = np.zeros_like(state["parameters"])
        for update in updates:
            mean += update.change / (np.sqrt(1.0 + update.staleness) * len(updates))
        return {"parameters": state["parameters"] + self.lr * mean}
