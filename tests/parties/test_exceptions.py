"""Errors name the party and cross processes."""

import copy
import pickle

import pytest

from fedtl.exceptions import PartyError, PolicyRefusal


@pytest.mark.parametrize("cls", [PartyError, PolicyRefusal])
@pytest.mark.parametrize("copied", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_error_comes_back_from_another_process_as_it_was(cls, copied):
    error = cls("shop", "is closed")
    back = copied(error)
    assert type(back) is cls
    assert str(back) == "party 'shop': is closed"
    assert (back.party, back.problem) == ("shop", "is closed")


def test_a_refusal_is_an_error_of_the_party_and_of_the_value():
    assert issubclass(PolicyRefusal, PartyError)
    assert issubclass(PartyError, ValueError)
