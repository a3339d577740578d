"""A party counts what fits with noise tell of its rows, and stops answering at its own bound."""

import datetime
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone

pytest.importorskip("dp_accounting", reason="needs the extra dp")

from fedtl import FederatedTransferClassifier
from fedtl.exceptions import BudgetSpent, PolicyRefusal
from fedtl.federation import Simulation
from fedtl.parties import Policy
from fedtl.privacy import DifferentialPrivacy, PrivacyBudget
from fedtl.privacy.accounting import epsilon_of, from_json
from fedtl.server import UsageFile, serve

NOISE = DifferentialPrivacy(epsilon=1.0)


def estimator(made, federation, **changed):
    settings = {"solver": "moments", "n_folds": 2, "random_state": 0, "privacy": NOISE, **changed}
    return FederatedTransferClassifier([made.parties[0]], federation=federation, **settings)


def is_unfitted(clf):
    return not [name for name in vars(clf) if name.endswith("_") and name[0] != "_"]


def used(federation):
    return federation.describe()["shop"]["epsilon"]["used"]


def test_a_party_answers_until_its_epsilon_is_spent_and_a_restart_does_not_forget(world, data):
    made = data(n=400)
    bound = Policy(epsilon=1.6, delta=1e-5)
    there = world(made, policy=bound)
    federation = there.connect()
    assert federation.describe()["shop"]["epsilon"] == {
        "allowed": 1.6,
        "used": 0.0,
        "delta": 1e-5,
        "renewed": None,
    }
    clf = estimator(made, federation).fit(made.own, made.y)
    assert clf.predict(made.own).shape == made.y.shape
    assert used(federation) == pytest.approx(1.0, abs=0.01)
    federation.close()
    there.servers["shop"].stop(1.0)
    there.servers["shop"] = serve(
        "shop",
        made.blocks["shop"],
        credentials=there.folder / "shop",
        state=there.folder / "state-shop",
        policy=bound,
    ).start()
    federation = there.connect()
    assert used(federation) == pytest.approx(1.0, abs=0.01)
    again = estimator(made, federation).fit(made.own, made.y)  # two of them come to about 1.45
    before = used(federation)
    assert 1.3 < before < 1.6
    refused = estimator(made, federation)
    with pytest.raises(BudgetSpent, match=r"'shop': .* 2 earlier ones .* its budget is 1\.6"):
        refused.fit(made.own, made.y)
    assert is_unfitted(refused)
    assert used(federation) == before
    assert again.predict(made.own).shape == made.y.shape


def test_under_a_budget_nothing_is_told_of_training_rows_without_noise(world, data):
    made = data()
    there = world(made, policy=Policy(epsilon=5.0))
    federation = there.connect()
    assert federation.describe()["shop"]["protocols"] == [
        "alignment",
        "cardinality",
        "predict",
        "private_latent",
        "private_moments",
        "session",
    ]
    for solver in ("moments", "latent", "auto"):
        with pytest.raises(PolicyRefusal, match="'shop': its policy bounds epsilon"):
            estimator(made, federation, solver=solver, privacy="none").fit(made.own, made.y)
    labels = DifferentialPrivacy(epsilon=1.0, unit="label")
    with pytest.raises(PolicyRefusal, match="tells of rows without noise"):
        estimator(made, federation, privacy=labels).fit(made.own, made.y)
    assert used(federation) == 0.0


