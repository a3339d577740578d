"""A column's distribution told with noise, and an encoding that is fitted to it alone.

An encoding that is fitted to rows moves with each of them, and with it every other row's encoded
values: sums of encoded rows would have no bound that a single row keeps. So it is fitted to made-up
rows, drawn from histograms with noise over cells that are the same for all data.
"""

from __future__ import annotations

import numpy as np

from fedtl.learning.columns import Columns
from fedtl.privacy.noise import gaussian

_MAGNITUDES = 2.0 ** (np.arange(-40, 161) / 4)
EDGES = np.concatenate([-_MAGNITUDES[::-1], _MAGNITUDES])
"""Four cells for each doubling, from a thousandth to a million million, on both sides of zero."""

_N_ROWS = 4000
_SEEN = 4.0


def histograms(numbers: np.ndarray, noise: float) -> np.ndarray:
    """Count the values of each column, with noise.

    Parameters
    ----------
    numbers : ndarray of shape (n_rows, n_columns), dtype float64
        A row counts once for each of its columns; values beyond the last cells count there.
    noise : float
        Standard deviation of the noise of a count.

    Returns
    -------
    ndarray of shape (n_columns, n_cells + 1), dtype float64
        The counts; the last is of missing values.
    """
    n_cells = len(EDGES) - 1
    cells = np.clip(np.searchsorted(EDGES, numbers, side="right") - 1, 0, n_cells - 1)
    cells = np.where(np.isnan(numbers), n_cells, cells)
    counts = np.stack([np.bincount(column, minlength=n_cells + 1) for column in cells.T])
    return counts + noise * gaussian(counts.shape)


def made_up_rows(counts: np.ndarray, noise: float, seed: int) -> Columns:
    """Draw rows, each column by itself, from counts with noise.

    Parameters
    ----------
    counts : ndarray of shape (n_columns, n_cells + 1), dtype float64
        From :func:`histograms`.
    noise : float
        Standard deviation of their noise; counts below four times that are left out.
    seed : int
        Seed of the drawing.

    Returns
    -------
    Columns
        Rows; a column of which nothing was seen is missing in all of them.
    """
    rng = np.random.default_rng(seed)
    columns = []
    for of_column in counts:
        kept = np.where(of_column > _SEEN * noise, of_column, 0.0)
        if not kept.any():
            columns.append(np.full(_N_ROWS, np.nan))
            continue
        cells = rng.choice(len(kept), size=_N_ROWS, p=kept / kept.sum())
        seen = np.minimum(cells, len(EDGES) - 2)
        values = rng.uniform(EDGES[seen], EDGES[seen + 1])
        columns.append(np.where(cells == len(kept) - 1, np.nan, values))
    return Columns(np.column_stack(columns), np.empty((_N_ROWS, 0), dtype=object))
