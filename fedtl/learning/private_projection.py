"""Latents of bounded norm, along directions that were found from sums with noise alone.

Noise that hides a row is as large as the bound of its latents, in each of them: few of them, of the
same size, say most beside it. So they are leading principal directions, scaled to a variance of
about one, whatever the columns; which directions tell of a label is not known to the party.
"""

from __future__ import annotations

import numpy as np

_CLIP = 0.8
_PENALTY = 1.0


class ClippedProjection:
    """A linear map of encoded rows to latents of bounded norm.

    Parameters
    ----------
    second_moments : ndarray of shape (width, width), dtype float64
        Mean products of encoded columns, with noise; symmetric.
    n_components : int
        Number of latents at most.

    Attributes
    ----------
    weights : ndarray of shape (width, n_components), dtype float64
        The map before rows are cut to the bound.
    bound : float
        No latents have a larger Euclidean norm, whatever the row.
    """

    def __init__(self, second_moments: np.ndarray, n_components: int) -> None:
        values, vectors = np.linalg.eigh(second_moments)
        kept = slice(-min(n_components, len(values)), None)
        scale = 1.0 / np.sqrt(np.maximum(values[kept], 0.0) + _PENALTY)
        self.weights = vectors[:, kept] * scale
        self.bound = _CLIP * float(np.sqrt(self.weights.shape[1]))

    def scores(self, encoded: np.ndarray) -> np.ndarray:
        """Map encoded rows: (n, width) to (n, n_components), both in float64."""
        return within(encoded @ self.weights, self.bound)


def within(values: np.ndarray, bound: float) -> np.ndarray:
    """Shorten rows that are longer than a bound.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns), dtype float64
        Rows.
    bound : float
        Of their Euclidean norm.

    Returns
    -------
    ndarray of shape (n_rows, n_columns), dtype float64
        Rows in the same directions.
    """
    norms = np.sqrt(np.square(values).sum(axis=1, keepdims=True))
    return np.asarray(values * np.minimum(1.0, bound / np.maximum(norms, 1e-300)))
