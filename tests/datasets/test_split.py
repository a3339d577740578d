"""The split gives each party its rows and the active party its labels, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.datasets import hide_party, split_parties

pd = pytest.importorskip("pandas")

PARTIES = {"a": ["a0", "a1"], "b": ["b0"], "c": ["c0", "c1"]}


def make_table(n_samples=100):
    """Return a table with a column of each kind; its index and its key count from 1000."""
    row = np.arange(n_samples)
    columns = {
        "key": row + 1000,
        "a0": row * 1.0,
        "a1": pd.Categorical(np.where(row % 2, "odd", "even")),
        "b0": row,
        "c0": np.where(row % 3, "x", "y"),
        "c1": row % 2 == 0,
    }
    return pd.DataFrame(columns).set_axis(row + 1000)


def membership(X):
    """Return which party knows which row; a row known in part fails."""
    known = np.column_stack([X[columns].notna().all(axis=1) for columns in PARTIES.values()])
    some = np.column_stack([X[columns].notna().any(axis=1) for columns in PARTIES.values()])
    assert np.array_equal(known, some)
    return known


def split(n_samples=100, target=None, **options):
    target = np.arange(n_samples) % 2 if target is None else target
    return split_parties(make_table(n_samples), target, PARTIES, random_state=0, **options)


def test_with_all_shared_every_party_knows_every_row():
    parts = split()
    assert parts.X_train.shape == (70, 6)
    assert parts.X_test.shape == (30, 6)
    assert membership(parts.X_train).all()
    assert set(parts.y_train) == {0, 1}


def test_parties_share_the_rows_asked_for_and_own_the_others_alone():
    known = membership(split(n_shared=10, n_per_party=25).X_train)
    assert len(known) == 10 + 3 * 15
    assert known.all(axis=1).sum() == 10
    assert list(known.sum(axis=0)) == [25, 25, 25]
    assert set(known.sum(axis=1)) == {1, 3}


def test_the_active_party_is_served_first_when_rows_run_out():
    known = membership(split(n_shared=10, n_per_party=60).X_train)
    assert list(known.sum(axis=0)) == [60, 20, 10]


def test_rows_of_others_have_no_label_and_rows_of_the_active_party_have_theirs():
    parts = split(n_shared=10, n_per_party=25)
    active = membership(parts.X_train)[:, 0]
    assert (parts.y_train[~active] == -1).all()
    assert np.array_equal(parts.y_train[active], parts.X_train["key"][active] % 2)
    assert np.array_equal(parts.y_test, parts.X_test["key"] % 2)


def test_only_the_labels_asked_for_are_kept_and_only_at_the_active_party():
    parts = split(n_shared=10, n_per_party=25, n_labeled=7)
    labeled = parts.y_train != -1
    assert labeled.sum() == 7
    assert membership(parts.X_train)[labeled, 0].all()


def test_training_rows_are_in_no_order_of_membership():
    known = membership(split(n_shared=10, n_per_party=25).X_train)
    assert not known[:10].all()


def test_a_floating_target_is_unlabelled_with_nan():
    parts = split(target=np.linspace(0, 1, 100), n_shared=10, n_per_party=25)
    assert np.array_equal(np.isnan(parts.y_train), ~membership(parts.X_train)[:, 0])
    assert parts.y_test.dtype == "float64"


def test_a_target_of_small_or_boolean_type_can_hold_the_unlabelled_value():
    for dtype in ("uint8", "bool"):
        parts = split(target=(np.arange(100) % 2).astype(dtype), n_shared=10, n_per_party=25)
        assert set(parts.y_train) == {-1, 0, 1}


def test_a_target_of_text_needs_an_unlabelled_text():
    target = np.where(np.arange(100) % 2, "yes", "no")
    parts = split(target=target, n_shared=10, n_per_party=25, unlabeled="")
    assert set(parts.y_train) == {"", "yes", "no"}
    with pytest.raises(ValueError, match="unlabeled=''"):
        split(target=target)


def test_a_series_stays_a_series_on_the_rows_of_the_table():
    target = pd.Series(np.arange(100) % 2, index=np.arange(100) + 1000, name="label")
    parts = split(target=target, n_shared=10, n_per_party=25)
    assert parts.y_train.index.equals(parts.X_train.index)
    assert parts.y_test.name == "label"
    assert (target[parts.y_test.index] == parts.y_test).all()


def test_types_survive_masking_and_are_the_same_in_both_parts():
    table = make_table()
    parts = split(n_shared=10, n_per_party=25)
    assert (parts.X_train.dtypes == parts.X_test.dtypes).all()
    assert parts.X_train.dtypes["a1"] == "category"
    assert parts.X_train.dtypes["b0"] == "float64"
    assert parts.X_train.dtypes["c0"] == table.dtypes["c0"]
    assert parts.X_train.dtypes["c1"] == "float64"
    assert parts.X_train.dtypes["key"] == "int64"


def test_nullable_integers_and_dates_can_be_masked():
    table = make_table().astype({"b0": "Int64"})
    table["a0"] = pd.Timestamp("2020-01-01")
    parts = split_parties(table, np.zeros(100), PARTIES, n_shared=5, n_per_party=9)
    assert parts.X_train.dtypes["b0"] == "Int64"
    assert parts.X_train.dtypes["a0"] == table.dtypes["a0"]
    membership(parts.X_train)


def test_the_test_set_is_apart_known_to_all_and_no_larger_than_allowed():
    parts = split(n_shared=10, n_per_party=25, max_test=12)
    assert len(parts.X_test) == 12
    assert membership(parts.X_test).all()
    assert parts.X_test.index.intersection(parts.X_train.index).empty


def test_the_table_given_is_left_as_it_was():
    table = make_table()
    split_parties(table, np.zeros(100, dtype=int), PARTIES, n_shared=5, n_per_party=9)
    hide_party(table, PARTIES, "b")
    assert table.equals(make_table())


def test_one_seed_gives_one_split_and_another_seed_another():
    def rows(seed):
        return list(
            split_parties(make_table(), np.zeros(100), PARTIES, random_state=seed).X_train.key
        )

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_counts_follow_from_what_was_asked(data):
    n_per_party = data.draw(st.integers(1, 80))
    n_shared = data.draw(st.integers(0, min(70, n_per_party)))
    known = membership(split(n_shared=n_shared, n_per_party=n_per_party).X_train)
    assert known.all(axis=1).sum() == n_shared
    assert known.any(axis=1).all()
    assert (known.sum(axis=0) <= n_per_party).all()
    assert len(known) == min(70, n_shared + 3 * (n_per_party - n_shared))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_shared": 71}, r"n_shared=71 .* 70 training rows"),
        ({"n_shared": 30, "n_per_party": 20}, "n_per_party=20"),
        ({"n_shared": 10, "n_per_party": 25, "n_labeled": 26}, r"n_labeled=26 .* knows 25"),
        ({"test_size": 0.001}, "no row to test on"),
        ({"test_size": 1.0}, "test_size"),
        ({"unlabeled": 1}, "50 rows of target hold the unlabelled value 1"),
    ],
)
def test_what_cannot_be_had_is_named_beside_what_there_is(options, message):
    with pytest.raises(ValueError, match=message):
        split(**options)


@pytest.mark.parametrize(
    ("parties", "message"),
    [
        ({}, "one or more columns"),
        ({"a": ["a0"], "b": []}, "one or more columns"),
        ({"a": ["a0", "z"]}, r"\['z'\] of the parties are not in the data"),
        ({"a": ["a0"], "b": ["a0"]}, r"more than once: \['a0'\]"),
    ],
)
def test_parties_that_do_not_fit_the_table_are_refused(parties, message):
    with pytest.raises(ValueError, match=message):
        split_parties(make_table(), np.zeros(100), parties)


def test_an_array_is_refused_with_the_way_to_wrap_it():
    with pytest.raises(TypeError, match=r"pd\.DataFrame"):
        split_parties(np.zeros((4, 2)), np.zeros(4), {"a": [0], "b": [1]})


def test_a_wrong_type_of_count_is_refused():
    with pytest.raises(TypeError, match="n_shared"):
        split(n_shared="some")


def test_hiding_a_party_leaves_the_others_as_they_are():
    table = make_table()
    hidden = hide_party(table, PARTIES, "a", "c")
    assert list(membership(hidden).any(axis=0)) == [False, True, False]
    assert (hidden["b0"] == table["b0"]).all()
    assert (hide_party(table, PARTIES).dtypes == hidden.dtypes).all()


def test_hiding_an_unknown_party_names_the_known_ones():
    with pytest.raises(ValueError, match=r"No party is called \['z'\]; .*'a', 'b', 'c'"):
        hide_party(make_table(), PARTIES, "z")
