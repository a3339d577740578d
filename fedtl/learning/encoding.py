"""How a party encodes its own columns for linear models and small networks.

Numbers are mapped to normal quantiles and scaled, categories are one-hot; on top of that, each
number is given a piecewise-linear encoding [1]_ over its own quantiles, which lets a linear model
bend. A column with one very frequent value (a zero-inflated amount, say) has that value taken out
of its quantiles and marked with an indicator of its own: plain quantile bins would collapse.

References
----------
.. [1] Y. Gorishniy, I. Rubachev, A. Babenko. On embeddings for numerical features in tabular
   deep learning. NeurIPS 2022.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import QuantileTransformer

from fedtl.learning.columns import Columns

_FREQUENT = 0.15
_FARTHEST = 5.0


class PiecewiseLinear:
    """Zero-safe piecewise-linear encoding of numeric columns.

    Parameters
    ----------
    n_bins : int
        Number of quantile bins of a column.
    """

    def __init__(self, n_bins: int) -> None:
        self.n_bins = n_bins

    def fit(self, numbers: np.ndarray) -> PiecewiseLinear:
        """Find the bins of ``numbers``, of shape (n_rows, n_columns); NaN is left out."""
        self.columns_ = [self._bins(x[~np.isnan(x)]) for x in numbers.T]
        return self

    def _bins(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """Return a column's bin edges and its over-frequent value (NaN if it has none)."""
        values, counts = np.unique(x, return_counts=True)
        if len(values) <= 2:
            return np.empty(0), np.nan
        frequent = np.nan
        if counts.max() > _FREQUENT * len(x):
            frequent = float(values[counts.argmax()])
            x = x[x != frequent]
        if len(values) <= self.n_bins + 1:
            edges = values
        else:
            edges = np.quantile(x, np.linspace(0, 1, self.n_bins + 1))
        return np.unique(np.append(edges, [] if np.isnan(frequent) else frequent)), frequent

    def transform(self, numbers: np.ndarray) -> np.ndarray:
        """Return the encoding, of shape (n_rows, n_encoded); a missing value is all NaN."""
        parts = []
        for x, (edges, frequent) in zip(numbers.T, self.columns_, strict=True):
            if len(edges) > 1:
                parts.append(np.clip((x[:, None] - edges[:-1]) / np.diff(edges), 0.0, 1.0))
            if not np.isnan(frequent):
                parts.append(np.where(np.isnan(x), np.nan, x == frequent)[:, None])
        return np.hstack(parts) if parts else np.empty((len(numbers), 0))


def _spans(numbers: np.ndarray) -> np.ndarray:
    """Where most of each column lies, without a few that are far out: (2, n_columns)."""
    if not numbers.size:
        return np.stack([np.zeros(numbers.shape[1]), np.ones(numbers.shape[1])])
    least, low, high, most = np.nanpercentile(numbers, [0, 1, 99, 100], axis=0)
    narrow = low == high
    low, high = np.where(narrow, least, low), np.where(narrow, most, high)
    with np.errstate(over="ignore"):
        width = high - low
    return np.stack([low, np.where((width > 0) & np.isfinite(width), width, 1.0)])


