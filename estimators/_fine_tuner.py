"""Any network or incremental model, trained where the rows live."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import _fit_context, clone
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import (
    ClassifierTags,
    RegressorTags,
    check_array,
    check_random_state,
    column_or_1d,
    get_tags,
)
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_feature_names, check_is_fitted

from fedtl.estimators._parties import as_table
from fedtl.estimators._rowwise import RowwiseEstimator, split_rows
from fedtl.estimators._tuning_checks import check_private, classifies, has_output
from fedtl.federation import Ledger
from fedtl.inspection import TuningReport
from fedtl.learning.compression import Compression
from fedtl.learning.local import LocalRecipe, Shape, kind_of
from fedtl.learning.strategies import STRATEGIES, Strategy
from fedtl.parties import Rows
from fedtl.privacy import DifferentialPrivacy
from fedtl.protocols.private_rounds import row_answers
from fedtl.protocols.rounds import MODELS
from fedtl.solvers.checkpoint import Checkpoint, fingerprint
from fedtl.solvers.private_tuning import check_strategy
from fedtl.solvers.rounds import Schedule
from fedtl.solvers.tuning import Comparison, Job, TunedModel, held_out_shares, tune


class FederatedFineTuner(RowwiseEstimator):
    """Train one model on the rows of several parties, without pooling them.

    In every round some parties receive the shared parameters, train them on their own rows, and
    send back how they changed; the strategy makes new shared parameters of that. Frozen and
    personal parameters are never exchanged.

    Parameters
    ----------
    estimator : skorch net, nn.Module, or scikit-learn classifier or regressor
        What is trained; it is copied, never trained itself. A skorch net brings its own
        criterion, optimiser, size of mini-batches and callbacks; pass a pretrained network as its
        ``module``. A plain module starts from the parameters that it has. A scikit-learn model
        needs ``partial_fit`` or ``warm_start``, and coefficients.
    party : str, int or None, default=None
        Column of X that says whose row is whose, known at prediction time too and no feature.
        With None it is said by `sample_party`, or there is one party.
    strategy : str or Strategy, default="fedavg"
        How local training becomes one model: a name in
        :data:`fedtl.learning.strategies.STRATEGIES`, or an object such as ``FedProx(mu=0.1)``.
    n_rounds : int, default=10
        Rounds.
    local_epochs : int, default=1
        Passes of a party over its rows in a round.
    cohort : int, float or None, default=None
        Parties of a round, drawn at random: a number or a share. None is all of them.
    min_parties : int, default=1
        A round in which fewer parties reply is an error.
    personal : sequence of str, default=()
        Names of parameters, modules or patterns of them that each party keeps for itself, as
        ``("head",)``; ``"batch_norm"`` stands for all batch norms. A row is then served by
        its party's own model.
    deploy : {"federated", "fine-tuned", "local", "best"}, default="federated"
        What serves a party's rows: the federated model, the same after `fine_tune_epochs` on the
        party's rows, a model trained on the party's rows alone, or the best of the three on rows
        that the party held out.
    fine_tune_epochs : int, default=5
        Passes of a party over its rows after the last round.
    validation : float, sequence of str or None, default=None
        What is held out of training as evidence: a share of every party's rows, or whole parties
        by name. None is .2 where `deploy` or `patience` needs evidence, otherwise nothing.
    patience : int or None, default=None
        Stop after so many rounds without a better loss on what is held out, and go back to the
        best round.
    compression : {"eight_bits"}, Compression or None, default=None
        How updates are made smaller; what is lost in one round is made up for in the next.
    criterion : callable or None, default=None
        Loss of a plain module: ``criterion(output, target)``. None is cross entropy. A plain
        module is a classifier if this is a loss of classes, otherwise a regressor.
    optimizer : callable, default=torch.optim.SGD
        Optimiser of a plain module.
    lr : float, default=0.05
        Learning rate of a plain module.
    batch_size : int, default=32
        Rows of a mini-batch of a plain module.
    checkpoint : path or None, default=None
        Folder where training is saved between rounds. A fit that was killed goes on from there
        to the identical model when the same fit is started again; a finished fit removes what
        it saved.
    checkpoint_every : int, default=1
        Rounds between saves.
    privacy : {"none"} or DifferentialPrivacy, default="none"
        Whether updates hardly depend on any one row, or on any one party.
    federation : Simulation or None, default=None
        How the parties are reached. None simulates them in this process.
    random_state : int, RandomState or None, default=None
        Seed of cohorts, mini-batches and initial parameters.

    Attributes
    ----------
    estimator_ : skorch net, nn.Module, or scikit-learn estimator
        The federated model in its own library's form.
    classes_ : ndarray of shape (n_classes,)
        Classes, for a classifier.
    parties_ : list of str
        Parties that took part.
    n_parties_ : int
        Number of them.
    n_iter_ : int
        Rounds done.
    history_ : list of dict
        For each round the mean loss, the replies, the parties that dropped out, loss and score on
        held-out rows if there are any, the bytes that crossed, and seconds.
    noise_ : dict of str to float
        Noise multiplier by party, where training was private; otherwise empty.
    report_ : TuningReport
        What it brought each party, and what crossed.
    ledger_ : Ledger
        Messages and bytes.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    See Also
    --------
    FederatedTransferClassifier : Parties that share rows, not columns.

    Notes
    -----
    A party that fails, or returns NaN or wrong shapes, is left out of the round with a warning that
    names it. If training diverges everywhere, the best round is kept with a ConvergenceWarning.
    Numbers cross in single precision. ``joblib.parallel_config`` spreads simulated parties.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import SGDClassifier
    >>> from fedtl import FederatedFineTuner
    >>> X, y = load_digits(return_X_y=True)
    >>> cameras = np.arange(len(y)) % 5
    >>> tuner = FederatedFineTuner(SGDClassifier(), n_rounds=5, random_state=0)
    >>> tuner.fit(X, y, sample_party=cameras).score(X, y) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **RowwiseEstimator._parameter_constraints,
        "estimator": "no_validation",
        "strategy": [StrOptions(set(STRATEGIES)), Strategy],
        "n_rounds": [Interval(Integral, 1, None, closed="left")],
        "local_epochs": [Interval(Integral, 1, None, closed="left")],
        "cohort": [
            Interval(Integral, 1, None, closed="left"),
            Interval(Real, 0.0, 1.0, closed="right"),
            None,
        ],
        "min_parties": [Interval(Integral, 1, None, closed="left")],
        "personal": ["array-like"],
        "deploy": [StrOptions({"best", *MODELS})],
        "fine_tune_epochs": [Interval(Integral, 1, None, closed="left")],
        "validation": [Interval(Real, 0.0, 1.0, closed="neither"), "array-like", None],
        "patience": [Interval(Integral, 1, None, closed="left"), None],
        "compression": [StrOptions({"eight_bits"}), Compression, None],
        "criterion": [callable, None],
        "optimizer": [callable],
        "lr": [Interval(Real, 0.0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "checkpoint": [str, Path, None],
        "checkpoint_every": [Interval(Integral, 1, None, closed="left")],
        "privacy": [StrOptions({"none"}), DifferentialPrivacy],
        "random_state": ["random_state"],
    }

    model_: TunedModel

    def __init__(
        self,
        estimator: Any = None,
        *,
        party: str | int | None = None,
        strategy: str | Strategy = "fedavg",
        n_rounds: int = 10,
        local_epochs: int = 1,
        cohort: float | None = None,
        min_parties: int = 1,
        personal: Sequence[str] = (),
        deploy: str = "federated",
        fine_tune_epochs: int = 5,
        validation: Any = None,
        patience: int | None = None,
        compression: Any = None,
        criterion: Any = None,
        optimizer: Any = torch.optim.SGD,
        lr: float = 0.05,
        batch_size: int = 32,
        checkpoint: Any = None,
        checkpoint_every: int = 1,
        privacy: Any = "none",
        federation: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.party = party
        self.strategy = strategy
        self.n_rounds = n_rounds
        self.local_epochs = local_epochs
        self.cohort = cohort
        self.min_parties = min_parties
        self.personal = personal
        self.deploy = deploy
        self.fine_tune_epochs = fine_tune_epochs
        self.validation = validation
        self.patience = patience
        self.compression = compression
        self.criterion = criterion
        self.optimizer = optimizer
        self.lr = lr
        self.batch_size = batch_size
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.privacy = privacy
        self.federation = federation
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any, sample_party: Any = None) -> FederatedFineTuner:
        """Train on the rows of all parties.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, ...)
            Rows; more than two axes for networks, as of images.
        y : array-like of shape (n_rows,) or (n_rows, ...)
            Targets.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose, unless `party` names a column.

        Returns
        -------
        FederatedFineTuner
            The object itself.

        Raises
        ------
        ValueError
            If X, y or the parties cannot be used, or too few parties reply; a PartyError names
            the party.
        """
        with self._unchanged_on_failure():
            kind_of(self.estimator)
            check_private(self)
            owners, X = self._read(X, sample_party, reset=True)
            self._train(split_rows(owners, X, self._read_y(X, y)))
            return self

    def predict(self, X: Any, sample_party: Any = None) -> np.ndarray:
        """Predict classes or numbers.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, ...)
            Rows.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose, if known and no column of X.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, ...)
            The predictions.
        """
        found = self._apply("predict", X, sample_party)
        return self.classes_[found] if self._classifies() else found

    @available_if(has_output("predict_proba"))
    def predict_proba(self, X: Any, sample_party: Any = None) -> np.ndarray:
        """Predict probabilities of classes.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, ...)
            Rows.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose, if known and no column of X.

        Returns
        -------
        ndarray of shape (n_rows, n_classes)
            Probabilities in the order of ``classes_``.
        """
        return self._apply("predict_proba", X, sample_party)

    @available_if(has_output("decision_function"))
    def decision_function(self, X: Any, sample_party: Any = None) -> np.ndarray:
        """Return the scores of classes.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, ...)
            Rows.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose, if known and no column of X.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_classes)
            Scores.
        """
        return self._apply("decision_function", X, sample_party)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy, or for regression the coefficient of determination.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, ...)
            Rows.
        y : array-like of shape (n_rows,) or (n_rows, ...)
            True targets.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights.

        Returns
        -------
        float
            The score.
        """
        metric = accuracy_score if self._classifies() else r2_score
        return float(metric(y, self.predict(X), sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if self.estimator is None:
            return tags
        if not isinstance(self.estimator, torch.nn.Module):
            wrapped = get_tags(self.estimator)
            tags.estimator_type = wrapped.estimator_type
            tags.classifier_tags = wrapped.classifier_tags
            tags.regressor_tags = wrapped.regressor_tags
            if tags.classifier_tags is not None:
                tags.classifier_tags.multi_label = False
            return tags
        if self._classifies():
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        else:
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        return tags

    def _classifies(self) -> bool:
        return classifies(self.estimator, self.criterion)

    def _read(self, X: Any, sample_party: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the party of each row, and the rows without it as an array."""
        _check_feature_names(self, X, reset=reset)
        X = as_table(X) if getattr(X, "ndim", 2) < 3 else np.asarray(X)
        if reset:
            self.n_features_in_ = X.shape[1]
        elif X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        owners = self._owners(X, sample_party)
        X = check_array(self._without_party(X), allow_nd=True, estimator=self, input_name="X")
        return owners, X

    def _read_y(self, X: np.ndarray, y: Any) -> np.ndarray:
        """Check y; classes become their positions."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        if self._classifies():
            y = column_or_1d(y, warn=True)
            check_classification_targets(y)
            self.classes_, y = np.unique(y, return_inverse=True)
            if len(self.classes_) < 2:
                raise ValueError(f"y has one class, {self.classes_[0]!r}; it needs at least 2")
        else:
            y = check_array(
                y, ensure_2d=False, allow_nd=True, dtype=np.float64, estimator=self, input_name="y"
            )
            single = y.ndim == 2 and y.shape[1] == 1
            if single or kind_of(self.estimator) == "coefficients":
                y = column_or_1d(y, warn=True)
        if len(y) != len(X):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {[len(X), len(y)]}"
            )
        return np.asarray(y)

    def _train(self, rows: Mapping[str, Rows]) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        n_classes = len(self.classes_) if self._classifies() else 0
        shape = Shape(next(iter(rows.values())).X.shape[1], n_classes)
        given = self.strategy
        strategy = STRATEGIES[given]() if isinstance(given, str) else given
        compression = self.compression or Compression()
        evidence = self.deploy == "best" or self.patience is not None
        if self.deploy == "best" and not isinstance(self.validation, Real | None):
            raise ValueError(
                "deploy='best' needs rows that each party holds out, not whole parties"
            )
        privacy = None if isinstance(self.privacy, str) else self.privacy
        check_strategy(privacy, strategy)
        job = Job(
            recipe=self._recipe(),
            shape=shape,
            strategy=strategy,
            local_epochs=self.local_epochs,
            compression=Compression(True) if compression == "eight_bits" else compression,
            held_out=held_out_shares(self.validation, evidence, list(rows)),
            schedule=self._schedule,
            compare=self._compare(),
            checkpoint=self._checkpoint(rows),
            privacy=privacy,
        )
        ledger = Ledger()
        services, channels = self._open(rows, row_answers(job.recipe), ledger)
        done = tune(job, services, channels, ledger, seed)
        self.model_, progress = done.model, done.progress
        fitted: Any = self.model_.fitted()
        if n_classes and kind_of(self.estimator) == "coefficients":
            fitted.classes_ = self.classes_
        self.estimator_ = fitted
        self._set_parties({name: rows[name] for name in done.ready}, ledger)
        self.noise_ = done.noise
        self.history_, self.n_iter_ = progress.history, progress.n_rounds
        self.report_ = TuningReport.of_fit(
            "accuracy" if n_classes else "r2",
            done.ready,
            done.compared,
            history=self.history_,
            ledger=ledger,
            seconds=done.seconds,
        )

    def _recipe(self) -> LocalRecipe:
        if isinstance(self.personal, str):
            raise TypeError(f"personal is a sequence of names, write ({self.personal!r},)")
        network = isinstance(self.estimator, torch.nn.Module)
        return LocalRecipe(
            copy.deepcopy(self.estimator) if network else clone(self.estimator),
            personal=tuple(self.personal),
            criterion=self.criterion,
            optimizer=self.optimizer,
            lr=self.lr,
            batch_size=self.batch_size,
        )

    def _schedule(self, n_parties: int) -> Schedule:
        cohort = n_parties if self.cohort is None else self.cohort
        cohort = cohort if isinstance(cohort, Integral) else max(1, round(cohort * n_parties))
        if self.min_parties > min(int(cohort), n_parties):
            raise ValueError(
                f"min_parties={self.min_parties} and a round has {min(int(cohort), n_parties)} "
                "parties"
            )
        return Schedule(self.n_rounds, min(int(cohort), n_parties), self.min_parties, self.patience)

    def _compare(self) -> Comparison | None:
        if self.deploy == "federated" and not isinstance(self.validation, Real):
            return None
        epochs = self.local_epochs * self.n_rounds
        return Comparison(self.deploy, self.fine_tune_epochs, epochs)

    def _checkpoint(self, rows: Mapping[str, Rows]) -> Checkpoint | None:
        """Return where this very training is saved: same data, same parameters."""
        if self.checkpoint is None:
            return None
        strategy = self.strategy
        if getattr(strategy, "name", strategy) == "fedbuff":
            raise ValueError("fedbuff cannot be saved: parties are under way between versions")
        params = self.get_params(deep=False)
        for name in ("checkpoint", "checkpoint_every", "federation", "estimator"):
            del params[name]
        key = fingerprint(params, self.estimator, {n: (own.X, own.y) for n, own in rows.items()})
        return Checkpoint(Path(self.checkpoint) / key, self.checkpoint_every)

    def _apply(self, method: str, X: Any, sample_party: Any) -> np.ndarray:
        check_is_fitted(self)
        owners, X = self._read(X, sample_party, reset=False)
        return self.model_.apply(method, owners, X)
