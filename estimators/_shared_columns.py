"""Transfer between parties with different rows and few columns in common."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from fedtl.estimators._exact import ExactModel, as_numbers
from fedtl.exceptions import PartyError
from fedtl.protocols.shared import ask_model, indicators
from fedtl.solvers.anchored import AnchoredModel, fit_anchored


class SharedColumns(ExactModel):
    """What classifier and regressor share; see :class:`FederatedSharedColumnsClassifier`."""

    active: str | None
    n_folds: int
    n_bins: int
    random_state: Any
    model_: AnchoredModel

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ExactModel._parameter_constraints,
        "active": [str, None],
        "n_folds": [Interval(Integral, 2, 50, closed="both")],
        "n_bins": [Interval(Integral, 1, 64, closed="both")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        active: str | None = None,
        *,
        n_folds: int = 5,
        n_bins: int = 8,
        party: str | int | None = None,
        federation: Any = None,
        random_state: Any = None,
    ) -> None:
        self.active = active
        self.n_folds = n_folds
        self.n_bins = n_bins
        self.party = party
        self.federation = federation
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, sample_party: Any = None
    ) -> SharedColumns:
        """Fit the active party's model, with what the others' models say of shared columns.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows of all parties, in the columns of all; NaN where a party records none.
        y : array-like of shape (n_rows,)
            Targets.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose; with None and ``party=None``, there is one party.

        Returns
        -------
        SharedColumns
            The object itself.

        Raises
        ------
        ValueError
            If X, y or the owners cannot be used, or nobody is the active party; a PartyError
            names the party.
        """
        with self._unchanged_on_failure():
            self._fit(X, y, sample_weight, sample_party)
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any, sample_party: Any) -> None:
        fit = self._begin(
            X, sample_weight, sample_party, y=y, target=self._learn_target, allow_nan=True
        )
        active = self._active(list(fit.rows))
        own = fit.rows[active]
        assert own.y is not None
        recorded = np.flatnonzero(~np.isnan(own.X).all(axis=0))
        if len(own) < 2 or not len(recorded):
            raise PartyError(
                active,
                f"the active party has {len(own)} row(s) (n_samples={len(own)}) and "
                f"{len(recorded)} columns with a value; it needs 2 rows and a column",
            )
        n_classes = len(getattr(self, "classes_", ()))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        donors = {
            name: ask_model(
                channel, fit.name, recorded, n_classes=n_classes, n_bins=self.n_bins, seed=seed
            )
            for name, channel in fit.channels.items()
            if name != active
        }
        self.model_ = fit_anchored(
            own.X,
            recorded,
            indicators(own.y, n_classes) if n_classes else own.y[:, None],
            own.weight,
            donors,
            order=own.y if n_classes else None,
            n_folds=self.n_folds,
            n_bins=self.n_bins,
            seed=seed,
        )
        self.active_, self.recorded_ = active, recorded
        names = self._feature_names()
        self.shared_columns_ = {name: names[c].tolist() for name, (c, _) in donors.items()}
        self.gain_, self.trust_ = self.model_.gain, self.model_.trust
        self._set_parties(fit.channels, fit.ledger)

    def _active(self, names: list[str]) -> str:
        if self.active is None and len(names) == 1:
            return names[0]
        if self.active not in names:
            raise ValueError(
                f"active={self.active!r}: name the party that the model is for, one of {names}"
            )
        return str(self.active)

    def _learn_target(self, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _scores(self, X: Any) -> np.ndarray:
        numbers = self._features(X, reset=False, allow_nan=True)
        return self.model_.scores(numbers, self.recorded_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class FederatedSharedColumnsClassifier(ClassifierMixin, SharedColumns):
    """A classifier for a party with few labels, helped by others that share only some columns.

    The parties hold different rows and record different columns; a few columns are recorded by
    the active party and by another one. Each other party fits a model of all its columns and
    distils it into one of the shared columns, which is all that crosses, in one round. The active
    party fits its own model around the scores of these, and held-out rows decide how far they are
    trusted.

    Parameters
    ----------
    active : str or None, default=None
        The party that the model is for; None is allowed for a single party.
    n_folds : int, default=5
        Folds of the held-out evidence.
    n_bins : int, default=8
        Bins of the piecewise-linear encodings.
    party : str, int or None, default=None
        Name or position of a column of X that says whose row is whose, and is no feature.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process; with a `Federation`, X
        has this party's own rows only, in the columns of all.
    random_state : int, RandomState instance or None, default=None
        Draws folds and trees.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes.
    active_ : str
        The active party.
    shared_columns_ : dict of str to list
        By party, the columns that it and the active party record.
    gain_ : Gain
        Relative reduction of the held-out squared error by the others' models, with its interval.
    trust_ : float
        How far these are trusted: from 0, the active party's own model serves, to 1.
    parties_ : list of str
        Names of the parties that took part.
    n_parties_ : int
        Their number.
    ledger_ : Ledger
        What crossed: one message to each other party, and one back.
    n_features_in_ : int
        Number of columns of X, that of the party included.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    See Also
    --------
    FederatedTransferClassifier : For parties that know the same rows.
    FederatedLogisticRegression : For parties that record the same columns.

    Notes
    -----
    Columns are numbers; code categories before. Where the shared columns say little, do not expect
    a gain: `docs/row-wise.md` has figures.

    Examples
    --------
    >>> import numpy as np
    >>> from fedtl import FederatedSharedColumnsClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1030, 3))
    >>> y = (X.sum(axis=1) > 0).astype(int)
    >>> owner = np.repeat(["clinic", "hospital"], [30, 1000])
    >>> X[owner == "clinic", 2] = np.nan  # the clinic does not record the last column
    >>> X[owner == "hospital", 0] = np.nan
    >>> clf = FederatedSharedColumnsClassifier("clinic", random_state=0)
    >>> clf.fit(X, y, sample_party=owner).shared_columns_
    {'hospital': ['x1']}
    """

    def _learn_target(self, y: np.ndarray) -> np.ndarray:
        self.classes_, codes = self._coded(y)
        if len(self.classes_) < 2:
            raise ValueError("at least 2 classes are needed, but all rows are of one class")
        return codes

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows in all columns; NaN where a value is missing.

        Returns
        -------
        ndarray of shape (n_rows, n_classes), dtype float64
            Probabilities.
        """
        scores = self._scores(X)
        assert self.model_.calibration is not None
        return self.model_.calibration.probabilities(scores)

    def predict(self, X: Any) -> np.ndarray:
        """Predict the most probable class of each row: (n_rows,)."""
        positions = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[positions])


