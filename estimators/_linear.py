"""Linear models of rows that belong to several parties, equal to those of the pooled rows."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import compute_class_weight
from sklearn.utils._param_validation import Interval, StrOptions

from fedtl.estimators._exact import Fit, as_numbers
from fedtl.estimators._personal import PersonalModel
from fedtl.learning.newton import Minimum, minimize
from fedtl.learning.personal import Task
from fedtl.learning.pooled import Derivatives, merge_moments, merge_products, solve_positive
from fedtl.solvers.statistics import LogisticModel


class FederatedRidge(MultiOutputMixin, RegressorMixin, PersonalModel):
    """Ridge regression on the rows of several parties, in one round.

    Each party answers with sums of products over its rows. The coefficients are those of
    :class:`~sklearn.linear_model.Ridge` on the pooled rows.

    Parameters
    ----------
    alpha : float, default=1.0
        Factor of the squared coefficients in the objective.
    fit_intercept : bool, default=True
        Whether to fit an intercept, which is not penalised.
    deploy : {"federated", "best"}, default="federated"
        What serves a party's rows. With "best" each party compares, on held-out rows of its own,
        the federated model, a model of its own around it, and one of its own by itself, and
        serves itself the best; rows of other parties are served by the federated one. It needs
        `party`, and trains on all folds but one `n_folds` times.
    n_folds : int, default=5
        Folds of that evidence.
    party : str, int or None, default=None
        Name or position of a column of X that says whose row is whose, and is no feature.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process; with a `Federation`, X
        has this party's own rows only.
    privacy : {"auto", "none"} or SecureAggregation, default="auto"
        Whether each party's sums are seen, or their totals over all parties only, of which there
        have to be three at least. "auto" hides those of remote parties.
    random_state : int, RandomState instance or None, default=None
        Deals the folds.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features), dtype float64
        Coefficients.
    intercept_ : float or ndarray of shape (n_outputs,)
        Intercepts; 0.0 without.
    report_ : PartyReport
        Held-out losses by party, and what serves it; with ``deploy="best"`` only.
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
    FederatedLogisticRegression : The same for classes, in a few rounds.

    Notes
    -----
    `fedtl.protocols.statistics` says what the sums tell the coordinator.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from fedtl import FederatedRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> clinic = ["north", "south"] * 221
    >>> model = FederatedRidge(alpha=0.1).fit(X, y, sample_party=clinic)
    >>> bool(abs(model.coef_ - Ridge(alpha=0.1).fit(X, y).coef_).max() < 1e-8)
    True
    >>> model.parties_, model.ledger_.messages
    (['north', 'south'], 4)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **PersonalModel._parameter_constraints,
        "alpha": [Interval(Real, 0.0, None, closed="left")],
        "fit_intercept": ["boolean"],
    }

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        deploy: str = "federated",
        n_folds: int = 5,
        party: str | int | None = None,
        federation: Any = None,
        privacy: Any = "auto",
        random_state: Any = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.deploy = deploy
        self.n_folds = n_folds
        self.party = party
        self.federation = federation
        self.privacy = privacy
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, sample_party: Any = None
    ) -> FederatedRidge:
        """Fit to the rows of all parties.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows of all parties.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose; with None and ``party=None``, there is one party.

        Returns
        -------
        FederatedRidge
            The object itself.

        Raises
        ------
        ValueError
            If X, y or the owners cannot be used; a PartyError names the party.
        """
        self._check_deploy()
        with self._unchanged_on_failure():
            fit = self._begin(X, sample_weight, sample_party, y=y, target=as_numbers)
            y = next(iter(fit.rows.values())).y
            n_outputs = 1 if y.ndim == 1 else y.shape[1]
            task = Task(0, float(self.alpha), self.fit_intercept)
            self._personalize(fit, task, lambda fold: self._solve(fit, n_outputs, fold))
            if y.ndim == 1:
                self.coef_ = self.coef_[0]
            if y.ndim == 1 or not self.fit_intercept:
                self.intercept_ = float(self.intercept_[0])
            self._set_parties(fit.channels, fit.ledger)
        return self

    def _solve(self, fit: Fit, n_outputs: int, fold: int) -> np.ndarray:
        d = fit.n_columns
        pooled = merge_products(fit.statistics.products(d + n_outputs, targets=True, fold=fold))
        products = pooled.products if self.fit_intercept else pooled.uncentered
        penalized = products[:d, :d] + self.alpha * np.eye(d)
        coef = solve_positive(penalized, products[:d, d:]).T
        intercept = np.zeros(n_outputs)
        if self.fit_intercept:
            intercept = pooled.mean[d:] - coef @ pooled.mean[:d]
        if fold < 0:
            self.coef_, self.intercept_ = coef, intercept
        return np.column_stack([intercept, coef]) if self.fit_intercept else coef

    def predict(self, X: Any) -> np.ndarray:
        """Predict.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows of any party, also of one that took no part in the fit.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_outputs), dtype float64
            Predictions.
        """
        scores = self._linear_scores(X)
        return scores[:, 0] if self.coef_.ndim == 1 else scores


