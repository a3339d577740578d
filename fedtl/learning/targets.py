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
    if isinstance(marker, float) and np.isnan(marker):
        return np.array([isinstance(v, float | np.floating) and bool(np.isnan(v)) for v in y], bool)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.fromiter((v == marker for v in y.tolist()), bool, len(y)))
