"""What is to be learnt: targets, who knows which row, and the folds of the held-out evidence."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedtl.learning.evidence import deal_folds

ACTIVE = 0


@dataclass(frozen=True, eq=False)
class Problem:
    """A learning problem over parties.

    Parameters
    ----------
    task : {"binary", "multiclass", "regression"}
        What the target is.
    target : ndarray of shape (n_rows, n_outputs), dtype float64
        1 for the positive class, one-hot classes, or standardised real targets; zero where a row
        has no label.
    labeled : ndarray of shape (n_rows,), dtype bool
        Which rows have a label.
    weight : ndarray of shape (n_rows,), dtype float64
        Row weights.
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Which party knows which row; the active party first.
    n_folds : int
        Number of folds.
    seed : int
        Seed of everything that is drawn.
    fold_seed : int, optional
        Seed of the folds, if they are those of an earlier fit: networks that are trained on must
        be judged on the labels that they never saw.
    """

    task: str
    target: np.ndarray
    labeled: np.ndarray
    weight: np.ndarray
    known: np.ndarray
    n_folds: int
    seed: int
    fold_seed: int | None = None
    folds: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed if self.fold_seed is None else self.fold_seed, 1])
        rows = np.flatnonzero(self.labeled)
        folds = np.zeros(len(self.labeled), dtype=np.uint8)
        patterns = self.known[rows] @ (1 << np.arange(self.n_parties))
        folds[rows] = deal_folds(patterns, self.order[rows], self.n_folds, rng)
        object.__setattr__(self, "folds", folds)

    @property
    def n_parties(self) -> int:
        """Number of parties."""
        return int(self.known.shape[1])

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return int(self.target.shape[1])

    @property
    def order(self) -> np.ndarray:
        """The target as one number a row: class index or real target, of shape (n_rows,)."""
        if self.task == "multiclass":
            return np.asarray(self.target.argmax(axis=1))
        return np.asarray(self.target[:, 0])

    def rows(self, *parties: int, labeled: bool = True) -> np.ndarray:
        """Return the positions of rows that all these parties know, labelled ones by default."""
        rows = self.known[:, list(parties)].all(axis=1)
        return np.flatnonzero(rows & self.labeled if labeled else rows)
