"""Forests of many classes come back from a file; forged ones are refused before they are made."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
)
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from fedtl import Encoder, FederatedTransferClassifier
from fedtl.persistence import PersistenceError, load, save
from fedtl.persistence._checks import check_tree


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A fitted estimator with forests at both parties, its rows, and its file."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 4))
    y = (X[:, 0] * X[:, 1] > 0).astype(int) + (X[:, 2] * X[:, 3] > 0)
    parties = {"bank": [0, 1], "shop": [2, 3]}
    fitted = FederatedTransferClassifier(parties, n_folds=2, max_iter=3, random_state=0).fit(X, y)
    path = tmp_path_factory.mktemp("forest") / "model.safetensors"
    save(fitted, path)
    return fitted, X, path


def test_an_estimator_with_forests_predicts_the_same_after_loading(made):
    fitted, X, path = made
    assert fitted.model_.anchor.share > 0
    assert fitted.model_.pairs[0].tree_share > 0
    assert_array_equal(load(path).predict_proba(X), fitted.predict_proba(X))


def state_of(fitted):
    tree = fitted.model_.anchor.trees.model.estimators_[0].tree_
    arguments = [tree.n_features, np.array(tree.n_classes), tree.n_outputs]
    return arguments, tree.__getstate__()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("left_child", 10**9),
        ("left_child", 0),
        ("left_child", -2),
        ("right_child", -1),
        ("right_child", 10**9),
        ("feature", 2),
        ("feature", -5),
        ("right_child", 1),  # a second way to the left one
    ],
)
def test_nodes_that_lead_out_of_the_tree_are_refused(made, field, value):
    arguments, state = state_of(made[0])
    check_tree(arguments, state)
    nodes = state["nodes"].copy()
    nodes[field][0] = value
    with pytest.raises(PersistenceError, match="a tree"):
        check_tree(arguments, state | {"nodes": nodes})


@pytest.mark.parametrize(
    "change",
    [
        lambda a, s: (a, s | {"node_count": s["node_count"] + 1}),
        lambda a, s: (a, s | {"node_count": 0, "nodes": s["nodes"][:0], "values": s["values"][:0]}),
        lambda a, s: (a, s | {"values": s["values"][:-1]}),
        lambda a, s: (a, s | {"values": s["values"].astype(np.float32)}),
        lambda a, s: (a, s | {"values": s["values"][..., :1]}),
        lambda a, s: (a, s | {"nodes": s["nodes"].view(np.uint8)}),
        lambda a, s: (a, s | {"nodes": s["nodes"]["feature"]}),
        lambda a, s: (a, s | {"max_depth": "5"}),
        lambda a, s: (a, s | {"max_depth": -1}),
        lambda a, s: (a, s | {"max_depth": 10**6}),
        lambda a, s: (a, {k: v for k, v in s.items() if k != "nodes"}),
        lambda a, s: ([a[0], a[1], 2], s),
        lambda a, s: ([a[0], a[1] + 10**6, 1], s),
        lambda a, s: ([a[0], a[1].astype(float), 1], s),
        lambda a, s: ([0, a[1], 1], s),
        lambda a, s: (a[:2], s),
    ],
)
def test_a_state_that_is_none_of_a_tree_is_refused(made, change):
    arguments, state = change(*state_of(made[0]))
    with pytest.raises(PersistenceError, match="a tree"):
        check_tree(arguments, state)


def test_a_forged_file_is_refused_before_a_tree_is_made(made, tmp_path):
    tensors = load_file(made[2])
    with safetensors.safe_open(made[2], framework="numpy") as file:
        content = file.metadata()["fedtl"]
    objects = json.loads(content)["objects"]
    entry = next(e for e in objects if str(e.get("call")).endswith("_tree:Tree"))
    array = objects[entry["state"]["nodes"]["ref"]]["array"]
    nodes = np.frombuffer(tensors[array["tensor"]].tobytes(), dtype=np.uint8).copy()
    nodes[:8] = 127  # the first node's left child
    tensors[array["tensor"]] = nodes
    forged = tmp_path / "forged.safetensors"
    save_file(tensors, forged, metadata={"fedtl": content})
    with pytest.raises(PersistenceError, match="children are not below it"):
        load(forged)


def test_a_forest_whose_trees_see_more_columns_than_it_does_is_refused(made):
    fitted = made[0]
    forest = fitted.model_.anchor.trees.model
    forest.n_features_in_ += 1
    try:
        with pytest.raises(PersistenceError, match="another number of features"):
            save(fitted, made[2].with_name("wider.safetensors"))
    finally:
        forest.n_features_in_ -= 1


@pytest.mark.parametrize(
    "model", [SVC(), GradientBoostingClassifier(n_estimators=2), IsolationForest(n_estimators=2)]
)
def test_models_whose_compiled_parts_nobody_checks_are_refused_unless_trusted(model, tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 2))
    estimator = FederatedTransferClassifier([("bank", Encoder(preprocessor=model), [0])])
    path = tmp_path / "model.safetensors"
    model.fit(X, X[:, 0] > 0)
    with pytest.raises(PersistenceError, match="trusted="):
        save(estimator, path)


def test_a_single_tree_of_another_number_of_features_is_refused(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = DecisionTreeClassifier(random_state=0).fit(X, X[:, 0] > 0)
    estimator = FederatedTransferClassifier([("bank", Encoder(preprocessor=model), [0])])
    save(estimator, tmp_path / "model.safetensors")
    model.n_features_in_ = 1
    with pytest.raises(PersistenceError, match="another number of features"):
        save(estimator, tmp_path / "forged.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "_preprocessor", FunctionTransformer()),
        lambda m: setattr(m, "_n_features", 1),
        lambda m: setattr(m, "_in_fit", True),
    ],
)
def test_boosted_trees_that_would_skip_the_check_of_their_input_are_refused(tmp_path, change):
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = HistGradientBoostingClassifier(max_iter=2).fit(X, X[:, 0] > 0)
    estimator = FederatedTransferClassifier([("bank", Encoder(preprocessor=model), [0])])
    save(estimator, tmp_path / "model.safetensors")
    change(model)
    with pytest.raises(PersistenceError, match="number of features"):
        save(estimator, tmp_path / "forged.safetensors")
