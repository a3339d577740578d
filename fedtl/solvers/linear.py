"""A linear model whose columns lie at two parties."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear model on another party's columns and some of the active party's.

    Parameters
    ----------
    other : ndarray of shape (1 + width, n_outputs), dtype float64
        On the other party's columns, a constant one first.
    other_held_out : ndarray of shape (n_folds, 1 + width, n_outputs), dtype float64
        The same, solved without each fold.
    own : ndarray of shape (n_own, n_outputs), dtype float64
        On the active party's columns: the anchor's scores, then its canonical directions.
    own_held_out : ndarray of shape (n_folds, n_own, n_outputs), dtype float64
        The same, solved without each fold.
    constant : ndarray of shape (n_outputs,), dtype float64
        Added at the active party.
    constant_held_out : ndarray of shape (n_folds, n_outputs), dtype float64
        The same, solved without each fold.
    """

    other: np.ndarray
    other_held_out: np.ndarray
    own: np.ndarray
    own_held_out: np.ndarray
    constant: np.ndarray
    constant_held_out: np.ndarray

    def without_folds(self) -> Linear:
        """Return the model as it serves new rows, without the parts that gave the evidence."""
        return replace(
            self,
            other_held_out=self.other_held_out[:0],
            own_held_out=self.own_held_out[:0],
            constant_held_out=self.constant_held_out[:0],
        )
