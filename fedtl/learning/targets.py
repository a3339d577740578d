"""Targets and their markers."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_unlabeled(y: np.ndarray, marker: Any) -> np.ndarray:
    """Return which entries are the marker of an unlabelled row.

    Parameters
    ----------
    y : ndarray of shape (n_rows,)
        Targets.
    marker : object
        The marker; None for none, NaN marks NaN.

    Returns
    -------
    ndarray of shape (n_rows,), dtype bool
        True where a row is unlabelled.
    """
    if marker is None:
        return np.zeros(len(y), dtype=bool)
    if is_missing(np.array([marker, None], dtype=object)[:1])[0]:
        return is_missing(y.astype(object))
    return np.asarray([v == marker for v in y.tolist()], dtype=bool)


def is_missing(values: np.ndarray) -> np.ndarray:
    """Return which entries of an object array are None, NaN, NaT or pandas.NA.

    Parameters
    ----------
    values : ndarray of shape (n,), dtype object
        Any values.

    Returns
    -------
    ndarray of shape (n,), dtype bool
        True where a value is missing.
    """
    return np.asarray([v is None or _differs_from_itself(v) for v in values], dtype=bool)


def _differs_from_itself(value: Any) -> bool:
    # NaN and NaT do; pandas.NA answers neither yes nor no.
    same = value == value  # noqa: PLR0124
    return same is not True and not (isinstance(same, np.bool_) and bool(same))
