"""The rows of a party that shares its columns, not its rows, with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtl.learning.targets import is_missing


@dataclass(frozen=True, eq=False)
class Rows:
    """What a party holds in row-wise federation: rows of its own, with their targets.

    A :class:`PartyService` holds it as its table. Columns and classes mean the same at all
    parties: that is agreed on before anything is asked.

    Parameters
    ----------
    X : ndarray of shape (n_rows, ...) or dataframe of shape (n_rows, n_columns)
        The rows.
    y : ndarray of shape (n_rows,) or (n_rows, n_outputs) or None, default=None
        Their targets: numbers, or classes by their position among all classes.
    sample_weight : ndarray of shape (n_rows,), dtype float64, or None, default=None
        Their weights; None if all weigh the same.

    Raises
    ------
    ValueError
        If the lengths differ.

    Examples
    --------
    >>> import numpy as np
    >>> from fedtl.parties import Rows
    >>> rows = Rows(np.zeros((3, 2)), np.array([0.0, 1.0, np.nan]))
    >>> len(rows), rows.labeled.tolist(), rows.weight.tolist()
    (3, [True, True, False], [1.0, 1.0, 1.0])
    """

    X: Any
    y: np.ndarray | None = None
    sample_weight: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, values in (("y", self.y), ("sample_weight", self.sample_weight)):
            if values is not None and len(values) != len(self):
                raise ValueError(f"X has {len(self)} rows and {name} has {len(values)}")

    def __len__(self) -> int:
        return int(self.X.shape[0]) if hasattr(self.X, "shape") else len(self.X)

    @property
    def labeled(self) -> np.ndarray:
        """Which rows have a target, in all outputs: (n_rows,), bool."""
        if self.y is None:
            return np.zeros(len(self), dtype=bool)
        y = self.y.reshape(len(self), -1)
        if y.dtype.kind == "O":
            missing = is_missing(y.ravel()).reshape(y.shape)
        elif y.dtype.kind == "f":
            missing = np.isnan(y)
        else:
            missing = np.zeros(y.shape, dtype=bool)
        return np.asarray(~missing.any(axis=1))

    @property
    def targets(self) -> np.ndarray:
        """The targets, where there have to be any: (n_rows,) or (n_rows, n_outputs)."""
        if self.y is None:
            raise ValueError("the rows have no targets")
        return self.y

    @property
    def weight(self) -> np.ndarray:
        """The weights, ones where none were given: (n_rows,), float64."""
        return np.ones(len(self)) if self.sample_weight is None else self.sample_weight
