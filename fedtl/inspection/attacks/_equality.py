"""Equality solving: a passive party's columns from scores whose coefficients are known.

X. Luo, Y. Wu, X. Xiao, B. C. Ooi. Feature inference attack on model predictions in vertical
federated learning. ICDE 2021. There the active party knows the passive party's coefficients; so it
does in the moments solver, since it has solved for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedtl.inspection.attacks._finding import Estimate, Finding, over_rows
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
        products, which the active party has as well. The mean guess is zero. In use, it is solved
        for what predictions of the same rows tell.
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
        if not sums:
            why = "no scores of coefficients that the active party knows were told"
            findings.append(replace(frame, why=why))
        elif party not in scene.encoded:
            findings.append(replace(frame, why="the party's columns are not at hand"))
        else:
            findings += _solve(scene, frame, scores, _moments(sums))
    return findings


def _in_use(scene: Scene, party: str) -> list[dict[str, np.ndarray]]:
    """What predictions of all rows would tell."""
    predicted, coefficients = scene.predictions(party), scene.coefficients(party)
    if predicted is None or coefficients is None:
        return []
    rows, scores = predicted
    folds = np.zeros(len(rows), dtype=np.int64)
    return [{"rows": rows, "folds": folds, "held_out": coefficients[None], "scores": scores}]


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
    in_use = _in_use(scene, frame.victim)
    findings = []
    for attack, prior in (
        ("", replace(sums, covariance=np.eye(len(sums.mean)))),
        (" with sums", sums),
    ):
        named = replace(frame, attack=frame.attack + attack)
        if in_use:
            named = replace(named, in_use=_recovered(scene, frame.victim, in_use, prior))
        if scores:
            named = replace(named, score=_recovered(scene, frame.victim, scores, prior))
        else:
            named = replace(named, why="no score of a row was told")
        findings.append(named)
    return findings


def _recovered(
    scene: Scene, party: str, scores: list[dict[str, np.ndarray]], prior: _Sums
) -> Estimate:
    """Share of the variance of encoded columns that the likeliest ones recover."""
    rows, solved = _solutions(scores, prior.mean, prior.covariance)
    truth = scene.encoded[party][rows]
    error, spread = (solved - truth) ** 2, (prior.mean - truth) ** 2

    def recovered(i: np.ndarray) -> float:
        return float(1.0 - error[i].sum() / spread[i].sum())

    return over_rows(recovered, len(rows), scene.rng(7))


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
