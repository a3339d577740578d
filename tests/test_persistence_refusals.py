"""Files that are refused: damaged, forged, or in need of what only the caller has."""

from __future__ import annotations

import json
import os
import re
import warnings

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.preprocessing import StandardScaler
from torch import nn

from fedtl import Encoder, FederatedTransferClassifier
from fedtl.persistence import PersistenceError, load, save


class OwnNet(nn.Module):
    """A network of the user's own."""

    def __init__(self, n_out=5):
        super().__init__()
        self.first = nn.Linear(6, n_out)

    def forward(self, x):
        return self.first(x)


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 4))
    y = X[:, 0] * X[:, 1] + X[:, 3] > 0  # an interaction, so that trees are grown
    parties = [
        ("bank", Encoder(preprocessor=StandardScaler()), [0, 1]),
        ("shop", Encoder(), [2, 3]),
    ]
    return FederatedTransferClassifier(parties, solver="moments", n_folds=2, random_state=0).fit(
        X, y
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(fitted, path):
    save(fitted, path)
    return path


def document(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["fedtl"])


def rewrite(path, content, tensors=None):
    tensors = load_file(path) if tensors is None else tensors
    text = content if isinstance(content, str) else json.dumps(content)
    save_file(tensors, path, metadata={"fedtl": text})


def first_scaler(content):
    return next(e for e in content["objects"] if str(e.get("instance")).endswith("StandardScaler"))


def test_a_missing_network_is_asked_for_by_party(path):
    save(FederatedTransferClassifier([("bank", Encoder(OwnNet), [0])]), path)
    with pytest.raises(PersistenceError, match="'bank': OwnNet"):
        load(path)
    assert load(path, modules={"bank": OwnNet}).parties[0][1].module is OwnNet
    save(FederatedTransferClassifier([("bank", Encoder(OwnNet()), [0])]), path)
    with pytest.raises(PersistenceError, match=r"'bank'.*modules=\{'bank': OwnNet\(\)\}"):
        load(path)
    with pytest.raises(PersistenceError, match=r"\['bnk'\].*\['bank'\]"):
        load(path, modules={"bank": OwnNet(), "bnk": OwnNet()})
    with pytest.raises(PersistenceError, match=r"(?s)party 'bank'.*size mismatch"):
        load(path, modules={"bank": OwnNet(n_out=9)})
    with pytest.raises(PersistenceError, match=r"party 'bank'.*torch module"):
        load(path, modules={"bank": 3})


def test_another_version_of_scikit_learn_warns_once(saved):
    content = document(saved)
    content["versions"]["scikit-learn"] = "1.2.3"
    for entry in content["objects"]:
        if "_sklearn_version" in entry.get("state", {}):
            entry["state"]["_sklearn_version"] = "1.2.3"
    rewrite(saved, content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(saved)
    assert [w.category for w in caught] == [InconsistentVersionWarning]


@pytest.mark.parametrize("version", [2, 0, "1", True, None, [1]])
def test_an_unknown_format_is_refused(version, saved):
    rewrite(saved, {**document(saved), "format": version})
    with pytest.raises(PersistenceError, match="format"):
        load(saved)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 5000, -1])
def test_a_truncated_file_is_refused(keep, saved):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(PersistenceError):
        load(saved)


def test_other_files_are_refused(path, tmp_path):
    path.write_bytes(b"\x80\x04\x95 a pickle" * 9)
    with pytest.raises(PersistenceError, match="not a model file"):
        load(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(PersistenceError, match="not of fedtl"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "subprocess:Popen",
        "builtins:eval",
        "builtins:object",
        "sklearn.base:clone",
        "sklearn.base:np",
        "sklearn.utils:Bunch",  # defined elsewhere
        "sklearn.base:BaseEstimator.fit",
        "sklearn.tree._tree:Tree",  # an extension type
        "sklearn.conftest:Anything",
        "sklearn.utils._testing:TempMemmap",
        "sklearn.nothing:Nothing",
        "sklearn..base:BaseEstimator",
        "sklearn_evil:Nothing",
        "fedtl.persistence._read:Reader",
        "fedtl.datasets._bunch:Bunch",
        "fedtl.__main__:Main",
        "torch.nn.modules.module:Module.forward",
        "torch.storage:UntypedStorage",
        "",
        3,
        None,
        {"ref": 0},
    ],
)
def test_a_class_outside_of_the_list_is_refused_and_never_imported(name, saved, monkeypatch):
    content = document(saved)
    first_scaler(content)["instance"] = name
    rewrite(saved, content)
    monkeypatch.setattr(os, "system", pytest.fail)
    with pytest.raises(PersistenceError):
        load(saved)


