"""Batches of columns from any source, put together in the same few types and within bounds."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fedtl.alignment import canonical_ids
from fedtl.exceptions import PartyError
from fedtl.parties._policy import Policy

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Batch = Mapping[str, Any]
"""Columns by name, as arrow arrays of one length."""

_POINTER = 8
_ALIGNMENT = 64  # bytes of a row's key, tag and position


@dataclass(eq=False)
class _Column:
    """The parts of one column, each with the kind of its values; None where it has none."""

    parts: list[tuple[str | None, np.ndarray]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


class FrameBuilder:
    """Collects batches until a table is complete or too large.

    Parameters
    ----------
    party : str
        Name of the party, for errors.
    key : str or None
        Column of the ids, if rows are found by any.
    columns : sequence of str or None
        The other columns that are wanted, in this order; all by default.
    normalisation : str
        How ids are compared.
    policy : Policy
        Bounds of the table.
    """

    def __init__(
        self,
        party: str,
        key: str | None,
        columns: Sequence[str] | None,
        normalisation: str,
        policy: Policy,
    ) -> None:
        self.party, self.key, self.policy = party, key, policy
        self.normalisation = normalisation
        self.ids: list[bytes | None] = []
        self.n_bytes = 0
        self._columns = None if columns is None else {str(name): _Column() for name in columns}

    def add(self, batch: Batch) -> None:
        """Add some rows.

        Parameters
        ----------
        batch : mapping of str to pyarrow array
            Their columns.

        Raises
        ------
        PartyError
            If a column is missing or cannot be used.
        PolicyRefusal
            If the table becomes larger than the policy allows.
        """
        self._check_names(batch)
        n_rows = len(next(iter(batch.values())))
        self.policy.allow_table(self.party, n_rows=len(self.ids) + n_rows)
        self.ids += self._ids(batch, n_rows)
        assert self._columns is not None
        for name, column in self._columns.items():
            self._add(name, column, plain(batch[name]))

    def _ids(self, batch: Batch, n_rows: int) -> list[bytes | None]:
        if self.key is None:
            return [None] * n_rows
        self._grow(_ALIGNMENT * n_rows)
        try:
            return canonical_ids(plain(batch[self.key]), self.normalisation)
        except ValueError as error:
            raise PartyError(self.party, f"its key column {self.key!r}: {error}") from None

    def frame(self) -> pd.DataFrame:
        """Return the rows, and let go of the batches.

        Returns
        -------
        pandas.DataFrame of shape (n_rows, n_columns)
            Columns of float64, datetime64[us] and object.

        Raises
        ------
        PartyError
            If there are no rows, or a column has values of several kinds.
        """
        import pandas as pd

        if not self.ids:
            raise PartyError(self.party, "its table has no rows")
        columns = self._columns or {}
        joined = {name: self._joined(name, columns.pop(name)) for name in list(columns)}
        return pd.DataFrame(joined, index=pd.RangeIndex(len(self.ids)), copy=False)

    def _check_names(self, batch: Batch) -> None:
        if self._columns is None:
            self._columns = {name: _Column() for name in batch if name != self.key}
        wanted = [*([self.key] if self.key else []), *self._columns]
        lacking = [name for name in wanted if name not in batch]
        if lacking:
            raise PartyError(
                self.party, f"its table has no column {lacking[0]!r}; it has {', '.join(batch)}"
            )
        if self.key in self._columns:
            raise PartyError(
                self.party, f"its key column {self.key!r} cannot be one of the columns as well"
            )

    def _grow(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        self.policy.allow_table(self.party, n_bytes=self.n_bytes)

    def _add(self, name: str, column: _Column, values: Any) -> None:
        kind = kind_of(values)
        if kind == "other":
            raise PartyError(
                self.party,
                f"its column {name!r} is of type {values.type}; columns are numbers, text, dates "
                "or categories: cast it at its source, or leave it out with columns=[...]",
            )
        self._grow(_POINTER * len(values))
        if kind is None:
            column.parts.append((None, np.empty(len(values), dtype=np.bool_)))
        elif kind == "text":
            column.parts.append((kind, self._texts(column, values)))
        else:
            column.parts.append((kind, _cast(values, kind)))

    def _texts(self, column: _Column, values: pa.Array) -> np.ndarray:
        """Text as objects, of which equal ones are one object."""
        coded = values if _is_dictionary(values) else values.dictionary_encode()
        words = []
        for value in coded.dictionary.to_pylist():
            word = str(value)
            if word not in column.texts:
                column.texts[word] = word
                self._grow(sys.getsizeof(word))
            words.append(column.texts[word])
        codes = coded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
        return np.array([*words, None, ""], dtype=object)[:-1][codes.astype(np.int64)]

    def _joined(self, name: str, column: _Column) -> Any:
        import pandas as pd

        kinds = {kind for kind, _ in column.parts} - {None}
        if len(kinds) > 1:
            raise PartyError(
                self.party,
                f"its column {name!r} holds {' in some rows and '.join(sorted(map(str, kinds)))} "
                "in others; cast it at its source",
            )
        kind = str(kinds.pop()) if kinds else "number"
        parts = [
            part if own is not None else _missing(kind, len(part)) for own, part in column.parts
        ]
        column.parts.clear()
        return pd.Series(np.concatenate(parts), dtype=object if kind == "text" else None)


def plain(values: Any) -> Any:
    """Return UUIDs, and what a database's driver has no type for, as text or numbers.

    Parameters
    ----------
    values : pyarrow.Array
        One column of a batch.

    Returns
    -------
    pyarrow.Array
        The same values.
    """
    import pyarrow as pa

    name = getattr(values.type, "extension_name", None)
    if name == "arrow.uuid":
        return pa.array([None if v is None else str(v) for v in values.to_pylist()], pa.string())
    if name == "arrow.opaque" and values.type.type_name == "uuid":  # older ADBC drivers
        stored = values.storage.to_pylist()
        return pa.array(
            [None if v is None else str(uuid.UUID(bytes=v)) for v in stored], pa.string()
        )
    if name == "arrow.opaque" and pa.types.is_string(values.type.storage_type):
        is_decimal = values.type.type_name == "numeric"  # of PostgreSQL, by its ADBC driver
        return values.storage.cast(pa.float64()) if is_decimal else values.storage
    return values


def kind_of(values: Any) -> str | None:
    """Return what the values of an arrow array are.

    Parameters
    ----------
    values : pyarrow.Array
        One column of a batch.

    Returns
    -------
    {"number", "date", "text", "other"} or None
        None where all are missing.
    """
    import pyarrow as pa

    t, types = values.type, pa.types
    if values.null_count == len(values):
        return None
    t = t.value_type if types.is_dictionary(t) else t
    if types.is_boolean(t) or types.is_integer(t) or types.is_floating(t) or types.is_decimal(t):
        return "number"
    if types.is_date(t) or types.is_timestamp(t):
        return "date"
    if types.is_string(t) or types.is_large_string(t) or str(t) == "string_view":
        return "text"
    return "other"


def _cast(values: Any, kind: str) -> np.ndarray:
    import pyarrow as pa

    values = values.dictionary_decode() if _is_dictionary(values) else values
    # A timestamp with a time zone becomes the same moment in UTC, without its zone.
    target = pa.float64() if kind == "number" else pa.timestamp("us")
    return values.cast(target, safe=False).to_numpy(zero_copy_only=False).copy()


def _missing(kind: str, n_rows: int) -> np.ndarray:
    if kind == "number":
        return np.full(n_rows, np.nan)
    if kind == "date":
        return np.full(n_rows, "NaT", dtype="datetime64[us]")
    return np.full(n_rows, None, dtype=object)


def _is_dictionary(values: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_dictionary(values.type)
