"""A fitted tuner is trained further, saved, and loaded."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier
from skorch import NeuralNetClassifier
from torch import nn

from fedtl import FederatedFineTuner
from fedtl.persistence import PersistenceError, load, save
from fedtl.protocols import rounds

ALL_ROWS = {"batch_size": 150, "lr": 0.5}  # one step a round: rounds draw nothing


def mlp(hidden=16):
    """A small network of given initial parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


class Linear(nn.Module):
    """A network of a class of the user's own."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        """Score classes."""
        return self.head(x)


class WithTransform(NeuralNetClassifier):
    """A net with a method that skorch's nets do not have."""

    def transform(self, X):
        """Return scores before the softmax."""
        return self.forward(X).numpy()


@pytest.fixture(scope="module")
def digits():
    """600 digits in single precision, of four parties of 150 rows."""
    X, y = load_digits(return_X_y=True)
    return (X[:600] / 16).astype(np.float32), y[:600], np.arange(600) % 4


@pytest.mark.parametrize("personal", [(), ("2",)])
def test_a_warm_start_goes_on_where_the_last_fit_ended(digits, personal):
    whole = FederatedFineTuner(mlp(), n_rounds=5, personal=personal, **ALL_ROWS).fit(*digits)
    warm = FederatedFineTuner(mlp(), n_rounds=2, personal=personal, warm_start=True, **ALL_ROWS)
    warm.fit(*digits).set_params(n_rounds=3).fit(*digits)
    np.testing.assert_allclose(warm.model_.shared, whole.model_.shared, atol=1e-6)
    for name, memory in whole.model_.memories.items():
        own = warm.model_.memories[name]["personal"]
        np.testing.assert_allclose(own, memory["personal"], atol=1e-6)
    assert warm.n_iter_ == 3


def test_a_warm_start_from_what_does_not_fit_is_refused_and_costs_nothing(digits):
    X, y, party = digits
    tuner = FederatedFineTuner(mlp(), n_rounds=1, warm_start=True).fit(X, y, party)
    before = tuner.model_
    with pytest.raises(ValueError, match="the last fit had"):
        tuner.fit(X[y < 9], y[y < 9], party[y < 9])
    with pytest.raises(ValueError, match="warm_start=False"):
        tuner.set_params(estimator=mlp(8)).fit(X, y, party)
    assert tuner.model_ is before


def test_partial_fit_is_one_round_more(digits):
    X, y, party = digits
    whole = FederatedFineTuner(mlp(), n_rounds=3, **ALL_ROWS).fit(X, y, party)
    tuner = FederatedFineTuner(mlp(), n_rounds=99, **ALL_ROWS)
    for _ in range(3):
        tuner.partial_fit(X, y, sample_party=party)
    np.testing.assert_allclose(tuner.model_.shared, whole.model_.shared, atol=1e-6)
    # Rows may lack classes that are known, and have none that are not.
    tuner.partial_fit(X[y < 3], y[y < 3], sample_party=party[y < 3])
    assert len(tuner.classes_) == 10
    few = FederatedFineTuner(mlp()).partial_fit(X[y < 3], y[y < 3], classes=np.arange(10))
    assert len(few.partial_fit(X, y).classes_) == 10
    with pytest.raises(ValueError, match="which are none of"):
        few.partial_fit(X, y + 5)
    with pytest.raises(ValueError, match="not those of the first call"):
        few.partial_fit(X, y, classes=[0, 1])


@pytest.mark.parametrize(
    ("estimator", "params"),
    [
        (mlp(), {"personal": ("2",), "deploy": "best"}),
        (mlp(), {"strategy": "ditto", "optimizer": torch.optim.Adam, "lr": 1e-3}),
        (MLPClassifier((8,), random_state=0), {}),
        (SGDClassifier(random_state=0), {"strategy": "median", "compression": "eight_bits"}),
        (Linear(), {}),
    ],
    ids=["best", "ditto", "mlp", "sgd", "own"],
)
def test_a_fitted_tuner_is_saved_and_loaded(digits, tmp_path, estimator, params):
    X, y, party = digits
    tuner = FederatedFineTuner(estimator, n_rounds=2, random_state=0, **params).fit(X, y, party)
    trusted = [Linear] if isinstance(estimator, Linear) else []
    save(tuner, tmp_path / "tuner.safetensors", trusted=trusted)
    loaded = load(tmp_path / "tuner.safetensors", trusted=trusted)
    expected = tuner.predict(X, sample_party=party)
    np.testing.assert_array_equal(loaded.predict(X, sample_party=party), expected)
    assert loaded.report_.messages == tuner.report_.messages
    for model in (loaded, tuner):
        model.set_params(warm_start=True).fit(X, y, party)
    np.testing.assert_array_equal(loaded.model_.shared, tuner.model_.shared)


def test_what_a_file_cannot_hold_is_said(digits, tmp_path):
    net = NeuralNetClassifier(Linear, criterion=nn.CrossEntropyLoss, lr=0.1)
    tuner = FederatedFineTuner(net, n_rounds=1).fit(*digits)
    with pytest.raises(PersistenceError, match="NeuralNetClassifier"):
        save(tuner, tmp_path / "tuner.safetensors")


def test_a_net_that_transforms_does_so_federated(digits):
    X, y, party = digits
    net = WithTransform(Linear, criterion=nn.CrossEntropyLoss, lr=0.1)
    tuner = FederatedFineTuner(net, n_rounds=1, random_state=0).fit(X, y, party)
    np.testing.assert_array_equal(tuner.transform(X), tuner.estimator_.transform(X))
    assert not hasattr(FederatedFineTuner(mlp()), "transform")
    assert not hasattr(FederatedFineTuner(SGDClassifier()), "transform")


def test_the_best_model_for_targets_that_are_no_classes_has_the_least_loss(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 3)).astype(np.float32)
    party = np.arange(240) % 3
    y = (X[:, 0] * (party - 1.0) + rng.normal(size=240) > 0).astype(float)
    answer, replies = rounds.answer_compare, []

    def noting(*args):
        replies.append(answer(*args))
        return replies[-1]

    monkeypatch.setattr(rounds, "answer_compare", noting)
    FederatedFineTuner(
        nn.Linear(3, 1),
        criterion=nn.BCEWithLogitsLoss(),  # scores are logits: their R2 says nothing
        deploy="best",
        n_rounds=4,
        lr=0.5,
        random_state=0,
    ).fit(X, y, sample_party=party)
    assert len(replies) == 3
    for reply in replies:
        assert reply.deployed == rounds.MODELS[int(np.argmin(reply.losses))]
    assert any(np.argmax(reply.scores) != np.argmin(reply.losses) for reply in replies)
