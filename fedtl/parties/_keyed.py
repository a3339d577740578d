"""A party's rows, found by the ids of what they are about."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np

from fedtl.alignment import NORMALISATIONS, KeyList
from fedtl.exceptions import PartyError, StaleAlignment
from fedtl.parties._canonical import FrameBuilder
from fedtl.parties._policy import Policy
from fedtl.parties._sources import batches
from fedtl.parties._table import Table, take_rows


class KeyedTable(Table):
    """A party's own table, whose rows other parties name by positions from an alignment.

    It is read in batches and kept in memory as a pandas frame of the same few types wherever it
    came from: numbers, booleans and decimals are float64, dates and times datetime64[us] in UTC,
    text, categories and UUIDs are text in object columns; a column without any value is float64.

    Parameters
    ----------
    party : str
        Name of the party, for errors.
    source : dataframe, str or path
        - a pandas or polars frame, or an arrow table;
        - a Parquet or CSV file (``.parquet``, ``.csv``), or a DuckDB file (``.duckdb``);
        - the URL of a database, as SQLAlchemy writes it
          (``"postgresql+psycopg://user@host/name"``), or for a driver of ADBC with ``adbc+`` before
          it (``"adbc+postgresql://user@host/name"``).
    key : str, default="index"
        Column of the ids; ``"index"`` is the index of a pandas frame.
    normalisation : {"exact", "casefold", "digits"}, default="exact"
        How ids are compared; see :func:`fedtl.alignment.canonical_ids`. The asking side has to
        declare the same.
    query : str, optional
        What is read from a database or a DuckDB file: a SELECT statement.
    columns : sequence of str, optional
        Columns besides the key, in this order; by default all of them.
    policy : Policy, optional
        Its ``max_table_rows`` and ``max_table_bytes`` bound what is read. Reading stops with the
        first batch that goes beyond them.
    secret : bytes, optional
        At least 16 random bytes that the party keeps, so that positions outlive a restart of its
        service; a new and random secret by default.
    n_threads : int, optional
        Threads that raise ids to the list's key; all cores by default.

    Attributes
    ----------
    block : pandas.DataFrame of shape (n_rows, n_columns)
        The rows, rows without an id included.

    Raises
    ------
    PartyError
        If the source cannot be read, a column or an id cannot be used, or ids are not unique.
    PolicyRefusal
        If the table is larger than the policy allows.

    Notes
    -----
    A database is read through a cursor at its own side, if its driver has one: the drivers of
    PostgreSQL do. Give the party a role of the database that may read this query and nothing else.

    Types of CSV columns are those of the file's first 8 MiB. The key is read as text, so that
    leading zeros stay; empty fields, ``NA``, ``NaN`` and ``null`` are missing values.

    Examples
    --------
    >>> import pandas as pd
    >>> from fedtl.parties import KeyedTable
    >>> frame = pd.DataFrame({"id": ["a", "b"], "orders": [3, 5], "city": ["Ulm", None]})
    >>> table = KeyedTable("shop", frame, key="id")
    >>> table.block.dtypes.astype(str).to_dict()
    {'orders': 'float64', 'city': 'object'}
    """

    def __init__(
        self,
        party: str,
        source: Any,
        *,
        key: str = "index",
        normalisation: str = "exact",
        query: str | None = None,
        columns: Sequence[str] | None = None,
        policy: Policy | None = None,
        secret: bytes | None = None,
        n_threads: int | None = None,
    ) -> None:
        if normalisation not in NORMALISATIONS:
            raise PartyError(
                party, f"normalisation must be one of {list(NORMALISATIONS)}, got {normalisation!r}"
            )
        if secret is not None and len(secret) < 16:
            raise PartyError(party, f"its secret has {len(secret)} bytes; use 16 or more, random")
        builder = FrameBuilder(party, key, columns, normalisation, policy or Policy())
        reading = batches(
            party, source, key=key, query=query, columns=columns, policy=builder.policy
        )
        with closing(reading):  # connections as well, if a batch is refused
            for batch in reading:
                builder.add(batch)
        super().__init__(builder.frame())
        self.party, self.key, self.normalisation = party, key, normalisation
        self._ids: list[bytes | None] | None = builder.ids
        _refuse_duplicates(party, key, builder.ids)
        self._secret, self._n_threads = secret, n_threads
        self._list: KeyList | None = None
        self._lock = threading.Lock()

    @property
    def key_list(self) -> KeyList:
        """The party's ids as others may ask about them; made on first use, about 80 us for each."""
        with self._lock:
            if self._list is None:
                assert self._ids is not None
                self._list = KeyList(self._ids, self._secret, self._n_threads)
                self._ids = None
            return self._list

    def select(self, ids: np.ndarray) -> tuple[Any, np.ndarray]:
        """Find rows.

        Parameters
        ----------
        ids : ndarray of shape (n_ids,), dtype int64
            Positions from an alignment with this table; negative where the id is not here.

        Returns
        -------
        block : pandas.DataFrame of shape (n_found, n_columns)
            The rows that were found, in the order of the ids.
        found : ndarray of shape (n_ids,), dtype bool
            Which ids were found.

        Raises
        ------
        StaleAlignment
            If a position is none of this table's, as it was given by an earlier one.
        """
        found = ids >= 0
        rows = self.key_list.rows(ids[found])
        if (rows < 0).any():
            raise StaleAlignment(
                self.party,
                f"{int((rows < 0).sum())} of {len(rows)} positions are not of its present table, "
                "which has other ids than at the last alignment; align again",
            )
        return take_rows(self.block, rows), found


def _refuse_duplicates(party: str, key: str, ids: Sequence[bytes | None]) -> None:
    known = [i for i in ids if i is not None]
    if not known:
        raise PartyError(party, f"its key column {key!r} has no id")
    if len(set(known)) == len(known):
        return
    often = [(i, count) for i, count in Counter(known).items() if count > 1]
    first, count = often[0]
    rows = [row for row, i in enumerate(ids) if i == first][:3]
    raise PartyError(
        party,
        f"{len(often)} ids occur more than once in its key column {key!r}, the first of them "
        f"{count} times (rows {', '.join(map(str, rows))}{', ...' if count > 3 else ''}); a row "
        "is found by its id, so keep one row for each",
    )
