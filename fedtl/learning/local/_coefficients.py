"""A scikit-learn model as its coefficients."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone
from sklearn.metrics import log_loss

from fedtl.learning.local._model import LocalModel, Pull, Shape, Weights
from fedtl.learning.strategies import Layout

if TYPE_CHECKING:
    from fedtl.learning.local._recipe import LocalRecipe

_NOTHING = Layout((), ())


class CoefficientModel(LocalModel):
    """A scikit-learn model with ``coef_`` and ``intercept_``, or a multilayer perceptron.

    An epoch is a call of ``partial_fit``; models without it are fitted with ``warm_start``.
    Linear models start from zero.

    Parameters
    ----------
    recipe : LocalRecipe
        The model.
    shape : Shape
        Features and classes.
    seed : int
        Seed of initial parameters.

    Raises
    ------
    TypeError
        If it has no coefficients, or averages them by itself.
    """

    def __init__(self, recipe: LocalRecipe, shape: Shape, seed: int) -> None:
        self._template, self._n_features = recipe.estimator, shape.n_features
        self.n_classes = shape.n_classes
        if recipe.personal:
            raise TypeError("personal parameters need a torch network")
        self.model = self._initial(seed)
        tensors = self._tensors()
        self.shared = Layout(tuple(tensors), tuple(t.shape for t in tensors.values()))
        self.personal = self.buffers = _NOTHING
        self.initial = self.read()

    def read(self) -> Weights:
        """Return copies of the coefficients."""
        flat = np.concatenate([t.ravel() for t in self._tensors().values()]).astype(np.float32)
        return Weights(flat, np.empty(0, np.float32), np.empty(0, np.float32))

    def load(self, weights: Weights) -> None:
        """Put other coefficients in place; optimisers start anew."""
        tensors = self._tensors()
        for name, value in self.shared.views(weights.shared).items():
            tensors[name][...] = value
        vars(self.model).pop("_optimizer", None)  # of a multilayer perceptron

    def redraw(self, seed: int) -> None:
        """Draw initial parameters anew."""
        self.model = self._initial(seed)

    def train(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        epochs: int,
        seed: int,
        steps_before: int = 0,
        pull: Pull | None = None,
    ) -> tuple[int, float]:
        """Train by ``partial_fit``, or by ``fit`` from where it stands."""
        if pull is not None:
            raise TypeError(f"the gradients of {type(self.model).__name__} cannot be changed")
        X = _double(X)
        batch = getattr(self.model, "batch_size", 1)
        batch = min(200, len(X)) if batch == "auto" else batch
        if hasattr(self.model, "t_") and not hasattr(self.model, "coefs_"):
            self.model.t_ = 1.0 + steps_before
        for epoch in range(epochs):
            if "random_state" in self.model.get_params():
                self.model.set_params(random_state=(seed + epoch) % 2**32)
            if hasattr(self.model, "partial_fit"):
                self.model.partial_fit(X, y, **self._classes())
            else:
                self._refit(X, y)
        return epochs * math.ceil(len(X) / batch), self.loss(X, y)

    def apply(self, method: str, X: np.ndarray) -> np.ndarray:
        """Return the model's own output."""
        return np.asarray(getattr(self.model, method)(_double(X)))

    def loss(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return log loss, share of errors if there are no probabilities, or squared error."""
        X = _double(X)
        if not self.n_classes:
            return float(np.mean(np.square(y - self.model.predict(X))))
        if hasattr(self.model, "predict_proba"):
            labels = np.arange(self.n_classes)
            return float(log_loss(y, self.model.predict_proba(X), labels=labels))
        return float(np.mean(y != self.model.predict(X)))

    def fitted(self) -> Any:
        """Return a copy of the model."""
        return copy.deepcopy(self.model)

    def _initial(self, seed: int) -> Any:
        model = clone(self._template)
        params = model.get_params()
        if params.get("average"):
            raise TypeError(
                f"{type(model).__name__}(average=...) averages its coefficients by itself and "
                "cannot go on from others; leave average at False"
            )
        rows = np.zeros((max(self.n_classes, 2), self._n_features))
        y = np.arange(len(rows)) if self.n_classes else np.zeros(len(rows))
        if hasattr(model, "learning_rate_init"):
            # One step of no length draws the initial weights and leaves them as they are.
            given = model.learning_rate_init, model.random_state
            model.set_params(learning_rate_init=1e-300, random_state=seed % 2**32)
            model.partial_fit(rows, y, **self._classes())
            model.set_params(learning_rate_init=given[0], random_state=given[1])
            return model
        if hasattr(model, "partial_fit"):
            model.partial_fit(rows, y, **self._classes())
        else:
            model.set_params(warm_start=True).fit(rows, y)
        if not isinstance(getattr(model, "coef_", None), np.ndarray):
            raise TypeError(f"{type(model).__name__} has no coefficients that could be averaged")
        model.coef_ = np.zeros(model.coef_.shape)
        model.intercept_ = np.zeros(np.atleast_1d(model.intercept_).shape)
        return model

    def _tensors(self) -> dict[str, np.ndarray]:
        """Return the coefficients by name, matrices as (outputs, inputs), as views."""
        if not hasattr(self.model, "coefs_"):
            return {"coef_": self.model.coef_, "intercept_": self.model.intercept_}
        tensors: dict[str, np.ndarray] = {}
        for i, (matrix, bias) in enumerate(
            zip(self.model.coefs_, self.model.intercepts_, strict=True)
        ):
            tensors |= {f"coefs_.{i}": matrix.T, f"intercepts_.{i}": bias}
        return tensors

    def _refit(self, X: np.ndarray, y: np.ndarray) -> None:
        missing = self.n_classes - len(np.unique(y)) if self.n_classes else 0
        if missing:
            raise ValueError(
                f"it has rows of {self.n_classes - missing} of {self.n_classes} "
                f"classes, and {type(self.model).__name__} needs all; a model with partial_fit "
                "does not"
            )
        self.model.fit(X, y)
        self.model.intercept_ = np.atleast_1d(self.model.intercept_)

    def _classes(self) -> dict[str, np.ndarray]:
        return {"classes": np.arange(self.n_classes)} if self.n_classes else {}


def _double(X: np.ndarray) -> np.ndarray:
    """Return rows in the precision that the coefficients have."""
    return X.astype(np.float64, copy=False)
