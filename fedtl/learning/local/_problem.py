"""A party's rows and model as a strategy sees them."""

from __future__ import annotations

import numpy as np

from fedtl.learning.local._model import LocalModel, PrivateSteps, Pull, Weights
from fedtl.learning.strategies import Trained


class RowsProblem:
    """Local training on given rows: the :class:`~fedtl.learning.strategies.LocalProblem`.

    Parameters
    ----------
    model : LocalModel
        The model; whatever it holds is replaced.
    weights : Weights
        Personal parameters and statistics to start from; `shared` is not used.
    X : ndarray of shape (n_rows, ...)
        The party's rows.
    y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
        Their targets.
    epochs : int
        Epochs of one round.
    seed : int
        Seed of this round at this party.
    steps_before : int
        Steps of earlier rounds.
    private : PrivateSteps, optional
        Train by these steps, and tell no loss.

    Attributes
    ----------
    after : Weights
        What the model was after the last training.
    steps_after : int
        Steps of all rounds, this one included.
    """

    def __init__(
        self,
        model: LocalModel,
        weights: Weights,
        X: np.ndarray,
        y: np.ndarray,
        *,
        epochs: int,
        seed: int,
        steps_before: int,
        private: PrivateSteps | None = None,
    ) -> None:
        self.model, self.after, self._X, self._y = model, weights, X, y
        self._before, self._epochs, self._seed = weights, epochs, seed
        self._steps_before = steps_before
        self.steps_after = steps_before
        self.lr = model.lr
        self._private = private

    def train(
        self,
        start: np.ndarray,
        *,
        proximal: float = 0.0,
        towards: np.ndarray | None = None,
        offset: np.ndarray | None = None,
        part: str = "all",
    ) -> Trained:
        """Train; see :class:`~fedtl.learning.strategies.LocalProblem`."""
        pull = None
        if proximal or offset is not None:
            pull = Pull(proximal, start if towards is None else towards, offset)
        X, y = self._X, self._y
        if part == "support":
            X, y = X[self._half(True)], y[self._half(True)]
        self.model.load(Weights(start, self._before.personal, self._before.buffers))
        if self._private is not None:
            self.model.train_privately(X, y, self._private, self._seed, pull)
            n_steps, loss = self._private.n_steps, 0.0
        else:
            n_steps, loss = self.model.train(
                X,
                y,
                epochs=self._epochs,
                seed=self._seed,
                steps_before=self._steps_before,
                pull=pull,
            )
        self.after = self.model.read()
        self.steps_after = self._steps_before + n_steps
        return Trained(self.after.shared, n_steps, loss)

    def own_start(self) -> np.ndarray:
        """Draw initial parameters for this party alone."""
        self.model.redraw(self._seed)
        return self.model.read().shared

    def gradient(self, at: np.ndarray) -> tuple[np.ndarray, float]:
        """Return gradient and loss of the query half of the rows."""
        self.model.load(Weights(at, self.after.personal, self.after.buffers))
        rows = self._half(False)
        return self.model.gradient(self._X[rows], self._y[rows], self._seed)

    def _half(self, support: bool) -> np.ndarray:
        order = np.random.default_rng(self._seed).permutation(len(self._X))
        middle = (len(order) + 1) // 2
        # A party with a single row adapts to it and is asked about it.
        return order[:middle] if support else order[middle:] if len(order) > 1 else order
