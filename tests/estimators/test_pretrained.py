"""A pretrained network as a party's encoder: frozen, partly frozen or fine-tuned, never changed."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from torch import nn

from fedtl import Encoder, FederatedTransferClassifier
from fedtl.exceptions import PartyError

SOLVERS = ("moments", "latent", "auto")


def estimator(parties, solver="latent", **parameters):
    settings = {"max_iter": 6, "lr": 0.03, "n_folds": 2, "random_state": 0, "n_components": 4}
    return FederatedTransferClassifier(parties, solver=solver, **settings | parameters)


def parties(encoder, party="shop"):
    """A bank with columns 0 and 1 and a shop with 2 and 3, one of them with this encoder."""
    return [
        (name, encoder if name == party else Encoder(), columns)
        for name, columns in (("bank", [0, 1]), ("shop", [2, 3]))
    ]


def network(n_in=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n_in, 5), nn.Tanh(), nn.Linear(5, 3))


def state(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(module, before):
    """For each entry of a module's state, whether it is as it was."""
    now = module.state_dict()
    assert now.keys() == before.keys()
    return {name: torch.equal(now[name], before[name]) for name in before}


def inside(fitted, party="shop"):
    """The networks that a fitted estimator has of a party: its own copy, and those fine-tuned."""
    if party == "bank":
        encoder = fitted.model_.latent.encoder if fitted.model_.latent else None
        return fitted.model_.session.features.module_, encoder and list(encoder.trunks)
    [session] = fitted.services_.services[0].sessions.values()
    encoder = session.state.get("fitted.encoder")
    return session.features.module_, encoder and list(encoder.trunks)


