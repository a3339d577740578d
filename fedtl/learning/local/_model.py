"""A model as its party trains it, whatever library it comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from fedtl.learning.strategies import Layout


@dataclass(frozen=True)
class Shape:
    """What a model has to know of data before it sees any.

    Parameters
    ----------
    n_features : int
        Columns of X, where X has two axes.
    n_classes : int
        Number of classes; 0 for regression.
    """

    n_features: int
    n_classes: int


@dataclass(frozen=True, eq=False)
class Weights:
    """Everything of a model that training changes.

    Parameters
    ----------
    shared : ndarray of shape (n_shared,), dtype float32
        Trainable parameters that are exchanged.
    personal : ndarray of shape (n_personal,), dtype float32
        Trainable parameters and recorded statistics that stay at the party.
    buffers : ndarray of shape (n_buffers,), dtype float32
        Recorded statistics that are exchanged: running means and variances of batch norms.
    """

    shared: np.ndarray
    personal: np.ndarray
    buffers: np.ndarray


@dataclass(frozen=True, eq=False)
class Pull:
    """What a strategy adds to every gradient: ``proximal * (parameters - towards) + offset``.

    Parameters
    ----------
    proximal : float
        Strength.
    towards : ndarray of shape (n_shared,)
        Where to.
    offset : ndarray of shape (n_shared,) or None
        A constant.
    """

    proximal: float
    towards: np.ndarray
    offset: np.ndarray | None


@dataclass(frozen=True)
class PrivateSteps:
    """Steps of differentially private gradient descent.

    Parameters
    ----------
    n_steps : int
        How many steps.
    sampling_rate : float
        Probability with which each row takes part in a step, by itself.
    clip : float
        Bound of the norm of a row's gradient.
    noise_multiplier : float
        Standard deviation of the noise of their sum, as a multiple of `clip`.
    """

    n_steps: int
    sampling_rate: float
    clip: float
    noise_multiplier: float


class LocalModel(ABC):
    """A model of a party, to be trained on its rows.

    Frozen parameters are in none of the layouts.

    Attributes
    ----------
    shared, personal, buffers : Layout
        What :class:`Weights` consist of.
    lr : float or None
        Learning rate of plain gradient descent; None if the optimiser does anything else.
    has_gradients : bool
        Whether gradients can be pulled and asked for.
    initial : Weights
        What it was built with.
    n_classes : int
        Number of classes; 0 for regression.
    """

    shared: Layout
    personal: Layout
    buffers: Layout
    lr: float | None = None
    has_gradients: bool = False
    initial: Weights
    n_classes: int

    @property
    def layout_digest(self) -> str:
        """A hash of names and shapes of everything that is exchanged."""
        return f"{self.shared.digest}.{self.buffers.digest}"

    @abstractmethod
    def read(self) -> Weights:
        """Return copies of everything that training changes."""

    @abstractmethod
    def load(self, weights: Weights) -> None:
        """Put other values in place, and forget whatever else training left behind."""

    @abstractmethod
    def redraw(self, seed: int) -> None:
        """Draw initial parameters anew."""

    @abstractmethod
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
        """Train from where the model stands.

        Parameters
        ----------
        X : ndarray of shape (n_rows, ...)
            Rows.
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Targets; positions of classes.
        epochs : int
            Passes over the rows.
        seed : int
            Seed of the order of rows and of whatever the model draws.
        steps_before : int, default=0
            Steps of earlier rounds, for learning rates that decay.
        pull : Pull, optional
            What is added to gradients.

        Returns
        -------
        n_steps : int
            Steps of the optimiser.
        loss : float
            Mean loss on the way.
        """

    def train_privately(
        self, X: np.ndarray, y: np.ndarray, steps: PrivateSteps, seed: int, pull: Pull | None = None
    ) -> None:
        """Train from where the model stands, so that no row matters much to where it arrives.

        Parameters
        ----------
        X : ndarray of shape (n_rows, ...)
            Rows.
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Targets; positions of classes.
        steps : PrivateSteps
            How many steps, on how many rows, with how much noise.
        seed : int
            Seed of what the model draws, as for dropout. Rows and noise are drawn from the
            operating system's randomness.
        pull : Pull, optional
            What is added to gradients after the noise.
        """
        raise NotImplementedError

    def batch_rows(self, n_rows: int) -> int:
        """Return the rows of a mini-batch, of so many that there are."""
        return n_rows

    def gradient(self, X: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
        """Return gradient of the shared parameters, and value, of the mean loss over rows.

        Parameters
        ----------
        X : ndarray of shape (n_rows, ...)
            Rows.
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Targets.
        seed : int
            Seed of whatever the model draws.

        Returns
        -------
        gradient : ndarray of shape (n_shared,), dtype float32
            The gradient.
        loss : float
            The loss.
        """
        raise NotImplementedError

    @abstractmethod
    def apply(self, method: str, X: np.ndarray) -> np.ndarray:
        """Return the output for rows.

        Parameters
        ----------
        method : {"predict", "predict_proba", "decision_function"}
            Which output; classes are positions.
        X : ndarray of shape (n_rows, ...)
            Rows.

        Returns
        -------
        ndarray of shape (n_rows, ...)
            The output.
        """

    @abstractmethod
    def loss(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the mean loss over rows, without training."""

    @abstractmethod
    def fitted(self) -> object:
        """Return the fitted model in its own library's form, for the caller to keep."""


def evidence(model: LocalModel, X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return loss and score on rows that a model was not trained on.

    Parameters
    ----------
    model : LocalModel
        The model.
    X : ndarray of shape (n_rows, ...)
        Rows.
    y : ndarray of shape (n_rows,) or (n_rows, ...)
        Targets.

    Returns
    -------
    loss : float
        Mean loss; the largest number there is, where it is none.
    score : float
        Accuracy, or for regression the coefficient of determination; the least number there is,
        where it is none. Both are 0 without rows.
    """
    if not len(X):
        return 0.0, 0.0
    worst = float(np.finfo(np.float32).max)
    loss, predicted = model.loss(X, y), model.apply("predict", X)
    if model.n_classes:
        score = float(np.mean(y == predicted))
    else:
        error = np.square(y - predicted.reshape(y.shape)).sum()
        spread = np.square(y - y.mean(axis=0)).sum()
        score = float(1.0 - error / spread) if spread > 0 else float(-error)
    return (loss if np.isfinite(loss) else worst), (score if np.isfinite(score) else -worst)


def hold_out(
    y: np.ndarray, share: float, *, stratify: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows into some to train on and some to hold out.

    Parameters
    ----------
    y : ndarray of shape (n_rows,) or (n_rows, ...)
        Targets.
    share : float
        Share of rows to hold out.
    stratify : bool
        Whether every class keeps its share on both sides, as far as its rows allow.
    seed : int
        Seed of the choice.

    Returns
    -------
    training : ndarray of shape (n_training,), dtype int64
        Positions of rows to train on.
    held_out : ndarray of shape (n_held_out,), dtype int64
        Positions of the others.
    """
    n = len(y)
    if share == 0.0:
        return np.arange(n), np.empty(0, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(n)
    if stratify:
        order = order[np.argsort(y[order], kind="stable")]
        place = np.arange(n) * share + 0.5
        out = np.floor(place + share) > np.floor(place)
    else:
        out = np.arange(n) < round(share * n)
    return np.sort(order[~out]), np.sort(order[out])
