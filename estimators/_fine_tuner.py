"""Any network or incremental model, trained where the rows live."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import _fit_context, clone
from sklearn.utils import check_array, check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets

from fedtl.estimators._origin import Origin
from fedtl.estimators._rowwise import RowwiseEstimator, split_rows
from fedtl.estimators._tuned import TunedEstimator
from fedtl.estimators._tuning_checks import check_private, check_remote, rounds_privacy
from fedtl.federation import Ledger, same_workers
from fedtl.inspection import TuningReport
from fedtl.learning.compression import Compression
from fedtl.learning.local import LocalRecipe, Shape, kind_of
from fedtl.learning.strategies import STRATEGIES, Strategy
from fedtl.parties import Rows
from fedtl.privacy import DifferentialPrivacy, SecureAggregation
from fedtl.protocols import tuning_answers
from fedtl.protocols.rounds import MODELS
from fedtl.solvers.checkpoint import Checkpoint, fingerprint
from fedtl.solvers.private_tuning import check_strategy
from fedtl.solvers.rounds import Schedule
from fedtl.solvers.tuning import Comparison, Job, TunedModel, held_out_shares, tune


class FederatedFineTuner(TunedEstimator):
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
    warm_start : bool, default=False
        Whether `fit` goes on from the model of the last `fit`, personal parameters included; what
        else a strategy remembers starts anew.
    privacy : {"auto", "none"}, SecureAggregation or DifferentialPrivacy, default="auto"
        What protects updates. `SecureAggregation` shows the coordinator their mean only.
        `DifferentialPrivacy` makes them hardly depend on any one row, or on any one party; every
        call of `fit` or `partial_fit` spends anew what it says. "auto" is secure aggregation with
        remote parties, and none in this process.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process. With a
        :class:`~fedtl.federation.Federation`, X has this party's own rows, and the others serve the
        same estimator with theirs: ``serve(name, RowTable(...), trainer=tuner)``.
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
        "warm_start": ["boolean"],
        "privacy": [StrOptions({"auto", "none"}), SecureAggregation, DifferentialPrivacy],
        "random_state": ["random_state"],
    }

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
        warm_start: bool = False,
        privacy: Any = "auto",
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
        self.warm_start = warm_start
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
            start = getattr(self, "model_", None) if self.warm_start else None
            known = getattr(self, "classes_", None) if start else None
            self._begin()
            owners, rows = self._read(X, sample_party, reset=True)
            origin = self._origin(X)
            y = self._read_y(rows, y)
            if known is not None and not np.array_equal(known, self.classes_):
                raise ValueError(
                    f"warm_start: y has the classes {self.classes_}, the last fit had {known}"
                )
            self._train(split_rows(owners, rows, y), origin, self.n_rounds, start)
            return self

    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_party: Any = None
    ) -> FederatedFineTuner:
        """Train one round more, from where the model stands, on these rows.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, ...)
            Rows.
        y : array-like of shape (n_rows,) or (n_rows, ...)
            Targets.
        classes : array-like of shape (n_classes,), default=None
            All classes that y will ever have; needed by the first call of a classifier, where y
            does not have them all.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose, unless `party` names a column.

        Returns
        -------
        FederatedFineTuner
            The object itself; history, report and ledger are those of this call.

        Raises
        ------
        ValueError
            As `fit`, and if y has a class that is not one of `classes`.
        """
        with self._unchanged_on_failure():
            kind_of(self.estimator)
            self._begin()
            start = getattr(self, "model_", None)
            owners, rows = self._read(X, sample_party, reset=start is None)
            origin = self._origin(X)
            if start is not None and self._classifies():
                if classes is not None and not np.array_equal(np.unique(classes), self.classes_):
                    raise ValueError(f"classes={classes!r} are not those of the first call")
                classes = self.classes_
            y = self._read_y(rows, y, classes)
            self._train(split_rows(owners, rows, y), origin, 1, start)
            return self

    def _begin(self) -> None:
        check_private(self)
        check_remote(self)
        self.ledger_ = Ledger()

    def local_recipe(self) -> LocalRecipe:
        """Return the model and how it is trained at a party, for :func:`fedtl.server.serve`.

        Returns
        -------
        LocalRecipe
            With a copy of the model.
        """
        return self._recipe()

    def _target_kind(self) -> str:
        return "classes" if self._classifies() else "numbers"

    def _read_y(self, X: np.ndarray, y: Any, classes: Any = None) -> np.ndarray:
        """Check y; classes, of `classes` if they are given, become their positions."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        if self._classifies():
            y = column_or_1d(y, warn=True)
            check_classification_targets(y)
            self.classes_ = self._all_classes(np.unique(y if classes is None else classes))
            unknown = np.setdiff1d(y, self.classes_)
            if len(unknown):
                raise ValueError(f"y has {unknown[:10]}, which are none of {self.classes_}")
            y = np.searchsorted(self.classes_, y)
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

    def _train(
        self,
        rows: Mapping[str, Rows],
        origin: Origin | None,
        n_rounds: int,
        start: TunedModel | None,
    ) -> None:
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
        privacy = rounds_privacy(self)
        check_strategy(privacy, strategy)
        recipe, ledger, fit = self._recipe(), self.ledger_, secrets.token_hex(16)
        services, channels = self._open(rows, tuning_answers(recipe), ledger, fit, origin=origin)
        job = Job(
            recipe=recipe,
            shape=shape,
            strategy=strategy,
            local_epochs=self.local_epochs,
            compression=Compression(True) if compression == "eight_bits" else compression,
            held_out=held_out_shares(self.validation, evidence, list(channels)),
            schedule=partial(self._schedule, n_rounds),
            compare=self._compare(),
            checkpoint=self._checkpoint(rows, n_rounds, start),
            start=start,
            privacy=privacy,
        )
        with same_workers():
            done = tune(job, services, channels, ledger, seed=seed, fit=fit)
        self.model_, progress = done.model, done.progress
        fitted: Any = self.model_.fitted()
        if n_classes and kind_of(self.estimator) == "coefficients":
            fitted.classes_ = self.classes_
        self.estimator_ = fitted
        self._set_parties({name: channels[name] for name in done.ready}, ledger)
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

    def _schedule(self, n_rounds: int, n_parties: int) -> Schedule:
        cohort = n_parties if self.cohort is None else self.cohort
        cohort = cohort if isinstance(cohort, Integral) else max(1, round(cohort * n_parties))
        if self.min_parties > min(int(cohort), n_parties):
            raise ValueError(
                f"min_parties={self.min_parties} and a round has {min(int(cohort), n_parties)} "
                "parties"
            )
        return Schedule(n_rounds, min(int(cohort), n_parties), self.min_parties, self.patience)

    def _compare(self) -> Comparison | None:
        if self.deploy == "federated" and not isinstance(self.validation, Real):
            return None
        epochs = self.local_epochs * self.n_rounds
        return Comparison(self.deploy, self.fine_tune_epochs, epochs)

    def _checkpoint(
        self, rows: Mapping[str, Rows], n_rounds: int, start: TunedModel | None
    ) -> Checkpoint | None:
        """Return where this very training is saved: same data, same parameters."""
        if self.checkpoint is None:
            return None
        params = self.get_params(deep=False) | {"n_rounds": n_rounds}
        for name in ("checkpoint", "checkpoint_every", "federation", "estimator"):
            del params[name]
        data = {name: (own.X, own.y) for name, own in rows.items()}
        before = start and (start.shared, start.buffers, start.memories)
        key = fingerprint(params, self.estimator, (data, before))
        return Checkpoint(Path(self.checkpoint) / key, self.checkpoint_every)