class Small(nn.Module):
    """A network that is made without arguments."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x):
        return torch.relu(self.linear(x))


@pytest.fixture(scope="module")
def made(rows):
    return rows(120)


# What is trained and what is not


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("frozen", [True, False, ("0.*",)], ids=str)
@pytest.mark.parametrize("party", ["bank", "shop"])
def test_the_callers_network_is_never_changed(made, solver, frozen, party):
    module = network().train()
    module[2].bias.requires_grad_(False)
    before = state(module)
    fitted = estimator(parties(Encoder(module, frozen=frozen), party), solver)
    fitted.fit(made.X, made.y)
    fitted.predict(made.X)
    assert all(same(module, before).values())
    assert module.training
    assert [p.requires_grad for p in module.parameters()] == [True, True, True, False]
    assert all(p.grad is None for p in module.parameters())
    assert fitted.parties[0 if party == "bank" else 1][1].module is module


@pytest.mark.parametrize("party", ["bank", "shop"])
def test_a_frozen_network_stays_as_it_was_inside_too(made, party):
    module = network()
    before = state(module)
    encoder = Encoder(module, frozen=True)
    own, trained = inside(estimator(parties(encoder, party)).fit(made.X, made.y), party)
    assert all(same(own, before).values())
    assert own is not module
    assert not trained


@pytest.mark.parametrize("party", ["bank", "shop"])
def test_a_network_that_is_not_frozen_is_fine_tuned_once_for_each_fold(made, party):
    module = network()
    before = state(module)
    encoder = Encoder(module, lr=0.02)
    _, trained = inside(estimator(parties(encoder, party), n_folds=3).fit(made.X, made.y), party)
    assert len(trained) == 3
    for member in trained:
        assert not any(same(member, before).values())
    assert not torch.equal(trained[0][0].weight, trained[1][0].weight)


@pytest.mark.parametrize("party", ["bank", "shop"])
@pytest.mark.parametrize("frozen", [("0.*",), ["0.weight", "0.bias"], ("*.bias", "0.w*")], ids=str)
def test_patterns_of_names_are_frozen_and_the_rest_is_fine_tuned(made, party, frozen):
    module = network()
    before = state(module)
    encoder = Encoder(module, frozen=frozen, lr=0.02)
    _, trained = inside(estimator(parties(encoder, party)).fit(made.X, made.y), party)
    for member in trained:
        kept = {name for name, equal in same(member, before).items() if equal}
        expected = {"0.weight", "0.bias"} | ({"2.bias"} if "*.bias" in frozen else set())
        assert kept == expected


def test_patterns_that_match_everything_are_as_frozen_as_true(made):
    module = network()
    by_name = estimator(parties(Encoder(module, frozen=("*",)))).fit(made.X, made.y)
    by_flag = estimator(parties(Encoder(module, frozen=True))).fit(made.X, made.y)
    assert_array_equal(by_name.predict_proba(made.X), by_flag.predict_proba(made.X))


def test_no_patterns_freeze_nothing(made):
    module = network()
    none = estimator(parties(Encoder(module, frozen=()))).fit(made.X, made.y)
    false = estimator(parties(Encoder(module, frozen=False))).fit(made.X, made.y)
    assert_array_equal(none.predict_proba(made.X), false.predict_proba(made.X))


def test_the_moments_solver_takes_the_networks_features_as_they_are(made):
    module = network()
    before = state(module)
    both = [
        estimator(parties(Encoder(module, frozen=frozen)), "moments").fit(made.X, made.y)
        for frozen in (True, False)
    ]
    assert_array_equal(both[0].predict_proba(made.X), both[1].predict_proba(made.X))
    assert all(same(inside(both[1])[0], before).values())


def test_a_networks_learning_rate_is_its_own(made):
    module = network()
    moved = []
    for lr in (1e-5, None, 0.05):
        _, trained = inside(estimator(parties(Encoder(module, lr=lr))).fit(made.X, made.y))
        moved.append(float((trained[0][0].weight - module[0].weight).detach().abs().max()))
    assert moved[0] < 1e-4
    assert moved[0] < moved[1] < moved[2]  # by default a tenth of the estimator's 0.03


def test_features_of_a_good_network_are_better_than_the_columns(rows):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 4))
    y = ((X[:, 2] > 0) != (X[:, 3] > 0)).astype(int)  # no sum over the shop's columns

    class Product(nn.Module):
        def forward(self, x):
            return x[:, :1] * x[:, 1:]

    plain = estimator(parties(Encoder()), "moments").fit(X[:300], y[:300])
    good = estimator(parties(Encoder(Product())), "moments").fit(X[:300], y[:300])
    assert good.score(X[300:], y[300:]) > 0.9
    assert plain.score(X[300:], y[300:]) < 0.65


def test_fine_tuning_goes_on_in_a_warm_start(made):
    fitted = estimator(parties(Encoder(network(), lr=0.02)), warm_start=True)
    first = state(inside(fitted.fit(made.X, made.y))[1][0])
    module, trained = inside(fitted.fit(made.X, made.y))
    assert not any(same(trained[0], first).values())
    own = float((trained[0][0].weight - module[0].weight).detach().abs().sum())
    assert own > float((first["0.weight"] - module[0].weight).detach().abs().sum())


# Kinds of networks


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("frozen", [True, False])
def test_a_class_is_made_with_the_random_state(made, solver, frozen):
    def fit(seed):
        encoder = Encoder(Small, frozen=frozen)
        return estimator(parties(encoder), solver, random_state=seed).fit(made.X, made.y)

    torch.manual_seed(1)
    one = fit(0)
    torch.manual_seed(2)
    again = fit(0)
    assert_array_equal(one.predict_proba(made.X), again.predict_proba(made.X))
    assert isinstance(inside(one)[0], Small)
    weights = [inside(f)[0].linear.weight for f in (one, again, fit(1))]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("frozen", [True, False])
def test_of_a_fitted_skorch_net_the_network_is_taken(made, frozen):
    known = made.known[:, 1]
    torch.manual_seed(0)
    net = NeuralNetClassifier(network(), max_epochs=1, train_split=None, verbose=0)
    net.fit(made.X[known, 2:].astype(np.float32), made.y[known])
    before = state(net.module_)
    said = net.predict_proba(made.X[known, 2:].astype(np.float32))
    fitted = estimator(parties(Encoder(net, frozen=frozen))).fit(made.X, made.y)
    assert type(inside(fitted)[0]) is type(net.module_)
    assert all(same(net.module_, before).values())
    assert_array_equal(net.predict_proba(made.X[known, 2:].astype(np.float32)), said)
    as_module = estimator(parties(Encoder(net.module_, frozen=frozen))).fit(made.X, made.y)
    assert_array_equal(fitted.predict_proba(made.X), as_module.predict_proba(made.X))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_network_keeps_its_own_precision(made, solver, dtype):
    fitted = estimator(parties(Encoder(network().to(dtype))), solver).fit(made.X, made.y)
    assert np.isfinite(fitted.predict_proba(made.X)).all()
    own, trained = inside(fitted)
    for module in [own, *(trained or [])]:
        assert {p.dtype for p in module.parameters()} == {dtype}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_network_without_parameters_is_a_fixed_map(made, solver):
    fitted = estimator(parties(Encoder(nn.Tanh())), solver).fit(made.X, made.y)
    assert np.isfinite(fitted.predict_proba(made.X)).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_features_of_several_dimensions_are_flattened(made, solver):
    deep = nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (2, 3)))
    fitted = estimator(parties(Encoder(deep)), solver).fit(made.X, made.y)
    assert np.isfinite(fitted.predict_proba(made.X)).all()


def test_one_network_serves_two_parties_as_two_copies(made):
    module = network()
    before = state(module)
    encoder = Encoder(module, lr=0.02)
    both = [("bank", encoder, [0, 1]), ("shop", encoder, [2, 3])]
    fitted = estimator(both).fit(made.X, made.y)
    trained = [inside(fitted, name)[1][0][0].weight for name in ("bank", "shop")]
    assert not torch.equal(*trained)
    assert all(same(module, before).values())


def test_missing_values_are_zero_for_a_network(made):
    X = made.X.copy()
    holes = np.flatnonzero(made.known[:, 1])[::5]
    X[holes, 2] = np.nan
    zeros = X.copy()
    zeros[holes, 2] = 0.0
    for solver in SOLVERS:
        both = [estimator(parties(Encoder(network())), solver).fit(t, made.y) for t in (X, zeros)]
        assert_array_equal(both[0].predict_proba(X), both[1].predict_proba(zeros))


def test_a_preprocessor_comes_before_the_network(made):
    X = made.X.copy()
    X[np.flatnonzero(made.known[:, 1])[::5], 2] = np.nan
    encoder = Encoder(network(3), preprocessor=SimpleImputer(add_indicator=True))
    fitted = estimator(parties(encoder)).fit(X, made.y)  # two columns and an indicator
    assert np.isfinite(fitted.predict_proba(X)).all()


# Randomness, normalisation and copies


class Noisy(nn.Module):
    """A network with dropout and batch normalisation."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.drop(torch.relu(self.norm(self.linear(x)))))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("party", ["bank", "shop"])
