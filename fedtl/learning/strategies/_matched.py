"""Matched averaging: hidden units that mean the same are averaged, whatever their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from fedtl.learning.strategies._contract import (
    Layout,
    LocalProblem,
    Memory,
    Setting,
    State,
    Strategy,
    Update,
)

_Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class FedMA(Strategy):
    """Match the parties' hidden units layer by layer, then average.

    Each party starts the first round from initial parameters of its own. Layer by layer, from the
    input on, units of every party are assigned to units of the mean by least squared distance of
    their incoming weights and biases (the Hungarian method), the mean is taken anew, and
    the next layer's inputs are put in the matched order. The width of a layer stays what it is.

    Parameters
    ----------
    sweeps : int, default=3
        How often units are assigned anew to the mean of a layer.

    Notes
    -----
    Wang, Yurochkin, Sun, Papailiopoulos and Khazaeni, "Federated learning with matched averaging",
    ICLR 2020. Their non-parametric model, in which a layer may grow, is replaced by layers of
    fixed width. The network must be a chain of dense or convolutional layers, of torch's shapes
    ``(out, in, ...)``, each followed by vectors of length ``out`` (biases, batch norms).
    """

    name: ClassVar[str] = "fedma"
    sweeps: int = 3

    def at_party(self, local: LocalProblem, received: np.ndarray, memory: Memory) -> Update:
        """Train, in the first round from parameters of the party's own."""
        start = received[0] if "started" in memory else local.own_start()
        memory["started"] = np.ones(1, dtype=np.float32)
        trained = local.train(start)
        return Update((trained.parameters - received[0])[None], trained.n_steps, trained.loss)

    def at_coordinator(self, state: State, updates: Sequence[Update], setting: Setting) -> State:
        """Replace the parameters by the matched mean of the parties' parameters."""
        layout = setting.layout
        layers = chain(layout)
        rows = np.array([update.n_rows for update in updates], dtype=np.float64)
        flat = [state["parameters"] + update.change for update in updates]
        parties = [
            {name: tensor.copy() for name, tensor in layout.views(each).items()} for each in flat
        ]
        for layer, following in pairwise(layers):
            self._match(parties, layer, following[0], rows / rows.sum())
        mean = np.zeros(layout.size)
        for share, party in zip(rows / rows.sum(), parties, strict=True):
            mean += share * np.concatenate([party[name].ravel() for name in layout.names])
        return {"parameters": mean}

    def _match(
        self, parties: list[_Tensors], layer: list[str], following: str, shares: np.ndarray
    ) -> None:
        """Put every party's units of one layer into the order of the mean."""
        units = [_units(party, layer) for party in parties]
        orders = [np.arange(len(units[0])) for _ in units]
        # The first centre is the largest party: a mean of unmatched units is nobody's.
        centre = units[int(np.argmax(shares))]
        for _ in range(self.sweeps):
            orders = [_order(centre, unit) for unit in units]
            pairs = zip(shares, units, orders, strict=True)
            centre = np.sum([share * unit[order] for share, unit, order in pairs], axis=0)
        for party, order in zip(parties, orders, strict=True):
            for name in layer:
                party[name] = party[name][order]
            party[following] = _permute_inputs(party[following], order)


def chain(layout: Layout) -> list[list[str]]:
    """Group tensors into layers: each a weight and the vectors that belong to its units.

    Parameters
    ----------
    layout : Layout
        Names and shapes.

    Returns
    -------
    list of (list of str)
        Names by layer, the weight first.

    Raises
    ------
    ValueError
        If the tensors are no chain of dense or convolutional layers.
    """
    layers: list[list[str]] = []
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    for name, shape in shapes.items():
        if len(shape) > 1:
            if layers and shape[1] % shapes[layers[-1][0]][0]:
                raise _no_chain(name, shape)
            layers.append([name])
        elif layers and shape == shapes[layers[-1][0]][:1]:
            layers[-1].append(name)
        else:
            raise _no_chain(name, shape)
    if not layers:
        raise ValueError("fedma needs a network; the model has no matrix of weights")
    return layers


def _no_chain(name: str, shape: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"fedma matches chains of dense or convolutional layers; {name!r} of shape {shape} does "
        "not follow from the layer before it. Use another strategy for this network"
    )


def _units(party: _Tensors, layer: list[str]) -> np.ndarray:
    """Return incoming weights and biases of each unit: (units, width)."""
    return np.concatenate([party[name].reshape(len(party[name]), -1) for name in layer], axis=1)


def _order(centre: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return which unit comes to which place, so that the distances to the centre are least."""
    squares = np.square(centre).sum(axis=1)[:, None] + np.square(units).sum(axis=1)
    return np.asarray(linear_sum_assignment(squares - 2.0 * centre @ units.T)[1])


def _permute_inputs(weight: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Permute input units; after a flattened convolution each stands for a block of inputs."""
    blocks = weight.reshape(len(weight), len(order), -1)
    return blocks[:, order].reshape(weight.shape)