class FederatedLogisticRegression(ClassifierMixin, PersonalModel):
    """Logistic regression on the rows of several parties, by Newton's method.

    Each step asks every party for the derivatives of the loss on its rows, and takes one round;
    one round before that gives the means of the columns. The coefficients are those of
    :class:`~sklearn.linear_model.LogisticRegression` on the pooled rows, for two classes and,
    with the multinomial loss, for more.

    Parameters
    ----------
    C : float, default=1.0
        Inverse of the factor of the squared coefficients, as in scikit-learn; ``np.inf`` for no
        penalty.
    fit_intercept : bool, default=True
        Whether to fit an intercept, which is not penalised.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as in scikit-learn.
    max_iter : int, default=100
        Most steps.
    tol : float, default=1e-6
        Change of a coefficient in a step, relative to the largest one or to 1, that ends the
        search. As steps converge quadratically, the error that is left is about its square.
    deploy : {"federated", "best"}, default="federated"
        What serves a party's rows. With "best" each party compares, on held-out rows of its own,
        the federated model, a model of its own around it, and one of its own by itself, and
        serves itself the best; rows of other parties are served by the federated one. It needs
        `party`, and trains on all folds but one `n_folds` times.
    n_folds : int, default=5
        Folds of that evidence.
    party : str, int or None, default=None
        Name or position of a column of X that says whose row is whose, and is no feature.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process; with a `Federation`, X
        has this party's own rows only.
    privacy : {"auto", "none"} or SecureAggregation, default="auto"
        Whether each party's sums are seen, or their totals over all parties only, of which there
        have to be three at least. "auto" hides those of remote parties.
    random_state : int, RandomState instance or None, default=None
        Deals the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes.
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features), dtype float64
        Coefficients; one row for two classes.
    intercept_ : ndarray of shape (1,) or (n_classes,), dtype float64
        Intercepts.
    n_iter_ : int
        Steps that were taken.
    report_ : PartyReport
        Held-out losses by party, and what serves it; with ``deploy="best"`` only.
    parties_ : list of str
        Names of the parties that took part.
    n_parties_ : int
        Their number.
    ledger_ : Ledger
        What crossed.
    n_features_in_ : int
        Number of columns of X, that of the party included.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` steps were not enough.

    See Also
    --------
    FederatedGaussianNB : A classifier in one round.

    Notes
    -----
    `fedtl.protocols.statistics` says what the derivatives tell the coordinator.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from fedtl import FederatedLogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> garden = ["north", "south", "west"] * 50
    >>> model = FederatedLogisticRegression().fit(X, y, sample_party=garden)
    >>> pooled = LogisticRegression(tol=1e-12, solver="newton-cg").fit(X, y)
    >>> bool(abs(model.coef_ - pooled.coef_).max() < 1e-8)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **PersonalModel._parameter_constraints,
        "C": [Interval(Real, 0.0, None, closed="right")],
        "fit_intercept": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="neither")],
    }

    def __init__(
        self,
        C: float = 1.0,
        *,
        fit_intercept: bool = True,
        class_weight: Any = None,
        max_iter: int = 100,
        tol: float = 1e-6,
        deploy: str = "federated",
        n_folds: int = 5,
        party: str | int | None = None,
        federation: Any = None,
        privacy: Any = "auto",
        random_state: Any = None,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.tol = tol
        self.deploy = deploy
        self.n_folds = n_folds
        self.party = party
        self.federation = federation
        self.privacy = privacy
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, sample_party: Any = None
    ) -> FederatedLogisticRegression:
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
        FederatedLogisticRegression
            The object itself.

        Raises
        ------
        ValueError
            If X, y or the owners cannot be used, or all rows are of one class; a PartyError names
            the party.
        """
        self._check_deploy()
        if self.deploy == "best" and self.class_weight is not None:
            raise ValueError(
                'deploy="best" compares models by the loss of the rows as they are; pass '
                "sample_weight instead of class_weight"
            )
        with self._unchanged_on_failure():
            fit = self._begin(X, sample_weight, sample_party, y=y, target=self._learn_classes)
            self._solve(fit)
            self._set_parties(fit.channels, fit.ledger)
        return self

    def _learn_classes(self, y: np.ndarray) -> np.ndarray:
        self.classes_, codes = self._coded(y)
        if len(self.classes_) < 2:
            raise ValueError(
                "at least 2 classes are needed, but all rows of all parties are of one class, "
                f"{self.classes_.tolist()[0]!r}"
            )
        return codes

    def _solve(self, fit: Fit) -> None:
        n_classes = len(self.classes_)
        by_class = n_classes if self.class_weight == "balanced" else 0
        moments = merge_moments(fit.statistics.columns(fit.n_columns, by_class))
        class_weight = self._class_weight(moments.weight[:, 0])
        # Around the mean, columns far from zero do not spoil the equations of the intercept.
        center = (moments.weight * moments.mean).sum(axis=0) / moments.weight.sum(axis=0)
        center = center if self.fit_intercept else np.zeros_like(center)
        penalty = np.full(fit.n_columns + self.fit_intercept, 1.0 / self.C)
        penalty[: int(self.fit_intercept)] = 0.0
        shape = (1 if n_classes == 2 else n_classes, len(penalty))

        def solve(fold: int) -> np.ndarray:
            def evaluate(coefficients: np.ndarray) -> Derivatives:
                model = LogisticModel(coefficients, self.fit_intercept, center, class_weight)
                return fit.statistics.derivatives(model, fold)

            found = minimize(evaluate, shape, penalty, max_iter=self.max_iter, tol=self.tol)
            return self._keep(found, center, fold)

        self._personalize(fit, Task(n_classes, 1.0 / self.C, self.fit_intercept), solve)

    def _keep(self, found: Minimum, center: np.ndarray, fold: int) -> np.ndarray:
        """Return coefficients for columns that are not centred, and set those of all rows."""
        coef, intercept = found.coefficients, np.zeros(len(found.coefficients))
        if self.fit_intercept:
            coef = found.coefficients[:, 1:]
            intercept = found.coefficients[:, 0] - coef @ center
        if fold < 0:
            self.coef_, self.intercept_, self.n_iter_ = coef, intercept, found.n_steps
            if not found.converged:
                warnings.warn(
                    f"no convergence within max_iter={self.max_iter} steps; raise it, scale the "
                    "columns, or lower C: without a penalty, classes that can be told apart "
                    "perfectly have no finite coefficients",
                    ConvergenceWarning,
                    stacklevel=6,
                )
        return np.column_stack([intercept, coef]) if self.fit_intercept else coef

    def _class_weight(self, weights: np.ndarray) -> np.ndarray:
        if self.class_weight == "balanced":
            return np.asarray(weights.sum() / (len(weights) * weights))
        found = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)
        return np.asarray(found, dtype=np.float64)

    def decision_function(self, X: Any) -> np.ndarray:
        """Score rows.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows of any party, also of one that took no part in the fit.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_classes), dtype float64
            Log-odds of the second of two classes, or scores of all classes.
        """
        scores = self._linear_scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Predict the most probable class of each row: (n_rows,)."""
        scores = self.decision_function(X)
        positions = scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)
        return np.asarray(self.classes_[positions])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probability of each class: (n_rows, n_classes), float64."""
        scores = self.decision_function(X)
        if scores.ndim == 2:
            return np.asarray(softmax(scores, axis=1))
        return np.column_stack([expit(-scores), expit(scores)])

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict logarithms of probabilities: (n_rows, n_classes), float64."""
        return np.log(self.predict_proba(X))
