"""Where a party's table comes from: each source as batches of arrow columns."""

from __future__ import annotations

import importlib
import re
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedtl.exceptions import PartyError
from fedtl.parties._canonical import Batch
from fedtl.parties._policy import Policy

_ROWS = 16_384
_CSV_BLOCK = 2**23


def batches(
    party: str,
    source: Any,
    *,
    key: str | None,
    query: str | None,
    columns: Sequence[str] | None,
    policy: Policy,
) -> Generator[Batch]:
    """Read a table piece by piece.

    Parameters
    ----------
    party : str
        Name of the party, for errors.
    source : dataframe, str or path
        See :class:`fedtl.parties.KeyedTable`.
    key : str or None
        Column of the ids, if rows are found by any.
    query : str or None
        What is read from a database.
    columns : sequence of str or None
        Columns besides the key that are wanted; a Parquet file's others are not read.
    policy : Policy
        Where a source knows its number of rows beforehand, it is refused before it is read.

    Yields
    ------
    mapping of str to pyarrow array
        Some rows.
    """
    _needs(party, "pandas", "pyarrow", extra="tables")
    url = source if isinstance(source, str) and "://" in source else None
    path = Path(source) if isinstance(source, str | Path) and url is None else None
    is_database = url is not None or (path is not None and path.suffix == ".duckdb")
    if is_database != (query is not None):
        raise PartyError(
            party,
            "query=... says what is read from a database and nothing else; "
            + ("give one" if is_database else "leave it out for frames and files"),
        )
    if key == "index" and not hasattr(source, "iloc"):
        raise PartyError(party, 'key="index" is for pandas frames; name the column of the ids')
    with _reading(party):
        if url is not None:
            yield from _database(party, url, str(query))
        elif path is not None and is_database:
            yield from _duckdb(party, _file(party, path), str(query))
        elif path is not None and path.suffix == ".csv":
            yield from _csv(_file(party, path), key)
        elif path is not None and path.suffix == ".parquet":
            wanted = None if columns is None else [*([key] if key else []), *columns]
            yield from _parquet(party, _file(party, path), wanted, policy)
        elif hasattr(source, "iloc"):
            yield from _pandas(party, source, key, policy)
        elif hasattr(source, "to_arrow") or hasattr(source, "to_batches"):
            yield from _arrow(party, source, policy)
        else:
            raise PartyError(
                party,
                f"its table is {'' if path else 'of type '}{path or type(source).__name__}; give a "
                "pandas or polars frame, a .parquet, .csv or .duckdb file, or a database's URL",
            )


def _file(party: str, path: Path) -> Path:
    if not path.is_file():
        raise PartyError(party, f"its table {path} is no file")
    return path


def _pandas(party: str, frame: Any, key: str | None, policy: Policy) -> Iterator[Batch]:
    if frame.columns.nlevels > 1 or (key == "index" and frame.index.nlevels > 1):
        raise PartyError(party, "columns and index must have one level each")
    if not frame.columns.is_unique:
        raise PartyError(party, "two of its columns have one name")
    policy.allow_table(party, n_rows=len(frame))
    for start in range(0, len(frame), _ROWS):
        part = frame.iloc[start : start + _ROWS]
        columns = {str(name): part[name] for name in frame.columns}
        if key == "index":
            columns["index"] = part.index
        yield {name: _to_arrow(party, name, values) for name, values in columns.items()}


def _arrow(party: str, frame: Any, policy: Policy) -> Iterator[Batch]:
    table = frame.to_arrow() if hasattr(frame, "to_arrow") else frame
    policy.allow_table(party, n_rows=table.num_rows)
    yield from _record_batches(table.to_batches(_ROWS))


