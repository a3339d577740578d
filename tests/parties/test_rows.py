"""A party's rows know how many they are, which have a target and what they weigh."""

import numpy as np
import pandas as pd
import pytest

from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.parties import PartyService, Policy, Rows
from fedtl.protocols import ANSWERS, session


@pytest.mark.parametrize("X", [np.zeros((3, 2, 2)), pd.DataFrame({"a": [1, 2, 3]}), [0, 0, 0]])
def test_rows_of_any_kind_have_a_length(X):
    assert len(Rows(X)) == 3


@pytest.mark.parametrize(
    ("y", "labeled"),
    [
        (None, [False, False]),
        (np.array([1, 0]), [True, True]),
        (np.array([1.0, np.nan]), [True, False]),
        (np.array([[1.0, 2.0], [np.nan, 2.0]]), [True, False]),
        (np.array(["a", None], dtype=object), [True, False]),
    ],
)
def test_a_row_without_a_target_in_every_output_is_not_labelled(y, labeled):
    assert Rows(np.zeros((2, 1)), y).labeled.tolist() == labeled


def test_rows_weigh_one_unless_they_are_given_weights():
    assert Rows(np.zeros((2, 1))).weight.tolist() == [1.0, 1.0]
    assert Rows(np.zeros((2, 1)), None, np.array([0.5, 2.0])).weight.tolist() == [0.5, 2.0]


@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_other_lengths_are_refused_with_both_numbers(name):
    with pytest.raises(ValueError, match=f"X has 2 rows and {name} has 3"):
        Rows(np.zeros((2, 1)), **{name: np.zeros(3)})


def test_a_party_without_a_recipe_encodes_nothing():
    service = PartyService("clinic", Rows(np.zeros((2, 1))), None, ANSWERS)
    request = session.Open(session="s", resume=False, ids=np.arange(2))
    with pytest.raises(PartyError, match="'clinic': has no recipe"):
        service.answer(request)


def test_a_fit_counts_once_however_often_it_asks_and_whatever_rows_it_sees():
    service = PartyService("clinic", Rows(()), None, {}, policy=Policy(max_fits=1))
    view = service.with_table(Rows(np.zeros((2, 1))))
    view.row_fit("one")["kept"] = 7
    assert service.with_table(Rows(())).row_fit("one") == {"kept": 7}
    with pytest.raises(PolicyRefusal, match="'clinic': its policy allows 1 fits"):
        service.row_fit("two")
    assert service.row_fit("one") == {"kept": 7}
