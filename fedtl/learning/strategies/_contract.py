"""What a strategy is, and what it is told."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np

State = Mapping[str, np.ndarray]
"""What the coordinator keeps between rounds; the shared parameters are ``state["parameters"]``."""

Memory = dict[str, np.ndarray]
"""What one party keeps between rounds; it never crosses the border."""


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the shared tensors, in the order of one flat vector.

    Parameters
    ----------
    names : tuple of str
        One name for each tensor.
    shapes : tuple of (tuple of int)
        Their shapes.

    Examples
    --------
    >>> import numpy as np
    >>> from fedtl.learning.strategies import Layout
    >>> layout = Layout(("weight", "bias"), ((2, 3), (2,)))
    >>> layout.size
    8
    >>> layout.views(np.arange(8.0))["bias"]
    array([6., 7.])
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def sizes(self) -> list[int]:
        """Number of elements of each tensor."""
        return [math.prod(shape) for shape in self.shapes]

    @cached_property
    def size(self) -> int:
        """Number of elements in all."""
        return sum(self.sizes)

    @cached_property
    def digest(self) -> str:
        """A hash of names and shapes, by which two sides find out that they mean the same."""
        text = json.dumps([self.names, self.shapes])
        return hashlib.sha256(text.encode()).hexdigest()

    def views(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Return each tensor as a view of the flat vector.

        Parameters
        ----------
        flat : ndarray of shape (size,)
            All tensors, one after the other.

        Returns
        -------
        dict of str to ndarray
            The tensors by name.
        """
        pieces = np.split(flat, np.cumsum(self.sizes)[:-1])
        return {
            name: piece.reshape(shape)
            for name, shape, piece in zip(self.names, self.shapes, pieces, strict=True)
        }


@dataclass(frozen=True)
class Setting:
    """What the coordinator knows besides parameters and updates.

    Parameters
    ----------
    layout : Layout
        Names and shapes of the parameters.
    n_parties : int
        Parties in all, whether or not they take part in a round.
    """

    layout: Layout
    n_parties: int


@dataclass(frozen=True, eq=False)
class Trained:
    """Where local training ended.

    Parameters
    ----------
    parameters : ndarray of shape (n_parameters,), dtype float32
        The shared parameters.
    n_steps : int
        Steps of the optimiser.
    loss : float
        Mean loss over the steps.
    """

    parameters: np.ndarray
    n_steps: int
    loss: float


@dataclass(frozen=True, eq=False)
class Update:
    """What one party replies in a round.

    Parameters
    ----------
    vectors : ndarray of shape (n_vectors, n_parameters)
        First the change of the parameters, then whatever else the strategy sends.
    n_steps : int
        Steps of the local optimiser.
    loss : float
        Mean loss of the local training.
    n_rows : int, default=1
        Rows that the party trained on; filled in by the protocol.
    staleness : int, default=0
        Versions of the model that were made since the one that the party started from.
    party : str, default=""
        Name of the party; filled in by the protocol.
    """

    vectors: np.ndarray
    n_steps: int
    loss: float
    n_rows: int = 1
    staleness: int = 0
    party: str = ""

    @property
    def change(self) -> np.ndarray:
        """Change of the parameters, of shape (n_parameters,)."""
        return np.asarray(self.vectors[0])


class LocalProblem(Protocol):
    """A party's own rows and model, as a strategy sees them."""

    lr: float | None
    """Learning rate of plain gradient steps; None if the optimiser takes any others."""

    def train(
        self,
        start: np.ndarray,
        *,
        proximal: float = 0.0,
        towards: np.ndarray | None = None,
        offset: np.ndarray | None = None,
        part: str = "all",
    ) -> Trained:
        """Train for the epochs of one round.

        Parameters
        ----------
        start : ndarray of shape (n_parameters,)
            Where to start.
        proximal : float, default=0.0
            Adds ``proximal * (parameters - towards)`` to every gradient.
        towards : ndarray of shape (n_parameters,), optional
            By default `start`.
        offset : ndarray of shape (n_parameters,), optional
            Added to every gradient.
        part : {"all", "support"}, default="all"
            Train on all rows, or on the half that is not the query half.

        Returns
        -------
        Trained
            Where it ended.
        """
        ...

    def own_start(self) -> np.ndarray:
        """Return initial parameters that are drawn for this party alone: (n_parameters,)."""
        ...

    def gradient(self, at: np.ndarray) -> tuple[np.ndarray, float]:
        """Return gradient and value of the mean loss over the query half of the rows.

        Parameters
        ----------
        at : ndarray of shape (n_parameters,)
            Parameters.

        Returns
        -------
        gradient : ndarray of shape (n_parameters,)
            The gradient.
        loss : float
            The loss.
        """
        ...


