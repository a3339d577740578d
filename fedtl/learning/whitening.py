"""A party's own features for a layer that is trained from elsewhere: few, and of known size.

The layer is linear, and its gradient is a sum over rows. Whitened by the party itself, features
make one such sum as good as a ridge regression, so that one exchange is enough. No labels are
needed.
"""

from __future__ import annotations

import numpy as np

_PENALTY = 1.0
_ROWS_A_FEATURE = 8


class Whitening:
    """Leading principal components of a party's encoding, shrunk and scaled.

    For features ``f`` of the rows that a layer is trained on, ``f @ f.T`` is the hat matrix of a
    ridge regression, but for rows that the party knows beside them.

    Parameters
    ----------
    encoded : ndarray of shape (n_own, width), dtype float64
        All rows that the party knows.
    n_rows : int
        Rows that the layer is trained on.

    Attributes
    ----------
    bound : float
        No row's features have a larger Euclidean norm, among the rows given. It follows from
        numbers of rows alone.
    """

    def __init__(self, encoded: np.ndarray, n_rows: int) -> None:
        n_own = len(encoded)
        self.mean = encoded.mean(axis=0)
        centered = encoded - self.mean
        variances, directions = np.linalg.eigh(centered.T @ centered / n_own)
        kept = slice(-self.n_features_for(n_rows, encoded.shape[1]), None)
        scale = 1.0 / np.sqrt((np.maximum(variances[kept], 0.0) + _PENALTY) * n_rows)
        self.projection = directions[:, kept] * scale
        self.bound = float(np.sqrt(n_own / n_rows))

    @staticmethod
    def n_features_for(n_rows: int, width: int) -> int:
        """Return the number of features: well fewer than rows, which sums must not give away."""
        return min(width, n_rows // _ROWS_A_FEATURE)

    def transform(self, encoded: np.ndarray) -> np.ndarray:
        """Map encoded rows (n, width) to features (n, n_features), both in float64."""
        return np.asarray((encoded - self.mean) @ self.projection)
