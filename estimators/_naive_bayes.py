"""Gaussian naive Bayes on rows that belong to several parties."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from scipy.special import logsumexp
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils._param_validation import Interval

from fedtl.estimators._exact import PRIVACY, ExactModel, Fit
from fedtl.learning.pooled import merge_moments


class FederatedGaussianNB(ClassifierMixin, ExactModel):
    """Gaussian naive Bayes on the rows of several parties, in one round.

    Each party answers with the moments of its columns by class. Means and variances are those of
    :class:`~sklearn.naive_bayes.GaussianNB` on the pooled rows.

    Parameters
    ----------
    priors : array-like of shape (n_classes,), default=None
        Probabilities of the classes; their share of the weights with None.
    var_smoothing : float, default=1e-9
        Share of the largest variance of a column that is added to all variances.
    party : str, int or None, default=None
        Name or position of a column of X that says whose row is whose, and is no feature.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process; with a `Federation`, X
        has this party's own rows only.
    privacy : {"auto", "none"} or SecureAggregation, default="auto"
        Whether each party's sums are seen, or their totals over all parties only, of which there
        have to be three at least. "auto" hides those of remote parties.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes.
    class_count_ : ndarray of shape (n_classes,), dtype float64
        Weights of the rows of each class, summed.
    class_prior_ : ndarray of shape (n_classes,), dtype float64
        Probability of each class.
    theta_ : ndarray of shape (n_classes, n_features), dtype float64
        Means.
    var_ : ndarray of shape (n_classes, n_features), dtype float64
        Variances, `epsilon_` included.
    epsilon_ : float
        What was added to the variances. scikit-learn takes it from unweighted variances; here
        they are weighted like everything else.
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
    FederatedLogisticRegression : A classifier that does not take columns for independent.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from fedtl import FederatedGaussianNB
    >>> X, y = load_iris(return_X_y=True)
    >>> model = FederatedGaussianNB().fit(X, y, sample_party=["north", "south", "west"] * 50)
    >>> bool(abs(model.theta_ - GaussianNB().fit(X, y).theta_).max() < 1e-12)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ExactModel._parameter_constraints,
        **PRIVACY,
        "priors": ["array-like", None],
        "var_smoothing": [Interval(Real, 0.0, None, closed="left")],
    }

    def __init__(
        self,
        priors: Any = None,
        *,
        var_smoothing: float = 1e-9,
        party: str | int | None = None,
        federation: Any = None,
        privacy: Any = "auto",
    ) -> None:
        self.priors = priors
        self.var_smoothing = var_smoothing
        self.party = party
        self.federation = federation
        self.privacy = privacy

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, sample_party: Any = None
    ) -> FederatedGaussianNB:
        """Fit to the rows of all parties.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows of all parties.
        y : array-like of shape (n_rows,)
            Classes; a party may lack some of them.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose; with None and ``party=None``, there is one party.

        Returns
        -------
        FederatedGaussianNB
            The object itself.

        Raises
        ------
        ValueError
            If X, y or the owners cannot be used; a PartyError names the party.
        """
        with self._unchanged_on_failure():
            fit = self._begin(X, sample_weight, sample_party, y=y, target=self._learn_classes)
            self._solve(fit)
            self._set_parties(fit.channels, fit.ledger)
        return self

    def _learn_classes(self, y: np.ndarray) -> np.ndarray:
        self.classes_, codes = self._coded(y)
        return codes

    def _solve(self, fit: Fit) -> None:
        n_classes = len(self.classes_)
        moments = merge_moments(fit.statistics.columns(fit.n_columns, n_classes))
        overall = merge_moments([moments.group(k) for k in range(n_classes)])
        self.epsilon_ = float(self.var_smoothing * overall.variance.max())
        self.class_count_ = moments.weight[:, 0]
        self.theta_ = moments.mean
        self.var_ = moments.variance + self.epsilon_
        self.class_prior_ = self._prior()

    def _prior(self) -> np.ndarray:
        if self.priors is None:
            return np.asarray(self.class_count_ / self.class_count_.sum())
        priors = np.asarray(self.priors, dtype=np.float64)
        if priors.shape != self.classes_.shape:
            raise ValueError(
                f"priors must have one number for each of {len(self.classes_)} classes"
            )
        if priors.min() < 0.0 or not np.isclose(priors.sum(), 1.0):
            raise ValueError("priors must not be negative and must sum to 1")
        return priors

    def predict_joint_log_proba(self, X: Any) -> np.ndarray:
        """Return log P(x, y) of each row and class.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows of any party, also of one that took no part in the fit.

        Returns
        -------
        ndarray of shape (n_rows, n_classes), dtype float64
            Logarithms of joint densities.
        """
        features = self._features(X, reset=False)
        with np.errstate(divide="ignore"):  # a prior of 0 is meant
            joint = np.tile(np.log(self.class_prior_), (len(features), 1))
        for k, (mean, variance) in enumerate(zip(self.theta_, self.var_, strict=True)):
            joint[:, k] -= 0.5 * np.log(2.0 * np.pi * variance).sum()
            joint[:, k] -= 0.5 * ((features - mean) ** 2 / variance).sum(axis=1)
        return joint

    def predict(self, X: Any) -> np.ndarray:
        """Predict the most probable class of each row: (n_rows,)."""
        positions = self.predict_joint_log_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[positions])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probability of each class: (n_rows, n_classes), float64."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict logarithms of probabilities: (n_rows, n_classes), float64."""
        joint = self.predict_joint_log_proba(X)
        return np.asarray(joint - logsumexp(joint, axis=1, keepdims=True))
