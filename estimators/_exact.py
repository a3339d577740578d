"""What the exact row-wise models share: checked rows for every party, and who answers for them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_feature_names,
    _check_feature_names_in,
    _check_n_features,
    _check_sample_weight,
    check_is_fitted,
)

from fedtl.estimators._origin import with_origin
from fedtl.estimators._rowwise import RowwiseEstimator, split_rows
from fedtl.exceptions import PartyError
from fedtl.federation import Channel, Federation, Ledger, RowParties
from fedtl.learning.steps import Step
from fedtl.parties import Rows
from fedtl.privacy import SecureAggregation
from fedtl.protocols import ROW_ANSWERS
from fedtl.solvers.secure_sums import check_members
from fedtl.solvers.statistics import OpenStatistics, SecureStatistics, Statistics

PRIVACY: dict[str, Any] = {"privacy": [StrOptions({"auto", "none"}), SecureAggregation]}


@dataclass(frozen=True, eq=False)
class Fit:
    """A fit under way.

    Parameters
    ----------
    name : str
        Its name at the parties.
    rows : dict of str to Rows
        The parties' rows.
    n_columns : int
        Number of features.
    ledger : Ledger
        Where messages are counted.
    services : RowParties
        The parties, without rows.
    channels : dict of str to Channel
        Channels to all parties, remote ones among them, in the order of their names.
    statistics : Statistics
        What is asked of all of them.
    """

    name: str
    rows: Mapping[str, Rows]
    n_columns: int
    ledger: Ledger
    services: RowParties
    channels: Mapping[str, Channel]
    statistics: Statistics


class ExactModel(RowwiseEstimator):
    """Base of the models that follow from sums over all rows.

    A subclass reads its rows with :meth:`_begin`, asks its ``statistics``, and ends
    with :meth:`_set_parties`, all inside :meth:`_unchanged_on_failure`.
    """

    _party_position_: int | None

    def _begin(
        self,
        X: Any,
        sample_weight: Any,
        sample_party: Any,
        *,
        target: Callable[[np.ndarray], np.ndarray] | None = None,
        y: Any = None,
        allow_nan: bool = False,
    ) -> Fit:
        """Check training data, divide it between the parties, and reach them.

        Rows of weight zero are left out before anything else is looked at. `target` turns the
        checked y of the others into what the parties hold.
        """
        ledger = self.ledger_ = Ledger()
        features = self._features(X, reset=True, allow_nan=True)
        origin = self._origin(X)
        owners = self._owners(X if hasattr(X, "shape") else np.asarray(X), sample_party)
        if target is not None:
            y = self._checked_target(y, len(features))
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, features, dtype=np.float64, ensure_non_negative=True
            )
            used = np.flatnonzero(weight)
            if not len(used):
                raise ValueError("sample_weight must have at least one non-zero entry")
            features, owners, weight = features[used], owners[used], weight[used]
            y = None if target is None else y[used]
        rows = split_rows(owners, features, None if target is None else target(y), weight)
        self._refuse_values(rows, allow_nan)
        name = secrets.token_hex(16)
        services, channels = self._open(
            rows, ROW_ANSWERS, ledger, name, origin=origin, allow_missing=allow_nan
        )
        statistics: Statistics = OpenStatistics(channels, name)
        if self._secure():
            check_members(len(channels))
            statistics = SecureStatistics(channels, name)
        return Fit(name, rows, features.shape[1], ledger, services, channels, statistics)

    def _secure(self) -> bool:
        """Whether parties' sums are seen as totals only; by default those of remote parties."""
        privacy = getattr(self, "privacy", "none")
        remote = isinstance(self.federation, Federation)
        return isinstance(privacy, SecureAggregation) or (privacy == "auto" and remote)

    def _coded(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes of all parties in order, and each row's position among them."""
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        classes = self._all_classes(np.unique(y))
        return classes, np.searchsorted(classes, y).astype(np.int64)

    def _features(self, X: Any, *, reset: bool, allow_nan: bool = False) -> np.ndarray:
        """Return the features of X as numbers, without the column of the party."""
        if not reset:
            check_is_fitted(self)
        _check_feature_names(self, X, reset=reset)
        features, position = X, None
        if self.party is not None:
            table = X if hasattr(X, "shape") else np.asarray(X)
            position, features = self._party_position(table), self._without_party(table)
        if reset:
            self._party_position_ = position
        features = check_array(
            features,
            dtype=np.float64,
            ensure_all_finite="allow-nan" if allow_nan and not reset else not allow_nan,
            estimator=self,
            input_name="X",
        )
        _check_n_features(self, features if self.party is None else X, reset=reset)
        return features

    def _put_out(self, X: Any, features: np.ndarray, step: Step) -> Any:
        """Return what a step makes of the features of X.

        With remote parties and pandas output, it is a frame that says so to what is fitted next.
        """
        made = step.apply(features)
        named = hasattr(X, "columns") and hasattr(self, "feature_names_in_")
        remote = isinstance(self.federation, Federation) and named
        if not remote or _get_output_config("transform", self)["dense"] != "pandas":
            return made
        names = self.get_feature_names_out()
        return with_origin(self._without_party(X), self._column_names(X), step, made, names)

    def _checked_target(self, y: Any, n_rows: int) -> np.ndarray:
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        if not hasattr(y, "__len__") and not hasattr(y, "__array__"):
            raise ValueError(f"y must be an array of shape ({n_rows},), got {y!r}")
        y = check_array(y, dtype=None, ensure_2d=False, ensure_all_finite=False, input_name="y")
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            found = "NaN" if np.isnan(y).any() else "infinity"
            raise ValueError(f"Input y contains {found}; leave rows without a target out")
        check_consistent_length(np.empty(n_rows), y)
        return y

    def _refuse_values(self, rows: Mapping[str, Rows], allow_nan: bool) -> None:
        """Refuse infinity, and NaN where it has no meaning, with party and columns."""
        for name, own in rows.items():
            for what, bad in (("infinity", np.isinf(own.X)), ("NaN", np.isnan(own.X))):
                if not bad.any() or (allow_nan and what == "NaN"):
                    continue
                hint = "; fill it before, as with FederatedSimpleImputer" if what == "NaN" else ""
                columns = self._feature_names()[bad.any(axis=0)]
                raise PartyError(
                    name,
                    f"Input X contains {what} in {bad.any(axis=1).sum()} of {len(own)} rows, in "
                    f"the columns {columns[:10].tolist()}{hint}",
                )

    def _feature_names(self, input_features: Any = None) -> np.ndarray:
        names = _check_feature_names_in(self, input_features)
        if self._party_position_ is not None:
            names = np.delete(names, self._party_position_)
        return np.asarray(names)


class PartyFeaturesOut:
    """Names of the columns that a transformer leaves one for one."""

    _done: str  # what it did to them

    def get_feature_names_out(self: Any, input_features: Any = None) -> np.ndarray:
        """Get names of the columns that come out.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the columns of X, if it had none.

        Returns
        -------
        ndarray of str
            The names, without the column of the party. With remote parties they say what was done:
            what is fitted next must not take the output for columns that these parties have, should
            a step in between lose what a dataframe says of its origin.
        """
        check_is_fitted(self, "n_features_in_")
        names = self._feature_names(input_features)
        if not isinstance(self.federation, Federation):
            return names
        return np.array([f"{self._done} {name}" for name in names], dtype=object)


def as_numbers(y: np.ndarray) -> np.ndarray:
    """Return regression targets as numbers: (n_rows,) or (n_rows, n_outputs), float64."""
    y = y.astype(np.float64)
    return y if y.ndim == 2 and y.shape[1] > 1 else column_or_1d(y, warn=True)
