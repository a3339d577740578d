"""A table finds rows by id; whoever asks for others learns that they are not there."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from fedtl.parties import Table


def values(block):
    return block.tolist() if isinstance(block, np.ndarray) else block.to_numpy().tolist()


@pytest.mark.parametrize(
    "block",
    [
        np.arange(8.0).reshape(4, 2),
        # An index that is not the position: rows are found by position all the same.
        pd.DataFrame(np.arange(8.0).reshape(4, 2), index=[3, 2, 1, 0], columns=["a", "b"]),
        pl.DataFrame(np.arange(8.0).reshape(4, 2)),
    ],
    ids=["numpy", "pandas", "polars"],
)
@pytest.mark.parametrize(
    ("ids", "found", "first"),
    [
        ([0, 1, 2, 3], [True] * 4, [0, 2, 4, 6]),
        ([1, 2, 3, 0], [True] * 4, [2, 4, 6, 0]),
        ([3, 3, 9, -1], [True, True, False, False], [6, 6]),
        ([4, -5], [False, False], []),
        ([], [], []),
    ],
)
def test_rows_come_in_the_order_of_the_ids_and_unknown_ids_are_left_out(block, ids, found, first):
    table = Table(block)
    rows, known = table.select(np.array(ids, dtype=np.int64))
    assert len(table) == 4
    assert known.tolist() == found
    assert [row[0] for row in values(rows)] == first


def test_a_whole_table_is_handed_over_without_a_copy():
    block = np.zeros((3, 1))
    assert Table(block).select(np.arange(3))[0] is block
