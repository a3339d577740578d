"""A party's own table gives the same rows for the same ids wherever it is kept."""

import datetime as dt
import uuid

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

from fedtl import Encoder
from fedtl.alignment import Matcher, canonical_ids
from fedtl.exceptions import PartyError, PolicyRefusal, StaleAlignment
from fedtl.parties import KeyedTable, LocalFeatures, Policy

N = 500
QUERY = "SELECT * FROM customers"


def customers():
    """A table of every type that a party may have, with a missing value in each column."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "id": pd.Series([f"C{i:04d}" for i in rng.permutation(N)], dtype=object),
            "orders": pd.Series(rng.integers(0, 9, N)).astype("Int64"),
            "spent": rng.normal(size=N),
            "active": pd.Series(rng.integers(0, 2, N).astype(bool)).astype("boolean"),
            "city": pd.Series(rng.choice(["Ulm", "Köln", "Bonn"], N), dtype=object),
            "since": pd.Series(pd.to_datetime("2020-01-01") + pd.to_timedelta(np.arange(N), "D")),
            "empty": pd.Series([None] * N, dtype=object),
        }
    )
    for column, name in enumerate(table.columns):
        table.loc[column, name] = None
    return table


def asked_for(table, keys):
    """The rows that another party gets at by an alignment."""
    asking = Matcher([i for i in canonical_ids(keys, table.normalisation) if i is not None])
    party = table.key_list
    return table.select(asking.positions(party.answer(asking.points), party.tags))


def in_pandas(tmp_path, url):
    return customers(), {"key": "id"}


def in_pandas_by_index(tmp_path, url):
    return customers().set_index("id"), {"key": "index"}


def in_polars(tmp_path, url):
    return pl.from_pandas(customers()), {"key": "id"}


def in_arrow(tmp_path, url):
    return pa.Table.from_pandas(customers()), {"key": "id"}


def in_parquet(tmp_path, url):
    pq.write_table(pa.Table.from_pandas(customers()), tmp_path / "t.parquet", row_group_size=100)
    return tmp_path / "t.parquet", {"key": "id"}


def in_categories(tmp_path, url):
    table = customers()
    table["city"] = table["city"].astype("category")
    return table, {"key": "id"}


def in_csv(tmp_path, url):
    customers().to_csv(tmp_path / "t.csv", index=False)
    return str(tmp_path / "t.csv"), {"key": "id"}


def in_duckdb(tmp_path, url):
    import duckdb

    frame = pa.Table.from_pandas(customers())  # noqa: F841  (DuckDB finds it by its name)
    with duckdb.connect(str(tmp_path / "t.duckdb")) as connection:
        connection.execute("CREATE TABLE customers AS SELECT * FROM frame")
    return tmp_path / "t.duckdb", {"key": "id", "query": QUERY}


def in_sqlite(tmp_path, url):
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/t.sqlite")
    customers().drop(columns="since").to_sql("customers", engine, index=False)
    engine.dispose()
    return f"sqlite:///{tmp_path}/t.sqlite", {"key": "id", "query": QUERY}


def in_postgresql(tmp_path, url):
    import psycopg

    table = customers()
    with psycopg.connect(f"postgresql://{url}") as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS customers")
        cursor.execute(
            "CREATE TABLE customers (id text, orders integer, spent double precision,"
            " active boolean, city varchar(20), since timestamp, empty text)"
        )
        with cursor.copy("COPY customers FROM STDIN") as copy:
            for row in table.itertuples(index=False):
                copy.write_row([None if pd.isna(value) else value for value in row])
    return f"postgresql+psycopg://{url}", {"key": "id", "query": QUERY}


def in_postgresql_by_adbc(tmp_path, url):
    in_postgresql(tmp_path, url)
    return f"adbc+postgresql://{url}", {"key": "id", "query": QUERY}


WITHOUT_A_SERVER = [
    in_pandas,
    in_pandas_by_index,
    in_categories,
    in_polars,
    in_arrow,
    in_parquet,
    in_csv,
    in_duckdb,
    in_sqlite,
]
WITH_A_SERVER = [in_postgresql, in_postgresql_by_adbc]


def check_same_rows(place):
    """Hold a table against plain pandas; a column that the source lacks is left out."""
    source, options = place
    table = KeyedTable("shop", source, **options)
    expected = customers()
    ids = expected["id"]
    expected = pd.DataFrame(
        {
            "orders": expected["orders"].astype("float64"),
            "spent": expected["spent"],
            "active": expected["active"].astype("float64"),
            "city": expected["city"].where(expected["city"].notna(), None).astype(object),
            "since": expected["since"].astype("datetime64[us]"),
            "empty": np.full(N, np.nan),
        }
    )[list(table.block.columns)]
    assert_frame_equal(table.block, expected)
    keys = ["C0007", "C9999", *ids[1:].sample(frac=1.0, random_state=1)]
    rows, found = asked_for(table, keys)
    where = {key: row for row, key in enumerate(ids)}
    assert found.tolist() == [key in where for key in keys]
    assert rows.index.tolist() == [where[key] for key in keys if key in where]
    assert_frame_equal(rows, expected.iloc[rows.index])
    return table


@pytest.mark.parametrize("place", WITHOUT_A_SERVER, ids=lambda f: f.__name__)
def test_rows_and_types_are_the_same_wherever_the_table_is(place, tmp_path):
    table = check_same_rows(place(tmp_path, None))
    assert len(table.block.columns) == (5 if place is in_sqlite else 6)


@pytest.mark.parametrize("place", WITH_A_SERVER, ids=lambda f: f.__name__)
def test_rows_and_types_are_the_same_from_postgresql(place, tmp_path, postgresql):
    table = check_same_rows(place(tmp_path, postgresql))
    assert len(table.block.columns) == 6


def test_a_party_encodes_rows_from_postgresql_and_parquet_as_those_of_a_frame(tmp_path, postgresql):
    encoded = []
    for place in (in_pandas, in_parquet, *WITH_A_SERVER):
        source, options = place(tmp_path, postgresql)
        table = KeyedTable("shop", source, secret=b"s" * 16, **options)
        features = LocalFeatures("shop", Encoder()).fit(table.block, 8, seed=0)
        party = table.key_list
        asking = Matcher([b"C%04d" % i for i in range(0, 2 * N, 2)])
        positions = asking.positions(party.answer(asking.points), party.tags)
        columns, known = features.read(table, positions)
        rows = np.flatnonzero(known)
        encoded.append(np.vstack([part for _, part in features.chunks(columns, rows)]))
    assert encoded[0].shape[0] > 200
    for other in encoded[1:]:
        assert other.tobytes() == encoded[0].tobytes()


def test_types_of_postgresql_that_others_do_not_have_become_numbers_text_and_times(postgresql):
    query = """
        SELECT 1 AS id, 1.5::numeric(6, 2) AS n, 12345678901::bigint AS b, 2::smallint AS s,
            '00000000-0000-0000-0000-00000000000a'::uuid AS u, '2020-02-01'::date AS d,
            '2020-01-01 12:00+02'::timestamptz AS t, 'x'::char(1) AS c, 0.5::real AS r
        UNION ALL SELECT 2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    """
    expected = pd.DataFrame(
        {
            "n": [1.5, np.nan],
            "b": [12345678901.0, np.nan],
            "s": [2.0, np.nan],
            "u": pd.Series([str(uuid.UUID(int=10)), None], dtype=object),
            "d": np.array(["2020-02-01", "NaT"], dtype="datetime64[us]"),
            "t": np.array(["2020-01-01T10:00", "NaT"], dtype="datetime64[us]"),
            "c": pd.Series(["x", None], dtype=object),
            "r": [0.5, np.nan],
        }
    )
    for scheme in ("postgresql+psycopg", "adbc+postgresql"):
        table = KeyedTable("shop", f"{scheme}://{postgresql}", key="id", query=query)
        assert_frame_equal(table.block, expected)


def test_a_database_is_read_no_further_than_its_policy_allows_and_let_go_of(postgresql):
    import psycopg

    query = "SELECT i AS id, 'a%b:c' || (i % 9)::text AS t FROM generate_series(1, 300000) AS s(i)"
    policy = Policy(max_table_rows=20_000)
    connections = "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL"
    for scheme in ("postgresql+psycopg", "adbc+postgresql"):
        url = f"{scheme}://{postgresql}"
        with pytest.raises(PolicyRefusal, match="its policy allows 20,000; select fewer") as caught:
            KeyedTable("shop", url, key="id", query=query, policy=policy)
        with psycopg.connect(f"postgresql://{postgresql}") as connection:
            assert connection.execute(connections).fetchone() == (1,), caught
        table = KeyedTable("shop", url, key="id", query=query.replace("300000", "20000"))
        assert table.block["t"].iloc[:2].tolist() == ["a%b:c1", "a%b:c2"]


@pytest.mark.parametrize("place", WITHOUT_A_SERVER, ids=lambda f: f.__name__)
def test_a_table_beyond_its_policy_is_refused(place, tmp_path):
    source, options = place(tmp_path, None)
    for policy, problem in [
        (Policy(max_table_rows=N - 1), rf"{N} rows or more, its policy allows {N - 1}"),
        (Policy(max_table_bytes=40_000), "bytes in memory or more, its policy allows 40,000"),
    ]:
        with pytest.raises(PolicyRefusal, match=problem):
            KeyedTable("shop", source, policy=policy, **options)
    KeyedTable("shop", source, policy=Policy(max_table_rows=N, max_table_bytes=90_000), **options)


def test_bytes_are_counted_as_they_are_held_and_equal_text_once():
    long = "x" * 10_000
    frame = pd.DataFrame({"id": range(2000), "same": [long] * 2000})
    KeyedTable("shop", frame, key="id", policy=Policy(max_table_bytes=200_000))
    frame["own"] = [long + str(i) for i in range(2000)]
    with pytest.raises(PolicyRefusal, match="bytes in memory"):
        KeyedTable("shop", frame, key="id", policy=Policy(max_table_bytes=10_000_000))


def test_columns_are_chosen_by_name_and_come_in_that_order(tmp_path):
    source, options = in_parquet(tmp_path, None)
    table = KeyedTable("shop", source, columns=["spent", "city"], **options)
    assert list(table.block.columns) == ["spent", "city"]
    with pytest.raises(PartyError, match="has no column 'size'; it has id, orders"):
        KeyedTable("shop", source, columns=["size"], **options)
    with pytest.raises(PartyError, match="'id' cannot be one of the columns as well"):
        KeyedTable("shop", customers(), key="id", columns=["id"])


def test_duplicate_ids_are_an_error_that_counts_them_and_names_rows_and_no_id():
    frame = pd.DataFrame({"id": ["secret", "b", "Secret ", "b", "SECRET", "c"], "v": range(6)})
    KeyedTable("shop", frame.iloc[:3], key="id")
    problem = r"2 ids occur more than once .* 'id', the first of them 3 times \(rows 0, 2, 4\)"
    with pytest.raises(PartyError, match=problem) as caught:
        KeyedTable("shop", frame, key="id", normalisation="casefold")
    assert "secret" not in str(caught.value).lower()


def test_rows_without_an_id_are_kept_and_never_found():
    frame = pd.DataFrame({"id": [None, 5.0, np.nan], "v": [1.0, 2.0, 3.0]})
    table = KeyedTable("shop", frame, key="id")
    assert len(table) == 3
    rows, found = asked_for(table, [5, "5.0"])
    assert rows["v"].tolist() == [2.0]
    assert found.tolist() == [True, False]
    with pytest.raises(PartyError, match="has no id"):
        KeyedTable("shop", frame.iloc[[0, 2]], key="id")


def test_positions_of_an_earlier_table_are_an_error_and_never_lead_to_other_rows():
    frame = pd.DataFrame({"id": ["a", "b"], "v": [1.0, 2.0]})
    old, new = (KeyedTable("shop", frame, key="id") for _ in range(2))
    asking = Matcher([b"a", b"x"])
    positions = asking.positions(old.key_list.answer(asking.points), old.key_list.tags)
    assert old.select(positions)[1].tolist() == [True, False]
    with pytest.raises(StaleAlignment, match="1 of 1 positions are not of its present table"):
        new.select(positions)
    with pytest.raises(StaleAlignment):
        new.select(np.array([0]))
    assert not new.select(np.array([-1, -1]))[1].any()


def test_leading_zeros_of_ids_in_a_csv_file_stay(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,v\n007,1\n7,2\nNA,3\n")
    rows, _ = asked_for(KeyedTable("shop", path, key="id"), ["7", "007"])
    assert rows["v"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("source", "options", "problem"),
    [
        ("t.parquet", {"key": "id"}, "t.parquet is no file"),
        (__file__, {"key": "id"}, "test_keyed.py; give a pandas or polars frame, a .parquet"),
        (3, {"key": "id"}, "of type int; give a pandas or polars frame"),
        ("sqlite://", {"key": "id"}, "give one"),
        (customers(), {"key": "id", "query": QUERY}, "leave it out for frames and files"),
        ("t.parquet", {}, "name the column of the ids"),
        ("sqlite://", {"key": "id", "query": "nonsense"}, 'cannot be read: .*near "nonsense"'),
        (customers().iloc[:0], {"key": "id"}, "has no rows"),
        (customers(), {"key": "name"}, "has no column 'name'; it has id, orders"),
        (customers(), {"key": "spent"}, "key column 'spent': the id at position 0 is a number"),
        (customers(), {"key": "id", "normalisation": "no"}, "must be one of .*'exact'"),
        (customers(), {"key": "id", "secret": b"short"}, "its secret has 5 bytes"),
        (pd.DataFrame({"id": [1, 2], "v": [1, "a"]}), {"key": "id"}, "column 'v' has values that"),
        (pd.DataFrame({"id": [1], "v": [[1]]}), {"key": "id"}, "'v' is of type list"),
        (pd.DataFrame({"id": [1], "v": [b"x"]}), {"key": "id"}, "'v' is of type binary"),
        (pd.DataFrame({"id": [1], "v": [dt.time(1)]}), {"key": "id"}, "'v' is of type time"),
        (pd.DataFrame([[1, 2]], columns=["id", "id"]), {"key": "id"}, "two of its columns"),
    ],
)
def test_what_cannot_be_a_table_is_an_error_that_names_the_party(source, options, problem):
    with pytest.raises(PartyError, match=rf"party 'shop': .*{problem}"):
        KeyedTable("shop", source, **options)


def test_a_column_that_is_text_in_some_rows_and_numbers_in_others_is_an_error():
    values = np.array([*range(20_000), *["a"] * 20_000], dtype=object)
    frame = pd.DataFrame({"id": range(40_000), "v": pd.Series(values, dtype=object)})
    with pytest.raises(PartyError, match="'v'"):
        KeyedTable("shop", frame, key="id")
    batches = [pa.table({"id": [1], "v": [1.5]}), pa.table({"id": [2], "v": ["a"]})]
    from fedtl.parties._canonical import FrameBuilder

    builder = FrameBuilder("shop", "id", None, "exact", Policy())
    for batch in batches:
        builder.add({name: batch[name].combine_chunks() for name in batch.column_names})
    with pytest.raises(PartyError, match="holds number in some rows and text in others"):
        builder.frame()
