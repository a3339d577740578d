"""One party's block of columns, whatever frame it came in, as numbers and categories."""

from __future__ import annotations

from collections.abc import Sequence
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


def as_columns(block: Any, numeric: Sequence[bool] | None = None) -> Columns:
    """Split a block by the kind of its columns.

    Parameters
    ----------
    block : ndarray or dataframe of shape (n_rows, n_columns)
        Numbers, booleans, categories or text, in any mixture in an object array, pandas or
        polars frame.
    numeric : sequence of bool, optional
        Which columns are numbers, as :func:`numeric_columns` found for earlier rows. By default
        it is found for these.

    Returns
    -------
    Columns
        Numbers as float64, the rest as text.

    Raises
    ------
    ValueError
        If a column that is numeric holds text.
    """
    if isinstance(block, np.ndarray) and block.dtype.kind in "fiub" and numeric is None:
        numbers = np.asarray(block, dtype=np.float64)
        return Columns(numbers, np.empty((len(numbers), 0), dtype=object))
    columns = _raw_columns(block)
    if numeric is None:
        numeric = [_is_numeric(column) for column in columns]
    if len(numeric) != len(columns):
        raise ValueError(f"expected {len(numeric)} columns, got {len(columns)}")
    numbers_ = [_to_numbers(c) for c, is_number in zip(columns, numeric, strict=True) if is_number]
    texts = [_to_text(c) for c, is_number in zip(columns, numeric, strict=True) if not is_number]
    n = len(block)
    return Columns(
        np.column_stack(numbers_) if numbers_ else np.empty((n, 0)),
        np.column_stack(texts) if texts else np.empty((n, 0), dtype=object),
    )


def numeric_columns(block: Any) -> tuple[bool, ...]:
    """Return which columns of a block hold numbers or nothing, one bool for each."""
    return tuple(_is_numeric(column) for column in _raw_columns(block))


def _raw_columns(block: Any) -> list[np.ndarray]:
    """Each column as a numeric array if its type says so, as an object array otherwise."""
    if isinstance(block, np.ndarray):
        return [block[:, j] for j in range(block.shape[1])]
    raw = []
    for column in nw.from_native(block, eager_only=True).iter_columns():
        if column.dtype.is_numeric() or column.dtype == nw.Boolean:
            raw.append(column.cast(nw.Float64).to_numpy().astype(np.float64))
        else:
            raw.append(np.array([*column.to_list(), None], dtype=object)[:-1])
    return raw


def _is_numeric(column: np.ndarray) -> bool:
    if column.dtype.kind in "fiub":
        return True
    present = column[~is_missing(column)]
    return all(isinstance(v, int | float | np.number | np.bool_) for v in present)


def _to_numbers(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind in "fiub":
        return column.astype(np.float64)
    numbers = np.full(len(column), np.nan)
    present = ~is_missing(column)
    try:
        numbers[present] = column[present].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a column of numbers holds something else: {error}") from None
    return numbers


def _to_text(column: np.ndarray) -> np.ndarray:
    missing = np.isnan(column) if column.dtype.kind == "f" else is_missing(column)
    text = [None if m else str(v) for v, m in zip(column.tolist(), missing, strict=True)]
    return np.array([*text, None], dtype=object)[:-1]
