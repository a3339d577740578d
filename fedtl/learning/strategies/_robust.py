"""Aggregation that a minority of wrong or hostile parties cannot steer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedtl.learning.strategies._contract import Setting, State, Strategy, Update


def _changes(updates: Sequence[Update]) -> np.ndarray:
    return np.stack([update.change for update in updates]).astype(np.float64)


@dataclass(frozen=True)
class Robust(Strategy):
    """What robust rules share: recorded statistics are merged by their median."""

    def merge_buffers(self, buffers: np.ndarray, n_rows: np.ndarray) -> np.ndarray:
        """Take each number's median over parties."""
        return np.asarray(np.median(buffers, axis=0))


@dataclass(frozen=True)
class Median(Robust):
    """Take each parameter's median over parties.

    Notes
    -----
    Yin, Chen, Ramchandran and Bartlett, "Byzantine-robust distributed learning: towards optimal
    statistical rates", ICML 2018. Parties are not weighted by rows, as a hostile party would
    claim many.
    """

    name: ClassVar[str] = "median"

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Add the median change."""
        return {"parameters": state["parameters"] + np.median(_changes(updates), axis=0)}


@dataclass(frozen=True)
class TrimmedMean(Robust):
    """Take each parameter's mean over parties without the highest and the lowest.

    Parameters
    ----------
    hostile : float, default=0.2
        Share of parties that may be wrong: so many are left out at either end.

    Notes
    -----
    Yin, Chen, Ramchandran and Bartlett, "Byzantine-robust distributed learning: towards optimal
    statistical rates", ICML 2018.
    """

    name: ClassVar[str] = "trimmed_mean"
    hostile: float = 0.2

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Add the trimmed mean change."""
        changes = np.sort(_changes(updates), axis=0)
        cut = min(int(self.hostile * len(changes) + 1e-9), (len(changes) - 1) // 2)
        kept = changes[cut : len(changes) - cut]
        return {"parameters": state["parameters"] + kept.mean(axis=0)}


@dataclass(frozen=True)
class MultiKrum(Robust):
    """Average the updates that have the nearest neighbours.

    With ``m`` updates of which ``f`` may be wrong, an update's score is the sum of its squared
    distances to its ``m - f - 2`` nearest others; the ``m - f`` with the lowest scores are
    averaged.

    Parameters
    ----------
    hostile : float, default=0.2
        Share of parties that may be wrong.

    Notes
    -----
    Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine learning with adversaries: Byzantine
    tolerant gradient descent", NeurIPS 2017. Its guarantee needs ``m >= 2 f + 3``.
    """

    name: ClassVar[str] = "multi_krum"
    hostile: float = 0.2

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Add the mean of the selected changes."""
        changes = _changes(updates)
        selected = self._selected(changes)
        return {"parameters": state["parameters"] + changes[selected].mean(axis=0)}

    def _selected(self, changes: np.ndarray) -> np.ndarray:
        m = len(changes)
        f = min(int(self.hostile * m + 1e-9), (m - 1) // 2)
        nearest = max(m - f - 2, 1)
        # From differences, not from inner products: updates that are multiplied by a large
        # number would leave nothing of the small distances in floating point.
        distances = np.stack([np.square(changes - change).sum(axis=1) for change in changes])
        scores = np.sort(distances, axis=1)[:, 1 : 1 + nearest].sum(axis=1)
        return np.sort(np.argsort(scores, kind="stable")[: m - f])
