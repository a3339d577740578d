"""Ids of any type become equal bytes where they mean the same, and nothing else does."""

import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtl.alignment import NORMALISATIONS, canonical_ids


@pytest.mark.parametrize(
    "keys",
    [
        [7, None, 10**12],
        ["7", None, "1000000000000"],
        np.array([7.0, np.nan, 1e12]),
        np.array([7, None, np.int64(10**12)], dtype=object),
        np.array(["7", "", "1000000000000"]),
        [Decimal("7.0"), Decimal("nan"), Decimal(10**12)],
        pd.Series([7, None, 10**12]),
        pd.Series([7, None, 10**12], dtype="Int64"),
        pd.Series(["7", None, "1000000000000"], dtype="string"),
        pd.Index(["7", None, "1000000000000"]),
        pl.Series([7, None, 10**12]),
        pl.Series(["7", None, "1000000000000"]),
        pa.array([7, None, 10**12]),
        pa.chunked_array([["7"], [None, "1000000000000"]]),
    ],
    ids=lambda keys: type(keys).__module__ + "." + type(keys).__name__,
)
def test_a_whole_number_and_the_text_that_spells_it_are_one_id_in_any_container(keys):
    assert canonical_ids(keys, "exact") == [b"7", None, b"1000000000000"]


@pytest.mark.parametrize(
    ("normalisation", "same", "different"),
    [
        ("exact", [5, "5", 5.0], ["05", " 5", "5.0", "５", -5]),
        ("exact", ["Ann"], ["ann", "ANN", "Ann ", "A\u0301nn"]),
        ("casefold", ["Straße 1", " STRASSE 1\n", "ｓｔｒａße 1"], ["Strase 1", "Straße1"]),
        ("casefold", ["café", "cafe\u0301", "CAFÉ "], ["cafe"]),
        ("digits", [7, "007", "DE-7", "٧", 7.0, "id 0007."], ["70", "7 0", "seven 8"]),
        ("digits", [0, "0", "00", "no. 0"], ["10"]),
    ],
)
def test_a_normalisation_says_which_spellings_are_one_id(normalisation, same, different):
    one = {*canonical_ids(same, normalisation)}
    assert len(one) == 1
    assert None not in one
    assert one.isdisjoint(canonical_ids(different, normalisation))


def test_nothing_left_of_an_id_is_a_missing_id():
    missing = [None, np.nan, pd.NA, pd.NaT, ""]
    assert canonical_ids(missing, "exact") == [None] * 5
    assert canonical_ids([*missing, "  "], "casefold") == [None] * 6
    assert canonical_ids([*missing, "unknown", "-"], "digits") == [None] * 7


def test_a_uuid_is_the_text_that_it_is_written_as():
    one = uuid.uuid4()
    assert canonical_ids([one], "exact") == canonical_ids([str(one)], "exact")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (["a", 1.5], "position 1 is a number that is not whole"),
        (["a", np.inf], "position 1 is a number that is not whole"),
        ([2.0**53], "too large for a float"),
        ([Decimal("0.5")], "not whole"),
        (["a", True], "position 1 is of type bool"),
        ([b"a"], "position 0 is of type bytes"),
        ([["a"]], "position 0 is of type list"),
        (["\ud800"], "position 0 is no valid Unicode"),
        ("abc", "one-dimensional"),
        (np.zeros((2, 2)), "one-dimensional"),
        (pd.to_datetime(["2020-01-01"]), "type Timestamp"),
    ],
)
def test_what_is_no_id_is_refused_with_its_position_and_not_with_its_content(keys, problem):
    with pytest.raises(ValueError, match=problem):
        canonical_ids(keys, "exact")


def test_an_unknown_normalisation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="one of 'exact', 'casefold', 'digits', got 'none'"):
        canonical_ids(["a"], "none")


@given(st.lists(st.text() | st.integers()), st.sampled_from(sorted(NORMALISATIONS)))
def test_normalising_twice_changes_nothing(keys, normalisation):
    keys = [key for key in keys if not isinstance(key, str) or key.isprintable()]
    once = canonical_ids(keys, normalisation)
    again = canonical_ids([None if k is None else k.decode() for k in once], normalisation)
    assert again == once
