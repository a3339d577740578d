"""Norm and cosine attacks on what a passive party is told of the rows of each mini-batch.

O. Li, J. Sun, X. Yang, W. Gao, H. Zhang, J. Xie, V. Smith, C. Wang. Label leakage and protection
in two-party split learning. ICLR 2022.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import rankdata

from fedtl.inspection.attacks._finding import N_RESAMPLES, Estimate, Finding, auc, over_draws
from fedtl.inspection.attacks._own import cosine, first_component, known_positives
from fedtl.inspection.attacks._scene import Scene
from fedtl.inspection.attacks._told import Batch, RowNumbers

LEAST_BATCHES = 5
NO_BATCHES = "the party is told nothing of single rows batch by batch"
_TENTHS = 10


def batched(scene: Scene, party: str) -> list[RowNumbers]:
    """Return what a party is told of rows again and again, as joint training does."""
    return [told for told in scene.told_to(party) if len(told.batches) >= LEAST_BATCHES]


def norm_attack(scene: Scene) -> list[Finding]:
    """Rows of the rarer class have the longer gradients.

    Parameters
    ----------
    scene : Scene
        The recorded fit.

    Returns
    -------
    list of Finding
        For each passive party: the AUC of norms within a batch, its median over a tenth of the
        training, the largest of the ten. Chance is the same with labels shuffled.
    """
    findings = []
    for party in scene.passive:
        frame = scene.against_labels("1", "norm", party)
        told = batched(scene, party)
        findings += [_norm(scene, replace(frame, source=t.source), t) for t in told]
        findings += [] if told else [replace(frame, why=NO_BATCHES)]
    return findings


def _norm(scene: Scene, frame: Finding, told: RowNumbers) -> Finding:
    rng = scene.rng(1)
    batches = [(rows, rankdata(np.linalg.norm(v, axis=1))) for rows, v in _labeled(scene, told)]
    areas = _areas(scene.labels, batches)
    per_tenth = np.array_split(areas, min(_TENTHS, len(areas)))
    drawn = [
        max(np.median(rng.choice(tenth, len(tenth))) for tenth in per_tenth)
        for _ in range(N_RESAMPLES)
    ]
    shuffled = []
    rows = np.flatnonzero(~np.isnan(scene.labels))
    for _ in range(20):
        labels = scene.labels.copy()
        labels[rows] = rng.permutation(labels[rows])
        tenths = np.array_split(_areas(labels, batches), len(per_tenth))
        shuffled.append(max(np.median(tenth) for tenth in tenths))
    own = scene.own(frame.attacker, rows)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return replace(
        frame,
        metric=f"AUC in the worst tenth of the training (median {np.median(areas):.2f})",
        score=Estimate(float(max(np.median(t) for t in per_tenth)), float(low), float(high)),
        control=first_component(own, scene.labels[rows] == 1, rng),
        chance=float(np.mean(shuffled)),
        margin=0.1,
    )


def _areas(labels: np.ndarray, batches: list[Batch]) -> np.ndarray:
    """Area under the curve of ranks in each batch, those with one class left out."""
    areas = []
    for rows, ranks in batches:
        positive = labels[rows] == 1
        n, n_positive = len(rows), int(positive.sum())
        if 0 < n_positive < n:
            above = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
            areas.append(above / (n_positive * (n - n_positive)))
    return np.array(areas) if areas else np.array([0.5])


def cosine_attack(scene: Scene) -> list[Finding]:
    """Rows of one class have gradients of one direction: that of a row whose label is known.

    Parameters
    ----------
    scene : Scene
        The recorded fit.

    Returns
    -------
    list of Finding
        For each passive party: the AUC of the cosine to a known positive of the same batch, which
        is left out itself; the median over batches.
    """
    findings = []
    for party in scene.passive:
        frame = scene.against_labels("2", "cosine", party)
        frame = replace(frame, knows="one positive row of each batch")
        told = batched(scene, party)
        findings += [_cosine(scene, replace(frame, source=t.source), t) for t in told]
        findings += [] if told else [replace(frame, why=NO_BATCHES)]
    return findings


def _cosine(scene: Scene, frame: Finding, told: RowNumbers) -> Finding:
    rng, areas = scene.rng(2), []
    for rows, values in _labeled(scene, told):
        positive = scene.labels[rows] == 1
        if not positive.any():
            continue
        known = rng.choice(np.flatnonzero(positive))
        others = rows != rows[known]
        scores = cosine(values[others], values[known])
        areas.append(float(auc(positive[others], scores)))
    found = np.array([a for a in areas if np.isfinite(a)] or [0.5])
    drawn = [np.median(rng.choice(found, len(found))) for _ in range(N_RESAMPLES)]
    every = np.flatnonzero(~np.isnan(scene.labels))
    return replace(
        frame,
        metric="AUC in a batch, median",
        score=replace(over_draws(drawn), value=float(np.median(found))),
        control=known_positives(
            scene.own(frame.attacker, every), scene.labels[every] == 1, n_known=1, rng=rng
        ),
        chance=0.5,
        margin=0.05,
    )


def _labeled(scene: Scene, told: RowNumbers) -> list[Batch]:
    """Return the batches without rows that have no label."""
    batches = []
    for rows, values in told.batches:
        kept = scene.labeled(rows)
        batches.append((rows[kept], values[kept]))
    return batches
