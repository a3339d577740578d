"""A skorch net, trained by its own loop, with its own callbacks, through its public interface."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import clone, is_classifier

from fedtl.learning.local._model import LocalModel, PrivateSteps, Pull, Shape, Weights
from fedtl.learning.local._network import Network, plain_lr, seeded
from fedtl.learning.local._private import row_losses, take_private_steps

if TYPE_CHECKING:
    from fedtl.learning.local._recipe import LocalRecipe


class SkorchModel(LocalModel):
    """A skorch net.

    Its ``train_split`` is not used: rows are held out by the federation. It does not print.

    Parameters
    ----------
    recipe : LocalRecipe
        The net.
    shape : Shape
        Number of classes.
    seed : int
        Seed of initial parameters, where the net's module is a class.
    """

    has_gradients = True

    def __init__(self, recipe: LocalRecipe, shape: Shape, seed: int) -> None:
        self.n_classes = shape.n_classes
        net = clone(recipe.estimator).set_params(train_split=None, verbose=0, warm_start=False)
        if is_classifier(net) and "classes" in net.get_params(deep=False):
            net.set_params(classes=np.arange(shape.n_classes))
        self._may_drop = "iterator_train__drop_last" not in net.get_params()
        self._generator = torch.Generator()
        net.set_params(iterator_train__generator=self._generator)
        with seeded(seed):
            net.initialize()
        self.net = net
        # Callbacks such as Freezer act when the first epoch begins: what is trainable is what
        # they leave trainable.
        net.notify("on_epoch_begin", dataset_train=None, dataset_valid=None)
        self._network = Network(net.module_, recipe.personal)
        self.shared, self.personal = self._network.shared, self._network.personal
        self.buffers = self._network.buffers
        self.lr = plain_lr(net.optimizer_)
        self.initial = self._network.read()

    def read(self) -> Weights:
        """Return copies of everything that training changes."""
        return self._network.read()

    def load(self, weights: Weights) -> None:
        """Put other values in place; optimiser and history start anew."""
        self._network.load(weights)

    def redraw(self, seed: int) -> None:
        """Draw initial parameters anew."""
        self._network.redraw(seed)

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
        """Train by the net's own loop."""
        net = self.net
        rows, targets = self._rows(X), self._targets(y)
        self._generator.manual_seed(seed)
        net.set_params(max_epochs=epochs)
        if self._may_drop:  # an attribute, as set_params does not take it once a net lives
            net.iterator_train__drop_last = self._drops(len(rows))
        net.initialize_history()
        net.initialize_optimizer()
        n_steps = 0

        def count(*_: Any) -> None:
            nonlocal n_steps
            n_steps += 1

        hook = net.optimizer_.register_step_post_hook(count)
        with seeded(seed), self._network.pulled(pull):
            net.partial_fit(rows, targets)
        hook.remove()
        if not n_steps:
            raise ValueError(f"no mini-batch of {net.batch_size} rows could be made of {len(X)}")
        return n_steps, float(np.mean(net.history[:, "train_loss"]))

    def train_privately(
        self, X: np.ndarray, y: np.ndarray, steps: PrivateSteps, seed: int, pull: Pull | None = None
    ) -> None:
        """Train by clipped gradients of single rows, and noise; callbacks are not called."""
        net = self.net
        rows, targets = torch.as_tensor(self._rows(X)), torch.as_tensor(self._targets(y))
        net.initialize_optimizer()
        net.module_.train()

        def losses(module: Any, inputs: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
            output = module(inputs)
            loss: torch.Tensor = net.get_loss(output, targets[batch], X=inputs, training=True)
            return loss

        criterion = net.criterion_
        net.criterion_ = row_losses(criterion)
        try:
            with seeded(seed):
                take_private_steps(
                    net.module_,
                    losses,
                    rows,
                    steps,
                    net.optimizer_,
                    pulls=[] if pull is None else list(self._network.pulls(pull)),
                )
        finally:
            net.criterion_ = criterion

    def batch_rows(self, n_rows: int) -> int:
        """Return the rows of a mini-batch of the net."""
        size = self.net.batch_size
        return n_rows if size < 0 else min(size, n_rows)

    def gradient(self, X: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
        """Return gradient and value of the mean loss."""
        net, total = self.net, 0.0
        net.module_.train()
        net.module_.zero_grad()
        with seeded(seed):
            dataset = net.get_dataset(self._rows(X), self._targets(y))
            for inputs, targets in net.get_iterator(dataset, training=False):
                output = net.infer(inputs)
                loss = net.get_loss(output, targets, X=inputs, training=True)
                loss = loss * (len(targets) / len(X))
                loss.backward()
                total += float(loss.detach())
        return self._network.gradient(), total

    def apply(self, method: str, X: np.ndarray) -> np.ndarray:
        """Return the net's own predictions."""
        rows = self._rows(X)
        n_classes = self.n_classes
        if n_classes and method != "transform":
            values = np.asarray(self.net.predict_proba(rows), dtype=np.float64)
            if values.shape[1] > n_classes:  # a head that is wider than y has classes
                values = values[:, :n_classes] / values[:, :n_classes].sum(axis=1, keepdims=True)
            elif method == "predict":
                return np.asarray(self.net.predict(rows))
            return values.argmax(axis=1) if method == "predict" else values
        values = np.asarray(getattr(self.net, method)(rows))
        if method == "predict" and not self.n_classes and values.ndim == 2:
            return values[:, 0] if values.shape[1] == 1 else values
        return values

    def loss(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the mean loss over rows, without training."""
        net, total = self.net, 0.0
        net.module_.eval()
        dataset = net.get_dataset(self._rows(X), self._targets(y))
        with torch.no_grad():
            for inputs, targets in net.get_iterator(dataset, training=False):
                loss = net.get_loss(net.infer(inputs), targets, X=inputs, training=False)
                total += float(loss) * len(targets)
        return total / len(X)

    def fitted(self) -> Any:
        """Return a net of its own with these parameters."""
        return copy.deepcopy(self.net)

    def _rows(self, X: np.ndarray) -> np.ndarray:
        return X.astype(_numpy_type(self._network.input_type(X)), copy=False)

    def _targets(self, y: np.ndarray) -> np.ndarray:
        from skorch import NeuralNetBinaryClassifier

        if self.n_classes and not isinstance(self.net, NeuralNetBinaryClassifier):
            return y.astype(np.int64)
        y = y.astype(_numpy_type(self._network.flat.dtype))
        return y if self.n_classes or y.ndim > 1 else y[:, None]

    def _drops(self, n_rows: int) -> bool:
        """Whether a last mini-batch of one row is left out, which a batch norm cannot take."""
        self.net.module_.train()
        if not self._network.needs_two_rows:
            return False
        if n_rows == 1:
            raise ValueError("it has one row, and a batch norm needs two to train on")
        return n_rows > self.net.batch_size > 1 and n_rows % self.net.batch_size == 1


def _numpy_type(of: torch.dtype) -> Any:
    return torch.empty(0, dtype=of).numpy().dtype
