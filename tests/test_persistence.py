"""Estimators to a safetensors file and back."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import safetensors
import sklearn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import make_classification, make_regression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    SplineTransformer,
    StandardScaler,
)
from torch import nn

from fedtl import Encoder, FederatedTransferClassifier, FederatedTransferRegressor
from fedtl.federation import Simulation
from fedtl.parties import Policy
from fedtl.persistence import PersistenceError, load, save

N = 613  # rows of the training data: no array of a file may be as long
SMALL = {"max_iter": 4, "n_folds": 2, "random_state": 0}


class OwnScaler(TransformerMixin, BaseEstimator):
    """A preprocessor of the user's own."""

    def fit(self, X, y=None):
        self.mean_ = np.asarray(X).mean(axis=0)
        return self

    def transform(self, X):
        return np.asarray(X) - self.mean_


class OwnNet(nn.Module):
    """A network of the user's own, with a buffer and tied weights."""

    def __init__(self, n_in=6, n_out=5):
        super().__init__()
        self.first = nn.Linear(n_in, n_out)
        self.tied = self.first
        self.norm = nn.BatchNorm1d(n_out)

    def forward(self, x):
        return torch.tanh(self.norm(self.tied(x)))


def make_rows(n_classes=2, n_rows=N):
    X, y = make_classification(
        n_rows, 12, n_informative=6, n_classes=n_classes, n_redundant=2, random_state=0
    )
    if n_classes == 2:  # an interaction, which trees find and linear models do not
        y = (X[:, 0] * X[:, 1] + X[:, 7] > 0).astype(int)
    X[:20, 6:] = np.nan
    X[20:40, :6] = np.nan
    return X, y


def fit(own=None, other=None, *, n_classes=2, solver="auto", n_rows=N, **kwargs):
    X, y = make_rows(n_classes, n_rows)
    parties = [
        ("bank", own or Encoder(), list(range(6))),
        ("shop", other or Encoder(), slice(6, 12)),
    ]
    clf = FederatedTransferClassifier(parties, solver=solver, **{**SMALL, **kwargs})
    return clf.fit(X, y), X, y


@pytest.fixture(scope="module")
def fitted():
    return fit(Encoder(preprocessor=StandardScaler()))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(fitted, path):
    save(fitted[0], path)
    return path


def round_trip(estimator, path, trusted=(), **kwargs):
    save(estimator, path, trusted=trusted)
    return load(path, trusted=trusted, **kwargs)


def assert_same(loaded, model, X):
    methods = ["predict", "predict_proba"] if hasattr(model, "predict_proba") else ["predict"]
    for method in methods + ["transform"] * (model.solver != "moments"):
        np.testing.assert_array_equal(getattr(loaded, method)(X), getattr(model, method)(X))
    assert str(loaded.report_) == str(model.report_)
    assert loaded.ledger_.rows() == model.ledger_.rows()


def document(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["fedtl"])


# Round trips


def test_a_binary_classifier_with_trees_predicts_the_same_bits(fitted, saved):
    model, X, _ = fitted
    assert "TreePredictor" in json.dumps(document(saved))
    assert_same(load(saved), model, X)


def test_a_multiclass_classifier_predicts_the_same_bits(path):
    model, X, _ = fit(n_classes=3)
    assert_same(round_trip(model, path), model, X)


@pytest.mark.parametrize("solver", ["moments", "latent"])
def test_each_solver_predicts_the_same_bits(solver, path):
    model, X, _ = fit(solver=solver, n_rows=200)
    assert_same(round_trip(model, path), model, X)


def test_a_regressor_predicts_the_same_bits(path):
    X, y = make_regression(N, 12, n_informative=8, noise=5.0, random_state=0)
    parties = {"bank": list(range(6)), "shop": list(range(6, 12))}
    model = FederatedTransferRegressor(parties, **SMALL).fit(X, y)
    assert_same(round_trip(model, path), model, X)


