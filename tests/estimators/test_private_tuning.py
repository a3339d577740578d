"""Training in rounds under differential privacy: what it costs, and what it refuses."""

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from skorch import NeuralNetClassifier
from torch import nn

from fedtl import FederatedFineTuner
from fedtl.exceptions import BudgetSpent, PartyError, PolicyRefusal
from fedtl.federation import Simulation
from fedtl.parties import Policy
from fedtl.privacy import DifferentialPrivacy, PrivacyBudget
from fedtl.privacy.accounting import Gaussian, epsilon_of
from fedtl.protocols.private_rounds import sampling_rate

pytest.importorskip("opacus")


@pytest.fixture(scope="module")
def cameras():
    digits = load_digits()
    X = np.column_stack([digits.data / 16, np.arange(len(digits.data)) % 3]).astype(np.float32)
    return X[:600], digits.target[:600]


def tuner(privacy="none", estimator=None, **parameters):
    torch.manual_seed(0)
    parameters = {"n_rounds": 2, "lr": 0.5, "batch_size": 50, "random_state": 0} | parameters
    return FederatedFineTuner(
        estimator or nn.Linear(64, 10), party=64, privacy=privacy, **parameters
    )


ROWS = DifferentialPrivacy(epsilon=8.0)


def test_weak_privacy_costs_little_accuracy_and_loss_is_not_told(cameras):
    X, y = cameras
    plain = tuner(n_rounds=8).fit(X, y)
    private = tuner(DifferentialPrivacy(50.0, clip=3.0), n_rounds=8).fit(X, y)
    assert private.score(X, y) > plain.score(X, y) - 0.15
    assert np.isnan([record["loss"] for record in private.history_]).all()
    protection = {row["kind"]: row["protection"] for row in private.ledger_.rows()}
    assert protection["rounds.private_update/1"] == "differential privacy"
    assert "rounds.update/1" not in protection


def test_the_book_holds_what_was_drawn_and_costs_what_was_asked_for(cameras):
    X, y = cameras
    budget = PrivacyBudget(20.0)
    fitted = tuner(ROWS, federation=Simulation(budget=budget)).fit(X, y)
    entries = budget.entries()
    assert [entry["owner"] for entry in entries] == ["0", "1", "2"]
    assert {entry["noise_multiplier"] for entry in entries} == set(fitted.noise_.values())
    # 200 rows a party, mini-batches of 50: four steps a round.
    assert {(e["sampling_rate"], e["n_steps"]) for e in entries} == {(0.25, 8)}
    assert 7.9 < budget.spent("0") <= 8.0


def test_a_party_s_own_policy_bounds_epsilon_and_refuses_updates_without_noise(cameras):
    X, y = cameras
    federation = Simulation(policies={"1": Policy(epsilon=10.0)})
    tuner(ROWS, federation=federation).fit(X, y)
    with pytest.raises(BudgetSpent, match="'1': .* 1 earlier ones .* its budget is 10"):
        tuner(ROWS, federation=federation).fit(X, y)
    with pytest.raises(PolicyRefusal, match=r"'1': its policy bounds epsilon, .*update/1"):
        tuner(federation=federation).fit(X, y)


def test_a_fit_is_not_repeatable_by_its_seed(cameras):
    X, y = cameras
    first, second = (tuner(ROWS).fit(X, y).model_.shared for _ in range(2))
    assert not np.array_equal(first, second)


