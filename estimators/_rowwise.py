"""What row-wise federated estimators share: whose row is whose, one fit at all parties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._indexing import _safe_indexing

from fedtl.exceptions import PartyError
from fedtl.federation import InProcessChannel, Ledger, RowParties, Simulation
from fedtl.learning.targets import is_missing
from fedtl.parties import Answer, Rows

ONLY_PARTY = "all"


class RowwiseEstimator(BaseEstimator):
    """Base of the estimators whose parties hold rows of the same kind.

    Lifecycle of a fit: each row's owner is read from `sample_party`, which is fit metadata, or
    from the column `party` of X, which is then known at prediction time too and no feature; each
    party gets a service that holds its rows; the coordinator, who holds none, talks to all of
    them through channels that count every byte. Attributes are set once a fit has succeeded, so
    that a failed one changes nothing: do all of it inside :meth:`_unchanged_on_failure`.
    """

    party: str | int | None
    federation: Simulation | None
    ledger_: Ledger
    parties_: list[str]
    n_parties_: int

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "party": [str, Integral, None],
        "federation": [Simulation, None],
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
            return np.full(n_rows, ONLY_PARTY, dtype=object)
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
    ) -> tuple[RowParties, dict[str, InProcessChannel]]:
        """Give each party a service, and open a channel to it that knows its rows."""
        services = (self.federation or Simulation()).row_parties(rows, answers)
        return services, services.channels(rows, ledger)

    def _set_parties(self, rows: Mapping[str, Rows], ledger: Ledger) -> None:
        """Set the attributes that say who took part in the fit."""
        self.parties_, self.n_parties_, self.ledger_ = list(rows), len(rows), ledger


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
