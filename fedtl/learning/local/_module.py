"""A plain torch module, trained by a loop of our own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedtl.learning.local._model import LocalModel, PrivateSteps, Pull, Shape, Weights
from fedtl.learning.local._network import Network, as_tensor, copy_module, plain_lr, seeded
from fedtl.learning.local._private import row_losses, take_private_steps

if TYPE_CHECKING:
    from fedtl.learning.local._recipe import LocalRecipe

_CHUNK = 1024


class ModuleModel(LocalModel):
    """A plain torch module.

    Its output is a tensor of shape (n_rows, ...), or an object with such a tensor as ``logits``,
    as transformers have it. Batch norms whose parameters are frozen keep their statistics.

    Parameters
    ----------
    recipe : LocalRecipe
        Module, criterion, optimiser and its learning rate, size of mini-batches.
    shape : Shape
        Number of classes.
    seed : int
        Not used: a module comes with its parameters.
    """

    has_gradients = True

    def __init__(self, recipe: LocalRecipe, shape: Shape, seed: int) -> None:
        self._recipe, self.n_classes = recipe, shape.n_classes
        self.module = copy_module(recipe.estimator)
        self._network = Network(self.module, recipe.personal)
        self._criterion = nn.CrossEntropyLoss() if recipe.criterion is None else recipe.criterion
        self.shared, self.personal = self._network.shared, self._network.personal
        self.buffers = self._network.buffers
        self._trainable = [p for p in self.module.parameters() if p.requires_grad]
        self.lr = plain_lr(self._optimizer())
        self.initial = self._network.read()
        self._frozen_norms = [
            m
            for m in self.module.modules()
            if isinstance(m, _BatchNorm) and m.affine and not m.weight.requires_grad
        ]

    def read(self) -> Weights:
        """Return copies of everything that training changes."""
        return self._network.read()

    def load(self, weights: Weights) -> None:
        """Put other values in place."""
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
        """Train with mini-batches in random order."""
        rows, targets = self._tensor(X), self._targets(y)
        self._train_mode()
        size, last = self._batches(len(rows))
        generator = torch.Generator().manual_seed(seed)
        optimizer = self._optimizer()
        losses = []
        with seeded(seed), self._network.pulled(pull):
            for _ in range(epochs):
                order = torch.randperm(len(rows), generator=generator)
                for batch in torch.split(order[:last], size):
                    optimizer.zero_grad()
                    losses.append(self._backward(rows[batch], targets[batch]))
                    optimizer.step()
        return len(losses), float(torch.stack(losses).mean())

    def train_privately(
        self, X: np.ndarray, y: np.ndarray, steps: PrivateSteps, seed: int, pull: Pull | None = None
    ) -> None:
        """Train by clipped gradients of single rows, and noise."""
        rows, targets = self._tensor(X), self._targets(y)
        self._train_mode()
        criterion = row_losses(self._criterion)

        def losses(module: nn.Module, inputs: Tensor, batch: Tensor) -> Tensor:
            return self._loss(self._output(inputs, module), targets[batch], criterion)

        with seeded(seed):
            take_private_steps(
                self.module,
                losses,
                rows,
                steps,
                self._optimizer(),
                pulls=[] if pull is None else list(self._network.pulls(pull)),
            )

    def batch_rows(self, n_rows: int) -> int:
        """Return the rows of a mini-batch."""
        return min(self._recipe.batch_size, n_rows)

    def gradient(self, X: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
        """Return gradient and value of the mean loss."""
        rows, targets = self._tensor(X), self._targets(y)
        self._train_mode()
        self.module.zero_grad()
        total = 0.0
        size, last = self._batches(len(rows))
        with seeded(seed):
            for start in range(0, last, size):
                piece = slice(start, min(start + size, last))
                share = (piece.stop - piece.start) / last
                loss = self._loss(self._output(rows[piece]), targets[piece]) * share
                loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        return self._network.gradient(), total

    def apply(self, method: str, X: np.ndarray) -> np.ndarray:
        """Return the output for rows, or what it says."""
        self.module.eval()
        with torch.no_grad():
            parts = [self._output(piece) for piece in torch.split(self._tensor(X), _CHUNK)]
        output = torch.cat(parts)
        if method == "predict_proba":
            return np.asarray(output.softmax(dim=1).double().cpu().numpy())
        values = output.cpu().numpy()
        if method == "predict":
            return values.argmax(axis=1) if self.n_classes else _column(values)
        if method == "decision_function" and self.n_classes == 2:
            return np.asarray(values[:, 1] - values[:, 0])
        return np.asarray(values)

    def loss(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the mean loss over rows, without training."""
        self.module.eval()
        rows, targets, total = self._tensor(X), self._targets(y), 0.0
        with torch.no_grad():
            pieces = zip(torch.split(rows, _CHUNK), torch.split(targets, _CHUNK), strict=True)
            for piece, target in pieces:
                total += float(self._loss(self._output(piece), target)) * len(piece)
        return total / len(rows)

    def fitted(self) -> nn.Module:
        """Return a copy of the module."""
        return copy_module(self.module).eval()

    def _backward(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Add to the gradients and return the loss, which lets go of all that was between."""
        loss = self._loss(self._output(rows), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _output(self, rows: Tensor, module: nn.Module | None = None) -> Tensor:
        output = (module or self.module)(rows)
        if not isinstance(output, Tensor):
            output = getattr(output, "logits", output)
        shape: tuple[int, ...] = output.shape if isinstance(output, Tensor) else ()
        if shape[:1] != rows.shape[:1]:
            raise ValueError(
                f"the module must map {len(rows)} rows to a tensor of as many rows, got "
                f"{tuple(shape) if isinstance(output, Tensor) else type(output).__name__}"
            )
        n_classes = self.n_classes
        if n_classes and (len(shape) < 2 or shape[1] < n_classes):
            raise ValueError(
                f"y has {n_classes} classes and the module puts out {tuple(shape[1:])}; "
                "its last layer must be as wide as there are classes"
            )
        if n_classes and shape[1] > n_classes:
            return output[:, :n_classes]  # a head wider than y has classes: the rest is not used
        return output

    def _loss(self, output: Tensor, target: Tensor, criterion: Any = None) -> Tensor:
        if not self.n_classes and output.shape != target.shape:
            target = target.view(output.shape)
        loss: Tensor = (criterion or self._criterion)(output, target)
        return loss

    def _tensor(self, X: np.ndarray) -> Tensor:
        return as_tensor(X).to(self._network.flat.device, self._network.input_type(X))

    def _targets(self, y: np.ndarray) -> Tensor:
        like = self._network.flat
        return as_tensor(y).to(like.device, torch.int64 if self.n_classes else like.dtype)

    def _train_mode(self) -> None:
        self.module.train()
        for norm in self._frozen_norms:
            norm.eval()

    def _batches(self, n_rows: int) -> tuple[int, int]:
        """Return the size of mini-batches, and where the last one ends."""
        size = min(self._recipe.batch_size, n_rows)
        if not self._network.needs_two_rows:
            return size, n_rows
        if n_rows == 1:
            raise ValueError("it has one row, and a batch norm needs two to train on")
        if size == 1:
            raise ValueError("a batch norm needs mini-batches of at least two rows")
        # A last mini-batch of one row is left out: a random row, as the order is.
        return size, n_rows - (n_rows % size == 1)

    def _optimizer(self) -> Any:
        return self._recipe.optimizer(self._trainable, lr=self._recipe.lr)


def _column(values: np.ndarray) -> np.ndarray:
    single = values.ndim > 1 and math.prod(values.shape[1:]) == 1
    return values.reshape(len(values)) if single else values
