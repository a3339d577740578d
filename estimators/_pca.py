"""Principal components of rows that belong to several parties."""

from __future__ import annotations

from math import ceil
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from scipy.linalg import eigh
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, RealNotInt
from sklearn.utils.validation import check_is_fitted

from fedtl.estimators._exact import PRIVACY, ExactModel
from fedtl.learning.pooled import Products, merge_products
from fedtl.learning.steps import Project


class FederatedPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ExactModel):
    """Principal components of the rows of several parties, in one round.

    Each party answers with sums of products over its rows. Components and variances are those of
    :class:`~sklearn.decomposition.PCA` on the pooled rows.

    Parameters
    ----------
    n_components : int, float or None, default=None
        How many components to keep; a number below 1 for as many as explain that share of the
        variance; None for the smaller number of rows and columns.
    whiten : bool, default=False
        Whether to divide what comes out by the standard deviations of the components.
    party : str, int or None, default=None
        Name or position of a column of X that says whose row is whose, and is no feature.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process; with a `Federation`, X
        has this party's own rows only, and what is fitted on the output has the parties do the same
        with theirs, if that is a pandas dataframe (``set_output``).
    privacy : {"auto", "none"} or SecureAggregation, default="auto"
        Whether each party's sums are seen, or their totals over all parties only, of which there
        have to be three at least. "auto" hides those of remote parties.

    Attributes
    ----------
    components_ : ndarray of shape (n_components_, n_features), dtype float64
        The components, each with its largest coefficient positive, as in scikit-learn.
    explained_variance_ : ndarray of shape (n_components_,), dtype float64
        Their variances.
    explained_variance_ratio_ : ndarray of shape (n_components_,), dtype float64
        Their shares of the total variance.
    singular_values_ : ndarray of shape (n_components_,), dtype float64
        Singular values of the centred rows.
    mean_ : ndarray of shape (n_features,), dtype float64
        Means.
    n_components_ : int
        How many there are.
    n_samples_ : int
        Number of rows, or the sum of their weights.
    noise_variance_ : float
        Mean variance of the components that were left out.
    parties_ : list of str
        Names of the parties that took part.
    n_parties_ : int
        Their number.
    ledger_ : Ledger
        What crossed: one message to each party, and one back.
    n_features_in_ : int
        Number of columns of X, that of the party included.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    See Also
    --------
    FederatedStandardScaler : Brings columns to the same scale before.

    Notes
    -----
    Variances below about 1e-16 of the largest are lost in the products, as they are with
    scikit-learn's ``svd_solver="covariance_eigh"``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.decomposition import PCA
    >>> from fedtl import FederatedPCA
    >>> X = load_iris().data
    >>> pca = FederatedPCA(2).fit(X, sample_party=["north", "south"] * 75)
    >>> bool(abs(pca.components_ - PCA(2).fit(X).components_).max() < 1e-8)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ExactModel._parameter_constraints,
        **PRIVACY,
        "n_components": [
            Interval(Integral, 1, None, closed="left"),
            Interval(RealNotInt, 0.0, 1.0, closed="neither"),
            None,
        ],
        "whiten": ["boolean"],
    }

    def __init__(
        self,
        n_components: float | None = None,
        *,
        whiten: bool = False,
        party: str | int | None = None,
        federation: Any = None,
        privacy: Any = "auto",
    ) -> None:
        self.n_components = n_components
        self.whiten = whiten
        self.party = party
        self.federation = federation
        self.privacy = privacy

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, sample_party: Any = None
    ) -> FederatedPCA:
        """Find the components.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows of all parties.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights: a row of weight 2 is as good as two rows.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose; with None and ``party=None``, there is one party.

        Returns
        -------
        FederatedPCA
            The object itself.

        Raises
        ------
        ValueError
            If X or the owners cannot be used; a PartyError names the party.
        """
        with self._unchanged_on_failure():
            fit = self._begin(X, sample_weight, sample_party)
            products = fit.statistics.products(fit.n_columns, targets=False)
            self._decompose(merge_products(products))
            self._set_parties(fit.channels, fit.ledger)
        return self

    def _decompose(self, pooled: Products) -> None:
        n_columns, n_rows = len(pooled.mean), ceil(pooled.weight)
        most = min(n_rows, n_columns)
        if self.n_components is not None and self.n_components > most:
            raise ValueError(
                f"n_components={self.n_components} must not be above the smaller number of rows "
                f"and columns: n_samples={n_rows}, n_features={n_columns}"
            )
        if pooled.weight <= 1.0:
            raise ValueError("n_samples=1: at least 2 rows are needed for a variance")
        values, vectors = eigh(pooled.products)
        squares = np.maximum(values[::-1], 0.0)
        components = vectors.T[::-1].copy()
        largest = components[np.arange(n_columns), np.abs(components).argmax(axis=1)]
        components[largest < 0] *= -1.0
        variances = squares / (pooled.weight - 1.0)
        total = variances.sum()
        ratio = variances / total if total > 0.0 else np.zeros_like(variances)
        n = self._n_kept(ratio, most)
        self.components_ = components[:n]
        self.explained_variance_ = variances[:n]
        self.explained_variance_ratio_ = ratio[:n]
        self.singular_values_ = np.sqrt(squares[:n])
        self.noise_variance_ = float(variances[n:most].mean()) if n < most else 0.0
        self.mean_ = pooled.mean
        self.n_components_, self.n_samples_ = n, n_rows

    def _n_kept(self, ratio: np.ndarray, most: int) -> int:
        if self.n_components is None:
            return most
        if self.n_components >= 1:
            return int(self.n_components)
        return int(np.searchsorted(np.cumsum(ratio), self.n_components, side="right")) + 1

    @property
    def _n_features_out(self) -> int:
        return int(self.n_components_)

    def transform(self, X: Any) -> Any:
        """Project rows on the components.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows of any party.

        Returns
        -------
        ndarray of shape (n_rows, n_components_), dtype float64
            Their coordinates.
        """
        features = self._features(X, reset=False)
        step = Project(self.mean_, self.components_, self._scale())
        return self._put_out(X, features, step)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Return rows of features with these coordinates.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_components_)
            Coordinates.

        Returns
        -------
        ndarray of shape (n_rows, n_features), dtype float64
            Rows, without the column of the party.
        """
        check_is_fitted(self)
        coordinates = np.asarray(X, dtype=np.float64) * self._scale()
        return np.asarray(coordinates @ self.components_ + self.mean_)

    def _scale(self) -> np.ndarray:
        if not self.whiten:
            return np.ones(self.n_components_)
        least = np.finfo(np.float64).eps
        return np.asarray(np.maximum(np.sqrt(self.explained_variance_), least))
