"""What row-wise federated estimators share: whose row is whose, one fit at all parties."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.utils._indexing import _safe_indexing

from fedtl.estimators._origin import Origin, origin_of
from fedtl.exceptions import PartyError
from fedtl.federation import Channel, Federation, Ledger, RowParties, Simulation
from fedtl.learning.targets import is_missing
from fedtl.parties import Answer, Label, Rows, as_label
from fedtl.protocols.row_session import ask_classes, open_rows

ONLY_PARTY = "all"
OWN = "own"
"""Name of the asking party, where the others are remote and nobody says whose its rows are."""


class RowwiseEstimator(BaseEstimator):
    """Base of the estimators whose parties hold rows of the same kind.

    Lifecycle of a fit: each row's owner is read from `sample_party`, which is fit metadata, or
    from the column `party` of X, which is then known at prediction time too and no feature; each
    party gets a service that holds its rows; the coordinator, who holds none, talks to all of
    them through channels that count every byte. Attributes are set once a fit has succeeded, so
    that a failed one changes nothing: do all of it inside :meth:`_unchanged_on_failure`.
    """

    party: str | int | None
    federation: Simulation | Federation | None
    ledger_: Ledger
    parties_: list[str]
    n_parties_: int
    feature_names_in_: np.ndarray

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "party": [str, Integral, None],
        "federation": [Simulation, Federation, None],
    }

    def _without_party(self, X: Any) -> Any:
        """Return X without the column that says whose row is whose; X itself if there is none."""
        if self.party is None:
            return X
        column = self._party_position(X)
        kept = [c for c in range(X.shape[1]) if c != column]
        if not kept:
            raise ValueError(f"X has no column beside party={self.party!r} (0 feature(s))")
        return _safe_indexing(X, kept, axis=1)

    def _owners(self, X: Any, sample_party: Any = None) -> np.ndarray:
        """Return the name of each row's party.

        Parameters
        ----------
        X : array or dataframe of shape (n_rows, ...)
            Rows.
        sample_party : array-like of shape (n_rows,), default=None
            Whose row is whose, unless it is a column of X.

        Returns
        -------
        ndarray of shape (n_rows,), dtype object
            Names: the strings of the values, whole numbers without a point.

        Raises
        ------
        ValueError
            If the owners are said twice, do not match the rows, or are missing for some.
        """
        n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
        if self.party is None and sample_party is None:
            alone = OWN if isinstance(self.federation, Federation) else ONLY_PARTY
            return np.full(n_rows, alone, dtype=object)
        if self.party is None:
            where, values = "sample_party", sample_party
        elif sample_party is None:
            where = f"the column party={self.party!r}"
            values = _safe_indexing(X, self._party_position(X), axis=1)
        else:
            raise ValueError(
                f"party={self.party!r} names a column of X that says whose row is whose, and "
                "sample_party was passed as well; use one of them"
            )
        values = _as_objects(values)
        if values.shape != (n_rows,):
            raise ValueError(
                f"{where} must have the party of each of the {n_rows} rows, that is the shape "
                f"({n_rows},), got {values.shape}"
            )
        names = np.array([_name(value) for value in values], dtype=object)
        missing = np.flatnonzero(is_missing(values) | (names == ""))
        if len(missing):
            raise ValueError(
                f"{where} is missing for {len(missing)} of {n_rows} rows, the first of them row "
                f"{missing[0]}; every row has to belong to a party, or be left out"
            )
        return names

    def _party_position(self, X: Any) -> int:
        n_columns = X.shape[1] if getattr(X, "ndim", 2) == 2 and hasattr(X, "shape") else 0
        has = f"has {n_columns} columns"
        if hasattr(X, "columns"):
            has = f"has the columns {list(X.columns)[:20]}"
        elif isinstance(self.party, str):
            has = (
                "has no column names: pass a dataframe, give the column by position, or pass "
                "sample_party to fit"
            )
        position = -1
        if isinstance(self.party, Integral):
            position = int(self.party)
        elif hasattr(X, "columns"):
            names = list(X.columns)
            position = names.index(self.party) if self.party in names else -1
        if not 0 <= position < n_columns:
            raise ValueError(f"party={self.party!r} is no column of X, which {has}")
        return position

    @contextmanager
    def _unchanged_on_failure(self) -> Iterator[None]:
        """Put every fitted attribute back if the block raises."""
        before = {k: v for k, v in self.__dict__.items() if k.endswith("_")}
        try:
            yield
        except BaseException:
            for name in [k for k in self.__dict__ if k.endswith("_") and k not in before]:
                del self.__dict__[name]
            self.__dict__.update(before)
            raise

    def _open(
        self,
        rows: Mapping[str, Rows],
        answers: Mapping[str, tuple[str, Answer]],
        ledger: Ledger,
        fit: str,
        *,
        origin: Origin | None = None,
        allow_missing: bool = False,
    ) -> tuple[RowParties, dict[str, Channel]]:
        """Give each party a service, and open a channel to it that knows its rows.

        Remote parties have services and rows already; they are told how to read these, by the
        `origin` of the columns.
        """
        federation = self.federation or Simulation()
        services = federation.row_parties(rows, answers)
        elsewhere = federation.rows_elsewhere(ledger)
        if elsewhere and origin is not None:
            open_rows(
                elsewhere,
                fit,
                columns=origin.columns,
                steps=origin.steps,
                target=self._target_kind(),
                classes=labels_of(getattr(self, "classes_", ())),
                allow_missing=allow_missing,
            )
        channels: dict[str, Channel] = {**services.channels(rows, ledger), **elsewhere}
        return services, dict(sorted(channels.items()))

    def _all_classes(self, own: np.ndarray) -> np.ndarray:
        """Return the classes in order, those that only remote parties have among them."""
        elsewhere = (self.federation or Simulation()).rows_elsewhere(self.ledger_)
        classes = own
        for name, labels in ask_classes(elsewhere).items():
            if any(isinstance(label, str) != (own.dtype.kind in "UOS") for label in labels):
                raise PartyError(
                    name, f"has the classes {labels[:10]}, and y has {own[:10]}: text and numbers"
                )
            classes = np.union1d(classes, np.array(labels).astype(own.dtype, copy=False))
        return classes

    def _origin(self, X: Any) -> Origin | None:
        """Return by what remote parties find, or make, the columns of X; None if none is remote.

        X has been checked, so that the names of its columns are known if it has any.
        """
        if not isinstance(self.federation, Federation):
            return None
        if getattr(X, "ndim", 2) != 2:
            raise ValueError(
                f"X has the shape {X.shape}; remote parties have tables, so that X must "
                "have two axes (a module can give rows another shape by itself)"
            )
        if not hasattr(self, "feature_names_in_"):
            raise ValueError(
                "X has no names of columns, by which remote parties find theirs: pass a dataframe. "
                "If X comes out of a federated transformer, it tells them what it did by a pandas "
                "dataframe: set_output(transform='pandas')"
            )
        return origin_of(self._without_party(X), self._column_names(X))

    def _column_names(self, X: Any) -> list[str]:
        """Return names of the columns of X, without that of the party."""
        names = [str(name) for name in self.feature_names_in_]
        if self.party is not None:
            del names[self._party_position(X)]
        return names

    def _target_kind(self) -> str:
        """What the target is to parties: none, numbers, or classes by their position."""
        return "classes" if is_classifier(self) else "numbers" if is_regressor(self) else "none"

    def _set_parties(self, channels: Mapping[str, Channel], ledger: Ledger) -> None:
        """Set the attributes that say who took part in the fit."""
        self.parties_, self.n_parties_, self.ledger_ = list(channels), len(channels), ledger


def split_rows(
    owners: np.ndarray, X: Any, y: np.ndarray | None = None, sample_weight: Any = None
) -> dict[str, Rows]:
    """Give every party its rows; rows of weight zero are left out.

    Parameters
    ----------
    owners : ndarray of shape (n_rows,), dtype object
        Names of the parties.
    X : ndarray of shape (n_rows, ...) or dataframe of shape (n_rows, n_columns)
        Rows.
    y : ndarray of shape (n_rows,) or (n_rows, n_outputs), default=None
        Targets.
    sample_weight : ndarray of shape (n_rows,), dtype float64, default=None
        Weights.

    Returns
    -------
    dict of str to Rows
        By party, in the order of their names.

    Raises
    ------
    ValueError
        If no row has a weight.
    """
    used = np.ones(len(owners), dtype=bool) if sample_weight is None else sample_weight != 0
    if not used.any():
        raise ValueError("sample_weight must have at least one non-zero entry")
    positions = np.flatnonzero(used)
    names, codes = np.unique(owners[positions], return_inverse=True)
    ends = np.cumsum(np.bincount(codes))[:-1]
    parts = np.split(positions[np.argsort(codes, kind="stable")], ends)
    return {
        name: Rows(
            _safe_indexing(X, own),
            None if y is None else y[own],
            None if sample_weight is None else sample_weight[own],
        )
        for name, own in zip(names, parts, strict=True)
    }


def labels_of(classes: Iterable[Any]) -> list[Label]:
    """Return classes as texts and plain numbers."""
    return [as_label(label) for label in np.asarray(classes).tolist()]


def check_parties(names: Any, known: list[str]) -> None:
    """Refuse rows of parties that took no part in the fit, naming the first such party."""
    for name in sorted(set(names) - set(known)):
        raise PartyError(name, f"took no part in the fit; the parties are {known}")


def _as_objects(values: Any) -> np.ndarray:
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    values = np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    return values.astype(object)


def _name(value: Any) -> str:
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)