def test_a_frame_with_categories_and_text_classes_predicts_the_same_bits(path):
    pd = pytest.importorskip("pandas")
    X, y = make_rows()
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(12)])
    rng = np.random.default_rng(0)
    frame["town"] = pd.Categorical(rng.choice(["Ulm", "Köln", "Jena"], N))
    frame["kind"] = rng.choice(["a", "b", "\u2603"], N)
    frame.loc[:19, "kind"] = None
    labels = np.array(["no", "yes"])[y]
    parties = [
        ("bank", Encoder(), pd.Index([f"c{i}" for i in range(6)] + ["town"])),
        ("shop", Encoder(), make_column_selector("c[6-9]|kind")),
    ]
    model = FederatedTransferClassifier(parties, **SMALL).fit(frame, labels)
    loaded = round_trip(model, path)
    assert_same(loaded, model, frame)
    assert loaded.feature_names_in_.tolist() == list(frame.columns)
    assert loaded.parties[0][2].equals(parties[0][2])


def test_preprocessors_of_scikit_learn_are_restored(path):
    splines = make_pipeline(
        FunctionTransformer(np.tanh), SplineTransformer(n_knots=3), StandardScaler()
    )
    mixed = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", max_categories=4, dtype=np.float32), [0]),
        remainder="passthrough",
    )
    X, y = make_rows()
    X = np.nan_to_num(X).round(1)
    parties = [
        ("bank", Encoder(preprocessor=splines), list(range(6))),
        ("shop", Encoder(preprocessor=mixed), slice(6, 12)),
    ]
    model = FederatedTransferClassifier(parties, solver="moments", **SMALL).fit(X, y)
    assert_same(round_trip(model, path), model, X)


@pytest.mark.parametrize("frozen", [True, False, ["0.*"]])
def test_networks_of_torch_layers_need_nothing_but_the_file(frozen, path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.GELU(), nn.Unflatten(1, (1, 5)))
    model, X, _ = fit(Encoder(net, frozen=frozen), Encoder(net, frozen=frozen))
    loaded = round_trip(model, path)
    assert_same(loaded, model, X)
    assert loaded.parties[0][1] is not loaded.parties[1][1]
    assert loaded.parties[0][1].module is loaded.parties[1][1].module


@pytest.mark.parametrize("frozen", [True, False, ["first.*"]])
def test_a_network_of_the_users_own_is_restored_into_the_one_that_is_passed(frozen, path):
    torch.manual_seed(0)
    model, X, y = fit(Encoder(OwnNet(), frozen=frozen), Encoder(OwnNet(n_out=4), frozen=frozen))
    passed = {"bank": OwnNet(), "shop": OwnNet(n_out=4)}
    before = passed["bank"].first.weight.clone()
    loaded = round_trip(model, path, modules=passed)
    assert_same(loaded, model, X)
    assert torch.equal(passed["bank"].first.weight, before)
    own = loaded.parties[0][1].module
    assert own.tied is own.first
    np.testing.assert_array_equal(
        clone(loaded).fit(X, y).predict_proba(X), clone(model).fit(X, y).predict_proba(X)
    )


def test_own_layers_inside_torch_containers_and_classes_can_be_passed_too(path):
    torch.manual_seed(0)
    net = nn.Sequential(OwnNet(), nn.ReLU()).double()
    model, X, _ = fit(Encoder(net), Encoder(OwnNet, frozen=True), n_rows=200)
    loaded = round_trip(
        model, path, modules={"bank": nn.Sequential(OwnNet(), nn.ReLU()), "shop": OwnNet}
    )
    assert_same(loaded, model, X)
    assert loaded.parties[1][1].module is OwnNet


def test_a_fitted_skorch_net_comes_back_as_its_network(path):
    skorch = pytest.importorskip("skorch")
    net = skorch.NeuralNetRegressor(nn.Linear, module__in_features=6, module__out_features=3)
    model, X, _ = fit(Encoder(net.initialize()), n_rows=200)
    loaded = round_trip(model, path)
    assert_same(loaded, model, X)
    assert type(loaded.parties[0][1].module) is nn.Linear


