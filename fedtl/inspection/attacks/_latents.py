"""Latent inversion: a passive party's columns from everything that it told of single rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.linear_model import RidgeCV

from fedtl.inspection.attacks._finding import Estimate, Finding, over_draws
from fedtl.inspection.attacks._scene import Scene
from fedtl.inspection.attacks._told import Batch

_KNOWN = 100
_DRAWS = 10
_PENALTIES = np.logspace(-2, 4, 7)


def latent_inversion_attack(scene: Scene) -> list[Finding]:
    """Learn on a few known rows how latents and scores follow from columns, and turn it round.

    Parameters
    ----------
    scene : Scene
        The recorded fit.

    Returns
    -------
    list of Finding
        For each passive party the share of the variance of its columns that a ridge regression
        recovers on other rows: of all columns, and of the one about which most is learnt beyond the
        control. The attacker uses what it was told with its own columns and without them; the
        control is its own columns alone. In use, it has predictions of the same rows.
    """
    findings = []
    for party in scene.passive:
        frame = replace(
            scene.against_columns("5b", "latent inversion", party),
            metric="variance recovered",
            knows=f"{_KNOWN} rows of the party",
            chance=0.0,
            margin=0.3,
            against="control",
        )
        told = _told(scene, party)
        rows = np.unique(
            np.concatenate([np.empty(0, dtype=np.int64), *[r for r, _ in told.values()]])
        )
        if party not in scene.columns:
            findings.append(replace(frame, why="the party's columns are not at hand"))
        elif not told:
            silent = replace(frame, why="the party tells no number of a single row")
            findings += _with_predictions(scene, [silent])
        elif len(rows) < 2 * _KNOWN:
            why = f"it takes {2 * _KNOWN} rows, the party tells of {len(rows)}"
            findings.append(replace(frame, why=why))
        else:
            findings += _with_predictions(scene, _invert(scene, frame, rows, told))
    return findings


def _with_predictions(scene: Scene, findings: list[Finding]) -> list[Finding]:
    """Add what predictions of the same rows would tell."""
    predicted = scene.predictions(findings[0].victim)
    if predicted is None or len(predicted[0]) < 2 * _KNOWN:
        return findings
    told = _invert(scene, findings[0], predicted[0], {"predictions": predicted})
    whole, worst = (replace(each, in_use=each.score) for each in told)
    if not findings[0].applies:
        silent = Estimate(np.nan)
        return [replace(each, score=silent, control=silent, source="") for each in (whole, worst)]
    return [replace(f, in_use=w.score) for f, w in zip(findings, (whole, worst), strict=True)]


def _told(scene: Scene, party: str) -> dict[str, Batch]:
    """What the active party knows of rows, by source: messages, and what it opened."""
    told = {each.source: each.averaged() for each in scene.told_by(party)}
    return told | scene.scores_opened(party)


def _side_by_side(rows: np.ndarray, told: dict[str, Batch]) -> dict[str, np.ndarray]:
    """Numbers of these rows, zero where there are none: of each source, and of all together."""
    parts = {}
    for source, (about, values) in told.items():
        parts[source] = np.zeros((len(rows), values.shape[1]))
        parts[source][np.searchsorted(rows, about)] = values
    if len(parts) > 1:
        parts["all messages"] = np.hstack(list(parts.values()))
    return parts


def _invert(
    scene: Scene, frame: Finding, rows: np.ndarray, told: dict[str, Batch]
) -> list[Finding]:
    rng = scene.rng(8)
    truth, own = scene.own(frame.victim, rows), scene.own(frame.attacker, rows)
    assert truth is not None
    knowledge = _side_by_side(rows, told)
    if own is not None and own.size:
        knowledge |= {f"{n}, own columns": np.hstack([own, v]) for n, v in knowledge.items()}
    r2 = {name: np.empty((_DRAWS, truth.shape[1])) for name in [*knowledge, ""]}
    whole: dict[str, list[float]] = {name: [] for name in r2}
    for draw in range(_DRAWS):
        order = rng.permutation(len(rows))
        known, others = order[:_KNOWN], order[_KNOWN:]
        spread = ((truth[others] - truth[known].mean(axis=0)) ** 2).sum(axis=0)
        for name, found in r2.items():
            values = knowledge.get(name, own)
            error = spread if values is None else _errors(values, truth, known, others)
            found[draw] = 1.0 - error / np.where(spread > 0, spread, np.inf)
            whole[name].append(float(1.0 - error.sum() / spread.sum()))
    best = max(knowledge, key=lambda name: float(np.mean(whole[name])))
    # A ridge regression of a column that it cannot tell does a little worse than the mean.
    control = np.maximum(r2[""].mean(axis=0), 0.0)
    gained = {name: r2[name].mean(axis=0) - control for name in knowledge}
    most = max(knowledge, key=lambda name: float(gained[name].max()))
    column = int(gained[most].argmax())
    return [
        replace(
            frame,
            source=best,
            score=over_draws(whole[best]),
            control=over_draws(whole[""]),
        ),
        replace(
            frame,
            attack=f"{frame.attack}, worst column",
            source=most,
            metric=f"{frame.metric}, {scene.own_names(frame.victim, rows)[column]}",
            score=over_draws(r2[most][:, column].tolist()),
            control=over_draws(r2[""][:, column].tolist()),
        ),
    ]


def _errors(
    values: np.ndarray, truth: np.ndarray, known: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Squared errors of each column on other rows, after a ridge regression on known ones."""
    mean, scale = values[known].mean(axis=0), values[known].std(axis=0)
    # A number that is the same in all known rows, but for rounding, says nothing.
    inputs = np.where(scale > 1e-9 * np.abs(mean), (values - mean) / np.maximum(scale, 1e-300), 0.0)
    model = RidgeCV(_PENALTIES, alpha_per_target=True).fit(inputs[known], truth[known])
    return np.asarray(((model.predict(inputs[others]) - truth[others]) ** 2).sum(axis=0))
