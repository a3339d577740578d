"""The latent solver: encoders of all parties and a head, trained together on mini-batches.

The active party draws labelled rows, asks every other party that knows some of them for their
latents, and sends back the gradient of the loss. What is learnt is not only the full view of a
row: each mini-batch is also looked at as if only one party knew its rows, and as if any one
party did not, so that every subset of parties can be served later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from fedtl.learning.network import Head, PartyEncoder, on_target_scale, supervised_loss
from fedtl.learning.training import Schedule, encode
from fedtl.parties import Session
from fedtl.protocols.latent import LocalTraining, Plan, begin, exchange, final_latents
from fedtl.solvers.coalition import Coalition, NewRows
from fedtl.solvers.problem import ACTIVE, Problem

Objective = Callable[[torch.Tensor, np.ndarray], torch.Tensor]
"""From the latents (members, rows, parties, components) and the batch's rows to the loss."""

StepHook = Callable[[int, float], bool]
"""Called with the number of the exchange and its loss; true means stop."""


@dataclass(frozen=True, eq=False)
class LatentModel:
    """What the active party keeps of a joint training.

    Parameters
    ----------
    encoder : PartyEncoder
        The active party's own encoder.
    head : Head or None
        The head on the fused latents; None for a projection without labels.
    task : str
        What the head predicts.
    losses : list of float
        Loss of each exchange.
    """

    encoder: PartyEncoder
    head: Head | None
    task: str
    losses: list[float]

    def see(self, rows: NewRows, session: Session, anchor: np.ndarray) -> np.ndarray:
        """Return the latents of new rows; see :meth:`~fedtl.solvers.coalition.NewRows.latents`.

        Parameters
        ----------
        rows : NewRows
            The rows.
        session : Session
            The active party's features.
        anchor : ndarray of shape (n_rows, n_outputs), dtype float64
            Scores of the active party's own model, for a model that sets them beside latents.

        Returns
        -------
        ndarray of shape (members, n_rows, n_parties, n_components), dtype float64
            Zero where a party does not know a row.
        """
        return rows.latents(session, self.encoder)

    def training_latents(
        self, coalition: Coalition, known: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Gather the final latents of training rows; see :func:`training_latents`."""
        return training_latents(coalition, self, known, rows)

    def without_evidence(self) -> LatentModel:
        """Return what is kept after the fit: all of it."""
        return self

    def scores(self, latents: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Score rows as seen by some of the parties.

        Parameters
        ----------
        latents : ndarray of shape (members, n_rows, n_parties, n_components), dtype float64
            Latents.
        mask : ndarray of shape (n_parties,), dtype bool
            The parties that are looked at.

        Returns
        -------
        ndarray of shape (members, n_rows, n_outputs), dtype float64
            Each member's scores on the scale of the target.
        """
        assert self.head is not None
        with torch.no_grad():
            views = torch.from_numpy(mask).expand(1, latents.shape[1], -1)
            logits = self.head(torch.as_tensor(latents), views)[:, 0]
        return on_target_scale(logits, self.task)


@dataclass(frozen=True)
class Sampling:
    """Which rows make up a mini-batch.

    Parameters
    ----------
    groups : tuple of ndarray
        Rows of one membership pattern each; a group is drawn in proportion to the square root of
        its size, so that few shared rows are seen often.
    sizes : tuple of int
        Rows of each group in a batch.
    n_local_rows : tuple of int
        For each party, rows of its own choice in a batch.
    """

    groups: tuple[np.ndarray, ...]
    sizes: tuple[int, ...]
    n_local_rows: tuple[int, ...]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw one mini-batch of rows, with replacement."""
        return np.concatenate(
            [g[rng.integers(0, len(g), n)] for g, n in zip(self.groups, self.sizes, strict=True)]
        )


def plan_sampling(known: np.ndarray, rows: np.ndarray, batch_size: int) -> Sampling:
    """Divide a mini-batch among membership patterns and the parties' own rows.

    Parameters
    ----------
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which row.
    rows : ndarray of shape (n,), dtype int
        Rows that the joint loss can use.
    batch_size : int
        Rows of a mini-batch.

    Returns
    -------
    Sampling
        The division.
    """
    patterns = known[rows] @ (1 << np.arange(known.shape[1]))
    groups = tuple(rows[patterns == p] for p in np.unique(patterns))
    others = np.maximum(known.sum(0) - known[rows].sum(0), 0)
    total = sum(np.sqrt(len(g)) for g in groups) + 0.5 * float(np.sqrt(others).sum())
    share = batch_size / max(float(total), 1.0)
    sizes = tuple(min(len(g), max(8, int(share * np.sqrt(len(g))))) for g in groups)
    local = tuple(min(int(n), int(share * np.sqrt(n))) for n in others)
    return Sampling(groups, sizes, local)


@dataclass(eq=False)
class Training:
    """One joint training.

    Parameters
    ----------
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which row.
    sampling : Sampling
        The mini-batches.
    plan : Plan
        Sizes.
    objective : callable
        The joint loss.
    head : Head or None
        Trained in place.
    task : str
        What the head predicts.
    seed : int
        Seed of everything that is drawn.
    """

    known: np.ndarray
    sampling: Sampling
    plan: Plan
    objective: Objective
    head: Head | None
    task: str
    seed: int


def train(
    coalition: Coalition,
    training: Training,
    previous: LatentModel | None = None,
    on_step: StepHook = lambda step, loss: False,
) -> LatentModel:
    """Train all encoders and the head together.

    Parameters
    ----------
    coalition : Coalition
        The parties, whose rows are encoded.
    training : Training
        What is trained.
    previous : LatentModel, optional
        A model to go on from.
    on_step : callable
        Called after each exchange.

    Returns
    -------
    LatentModel
        The active party's part; the other parties keep theirs.
    """
    plan, head = training.plan, training.head
    own = LocalTraining(
        coalition.session,
        plan,
        n_local_rows=training.sampling.n_local_rows[ACTIVE],
        seed=party_seed(training.seed, ACTIVE),
        encoder=previous.encoder if previous else None,
    )
    border = _Border(coalition, training, resume=previous is not None)
    schedule = Schedule([(head.parameters() if head else [], plan.lr)], plan.n_steps)
    rng = np.random.default_rng([training.seed, 2])
    losses: list[float] = []
    for step in range(plan.n_exchanges):
        batch = training.sampling.draw(rng)
        received = border.next_batch(batch)
        losses.append(take_steps(own, schedule, batch, received, training))
        border.keep_gradients(received)
        if on_step(step, losses[-1]):
            break
    border.next_batch(np.empty(0, dtype=np.int64))
    own.finish()
    return LatentModel(own.encoder, head.double() if head else None, training.task, losses)


class _Border:
    """Latents in, gradients out, of all other parties."""

    def __init__(self, coalition: Coalition, training: Training, resume: bool) -> None:
        self.coalition, self.known = coalition, training.known
        plan = training.plan
        nothing = np.empty((plan.members, 0, plan.n_components), dtype=np.float32)
        self.gradients = [nothing for _ in coalition.channels]
        for party, channel in enumerate(coalition.channels, start=1):
            begin(
                channel,
                coalition.name,
                plan,
                n_local_rows=training.sampling.n_local_rows[party],
                seed=party_seed(training.seed, party),
                keep_encoder=resume,
            )

    def next_batch(self, batch: np.ndarray) -> list[torch.Tensor]:
        """Send the last gradients and return each party's latents of the rows it knows."""
        received = []
        for i, channel in enumerate(self.coalition.channels):
            rows = batch[self.known[batch, i + 1]]
            latents = exchange(channel, self.coalition.name, rows, self.gradients[i])
            # A copy: what a channel hands over may be read-only or still belong to the party.
            received.append(torch.tensor(latents, requires_grad=True))
        return received

    def keep_gradients(self, received: list[torch.Tensor]) -> None:
        """Remember what the last batch's loss says to each party."""
        self.gradients = [
            np.zeros(z.shape, np.float32) if z.grad is None else z.grad.numpy() for z in received
        ]


def take_steps(
    own: LocalTraining,
    schedule: Schedule,
    batch: np.ndarray,
    received: list[torch.Tensor],
    training: Training,
) -> float:
    """Take the active party's steps on one mini-batch; the first gives the gradients to send.

    Parameters
    ----------
    own : LocalTraining
        The active party's encoder in training.
    schedule : Schedule
        Of the head.
    batch : ndarray of shape (n_rows,), dtype int
        The rows.
    received : list of Tensor of shape (members, n_known, n_components)
        What the other parties told of the rows that they know.
    training : Training
        What is trained.

    Returns
    -------
    float
        Loss of the first step.
    """
    known, first = training.known[batch], 0.0
    rows = torch.from_numpy(own.position[batch[known[:, ACTIVE]]])
    for update in range(training.plan.local_updates):
        others = received if update == 0 else [z.detach() for z in received]
        own.training.schedule.zero_grad()
        schedule.zero_grad()
        mine = own.training.latents(rows)
        loss = training.objective(stack([mine, *others], known), batch)
        first = first if update else float(loss.detach())
        total = loss + own.training.auxiliary
        total.backward()  # type: ignore[no-untyped-call]
        own.training.schedule.step()
        schedule.step()
    return first


def stack(latents: Sequence[torch.Tensor], known: np.ndarray) -> torch.Tensor:
    """Put latents in their rows, zero where a party does not know a row.

    Parameters
    ----------
    latents : sequence of Tensor of shape (members, n_known, n_components)
        Of each party; those of fewer components than others are filled up with zeros.
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which row.

    Returns
    -------
    Tensor of shape (members, n_rows, n_parties, n_components)
        Latents.
    """
    members, components = len(latents[0]), max(z.shape[2] for z in latents)
    stacked = []
    for party, z in enumerate(latents):
        z = functional.pad(z, (0, components - z.shape[2]))
        if not known[:, party].all():
            rows = torch.from_numpy(np.flatnonzero(known[:, party]))
            z = z.new_zeros(members, len(known), components).index_copy(1, rows, z)
        stacked.append(z)
    return torch.stack(stacked, dim=2)


def party_seed(seed: int, party: int) -> int:
    """Return the seed of what one party draws in a joint training."""
    return int(np.random.default_rng([seed, 3, party]).integers(2**31))


class SupervisedObjective:
    """The head's loss on several views of a mini-batch.

    Parameters
    ----------
    problem : Problem
        What is to be learnt.
    head : Head
        Maps fused latents to logits.
    members : int
        Number of members; member ``e`` does not see labels of fold ``e``.
    """

    def __init__(self, problem: Problem, head: Head, members: int) -> None:
        self.problem, self.head = problem, head
        self.target = torch.from_numpy(problem.target.astype(np.float32))
        self.weight = torch.from_numpy(problem.weight.astype(np.float32))
        self.known = torch.from_numpy(problem.known)
        self.held_out = torch.from_numpy(problem.folds.astype(np.int64))
        self.members = torch.arange(members)[:, None]
        self.generator = torch.Generator().manual_seed(party_seed(problem.seed, -1 % 2**31))

    def __call__(self, latents: torch.Tensor, batch: np.ndarray) -> torch.Tensor:
        """Return the loss of a mini-batch, summed over members and views."""
        rows = torch.from_numpy(batch)
        views, share = _views(self.known[rows])
        seen = (self.held_out[rows] != self.members).float() * self.weight[rows]
        weight = seen[:, None, :] * views.any(-1)
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-6) * share[:, None]
        logits = self.head(latents, views, self.generator)
        return supervised_loss(logits, self.target[rows], weight, self.problem.task)


