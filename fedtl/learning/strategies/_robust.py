"""Aggregation that a minority of wrong or hostile parties cannot steer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedtl.learning.strategies._contract import Setting, State, Strategy, Update


def _changes(updates: Sequence[Update]) -> np.ndarray:
    return np.stack([update.change for update in updates]).astype(np.float64)


def _squared_distances(changes: np.ndarray) -> np.ndarray:
    # From differences, not from inner products: updates that are multiplied by a large number
    # would leave nothing of the small distances in floating point.
    return np.stack([np.square(changes - change).sum(axis=1) for change in changes])


@dataclass(frozen=True)
class Robust(Strategy):
    """What robust rules share: recorded statistics are merged by their median.

    Parameters
    ----------
    hostile : float, default=0.2
        Share of parties that may be wrong.
    """

    hostile: float = 0.2

    def merge_buffers(self, buffers: np.ndarray, n_rows: np.ndarray) -> np.ndarray:
        """Take each number's median over parties."""
        return np.asarray(np.median(buffers, axis=0))

    def _n_hostile(self, m: int) -> int:
        """Return how many of `m` parties may be wrong: fewer than half."""
        return min(int(self.hostile * m + 1e-9), (m - 1) // 2)


@dataclass(frozen=True)
class CoordinateWise(Robust):
    """Rules that look at each parameter by itself.

    By themselves they take what is unusual for hostile: a weight that only the two parties with
    a rare label would move never moves, and where parties differ, what is in the middle lags
    behind the mean in all parameters at once. So each update is first replaced by the mean of the
    ``m - f`` updates nearest to it, itself among them, when ``f`` of ``m`` parties may be wrong.

    Parameters
    ----------
    hostile : float, default=0.2
        Share of parties that may be wrong.
    mixing : bool, default=True
        Whether updates are mixed with their nearest neighbours first; without it, the rules are
        those of Yin et al.

    Notes
    -----
    Yin, Chen, Ramchandran and Bartlett, "Byzantine-robust distributed learning: towards optimal
    statistical rates", ICML 2018; nearest-neighbour mixing: Allouah, Farhadkhani, Guerraoui,
    Gupta, Pinot and Stephan, "Fixing by mixing: a recipe for optimal Byzantine ML under
    heterogeneity", AISTATS 2023. Parties are not weighted by rows, as a hostile party would
    claim many.
    """

    mixing: bool = True

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Add the change that is in the middle."""
        changes = _changes(updates)
        f = self._n_hostile(len(changes))
        if self.mixing and f:
            order = np.argsort(_squared_distances(changes), axis=1, kind="stable")
            changes = np.stack(
                [changes[near].mean(axis=0) for near in order[:, : len(changes) - f]]
            )
        return {"parameters": state["parameters"] + self._middle(changes, f)}

    @abstractmethod
    def _middle(self, changes: np.ndarray, f: int) -> np.ndarray:
        """Return the middle of each parameter's changes."""


@dataclass(frozen=True)
class Median(CoordinateWise):
    """Take each parameter's median over parties; see :class:`CoordinateWise`."""

    name: ClassVar[str] = "median"

    def _middle(self, changes: np.ndarray, f: int) -> np.ndarray:
        return np.asarray(np.median(changes, axis=0))


@dataclass(frozen=True)
class TrimmedMean(CoordinateWise):
    """Take each parameter's mean over parties without the `f` highest and the `f` lowest.

    See :class:`CoordinateWise`.
    """

    name: ClassVar[str] = "trimmed_mean"

    def _middle(self, changes: np.ndarray, f: int) -> np.ndarray:
        return np.asarray(np.sort(changes, axis=0)[f : len(changes) - f].mean(axis=0))


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

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Add the mean of the selected changes."""
        changes = _changes(updates)
        selected = self._selected(changes)
        return {"parameters": state["parameters"] + changes[selected].mean(axis=0)}

    def _selected(self, changes: np.ndarray) -> np.ndarray:
        m = len(changes)
        f = self._n_hostile(m)
        nearest = max(m - f - 2, 1)
        scores = np.sort(_squared_distances(changes), axis=1)[:, 1 : 1 + nearest].sum(axis=1)
        return np.sort(np.argsort(scores, kind="stable")[: m - f])