class Encoding:
    """A party's encoding, fitted on all its own rows, without labels.

    Parameters
    ----------
    n_bins : int
        Bins of the piecewise-linear part; 0 leaves it out.
    max_width : int
        A wider encoding is rotated to its first `max_width` principal components, so that
        second moments stay small enough to send.
    scaled : bool, default=True
        Whether numbers go through quantile scaling; features of a pretrained network do not.
    rotated : bool, default=False
        Whether a narrower encoding is rotated too, so that none of its columns is told as it is.
    random_state : int, default=0
        Seed of the subsampling inside the quantile scaling and of the rotation.
    """

    def __init__(
        self,
        n_bins: int,
        max_width: int,
        scaled: bool = True,
        rotated: bool = False,
        random_state: int = 0,
    ) -> None:
        self.n_bins = n_bins
        self.max_width = max_width
        self.scaled = scaled
        self.rotated = rotated
        self.random_state = random_state

    def fit(self, columns: Columns) -> Encoding:
        """Fit on the rows that the party knows.

        Parameters
        ----------
        columns : Columns
            The party's rows; missing values inside a row are allowed.

        Returns
        -------
        Encoding
            The object itself.
        """
        self._fit_base(columns)
        self.piecewise_ = PiecewiseLinear(self.n_bins if self.scaled else 0)
        self.piecewise_.fit(columns.numbers if self.piecewise_.n_bins else columns.numbers[:, :0])
        unscaled = self._unscaled(columns)
        self.mean_ = np.nanmean(unscaled, axis=0) if unscaled.size else np.zeros(unscaled.shape[1])
        spread = np.nanstd(unscaled, axis=0) if unscaled.size else np.zeros(unscaled.shape[1])
        # Slightly damped, so that a nearly empty bin is not blown up to unit variance.
        self.scale_ = np.where(spread > 1e-9, spread + 1e-2, np.inf)
        self.rotation_ = None
        if (self.rotated or len(self.mean_) > self.max_width) and len(columns) > 1:
            self.rotation_ = PCA(
                min(self.max_width, len(columns), len(self.mean_)),
                svd_solver="covariance_eigh",
                random_state=self.random_state,
            ).fit(self.expand(columns))
        return self

    def _fit_base(self, columns: Columns) -> None:
        n = len(columns)
        # A column without any value says nothing; as a constant it drops out by itself.
        self.empty_ = np.isnan(columns.numbers).all(axis=0)
        numbers = np.where(self.empty_, 0.0, columns.numbers)
        self.span_ = _spans(numbers)
        self.quantiles_ = None
        # Well fewer quantiles than rows: the fitted encoding must not hold the column itself.
        if self.scaled and numbers.shape[1]:
            self.quantiles_ = QuantileTransformer(
                n_quantiles=max(min(n, 10), min(500, n // 4)),
                output_distribution="normal",
                subsample=20_000,
                random_state=self.random_state,
            ).fit(numbers)
        self.with_holes_ = np.isnan(numbers).any(axis=0)
        # Categories of few rows share a column and are not kept: one of them may be a name.
        few = max(2, min(50, n // 100))
        counts = [Counter(column) for column in columns.categories.T.tolist()]
        self.categories_ = [
            sorted(v for v, count in counter.items() if v is not None and count >= few)
            for counter in counts
        ]

    def base(self, columns: Columns) -> np.ndarray:
        """Return scaled numbers (NaN where missing), indicators of missing values and one-hots.

        Parameters
        ----------
        columns : Columns
            Rows of this party.

        Returns
        -------
        ndarray of shape (n_rows, n_base), dtype float64
            Scaled by their quantiles, if they are scaled.
        """
        numbers = np.where(self.empty_, 0.0, columns.numbers)
        if self.quantiles_ is not None:
            numbers = np.clip(self.quantiles_.transform(numbers), -3.0, 3.0)
        return self._with_categories(numbers, columns)

    def plain(self, columns: Columns) -> np.ndarray:
        """Return what trees are given: as :meth:`base`, but with numbers in proportion.

        Randomised thresholds are drawn between the ends of a column, so that its shape matters:
        quantile scaling pulls the most frequent values to the ends.

        Parameters
        ----------
        columns : Columns
            Rows of this party.

        Returns
        -------
        ndarray of shape (n_rows, n_base), dtype float64
            Numbers between -1 and 2, most of them between 0 and 1.
        """
        low, width = self.span_
        numbers = np.where(self.empty_, 0.0, columns.numbers)
        with np.errstate(over="ignore"):
            scaled = np.clip((numbers - low) / width, -1.0, 2.0)
        return self._with_categories(scaled, columns)

    def _with_categories(self, numbers: np.ndarray, columns: Columns) -> np.ndarray:
        parts = [numbers, np.isnan(numbers[:, self.with_holes_]).astype(np.float64)]
        for column, categories in zip(columns.categories.T, self.categories_, strict=True):
            one_hot = column[:, None] == np.array(categories, dtype=object)
            present = column != np.array(None, dtype=object)
            rare = present & ~one_hot.any(axis=1)
            parts += [one_hot.astype(np.float64), np.column_stack([rare, ~present]).astype(float)]
        return np.hstack(parts)

    def _unscaled(self, columns: Columns) -> np.ndarray:
        return np.hstack(
            [
                self.base(columns),
                self.piecewise_.transform(columns.numbers)
                if self.piecewise_.columns_
                else np.empty((len(columns), 0)),
            ]
        )

    def expand(self, columns: Columns) -> np.ndarray:
        """Return the encoded rows before rotation: mostly two values a column.

        Parameters
        ----------
        columns : Columns
            Rows of this party.

        Returns
        -------
        ndarray of shape (n_rows, n_expanded), dtype float64
            Scaled columns.
        """
        scaled = (self._unscaled(columns) - self.mean_) / self.scale_
        return np.clip(np.nan_to_num(scaled, copy=False), -_FARTHEST, _FARTHEST)

    def transform(self, columns: Columns) -> np.ndarray:
        """Return the encoded rows.

        Parameters
        ----------
        columns : Columns
            Rows of this party; a missing value becomes the column's mean.

        Returns
        -------
        ndarray of shape (n_rows, width), dtype float64
            Columns of mean about 0 and variance about 1 over the party's own rows.
        """
        expanded = self.expand(columns)
        if self.rotation_ is None:
            return expanded
        return np.asarray(self.rotation_.transform(expanded))

    @property
    def rotation(self) -> tuple[np.ndarray, np.ndarray]:
        """The linear map, and the shift after it, from :meth:`expand` to :meth:`transform`."""
        if self.rotation_ is None:
            return np.eye(len(self.mean_)), np.zeros(len(self.mean_))
        components = self.rotation_.components_
        return components.T, -self.rotation_.mean_ @ components.T

    @property
    def bound(self) -> float:
        """What no encoded value exceeds, in absolute value, whatever the rows."""
        if self.rotation_ is None:
            return _FARTHEST
        return 2.0 * _FARTHEST * float(np.sqrt(len(self.mean_)))

    @property
    def width(self) -> int:
        """Number of encoded columns."""
        return len(self.mean_) if self.rotation_ is None else int(self.rotation_.n_components_)
