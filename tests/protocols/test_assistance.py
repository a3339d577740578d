"""A party's trees stay with it; what crosses is the target and their held-out scores."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fedtl import Encoder
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger
from fedtl.learning.trees import fit_trees
from fedtl.parties import PartyService, Policy, Table
from fedtl.protocols import ANSWERS
from fedtl.protocols.assistance import ask_assistance
from fedtl.protocols.moments import ask_moments
from fedtl.protocols.predict import ask_predictions
from fedtl.protocols.session import end_session, open_session, prepare_session

FOLDS = 3
RNG = np.random.default_rng(2)
BLOCK = RNG.normal(size=(150, 3))
BLOCK[[5, 17]] = np.nan
ROWS = RNG.permutation(np.delete(np.arange(150), [5, 17]))[:120]
ASKED = {
    "task": "binary",
    "folds": RNG.integers(0, FOLDS, 120),
    "weight": RNG.uniform(0.1, 2.0, 120),
    "target": ((BLOCK[ROWS, :1] > 0) != (BLOCK[ROWS, 1:2] > 0)).astype(float),
    "n_folds": FOLDS,
    "seed": 3,
}


def shop(policy=None, *, serialize=False):
    """Return a channel to a party that has prepared its rows."""
    service = PartyService("shop", Table(BLOCK), Encoder(), ANSWERS, policy=policy)
    channel = InProcessChannel(service, Ledger(), serialize)
    open_session(channel, "s", np.arange(150), resume=False)
    prepare_session(channel, "s", 4, seed=0)
    return channel


@pytest.mark.parametrize("serialize", [False, True])
def test_scores_are_those_of_trees_on_the_partys_plain_columns(serialize):
    channel = shop(serialize=serialize)
    session = channel._service.sessions["s"]
    inputs = session.features.plain(session.columns, ROWS)
    options = {key: ASKED[key] for key in ("weight", "folds", "n_folds", "seed")}
    expected = fit_trees("binary", inputs, ASKED["target"], **options)
    assert_array_equal(ask_assistance(channel, "s", ROWS, **ASKED), expected.held_out)
    end_session(channel, "s")
    reply = ask_predictions(channel, "s", ROWS, scores=False, latents=False, trees=True)
    assert_array_equal(reply.trees, expected.full.scores(inputs))


def test_unknown_rows_score_zero_and_nothing_is_told_that_was_not_asked_for():
    channel = shop()
    ask_assistance(channel, "s", ROWS, **ASKED)
    reply = ask_predictions(channel, "s", np.arange(20), scores=True, latents=False, trees=True)
    assert_array_equal(reply.trees[[5, 17]], np.zeros((2, 1)))
    silent = ask_predictions(channel, "s", np.arange(20), scores=True, latents=False)
    assert silent.trees.shape == (20, 0)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"task": "ranking"}, "task 'ranking'"),
        ({"task": "multiclass"}, "1 outputs for the task 'multiclass'"),
        ({"n_folds": 1}, "n_folds must lie"),
        ({"n_folds": 51}, "n_folds must lie"),
        ({"folds": np.ones(120, dtype=np.uint8)}, "too few for trees"),
        ({"n_folds": 2}, "folds must lie below"),
        ({"seed": -1}, "seed"),
        ({"target": ASKED["target"] + 0.5}, "marked by 0 and 1"),
        ({"weight": -ASKED["weight"]}, "must not be negative"),
        ({"target": np.ones((120, 1))}, "too few for trees"),
    ],
)
def test_requests_that_trees_cannot_learn_from_are_refused(changed, problem):
    with pytest.raises(PartyError, match=problem):
        ask_assistance(shop(), "s", ROWS, **(ASKED | changed))


def test_the_policy_binds_it():
    few = Policy(min_rows=121)
    with pytest.raises(PolicyRefusal, match="a sum over 120 rows"):
        ask_assistance(shop(few), "s", ROWS, **ASKED)
    none = Policy(protocols=frozenset({"session", "moments"}))
    with pytest.raises(PolicyRefusal, match="'assistance'"):
        ask_assistance(shop(none), "s", ROWS, **ASKED)


def test_one_row_that_is_named_many_times_is_one_row():
    service = PartyService(
        "shop", Table(BLOCK), Encoder(), ANSWERS, policy=Policy(min_rows=20, max_row_scores=2)
    )
    channel = InProcessChannel(service, Ledger())
    open_session(channel, "s", np.array([7] * 120), resume=False)
    prepare_session(channel, "s", 4, seed=0)
    with pytest.raises(PolicyRefusal, match="a sum over 1 rows"):
        ask_assistance(channel, "s", np.arange(120), **ASKED)
    whole = {"folds": np.zeros(120, dtype=np.uint8), "weight": np.ones(120), "n_folds": 1}
    with pytest.raises(PolicyRefusal, match="a sum over 1 rows"):
        ask_moments(channel, "s", np.arange(120), targets=np.ones((120, 1)), **whole)


def test_scores_of_a_row_are_counted_over_requests():
    channel = shop(Policy(max_row_scores=2))
    ask_assistance(channel, "s", ROWS, **ASKED)
    ask_assistance(channel, "s", ROWS, **ASKED)
    with pytest.raises(PolicyRefusal):
        ask_assistance(channel, "s", ROWS, **ASKED)


def test_wide_columns_are_rotated(monkeypatch):
    monkeypatch.setattr("fedtl.parties._features.MAX_WIDTH", 2)
    session = shop()._service.sessions["s"]
    encoded = session.features.encoding_.transform(session.features.features(session.columns[ROWS]))
    assert_array_equal(session.features.plain(session.columns, ROWS), encoded)
