"""What later code takes at its word, checked when an estimator is saved and when it is loaded."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from fedtl.persistence._names import PersistenceError

_TREES = "sklearn.ensemble._hist_gradient_boosting.gradient_boosting"
_FORESTS = "sklearn.ensemble._forest"


def check_instance(made: Any) -> None:
    """Check an instance with all that it is made of.

    Parameters
    ----------
    made : object
        Any object of the graph.

    Raises
    ------
    PersistenceError
        If compiled code would read outside of its arrays, or without end; or if fitting would
        read pickles from a cache.
    """
    if isinstance(made, BaseEstimator) and getattr(made, "memory", None) is not None:
        raise PersistenceError(
            f"memory={made.memory!r} is a cache of pickles on disk; use memory=None"
        )
    single = sys.modules.get("sklearn.tree._classes")
    if single is not None and isinstance(made, single.BaseDecisionTree):
        tree = getattr(made, "tree_", None)
        if tree is not None and not (
            is_tree(type(tree)) and tree.n_features == made.n_features_in_
        ):
            raise PersistenceError("a tree is one of another number of features")
    forests = sys.modules.get(_FORESTS)
    if forests is not None and isinstance(made, forests.BaseForest):
        for member in getattr(made, "estimators_", ()):
            if (
                not isinstance(member, BaseEstimator)
                or not is_tree(type(member.tree_))
                or member.tree_.n_features != made.n_features_in_
            ):
                raise PersistenceError("a forest has trees of another number of features")
    trees = sys.modules.get(_TREES)
    if trees is not None and isinstance(made, trees.BaseHistGradientBoosting):
        if not hasattr(made, "_predictors"):
            return
        mapper = made._bin_mapper
        categorical = np.asarray(mapper.is_categorical_, dtype=bool)
        # What is passed to the trees is counted by _n_features where a preprocessor is set.
        own = getattr(made, "_preprocessor", None) is None and not getattr(made, "_in_fit", False)
        features = {made.n_features_in_, getattr(made, "_n_features", made.n_features_in_)}
        if not own or features != {len(categorical)} or categorical.ndim != 1:
            raise PersistenceError("gradient-boosted trees have another number of features")
        for tree in (tree for iteration in made._predictors for tree in iteration):
            _check_tree(tree, categorical)


def is_tree(cls: type) -> bool:
    """Return whether instances are the compiled part of scikit-learn's decision trees."""
    return cls.__module__ == "sklearn.tree._tree" and cls.__name__ == "Tree"


def check_tree(arguments: list[Any], state: dict[str, Any]) -> None:
    """Check what a compiled decision tree is to be made of.

    Parameters
    ----------
    arguments : list
        Number of features, classes of each output, number of outputs.
    state : dict
        Nodes, values and their counts.

    Raises
    ------
    PersistenceError
        If a prediction would read outside of the tree, or without end.
    """
    from sklearn.tree._tree import NODE_DTYPE

    nodes, values = state.get("nodes"), state.get("values")
    if len(arguments) != 3 or not isinstance(nodes, np.ndarray) or nodes.dtype != NODE_DTYPE:
        raise PersistenceError("a tree has no nodes, or malformed ones")
    n_features, n_classes, n_outputs = arguments
    whole = isinstance(n_classes, np.ndarray) and n_classes.dtype == np.intp
    if not whole or type(n_features) is not int or n_features < 1 or n_outputs != 1:
        raise PersistenceError("a tree has not one output, or malformed classes or features")
    shape = (len(nodes), 1, int(n_classes.max(initial=0)))
    if not isinstance(values, np.ndarray) or values.dtype != np.float64 or values.shape != shape:
        raise PersistenceError("a tree has values that are not those of its nodes and classes")
    if n_classes.shape != (1,) or type(state.get("max_depth")) is not int:
        raise PersistenceError("a tree has malformed classes or no depth")
    if nodes.ndim != 1 or not len(nodes) or state.get("node_count") != len(nodes):
        raise PersistenceError("a tree has another number of nodes")
    position, inner = np.arange(len(nodes)), nodes["left_child"] != -1
    left, right = nodes["left_child"][inner], nodes["right_child"][inner]
    for child in (left, right):
        if not ((child > position[inner]) & (child < len(nodes))).all():
            raise PersistenceError("a tree has a node whose children are not below it")
    if not np.array_equal(np.sort(np.concatenate([left, right])), position[1:]):
        raise PersistenceError("a tree has a node with more than one parent, or none")
    depth = np.zeros(len(nodes), dtype=np.int64)
    for node, one, other in zip(position[inner], left, right, strict=True):
        depth[[one, other]] = depth[node] + 1
    if not depth.max() <= state["max_depth"] <= len(nodes):
        raise PersistenceError("a tree has another depth than its nodes")
    if not ((nodes["feature"] >= 0) & (nodes["feature"] < n_features))[inner].all():
        raise PersistenceError("a tree splits on a feature that there is not")


def _check_tree(tree: Any, categorical: np.ndarray) -> None:
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

    if type(tree) is not TreePredictor or type(tree.nodes) is not np.ndarray:
        raise PersistenceError("gradient-boosted trees hold something that is no tree")
    if tree.nodes.dtype != PREDICTOR_RECORD_DTYPE or tree.nodes.ndim != 1 or not len(tree.nodes):
        raise PersistenceError("a tree has malformed nodes")
    position = np.arange(len(tree.nodes))
    inner = tree.nodes["is_leaf"] == 0
    for child in (tree.nodes["left"].astype(np.int64), tree.nodes["right"].astype(np.int64)):
        if not ((child > position) & (child < len(tree.nodes)))[inner].all():
            raise PersistenceError("a tree has a node whose children are not below it")
    feature = tree.nodes["feature_idx"]
    if not ((feature >= 0) & (feature < len(categorical)))[inner].all():
        raise PersistenceError("a tree splits on a feature that there is not")
    by_category = inner & (tree.nodes["is_categorical"] != 0)
    bitsets = tree.raw_left_cat_bitsets
    if by_category.any() and not (
        bitsets.ndim == 2
        and bitsets.shape[1] == 8
        and (tree.nodes["bitset_idx"][by_category] < len(bitsets)).all()
        and categorical[feature[by_category]].all()
    ):
        raise PersistenceError("a tree has malformed categories")
