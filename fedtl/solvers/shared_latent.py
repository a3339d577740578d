"""The latent solver under protection: a protected layer on each other party's features.

The active party trains an encoder and a head as in :mod:`fedtl.solvers.latent`. Of another party it
has, in place of latents, the scores of a layer on that party's own features, trained on the labels
under secret shares (:mod:`fedtl.protocols.shared_latent`) or encryption
(:mod:`fedtl.protocols.protected_latent`), with the same result. Each row is scored without its own
fold, so that the active party's networks learn how far such scores can be trusted on new rows. Its
steps are all local: one exchange is enough, since features are whitened. Further ones, on the
residuals of the model so far, told more of each row and predicted no better.

Beside these scores stand those of the active party's own model, the anchor, which has learnt from
all rows that it knows, not from shared ones alone. The networks have seen the labels that they are
trained on, the scores have not. So at last all are weighed anew, by a number each, on rows that
none has seen; networks count for nothing there until they prove better than scores. Layers trained
on what the anchor leaves over, as in boosting, predicted worse, by themselves and beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedtl.learning.evidence import Calibration, fit_calibration
from fedtl.learning.network import Head, supervised_loss
from fedtl.learning.training import Schedule, encode
from fedtl.parties import Session
from fedtl.protocols.latent import LocalTraining
from fedtl.protocols.layers import LayerExchange
from fedtl.protocols.predict import Reply, local_latents
from fedtl.protocols.serving import Serving
from fedtl.solvers.anchor import Anchor
from fedtl.solvers.coalition import Coalition, NewRows
from fedtl.solvers.latent import (
    LatentModel,
    StepHook,
    Training,
    party_seed,
    take_steps,
)
from fedtl.solvers.problem import ACTIVE, Problem

_LEAST_VARIANCE = 0.01
_UNEQUAL = 3.0
"""Penalty on weights of scores for leaving their mean, beside a loss summed over rows; one on the
mean for leaving 1. Scores were made alike, but how much they overlap has to be learnt."""


class LayerHead(Head):
    """A head on the active party's latents and, behind them, scores of each party's columns.

    At first it adds these scores to its own.

    Parameters
    ----------
    sizes : tuple of (int, int, int, int)
        Members, components of the active party's latents, parties and outputs.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(self, sizes: tuple[int, int, int, int], generator: torch.Generator) -> None:
        members, n_components, n_parties, n_outputs = sizes
        super().__init__((members, n_components + n_outputs, n_parties, n_outputs), generator)
        self.n_components = n_components
        with torch.no_grad():
            given = self.mlp.skip.weight[:, n_components : n_components + n_outputs]
            given.copy_(torch.eye(n_outputs).expand_as(given))
        self.scale = torch.ones(1 + n_parties)
        self.shift = torch.zeros(n_outputs)

    def forward(
        self, latents: Tensor, mask: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Fuse and map to logits; see :meth:`fedtl.learning.network.Head.forward`."""
        logits = super().forward(latents, mask, generator)
        fused = (mask[..., ACTIVE] & (mask.sum(-1) > 1)).to(logits.dtype)[..., None]
        scale = self.scale.to(logits.dtype)
        given = latents[..., self.n_components :]
        networks, scores = scale[0], mask.to(logits.dtype) * (scale[1:] - scale[0])
        added = torch.einsum("erpo,vrp->evro", given, scores) + self.shift.to(logits.dtype)
        return logits * (1.0 + (networks - 1.0) * fused) + added * fused


@dataclass(frozen=True, eq=False)
class SharedLatentModel(LatentModel):
    """What the active party keeps of a protected joint training.

    Parameters
    ----------
    given : ndarray of shape (n_rows, n_parties, n_outputs), dtype float64
        Held-out scores of training rows by the anchor and the other parties' layers; zero where
        there is none.
    calibration : Calibration or None
        From the anchor's scores to log odds; None for regression.
    servings : list of Serving
        What asks each other party for scores of new rows.
    """

    given: np.ndarray
    calibration: Calibration | None
    servings: list[Serving]

    def see(self, rows: NewRows, session: Session, anchor: np.ndarray) -> np.ndarray:
        """Return latents and scores of new rows; see :meth:`LatentModel.see`."""
        own = local_latents(session, self.encoder, rows.columns, rows.own)
        given = np.zeros((own.shape[1], *self.given.shape[1:]))
        given[rows.own, ACTIVE] = _log_odds(anchor[rows.own], self.calibration)
        for party, reply in enumerate(rows.replies, start=1):
            if reply is not None:
                given[:, party] = self.scored(party, reply)
        return _beside(own, given)

    def scored(self, party: int, reply: Reply) -> np.ndarray:
        """Return the scores of a party's layer for new rows, which nobody can read.

        Parameters
        ----------
        party : int
            The party's number.
        reply : Reply
            What it says of new rows.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs), dtype float64
            Zero where the party does not know the row.
        """
        return reply.scores

    def training_latents(
        self, coalition: Coalition, known: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Return latents and held-out scores of training rows; nothing is asked."""
        session = coalition.session
        assert session.columns is not None
        inside = np.flatnonzero(known[rows, ACTIVE])
        inputs = session.features.latent_input(session.columns, rows[inside])
        encoded = encode(self.encoder, inputs)
        own = np.zeros((len(encoded), len(rows), encoded.shape[2]))
        own[:, inside] = encoded
        return _beside(own, self.given[rows])

    def party_scores(self, latents: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the scores of each party's own part, as logits.

        Parameters
        ----------
        latents : ndarray of shape (members, n_rows, n_parties, n_components + n_outputs)
            From :meth:`see`.
        known : ndarray of shape (n_rows, n_parties), dtype bool
            Who knows which row.

        Returns
        -------
        ndarray of shape (n_rows, n_parties * n_outputs), dtype float64
            Scores; zero where a party does not know a row.
        """
        head = self.head
        assert isinstance(head, LayerHead)
        alone = torch.zeros(1, *known.shape, dtype=torch.bool)
        alone[..., ACTIVE] = True
        with torch.no_grad():
            own = head(torch.from_numpy(latents), alone)[:, 0].mean(dim=0).numpy()
        parts = latents[0, :, :, head.n_components :].copy()
        parts[:, ACTIVE] = own * known[:, [ACTIVE]]
        return np.asarray(parts.reshape(len(known), -1))

    def without_evidence(self) -> SharedLatentModel:
        """Return the model without scores of training rows."""
        return replace(self, given=self.given[:0])


def _beside(own: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Put own latents (m, n, k) and given scores (n, parties, o) into (m, n, parties, k + o)."""
    members, n_rows, k = own.shape
    latents = np.zeros((members, n_rows, given.shape[1], k + given.shape[2]))
    latents[:, :, ACTIVE, :k] = own
    latents[..., k:] = given
    return latents


def _log_odds(scores: np.ndarray, calibration: Calibration | None) -> np.ndarray:
    """Return an anchor's scores as log odds, to which those of other parties can be added."""
    if calibration is None:
        return scores
    return calibration.slope * scores + calibration.intercept


def fit_shared_latent(
    coalition: Coalition,
    problem: Problem,
    exchange: LayerExchange,
    *,
    anchor: Anchor,
    training: Training,
    on_step: StepHook,
) -> SharedLatentModel:
    """Train the layers of all parties, and the active party's networks on their scores.

    Parameters
    ----------
    coalition : Coalition
        The parties, whose rows are encoded.
    problem : Problem
        What is to be learnt.
    exchange : LayerExchange
        What protects the layers.
    anchor : Anchor
        The active party's own model.
    training : Training
        Sizes, mini-batches, objective and a :class:`LayerHead`.
    on_step : callable
        Called after each mini-batch.

    Returns
    -------
    SharedLatentModel
        The active party's part; the other parties keep their layers.
    """
    given = np.zeros((len(problem.known), problem.n_parties, problem.n_outputs))
    servings = []
    for party in range(1, problem.n_parties):
        rows = problem.rows(party)
        given[rows, party], serving = _train_layer(coalition, party, problem, rows, exchange)
        servings.append(serving)
    model = train_on_scores(
        coalition, problem, given, anchor=anchor, training=training, on_step=on_step
    )
    return replace(model, servings=servings)


def train_on_scores(
    coalition: Coalition,
    problem: Problem,
    given: np.ndarray,
    *,
    anchor: Anchor,
    training: Training,
    on_step: StepHook,
) -> SharedLatentModel:
    """Train the active party's networks beside scores of other parties' layers; nothing is asked.

    Parameters
    ----------
    coalition : Coalition
        The parties, whose rows are encoded.
    problem : Problem
        What is to be learnt.
    given : ndarray of shape (n_rows, n_parties, n_outputs), dtype float64
        Held-out scores of training rows by the other parties' layers; zero where there is none.
    anchor : Anchor
        The active party's own model, whose held-out scores stand beside them.
    training : Training
        Sizes, mini-batches, objective and a :class:`LayerHead`.
    on_step : callable
        Called after each mini-batch.

    Returns
    -------
    SharedLatentModel
        The active party's part.
    """
    plan, head = training.plan, training.head
    assert isinstance(head, LayerHead)
    rows, calibration = problem.rows(ACTIVE), None
    if problem.task != "regression":
        classes = problem.order[rows].astype(int)
        calibration = fit_calibration(anchor.held_out[rows], classes, problem.weight[rows])
    given = given.copy()
    given[rows, ACTIVE] = _log_odds(anchor.held_out[rows], calibration)
    scores = torch.from_numpy(given.astype(np.float32))

    def objective(latents: Tensor, batch: np.ndarray) -> Tensor:
        members, others = len(latents), problem.n_parties - 1
        padded = functional.pad(latents, (0, 0, 0, others))
        behind = scores[batch].expand(members, -1, -1, -1)
        return training.objective(torch.cat([padded, behind], dim=3), batch)

    own = LocalTraining(
        coalition.session,
        plan,
        n_local_rows=training.sampling.n_local_rows[ACTIVE],
        seed=party_seed(training.seed, ACTIVE),
    )
    schedule = Schedule([(head.parameters(), plan.lr)], plan.n_steps)
    rng = np.random.default_rng([training.seed, 2])
    losses: list[float] = []
    beside_scores = replace(training, objective=objective)
    for step in range(plan.n_exchanges):
        batch = training.sampling.draw(rng)
        losses.append(take_steps(own, schedule, batch, [], beside_scores))
        if on_step(step, losses[-1]):
            break
    own.finish()
    model = SharedLatentModel(
        own.encoder, head.double(), training.task, losses, given, calibration, []
    )
    head.scale, head.shift = _weights(coalition, problem, model)
    return model


def _train_layer(
    coalition: Coalition, party: int, problem: Problem, rows: np.ndarray, exchange: LayerExchange
) -> tuple[np.ndarray, Serving]:
    """Train one party's layer on what the labels differ from their mean.

    Return held-out scores, and what asks for those of new rows. They are log odds, roughly: a step
    by the mean curvature of the loss, or standardised targets.
    """
    layer = exchange.layer(
        coalition.channels[party - 1],
        coalition.name,
        rows=rows,
        folds=problem.folds[rows],
        n_folds=problem.n_folds,
    )
    residual = log_odds_residual(problem, rows)
    return layer.scores(residual), layer.keep(residual)


def log_odds_residual(problem: Problem, rows: np.ndarray) -> np.ndarray:
    """Return what targets differ from their mean, as log odds are by a step of the loss.

    Parameters
    ----------
    problem : Problem
        What is to be learnt.
    rows : ndarray of shape (n,), dtype int
        Labelled rows.

    Returns
    -------
    ndarray of shape (n, n_outputs), dtype float64
        By the mean curvature of the loss for classes; as they are for standardised targets.
    """
    target = problem.target[rows]
    mean = target.mean(axis=0)
    residual = target - mean
    if problem.task != "regression":
        residual = residual / np.maximum(mean * (1.0 - mean), _LEAST_VARIANCE)
    return np.asarray(residual)


def _weights(
    coalition: Coalition, problem: Problem, model: SharedLatentModel
) -> tuple[Tensor, Tensor]:
    """Weigh what networks add to scores, and each party's scores, on rows held out from both.

    Returns weights of the networks and of each party, and a constant for each output.
    """
    head = model.head
    assert isinstance(head, LayerHead)
    shared = problem.labeled & problem.known[:, ACTIVE] & (problem.known.sum(axis=1) > 1)
    rows = np.flatnonzero(shared)
    weights = torch.tensor([0.0] + [1.0] * problem.n_parties, dtype=torch.float64)
    shift = torch.zeros(problem.n_outputs, dtype=torch.float64)
    if not len(rows):
        return weights, shift
    latents = torch.from_numpy(model.training_latents(coalition, problem.known, rows))
    with torch.no_grad():
        logits = head(latents, torch.from_numpy(problem.known[rows])[None])[:, 0]
    member = np.minimum(problem.folds[rows].astype(np.int64), len(logits) - 1)
    given = torch.from_numpy(model.given[rows]).movedim(1, 0)
    own = logits[member, np.arange(len(rows))] - given.sum(dim=0)
    parts = torch.cat([own[None], given])
    target = torch.from_numpy(problem.target[rows])
    each = torch.ones(1, 1, len(rows), dtype=torch.float64)
    fitted = [weights.requires_grad_(), shift.requires_grad_()]
    optimizer = torch.optim.LBFGS(fitted, max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        mixed = torch.einsum("p,pno->no", weights.clamp(min=0.0), parts)[None, None] + shift
        common = weights[1:].mean()
        unequal = weights[0] ** 2 + ((weights[1:] - common) ** 2).sum()
        away = _UNEQUAL * unequal + (common - 1.0) ** 2 + 0.5 * (shift**2).sum()
        total = (supervised_loss(mixed, target, each, problem.task) + away) / len(rows)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach().clamp(min=0.0), shift.detach()