def test_trusted_classes_are_saved_in_full(path):
    trusted = [OwnScaler, OwnNet]
    own = Encoder(OwnNet(), preprocessor=OwnScaler())
    X, y = make_rows()
    parties = [("bank", own, list(range(6))), ("shop", Encoder(), slice(6, 12))]
    model = FederatedTransferClassifier(parties, **SMALL).fit(X[40:], y[40:])
    assert_same(round_trip(model, path, trusted=trusted), model, X[40:])
    with pytest.raises(PersistenceError, match="trusted"):
        load(path)
    with pytest.raises(TypeError, match="trusted"):
        save(model, path, trusted=["OwnScaler"])


def test_a_loaded_estimator_can_be_cloned_and_fitted_again(fitted, saved):
    model, X, y = fitted
    loaded = load(saved)
    assert repr(clone(loaded)) == repr(clone(model))
    np.testing.assert_array_equal(
        clone(loaded).fit(X, y).predict_proba(X), clone(model).fit(X, y).predict_proba(X)
    )
    assert loaded.fit(X, y) is loaded


def test_training_goes_on_from_a_loaded_estimator(path):
    model, X, y = fit(solver="latent", n_rows=200)
    loaded = round_trip(model, path)
    np.testing.assert_array_equal(
        loaded.partial_fit(X, y).predict_proba(X), model.partial_fit(X, y).predict_proba(X)
    )


def test_policies_and_unfitted_parameters_are_kept(path):
    federation = Simulation(True, {"shop": Policy(frozenset({"session", "moments"}), min_rows=5)})
    unfitted = FederatedTransferClassifier(
        {"bank": [0], "shop": range(1, 3)},
        federation=federation,
        unlabeled=np.float64("nan"),
        random_state=np.random.RandomState(7),
    )
    loaded = round_trip(unfitted, path)
    assert loaded.federation.policies["shop"] == federation.policies["shop"]
    assert loaded.parties == unfitted.parties
    assert np.isnan(loaded.unlabeled)
    assert not hasattr(loaded, "model_")
    assert loaded.random_state.randint(10**9) == unfitted.random_state.randint(10**9)


def test_a_pipeline_of_scikit_learn_around_it_is_saved_too(path):
    X, y = make_rows(n_rows=200)
    X = np.nan_to_num(X)
    inner = FederatedTransferClassifier({"bank": [0, 1], "shop": [2, 3]}, solver="moments")
    model = make_pipeline(StandardScaler(), inner.set_params(random_state=0)).fit(X, y)
    np.testing.assert_array_equal(round_trip(model, path).predict_proba(X), model.predict_proba(X))


