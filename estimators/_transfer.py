"""Federated transfer learning as a classifier and a regressor."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import (
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils import column_or_1d
from sklearn.utils._indexing import _safe_indexing
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, assert_all_finite, check_is_fitted

from fedtl.estimators._base import FederatedEstimator, batch_rows, channels_to as _channels
from fedtl.exceptions import UnknownRowsWarning
from fedtl.federation import Ledger
from fedtl.inspection import FederationReport
from fedtl.learning.targets import is_missing, is_unlabeled
from fedtl.solvers.coalition import Coalition
from fedtl.solvers.problem import ACTIVE, Problem
from fedtl.solvers.transfer import Seen, Settings, Timer, bins_for, fit_transfer


def _has_latents(estimator: Any) -> bool:
    return bool(estimator.solver != "moments")


def _trains_on(estimator: Any) -> bool:
    return bool(estimator.solver == "latent")


@dataclass(frozen=True, eq=False)
class _Data:
    """Checked training data: rows of weight zero are left out."""

    X: Any
    y: np.ndarray
    target: np.ndarray
    labeled: np.ndarray
    weight: np.ndarray


class FederatedTransfer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, FederatedEstimator):
    """What classifier and regressor share; see :class:`FederatedTransferClassifier`."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **FederatedEstimator._parameter_constraints,
        "solver": [StrOptions({"auto", "moments", "latent"})],
        "cv": [Interval(Integral, 2, 50, closed="both")],
        "unlabeled": "no_validation",
    }

    def __init__(
        self,
        parties: Any = None,
        *,
        solver: str = "auto",
        federation: Any = None,
        n_components: int = 16,
        max_iter: int = 200,
        local_updates: int = 1,
        batch_size: int | str = "auto",
        lr: float = 3e-3,
        cv: int = 5,
        unlabeled: Any = None,
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        self.parties = parties
        self.solver = solver
        self.federation = federation
        self.n_components = n_components
        self.max_iter = max_iter
        self.local_updates = local_updates
        self.batch_size = batch_size
        self.lr = lr
        self.cv = cv
        self.unlabeled = unlabeled
        self.warm_start = warm_start
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> FederatedTransfer:
        """Fit to X, in which every party has its columns, and y, which the first party has.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Training rows. A row is unknown to a party if all its columns are missing.
        y : array-like of shape (n_rows,)
            Targets; `unlabeled` marks rows without one.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights; rows of weight zero are left out.

        Returns
        -------
        FederatedTransfer
            self.

        Raises
        ------
        ValueError
            If X, y or the parties' columns cannot be used; a PartyError names the party.
        """
        with self._unchanged_on_failure():
            return self._fit(X, y, sample_weight, resume=self.warm_start and _trains_on(self))

    @available_if(_trains_on)
    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> FederatedTransfer:
        """Train the networks on with more rows (``solver="latent"`` only).

        The first call does what :meth:`fit` does. Later calls keep the parties' encodings and
        train encoders and head for another `max_iter` steps on the new rows alone, which also
        give the evidence anew.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            New rows.
        y : array-like of shape (n_rows,)
            Their targets.
        classes : array-like of shape (n_classes,), default=None
            All classes that may come (classification, first call).
        sample_weight : array-like of shape (n_rows,), default=None
            Weights.

        Returns
        -------
        FederatedTransfer
            self.
        """
        with self._unchanged_on_failure():
            return self._fit(X, y, sample_weight, resume=True, classes=classes)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, resume: bool, classes: Any = None
    ) -> FederatedTransfer:
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        resume = resume and hasattr(self, "model_")
        X = self._read(X, reset=not resume)
        y = column_or_1d(y, warn=True, dtype=None)
        if len(y) != X.shape[0]:
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {[X.shape[0], len(y)]}"
            )
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weight.all():
            rows = np.flatnonzero(weight)
            X, y, weight = _safe_indexing(X, rows), y[rows], weight[rows]
        labeled = ~is_unlabeled(y, self.unlabeled)
        if not labeled.any():
            raise ValueError("no row is labelled; y marks every row as unlabeled")
        target = self._learn_target(y, labeled, weight, classes if not resume else self._classes())
        self._learn(_Data(X, y, target, labeled, weight), resume=resume)
        return self

    def _classes(self) -> Any:
        return getattr(self, "classes_", None)

    def _learn(self, data: _Data, *, resume: bool) -> None:
        """Run the federated fit and, when it has succeeded, keep it."""
        timer, ledger, seed = Timer(), Ledger(), self._seed()
        parties, services = self._open(data.X)
        name, previous = self._session_name(), None
        if resume:
            # Copies: a fit that fails must not leave half-trained networks behind.
            name, previous = self.model_.name, copy.deepcopy(self.model_)
            parties, services = self.parties_, copy.deepcopy(self.services_)
        active, labeled = parties[ACTIVE], data.labeled
        table, channels = _channels(parties, services, data.X, ledger)
        coalition = Coalition.begin(name, table, channels, active.name, active.encoder)
        if previous is not None:
            coalition.session = previous.session
        with timer.phase("encoding"):
            known = coalition.align(resume=resume)
            self._check_labels(known, labeled, active.name)
            coalition.prepare(bins_for(known, labeled, self._task()), seed)
        problem = Problem(
            task=self._task(),
            target=data.target,
            labeled=labeled,
            weight=data.weight * labeled.sum() / data.weight[labeled].sum(),
            known=known,
            n_folds=_n_folds(self.cv, labeled & known[:, ACTIVE]),
            seed=seed,
        )
        settings = self._settings(labeled)
        on_step, end = self._progress(data.X, data.y, settings.plan(1).n_exchanges)
        model = fit_transfer(
            coalition, problem, settings, timer, previous=previous, on_step=on_step
        )
        self.parties_, self.services_, self.model_, self.ledger_ = parties, services, model, ledger
        self.n_parties_ = len(parties)
        self.history_ = [] if model.latent is None else model.latent.losses
        self.n_iter_ = max(len(self.history_) * self.local_updates, 1)
        self._n_features_out = self.n_components
        names = [party.name for party in parties]
        self.report_ = FederationReport.of_fit(names, model, problem, ledger, timer.seconds)
        end()

    def _check_labels(self, known: np.ndarray, labeled: np.ndarray, active: str) -> None:
        rows = int((known[:, ACTIVE] & labeled).sum())
        if rows < 2:
            raise ValueError(
                f"the active party {active!r} knows {rows} labelled row(s) (n_samples={rows}); at "
                "least 2 are needed. Its columns must not be all missing where y has a label"
            )

    def _settings(self, labeled: np.ndarray) -> Settings:
        return Settings(
            solver=self.solver,
            n_components=self.n_components,
            max_iter=self.max_iter,
            local_updates=self.local_updates,
            batch_size=batch_rows(self.batch_size, int(labeled.sum())),
            lr=self.lr,
        )

    def _see(self, X: Any, *, scores: bool = True, latents: bool = True) -> Seen:
        check_is_fitted(self)
        X = self._read(X, reset=False)
        table, channels = _channels(self.parties_, self.services_, X, self.ledger_)
        coalition = Coalition(self.model_.name, table, self.model_.session, channels)
        return self.model_.see(coalition, scores=scores, latents=latents)

    def _scores(self, X: Any) -> np.ndarray:
        """Score rows on the scale of the target: (n_rows, n_outputs)."""
        seen = self._see(X)
        scores = np.tile(self.model_.prior, (len(seen.known), 1))
        for served, rows in self.model_.groups(seen.known):
            if served is None:
                warnings.warn(
                    f"{len(rows)} rows are known to no party; they are served by the mean of y",
                    UnknownRowsWarning,
                    stacklevel=3,
                )
            else:
                scores[rows] = self.model_.score(seen, served, rows)
        return scores

    @available_if(_has_latents)
    def transform(self, X: Any) -> np.ndarray:
        """Project rows into the latent space that the parties share.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows known to any subset of the parties.

        Returns
        -------
        ndarray of shape (n_rows, n_components), dtype float64
            Sum of the latents of the parties that know a row, of the first network.
        """
        seen = self._see(X, scores=False)
        assert seen.latents is not None
        return np.asarray(seen.latents[0].sum(axis=1))


