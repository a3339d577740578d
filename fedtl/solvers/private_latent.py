"""The latent solver on noisy latents: layers and networks that the active party trains by itself.

Of another party it has noisy latents of each training row (:mod:`fedtl.protocols.private_latent`),
and noise-free ones of new rows. A layer that was trained on the first as they are would be far too
cautious for the second, and what both parties know would be counted twice. So the layer is trained
on what a row's latents are expected to be, given the noisy ones and the active party's own score:
regression calibration [1]_. The noise is known, and so are second moments of the latents.

The networks are those of :mod:`fedtl.solvers.shared_latent`, trained beside held-out scores of
these layers.

References
----------
.. [1] R. J. Carroll, D. Ruppert, L. A. Stefanski, C. M. Crainiceanu. Measurement error in nonlinear
   models. Chapman and Hall, 2006, chapter 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedtl.learning.ridge import Family, moments_of, solve
from fedtl.protocols.predict import Reply
from fedtl.protocols.private_latent import PrivateLatent
from fedtl.solvers.anchor import Anchor
from fedtl.solvers.coalition import Coalition
from fedtl.solvers.latent import StepHook, Training
from fedtl.solvers.problem import ACTIVE, Problem
from fedtl.solvers.shared_latent import SharedLatentModel, log_odds_residual, train_on_scores


@dataclass(frozen=True, eq=False)
class PrivateLatentModel(SharedLatentModel):
    """What the active party keeps of a training on noisy latents.

    Parameters
    ----------
    layers : list of ndarray of shape (1 + n_components, n_outputs), dtype float64
        For each other party, from its latents to scores; the constant first.
    """

    layers: list[np.ndarray]

    def scored(self, party: int, reply: Reply) -> np.ndarray:
        """Score new rows by a party's latents of them, which have no noise."""
        layer = self.layers[party - 1]
        scores = reply.latents[0] @ layer[1:] + layer[0]
        return np.asarray(scores * reply.known[:, None])


def fit_private_latent(
    coalition: Coalition,
    problem: Problem,
    anchor: Anchor,
    training: Training,
    on_step: StepHook,
) -> PrivateLatentModel:
    """Train layers on the other parties' noisy latents, and networks beside; nothing is asked.

    Parameters
    ----------
    coalition : Coalition
        The parties, which have told their latents to :class:`PrivateLatent`.
    problem : Problem
        What is to be learnt.
    anchor : Anchor
        The active party's own model.
    training : Training
        Sizes, mini-batches, objective and a :class:`~fedtl.solvers.shared_latent.LayerHead`.
    on_step : callable
        Called after each mini-batch.

    Returns
    -------
    PrivateLatentModel
        The active party's part; the other parties keep their projections.
    """
    exchange = coalition.moments
    assert isinstance(exchange, PrivateLatent)
    given = np.zeros((len(problem.known), problem.n_parties, problem.n_outputs))
    layers = []
    for party, channel in enumerate(coalition.channels, start=1):
        rows, known = problem.rows(party), problem.rows(party, labeled=False)
        latents, second_moments, noise = exchange.told(channel.name, known)
        latents = latents[np.searchsorted(known, rows)]
        expected = np.empty_like(latents)
        for with_own in (False, True):
            inside = problem.known[rows, ACTIVE] == with_own
            own = [np.ones((int(inside.sum()), 1)), anchor.held_out[rows[inside]]]
            expected[inside] = expected_latents(
                latents[inside], second_moments, noise, np.hstack(own[: 1 + with_own])
            )
        layer, given[rows, party] = _train_layer(problem, rows, expected)
        layers.append(layer)
    model = train_on_scores(
        coalition, problem, given, anchor=anchor, training=training, on_step=on_step
    )
    return PrivateLatentModel(**vars(model), layers=layers)


def expected_latents(
    latents: np.ndarray, second_moments: np.ndarray, noise: float, own: np.ndarray
) -> np.ndarray:
    """Return what latents are expected to be, given that they were told with noise.

    Parameters
    ----------
    latents : ndarray of shape (n_rows, n_components), dtype float64
        With noise.
    second_moments : ndarray of shape (n_components, n_components), dtype float64
        Mean products of latents without noise.
    noise : float
        Standard deviation of the noise of each latent.
    own : ndarray of shape (n_rows, n_own), dtype float64
        What else is known of the rows, without noise; a constant one among it.

    Returns
    -------
    ndarray of shape (n_rows, n_components), dtype float64
        The best linear guess: nearer to what `own` says, the more noise there is.
    """
    if not len(latents):
        return latents
    by_own = own @ np.linalg.lstsq(own, latents, rcond=None)[0]
    # What is left of the latents' variance beside their noise, which itself is known.
    left = second_moments - by_own.T @ by_own / len(latents)
    values, vectors = np.linalg.eigh(left)
    values = np.maximum(values, 0.0)
    shrink = (vectors * (values / (values + noise**2))) @ vectors.T
    return np.asarray(by_own + (latents - by_own) @ shrink)


def _train_layer(
    problem: Problem, rows: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer, and the held-out scores of the labelled rows that it was trained on."""
    n, width = problem.n_outputs, expected.shape[1]
    if not len(rows):
        return np.zeros((1 + width, n)), np.empty((0, n))
    residual, folds = log_odds_residual(problem, rows), problem.folds[rows]
    moments = moments_of(expected, residual, folds, problem.weight[rows], problem.n_folds)
    family = Family(np.arange(1, 1 + width), np.zeros((n, n)))
    layer, held_out = solve(moments.centered(), [family], n).with_constant(*moments.means())
    scores = np.einsum("nk,nko->no", expected, held_out[folds, 1:]) + held_out[folds, 0]
    return layer, np.asarray(scores)
