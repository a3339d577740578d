"""Brute force on ids: hash every id that there could be, and look for the hash in what crossed.

Names, telephone numbers and the like are few enough to be enumerated, so that hashes of ids are no
protection. Blinded ids cannot be tested offline; what is left is asking, which a policy bounds.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from fedtl.alignment import hash_to_group, label, multiply, random_scalar
from fedtl.inspection.attacks._finding import Estimate, Finding
from fedtl.inspection.attacks._scene import Scene

_GUESSES = 1e9
_TIMED = 256


def intersection_attack(scene: Scene) -> list[Finding]:
    """Look for the hashes of ids, and count the guesses that a policy leaves.

    Parameters
    ----------
    scene : Scene
        The recorded fit.

    Returns
    -------
    list of Finding
        For each passive party three: the share of the active party's ids that it recognises in what
        it was sent, given the right dictionary; the same for the tags of its own ids; and how many
        more ids may be asked about than were declared, as a share of those. With it, the hours that
        a thousand million guesses take here.
    """
    findings = []
    for party in scene.passive:
        on_active = replace(
            scene.against_labels("8", "ids, offline", party),
            target="ids",
            metric="share recognised",
            knows="every id that there could be",
            chance=0.0,
            margin=0.0,
        )
        on_passive = replace(on_active, attacker=scene.active, victim=party)
        asking = replace(
            on_passive, attack="ids, by asking", metric="guesses beyond those declared"
        )
        sent, came = _points(scene, party)
        if not len(sent):
            why = "no ids crossed: rows were matched by their position, or had been before"
            findings += [replace(f, why=why) for f in (on_active, on_passive, asking)]
            continue
        guessed = hash_to_group(list(scene.ids), 1)
        tags, _ = label(guessed)
        on_active = replace(on_active, source="alignment.blind/1: points")
        on_passive = replace(on_passive, source="alignment.tag_list/1: tags")
        findings += [
            replace(on_active, score=_recognised(sent, guessed)),
            replace(on_passive, score=_recognised(came, tags)),
            _asking(scene, asking, party, len(sent)),
        ]
    return findings


def _points(scene: Scene, party: str) -> tuple[np.ndarray, np.ndarray]:
    """Return blinded ids that a party was sent, and tags that it sent."""
    sent, came = [np.empty((0, 32), np.uint8)], [np.empty((0, 16), np.uint8)]
    for crossing in scene.transcript.with_party(party):
        message = crossing.message
        if message.kind.startswith("alignment.blind/"):
            sent.append(message.points)  # type: ignore[attr-defined]
        elif message.kind.startswith("alignment.tag_list/"):
            came.append(message.tags)  # type: ignore[attr-defined]
    return np.concatenate(sent), np.concatenate(came)


def _recognised(seen: np.ndarray, guessed: np.ndarray) -> Estimate:
    known = {row.tobytes() for row in guessed}
    return Estimate(float(np.mean([row.tobytes() in known for row in seen])) if len(seen) else 0.0)


def _asking(scene: Scene, frame: Finding, party: str, n_declared: int) -> Finding:
    if party not in scene.most_ids:
        return replace(
            frame,
            why=f"{party} alone knows how many ids its policy lets others ask about; asking about "
            f"{_GUESSES:.0e} takes {_hours():,.0f} hours here",
        )
    most = scene.most_ids[party]
    beyond = np.inf if most is None else max(most / n_declared - 1.0, 0.0)
    metric = f"{frame.metric}; {_GUESSES:.0e} take {_hours():,.0f} hours here"
    return replace(frame, metric=metric, score=Estimate(beyond), margin=0.5)


def _hours() -> float:
    """Measure what a guess costs who asks and who answers, on one core."""
    ids = [b"%011d" % i for i in range(_TIMED)]
    begun = time.perf_counter()
    multiply(random_scalar(), hash_to_group(ids, 1), 1)
    return _GUESSES * (time.perf_counter() - begun) / _TIMED / 3600.0
