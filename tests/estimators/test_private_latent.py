"""Latents under differential privacy: what is told of a row, what it costs, what is refused."""

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from fedtl import Encoder, FederatedTransferClassifier, FederatedTransferRegressor
from fedtl.exceptions import BudgetSpent, PartyError, PolicyRefusal
from fedtl.federation import Ledger, Simulation, record_transcript
from fedtl.learning.private_marginals import histograms
from fedtl.learning.private_projection import ClippedProjection
from fedtl.parties import Policy
from fedtl.persistence import load, save
from fedtl.privacy import DifferentialPrivacy, PrivacyBudget
from fedtl.privacy.accounting import Gaussian, epsilon_of
from fedtl.protocols import ANSWERS, private_latent
from fedtl.protocols.predict import PROJECTION
from fedtl.protocols.private_latent import PrivateLatent
from fedtl.protocols.session import open_session
from fedtl.solvers.private_latent import expected_latents

pytest.importorskip("dp_accounting")


@pytest.fixture
def seeded(monkeypatch):
    """Noise that is the same in every run, where a test asks how good a model is."""
    seeds = (n.to_bytes(32, "little") for n in count())
    monkeypatch.setattr("fedtl.privacy.noise.new_seed", lambda: next(seeds))


def estimator(made, epsilon=20.0, task="binary", **parameters):
    parameters = {"n_folds": 3, "max_iter": 30, "random_state": 0} | parameters
    kind = FederatedTransferRegressor if task == "regression" else FederatedTransferClassifier
    parties = parameters.pop("parties", made.parties)
    noise = DifferentialPrivacy(epsilon, 1e-4)
    return kind(parties, solver="latent", privacy=noise, **parameters)


def service(X, budget=None, **policy):
    federation = Simulation(policies={"shop": Policy(**policy)}, budget=budget)
    parties = federation.parties({"shop": Encoder()}, ANSWERS)
    [channel] = parties.channels([X], Ledger())
    return channel


def asked(channel, ids, epsilon=2.0, n_components=16):
    open_session(channel, "s", np.asarray(ids), False)
    exchange = PrivateLatent(DifferentialPrivacy(epsilon), n_components)
    exchange.prepare(channel, "s", 0)
    return exchange


def numbers(n=100, width=3):
    return np.random.default_rng(0).standard_normal((n, width))


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_every_subset_of_parties_is_served_better_than_by_chance(rows, without, seeded, task):
    train = rows(n=900, n_parties=3, task=task)
    new = rows(n=300, n_parties=3, overlap=1.0, task=task, seed=1)
    model = estimator(train, 40.0, task).fit(train.X, train.y)
    chance = {"multiclass": 0.34, "regression": 0.0}[task]
    for hidden in ([], ["shop"], ["bank", "shop"]):
        assert model.score(without(new.X, train.columns, *hidden), new.y) > chance + 0.05


def test_latents_help_and_only_the_private_protocol_crosses_without_labels(rows, seeded):
    made, new = rows(n=1500, overlap=1.0), rows(n=500, overlap=1.0, seed=1)
    budget = PrivacyBudget(20.0, 1e-4)
    federation = Simulation(
        serialize=True,
        budget=budget,
        policies={"shop": Policy(protocols=frozenset({"session", "private_latent", "predict"}))},
    )
    labels = made.y.copy()
    labels[::3] = -1
    with record_transcript() as transcript:
        model = estimator(made, federation=federation, unlabeled=-1).fit(made.X, labels)
    [told] = transcript.openings("shop", "private_latent.latents")  # attacks see them
    assert told["scores"].shape == (len(told["rows"]), 4) == (len(made.X), 4)
    bank = estimator(made, parties=made.parties[:1]).fit(made.X, made.y)
    assert roc_auc_score(new.y, model.predict_proba(new.X)[:, 1]) > (
        roc_auc_score(new.y, bank.predict_proba(new.X)[:, 1]) + 0.05
    )
    crossed = {(row["direction"], row["kind"]) for row in model.report_.messages}
    assert crossed == {
        ("sent", "session.open/1"),
        ("received", "session.opened/1"),
        ("sent", "private_latent.release/1"),
        ("received", "private_latent.released/1"),
        ("sent", "session.end/1"),
        ("received", "session.ended/1"),
    }
    # What is sent has no array but the ids of the rows: the same whatever the labels are.
    assert set(private_latent.Release.__annotations__) == {
        "session",
        "epsilon",
        "delta",
        "n_bins",
        "n_components",
        "seed",
    }
    [entry] = budget.entries()
    assert (entry["owner"], entry["sampling_rate"], entry["n_steps"]) == ("shop", 1.0, 1)
    assert 19.5 < budget.spent("shop") <= 20.0
    with pytest.raises(BudgetSpent, match="'shop'"):
        model.fit(made.X, made.y)
    assert len(budget.entries()) == 1


