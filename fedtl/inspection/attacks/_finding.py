"""What an attack found, beside what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, rankdata

N_RESAMPLES = 200


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Parameters
    ----------
    value : float
        The figure.
    low, high : float
        Bounds of the interval; NaN where there is none.
    """

    value: float
    low: float = np.nan
    high: float = np.nan

    def __str__(self) -> str:
        if np.isnan(self.value):
            return ""
        if np.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f}, {self.high:.3f})"


@dataclass(frozen=True)
class Finding:
    """One attack by one party on one other.

    Parameters
    ----------
    number : str
        Its number in the suite, from "1" to "8".
    attack : str
        Its name.
    attacker, victim : str
        Names of the parties.
    target : str
        What the attacker wants to know.
    metric : str
        What the figures are.
    score : Estimate
        How well it does with what crossed.
    control : Estimate
        How well the attacker does with its own columns alone; NaN if that has no meaning.
    chance : float
        How well somebody does who knows nothing.
    margin : float
        How far the score may lie above what it is compared with.
    against : {"control", "chance"}
        What the score is compared with.
    knows : str
        What the attacker is assumed to know beside what crossed.
    source : str
        The message that the score is made of.
    why : str
        Why the attack does not apply; empty if it does.
    in_use : Estimate
        How well it does with what the fitted model tells in use, whatever protects the fit: a
        part of the model, of rows that it was not trained on; predictions, of the rows that are
        predicted. NaN if that has no meaning.
    """

    number: str
    attack: str
    attacker: str
    victim: str
    target: str
    metric: str = ""
    score: Estimate = Estimate(np.nan)
    control: Estimate = Estimate(np.nan)
    chance: float = np.nan
    margin: float = np.nan
    against: str = "chance"
    knows: str = "nothing"
    source: str = ""
    why: str = ""
    in_use: Estimate = Estimate(np.nan)

    @property
    def applies(self) -> bool:
        """Whether there is a message that it could be tried on."""
        return not self.why

    @property
    def reference(self) -> float:
        """What the score is compared with: chance, or the control where that is more."""
        known = self.against == "control" and not np.isnan(self.control.value)
        return max(self.control.value, self.chance) if known else self.chance

    @property
    def bound(self) -> float:
        """The score that is not to be exceeded.

        It lies `margin` above what the score is compared with, but at most half way to 1: where
        that is near 1, a smaller step towards certainty tells as much.

        Returns
        -------
        float
            The bound.
        """
        return min(self.reference + self.margin, (1.0 + self.reference) / 2.0)

    @property
    def withstood(self) -> bool:
        """Whether the score stays within the bound."""
        return not self.applies or bool(self.score.value <= self.bound)

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        if not self.applies:
            return f"not applicable: {self.why}"
        if not self.withstood:
            return "LEAKS" if not self.score.low <= self.bound else "leaks, within the noise"
        return "withstood" if not self.score.high > self.bound else "withstood, within the noise"


def auc(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each column, ties counted by half.

    Parameters
    ----------
    positive : ndarray of shape (n_rows,), dtype bool
        The rows to be found.
    scores : ndarray of shape (n_rows,) or (n_rows, n_columns)
        Scores.

    Returns
    -------
    ndarray of shape () or (n_columns,), dtype float64
        The areas; NaN if all rows are positive, or none is.
    """
    n_positive = int(positive.sum())
    pairs = n_positive * (len(positive) - n_positive)
    if not pairs:
        return np.full(scores.shape[1:], np.nan)
    ranks = rankdata(scores, axis=0)
    return np.asarray((ranks[positive].sum(axis=0) - n_positive * (n_positive + 1) / 2) / pairs)


def true_positives(positive: np.ndarray, scores: np.ndarray, false_positives: float) -> float:
    """Share of positives that score above all but a share of the negatives.

    Parameters
    ----------
    positive : ndarray of shape (n_rows,), dtype bool
        The rows to be found.
    scores : ndarray of shape (n_rows,), dtype float64
        Scores.
    false_positives : float
        Share of the negatives.

    Returns
    -------
    float
        The share.
    """
    negatives = np.sort(scores[~positive])[::-1]
    threshold = negatives[min(int(false_positives * len(negatives)), len(negatives) - 1)]
    return float(np.mean(scores[positive] > threshold))


def share(found: np.ndarray) -> Estimate:
    """Return the share of rows that were found, with Clopper and Pearson's interval."""
    interval = binomtest(int(found.sum()), len(found)).proportion_ci()
    return Estimate(float(found.mean()), float(interval.low), float(interval.high))


def over_rows(
    statistic: Callable[[np.ndarray], float], n_rows: int, rng: np.random.Generator
) -> Estimate:
    """Return a statistic of rows with its bootstrap interval.

    Parameters
    ----------
    statistic : callable
        From positions of rows to the figure.
    n_rows : int
        Number of rows.
    rng : Generator
        Draws the samples.

    Returns
    -------
    Estimate
        The figure of all rows, and percentiles over samples.
    """
    drawn = [statistic(rng.integers(0, n_rows, n_rows)) for _ in range(N_RESAMPLES)]
    return Estimate(float(statistic(np.arange(n_rows))), *_percentiles(drawn))


def over_draws(values: Sequence[float]) -> Estimate:
    """Return the mean of repeated attacks, and the interval that they spread over."""
    return Estimate(float(np.nanmean(values)), *_percentiles(values))


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