def test_noisy_latents_of_a_remote_party_are_those_of_a_simulated_one_and_paid_for_there(
    world, data, monkeypatch
):
    """But for the noise, which is fixed here: the models are the same, to the last bit."""

    def fixed(shape):
        return np.random.default_rng(len(shape)).standard_normal(shape)

    for module in ("learning.private_marginals", "protocols.private_latent"):
        monkeypatch.setattr(f"fedtl.{module}.gaussian", fixed)
    monkeypatch.setattr("fedtl.privacy.noise.gaussian", fixed)
    made, settings = data(n=400), {"solver": "latent", "max_iter": 8}
    local = FederatedTransferClassifier(
        made.parties, n_folds=2, random_state=0, privacy=NOISE, **settings
    ).fit(made.X, made.y)
    federation = world(made, policy=Policy(epsilon=1.6)).connect()
    remote = estimator(made, federation, **settings).fit(made.own, made.y)
    np.testing.assert_array_equal(remote.predict_proba(made.own), local.predict_proba(made.X))
    assert used(federation) == pytest.approx(1.0, abs=0.01)
    # Latents and sums draw on one account.
    estimator(made, federation).fit(made.own, made.y)
    with pytest.raises(BudgetSpent, match="'shop': .* 2 earlier ones"):
        estimator(made, federation, **settings).fit(made.own, made.y)


def test_labels_of_the_asking_party_are_counted_at_its_own_side(world, data):
    made = data()
    budget = PrivacyBudget(epsilon=1.5)
    federation = world(made).connect(budget=budget)
    labels = DifferentialPrivacy(epsilon=1.0, unit="label")
    clf = estimator(made, federation, privacy=labels).fit(made.own, made.y)
    assert budget.spent("labels") == 1.0
    with pytest.raises(BudgetSpent, match="1 earlier ones"):
        clone(clf).fit(made.own, made.y)
    assert pickle.loads(pickle.dumps(federation)).budget.spent("labels") == 1.0


def test_each_caller_has_a_budget_of_its_own_and_a_new_period_renews_it(tmp_path, monkeypatch):
    now = [datetime.datetime(2026, 3, 3, tzinfo=datetime.UTC)]
    clock = SimpleNamespace(
        datetime=SimpleNamespace(now=lambda _: now[-1]),
        date=datetime.date,
        timedelta=datetime.timedelta,
        UTC=datetime.UTC,
    )
    monkeypatch.setattr("fedtl.server._usage.datetime", clock)
    policy = Policy(epsilon=1.2, epsilon_days=7)
    fit = from_json(
        {"mechanism": "Gaussian", "noise_multiplier": 4.0, "sampling_rate": 1.0, "n_steps": 1}
    )

    def spend(caller):
        usages = UsageFile(tmp_path / "usage.json")  # as after a restart
        usages.of(caller).spend("shop", policy, fit)
        usages.save()
        return usages.of(caller)

    spend("bank")
    with pytest.raises(BudgetSpent, match="1 earlier ones"):
        spend("bank")
    assert spend("rival").epsilon(policy) == epsilon_of([fit], policy.delta)
    ends = UsageFile(tmp_path / "usage.json").of("bank").renewed(policy)
    assert "2026-03-03" < ends <= "2026-03-10"
    now.append(datetime.datetime.fromisoformat(f"{ends}T00:00+00:00"))
    assert spend("bank").epsilon(policy) == epsilon_of([fit], policy.delta)
    now.append(now[0])  # a clock that is put back renews nothing
    with pytest.raises(BudgetSpent):
        spend("bank")
    assert set(json.loads((tmp_path / "usage.json").read_text())) == {"bank", "rival"}


def test_remote_and_simulated_parties_are_bound_alike(data):
    made = data(n=400)
    policies = {"shop": Policy(epsilon=1.2)}
    clf = FederatedTransferClassifier(
        made.parties,
        solver="moments",
        n_folds=2,
        privacy=NOISE,
        federation=Simulation(policies=policies),
    )
    assert np.isfinite(clf.fit(made.X, made.y).predict_proba(made.X)).all()
    with pytest.raises(BudgetSpent, match="'shop'"):
        clf.fit(made.X, made.y)
    with pytest.raises(PolicyRefusal, match="bounds epsilon"):
        clf.set_params(privacy="none").fit(made.X, made.y)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epsilon": 0.0}, "epsilon must be a positive number"),
        ({"epsilon": 1.0, "delta": 1.0}, "delta must lie between"),
        ({"epsilon": 1.0, "epsilon_days": 0}, "epsilon_days must be at least 1"),
    ],
)
def test_a_budget_that_promises_nothing_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Policy(**wrong)
