"""Moments and labels under differential privacy: what crosses, what it costs, what is refused."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler

from fedtl import Encoder, FederatedTransferClassifier, FederatedTransferRegressor
from fedtl.exceptions import BudgetSpent, PartyError, PolicyRefusal
from fedtl.federation import Ledger, Simulation
from fedtl.learning.private_marginals import EDGES, histograms, made_up_rows
from fedtl.learning.private_projection import within
from fedtl.parties import Policy
from fedtl.privacy import DifferentialPrivacy, PrivacyBudget
from fedtl.protocols import ANSWERS
from fedtl.protocols.private_moments import PrivateMoments
from fedtl.protocols.session import open_session

pytest.importorskip("dp_accounting")

PARTIES = {"bank": [0, 1, 2], "shop": [3, 4, 5, 6, 7]}


@pytest.fixture(scope="module")
def tumours():
    cancer = load_breast_cancer()
    X = np.tile(cancer.data[:, [1, 4, 8, 0, 2, 6, 7, 3]], (4, 1))
    return X, np.tile(cancer.target, 4)


def classifier(privacy, parties=PARTIES, **parameters):
    parameters = {"solver": "moments", "random_state": 0} | parameters
    return FederatedTransferClassifier(parties, privacy=privacy, **parameters)


def auc(model, X, y):
    return roc_auc_score(y, model.predict_proba(X)[:, 1])


def test_sums_with_noise_help_and_nothing_of_a_single_row_crosses(tumours):
    X, y = tumours
    alone = classifier("none", {"bank": PARTIES["bank"]}).fit(X, y)
    budget = PrivacyBudget(4.0)
    federation = Simulation(serialize=True, budget=budget)
    private = classifier(DifferentialPrivacy(4.0), federation=federation).fit(X, y)
    assert auc(private, X, y) > auc(alone, X, y) + 0.02
    received = {row["kind"] for row in private.report_.messages if row["direction"] == "received"}
    assert received == {
        "session.opened/1",
        "private_moments.prepared/1",
        "private_moments.reply/1",
        "private_moments.kept/1",
        "session.ended/1",
    }
    [entry] = budget.entries()
    assert entry["owner"] == "shop"
    assert 3.95 < budget.spent("shop") <= 4.0
    with pytest.raises(BudgetSpent, match="'shop'"):
        private.fit(X, y)
    assert len(budget.entries()) == 1


def test_much_noise_is_not_trusted(tumours):
    X, y = tumours
    model = classifier(DifferentialPrivacy(0.01))
    fits = [model.fit(X[:500], y[:500]).model_.served[(0, 1)].trust for _ in range(4)]
    # Noise alone looks like a gain in about one of twenty fits.
    assert sum(trust < 1.0 for trust in fits) >= 2
    assert np.isfinite(model.predict_proba(X)).all()


def test_a_cross_validation_of_moments_stops_at_its_budget(tumours):
    X, y = tumours
    budget = PrivacyBudget(5.0)
    model = classifier(DifferentialPrivacy(3.0), federation=Simulation(budget=budget))
    with pytest.raises(BudgetSpent, match="2 earlier ones"):
        cross_val_score(model, X, y, error_score="raise")
    assert len(budget.entries()) == 2


def test_three_parties_and_numbers_are_served(tumours):
    X, _ = tumours
    model = FederatedTransferRegressor(
        {"a": [0, 1], "b": [3, 4], "c": [5, 6]},
        solver="moments",
        privacy=DifferentialPrivacy(8.0),
        random_state=0,
    )
    assert model.fit(X[:, :7], X[:, 7]).score(X[:, :7], X[:, 7]) > 0.3


def service(X, **policy):
    parties = Simulation(policies={"shop": Policy(**policy)}).parties({"shop": Encoder()}, ANSWERS)
    [channel] = parties.channels([X], Ledger())
    open_session(channel, "s", np.arange(len(X)), False)
    return channel


def asked(channel, rows, n_folds=1):
    moments = PrivateMoments(DifferentialPrivacy(2.0))
    moments.prepare(channel, "s", 0)
    targets = np.ones((len(rows), 1))
    folds = np.arange(len(rows)) % n_folds
    return moments, lambda: moments.ask_sums(
        channel, "s", rows, folds=folds, targets=targets, n_folds=n_folds
    )


def test_noise_of_the_sums_is_that_of_their_bounds():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 30))
    differences = []
    channel = service(X)
    moments, ask = asked(channel, np.arange(400))
    said = moments.prepared["shop"]
    session = channel._service.session("s")
    for _ in range(3):
        session.state["private_moments"] = said
        differences.append(ask())
    (gram, cross, _), (again, cross_again, _), _ = differences
    bound, width = said.bound, said.width
    beside = (gram - again)[0, 1:, 1:][np.triu_indices(width, 1)] / np.sqrt(2)
    assert beside.std() == pytest.approx(
        said.noise_multiplier * bound**2 / np.sqrt(0.3) / np.sqrt(2), rel=0.1
    )
    targets = (cross - cross_again)[0, 1:, 0] / np.sqrt(2)
    assert targets.std() == pytest.approx(said.noise_multiplier * bound * np.sqrt(2 / 0.6), rel=0.3)


def test_sums_are_told_once_over_enough_rows_each_named_once():
    X = np.random.default_rng(0).standard_normal((100, 3))
    _, twice = asked(service(X), np.zeros(50, dtype=int))
    with pytest.raises(PartyError, match="named twice"):
        twice()
    _, few = asked(service(X), np.arange(50), n_folds=5)
    with pytest.raises(PartyError, match="over 10 rows"):
        few()
    _, fewer = asked(service(X, min_rows=60), np.arange(50))
    with pytest.raises(PolicyRefusal, match="answers from 60"):
        fewer()
    _, once = asked(service(X), np.arange(50))
    once()
    with pytest.raises(PartyError, match="have been told"):
        once()


def test_a_party_refuses_what_it_cannot_make_private():
    # Found by benchmarks/fuzz.py: these were errors of the service's own.
    channel = service(np.random.default_rng(0).standard_normal((100, 3)))
    with pytest.raises(PartyError, match="before the fit was prepared"):
        PrivateMoments(DifferentialPrivacy(2.0)).keep(channel, "s", np.ones((4, 1)))
    for epsilon, delta, problem in ((1e5, 1e-5, "no noise can be"), (1.0, 0.01, "one of 100")):
        with pytest.raises(PartyError, match=problem):
            PrivateMoments(DifferentialPrivacy(epsilon, delta)).prepare(channel, "s", 0)


def test_rows_and_targets_beyond_their_bound_are_clipped():
    clipped = within(np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), 1.0)
    np.testing.assert_allclose(clipped, [[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])


def test_made_up_rows_follow_the_histogram_and_hold_no_value():
    numbers = np.random.default_rng(0).lognormal(3, 1, (20_000, 2))
    numbers[:5000, 1] = np.nan
    made = made_up_rows(histograms(numbers, 5.0), 5.0, seed=0).numbers
    assert np.isnan(made[:, 1]).mean() == pytest.approx(0.25, abs=0.05)
    np.testing.assert_allclose(
        np.nanquantile(made, [0.2, 0.5, 0.8], axis=0),
        np.nanquantile(numbers, [0.2, 0.5, 0.8], axis=0),
        rtol=0.15,
    )
    assert not np.isin(made, numbers).any()
    assert (np.diff(EDGES) > 0).all()


@pytest.mark.parametrize(
    ("parties", "problem"),
    [
        (
            [("a", Encoder(), [0]), ("b", Encoder(preprocessor=StandardScaler()), [1])],
            "preprocessor",
        ),
    ],
)
def test_what_is_fitted_to_rows_is_refused_before_anything_is_spent(tumours, parties, problem):
    X, y = tumours
    budget = PrivacyBudget(4.0)
    model = classifier(DifferentialPrivacy(1.0), parties, federation=Simulation(budget=budget))
    with pytest.raises(PartyError, match=problem):
        model.fit(X[:, :2], y)
    assert budget.entries() == []


def test_labels_are_told_by_randomised_response_and_probabilities_mended(tumours):
    X, y = tumours
    budget = PrivacyBudget(3.0)
    privacy = DifferentialPrivacy(1.5, unit="label")
    model = classifier(privacy, federation=Simulation(budget=budget)).fit(X, y)
    assert auc(model, X, y) > 0.9
    assert model.predict_proba(X)[:, 1].mean() == pytest.approx(y.mean(), abs=0.1)
    model.fit(X, y)
    with pytest.raises(BudgetSpent, match="'labels'"):
        model.fit(X, y)
    assert budget.spent("labels") == 3.0


def test_units_that_have_no_meaning_are_refused(tumours):
    X, y = tumours
    with pytest.raises(ValueError, match="unit='party' is for FederatedFineTuner"):
        classifier(DifferentialPrivacy(1.0, unit="party")).fit(X, y)
    regressor = FederatedTransferRegressor(
        PARTIES, solver="moments", privacy=DifferentialPrivacy(1.0, unit="label")
    )
    with pytest.raises(ValueError, match="takes classes"):
        regressor.fit(X, X[:, 0])