def _parquet(
    party: str, path: Path, columns: Sequence[str] | None, policy: Policy
) -> Iterator[Batch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        policy.allow_table(party, n_rows=file.metadata.num_rows)
        names = file.schema_arrow.names
        lacking = sorted(set(columns or ()) - set(names))
        if lacking:
            raise PartyError(
                party, f"its table has no column {lacking[0]!r}; it has {', '.join(names)}"
            )
        yield from _record_batches(file.iter_batches(_ROWS, columns=columns))


def _csv(path: Path, key: str | None) -> Iterator[Batch]:
    import pyarrow as pa
    from pyarrow import csv

    def reader(types: dict[str, Any]) -> Any:
        return csv.open_csv(
            path,
            read_options=csv.ReadOptions(block_size=_CSV_BLOCK),
            convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=True),
        )

    with reader({}) as first:
        # Whole numbers may turn out to be missing or broken further on, and nothing so far to be
        # text; and ids such as 007 are no numbers.
        types = {
            f.name: pa.float64() if pa.types.is_integer(f.type) else pa.string()
            for f in first.schema
            if pa.types.is_integer(f.type) or pa.types.is_null(f.type)
        }
    with reader(types if key is None else {**types, key: pa.string()}) as rows:
        yield from _record_batches(rows)


def _duckdb(party: str, path: Path, query: str) -> Iterator[Batch]:
    _needs(party, "duckdb", extra="duckdb")
    import duckdb

    with duckdb.connect(str(path), read_only=True) as connection:
        relation = connection.sql(query)
        if relation is None:
            raise PartyError(party, "its query returns no rows; use a SELECT statement")
        yield from _record_batches(relation.to_arrow_reader(_ROWS))


def _database(party: str, url: str, query: str) -> Iterator[Batch]:
    if url.startswith("adbc+"):
        yield from _adbc(party, url.removeprefix("adbc+"), query)
    else:
        yield from _sqlalchemy(party, url, query)


def _adbc(party: str, url: str, query: str) -> Iterator[Batch]:
    name = re.match(r"[a-z0-9_]+", url)
    module = f"adbc_driver_{name.group() if name else ''}"
    _needs(party, "adbc_driver_manager", module, extra="database")
    driver = importlib.import_module(f"{module}.dbapi")
    with driver.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        yield from _record_batches(cursor.fetch_record_batch())


def _sqlalchemy(party: str, url: str, query: str) -> Iterator[Batch]:
    _needs(party, "sqlalchemy", extra="database")
    import sqlalchemy

    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            # Without parameters, a driver takes the query as it is, per cent signs included.
            streaming = connection.execution_options(
                stream_results=True, max_row_buffer=_ROWS, no_parameters=True
            )
            result = streaming.exec_driver_sql(query)
            names = [str(name) for name in result.keys()]  # noqa: SIM118  (no mapping)
            _check_unique(names)
            for rows in result.partitions(_ROWS):
                columns = zip(names, zip(*rows, strict=True), strict=True)
                yield {name: _to_arrow(party, name, values) for name, values in columns}
    finally:
        engine.dispose()


def _to_arrow(party: str, name: str, values: Any) -> Any:
    import pyarrow as pa

    if isinstance(next((v for v in values if v is not None), None), uuid.UUID):
        values = [None if v is None else str(v) for v in values]
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise PartyError(
            party, f"its column {name!r} has values that do not go together: {error}"
        ) from None


def _record_batches(source: Any) -> Iterator[Batch]:
    for batch in source:
        names = batch.schema.names
        _check_unique(names)
        for start in range(0, batch.num_rows, _ROWS):
            part = batch.slice(start, _ROWS)
            yield dict(zip(names, part.columns, strict=True))


def _check_unique(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"two of its columns have one name: {', '.join(names)}")


@contextmanager
def _reading(party: str) -> Iterator[None]:
    """Whatever a library says of a source, as an error of the party."""
    try:
        yield
    except (PartyError, ImportError, GeneratorExit):
        raise
    except Exception as error:
        raise PartyError(party, f"its table cannot be read: {error}") from error


def _needs(party: str, *modules: str, extra: str) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(
                f"the table of party {party!r} needs {module}: pip install 'fedtl[{extra}]'"
                + (" and the driver of your database" if extra == "database" else "")
            ) from error
