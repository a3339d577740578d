"""Preprocessing with the statistics of all parties' rows."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import TransformerMixin, _fit_context
from sklearn.utils.validation import check_is_fitted

from fedtl.estimators._exact import PRIVACY, ExactModel, PartyFeaturesOut
from fedtl.estimators._rowwise import check_parties
from fedtl.federation import Federation
from fedtl.learning.pooled import Moments, merge_moments
from fedtl.learning.steps import Fill, Standardise


class FederatedStandardScaler(PartyFeaturesOut, TransformerMixin, ExactModel):
    """Standardise columns by mean and standard deviation over the rows of all parties.

    One round; the statistics are those of :class:`~sklearn.preprocessing.StandardScaler` on the
    pooled rows. Missing values are left out of them and stay missing.

    Parameters
    ----------
    with_mean : bool, default=True
        Whether to subtract the mean.
    with_std : bool, default=True
        Whether to divide by the standard deviation.
    by_party : bool, default=False
        Whether each row is scaled with its own party's statistics instead: then differences
        *between* parties, as of devices or habits of measuring, vanish, whether they say
        something or not. It needs `party`, as the party must be known at prediction time.
    party : str, int or None, default=None
        Name or position of a column of X that says whose row is whose; it does not come out.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process; with a `Federation`, X
        has this party's own rows only, and what is fitted on the output has the parties do the same
        with theirs, if that is a pandas dataframe (``set_output``).
    privacy : {"auto", "none"} or SecureAggregation, default="auto"
        Whether each party's sums are seen, or their totals over all parties only, of which there
        have to be three at least. "auto" hides those of remote parties.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,) or None
        Means; of shape (n_parties, n_features) with `by_party`.
    var_ : ndarray of shape (n_features,) or None
        Variances, likewise.
    scale_ : ndarray of shape (n_features,) or None
        What columns are divided by, likewise: 1 for a constant column, and for one that a party
        does not record.
    n_samples_seen_ : int, float or ndarray of shape (n_features,)
        Rows with a value, or their weights, likewise; one number if it is the same for all.
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
    FederatedSimpleImputer : Fills missing values with means.

    Examples
    --------
    >>> import numpy as np
    >>> from fedtl import FederatedStandardScaler
    >>> X = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [6.0, 3.0]])
    >>> scaler = FederatedStandardScaler().fit(X, sample_party=["a", "a", "b", "b"])
    >>> scaler.mean_
    array([3. , 1.5])
    """

    _done = "scaled"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ExactModel._parameter_constraints,
        **PRIVACY,
        "with_mean": ["boolean"],
        "with_std": ["boolean"],
        "by_party": ["boolean"],
    }

    def __init__(
        self,
        *,
        with_mean: bool = True,
        with_std: bool = True,
        by_party: bool = False,
        party: str | int | None = None,
        federation: Any = None,
        privacy: Any = "auto",
    ) -> None:
        self.with_mean = with_mean
        self.with_std = with_std
        self.by_party = by_party
        self.party = party
        self.federation = federation
        self.privacy = privacy

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, sample_party: Any = None
    ) -> FederatedStandardScaler:
        """Compute the statistics.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows of all parties.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose; with None and ``party=None``, there is one party.

        Returns
        -------
        FederatedStandardScaler
            The object itself.

        Raises
        ------
        ValueError
            If X or the owners cannot be used; a PartyError names the party.
        """
        if self.by_party and self.party is None:
            raise ValueError(
                "by_party=True scales a row with its own party's statistics, so that its party "
                "must be known at prediction time: give the column of X that says it, as party=..."
            )
        if self.by_party and isinstance(self.federation, Federation):
            raise ValueError(
                "by_party=True scales each row with its own party's statistics, and rows of remote "
                "parties are not here: use by_party=False, or have each party scale its own table"
            )
        if self.by_party and self._secure():
            raise ValueError(
                "by_party=True uses each party's own statistics, which secure aggregation hides; "
                "use privacy='none'"
            )
        with self._unchanged_on_failure():
            fit = self._begin(X, sample_weight, sample_party, allow_nan=True)
            moments = fit.statistics.columns(fit.n_columns)
            used = moments if self.by_party else [merge_moments(moments)]
            self._set_statistics(used, weighted=sample_weight is not None)
            self._set_parties(fit.channels, fit.ledger)
        return self

    def _set_statistics(self, moments: list[Moments], *, weighted: bool) -> None:
        shape = (-1,) if not self.by_party else (len(moments), -1)
        weight, mean, variance, count = (
            np.vstack([getattr(m, name) for m in moments]).reshape(shape)
            for name in ("weight", "mean", "variance", "count")
        )
        seen = weight if weighted else count
        self.n_samples_seen_ = seen.flat[0] if (seen == seen.flat[0]).all() else seen
        mean = np.where(weight > 0, mean, np.nan)
        self.mean_ = mean if self.with_mean or self.with_std else None
        self.var_ = variance if self.with_std else None
        self.scale_ = None
        if self.with_std:
            # As scikit-learn: a variance within the rounding of a constant column's.
            eps = np.finfo(np.float64).eps
            constant = variance <= weight * eps * variance + (weight * mean * eps) ** 2
            unknown = constant | np.isnan(variance)
            self.scale_ = np.where(unknown, 1.0, np.sqrt(np.where(unknown, 1.0, variance)))

    def transform(self, X: Any) -> Any:
        """Standardise rows.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows; with `by_party`, of parties that took part in the fit.

        Returns
        -------
        ndarray of shape (n_rows, n_features), dtype float64
            Standardised rows.
        """
        features = self._features(X, reset=False, allow_nan=True)
        mean, scale = self._shift_and_scale(X, features.shape[1])
        if self.by_party:
            return np.asarray((features - mean) / scale)
        return self._put_out(X, features, Standardise(mean, scale))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Undo :meth:`transform`; not for ``party=...``, whose column did not come out.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            Standardised rows.

        Returns
        -------
        ndarray of shape (n_rows, n_features), dtype float64
            Rows.
        """
        if self.party is not None:
            raise ValueError("rows cannot be taken back where the column of the party is left out")
        features = self._features(X, reset=False, allow_nan=True)
        mean, scale = self._shift_and_scale(X, features.shape[1])
        return np.asarray(features * scale + mean)

    def _shift_and_scale(self, X: Any, n_features: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what features are moved and divided by: of every row its own, with `by_party`."""
        shape = (self.n_parties_, n_features) if self.by_party else (n_features,)
        mean, scale = np.zeros(shape), np.ones(shape)
        if self.with_mean and self.mean_ is not None:
            mean = self.mean_
        if self.scale_ is not None:
            scale = self.scale_
        if not self.by_party:
            return mean, scale
        owners = self._owners(X if hasattr(X, "shape") else np.asarray(X))
        check_parties(owners, self.parties_)
        row = np.array([self.parties_.index(name) for name in owners])
        return mean[row], scale[row]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class FederatedSimpleImputer(PartyFeaturesOut, TransformerMixin, ExactModel):
    """Fill missing values with the means of columns over the rows of all parties.

    So a party can be served by a model of columns that it does not record at all: it is one round
    before the model, and needs nothing of the party that lacks the column.

    Parameters
    ----------
    add_indicator : bool, default=False
        Whether to append, for each column that had a missing value in the fit, a column that is 1
        where the value is missing. A column that a party does not record at all tells the model
        of this party's rows.
    party : str, int or None, default=None
        Name or position of a column of X that says whose row is whose; it does not come out.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process; with a `Federation`, X
        has this party's own rows only, and what is fitted on the output has the parties do the same
        with theirs, if that is a pandas dataframe (``set_output``).
    privacy : {"auto", "none"} or SecureAggregation, default="auto"
        Whether each party's sums are seen, or their totals over all parties only, of which there
        have to be three at least. "auto" hides those of remote parties.

    Attributes
    ----------
    statistics_ : ndarray of shape (n_features,), dtype float64
        Means; 0 for a column that no party records.
    indicated_ : ndarray of int
        Positions of the features that had missing values.
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
    FederatedStandardScaler : Leaves missing values missing; may come before.

    Notes
    -----
    It does what ``SimpleImputer(keep_empty_features=True)`` does to the pooled rows.

    Examples
    --------
    >>> import numpy as np
    >>> from fedtl import FederatedSimpleImputer
    >>> X = np.array([[1.0, np.nan], [3.0, np.nan], [5.0, 7.0]])  # "a" does not record the second
    >>> FederatedSimpleImputer().fit(X, sample_party=["a", "a", "b"]).transform(X)
    array([[1., 7.],
           [3., 7.],
           [5., 7.]])
    """

    _done = "filled"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ExactModel._parameter_constraints,
        **PRIVACY,
        "add_indicator": ["boolean"],
    }

    def __init__(
        self,
        *,
        add_indicator: bool = False,
        party: str | int | None = None,
        federation: Any = None,
        privacy: Any = "auto",
    ) -> None:
        self.add_indicator = add_indicator
        self.party = party
        self.federation = federation
        self.privacy = privacy

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, sample_party: Any = None
    ) -> FederatedSimpleImputer:
        """Compute the means.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows of all parties; NaN for a missing value.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose; with None and ``party=None``, there is one party.

        Returns
        -------
        FederatedSimpleImputer
            The object itself.

        Raises
        ------
        ValueError
            If X or the owners cannot be used; a PartyError names the party.
        """
        with self._unchanged_on_failure():
            fit = self._begin(X, sample_weight, sample_party, allow_nan=True)
            pooled = merge_moments(fit.statistics.columns(fit.n_columns))
            self.statistics_ = pooled.mean[0]
            self.indicated_ = np.flatnonzero(pooled.count[0] < pooled.rows[0])
            self._set_parties(fit.channels, fit.ledger)
        return self

    def transform(self, X: Any) -> Any:
        """Fill missing values.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows of any party.

        Returns
        -------
        ndarray of shape (n_rows, n_features + n_indicated), dtype float64
            Rows without missing values.
        """
        features = self._features(X, reset=False, allow_nan=True)
        indicated = np.zeros(features.shape[1], dtype=bool)
        if self.add_indicator:
            indicated[self.indicated_] = True
        return self._put_out(X, features, Fill(self.statistics_, indicated))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Get names of the columns that come out.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the columns of X, if it had none.

        Returns
        -------
        ndarray of str
            The features, then ``missingindicator_<feature>``.
        """
        check_is_fitted(self)
        names = super().get_feature_names_out(input_features)
        if not self.add_indicator:
            return names
        indicators = [f"missingindicator_{name}" for name in names[self.indicated_]]
        return np.concatenate([names, np.array(indicators, dtype=object)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
