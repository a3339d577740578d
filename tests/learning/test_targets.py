"""A marker says which rows have no label, and missing values are told from the others."""

import datetime

import numpy as np
import pandas as pd
import pytest

from fedtl.learning.targets import is_missing, is_unlabeled

NAN = float("nan")


@pytest.mark.parametrize(
    ("y", "marker", "expected"),
    [
        ([0, 1, -1], -1, [False, False, True]),
        ([0.0, 1.5, -1.0], -1, [False, False, True]),
        ([0, 1, -1], None, [False, False, False]),
        ([0.0, NAN, 2.0], NAN, [False, True, False]),
        ([0.0, NAN, 2.0], np.nan, [False, True, False]),
        ([0.0, NAN, 2.0], -1, [False, False, False]),
        (["a", "?", "b"], "?", [False, True, False]),
        (["a", "?", "b"], -1, [False, False, False]),
        (["a", "?", "b"], NAN, [False, False, False]),
        (np.array(["a", NAN, np.float32("nan")], dtype=object), NAN, [False, True, True]),
        (np.array(["a", -1, "-1"], dtype=object), -1, [False, True, False]),
        ([True, False], -1, [False, False]),
        ([], -1, []),
    ],
    ids=str,
)
def test_a_row_is_unlabelled_if_its_target_is_the_marker(y, marker, expected):
    found = is_unlabeled(np.asarray(y), marker)
    assert found.dtype == bool
    assert found.tolist() == expected


def test_none_nan_nat_and_na_are_missing_and_nothing_else():
    missing = [None, NAN, np.float64("nan"), np.float32("nan"), pd.NaT, pd.NA, np.datetime64("NaT")]
    present = [0, 0.0, "", "nan", False, np.False_, np.int64(0), np.float64(0), np.inf]
    present += [datetime.date(2020, 1, 1), pd.Timestamp(0), (), np.str_("")]
    values = np.empty(len(missing) + len(present), dtype=object)
    values[:] = missing + present
    assert is_missing(values).tolist() == [True] * len(missing) + [False] * len(present)
