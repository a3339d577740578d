"""Simulated row-wise parties answer for their own rows and for no others."""

from typing import Annotated

import numpy as np
import pytest

from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import Ledger, Simulation
from fedtl.parties import Policy, Rows
from fedtl.wire import Message, Tensor, encode, message


@message("test.total/1")
class Total(Message):
    fit: str


@message("test.sum/1")
class Sum(Message):
    sum: Annotated[np.ndarray, Tensor("float64", ("columns",))]


def answer_total(party, request):
    party.row_fit(request.fit)
    party.policy.allow_aggregate(party.name, len(party.table))
    return Sum(sum=party.table.X.sum(axis=0))


ANSWERS = {"test.total/1": ("totals", answer_total)}
ROWS = {"a": Rows(np.ones((4, 2))), "b": Rows(np.full((2, 2), 3.0))}


def ask(simulation, rows=ROWS, names=ROWS, fit="f"):
    ledger = Ledger()
    channels = simulation.row_parties(names, ANSWERS).channels(rows, ledger)
    return {name: c.ask(Total(fit=fit), Sum).sum.tolist() for name, c in channels.items()}, ledger


@pytest.mark.parametrize("serialize", [False, True])
def test_each_party_answers_for_its_own_rows_and_is_counted_to_the_byte(serialize):
    sums, ledger = ask(Simulation(serialize=serialize))
    assert sums == {"a": [4.0, 4.0], "b": [6.0, 6.0]}
    assert list(sums) == ["a", "b"]
    size = len(encode(Total(fit="f"))) + len(encode(Sum(sum=np.ones(2))))
    assert (ledger.messages, ledger.n_bytes) == (4, 2 * size)


def test_a_party_is_bound_by_its_own_policy():
    simulation = Simulation(policies={"b": Policy(min_rows=3)})
    with pytest.raises(PolicyRefusal, match="'b': a sum over 2 rows"):
        ask(simulation)
    assert ask(simulation, {"a": ROWS["a"]})[0] == {"a": [4.0, 4.0]}


def test_a_quota_of_fits_counts_over_all_fits_of_a_simulation():
    simulation = Simulation(policies={"a": Policy(max_fits=2)})
    ask(simulation)
    ask(simulation)
    with pytest.raises(PolicyRefusal, match="'a': its policy allows 2 fits"):
        ask(simulation)


def test_a_policy_of_a_party_without_rows_is_reported_but_no_error():
    simulation = Simulation(policies={"clinic": Policy()})
    with pytest.warns(UserWarning, match=r"\['clinic'\].*\['a', 'b'\]"):
        ask(simulation)


def test_rows_are_kept_by_the_channel_and_not_by_the_services():
    parties = Simulation().row_parties(ROWS, ANSWERS)
    parties.channels(ROWS, Ledger())
    assert all(len(service.table) == 0 for service in parties.services.values())


def test_what_a_fit_keeps_at_a_party_is_there_for_its_next_rows():
    parties = Simulation().row_parties(ROWS, ANSWERS)
    parties.channels(ROWS, Ledger())["a"].ask(Total(fit="f"), Sum)
    parties.services["a"].fits["f"]["kept"] = 1
    later = parties.channels({"a": Rows(np.zeros((1, 2)))}, Ledger())["a"]
    assert later._service.row_fit("f") == {"kept": 1}


def test_a_party_that_took_no_part_and_one_without_rows_are_named():
    with pytest.raises(PartyError, match=r"'c': took no part.*\['a', 'b'\]"):
        ask(Simulation(), {"c": ROWS["a"]})
    with pytest.raises(PartyError, match="'b': has no row"):
        ask(Simulation(), {"b": Rows(np.ones((0, 2)))})
