"""Equality solving: a passive party's columns from scores whose coefficients are known.

X. Luo, Y. Wu, X. Xiao, B. C. Ooi. Feature inference attack on model predictions in vertical
federated learning. ICDE 2021. There the active party knows the passive party's coefficients; so it
does in the moments solver, since it has solved for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedtl.inspection.attacks._finding import Finding, over_rows
from fedtl.inspection.attacks._scene import Scene

_EQUAL = 1e-9


def equality_attack(scene: Scene) -> list[Finding]:
    """Solve for each row's encoded columns what its scores say of them.

    Parameters
    ----------
    scene : Scene
        The recorded fit.

    Returns
    -------
    list of Finding
        For each passive party the share of the variance of its encoded columns that is recovered:
        by the shortest solution, as in the paper, and by the likeliest one given the sums of
        products, which the active party has as well. The mean guess is zero.
    """
    findings = []
    for party in scene.passive:
        frame = replace(
            scene.against_columns("5", "equality solving", party),
            metric="variance recovered",
            chance=0.0,
            margin=0.1,
            source="moments.scores, moments.sums",
        )
        scores = scene.transcript.openings(party, "moments.scores")
        sums = scene.transcript.openings(party, "moments.sums")
        if not scores or not sums:
            why = "no scores of coefficients that the active party knows were told"
            findings.append(replace(frame, why=why))
        elif party not in scene.encoded:
            findings.append(replace(frame, why="the party's columns are not at hand"))
        else:
            findings += _solve(scene, frame, scores, _moments(sums))
    return findings


@dataclass(frozen=True, eq=False)
class _Sums:
    mean: np.ndarray
    covariance: np.ndarray


def _moments(sums: list[dict[str, np.ndarray]]) -> _Sums:
    """Mean and covariance of the party's encoded columns, from the sums over most rows."""
    gram = max((each["gram"].sum(axis=0) for each in sums), key=lambda total: total[0, 0])
    gram = gram / gram[0, 0]
    return _Sums(gram[0, 1:], gram[1:, 1:] - np.outer(gram[0, 1:], gram[0, 1:]))


def _solve(
    scene: Scene, frame: Finding, scores: list[dict[str, np.ndarray]], sums: _Sums
) -> list[Finding]:
    rng, truth = scene.rng(7), scene.encoded[frame.victim]
    identity = np.eye(len(sums.mean))
    findings = []
    for attack, prior in (("", identity), (" with sums", sums.covariance)):
        rows, solved = _solutions(scores, sums.mean, prior)
        error = (solved - truth[rows]) ** 2
        spread = (sums.mean - truth[rows]) ** 2

        def recovered(
            i: np.ndarray, error: np.ndarray = error, spread: np.ndarray = spread
        ) -> float:
            return float(1.0 - error[i].sum() / spread[i].sum())

        findings.append(
            replace(frame, attack=frame.attack + attack, score=over_rows(recovered, len(rows), rng))
        )
    return findings


def _solutions(
    scores: list[dict[str, np.ndarray]], mean: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and for each the likeliest columns given its scores: (n_rows, width).

    Rows that were scored by the same models are solved at once.
    """
    rows = np.unique(np.concatenate([each["rows"] for each in scores]))
    models = np.full((len(rows), len(scores)), -1)
    places = []
    for i, each in enumerate(scores):
        place = np.searchsorted(rows, each["rows"])
        models[place, i] = each["folds"]
        at = np.zeros(len(rows), dtype=np.int64)
        at[place] = np.arange(len(place))
        places.append(at)
    solved = np.empty((len(rows), len(mean)))
    patterns, which = np.unique(models, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        inside = np.flatnonzero(which == number)
        used = [i for i, fold in enumerate(pattern) if fold >= 0]
        coefficients = np.hstack([scores[i]["held_out"][pattern[i]] for i in used])
        told = np.hstack([scores[i]["scores"][places[i][inside]] for i in used])
        slopes = coefficients[1:]
        unexplained = told - coefficients[0] - mean @ slopes
        within = slopes.T @ prior @ slopes
        within += _EQUAL * max(float(np.trace(within)), 1e-300) * np.eye(len(within))
        solved[inside] = mean + unexplained @ np.linalg.solve(within, slopes.T @ prior)
    return rows, solved
