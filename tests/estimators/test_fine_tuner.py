"""The federated fine-tuner against centralised training, and in scikit-learn's tools."""

import copy
import importlib
import pickle
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, cross_validate
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Freezer
from torch import nn

from fedtl import FederatedFineTuner
from fedtl.exceptions import PartyError, UnknownRowsWarning
from fedtl.federation import Simulation
from fedtl.learning.compression import Compression
from fedtl.learning.strategies import STRATEGIES, FedAvg, FedProx
from fedtl.learning.threads import one_thread


def mlp(n_in=64, hidden=16, n_out=10, seed=0):
    """A small network of given initial parameters."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, n_out))


class Softmax(nn.Module):
    """Probabilities, as skorch's classifiers want them."""

    def __init__(self, encoder=None, n_in=64, n_out=10):
        super().__init__()
        self.encoder = encoder or nn.Linear(n_in, 16)
        self.head = nn.Linear(16, n_out)

    def forward(self, x):
        """Map rows to probabilities."""
        return self.head(self.encoder(x).relu()).softmax(dim=1)


@pytest.fixture(scope="module")
def digits():
    """600 digits in single precision, of four parties."""
    X, y = load_digits(return_X_y=True)
    return (X[:600] / 16).astype(np.float32), y[:600], np.arange(600) % 4