@pytest.mark.parametrize(
    "node",
    [
        {"function": "os:system"},
        {"function": "builtins:eval"},
        {"function": "numpy:load"},
        {"function": "numpy:fromfile"},
        {"function": "torch.nn.functional:handle_torch_function"},
        {"function": "fedtl.datasets:load_digits_halves"},
        {"function": "fedtl.persistence._file:load"},
        {"function": "fedtl.protocols.session:np"},
        {"function": "fedtl.protocols.session:dataclass_transform"},
        {"class": "os:_Environ"},
        {"class": "builtins:type"},
        {"class": "numpy:memmap"},
        {"class": "sklearn.preprocessing._data:StandardScaler"},
        {"torch_dtype": "load"},
        {"dtype": "|O8"},
        {"dtype": {"names": ["a"], "formats": ["|O8"], "offsets": [0], "titles": [None]}},
        {"scalar": "00", "dtype": "<f8"},
        {"ref": -1},
        {"ref": 10**9},
        {"ref": True},
        {"ref": [0]},
        {"eval": "1"},
        {},
        [1],
    ],
)
def test_a_forged_value_is_refused(node, saved):
    content = document(saved)
    content["objects"][0]["state"]["unlabeled"] = node
    rewrite(saved, content)
    with pytest.raises(PersistenceError):
        load(saved)


@pytest.mark.parametrize(
    "entry",
    [
        {"call": "sklearn.preprocessing._data:StandardScaler", "args": []},
        {"call": "os:system", "args": ["true"]},
        {"instance": "sklearn._loss._loss:CyHalfBinomialLoss", "state": {}},
        {"instance": "sklearn.base:BaseEstimator", "args": [1]},
        {"tuple": [{"ref": 0}, {"ref": 1}]},
        {"dict": [[{"ref": 1}, 1]]},
        {"array": {"tensor": "nothing"}},
        {"array": {"tensor": "classes_", "dtype": "<f8", "shape": [10**12]}},
        {"array": {"tensor": "classes_", "order": [5, 7]}},
        {"objects": [1, 2], "shape": [10**12]},
        {"random": "RandomState", "state": {"ref": 1}},
        {"index": [1], "dtype": "evil", "name": None},
        {"own_module": "bank", "state": {}, "training": []},
        {"pickle": "gASVAAAA"},
        {},
        3,
    ],
)
def test_a_forged_object_is_refused(entry, saved):
    content = document(saved)
    content["objects"][1] = entry
    rewrite(saved, content)
    with pytest.raises(PersistenceError):
        load(saved)


def test_a_document_that_is_no_document_is_refused(saved):
    for text in ["", "[]", "null", "1", "{}", "[" * 100_000, '{"a":' * 100_000, "NaN", "9" * 9999]:
        rewrite(saved, text)
        with pytest.raises(PersistenceError):
            load(saved)


def test_objects_that_are_nested_absurdly_are_refused(saved):
    content = document(saved)
    first = len(content["objects"])
    content["objects"] += [{"list": [{"ref": first + i + 1}]} for i in range(5000)] + [{"list": []}]
    content["objects"][0]["state"]["unlabeled"] = {"ref": first}
    rewrite(saved, content)
    with pytest.raises(PersistenceError, match="nested"):
        load(saved)


def test_a_missing_tensor_is_named(saved):
    tensors = load_file(saved)
    name = max(tensors)
    del tensors[name]
    rewrite(saved, document(saved), tensors)
    with pytest.raises(PersistenceError, match=re.escape(name)):
        load(saved)


@pytest.mark.parametrize(
    ("field", "value"), [("left", 0), ("right", 10**6), ("feature_idx", 99), ("feature_idx", -1)]
)
def test_trees_that_would_read_outside_of_their_arrays_are_refused(field, value, saved):
    tensors = load_file(saved)
    name = next(n for n in tensors if n.endswith(".nodes"))
    nodes = tensors[name].view(PREDICTOR_RECORD_DTYPE)
    nodes[field][0] = value
    rewrite(saved, document(saved), tensors)
    with pytest.raises(PersistenceError, match="tree"):
        load(saved)


def test_a_cache_of_pickles_is_refused(saved):
    content = document(saved)
    first_scaler(content)["state"]["memory"] = "/tmp/evil"
    rewrite(saved, content)
    with pytest.raises(PersistenceError, match="memory"):
        load(saved)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_document_gives_an_error_of_ours_or_an_estimator(tmp_path_factory, data):
    base = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    save(FederatedTransferClassifier({"bank": [0], "shop": slice(1)}, unlabeled={"a": (1,)}), base)
    text = json.dumps(document(base))
    at = data.draw(st.integers(0, len(text) - 1))
    rewrite(base, text[:at] + data.draw(st.text(max_size=3)) + text[at + 1 :])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        try:
            loaded = load(base)
        except PersistenceError:
            return
    assert isinstance(loaded, BaseEstimator)
