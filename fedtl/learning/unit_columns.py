"""An encoding as weights that are mostly zeros and ones, and the linear map from them to columns.

What a party's encoding puts out are scaled, shifted and perhaps rotated codes of zeros, ones and
fractions. Encrypted numbers are multiplied by such codes far faster than by the columns.
"""

from __future__ import annotations

import numpy as np

from fedtl.learning.encoding import Encoding


class UnitColumns:
    """Weights of rows, with a constant one first; over the rows given they lie between 0 and 1.

    Parameters
    ----------
    expanded : ndarray of shape (n_rows, n_expanded), dtype float64
        Rows as :meth:`fedtl.learning.encoding.Encoding.expand` returns them.
    bits : int
        Bits of a fraction; one is ``2**bits``.
    """

    rotated = False

    def __init__(self, expanded: np.ndarray, bits: int) -> None:
        n_expanded = expanded.shape[1]
        self.bits = bits
        self.low = expanded.min(axis=0, initial=np.inf) if len(expanded) else np.zeros(n_expanded)
        high = expanded.max(axis=0) if len(expanded) else self.low
        self.span = high - self.low

    def integers(self, expanded: np.ndarray) -> np.ndarray:
        """Return the weights of expanded rows: (n_rows, 1 + n_expanded), int64."""
        share = (expanded - self.low) / np.where(self.span > 0, self.span, 1.0)
        weights = np.hstack([np.ones((len(expanded), 1)), share])
        return np.asarray(np.rint(weights * 2.0**self.bits).astype(np.int64))

    def matrix(self, encoding: Encoding, bits: int) -> np.ndarray:
        """Return the map to columns, times ``2**bits``: (1 + n_expanded, width), int64."""
        rotation, shift = encoding.rotation
        whole = np.vstack([self.low @ rotation + shift, self.span[:, None] * rotation])
        return np.asarray(np.rint(whole * 2.0**bits).astype(np.int64))
