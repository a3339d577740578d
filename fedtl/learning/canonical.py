"""Directions in which two parties' columns agree, found on shared rows without labels.

Canonical correlation analysis [1]_ on the leading principal components of each side. Rows of two
views of the same thing agree in what they have in common, so where labels are few a model on
these few directions, scaled by their correlation, beats one on all columns; where the views
are not redundant it does not, which is why it is only ever one candidate of an average.

References
----------
.. [1] H. Hotelling. Relations between two sets of variates. Biometrika 28, 1936. For its use
   with few labels: S. Kakade, D. Foster. Multi-view regression via canonical correlation
   analysis. COLT 2007.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

N_COMPONENTS = 48


def whitening(gram: np.ndarray, n_components: int = N_COMPONENTS) -> np.ndarray:
    """Return the map to leading principal components of unit variance.

    Parameters
    ----------
    gram : ndarray of shape (1 + width, 1 + width), dtype float64
        Weighted products of columns, a constant one first.
    n_components : int
        How many components are wanted.

    Returns
    -------
    ndarray of shape (1 + width, n_kept), dtype float64
        The map, constant first; components without variance are left out.
    """
    total = max(gram[0, 0], 1e-12)
    mean = gram[0, 1:] / total
    covariance = gram[1:, 1:] / total - np.outer(mean, mean)
    width = len(covariance)
    first = max(width - n_components, 0)
    values, vectors = eigh(covariance, subset_by_index=(first, width - 1), check_finite=False)
    kept = values > 1e-6 * max(values[-1], 1e-12)
    basis = vectors[:, kept] / np.sqrt(values[kept])
    return np.vstack([-mean @ basis, basis])


def canonical_directions(
    own: np.ndarray, other: np.ndarray, products: np.ndarray, total: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides' canonical directions, scaled by their correlation.

    Parameters
    ----------
    own : ndarray of shape (1 + own_width, n_own), dtype float64
        Whitening of the active party's columns.
    other : ndarray of shape (1 + other_width, n_other), dtype float64
        Whitening of the other party's columns.
    products : ndarray of shape (1 + other_width, n_own), dtype float64
        Weighted products of the other party's columns with the active party's components.
    total : float
        Sum of the weights.

    Returns
    -------
    own_directions : ndarray of shape (1 + own_width, n_directions), dtype float64
        Constant first.
    other_directions : ndarray of shape (1 + other_width, n_directions), dtype float64
        Constant first.
    """
    left, correlation, right = np.linalg.svd(other.T @ products / total, full_matrices=False)
    correlation = np.clip(correlation, 0.0, 1.0)
    return own @ right.T * correlation, other @ left * correlation