def state(module):
    """Copies of a module's parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    """Whether two modules have identical parameters."""
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("seed", range(5))
def test_fedavg_with_one_step_of_all_parties_is_centralised_gradient_descent(digits, seed):
    X, y, _ = digits
    party = np.random.default_rng(seed).choice(3, size=len(y), p=[0.6, 0.3, 0.1])
    net = mlp(seed=seed)
    tuner = FederatedFineTuner(net, n_rounds=20, lr=0.5, batch_size=len(y)).fit(X, y, party)
    central = copy.deepcopy(net)
    optimizer = torch.optim.SGD(central.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(central(torch.tensor(X)), torch.tensor(y)).backward()
        optimizer.step()
    for name, value in tuner.estimator_.state_dict().items():
        torch.testing.assert_close(value, central.state_dict()[name], atol=1e-6, rtol=0)


def test_one_party_and_one_round_is_that_partys_own_training(digits):
    X, y, _ = digits
    model = SGDClassifier(random_state=3)
    tuner = FederatedFineTuner(model, n_rounds=3, random_state=0).fit(X, y)
    assert tuner.score(X, y) > 0.9
    assert tuner.n_parties_ == 1
    assert not hasattr(model, "coef_")


def test_the_callers_module_is_never_trained_nor_changed(digits):
    X, y, party = digits
    plain, encoder = mlp(), nn.Linear(64, 16)
    before = state(plain), state(encoder)
    net = NeuralNetClassifier(Softmax, module__encoder=encoder, lr=0.1)
    FederatedFineTuner(plain, n_rounds=2).fit(X, y, party)
    FederatedFineTuner(net, n_rounds=2).fit(X, y, party)
    assert same(before[0], state(plain))
    assert same(before[1], state(encoder))
    assert all(p.grad is None and p.requires_grad for p in plain.parameters())


@pytest.mark.parametrize("how", ["plain module", "skorch"])
def test_frozen_parameters_are_neither_exchanged_nor_changed(digits, how):
    X, y, party = digits
    if how == "skorch":
        net = NeuralNetClassifier(Softmax(), lr=0.1, callbacks=[Freezer("encoder.*")])
        first = net.module.encoder
    else:
        net = mlp()
        first = net[0].requires_grad_(False)
    tuner = FederatedFineTuner(net, n_rounds=3).fit(X, y, party)
    fitted = tuner.estimator_.module_.encoder if how == "skorch" else tuner.estimator_[0]
    assert same(state(first), state(fitted))
    assert len(tuner.model_.shared) == 16 * 10 + 10
    sent = next(r for r in tuner.ledger_.rows() if r["kind"] == "rounds.round/1")
    assert sent["bytes"] / sent["messages"] < 4 * (16 * 10 + 10) + 400


@pytest.mark.parametrize(
    "estimator",
    [
        SGDClassifier(loss="log_loss"),
        MLPClassifier((32,), learning_rate_init=0.01),
        LogisticRegression(max_iter=5),
        NeuralNetClassifier(Softmax, lr=0.3, iterator_train__shuffle=True),
        mlp(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.filterwarnings("ignore:lbfgs failed:sklearn.exceptions.ConvergenceWarning")
def test_models_of_every_kind_are_trained(digits, estimator):
    X, y, party = digits
    names = np.array(list("abcdefghij"))[y]
    tuner = FederatedFineTuner(estimator, n_rounds=10, local_epochs=3, lr=0.3, random_state=0)
    tuner.fit(X, names, party)
    assert tuner.score(X, names) > 0.85
    assert tuner.predict_proba(X).shape == (600, 10)
    np.testing.assert_array_equal(
        tuner.classes_[tuner.predict_proba(X).argmax(axis=1)], tuner.predict(X)
    )
    assert sklearn.base.is_classifier(tuner)


def test_regression_networks_and_binary_nets(digits):
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X), (y - y.mean()) / y.std()
    party = np.arange(len(y)) % 3
    plain = FederatedFineTuner(mlp(10, 16, 1), criterion=nn.MSELoss(), random_state=0)
    net = NeuralNetRegressor(nn.Linear, module__in_features=10, module__out_features=1, lr=0.05)
    for tuner in (plain, FederatedFineTuner(net, random_state=0)):
        assert tuner.fit(X, y, party).score(X, y) > 0.4
        assert tuner.predict(X).shape == y.shape
        assert not hasattr(tuner, "predict_proba")
        assert sklearn.base.is_regressor(tuner)
    rows = digits[1] < 2
    binary = NeuralNetBinaryClassifier(
        nn.Linear, module__in_features=64, module__out_features=1, lr=0.5
    )
    tuner = FederatedFineTuner(binary).fit(digits[0][rows], digits[1][rows], digits[2][rows])
    assert tuner.score(digits[0][rows], digits[1][rows]) > 0.98


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_learns_and_crosses_a_serialised_border_unchanged(digits, name):
    X, y, party = digits
    models = [
        FederatedFineTuner(
            mlp(),
            strategy=name,
            n_rounds=4,
            lr=0.2,
            federation=Simulation(serialize=serialize),
            random_state=0,
        ).fit(X, y, party)
        for serialize in (False, True)
    ]
    np.testing.assert_array_equal(models[0].model_.shared, models[1].model_.shared)
    assert models[0].ledger_.rows() == models[1].ledger_.rows()
    assert len(models[0].history_) == models[0].n_iter_ == 4
    first = mlp()
    assert not same(state(first), state(models[0].estimator_))


def test_a_strategy_by_name_is_its_object_with_defaults(digits):
    X, y, party = digits
    one, two, three = (
        FederatedFineTuner(mlp(), strategy=s, n_rounds=2, random_state=0).fit(X, y, party)
        for s in ("fedprox", FedProx(), FedProx(mu=1.0))
    )
    np.testing.assert_array_equal(one.model_.shared, two.model_.shared)
    assert not np.array_equal(one.model_.shared, three.model_.shared)


def test_scikit_learn_models_are_refused_strategies_that_need_gradients(digits):
    X, y, party = digits
    tuner = FederatedFineTuner(SGDClassifier(), strategy="scaffold")
    with pytest.raises(PartyError, match="gradients"):
        tuner.fit(X, y, party)
    assert not hasattr(tuner, "history_")


@pytest.mark.parametrize("estimator", [Ridge(), StandardScaler(), None, nn.Linear, 3], ids=repr)
def test_what_cannot_be_trained_in_rounds_is_refused(digits, estimator):
    with pytest.raises(TypeError, match=r"partial_fit|has no coefficients"):
        FederatedFineTuner(estimator).fit(*digits)


def test_parties_as_a_column_are_no_feature(digits):
    X, y, party = digits
    frame = pd.DataFrame(X).rename(columns=str).assign(camera=party.astype(str))
    by_column = FederatedFineTuner(SGDClassifier(), party="camera", random_state=0).fit(frame, y)
    by_metadata = FederatedFineTuner(SGDClassifier(), random_state=0).fit(X, y, party)
    np.testing.assert_array_equal(by_column.model_.shared, by_metadata.model_.shared)
    assert by_column.score(frame, y) == by_metadata.score(X, y)
    assert by_column.n_features_in_ == 65


def test_routing_and_leave_one_party_out_with_two_processes(digits):
    X, y, party = digits
    with sklearn.config_context(enable_metadata_routing=True):
        tuner = FederatedFineTuner(SGDClassifier(), n_rounds=3, random_state=0)
        tuner.set_fit_request(sample_party="groups")
        pipeline = make_pipeline(StandardScaler(), tuner)
        result = cross_validate(
            pipeline,
            X,
            y,
            cv=LeaveOneGroupOut(),
            params={"groups": party},
            n_jobs=2,
            return_estimator=True,
        )
    assert len(result["test_score"]) == 4
    assert result["test_score"].min() > 0.85
    assert result["estimator"][0][-1].parties_ == ["1", "2", "3"]


def test_search_over_nested_parameters(digits):
    X, y, party = digits
    net = NeuralNetClassifier(Softmax, lr=0.1)
    grid = {"estimator__lr": [1e-6, 0.5], "strategy": [FedAvg(), FedProx(0.1)]}
    search = GridSearchCV(FederatedFineTuner(net, n_rounds=3, random_state=0), grid, cv=2)
    with sklearn.config_context(enable_metadata_routing=True):
        search.estimator.set_fit_request(sample_party=True)
        search.fit(X, y, sample_party=party)
    assert search.best_params_["estimator__lr"] == 0.5
    assert search.best_estimator_.n_parties_ == 4


def test_a_fitted_tuner_clones_and_pickles(digits):
    X, y, party = digits
    tuner = FederatedFineTuner(mlp(), n_rounds=2, personal=("2",), random_state=0)
    tuner.fit(X, y, party)
    again = pickle.loads(pickle.dumps(tuner))
    with pytest.warns(UnknownRowsWarning):
        np.testing.assert_array_equal(again.predict(X), tuner.predict(X))
    assert not hasattr(clone(tuner), "model_")


@pytest.mark.parametrize("backend", ["threading", "loky"])
@pytest.mark.parametrize("strategy", ["scaffold", "ditto"])
def test_parties_may_be_spread_over_threads_and_processes(digits, backend, strategy):
    X, y, party = digits

    def fit():
        tuner = FederatedFineTuner(mlp(), strategy=strategy, n_rounds=3, random_state=0)
        return tuner.fit(X, y, party)

    with one_thread():  # as workers are given; sums over several threads differ in the last digit
        one = fit()
    with one_thread(), parallel_config(backend=backend, n_jobs=2):
        two = fit()
    np.testing.assert_array_equal(one.model_.shared, two.model_.shared)
    rows = [sorted(map(str, tuner.ledger_.rows())) for tuner in (one, two)]
    assert rows[0] == rows[1]
    for party_name, memory in one.model_.memories.items():
        for key, value in memory.items():
            np.testing.assert_array_equal(value, two.model_.memories[party_name][key])


@contextmanager
def cluster(backend):
    """A cluster of two workers on this machine."""
    if backend == "dask":
        distributed = pytest.importorskip("distributed", reason="needs dask's distributed")
        with distributed.Client(n_workers=1, threads_per_worker=2, dashboard_address=None):
            yield
        return
    ray = pytest.importorskip("ray", reason="needs ray")
    importlib.import_module("ray.util.joblib").register_ray()
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_parties_may_be_spread_over_a_cluster(digits, backend):
    def fit():
        return FederatedFineTuner(mlp(), strategy="scaffold", n_rounds=2, random_state=0).fit(
            *digits
        )

    one = fit()
    with cluster(backend), parallel_config(backend=backend):
        two = fit()
    np.testing.assert_array_equal(one.model_.shared, two.model_.shared)
    assert one.ledger_.n_bytes == two.ledger_.n_bytes


def test_personal_parameters_stay_at_their_party(digits):
    X, y, party = digits
    frame = pd.DataFrame(X).rename(columns=str).assign(camera=party)
    tuner = FederatedFineTuner(mlp(), party="camera", personal=("2",), n_rounds=3, lr=0.3)
    tuner.fit(frame, y)
    assert len(tuner.model_.shared) == 64 * 16 + 16
    heads = [memory["personal"] for memory in tuner.model_.memories.values()]
    assert all(not np.allclose(heads[0], head) for head in heads[1:])
    network = mlp()
    with torch.no_grad():
        flat = torch.cat([torch.tensor(tuner.model_.shared), torch.tensor(heads[2])])
        nn.utils.vector_to_parameters(flat, network.parameters())
        expected = network(torch.tensor(X[party == 2])).argmax(1).numpy()
    np.testing.assert_array_equal(tuner.predict(frame[party == 2]), expected)
    by_metadata = FederatedFineTuner(mlp(), personal=("2",), n_rounds=3, lr=0.3).fit(X, y, party)
    assert by_metadata.predict(X[party == 2], sample_party=party[party == 2]).shape == (150,)


def test_rows_of_no_known_party_get_the_mean_of_personal_models(digits):
    X, y, party = digits
    frame = pd.DataFrame(X).rename(columns=str).assign(camera=party)
    tuner = FederatedFineTuner(mlp(), party="camera", personal=("2",), n_rounds=3)
    tuner.fit(frame, y)
    each = [tuner.predict_proba(frame.assign(camera=p)) for p in range(4)]
    with pytest.warns(UnknownRowsWarning, match="stranger"):
        mean = tuner.predict_proba(frame.assign(camera="stranger"))
    np.testing.assert_allclose(mean, np.mean(each, axis=0))


@pytest.mark.parametrize("personal", [("nowhere",), "2", ("0", "2")])
def test_personal_names_that_make_no_sense_are_refused(digits, personal):
    with pytest.raises((ValueError, TypeError), match="personal"):
        FederatedFineTuner(mlp(), personal=personal).fit(*digits)


def norm_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def test_running_statistics_are_averaged_by_rows(digits):
    X, y, _ = digits
    party = (np.arange(600) >= 450).astype(int)
    net = norm_net()
    tuner = FederatedFineTuner(net, n_rounds=1, batch_size=600, lr=1e-12).fit(X, y, party)
    with torch.no_grad():
        hidden = [net[0](torch.tensor(X[party == p])).mean(dim=0) for p in (0, 1)]
    expected = 0.1 * (0.75 * hidden[0] + 0.25 * hidden[1])
    torch.testing.assert_close(tuner.estimator_[1].running_mean, expected)


def test_batch_norms_may_be_personal(digits):
    X, y, party = digits
    frame = pd.DataFrame(X).rename(columns=str).assign(camera=party)
    frame.iloc[party == 3, :64] *= 5
    tuner = FederatedFineTuner(norm_net(), party="camera", personal=("batch_norm",), n_rounds=5)
    tuner.fit(frame, y)
    assert tuner.model_.buffers.size == 0
    assert len(tuner.model_.memories["0"]["personal"]) == 4 * 16
    means = [memory["personal"][32:48] for memory in tuner.model_.memories.values()]
    assert np.abs(means[3]).mean() > 3 * np.abs(means[0]).mean()


def test_frozen_batch_norms_keep_their_statistics(digits):
    net = norm_net()
    net[1].requires_grad_(False)
    tuner = FederatedFineTuner(net, n_rounds=2).fit(*digits)
    assert same(state(net[1]), state(tuner.estimator_[1]))


def test_compression_saves_bytes_and_hardly_costs_accuracy(digits):
    X, y, party = digits
    scores, received = {}, {}
    for name, compression in {
        "none": None,
        "eight bits": "eight_bits",
        "top": Compression(top=0.1),
        "both": Compression(eight_bits=True, top=0.1),
    }.items():
        tuner = FederatedFineTuner(
            mlp(), n_rounds=30, lr=0.3, compression=compression, random_state=0
        ).fit(X, y, party)
        scores[name] = tuner.score(X, y)
        rows = [r for r in tuner.ledger_.rows() if r["kind"] == "rounds.update/1"]
        received[name] = sum(r["bytes"] for r in rows)
    assert min(scores.values()) > scores["none"] - 0.02
    assert received["eight bits"] < 0.4 * received["none"]
    assert received["top"] < 0.35 * received["none"]
    assert received["both"] < received["top"]


def test_the_history_accounts_for_every_byte_of_the_rounds(digits):
    X, y, party = digits
    # Of unseeded cohorts, the loss of the last may be that of parties with the harder rows.
    tuner = FederatedFineTuner(mlp(), n_rounds=3, cohort=2, random_state=0).fit(X, y, party)
    in_rounds = ("rounds.round/1", "rounds.update/1")
    rows = [r for r in tuner.report_.messages if r["kind"] in in_rounds]
    assert sum(r["bytes"] for r in tuner.history_) == sum(r["bytes"] for r in rows)
    assert [r["replies"] for r in tuner.history_] == [2, 2, 2]
    assert tuner.history_[-1]["loss"] < tuner.history_[0]["loss"]