def test_much_noise_is_not_trusted(rows, seeded):
    made = rows(n=300, overlap=1.0)
    model = estimator(made, 0.05).fit(made.X, made.y)
    assert model.model_.served[(0, 1)].trust < 0.5
    assert np.isfinite(model.predict_proba(made.X)).all()


def test_saved_models_predict_the_same_and_are_not_trained_on(rows, tmp_path):
    made = rows()
    model = estimator(made).fit(made.X, made.y)
    save(model, tmp_path / "model")
    np.testing.assert_array_equal(
        load(tmp_path / "model").predict_proba(made.X), model.predict_proba(made.X)
    )
    parts = model.transform(made.X)
    assert parts.shape == (len(made.X), 2)
    assert not parts[~made.known].any()
    with pytest.raises(ValueError, match="cannot be trained on; fit it anew"):
        model.set_params(warm_start=True).fit(made.X, made.y)


def test_noise_of_the_latents_is_that_of_their_bound_and_of_what_was_paid(seeded):
    X = numbers(3000, 6)
    budget = PrivacyBudget(2.0)
    channel = service(X, budget)
    exchange = asked(channel, np.arange(len(X)))
    latents, second_moments, noise = exchange.told("shop", np.arange(len(X)))
    session = channel._service.session("s")
    projection = session.state[PROJECTION]
    clean = np.concatenate([projection.scores(p) for _, p in session.encoded(np.arange(3000))])
    multiplier = budget.entries()[0]["noise_multiplier"]
    assert epsilon_of([Gaussian(multiplier)], 1e-5) <= 2.0
    assert noise == pytest.approx(multiplier * projection.bound / np.sqrt(0.75))
    difference = latents - clean
    np.testing.assert_allclose(difference.std(axis=0), noise, rtol=0.07)
    np.testing.assert_allclose(difference.mean(axis=0), 0.0, atol=5 * noise / np.sqrt(3000))
    np.testing.assert_allclose(np.corrcoef(difference.T), np.eye(4), atol=0.1)
    spread = multiplier * projection.bound**2 / np.sqrt(0.05) / 3000
    told = second_moments - clean.T @ clean / 3000
    assert 0.0 < np.abs(told).max() < 5 * spread


def test_noise_is_another_in_each_fit():
    channel, rows = service(numbers(1000)), np.arange(1000)
    first, second = (asked(channel, rows, 8.0).told("shop", rows)[0] for _ in range(2))
    assert first.shape == second.shape
    assert np.abs(first - second).mean() > 0.1


@settings(max_examples=60, deadline=None)
@given(
    encoded=arrays(np.float64, (30, 6), elements=st.floats(-1e6, 1e6, allow_nan=False, width=32)),
    row=st.integers(0, 29),
    n_components=st.integers(1, 6),
)
def test_one_row_moves_what_is_told_by_no_more_than_what_is_paid_for(encoded, row, n_components):
    """Joint distance in units of noise: at most one over the multiplier of the mechanism."""
    without = encoded.copy()
    without[row] = 0.0
    noise, multiplier = private_latent._noise, 3.0
    bound = 0.8 * np.sqrt(6)
    sums, others = (private_latent._products([part], bound) for part in (encoded, without))
    distance = ((sums - others) ** 2).sum() / noise("directions", bound**2, multiplier) ** 2
    # All that follows is of the same directions, as these are told already.
    projection = ClippedProjection(sums / 30, n_components)
    latents, of_others = projection.scores(encoded), projection.scores(without)
    assert (np.delete(latents, row, 0) == np.delete(of_others, row, 0)).all()
    distance += ((latents - of_others) ** 2).sum() / (
        noise("latents", projection.bound, multiplier) ** 2
    )
    moments = latents.T @ latents - of_others.T @ of_others
    distance += (moments**2).sum() / noise("spread", projection.bound**2, multiplier) ** 2
    # And a row is counted once in the histogram of each of its columns.
    counts = histograms(encoded, 0.0) - histograms(np.delete(encoded, row, 0), 0.0)
    distance += (counts**2).sum() / noise("histograms", np.sqrt(6), multiplier) ** 2
    assert distance <= (1.0 / multiplier**2) * (1.0 + 1e-6)
    assert sum(private_latent._SHARES.values()) == pytest.approx(1.0)


