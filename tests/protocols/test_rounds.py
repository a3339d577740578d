"""The party's end of rounds: what it refuses, and what never leaves it."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.exceptions import PartyError
from fedtl.federation import InProcessChannel, Ledger
from fedtl.learning.local import LocalRecipe, Shape
from fedtl.learning.strategies import FedAvg
from fedtl.parties import PartyService, Rows
from fedtl.protocols.rounds import (
    Begin,
    Compare,
    Compared,
    Evaluate,
    Evaluated,
    Finish,
    Finished,
    Ready,
    Reply,
    Round,
    RoundsPlan,
    answers,
    party_rounds,
    round_seed,
)

N = 30


@pytest.fixture(params=[False, True], ids=["by reference", "serialized"])
def party(request):
    """A channel to a party of 30 rows, the message that begins, and a first round."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    recipe = LocalRecipe(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), ("2",))
    rows = Rows(rng.normal(size=(N, 3)).astype(np.float32), rng.integers(0, 2, N))
    service = PartyService("bern", rows, None, answers(recipe))
    channel = InProcessChannel(service, Ledger(), request.param)
    model = recipe.build(Shape(3, 2), 0)
    plan = RoundsPlan("fit", model.layout_digest, 2, FedAvg(), 1, 0, held_out=0.2)
    first = Round(
        fit="fit", index=0, vectors=model.initial.shared[None], buffers=np.empty(0, np.float32)
    )
    return channel, plan.begin(), first


def test_a_party_says_how_many_rows_it_has_and_what_its_training_changed(party):
    channel, begin, first = party
    ready = channel.ask(begin, Ready)
    assert (ready.n_rows, ready.n_held_out) == (24, 6)
    reply = channel.ask(first, Reply)
    assert reply.values.shape == (1, 3 * 4 + 4)
    assert reply.n_rows == 24
    again = channel.ask(dataclasses.replace(first, index=1), Reply)
    assert not np.array_equal(reply.values, again.values)


@pytest.mark.parametrize(
    "changes",
    [
        {"layout": "of another model"},
        {"n_classes": 3},
        {"strategy": "os.system"},
        {"local_epochs": 0},
        {"held_out": 1.5},
        {"top": 0.0},
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(party, changes):
    channel, begin, first = party
    begin = dataclasses.replace(begin, **changes)
    if "n_classes" in changes:
        channel.ask(begin, Ready)  # the layout of a network does not depend on it, its output does
        begin, changes = first, None
    with pytest.raises(PartyError, match="party 'bern'"):
        channel.ask(begin, Ready if changes else Reply)


@pytest.mark.parametrize("length", [0, 15, 17])
def test_parameters_of_another_length_are_refused(party, length):
    channel, begin, first = party
    channel.ask(begin, Ready)
    short = dataclasses.replace(first, vectors=np.zeros((1, length), np.float32))
    with pytest.raises(PartyError, match="16 parameters"):
        channel.ask(short, Reply)
    with pytest.raises(PartyError, match="statistics"):
        channel.ask(dataclasses.replace(first, buffers=np.zeros(1, np.float32)), Reply)


def test_a_fit_that_was_not_begun_is_refused(party):
    channel, begin, first = party
    for request in (first, Finish(fit="another")):
        with pytest.raises(PartyError, match="fit the estimator again"):
            channel.ask(request, Finished)
    channel.ask(begin, Ready)
    with pytest.raises(PartyError, match="fit the estimator again"):
        channel.ask(dataclasses.replace(first, fit="another"), Reply)


def test_held_out_rows_judge_and_are_not_trained_on(party):
    channel, begin, first = party
    channel.ask(begin, Ready)
    service = channel._service
    training, held_out = party_rounds(service, "fit").split(service.table)
    assert sorted([*training, *held_out]) == list(range(N))
    before = channel.ask(first, Reply)
    service.table.X[held_out] = 1e6  # whatever they hold
    channel.ask(begin, Ready)  # anew, as the personal head has been trained
    after = channel.ask(first, Reply)
    np.testing.assert_array_equal(before.values, after.values)
    request = Evaluate(fit="fit", parameters=first.vectors[0], buffers=first.buffers)
    assert channel.ask(request, Evaluated).n_rows == 6


def test_after_the_end_only_what_serves_is_kept(party):
    channel, begin, first = party
    channel.ask(begin, Ready)
    channel.ask(first, Reply)
    compare = Compare(
        fit="fit",
        parameters=first.vectors[0],
        buffers=first.buffers,
        epochs=2,
        local_epochs=3,
        deploy="local",
    )
    compared = channel.ask(compare, Compared)
    assert compared.deployed == "local"
    channel.ask(Finish(fit="fit"), Finished)
    memory = party_rounds(channel._service, "fit").memory
    assert set(memory) == {"personal", "model", "buffers"}
    with pytest.raises(PartyError, match="out of range"):
        channel.ask(dataclasses.replace(compare, deploy="rm -rf"), Compared)


def test_nothing_but_numbers_crosses(party):
    assert {f.type for f in dataclasses.fields(Begin)} <= {"str", "int", "float", "bool"}
    _, begin, _ = party
    assert "torch" not in str(vars(begin))


def test_seeds_of_parties_and_rounds_differ():
    seeds = {round_seed(0, i, p) for i in range(50) for p in ("1", "11", "bern")}
    assert len(seeds) == 150
    assert round_seed(0, 1, "1") != round_seed(0, 11, "")