def test_a_cross_validation_stops_before_the_fold_that_would_exceed_its_budget(cameras):
    X, y = cameras
    training = Gaussian(tuner(ROWS).fit(X, y).noise_["0"], 0.25, 8)
    budget = PrivacyBudget(epsilon_of([training] * 2, 1e-5) + 0.5)
    search = tuner(ROWS, federation=Simulation(budget=budget), batch_size=40)
    with pytest.raises(BudgetSpent, match="2 earlier ones.*no row was used"):
        cross_val_score(search, X, y, cv=5, error_score="raise")
    assert len(budget.entries()) == 2 * 3  # two folds, three parties
    assert budget.spent("0") <= budget.epsilon


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
def test_parallel_workers_of_a_grid_search_share_the_budget(cameras, backend):
    X, y = cameras
    budget = PrivacyBudget(16.0)
    search = GridSearchCV(
        tuner(ROWS, federation=Simulation(budget=budget)),
        {"lr": [0.1, 0.5]},
        cv=3,
        n_jobs=2,
        refit=False,
    )
    with parallel_config(backend):
        search.fit(X, y)
    scores = np.concatenate([search.cv_results_[f"split{i}_test_score"] for i in range(3)])
    assert np.isnan(scores).any()
    assert np.isfinite(scores).any()
    assert max(budget.spent(owner) for owner in "012") <= 16.0
    fits = [entry["owner"] for entry in budget.entries()]
    assert all(fits.count(owner) >= np.isfinite(scores).sum() for owner in "012")


def test_whole_parties_can_be_protected(cameras):
    X, y = cameras
    X = np.column_stack([X[:, :64], np.arange(len(X)) % 20]).astype(np.float32)
    budget = PrivacyBudget(60.0)
    privacy = DifferentialPrivacy(50.0, unit="party")
    fitted = tuner(privacy, federation=Simulation(budget=budget), n_rounds=3).fit(X, y)
    assert len(budget.entries()) == 20
    assert fitted.score(X, y) > 0.25
    assert not np.isnan(fitted.model_.shared).any()


def test_skorch_nets_are_trained_privately(cameras):
    X, y = cameras
    net = NeuralNetClassifier(
        nn.Linear(64, 10), criterion=nn.CrossEntropyLoss, lr=0.5, batch_size=50, train_split=None
    )
    assert tuner(ROWS, net, n_rounds=4).fit(X, y).score(X, y) > 0.4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"privacy": DifferentialPrivacy(1.0, unit="label")}, "unit='label' is for"),
        ({"validation": 0.2}, "validation does not go"),
        ({"patience": 2}, "patience does not go"),
        ({"checkpoint": "folder"}, "checkpoint does not go"),
        ({"deploy": "local"}, "deploy='local' trains on rows without noise"),
        ({"strategy": "ditto"}, "'ditto' uses a party's rows for more"),
        ({"strategy": "fedbuff"}, "'fedbuff' uses a party's rows for more"),
        (
            {"strategy": "median", "privacy": DifferentialPrivacy(1.0, unit="party")},
            "'median' uses more than the parties' mean change",
        ),
        ({"estimator": SGDClassifier()}, "gradients of single rows"),
        ({"estimator": nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 10))}, "batch norms"),
    ],
)
def test_what_is_not_accounted_for_is_refused_before_anything_is_spent(cameras, change, problem):
    X, y = cameras
    budget = PrivacyBudget(20.0)
    parameters = {"privacy": ROWS, "federation": Simulation(budget=budget)} | change
    with pytest.raises(ValueError, match=problem):
        tuner(**parameters).fit(X, y)
    assert budget.entries() == []


def test_a_party_whose_policy_lacks_private_rounds_is_named(cameras):
    X, y = cameras
    policies = {"1": Policy(protocols=frozenset({"rounds"}))}
    with pytest.raises(PartyError, match="'1'.*private_rounds"):
        tuner(ROWS, federation=Simulation(policies=policies)).fit(X, y)


def test_a_party_answers_no_more_rounds_than_were_paid_for(cameras, monkeypatch):
    X, y = cameras
    monkeypatch.setattr("fedtl.solvers.tuning.protect", _one_round_paid)
    with pytest.raises(PartyError, match="all rounds"):
        tuner(ROWS).fit(X, y)


def _one_round_paid(privacy, fit, n_rounds, services, channels):
    from fedtl.solvers.private_tuning import protect

    return protect(privacy, fit, 1, services, channels)


@pytest.mark.parametrize(
    ("batch", "n", "rate"), [(50, 200, 0.25), (32, 466, 0.069), (32, 467, 0.069), (5, 5, 1.0)]
)
def test_rates_are_rounded_up_to_two_digits(batch, n, rate):
    assert sampling_rate(batch, n) == pytest.approx(rate)
