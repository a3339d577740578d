"""Model completion: a passive party puts a head of its own on the part of the model that it has.

C. Fu, X. Zhang, S. Ji, J. Chen, J. Wu, S. Guo, J. Zhou, A. X. Liu, T. Wang. Label inference attacks
against vertical federated learning. USENIX Security 2022. The passive attack; the active one, which
boosts the party's learning rate, deviates from the protocol.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading

from fedtl.inspection.attacks._finding import Estimate, Finding, auc, over_draws
from fedtl.inspection.attacks._scene import Scene

_KNOWN = 40
_DRAWS = 10
_MOST_ROWS = 1500


def completion_attack(scene: Scene) -> list[Finding]:
    """Complete the party's own part of the model with a few labels.

    Parameters
    ----------
    scene : Scene
        The recorded fit.

    Returns
    -------
    list of Finding
        For each passive party: the AUC on the other rows of the better of a logistic regression and
        label spreading on 40 labelled rows, from what the party's own part of the model puts out.
        The control is the same from its columns; in use, it is from what that part says of rows
        that it was not trained on.
    """
    findings = []
    for party in scene.passive:
        frame = replace(
            scene.against_labels("4", "model completion", party),
            metric="AUC",
            knows=f"{_KNOWN} labelled rows",
            chance=0.5,
            margin=0.02,
            against="control",
        )
        parts = _parts(scene, party)
        if party not in scene.columns:
            findings.append(replace(frame, why="the party's columns are not at hand"))
        elif not parts:
            findings.append(replace(frame, why="the party is given no part of a model"))
        for source, rows, values in parts if party in scene.columns else []:
            findings.append(_complete(scene, replace(frame, source=source), rows, values))
    return findings


def _parts(scene: Scene, party: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """What the party can compute of rows: scores by what it was told or opened, latents it sent."""
    found = []
    encoded = scene.encoded.get(party)
    for kind, coefficients in scene.kept_coefficients(party).items():
        if encoded is not None:
            rows = np.flatnonzero(~np.isnan(encoded).any(axis=1))
            found.append((f"{kind}: coefficients", rows, encoded[rows] @ coefficients[1:]))
    for told in scene.told_by(party):
        if told.source.startswith("latent.encoded/"):
            found.append((told.source, *told.averaged()))
    opened = scene.scores_opened(party, holder=party)
    return found + [(source, rows, scores) for source, (rows, scores) in opened.items()]


def _complete(scene: Scene, frame: Finding, rows: np.ndarray, values: np.ndarray) -> Finding:
    rng = scene.rng(5)
    kept = np.flatnonzero(scene.labeled(rows))
    if len(kept) > _MOST_ROWS:
        kept = np.sort(rng.choice(kept, _MOST_ROWS, replace=False))
    rows, values = rows[kept], values[kept]
    positive, own = scene.labels[rows] == 1, scene.own(frame.attacker, rows)
    if min(positive.sum(), (~positive).sum()) < _KNOWN or own is None:
        return replace(frame, why=f"fewer than {_KNOWN} rows of a class are labelled")
    draws = [_draw(positive, rng) for _ in range(_DRAWS)]
    unseen, in_use = scene.held_out(frame.attacker), Estimate(np.nan)
    if unseen is not None and np.isin(rows, unseen[0]).all():
        order = np.argsort(unseen[0])
        place = order[np.searchsorted(unseen[0], rows, sorter=order)]
        in_use = _attack(unseen[1][place], positive, draws)
    return replace(
        frame,
        score=_attack(values, positive, draws),
        control=_attack(own, positive, draws),
        in_use=in_use,
    )


def _draw(positive: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the rows whose labels are known: as many of either class."""
    return np.concatenate(
        [rng.choice(np.flatnonzero(c), _KNOWN // 2, replace=False) for c in (positive, ~positive)]
    )


def _attack(values: np.ndarray, positive: np.ndarray, draws: list[np.ndarray]) -> Estimate:
    values = values - values.mean(axis=0)
    values = values / np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
    regressed, spread = [], []
    for known in draws:
        others = np.setdiff1d(np.arange(len(values)), known)
        marks = np.full(len(values), -1)
        marks[known] = positive[known]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(max_iter=500).fit(values[known], positive[known])
            graph = LabelSpreading(kernel="knn", n_neighbors=10, alpha=0.5).fit(values, marks)
        regressed.append(float(auc(positive[others], model.decision_function(values[others]))))
        spread.append(float(auc(positive[others], graph.label_distributions_[others, 1])))
    return over_draws(max(regressed, spread, key=np.mean))
