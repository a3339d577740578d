"""One party's block of columns, whatever frame it came in, as numbers and categories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np

from fedtl.learning.targets import is_missing


@dataclass(frozen=True, eq=False)
class Columns:
    """A block of columns split by kind.

    Parameters
    ----------
    numbers : ndarray of shape (n_rows, n_numbers), dtype float64
        Numeric columns; NaN where a value is missing.
    categories : ndarray of shape (n_rows, n_categories), dtype object
        Everything else as text; None where a value is missing.
    """

    numbers: np.ndarray
    categories: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Any) -> Columns:
        return Columns(self.numbers[rows], self.categories[rows])

    @property
    def width(self) -> int:
        """Number of columns of both kinds."""
        return int(self.numbers.shape[1] + self.categories.shape[1])

    def known(self) -> np.ndarray:
        """Return which rows have at least one value: a bool array of shape (n_rows,)."""
        known = ~np.isnan(self.numbers).all(axis=1) if self.numbers.shape[1] else False
        if self.categories.shape[1]:
            known = known | (self.categories != None).any(axis=1)  # noqa: E711
        return np.broadcast_to(known, len(self)).copy()


def as_columns(block: Any) -> Columns:
    """Split a block by the kind of its columns.

    Parameters
    ----------
    block : ndarray or dataframe of shape (n_rows, n_columns)
        Numbers, booleans, categories or text, in any mixture in an object array, pandas or
        polars frame.

    Returns
    -------
    Columns
        Numbers as float64, the rest as text.
    """
    if isinstance(block, np.ndarray) and block.dtype.kind != "O":
        numbers = np.asarray(block, dtype=np.float64)
        return Columns(numbers, np.empty((len(numbers), 0), dtype=object))
    parts = _array_columns(block) if isinstance(block, np.ndarray) else _frame_columns(block)
    numbers_: list[np.ndarray] = []
    categories_: list[np.ndarray] = []
    for values, numeric in parts:
        (numbers_ if numeric else categories_).append(values)
    n = len(block)
    return Columns(
        np.column_stack(numbers_) if numbers_ else np.empty((n, 0)),
        np.column_stack(categories_) if categories_ else np.empty((n, 0), dtype=object),
    )


def _frame_columns(frame: Any) -> list[tuple[np.ndarray, bool]]:
    parts = []
    for column in nw.from_native(frame, eager_only=True).iter_columns():
        if column.dtype.is_numeric() or column.dtype == nw.Boolean:
            values = column.cast(nw.Float64).to_numpy().astype(np.float64)
            parts.append((values, True))
        else:
            parts.append(_numbers_or_text(np.asarray(column.to_list(), dtype=object)))
    return parts


def _array_columns(array: np.ndarray) -> list[tuple[np.ndarray, bool]]:
    return [_numbers_or_text(array[:, j]) for j in range(array.shape[1])]


def _numbers_or_text(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Object columns of numbers are numbers; anything else is text, with None for missing."""
    missing = is_missing(values)
    if all(isinstance(v, int | float | np.number | np.bool_) for v in values[~missing]):
        numbers = np.full(len(values), np.nan)
        numbers[~missing] = values[~missing].astype(np.float64)
        return numbers, True
    text = np.array([None if m else str(v) for v, m in zip(values, missing, strict=True)], object)
    return text, False