def _views(known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ways to look at a mini-batch: as it is, by each party alone, without each party.

    Returns masks of shape (views, rows, parties), empty for rows that a view does not apply to,
    and the weight of each view's loss. The active party's own rows are already in the first view,
    so its single view counts less where shared rows are few.
    """
    n_parties = known.shape[1]
    if n_parties == 1:
        return known[None], torch.ones(1)
    shared = known.sum(1) > 1
    eye = torch.eye(n_parties, dtype=torch.bool)
    masks, share = [known], [1.0]
    for party in range(n_parties):
        masks.append((known & eye[party]) & shared[:, None])
        share.append(float(shared.float().mean()) ** 0.5 if party == ACTIVE else 1.0)
    if n_parties > 2:
        for party in range(n_parties):
            applies = known[:, party] & (known.sum(1) > 2)
            masks.append((known & ~eye[party]) & applies[:, None])
            share.append(1.0)
    return torch.stack(masks), torch.tensor(share)


def training_latents(
    coalition: Coalition, model: LatentModel, known: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Gather the final latents of training rows from all parties.

    Parameters
    ----------
    coalition : Coalition
        The parties.
    model : LatentModel
        The trained model.
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which row.
    rows : ndarray of shape (n,), dtype int
        Rows that are wanted.

    Returns
    -------
    ndarray of shape (members, n, n_parties, n_components), dtype float64
        Latents; zero where a party does not know the row.
    """
    session, parts = coalition.session, []
    assert session.columns is not None
    for party in range(known.shape[1]):
        inside = known[rows, party]
        if party == ACTIVE:
            inputs = session.features.latent_input(session.columns, rows[inside])
            encoded = encode(model.encoder, inputs)
        else:
            channel = coalition.channels[party - 1]
            encoded = final_latents(channel, coalition.name, rows[inside]).astype(np.float64)
        part = np.zeros((encoded.shape[0], len(rows), encoded.shape[2]))
        part[:, inside] = encoded
        parts.append(part)
    return np.stack(parts, axis=2)
