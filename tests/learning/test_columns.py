"""Columns are numbers or text, whatever container they came in."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest

from fedtl.learning.columns import Columns, as_columns


def test_an_array_of_numbers_is_numbers():
    for dtype in ["float32", "int8", "bool"]:
        columns = as_columns(np.eye(3, dtype=dtype))
        assert columns.numbers.dtype == np.float64
        np.testing.assert_array_equal(columns.numbers, np.eye(3))
        assert columns.categories.shape == (3, 0)


def test_an_object_column_is_numbers_if_all_its_values_are():
    array = np.array(
        [
            [1, "a", None, 1.5, True],
            [np.float32(2), "b", "x", None, pd.NA],
            [None, 1, "y", 2, False],
        ],
        dtype=object,
    )
    columns = as_columns(array)
    np.testing.assert_array_equal(
        columns.numbers, [[1, 1.5, 1], [2, np.nan, np.nan], [np.nan, 2, 0]]
    )
    assert columns.categories.tolist() == [["a", None], ["b", "x"], ["1", "y"]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.array([1, None], dtype="Int64"), [1, np.nan]),
        (pd.array([0.5, None], dtype="Float32"), [0.5, np.nan]),
        (pd.array([True, None], dtype="boolean"), [1, np.nan]),
        ([True, False], [1, 0]),
        ([1.5, np.nan], [1.5, np.nan]),
        (np.array([1, None], dtype=object), [1, np.nan]),
        (pd.array(["a", None], dtype="string"), ["a", None]),
        (["a", None], ["a", None]),
        (pd.Categorical(["a", None], categories=["b", "a"]), ["a", None]),
        (pd.to_datetime(["2020-01-02", None]), ["2020-01-02 00:00:00", None]),
    ],
    ids=str,
)
def test_each_dtype_of_pandas_is_numbers_or_text(values, expected):
    columns = as_columns(pd.DataFrame({"x": values}))
    if isinstance(expected[0], str):
        assert columns.numbers.shape == (2, 0)
        assert columns.categories[:, 0].tolist() == expected
    else:
        assert columns.categories.shape == (2, 0)
        np.testing.assert_array_equal(columns.numbers[:, 0], expected)


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (pl.Series([1, None], dtype=pl.UInt8), [1, np.nan]),
        (pl.Series([0.5, None], dtype=pl.Float32), [0.5, np.nan]),
        (pl.Series(["1.5", None]).cast(pl.Decimal(4, 2)), [1.5, np.nan]),
        (pl.Series([True, None]), [1, np.nan]),
        (pl.Series(["a", None]), ["a", None]),
        (pl.Series(["a", None], dtype=pl.Categorical), ["a", None]),
        (pl.Series(["a", None], dtype=pl.Enum(["b", "a"])), ["a", None]),
        (pl.Series([datetime.date(2020, 1, 2), None]), ["2020-01-02", None]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_each_dtype_of_polars_is_numbers_or_text(series, expected):
    columns = as_columns(pl.DataFrame({"x": series}))
    if isinstance(expected[0], str):
        assert columns.categories[:, 0].tolist() == expected
    else:
        np.testing.assert_array_equal(columns.numbers[:, 0], expected)


def test_a_block_without_columns_keeps_its_rows():
    for block in (np.empty((3, 0)), np.empty((3, 0), dtype=object), pd.DataFrame(index=[0, 1, 2])):
        columns = as_columns(block)
        assert (len(columns), columns.width) == (3, 0)
        assert columns.known().tolist() == [False] * 3


def test_names_of_columns_may_be_numbers():
    assert as_columns(pd.DataFrame(np.eye(3), columns=[2, 0, 1])).numbers.shape == (3, 3)


def test_rows_are_taken_from_both_kinds_at_once():
    columns = Columns(np.arange(3.0)[:, None], np.array([["a"], [None], ["c"]], dtype=object))
    part = columns[np.array([2, 1])]
    assert part.numbers.tolist() == [[2.0], [1.0]]
    assert part.categories.tolist() == [["c"], [None]]
    assert (len(part), part.width) == (2, 2)
