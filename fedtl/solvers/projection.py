"""A shared latent space without labels: parties agree on shared rows, each rebuilds its own.

The joint loss is Barlow Twins' [1]_: on shared rows, the latents of two parties should correlate
component by component, and different components should not. Each party's local reconstruction
keeps what is in its own rows.

References
----------
.. [1] J. Zbontar, L. Jing, I. Misra, Y. LeCun, S. Deny. Barlow Twins: self-supervised learning
   via redundancy reduction. ICML 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from fedtl.parties import Session
from fedtl.solvers.coalition import Coalition, look_up
from fedtl.solvers.latent import (
    LatentModel,
    StepHook,
    Training,
    plan_sampling,
    train,
    training_latents,
)
from fedtl.solvers.transfer import Settings

_REDUNDANCY = 0.02
_FEWEST_ROWS = 8


@dataclass(eq=False)
class ProjectionModel:
    """The active party's part of a fitted projection.

    Parameters
    ----------
    name : str
        Name of the session at all parties.
    session : Session
        The active party's features.
    latent : LatentModel
        Its encoder.
    mean, scale : ndarray of shape (n_parties, n_components), dtype float64
        Of each party's latents over the training rows that it shares.
    """

    name: str
    session: Session
    latent: LatentModel
    mean: np.ndarray
    scale: np.ndarray

    def project(self, coalition: Coalition) -> tuple[np.ndarray, np.ndarray]:
        """Project the rows of the coalition's table.

        Parameters
        ----------
        coalition : Coalition
            The parties, with new rows.

        Returns
        -------
        latents : ndarray of shape (n_rows, n_components), dtype float64
            Mean of the standardised latents of the parties that know a row; zero if none does.
        known : ndarray of shape (n_rows, n_parties), dtype bool
            Who knows which row.
        """
        rows = look_up(coalition, scores=False, latents=True)
        latents = rows.latents(self.session, self.latent.encoder)[0]
        standardised = (latents - self.mean) / self.scale * rows.known[:, :, None]
        n_known = np.maximum(rows.known.sum(axis=1), 1)
        return standardised.sum(axis=1) / n_known[:, None], rows.known


class AlignmentObjective:
    """Barlow Twins' loss between the latents of every two parties.

    Parameters
    ----------
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which row.
    weight : float
        Weight of the loss beside the parties' reconstruction.
    """

    def __init__(self, known: np.ndarray, weight: float) -> None:
        self.known, self.weight = torch.from_numpy(known), weight

    def __call__(self, latents: torch.Tensor, batch: np.ndarray) -> torch.Tensor:
        """Return the loss of a mini-batch, the mean over pairs of parties."""
        known = self.known[torch.from_numpy(batch)]
        losses = [latents.sum() * 0.0]
        for p, q in combinations(range(known.shape[1]), 2):
            shared = known[:, p] & known[:, q]
            if shared.sum() >= _FEWEST_ROWS:
                losses.append(barlow_twins(latents[0, shared, p], latents[0, shared, q]))
        return self.weight * torch.stack(losses).sum() / max(len(losses) - 1, 1)


def barlow_twins(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the redundancy-reduction loss of two views, each of shape (n_rows, n_components)."""
    a = (a - a.mean(0)) / (a.std(0) + 1e-3)
    b = (b - b.mean(0)) / (b.std(0) + 1e-3)
    correlation = a.T @ b / len(a)
    diagonal = torch.diagonal(correlation)
    off_diagonal = (correlation**2).sum() - (diagonal**2).sum()
    return torch.as_tensor(((1.0 - diagonal) ** 2).sum() + _REDUNDANCY * off_diagonal)


def fit_projection(
    coalition: Coalition,
    known: np.ndarray,
    settings: Settings,
    *,
    alignment: float,
    seed: int,
    on_step: StepHook,
) -> ProjectionModel:
    """Train the encoders of all parties without labels.

    Parameters
    ----------
    coalition : Coalition
        The parties, whose rows are encoded.
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which row.
    settings : Settings
        Sizes.
    alignment : float
        Weight of the agreement on shared rows.
    seed : int
        Seed.
    on_step : callable
        Called after each exchange.

    Returns
    -------
    ProjectionModel
        The model.
    """
    joint = np.flatnonzero(known.sum(axis=1) > 1)
    rows = joint if len(joint) else np.flatnonzero(known.any(axis=1))
    training = Training(
        known=known,
        sampling=plan_sampling(known, rows, settings.batch_size),
        plan=settings.plan(members=1),
        objective=AlignmentObjective(known, alignment),
        head=None,
        task="projection",
        seed=seed,
    )
    latent = train(coalition, training, None, on_step)
    latents = training_latents(coalition, latent, known, rows)[0]
    mean, scale = np.zeros(latents.shape[1:]), np.ones(latents.shape[1:])
    for party in range(known.shape[1]):
        own = latents[known[rows, party], party]
        if len(own):
            mean[party] = own.mean(axis=0)
            scale[party] = np.where(own.std(axis=0) > 1e-9, own.std(axis=0), 1.0)
    coalition.end()
    return ProjectionModel(coalition.name, coalition.session, latent, mean, scale)
