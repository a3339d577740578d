"""Parties that fail, drop out, lie or diverge; training that is killed and resumed."""

import dataclasses
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier
from torch import nn

from fedtl import FederatedFineTuner
from fedtl.exceptions import DivergenceError, DroppedPartyWarning, PartyError, PolicyRefusal
from fedtl.federation import Simulation
from fedtl.learning.strategies import FedBuff
from fedtl.parties import Policy
from fedtl.protocols import rounds
from fedtl.wire import Limits

ANSWER = rounds.answer_round


def mlp(n_out=10):
    """A small network."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, n_out))


@pytest.fixture(scope="module")
def digits():
    """600 digits of six parties."""
    X, y = load_digits(return_X_y=True)
    return (X[:600] / 16).astype(np.float32), y[:600], np.arange(600) % 6


@pytest.fixture
def misbehave(monkeypatch):
    """Let a function of (party, index, reply) change what parties reply to a round."""

    def install(change):
        def answer(recipe, party, request):
            return change(party.name, request.index, ANSWER(recipe, party, request))

        monkeypatch.setattr(rounds, "answer_round", answer)

    return install


def tuner(**params):
    """A quick tuner."""
    return FederatedFineTuner(mlp(), **{"n_rounds": 4, "lr": 0.3, "random_state": 0, **params})


def nan(reply):
    return dataclasses.replace(reply, values=np.full_like(reply.values, np.nan))


def short(reply):
    return dataclasses.replace(reply, values=reply.values[:, :-1])


def stops(reply):
    raise OSError("the line is dead")


def no_rows(reply):
    return dataclasses.replace(reply, n_rows=0)


@pytest.mark.parametrize("wrong", [nan, short, stops, no_rows])
@pytest.mark.parametrize("serialize", [False, True])
def test_a_party_that_fails_is_left_out_of_the_round_by_name(digits, misbehave, wrong, serialize):
    misbehave(lambda name, index, reply: wrong(reply) if (name, index) == ("3", 1) else reply)
    with pytest.warns(DroppedPartyWarning, match="party '3'.*left out of this round"):
        fitted = tuner(federation=Simulation(serialize=serialize)).fit(*digits)
    assert [r["replies"] for r in fitted.history_] == [6, 5, 6, 6]
    assert [r["dropped"] for r in fitted.history_] == [0, 1, 0, 0]
    X, y, party = digits
    others = party != 3
    misbehave(lambda name, index, reply: stops(reply) if name == "3" else reply)
    with pytest.warns(DroppedPartyWarning):
        without = tuner().fit(X, y, party)
    alone = tuner().fit(X[others], y[others], party[others])
    np.testing.assert_array_equal(without.model_.shared, alone.model_.shared)


def test_too_few_replies_are_an_error_and_the_estimator_is_as_before(digits, misbehave):
    fitted = tuner(min_parties=5).fit(*digits)
    before = dict(vars(fitted))
    misbehave(lambda name, index, reply: stops(reply) if name in "35" else reply)
    with pytest.raises(PartyError, match="party '3'.*Only 4 of 6.*min_parties"):
        fitted.fit(*digits)
    assert vars(fitted) == before


@pytest.mark.parametrize(
    "seed", [0, *[pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5)]]
)
def test_half_of_the_parties_dropping_out_costs_little(digits, misbehave, seed):
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[:1200], order[1200:]
    party = np.arange(1200) % 10
    undisturbed = tuner(n_rounds=20, random_state=seed).fit(X[train], y[train], party)

    def half(name, index, reply):
        absent = np.random.default_rng([seed, index]).permutation(10)[:5]
        return stops(reply) if int(name) in absent else reply

    misbehave(half)
    with pytest.warns(DroppedPartyWarning):
        disturbed = tuner(n_rounds=20, random_state=seed).fit(X[train], y[train], party)
    assert {r["replies"] for r in disturbed.history_} == {5}
    scores = [each.score(X[test], y[test]) for each in (undisturbed, disturbed)]
    assert scores[1] > scores[0] - 0.02


def test_diverging_everywhere_keeps_the_best_round_and_says_so(digits, misbehave):
    misbehave(lambda name, index, reply: nan(reply) if index == 3 else reply)
    three = tuner(n_rounds=3).fit(*digits)
    with pytest.raises(PartyError, match="NaN"):
        tuner(n_rounds=5).fit(*digits)  # replies of NaN are lies; training that diverges is not

    def diverge(recipe, party, request):
        if request.index == 3:
            raise DivergenceError(party.name, "its local training came to NaN or infinity")
        return ANSWER(recipe, party, request)

    rounds.answer_round = diverge  # undone with the fixture
    with pytest.warns(ConvergenceWarning, match="round 3 is kept"):
        fitted = tuner(n_rounds=5).fit(*digits)
    np.testing.assert_array_equal(fitted.model_.shared, three.model_.shared)


@pytest.mark.parametrize("strategy", ["fedavg", "fedbuff"])
def test_a_learning_rate_out_of_all_bounds_is_an_error(digits, strategy):
    fresh = tuner(lr=1e30, strategy=strategy)
    with pytest.raises(PartyError, match="NaN or infinity"):
        fresh.fit(*digits)
    assert not hasattr(fresh, "model_")


def test_a_batch_of_one_row_is_left_out_where_there_are_batch_norms(digits):
    X, y, _ = digits
    net = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    party = np.array(["few"] * 33 + ["many"] * 96 + ["one"])
    with pytest.warns(DroppedPartyWarning, match="party 'one'.*batch norm needs two"):
        FederatedFineTuner(net, n_rounds=1, batch_size=32).fit(X[:130], y[:130], party)


def test_parties_with_one_class_or_one_row_take_part(digits):
    X, y, _ = digits
    party = np.where(y == 0, "zeros", np.where(np.arange(600) == 5, "single", "rest"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DroppedPartyWarning)
        assert tuner(n_rounds=20).fit(X, y, party).score(X, y) > 0.7
        fitted = FederatedFineTuner(SGDClassifier(), random_state=0).fit(X, y, party)
    assert [r["replies"] for r in fitted.history_] == [3] * 10


def test_a_model_that_needs_all_classes_leaves_out_parties_without(digits):
    X, y, _ = digits
    party = np.where(y == 0, "zeros", np.arange(600) % 2)
    with pytest.warns(DroppedPartyWarning, match="party 'zeros'.*1 of 10 classes"):
        FederatedFineTuner(LogisticRegression(max_iter=3), n_rounds=1).fit(
            np.r_[X, X], np.r_[y, y], np.r_[party, np.arange(600) % 2]
        )


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [(mlp(n_out=5), "10 classes.*last layer"), (nn.Linear(63, 10), "shape|mat1")],
)
def test_an_architecture_that_does_not_fit_the_data_is_explained(digits, estimator, reason):
    with pytest.raises(PartyError, match=reason):
        FederatedFineTuner(estimator).fit(*digits)


@pytest.mark.parametrize(
    "policy", [Policy(protocols=frozenset({"session"})), Policy(min_rows=101), Policy(max_fits=0)]
)
def test_a_party_that_refuses_is_left_out_by_name(digits, policy):
    with pytest.warns(DroppedPartyWarning, match="party '2': .*policy"):
        fitted = tuner(n_rounds=1, federation=Simulation(policies={"2": policy})).fit(*digits)
    assert fitted.parties_ == ["0", "1", "3", "4", "5"]
    alone = Simulation(policies=dict.fromkeys("012345", policy))
    with pytest.raises(PolicyRefusal, match="party '0'"):
        tuner(federation=alone).fit(*digits)


def test_a_partys_limit_of_bytes_holds(digits):
    small = Simulation(policies={"1": Policy(limits=Limits(message_bytes=2000))})
    with pytest.warns(DroppedPartyWarning, match="party '1'.*at most 2000"):
        tuner(n_rounds=1, federation=small).fit(*digits)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"min_parties": 7}, "min_parties=7"),
        ({"cohort": 2, "min_parties": 3}, "a round has 2"),
        ({"validation": ("nobody",)}, "must be names of parties"),
        ({"validation": ("0", "1", "2", "3", "4", "5")}, "all are held out"),
        ({"deploy": "best", "validation": ("0",)}, "not whole parties"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(digits, params, problem):
    with pytest.raises(ValueError, match=problem):
        tuner(**params).fit(*digits)


def test_patience_goes_back_to_the_best_round(digits, misbehave):
    good = tuner(n_rounds=3, validation=0.2).fit(*digits)

    def worse(name, index, reply):
        return dataclasses.replace(reply, values=-9 * reply.values) if index >= 3 else reply

    misbehave(worse)
    fitted = tuner(n_rounds=30, patience=2).fit(*digits)
    assert fitted.n_iter_ == 5
    np.testing.assert_array_equal(fitted.model_.shared, good.model_.shared)


def test_whole_parties_may_be_held_out(digits):
    X, y, party = digits
    fitted = tuner(validation=("5",), patience=3).fit(X, y, party)
    others = party != 5
    trained = tuner().fit(X[others], y[others], party[others])
    np.testing.assert_array_equal(fitted.model_.shared, trained.model_.shared)
    held_out = trained.score(X[party == 5], y[party == 5])
    assert fitted.history_[-1]["held_out_score"] == pytest.approx(held_out)


@pytest.mark.parametrize(
    "params",
    [
        {"strategy": "scaffold", "cohort": 3},
        {"strategy": "fedadam", "compression": "eight_bits"},
        {"strategy": "ditto", "personal": ("2",), "patience": 9},
    ],
    ids=lambda params: params["strategy"],
)
def test_training_that_was_interrupted_goes_on_to_the_identical_model(
    digits, misbehave, tmp_path, params
):
    whole = tuner(n_rounds=6, **params).fit(*digits)
    saving = tuner(n_rounds=6, checkpoint=tmp_path, checkpoint_every=2, **params)

    def interrupt(name, index, reply):
        if index == 4:
            raise KeyboardInterrupt
        return reply

    misbehave(interrupt)
    with pytest.raises(KeyboardInterrupt):
        saving.fit(*digits)
    begun = []
    misbehave(lambda name, index, reply: begun.append(index) or reply)
    resumed = saving.fit(*digits)
    assert set(begun) == {4, 5}
    np.testing.assert_array_equal(resumed.model_.shared, whole.model_.shared)
    assert [r["loss"] for r in resumed.history_] == [r["loss"] for r in whole.history_]
    for name, memory in whole.model_.memories.items():
        for key, value in memory.items():
            np.testing.assert_array_equal(resumed.model_.memories[name][key], value)
    assert not list(tmp_path.iterdir())


def test_rounds_that_wait_for_nobody_go_on_with_the_parties_that_were_under_way(
    digits, misbehave, tmp_path
):
    params = {"strategy": FedBuff(buffer=2), "cohort": 3, "n_rounds": 6}
    trained = []
    misbehave(lambda name, index, reply: trained.append((name, index)) or reply)
    whole = tuner(**params).fit(*digits)
    expected, saving = list(trained), tuner(checkpoint=tmp_path, checkpoint_every=2, **params)

    def interrupt(name, index, reply):
        if len(trained) == 9:
            raise KeyboardInterrupt
        trained.append((name, index))
        return reply

    trained.clear()
    misbehave(interrupt)
    with pytest.raises(KeyboardInterrupt):
        saving.fit(*digits)
    trained.clear()
    misbehave(lambda name, index, reply: trained.append((name, index)) or reply)
    resumed = saving.fit(*digits)
    assert trained == expected[8:]  # two updates a version, saved after four versions
    np.testing.assert_array_equal(resumed.model_.shared, whole.model_.shared)


def test_a_checkpoint_of_other_data_is_not_taken_up_and_a_broken_one_is_named(
    digits, misbehave, tmp_path
):
    X, y, party = digits

    def interrupt(name, index, reply):
        if index == 2:
            raise KeyboardInterrupt
        return reply

    misbehave(interrupt)
    saving = tuner(checkpoint=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        saving.fit(X, y, party)
    misbehave(lambda name, index, reply: reply)
    other = saving.fit(X[::-1], y[::-1], party)
    plain = tuner().fit(X[::-1], y[::-1], party)
    np.testing.assert_array_equal(other.model_.shared, plain.model_.shared)
    (file,) = tmp_path.rglob("coordinator.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot be read.*remove it to start anew"):
        saving.fit(X, y, party)


@pytest.mark.slow
def test_training_that_was_killed_goes_on_to_the_identical_model(tmp_path):
    script = textwrap.dedent(f"""
        import sys, numpy as np
        from sklearn.datasets import load_digits
        from sklearn.linear_model import SGDClassifier
        from fedtl import FederatedFineTuner
        X, y = load_digits(return_X_y=True)
        folder = {str(tmp_path / "saved")!r} if sys.argv[1] == "save" else None
        tuner = FederatedFineTuner(
            SGDClassifier(), n_rounds=400, checkpoint=folder, random_state=None if folder else 7
        )
        tuner.random_state = 7
        print("begin", flush=True)
        tuner.fit(X, y, np.arange(len(y)) % 5)
        np.save(sys.argv[2], tuner.model_.shared)
    """)
    command = [sys.executable, "-c", script]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [*command, "save", "x"], cwd=root, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        while not list(tmp_path.rglob("coordinator.safetensors")):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    saved = list(tmp_path.rglob("coordinator.safetensors"))
    assert saved
    for mode in ("save", "plain"):
        subprocess.run([*command, mode, str(tmp_path / f"{mode}.npy")], cwd=root, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "save.npy"), np.load(tmp_path / "plain.npy"))