class FederatedSharedColumnsRegressor(RegressorMixin, SharedColumns):
    """The same as :class:`FederatedSharedColumnsClassifier` for real targets.

    Parameters
    ----------
    active : str or None, default=None
        The party that the model is for; None is allowed for a single party.
    n_folds : int, default=5
        Folds of the held-out evidence.
    n_bins : int, default=8
        Bins of the piecewise-linear encodings.
    party : str, int or None, default=None
        Name or position of a column of X that says whose row is whose, and is no feature.
    federation : Simulation, Federation or None, default=None
        How the parties are reached. None simulates them in this process; with a `Federation`, X
        has this party's own rows only, in the columns of all.
    random_state : int, RandomState instance or None, default=None
        Draws folds and trees.

    Attributes
    ----------
    active_ : str
        The active party.
    shared_columns_ : dict of str to list
        By party, the columns that it and the active party record.
    gain_ : Gain
        Relative reduction of the held-out squared error by the others' models, with its interval.
    trust_ : float
        How far these are trusted: from 0, the active party's own model serves, to 1.
    parties_ : list of str
        Names of the parties that took part.
    n_parties_ : int
        Their number.
    ledger_ : Ledger
        What crossed: one message to each other party, and one back.
    n_features_in_ : int
        Number of columns of X, that of the party included.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    See Also
    --------
    FederatedSharedColumnsClassifier : With an example.
    """

    def _learn_target(self, y: np.ndarray) -> np.ndarray:
        y = as_numbers(y)
        if y.ndim == 2:
            raise ValueError("y should be a 1d array, got an array of shape " + str(y.shape))
        return y

    def predict(self, X: Any) -> np.ndarray:
        """Predict.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows in all columns; NaN where a value is missing.

        Returns
        -------
        ndarray of shape (n_rows,), dtype float64
            Predictions.
        """
        return self._scores(X)[:, 0]
