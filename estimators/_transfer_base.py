"""What the federated classifier and regressor share: a fit at all parties, and serving rows."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._indexing import _safe_indexing
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from fedtl.estimators._base import FederatedEstimator, batch_rows
from fedtl.estimators._base import channels_to as _channels
from fedtl.estimators._privacy import (
    NAMES,
    Protection,
    check_protected,
    fold_seed,
    open_deals,
    open_exchange,
    resolve_privacy,
    solver_under,
)
from fedtl.exceptions import UnknownRowsWarning
from fedtl.federation import Ledger
from fedtl.inspection import FederationReport
from fedtl.learning.targets import is_missing, is_unlabeled
from fedtl.learning.threads import one_thread
from fedtl.privacy import DifferentialPrivacy, Paillier, SecretSharing
from fedtl.solvers.coalition import Coalition
from fedtl.solvers.liu import n_features_for
from fedtl.solvers.problem import ACTIVE, Problem
from fedtl.solvers.shared_latent import SharedLatentModel
from fedtl.solvers.transfer import (
    Seen,
    Settings,
    Timer,
    TransferModel,
    bins_for,
    fit_transfer,
)


def _trains_on(estimator: Any) -> bool:
    return bool(estimator.solver == "latent")


def _trains_on_by_parts(estimator: Any) -> bool:
    return _trains_on(estimator) and estimator._protection() is None


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
        "solver": [StrOptions({"auto", "moments", "latent", "liu"})],
        "privacy": [StrOptions(set(NAMES)), Paillier, SecretSharing, DifferentialPrivacy],
        "n_folds": [Interval(Integral, 2, 50, closed="both")],
        "unlabeled": "no_validation",
    }

    model_: TransferModel

    def __init__(
        self,
        parties: Any = None,
        *,
        solver: str = "auto",
        federation: Any = None,
        key: str = "index",
        privacy: Any = "auto",
        n_components: int = 16,
        max_iter: int = 200,
        local_updates: int = 1,
        batch_size: int | str = "auto",
        lr: float = 3e-3,
        n_folds: int = 5,
        unlabeled: Any = None,
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        self.parties = parties
        self.solver = solver
        self.federation = federation
        self.key = key
        self.privacy = privacy
        self.n_components = n_components
        self.max_iter = max_iter
        self.local_updates = local_updates
        self.batch_size = batch_size
        self.lr = lr
        self.n_folds = n_folds
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
            The object itself.

        Raises
        ------
        ValueError
            If X, y or the parties' columns cannot be used; a PartyError names the party.
        """
        with self._unchanged_on_failure():
            return self._fit(X, y, sample_weight, resume=self.warm_start and _trains_on(self))

    @available_if(_trains_on_by_parts)
    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> FederatedTransfer:
        """Train the networks on with more rows (``solver="latent"`` without protection only).

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
            The object itself.
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
                "Found input variables with inconsistent numbers of samples: "
                f"{[X.shape[0], len(y)]}"
            )
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weight.any():
            raise ValueError("sample_weight must have at least one non-zero entry")
        if not weight.all():
            rows = np.flatnonzero(weight)
            X, y, weight = _safe_indexing(X, rows), y[rows], weight[rows]
        protection = self._protection()
        solver = solver_under(protection, self.solver)
        check_protected(protection, solver, weight, resume=resume)
        labeled = ~is_unlabeled(y, self.unlabeled)
        if not labeled.any():
            raise ValueError("no row is labelled; y marks every row as unlabeled")
        target = self._learn_target(y, labeled, weight, classes if not resume else self._classes())
        self._learn(_Data(X, y, target, labeled, weight), resume=resume)
        return self

    def _protection(self) -> Protection:
        return resolve_privacy(self.privacy, self.federation)

    def _classes(self) -> Any:
        return getattr(self, "classes_", None)

    def _learn(self, data: _Data, *, resume: bool) -> None:
        """Run the federated fit and, when it has succeeded, keep it."""
        with one_thread():
            self._fit_parties(data, resume=resume)

    def _fit_parties(self, data: _Data, *, resume: bool) -> None:
        timer, ledger = Timer(), Ledger()
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(2**31 - 1))
        parties, services = self._open(data.X)
        name, previous = self._session_name(), None
        if resume:
            # Copies: a fit that fails must not leave half-trained networks behind.
            name, previous = self.model_.name, copy.deepcopy(self.model_)
            parties, services = self.parties_, self.services_.resumed()
        active, labeled = parties[ACTIVE], data.labeled
        table, channels = _channels(parties, services, data.X, ledger, self.key)
        coalition = Coalition.begin(name, table, channels, active.name, active.encoder)
        names = [active.name, *services.names]
        settings = self._settings(labeled)
        if settings.solver == "liu" and len(names) != 2:
            raise ValueError(
                "solver='liu' transfers from the active party to one other: it takes exactly 2 "
                f"parties, got {len(names)}: {', '.join(names)}. Use solver='auto'"
            )
        coalition.deals = open_deals(self._protection(), names, services, ledger)
        coalition.moments = open_exchange(self._protection(), coalition.deals, settings)
        if previous is not None:
            coalition.session = previous.session
        with timer.phase("encoding"):
            known = coalition.align(resume=resume)
            self._check_labels(known, labeled, active.name)
            n_features = 0
            if settings.solver == "liu":
                n_features = n_features_for(int((known.all(axis=1) & labeled).sum()))
            coalition.prepare(bins_for(known, labeled, self._task()), seed, n_features)
        problem = Problem(
            task=self._task(),
            target=data.target,
            labeled=labeled,
            weight=data.weight * labeled.sum() / data.weight[labeled].sum(),
            known=known,
            n_folds=_n_folds(self.n_folds, labeled & known[:, ACTIVE]),
            seed=seed,
            fold_seed=(
                previous.fold_seed
                if previous
                else fold_seed(self._protection(), self.random_state, rng)
            ),
        )
        on_step, end = self._progress(data.X, data.y, settings.plan(1).n_exchanges)
        model = fit_transfer(
            coalition, problem, settings, timer, previous=previous, on_step=on_step
        )
        self.parties_, self.services_, self.model_, self.ledger_ = parties, services, model, ledger
        self.n_parties_ = len(names)
        self.history_ = [] if model.latent is None else model.latent.losses
        self.n_iter_ = max(len(self.history_) * min(self.local_updates, self.max_iter), 1)
        self._n_features_out = self.n_components
        if model.latent is None or isinstance(model.latent, SharedLatentModel):
            self._n_features_out = len(names) * problem.n_outputs
        self.report_ = FederationReport.of_fit(names, model, problem, ledger, timer.seconds)
        end()

    def _check_present(self, y: np.ndarray) -> None:
        """Refuse targets that are missing or infinite."""
        missing = is_missing(y).any() if y.dtype == object else False
        if y.dtype.kind == "f":
            missing = np.isnan(y).any()
            if np.isinf(y).any():
                raise ValueError("Input y contains infinity; give every labelled row a number")
        if missing:
            raise ValueError(
                "Input y contains NaN; if that marks rows without a label, say so by the "
                "parameter unlabeled, as unlabeled=float('nan')"
            )

    def _check_labels(self, known: np.ndarray, labeled: np.ndarray, active: str) -> None:
        rows = int((known[:, ACTIVE] & labeled).sum())
        if rows < 2:
            raise ValueError(
                f"the active party {active!r} knows {rows} labelled row(s) (n_samples={rows}); at "
                "least 2 are needed. Its columns must not be all missing where y has a label"
            )

    def _settings(self, labeled: np.ndarray) -> Settings:
        return Settings(
            solver=solver_under(self._protection(), self.solver),
            n_components=self.n_components,
            max_iter=self.max_iter,
            local_updates=self.local_updates,
            batch_size=batch_rows(self.batch_size, int(labeled.sum())),
            lr=self.lr,
        )

    def _to_predict(self, X: Any) -> Coalition:
        coalition = super()._to_predict(X)
        names = [self.parties_[ACTIVE].name, *self.services_.names]
        protection = self._protection()
        coalition.deals = open_deals(protection, names, self.services_, self.ledger_)
        return coalition

    def _see(self, X: Any, *, scores: bool = True, latents: bool = True) -> Seen:
        check_is_fitted(self)
        X = self._read(X, reset=False)
        with one_thread():
            return self.model_.see(self._to_predict(X), scores=scores, latents=latents)

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

    def transform(self, X: Any) -> np.ndarray:
        """Project rows into the latent space that the parties share.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows known to any subset of the parties.

        Returns
        -------
        ndarray of shape (n_rows, n_features_out), dtype float64
            The sum of the latents of the parties that know a row, of the first network, with
            `n_components` columns. With ``solver="moments"`` and with a protected ``"latent"``,
            where no latent space is shared: the score of each party's own part of the model, zero
            where it does not know the row.
        """
        check_is_fitted(self)
        if self.model_.latent is None:
            return self.model_.party_scores(self._see(X, latents=False))
        seen = self._see(X, scores=False)
        assert seen.latents is not None
        if isinstance(self.model_.latent, SharedLatentModel):
            return self.model_.latent.party_scores(seen.latents, seen.known)
        return np.asarray(seen.latents[0].sum(axis=1))


def _n_folds(wanted: int, usable: np.ndarray) -> int:
    """As many folds as asked for, but not more than labelled rows."""
    return max(2, min(wanted, int(usable.sum())))