def test_dropout_and_batch_normalisation_follow_the_random_state(made, solver, frozen, party):
    torch.manual_seed(0)
    module = Noisy().train()
    before, generator = state(module), torch.get_rng_state()
    encoder = Encoder(module, frozen=frozen, lr=0.02)
    fitted = estimator(parties(encoder, party), solver).fit(made.X, made.y)
    said = fitted.predict_proba(made.X)
    assert torch.equal(torch.get_rng_state(), generator)
    assert_array_equal(fitted.predict_proba(made.X), said)
    assert_allclose(fitted.predict_proba(made.X[:7]), said[:7], rtol=1e-5)
    torch.manual_seed(99)
    again = estimator(parties(encoder, party), solver).fit(made.X, made.y)
    assert_array_equal(again.predict_proba(made.X), said)
    assert all(same(module, before).values())


def test_a_frozen_batch_normalisation_keeps_its_statistics(made):
    torch.manual_seed(0)
    module = Noisy()
    before = state(module)
    own, _ = inside(estimator(parties(Encoder(module, frozen=True))).fit(made.X, made.y))
    assert all(same(own, before).values())
    patterns = Encoder(module, frozen=("norm.*",), lr=0.02)
    _, trained = inside(estimator(parties(patterns)).fit(made.X, made.y))
    kept = {name for name, equal in same(trained[0], before).items() if equal}
    assert kept == {name for name in before if name.startswith("norm.")}
    _, trained = inside(estimator(parties(Encoder(module, lr=0.02))).fit(made.X, made.y))
    assert not same(trained[0], before)["norm.running_mean"]


@pytest.mark.parametrize("frozen", [True, False])
def test_copies_with_a_network_predict_alike(made, frozen):
    fitted = estimator(parties(Encoder(Noisy(), frozen=frozen)), "auto").fit(made.X, made.y)
    said = fitted.predict_proba(made.X)
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert_array_equal(twin.predict_proba(made.X), said)
    unfitted = clone(fitted)
    assert unfitted.parties[1][1].module is not fitted.parties[1][1].module
    assert_array_equal(unfitted.fit(made.X, made.y).predict_proba(made.X), said)


def test_what_is_frozen_can_be_searched(made):
    search = GridSearchCV(
        estimator(parties(Encoder(network()))),
        {"shop__frozen": [True, False, ("0.*",)], "shop__module": [network(), None]},
        cv=2,
        error_score="raise",
    ).fit(made.X, made.y)
    assert len(search.cv_results_["params"]) == 6


# What cannot be used


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("party", ["bank", "shop"])
def test_a_network_that_cannot_take_the_columns_is_refused_with_the_party(
    made, solver, frozen, party
):
    encoder = Encoder(network(7), frozen=frozen)
    match = rf"party '{party}': its encoder module cannot take a batch of shape \(\d+, 2\)"
    fitted = estimator(parties(encoder, party), solver)
    with pytest.raises(PartyError, match=match):
        fitted.fit(made.X, made.y)
    assert not hasattr(fitted, "model_")


def test_a_network_that_puts_out_nan_is_refused_with_the_party(made):
    class Broken(nn.Module):
        def forward(self, x):
            return x / 0.0

    with pytest.raises(PartyError, match="'shop': its encoder module put out NaN or infinity"):
        estimator(parties(Encoder(Broken()))).fit(made.X, made.y)


def test_a_pattern_that_matches_no_parameter_is_refused_with_those_there_are(made):
    match = r"frozen='layers\.\*' matches no parameter.*0\.weight, 0\.bias, 2\.weight, 2\.bias"
    with pytest.raises(ValueError, match=match):
        estimator(parties(Encoder(network(), frozen=("layers.*",)))).fit(made.X, made.y)


class Pair(nn.Module):
    """A network that puts out two things."""

    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    "encoder",
    [
        Encoder(network(), frozen=("layers.*",)),
        Encoder(Pair()),
        Encoder(nn.Linear),
        Encoder(NeuralNetClassifier(Small)),
        Encoder("resnet"),
        Encoder(network(), frozen="0.*"),
    ],
    ids=[
        "pattern without match",
        "two outputs",
        "class with arguments",
        "unfitted skorch net",
        "no network",
        "pattern without brackets",
    ],
)
def test_a_recipe_that_cannot_be_carried_out_is_refused_with_the_party(made, encoder):
    with pytest.raises(PartyError, match="party 'shop'"):
        estimator(parties(encoder)).fit(made.X, made.y)
