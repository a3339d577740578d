"""Direct attack: labels, residuals or anything else that a passive party is told as it is."""

from __future__ import annotations

from dataclasses import replace

from fedtl.inspection.attacks._finding import Finding
from fedtl.inspection.attacks._own import best_number
from fedtl.inspection.attacks._scene import Scene
from fedtl.inspection.attacks._told import RowNumbers

_KNOWN = 20


def direct_attack(scene: Scene) -> list[Finding]:
    """Read labels off single numbers, as the sign of a residual gives them away.

    Parameters
    ----------
    scene : Scene
        The recorded fit.

    Returns
    -------
    list of Finding
        For each passive party, and each field that tells it something of single rows: the AUC of
        one number, which the attacker chooses, with its sign, by 20 rows whose label it knows.
    """
    findings = []
    for party in scene.passive:
        frame = replace(
            scene.against_labels("3", "direct", party),
            metric="AUC of one number",
            knows=f"{_KNOWN} labelled rows",
            chance=0.5,
            margin=0.05,
        )
        told = scene.told_to(party)
        findings += [_direct(scene, replace(frame, source=t.source), t) for t in told]
        if not told:
            findings.append(replace(frame, why="the party is told no number of a single row"))
    return findings


def _direct(scene: Scene, frame: Finding, told: RowNumbers) -> Finding:
    rng = scene.rng(4)
    rows, values = told.averaged()
    kept = scene.labeled(rows)
    rows, values = rows[kept], values[kept]
    positive = scene.labels[rows] == 1
    own = scene.own(frame.attacker, rows)
    return replace(
        frame,
        score=best_number(values, positive, n_known=_KNOWN, rng=rng),
        control=best_number(own, positive, n_known=_KNOWN, rng=rng),
    )
