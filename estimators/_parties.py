"""Which columns of X belong to whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils._indexing import _get_column_indices, _safe_indexing

from fedtl.estimators._encoder import Encoder
from fedtl.exceptions import PartyError


@dataclass(frozen=True)
class Party:
    """One party of an estimator, with its columns resolved.

    Parameters
    ----------
    name : str
        Its name.
    encoder : Encoder
        Its recipe.
    columns : tuple of int
        Positions of its columns in X.
    """

    name: str
    encoder: Encoder
    columns: tuple[int, ...]

    def block(self, X: Any) -> Any:
        """Return this party's columns of X, as an array or frame of the same kind."""
        return _safe_indexing(X, list(self.columns), axis=1)


def as_table(X: Any, *, ensure_min_samples: int = 1) -> Any:
    """Check X without touching its values: a frame stays a frame, anything else is an array.

    Parameters
    ----------
    X : array-like or dataframe of shape (n_rows, n_columns)
        Numbers, categories and missing values in any mixture.
    ensure_min_samples : int, default=1
        Least number of rows.

    Returns
    -------
    ndarray or dataframe of shape (n_rows, n_columns)
        X.

    Raises
    ------
    ValueError
        If X is sparse, complex, empty or not two-dimensional.
    """
    if issparse(X):
        raise TypeError("Sparse data was passed, but dense data is required: use '.toarray()'")
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        if frame.shape[0] < ensure_min_samples or not frame.shape[1]:
            what = "sample" if frame.shape[0] < ensure_min_samples else "feature"
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={frame.shape}) while a minimum "
                f"of 1 is required."
            )
        return X
    X = check_array(X, dtype=None, ensure_all_finite=False, ensure_min_samples=ensure_min_samples)
    return X if X.dtype.kind in "fiubO" else X.astype(object)


def resolve_parties(
    parties: Any, X: Any, reserved: frozenset[str] = frozenset(), without: int | None = None
) -> list[Party]:
    """Find each party's columns.

    Parameters
    ----------
    parties : list of (str, Encoder, columns), dict of str to columns, or None
        As a user gives them; None is one party with all columns.
    X : ndarray or dataframe of shape (n_rows, n_columns)
        Training data.
    reserved : frozenset of str, optional
        Names that a party must not have.
    without : int, optional
        A column that belongs to no party: that of the ids.

    Returns
    -------
    list of Party
        The active party first.

    Raises
    ------
    ValueError
        If names or columns are repeated, unknown or shared between parties.
    """
    n_columns = X.shape[1]
    if parties is None:
        own = tuple(column for column in range(n_columns) if column != without)
        return [Party("all", Encoder(), own)]
    specs = _as_specs(parties)
    names = [name for name, _, _ in specs]
    _check_names(names, reserved)
    resolved = [
        Party(name, encoder, _columns(name, columns, X)) for name, encoder, columns in specs
    ]
    for party in resolved:
        if without is not None and without in party.columns:
            raise PartyError(
                party.name,
                f"claims the column {_label(X, without)!r}, which holds the rows' ids (key=); "
                "leave it out of the party's columns",
            )
    owners = Counter(column for party in resolved for column in party.columns)
    shared = [column for column, count in owners.items() if count > 1]
    if shared:
        shown = [_label(X, column) for column in shared[:5]]
        claimed = [party.name for party in resolved if set(party.columns) & set(shared)]
        raise ValueError(
            f"the parties {claimed} all claim the columns {shown}; a column belongs to one party"
        )
    return resolved


def _as_specs(parties: Any) -> list[tuple[str, Encoder, Any]]:
    if isinstance(parties, Mapping):
        specs = [(name, Encoder(), columns) for name, columns in parties.items()]
    else:
        specs = list(parties)
    if not specs:
        raise ValueError("parties is empty; name at least one party, or pass None")
    for spec in specs:
        if not (isinstance(spec, tuple) and len(spec) == 3 and isinstance(spec[0], str)):
            raise ValueError(
                f"a party is a tuple (name, Encoder, columns), got {spec!r}; or pass a dict "
                "{name: columns}"
            )
        if not isinstance(spec[1], Encoder):
            raise TypeError(
                f"party {spec[0]!r}: expected an Encoder, got {type(spec[1]).__name__}; wrap a "
                "transformer as Encoder(preprocessor=...) and a torch module as "
                "Encoder(module)"
            )
    return specs


def _check_names(names: list[str], reserved: frozenset[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"parties have the same name: {repeated}")
    for name in names:
        if not name or "__" in name:
            raise ValueError(f"party name {name!r} must not be empty or contain '__'")
        if name in reserved:
            raise ValueError(f"party name {name!r} is a parameter of the estimator; choose another")


def _columns(name: str, columns: Any, X: Any) -> tuple[int, ...]:
    if callable(columns):
        columns = columns(X)
    if isinstance(columns, slice) and columns == slice(None):
        columns = list(range(X.shape[1]))
    try:
        found = [int(c) for c in np.atleast_1d(_get_column_indices(X, columns))]
    except (ValueError, IndexError, KeyError) as error:
        hint = ""
        if hasattr(X, "columns"):
            wanted = [columns] if isinstance(columns, str) else columns
            unknown = [c for c in wanted if isinstance(c, str) and c not in list(X.columns)]
            hint = f" (unknown: {unknown[:5]}; X has {list(X.columns)[:20]})" if unknown else ""
        elif "dataframe" in str(error).lower():
            hint = (
                " X has no column names: an earlier step dropped them; give that step "
                ".set_output(transform='pandas'), or give columns by position"
            )
        raise ValueError(f"party {name!r}: {error}{hint}") from error
    if not found:
        raise PartyError(
            name, f"its columns {columns!r} select none of X, which has n_features={X.shape[1]}"
        )
    repeated = [_label(X, column) for column, count in Counter(found).items() if count > 1]
    if repeated:
        raise PartyError(name, f"names the columns {repeated[:5]} more than once")
    return tuple(found)


def _label(X: Any, column: int) -> Any:
    return X.columns[column] if hasattr(X, "columns") else column
