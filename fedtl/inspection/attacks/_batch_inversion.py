"""Batch inversion: labels from the gradient of a whole mini-batch, all that encryption leaves.

Where gradients of single rows are encrypted, a party still gets the gradient of its own layer, a
sum over the rows of a batch. It knows their inputs, so the sum is a system of linear equations in
the rows' gradients. A layer that was trained in one step from zero is such a sum itself.

Y. Liu, T. Zou, Y. Kang, W. Liu, Y. He, Z. Yi, Q. Yang. Batch label inference and replacement
attacks in black-boxed vertical federated learning. arXiv:2112.05409, 2021. Theirs fits labels and
logits by descent; solving for the rows' gradients first does the same to a linear layer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedtl.inspection.attacks._finding import Estimate, Finding
from fedtl.inspection.attacks._own import best_number, known_positives
from fedtl.inspection.attacks._scene import Scene
from fedtl.inspection.attacks._told import RowNumbers

KIND = "latent.layer_gradient"
"""What a protocol calls the numbers that a passive party knows after it has updated a layer on a
batch: ``rows`` (n,), ``inputs`` (n, width) and ``gradient`` (width, k)."""

_KNOWN = 20
_POSITIVES = 5


def batch_inversion_attack(scene: Scene) -> list[Finding]:
    """Solve for the gradients of the rows of each batch, and attack them like gradients.

    Parameters
    ----------
    scene : Scene
        The recorded fit.

    Returns
    -------
    list of Finding
        For each passive party the AUC of averaged solutions: of one number, chosen with its sign on
        20 known rows, or of the likeness to five known positive rows, whichever is better.
    """
    findings = []
    for party in scene.passive:
        frame = replace(
            scene.against_labels("3b", "batch inversion", party),
            metric="AUC",
            knows=f"{_KNOWN} labelled rows",
            chance=0.5,
            margin=0.05,
            against="control",
            source=KIND,
        )
        known = scene.transcript.openings(party, KIND, holder=party)
        if known:
            findings.append(_invert(scene, frame, known))
        else:
            why = "no gradient of a batch is told; it takes the place of rows' under encryption"
            findings.append(replace(frame, why=why))
    return findings


def _invert(scene: Scene, frame: Finding, known: list[dict[str, np.ndarray]]) -> Finding:
    rng = scene.rng(6)
    told = RowNumbers(KIND)
    for batch in known:
        solved, *_ = np.linalg.lstsq(batch["inputs"].T, batch["gradient"], rcond=1e-6)
        told.batches.append((batch["rows"].astype(np.int64), solved))
    rows, values = told.averaged(scaled=True)
    kept = scene.labeled(rows)
    rows, values = rows[kept], values[kept]
    positive, own = scene.labels[rows] == 1, scene.own(frame.attacker, rows)
    return replace(frame, score=_best(values, positive, rng), control=_best(own, positive, rng))


def _best(values: np.ndarray | None, positive: np.ndarray, rng: np.random.Generator) -> Estimate:
    found = [
        known_positives(values, positive, n_known=_POSITIVES, rng=rng),
        best_number(values, positive, n_known=_KNOWN, rng=rng),
    ]
    return max(found, key=lambda estimate: np.nan_to_num(estimate.value))