def test_a_saved_file_replaces_the_old_one_and_leaves_no_other(fitted, saved):
    before = saved.read_bytes()
    save(fitted[0], saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


# What is in a file


def test_no_training_row_is_in_a_file(saved):
    lengths = {length for tensor in load_file(saved).values() for length in tensor.shape}
    assert N not in lengths
    lists = [v for e in document(saved)["objects"] for v in e.values() if isinstance(v, list)]
    assert max(map(len, lists)) < N


def test_a_file_says_its_format_and_versions(saved):
    content = document(saved)
    assert content["format"] == 1
    assert content["versions"]["scikit-learn"] == sklearn.__version__


def test_tensors_are_named_by_their_place_and_objects_are_kept_once(fitted, saved):
    names = set(load_file(saved))
    assert "classes_" in names
    assert any(name.startswith("model_.") and name.endswith(".weight") for name in names)
    loaded = load(saved)
    assert loaded.parties[0][1] is loaded.parties_[0].encoder


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | st.builds(slice, st.integers(), st.none(), st.integers(1, 3))
    | st.builds(range, st.integers(-9, 9))
    | st.sampled_from([np.float32, np.dtype("<M8[ns]"), torch.bfloat16, dict, np.log1p, np.int8])
    | hnp.arrays(
        hnp.scalar_dtypes() | hnp.array_dtypes(),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
    )
    | hnp.arrays(np.dtype(object), 3, elements=st.text() | st.none() | st.floats())
    | hnp.arrays(np.float64, 1).map(lambda a: a[0]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(st.text() | st.integers(), max_size=4)
        | st.frozensets(st.tuples(st.text(), st.none() | st.floats()), max_size=4)
        | st.dictionaries(st.text() | st.tuples(st.integers(), st.text()), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(values)
def test_nested_values_come_back_as_they_were(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.safetensors"
    loaded = round_trip(FederatedTransferClassifier(unlabeled=value), path).unlabeled
    assert_equal(loaded, value)


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_equal(a, b)
    elif isinstance(expected, dict):
        assert list(map(repr, found)) == list(map(repr, expected))
        for a, b in zip(found.values(), expected.values(), strict=True):
            assert_equal(a, b)
    elif isinstance(expected, set | frozenset):
        assert sorted(map(repr, found)) == sorted(map(repr, expected))
    elif isinstance(expected, np.ndarray) and expected.dtype != object:
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    elif isinstance(expected, np.ndarray):
        assert_equal(found.tolist(), expected.tolist())
    else:
        assert repr(found) == repr(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64, torch.float16, torch.int64])
def test_torch_tensors_keep_type_and_layout(dtype, path):
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype).transpose(0, 2)
    loaded = round_trip(FederatedTransferClassifier(unlabeled=[tensor, tensor]), path).unlabeled
    assert loaded[0] is loaded[1]
    assert loaded[0].dtype is dtype
    assert torch.equal(loaded[0], tensor)


def test_arrays_keep_their_layout(path):
    arrays = [np.arange(24.0).reshape(2, 3, 4).transpose(axes) for axes in [(2, 1, 0), (1, 2, 0)]]
    loaded = round_trip(FederatedTransferClassifier(unlabeled=arrays), path).unlabeled
    for a, b in zip(loaded, arrays, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.strides == b.strides
        assert a.flags.writeable


def test_lists_that_contain_themselves_come_back(path):
    loop = [1]
    loop.append({"loop": loop})
    loaded = round_trip(FederatedTransferClassifier(unlabeled=loop), path).unlabeled
    assert loaded[1]["loop"] is loaded


@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_random_generators_go_on_where_they_were(kind, path):
    rng = np.random.Generator(getattr(np.random, kind)(3))
    rng.normal(size=5)
    loaded = round_trip(FederatedTransferClassifier(unlabeled=rng), path).unlabeled
    np.testing.assert_array_equal(loaded.normal(size=9), rng.normal(size=9))


# What cannot be saved


def test_an_own_preprocessor_is_refused_by_party_and_class(path):
    model = FederatedTransferClassifier(
        [("bank", Encoder(), [0]), ("shop", Encoder(preprocessor=OwnScaler()), [1])]
    )
    with pytest.raises(PersistenceError, match=r"party 'shop'.*preprocessor.*trusted=\[OwnScaler"):
        save(model, path)
    assert not path.exists()


def never():
    """Do nothing: no function of the user's own is ever named."""


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (never, "is the function never"),
        (os.system, "is the function system"),
        (os.path.join, "is the function join"),
        (np, "class module"),
        (OwnScaler, "is the class OwnScaler"),
        ({(((1,),),): 1}, "key"),
        (np.array([object()]), "class object"),
        (torch.zeros(2).to_sparse(), "sparse"),
        (make_pipeline(StandardScaler(), memory="cache"), "memory"),
    ],
)
def test_what_a_file_cannot_say_is_refused_by_its_path(value, problem, path):
    with pytest.raises(PersistenceError, match=f"unlabeled.*{problem}"):
        save(FederatedTransferClassifier(unlabeled=value), path)


def test_absurd_nesting_and_tuples_in_themselves_are_refused(path):
    deep = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(PersistenceError, match="nested"):
        save(FederatedTransferClassifier(unlabeled=deep), path)
    inner = []
    inner.append((inner,))
    with pytest.raises(PersistenceError, match="contains itself"):
        save(FederatedTransferClassifier(unlabeled=inner[0]), path)


def test_only_estimators_are_saved(path):
    with pytest.raises(TypeError, match="estimator"):
        save({"a": 1}, path)
