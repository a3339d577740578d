"""Rounds under secure aggregation: the mean of updates, and nothing of a single one."""

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from fedtl import FederatedFineTuner, protocols
from fedtl.exceptions import DroppedPartyWarning, PartyError
from fedtl.federation import record_transcript
from fedtl.learning.compression import Compression
from fedtl.privacy import SecureAggregation
from fedtl.protocols import secure_rounds, secure_sums

X, Y = load_digits(return_X_y=True)
X = (X / 16)[:400]
Y = Y[:400]
PARTY = np.repeat(["a", "b", "c", "d", "e"], [40, 60, 80, 100, 120])
NET = torch.nn.Sequential(
    torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 10)
)
PLAIN = FederatedFineTuner(NET, n_rounds=3, privacy="none", random_state=0)
SECURE = clone(PLAIN).set_params(privacy=SecureAggregation())


def parameters(tuner):
    return np.concatenate([tuner.model_.shared, tuner.model_.buffers])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": "fedprox"},
        {"cohort": 4},
        {"validation": 0.2, "patience": 2},
        {"estimator": SGDClassifier(random_state=0)},
    ],
    ids=str,
)
def test_the_mean_is_that_of_updates_in_the_clear(changes):
    plain = clone(PLAIN).set_params(**changes).fit(X, Y, sample_party=PARTY)
    secure = clone(SECURE).set_params(**changes).fit(X, Y, sample_party=PARTY)
    np.testing.assert_allclose(parameters(secure), parameters(plain), rtol=1e-4, atol=1e-5)
    told = [record["loss"] for record in plain.history_]
    np.testing.assert_allclose([record["loss"] for record in secure.history_], told, rtol=1e-4)


def fails_at(monkeypatch, step, *names):
    """Have parties fail when they are asked this."""
    module = secure_rounds if step == "answer_round_masked" else secure_sums
    answer = getattr(module, step)

    def failing(*args):
        party = args[-2]
        if party.name in names:
            raise PartyError(party.name, "has gone")
        return answer(*args)

    monkeypatch.setattr(module, step, failing)
    rows = {
        kind: (name, getattr(secure_sums, end.__name__)) if name == "secure_sums" else (name, end)
        for kind, (name, end) in protocols.ROW_ANSWERS.items()
    }
    monkeypatch.setattr(protocols, "ROW_ANSWERS", rows)


@pytest.mark.parametrize(
    "step", ["answer_begin", "answer_share", "answer_round_masked", "answer_reveal"]
)
def test_a_party_may_drop_out_between_any_two_exchanges(monkeypatch, step):
    fails_at(monkeypatch, step, "b")
    with pytest.warns(DroppedPartyWarning, match="'b': has gone"):
        secure = clone(SECURE).fit(X, Y, sample_party=PARTY)
    # Its update is in the sum if it came before it went.
    stayed = (PARTY != "b") | (step == "answer_reveal")
    plain = clone(PLAIN).fit(X[stayed], Y[stayed], sample_party=PARTY[stayed])
    np.testing.assert_allclose(parameters(secure), parameters(plain), rtol=1e-4, atol=1e-5)
    assert secure.history_[0]["dropped"] == (step != "answer_reveal")


@pytest.mark.parametrize("step", ["answer_share", "answer_round_masked", "answer_reveal"])
def test_below_the_threshold_there_is_an_error_and_no_model(monkeypatch, step):
    fails_at(monkeypatch, step, "a", "b", "c")
    tuner = clone(SECURE)
    with pytest.raises(PartyError, match="has gone"):
        tuner.fit(X, Y, sample_party=PARTY)
    assert not hasattr(tuner, "model_")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy": "median"}, "more than the parties' mean"),
        ({"strategy": "reptile"}, "weighed by rows"),
        ({"strategy": "scaffold"}, "more than the parties' mean"),
        ({"strategy": "fedbuff"}, "more than the parties' mean"),
        ({"compression": Compression(eight_bits=True)}, "compression does not go together"),
        ({"cohort": 2}, "needs 3 parties, there are 2"),
    ],
)
def test_what_needs_single_updates_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        clone(SECURE).set_params(**changes).fit(X, Y, sample_party=PARTY)


def test_what_crosses_does_not_depend_on_the_update():
    # A party's masked numbers look drawn evenly, whatever it has learnt, and never repeat.
    came = []
    for _ in range(2):
        with record_transcript() as transcript:
            tuner = clone(SECURE).set_params(n_rounds=1).fit(X, Y, sample_party=PARTY)
        crossed = [c.message for name in transcript.parties for c in transcript.with_party(name)]
        kinds = {message.kind for message in crossed}
        assert not kinds & {"rounds.round/1", "rounds.update/1"}
        came += [m.values for m in crossed if m.kind == "secure_sums.masked/1"]
    assert len(came) == 10
    numbers = np.stack(came) / 2.0**64
    assert abs(numbers.mean() - 0.5) < 5 / np.sqrt(12 * numbers.size)
    assert len(np.unique(np.concatenate(came))) == numbers.size
    shown = {row["kind"]: row["protection"] for row in tuner.ledger_.rows()}
    assert shown["secure_sums.masked/1"] == "secure aggregation"


@pytest.mark.slow
def test_processes_of_joblib_give_the_same_mean():
    here = clone(SECURE).fit(X, Y, sample_party=PARTY)
    with parallel_config(backend="loky", n_jobs=2):
        there = clone(SECURE).fit(X, Y, sample_party=PARTY)
    np.testing.assert_array_equal(parameters(here), parameters(there))
