"""Direct attack: labels, residuals or anything else that a passive party is told as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedtl.inspection.attacks._finding import Estimate, Finding, auc, over_draws
from fedtl.inspection.attacks._scene import Scene
from fedtl.inspection.attacks._told import RowNumbers

_KNOWN = 20
_DRAWS = 50


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
        score=_best_number(values, positive, rng),
        control=_best_number(own, positive, rng),
    )


def _best_number(
    values: np.ndarray | None, positive: np.ndarray, rng: np.random.Generator
) -> Estimate:
    """Choose a number and its sign on a few known rows, and score the others with it."""
    if values is None or not values.size or min(positive.sum(), (~positive).sum()) <= _KNOWN // 2:
        return Estimate(np.nan)
    found = []
    for _ in range(_DRAWS):
        known = np.concatenate(
            [
                rng.choice(np.flatnonzero(c), _KNOWN // 2, replace=False)
                for c in (positive, ~positive)
            ]
        )
        others = np.setdiff1d(np.arange(len(values)), known)
        others = rng.choice(others, len(others))
        areas = auc(positive[known], values[known])
        best = int(np.abs(areas - 0.5).argmax())
        sign = 1.0 if areas[best] >= 0.5 else -1.0
        found.append(float(auc(positive[others], sign * values[others, best])))
    return over_draws(found)
