"""A latent space that parties share, without labels."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from fedtl.estimators._base import FederatedEstimator, batch_rows, channels_to
from fedtl.exceptions import UnknownRowsWarning
from fedtl.federation import Ledger
from fedtl.learning.threads import one_thread
from fedtl.solvers.coalition import Coalition
from fedtl.solvers.problem import ACTIVE
from fedtl.solvers.projection import fit_projection
from fedtl.solvers.transfer import Settings, bins_for


class FederatedProjector(ClassNamePrefixFeaturesOutMixin, TransformerMixin, FederatedEstimator):
    """Project each party's columns into one latent space, without labels.

    Every party trains an encoder of its own; on the rows that parties share their latents are
    made to agree. A row is projected from whatever subset of parties knows it, so that a model
    trained on some parties' rows can serve the rows of others.

    Parameters
    ----------
    parties : list of (str, Encoder, columns), dict of str to columns, or None, default=None
        Which columns of X belong to whom, in the grammar of
        :class:`~sklearn.compose.ColumnTransformer`. None is one party with all columns.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process. With a
        :class:`~fedtl.federation.Federation`, X holds the active party's columns only, and
        rows are matched by their ids.
    key : str, default="index"
        Where the rows' ids are, with remote parties: in the index of a pandas frame, or in the
        column of this name, which then belongs to no party.
    n_components : int, default=16
        Width of the latent space.
    alignment : float, default=1.0
        Weight of the agreement on shared rows, beside each party's reconstruction of its own.
    max_iter : int, default=200
        Steps of the training.
    local_updates : int, default=1
        Steps that every party takes on one exchange.
    batch_size : int or "auto", default="auto"
        Rows of a mini-batch; "auto" is 256, or 512 from 2,000 rows on.
    lr : float, default=0.003
        Highest learning rate.
    random_state : int, RandomState or None, default=None
        Seed of networks and mini-batches.

    Attributes
    ----------
    ledger_ : Ledger
        Messages and bytes since the fit began.
    history_ : list of float
        Loss of each exchange.
    n_iter_ : int
        Steps taken.
    n_parties_ : int
        Number of parties.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    See Also
    --------
    FederatedTransferClassifier : Trains the latent space for its labels.

    Examples
    --------
    >>> from fedtl import FederatedProjector
    >>> from fedtl.datasets import load_wine_parties
    >>> wine = load_wine_parties()
    >>> projector = FederatedProjector(wine.parties, n_components=4, random_state=0)
    >>> projector.fit_transform(wine.data).shape
    (178, 4)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{
            name: constraint
            for name, constraint in FederatedEstimator._parameter_constraints.items()
            if name != "warm_start"
        },
        "alignment": [Interval(Real, 0.0, None, closed="left")],
    }

    def __init__(
        self,
        parties: Any = None,
        *,
        federation: Any = None,
        key: str = "index",
        n_components: int = 16,
        alignment: float = 1.0,
        max_iter: int = 200,
        local_updates: int = 1,
        batch_size: int | str = "auto",
        lr: float = 3e-3,
        random_state: Any = None,
    ) -> None:
        self.parties = parties
        self.federation = federation
        self.key = key
        self.n_components = n_components
        self.alignment = alignment
        self.max_iter = max_iter
        self.local_updates = local_updates
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None) -> FederatedProjector:
        """Fit to X, in which every party has its columns.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Training rows. A row is unknown to a party if all its columns are missing.
        y : None
            Ignored.

        Returns
        -------
        FederatedProjector
            The object itself.

        Raises
        ------
        ValueError
            If X or the parties' columns cannot be used; a PartyError names the party.
        """
        with self._unchanged_on_failure(), one_thread():
            X = self._read(X, reset=True)
            ledger, seed = Ledger(), self._seed()
            parties, services = self._open(X)
            table, channels = channels_to(parties, services, X, ledger, self.key)
            active = parties[ACTIVE]
            coalition = Coalition.begin(
                self._session_name(), table, channels, active.name, active.encoder
            )
            known = coalition.align(resume=False)
            everything = np.ones(len(known), dtype=bool)
            coalition.prepare(bins_for(known, everything, "regression"), seed)
            settings = self._settings(len(known))
            on_step, end = self._progress(X, y, settings.plan(1).n_exchanges)
            self.model_ = fit_projection(
                coalition,
                known,
                settings,
                alignment=self.alignment,
                seed=seed,
                on_step=on_step,
            )
            self.parties_, self.services_, self.ledger_ = parties, services, ledger
            self.n_parties_ = 1 + len(services.names)
            self.history_ = self.model_.latent.losses
            self.n_iter_ = len(self.history_) * min(self.local_updates, self.max_iter)
            self._n_features_out = self.n_components
            end()
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Project rows into the latent space.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows known to any subset of the parties.

        Returns
        -------
        ndarray of shape (n_rows, n_components), dtype float64
            Mean of the standardised latents of the parties that know a row.
        """
        check_is_fitted(self)
        X = self._read(X, reset=False)
        latents, known = self.model_.project(self._to_predict(X))
        unknown = int((~known.any(axis=1)).sum())
        if unknown:
            warnings.warn(
                f"{unknown} rows are known to no party; they are projected to zero",
                UnknownRowsWarning,
                stacklevel=2,
            )
        return latents

    def _settings(self, n_rows: int) -> Settings:
        return Settings(
            solver="latent",
            n_components=self.n_components,
            max_iter=self.max_iter,
            local_updates=self.local_updates,
            batch_size=batch_rows(self.batch_size, n_rows),
            lr=self.lr,
        )
