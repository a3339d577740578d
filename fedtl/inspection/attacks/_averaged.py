"""Averaged attacks: what a party is told of a row all through the training, taken together.

Noise that protects one message averages out over many; these attackers wait until the end.
"""

from __future__ import annotations

from dataclasses import replace

from fedtl.inspection.attacks._finding import Finding
from fedtl.inspection.attacks._gradients import NO_BATCHES, batched
from fedtl.inspection.attacks._own import first_component, known_positives
from fedtl.inspection.attacks._scene import Scene
from fedtl.inspection.attacks._told import RowNumbers

_KNOWN = 5


def averaged_attack(scene: Scene) -> list[Finding]:
    """Average a row's gradients over the training; take their first component, or compare.

    Parameters
    ----------
    scene : Scene
        The recorded fit.

    Returns
    -------
    list of Finding
        For each passive party two: the AUC of the first principal component, up to its sign,
        without any known label, and that of the likeness to five known positive rows.
    """
    findings = []
    for party in scene.passive:
        told = batched(scene, party)
        for each in told:
            findings += _attack(scene, party, each)
        if not told:
            findings.append(scene.against_labels("2b", "averaged", party, NO_BATCHES))
    return findings


def _attack(scene: Scene, party: str, told: RowNumbers) -> list[Finding]:
    rng = scene.rng(3)
    rows, values = told.averaged(scaled=True)
    kept = scene.labeled(rows)
    rows, values = rows[kept], values[kept]
    positive, own = scene.labels[rows] == 1, scene.own(party, rows)
    frame = replace(
        scene.against_labels("2b", "averaged, first component", party),
        metric="AUC up to sign",
        source=told.source,
        chance=0.5,
        margin=0.05,
        against="control",
    )
    alone = replace(
        frame,
        score=first_component(values, positive, rng),
        control=first_component(own, positive, rng),
    )
    helped = replace(
        frame,
        attack=f"averaged, {_KNOWN} known rows",
        metric="AUC",
        knows=f"{_KNOWN} positive rows",
        score=known_positives(values, positive, n_known=_KNOWN, rng=rng),
        control=known_positives(own, positive, n_known=_KNOWN, rng=rng),
    )
    return [alone, helped]