class FederatedTransferClassifier(ClassifierMixin, FederatedTransfer):
    """Classifier that parties with different columns train together.

    The first party is the active one: it has the labels. It fits its own model (the anchor);
    the others add what the evidence of held-out rows says they add. Rows may be known to any
    subset of parties, when training and when predicting.

    Parameters
    ----------
    parties : list of (str, Encoder, columns), dict of str to columns, or None, default=None
        Which columns of X belong to whom, in the grammar of
        :class:`~sklearn.compose.ColumnTransformer`. None is one party with all columns; columns
        of no party are left out.
    solver : {"auto", "moments", "latent"}, default="auto"
        "moments" exchanges sums of products once and solves in closed form; "latent" trains
        networks together, mini-batch by mini-batch; "auto" does both and averages them by
        held-out error.
    federation : Simulation or None, default=None
        How the parties are reached. None simulates them in this process.
    n_components : int, default=16
        Width of the shared latent space.
    max_iter : int, default=200
        Steps of the latent solver.
    local_updates : int, default=1
        Steps that every party takes on one exchange of the latent solver. More of them send
        fewer messages, on staler gradients.
    batch_size : int or "auto", default="auto"
        Rows of a mini-batch; "auto" is 256, or 512 from 2,000 labelled rows on.
    lr : float, default=0.003
        Highest learning rate of the latent solver.
    cv : int, default=5
        Number of folds of the held-out evidence, and of networks.
    unlabeled : object, default=None
        The value of `y` that marks an unlabelled row, as -1. None: every row is labelled.
    warm_start : bool, default=False
        Whether a further fit keeps encodings and trains on the networks (``solver="latent"``).
    random_state : int, RandomState or None, default=None
        Seed of folds, networks and mini-batches. Secrets never come from it.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes.
    report_ : FederationReport
        What the federation gained and what crossed the border.
    ledger_ : Ledger
        Messages and bytes since the fit began, predictions included.
    history_ : list of float
        Loss of each exchange of the latent solver.
    n_iter_ : int
        Steps of the latent solver.
    n_parties_ : int
        Number of parties.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    See Also
    --------
    FederatedTransferRegressor : The same for real targets.
    FederatedProjector : The latent space without labels.

    Notes
    -----
    Rows that only the active party knows are served by its anchor, unchanged. Transfer in
    vertical federations goes back to Y. Liu, Y. Kang, C. Xing, T. Chen, Q. Yang, "A secure
    federated transfer learning framework", IEEE Intelligent Systems, 2020.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from fedtl import FederatedTransferClassifier
    >>> from fedtl.datasets import load_digits_halves
    >>> digits = load_digits_halves()
    >>> clf = FederatedTransferClassifier(digits.parties, solver="moments", random_state=0)
    >>> scores = cross_val_score(clf, digits.data, digits.target, cv=3)
    >>> bool(scores.mean() > 0.9)
    True
    """

    def predict(self, X: Any) -> np.ndarray:
        """Predict classes.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows known to any subset of the parties.

        Returns
        -------
        ndarray of shape (n_rows,)
            Classes.
        """
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict class probabilities.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows known to any subset of the parties.

        Returns
        -------
        ndarray of shape (n_rows, n_classes), dtype float64
            Probabilities, in the order of `classes_`.
        """
        scores = self._scores(X)
        if self._task() == "binary":
            return np.hstack([1.0 - scores, scores])
        return scores

    def _task(self) -> str:
        return "binary" if len(self.classes_) == 2 else "multiclass"

    def _learn_target(
        self, y: np.ndarray, labeled: np.ndarray, weight: np.ndarray, classes: Any
    ) -> np.ndarray:
        known = y[labeled]
        if known.dtype.kind == "f":
            assert_all_finite(known, input_name="y")
        elif known.dtype == object and is_missing(known).any():
            raise ValueError(
                "Input y contains NaN; mark unlabelled rows by the parameter unlabeled"
            )
        check_classification_targets(known)
        found = np.unique(known)
        if classes is not None:
            extra = np.setdiff1d(found, classes)
            if len(extra):
                raise ValueError(f"y has the classes {extra}, which were not announced in classes")
            found = np.unique(classes)
        if len(found) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes among the labelled rows, got 1 "
                f"class: {found}"
            )
        self.classes_ = found
        index = np.searchsorted(found, known)
        target = np.zeros((len(y), 1 if len(found) == 2 else len(found)))
        if len(found) == 2:
            target[labeled, 0] = index
        else:
            target[np.flatnonzero(labeled), index] = 1.0
        return target


class FederatedTransferRegressor(RegressorMixin, FederatedTransfer):
    """Regressor that parties with different columns train together.

    Parameters
    ----------
    parties, solver, federation, n_components, max_iter, local_updates, batch_size, lr, cv
        As for :class:`FederatedTransferClassifier`.
    unlabeled : object, default=None
        The value of `y` that marks an unlabelled row, as NaN. None: every row is labelled.
    warm_start, random_state
        As for :class:`FederatedTransferClassifier`.

    Attributes
    ----------
    report_, ledger_, history_, n_iter_, n_parties_, n_features_in_, feature_names_in_
        As for :class:`FederatedTransferClassifier`.

    See Also
    --------
    FederatedTransferClassifier : The same for classes; the parameters are explained there.

    Examples
    --------
    >>> from fedtl import FederatedTransferRegressor
    >>> from fedtl.datasets import load_diabetes_parties
    >>> diabetes = load_diabetes_parties()
    >>> reg = FederatedTransferRegressor(diabetes.parties, solver="moments", random_state=0)
    >>> bool(reg.fit(diabetes.data, diabetes.target).score(diabetes.data, diabetes.target) > 0.4)
    True
    """

    def predict(self, X: Any) -> np.ndarray:
        """Predict targets.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows known to any subset of the parties.

        Returns
        -------
        ndarray of shape (n_rows,), dtype float64
            Targets.
        """
        scores = self._scores(X)
        return np.asarray(scores[:, 0] * self.target_scale_ + self.target_mean_)

    def _task(self) -> str:
        return "regression"

    def _learn_target(
        self, y: np.ndarray, labeled: np.ndarray, weight: np.ndarray, classes: Any
    ) -> np.ndarray:
        values = np.zeros(len(y))
        values[labeled] = np.asarray(y[labeled], dtype=np.float64)
        assert_all_finite(values, input_name="y")
        if not (self.warm_start and hasattr(self, "target_mean_")):
            own, w = values[labeled], weight[labeled]
            self.target_mean_ = float(np.average(own, weights=w))
            spread = float(np.sqrt(np.average((own - self.target_mean_) ** 2, weights=w)))
            self.target_scale_ = spread if spread > 0 else 1.0
        target = (values - self.target_mean_) / self.target_scale_
        return np.asarray(np.where(labeled, target, 0.0)[:, None])


def _n_folds(cv: int, usable: np.ndarray) -> int:
    """As many folds as asked for, but not more than labelled rows."""
    return max(2, min(cv, int(usable.sum())))