def test_latents_are_told_once_of_enough_rows_each_named_once_and_before_that_nothing_is_spent():
    X = numbers()
    budget = PrivacyBudget(4.0)
    with pytest.raises(PartyError, match="named twice"):
        asked(service(X, budget), np.zeros(50, dtype=int))
    with pytest.raises(PartyError, match="of 19 rows were asked for"):
        asked(service(X, budget), np.arange(19))
    with pytest.raises(PolicyRefusal, match="answers from 60"):
        asked(service(X, budget, min_rows=60), np.arange(50))
    with pytest.raises(PartyError, match="1 to 256 latents"):
        asked(service(X, budget), np.arange(50), n_components=0)
    for epsilon, problem in ((1e5, "no noise can be"), (np.nan, "epsilon must be")):
        with pytest.raises((PartyError, ValueError), match=problem):
            asked(service(X, budget), np.arange(50), epsilon=epsilon)
    assert budget.entries() == []
    channel = service(X, budget)
    exchange = asked(channel, np.arange(50))
    with pytest.raises(PartyError, match="begins anew"):
        exchange.prepare(channel, "s", 0)
    assert len(budget.entries()) == 1


@pytest.mark.parametrize(
    "encoder",
    [Encoder(preprocessor=StandardScaler()), Encoder(module=nn.Linear(2, 2))],
    ids=["preprocessor", "network"],
)
def test_what_is_fitted_to_rows_is_refused_before_anything_is_spent(rows, encoder):
    made, budget = rows(), PrivacyBudget(40.0, 1e-4)
    parties = [made.parties[0], ("shop", encoder, made.columns["shop"])]
    model = estimator(made, parties=parties, federation=Simulation(budget=budget))
    with pytest.raises(PartyError, match="'shop': .* have no preprocessor or module"):
        model.fit(made.X, made.y)
    assert budget.entries() == []


def test_expected_latents_are_those_of_the_normal_distribution():
    """Were they another's, a layer on them would not hold for new rows, which have no noise."""
    rng = np.random.default_rng(0)
    own = rng.standard_normal((200_000, 1))
    latents = own * [0.8, -0.3] + rng.standard_normal((200_000, 2)) @ [[0.5, 0.2], [0.0, 0.7]]
    told = latents + 2.0 * rng.standard_normal(latents.shape)
    design = np.hstack([np.ones_like(own), own])
    expected = expected_latents(told, latents.T @ latents / len(latents), 2.0, design)
    joint = np.hstack([design, told])
    oracle = joint @ np.linalg.lstsq(joint, latents, rcond=None)[0]
    np.testing.assert_array_less((expected - oracle).std(axis=0), 0.03 * oracle.std(axis=0))


def test_a_layer_on_noisy_rows_is_not_cautious_on_new_ones_without_noise(rows, seeded):
    """Trained on noisy latents as they are, scores of new rows would be several times too small."""
    made = rows(n=4000, overlap=1.0, task="regression")
    model = estimator(made, 8.0, "regression", n_folds=2).fit(made.X, made.y)
    new = rows(n=1000, overlap=1.0, task="regression", seed=1)
    shop = model.transform(new.X)[:, 1]
    slope = np.polyfit(shop, (new.y - made.y.mean()) / made.y.std(), 1)[0]
    assert 0.75 < slope < 1.3
