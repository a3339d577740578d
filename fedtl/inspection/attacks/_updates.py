"""Gradient inversion: rows of a party from the changes that its training made to parameters.

In a layer that sees rows themselves, the gradient of a unit's weights is a sum of rows, and that of
its bias the sum of their factors. Where a unit was active for one row alone, the ratio is that row.

L. Zhu, Z. Liu, S. Han. Deep leakage from gradients. NeurIPS 2019; the exact solution for dense
layers: J. Geiping, H. Bauermeister, H. Droege, M. Moeller. Inverting gradients. NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedtl.federation import Transcript
from fedtl.inspection.attacks._finding import Finding, share
from fedtl.learning.compression import Packed, unpack
from fedtl.learning.strategies import Layout
from fedtl.protocols.rounds import Reply

COORDINATOR = "the coordinator"
_NEAR = 0.01


@dataclass(frozen=True, eq=False)
class RowwiseScene:
    """A recorded training in rounds.

    Parameters
    ----------
    transcript : Transcript
        What crossed.
    rows : mapping of str to ndarray of shape (n_rows, n_columns)
        Rows of each party.
    layout : Layout
        Names and shapes of the parameters that crossed, which all sides know.
    seed : int
        Seed of what attacks draw.
    """

    transcript: Transcript
    rows: Mapping[str, np.ndarray]
    layout: Layout
    seed: int = 0


def update_inversion_attack(scene: RowwiseScene) -> list[Finding]:
    """Divide the changes of the first dense layer's weights by those of its biases.

    Parameters
    ----------
    scene : RowwiseScene
        The recorded training.

    Returns
    -------
    list of Finding
        For each party the share of its rows that are found to within a hundredth of the variance of
        its rows, over all rounds. The control is how many are that near to the mean row.
    """
    layer = _first_dense(scene)
    findings = []
    for party, rows in scene.rows.items():
        frame = Finding(
            "6",
            "gradient inversion",
            COORDINATOR,
            party,
            "rows",
            metric="share of rows found",
            chance=0.0,
            margin=0.0,
            source=f"{Reply.kind}: changes",
        )
        if layer is None or rows.ndim != 2:
            why = "no dense layer sees the rows themselves; only dense layers are attacked"
            findings.append(replace(frame, why=why))
            continue
        found = _found(rows, _guesses(scene, party, *layer))
        near = _found(rows, rows.mean(axis=0, keepdims=True))
        findings.append(replace(frame, score=share(found), control=share(near)))
    return findings


def _first_dense(scene: RowwiseScene) -> tuple[str, str] | None:
    """Names of the first weights that are as wide as the rows, and of their biases."""
    width = next(iter(scene.rows.values())).shape[-1]
    shapes = list(zip(scene.layout.names, scene.layout.shapes, strict=True))
    for i, (name, shape) in enumerate(shapes):
        if len(shape) != 2 or width not in shape:
            continue
        units = shape[0] if shape[1] == width else shape[1]
        for bias, bias_shape in shapes[i + 1 :]:
            if bias_shape == (units,):
                return name, bias
    return None


def _guesses(scene: RowwiseScene, party: str, weight: str, bias: str) -> np.ndarray:
    """What each unit of the layer says in each round: (n_guesses, n_columns)."""
    width = scene.rows[party].shape[1]
    guesses = [np.empty((0, width))]
    for crossing in scene.transcript.with_party(party):
        reply = crossing.message
        if not isinstance(reply, Reply):
            continue
        packed = Packed(reply.indices, reply.values, reply.codes, reply.ranges)
        change = scene.layout.views(unpack(packed, scene.layout.size)[0].astype(np.float64))
        weights, biases = change[weight], change[bias]
        weights = weights if weights.shape[1] == width else weights.T
        used = np.abs(biases) > 1e-9 * max(float(np.abs(biases).max()), 1e-30)
        guesses.append(weights[used] / biases[used, None])
    return np.concatenate(guesses)


def _found(rows: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """Return for which rows a guess is as near as makes no difference."""
    rows = rows.astype(np.float64)
    near = _NEAR * float(rows.var(axis=0).sum())
    found = np.zeros(len(rows), dtype=bool)
    for guess in guesses[np.isfinite(guesses).all(axis=1)]:
        found |= ((rows - guess) ** 2).sum(axis=1) < near
    return found