@dataclass(frozen=True)
class Strategy(ABC):
    """How rounds of local training become one model.

    A strategy knows vectors, and neither messages nor networks. In each round

    1. *at the coordinator*, :meth:`send` says which vectors go to the parties of the round: the
       shared parameters first, then whatever else the strategy needs there;
    2. *at each of these parties*, :meth:`at_party` trains from them on the party's own rows, and
       returns the change of the parameters, and whatever else has to go back. What a party has
       to remember between rounds it keeps in its own `memory`;
    3. *at the coordinator*, :meth:`at_coordinator` makes the next state of what came back.

    A strategy object holds constants only. Everything that changes is in the state and in the
    memories, which are vectors by name: so a run can be saved and resumed.

    Attributes
    ----------
    name : str
        Its name in the registry. Parties are told this name and :attr:`strength`, and make
        the strategy anew from them.
    needs_gradients : bool
        Whether it changes the gradients of local training or asks for one. Models that only have
        ``partial_fit`` cannot do either.
    keeps_model : bool
        Whether each party keeps a model of its own in ``memory["model"]``, which serves its rows.
    trains_once : bool
        Whether a party uses its rows for one local training a round and nothing else, and in no
        more rounds than there are: what differentially private training is accounted for.
    averages : bool
        Whether the coordinator uses the parties' mean change alone.
    weighs_rows : bool
        Whether that mean weighs parties by their rows.
    """

    name: ClassVar[str]
    needs_gradients: ClassVar[bool] = False
    keeps_model: ClassVar[bool] = False
    trains_once: ClassVar[bool] = True
    averages: ClassVar[bool] = False
    weighs_rows: ClassVar[bool] = True

    @property
    def updates_per_version(self) -> int | None:
        """Updates that make a new version of the model; None if a round waits for all of them."""
        return None

    @property
    def strength(self) -> float:
        """The one number that the party's side of the strategy needs; 0 if it needs none."""
        return 0.0

    @classmethod
    def with_strength(cls, strength: float) -> Strategy:
        """Make the party's side of the strategy.

        Parameters
        ----------
        strength : float
            What :attr:`strength` was at the coordinator.

        Returns
        -------
        Strategy
            A strategy whose :meth:`at_party` does the same.
        """
        return cls()

    def start(self, parameters: np.ndarray) -> State:
        """Return the state before the first round.

        Parameters
        ----------
        parameters : ndarray of shape (n_parameters,)
            Initial parameters.

        Returns
        -------
        State
            Vectors by name.
        """
        return {"parameters": np.asarray(parameters, dtype=np.float64)}

    def send(self, state: State) -> np.ndarray:
        """Return what goes to the parties of a round.

        Parameters
        ----------
        state : State
            The coordinator's state.

        Returns
        -------
        ndarray of shape (n_vectors, n_parameters)
            The parameters first.
        """
        return np.asarray(state["parameters"][None])

    def at_party(self, local: LocalProblem, received: np.ndarray, memory: Memory) -> Update:
        """Train on a party's own rows.

        Parameters
        ----------
        local : LocalProblem
            The party's rows and model.
        received : ndarray of shape (n_vectors, n_parameters)
            From :meth:`send`.
        memory : Memory
            What the party remembers; changed in place.

        Returns
        -------
        Update
            What goes back.
        """
        trained = local.train(received[0])
        return Update((trained.parameters - received[0])[None], trained.n_steps, trained.loss)

    def merge_buffers(self, buffers: np.ndarray, n_rows: np.ndarray) -> np.ndarray:
        """Merge what networks record beside parameters: running means and variances.

        Parameters
        ----------
        buffers : ndarray of shape (n_updates, n_buffers)
            What each party replied.
        n_rows : ndarray of shape (n_updates,)
            Rows of each party.

        Returns
        -------
        ndarray of shape (n_buffers,)
            The mean, parties weighing by their rows.
        """
        return np.asarray(np.average(buffers, axis=0, weights=n_rows))

    @abstractmethod
    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Make the next state of the parties' updates.

        Parameters
        ----------
        state : State
            The state that the updates were made from.
        updates : sequence of Update
            One for each party that replied; at least one.
        setting : Setting
            Names and shapes of the parameters, and the number of parties.

        Returns
        -------
        State
            The next state.
        """


def weighted_mean(updates: Sequence[Update]) -> np.ndarray:
    """Return the mean change of the parameters, parties weighing by their rows.

    Parameters
    ----------
    updates : sequence of Update
        What parties replied.

    Returns
    -------
    ndarray of shape (n_parameters,), dtype float64
        The mean.
    """
    total = sum(update.n_rows for update in updates)
    mean = np.zeros(updates[0].change.shape)
    part = np.empty_like(updates[0].change)
    for update in updates:
        mean += np.multiply(update.change, update.n_rows / total, out=part)
    return mean
