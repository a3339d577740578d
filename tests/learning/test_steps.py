"""Steps: what transformers do to columns, and what a party believes of steps that it is sent."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedtl.learning.steps import (
    MOST_STEPS,
    Fill,
    Project,
    Standardise,
    apply_steps,
    read_steps,
    write_steps,
)

COLUMNS = np.array([[1.0, np.nan], [3.0, 4.0]])
REALS = st.floats(-1e100, 1e100)
SCALES = st.floats(1e-100, 1e100)


def test_standardising_leaves_missing_values_missing():
    step = Standardise(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    np.testing.assert_array_equal(step.apply(COLUMNS), [[0.0, np.nan], [1.0, 0.5]])
    unrecorded = Standardise(np.array([1.0, np.nan]), np.array([2.0, 1.0]))
    np.testing.assert_array_equal(unrecorded.apply(COLUMNS), [[0.0, np.nan], [1.0, np.nan]])


def test_filling_says_where_values_were_missing():
    values = np.array([7.0, 8.0])
    plain = Fill(values, np.zeros(2, dtype=bool))
    np.testing.assert_array_equal(plain.apply(COLUMNS), [[1.0, 8.0], [3.0, 4.0]])
    indicating = Fill(values, np.array([False, True]))
    assert (indicating.n_in, indicating.n_out) == (2, 3)
    np.testing.assert_array_equal(indicating.apply(COLUMNS), [[1.0, 8.0, 1.0], [3.0, 4.0, 0.0]])


def test_projecting_centres_and_divides():
    step = Project(np.array([1.0, 2.0]), np.array([[0.6, 0.8]]), np.array([2.0]))
    np.testing.assert_allclose(step.apply(np.array([[1.0, 2.0], [2.0, 4.0]])), [[0.0], [1.1]])


def test_steps_follow_one_another():
    steps = (
        Fill(np.array([0.0, 2.0]), np.array([False, True])),
        Standardise(np.array([1.0, 0.0, 0.0]), np.ones(3)),
    )
    np.testing.assert_array_equal(apply_steps(steps, COLUMNS), [[0.0, 2.0, 1.0], [2.0, 4.0, 0.0]])
    assert apply_steps((), COLUMNS) is COLUMNS


def test_steps_of_the_same_numbers_are_the_same_key():
    def made(shift):
        return Standardise(np.array([shift, np.nan]), np.ones(2))

    assert made(1.0) == made(1.0) == copy.deepcopy(made(1.0)) == pickle.loads(pickle.dumps(made(1)))
    assert hash(made(1.0)) == hash(made(1.0))
    fill = Fill(np.array([1.0, np.nan]), np.ones(2, dtype=bool))
    np.testing.assert_array_equal(fill.numbers, made(1.0).numbers)
    assert len({made(1.0), made(2.0), fill}) == 3
    assert made(1.0) != "standardise"


@st.composite
def chains(draw, n_columns):
    """Steps of which each takes what the one before makes, as honest ones do."""
    steps, width = [], n_columns
    for kind in draw(st.lists(st.sampled_from(["standardise", "fill", "project"]), max_size=6)):
        row = arrays(np.float64, width, elements=REALS)
        if kind == "standardise":
            shift = arrays(np.float64, width, elements=REALS | st.just(np.nan))
            steps.append(Standardise(draw(shift), draw(arrays(np.float64, width, elements=SCALES))))
        elif kind == "fill":
            indicated = draw(arrays(np.bool_, width))
            indicated &= width + indicated.cumsum() <= 2 * n_columns
            steps.append(Fill(draw(row), indicated))
        else:
            n_out = draw(st.integers(1, width))
            components = draw(arrays(np.float64, (n_out, width), elements=REALS))
            scale = draw(arrays(np.float64, n_out, elements=SCALES))
            steps.append(Project(draw(row), components, scale))
        width = steps[-1].n_out
    return tuple(steps)


@given(st.data(), st.integers(1, 4))
def test_steps_come_back_as_they_were(data, n_columns):
    steps = data.draw(chains(n_columns))
    kinds, numbers = write_steps(steps)
    assert numbers.dtype == np.float64
    read = read_steps(kinds, numbers, n_columns)
    assert read == steps
    columns = data.draw(arrays(np.float64, (3, n_columns), elements=REALS | st.just(np.nan)))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(apply_steps(read, columns), apply_steps(steps, columns))


@settings(max_examples=300)
@given(st.data(), st.integers(1, 4))
def test_whatever_is_read_makes_the_columns_it_says_or_is_refused(data, n_columns):
    steps = data.draw(chains(n_columns))
    kinds, numbers = write_steps(steps)
    json = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    anything = st.recursive(json, lambda each: st.lists(each, max_size=3), max_leaves=6)
    some = st.sampled_from(["standardise", "fill", "project", "", "exec"])
    pairs = st.tuples(some, st.integers(-3, 20)).map(list)
    kinds = data.draw(st.just(kinds) | st.lists(pairs, max_size=4) | anything)
    if data.draw(st.booleans()):
        numbers = data.draw(arrays(np.float64, st.integers(0, 40)))
    try:
        read = read_steps(kinds, numbers, n_columns)
    except ValueError:
        return
    with np.errstate(all="ignore"):
        made = apply_steps(read, np.zeros((2, n_columns)))
    assert made.shape == (2, kinds[-1][1] if kinds else n_columns)
    assert made.shape[1] <= 2 * n_columns
    assert write_steps(read)[0] == kinds


@pytest.mark.parametrize(
    ("kinds", "numbers", "said"),
    [
        ({}, [], "a list of at most"),
        ([["fill", 2]] * (MOST_STEPS + 1), [0.0] * 4 * (MOST_STEPS + 1), "a list of at most"),
        ([["other", 2]], [], "no known kind"),
        ([[["fill"], 2]], [], "no known kind"),
        (["fi"], [], "no known kind"),
        ([["fill", 2.0]], [0.0] * 4, "no known kind"),
        ([["fill", True]], [0.0] * 4, "no known kind"),
        ([["project", 0]], [0.0] * 2, "makes 0 columns of 2"),
        ([["project", 5]], [0.0] * 17, "makes 5 columns of 2"),
        ([["project", 3]], [1.0] * 11, "not 3 components of 2 columns"),
        ([["standardise", 2]], [0.0, 0.0, 1.0], "too few numbers"),
        ([["standardise", 2]], [0.0, 0.0, 1.0, 1.0, 1.0], "1 numbers belong to no step"),
        ([["standardise", 3]], [0.0, 0.0, 1.0, 1.0], "said to make 3 columns and makes 2"),
        ([["standardise", 2]], [0.0, np.inf, 1.0, 1.0], "must be finite"),
        ([["standardise", 2]], [0.0, 0.0, 1.0, np.nan], "scales positive"),
        ([["standardise", 2]], [0.0, 0.0, 1.0, -1.0], "scales positive"),
        ([["fill", 2]], [0.0, np.nan, 0.0, 0.0], "must be finite"),
        ([["fill", 2]], [0.0, 0.0, 0.5, 0.0], "indicated or not"),
        ([["fill", 2]], [0.0, 0.0, 1.0, 0.0], "said to make 2 columns and makes 3"),
        ([["project", 1]], [0.0, 0.0, np.nan, 1.0, 1.0], "must be finite"),
        ([["project", 1]], [0.0, 0.0, 1.0, 1.0, 0.0], "scales positive"),
        (
            [["fill", 4], ["fill", 8]],
            [0.0, 0.0, 1.0, 1.0] + [0.0] * 4 + [1.0] * 4,
            "makes 8 columns of 2",
        ),
    ],
)
def test_what_is_no_step_is_refused(kinds, numbers, said):
    with pytest.raises(ValueError, match=said):
        read_steps(kinds, np.array(numbers, dtype=np.float64), 2)
