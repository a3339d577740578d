"""Attacks on what crossed in a fit, one file each; run by :func:`fedtl.inspection.leakage_report`.

An attack is a function of a :class:`Scene` that returns a list of :class:`Finding`. It looks at the
messages of the transcript by what their schemas declare, and at what protocols say they opened, so
that a protocol with messages of its own is attacked without a change here.
"""

from fedtl.inspection.attacks._averaged import averaged_attack
from fedtl.inspection.attacks._batch_inversion import batch_inversion_attack
from fedtl.inspection.attacks._completion import completion_attack
from fedtl.inspection.attacks._direct import direct_attack
from fedtl.inspection.attacks._equality import equality_attack
from fedtl.inspection.attacks._finding import Estimate, Finding
from fedtl.inspection.attacks._gradients import cosine_attack, norm_attack
from fedtl.inspection.attacks._intersection import intersection_attack
from fedtl.inspection.attacks._latents import latent_inversion_attack
from fedtl.inspection.attacks._membership import membership_attack
from fedtl.inspection.attacks._scene import Scene
from fedtl.inspection.attacks._updates import RowwiseScene, update_inversion_attack

ATTACKS = (
    norm_attack,
    cosine_attack,
    averaged_attack,
    direct_attack,
    batch_inversion_attack,
    completion_attack,
    equality_attack,
    latent_inversion_attack,
    intersection_attack,
)
"""The attacks on a fit of parties with different columns."""

__all__ = [
    "ATTACKS",
    "Estimate",
    "Finding",
    "RowwiseScene",
    "Scene",
    "averaged_attack",
    "batch_inversion_attack",
    "completion_attack",
    "cosine_attack",
    "direct_attack",
    "equality_attack",
    "intersection_attack",
    "latent_inversion_attack",
    "membership_attack",
    "norm_attack",
    "update_inversion_attack",
]
