"""Federated transfer learning from the first message to the model that serves every row."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from fedtl.learning.network import Head
from fedtl.parties import Session
from fedtl.protocols.latent import Plan
from fedtl.protocols.layers import LayerExchange
from fedtl.protocols.private_latent import PrivateLatent
from fedtl.protocols.private_moments import PrivateMoments
from fedtl.protocols.serving import Serving
from fedtl.solvers.anchor import Anchor, fit_anchor
from fedtl.solvers.coalition import Coalition, look_up
from fedtl.solvers.judge import Judge
from fedtl.solvers.latent import (
    LatentModel,
    StepHook,
    SupervisedObjective,
    Training,
    plan_sampling,
    train,
)
from fedtl.solvers.liu import fit_liu
from fedtl.solvers.pair import Pair, fit_pair
from fedtl.solvers.private_latent import fit_private_latent
from fedtl.solvers.private_pair import decide_privately, fit_private_pair
from fedtl.solvers.problem import ACTIVE, Problem
from fedtl.solvers.shared_latent import LayerHead, SharedLatentModel, fit_shared_latent
from fedtl.solvers.subsets import (
    Decisions,
    Experts,
    Served,
    Subset,
    held_out_experts,
    subsets_to_serve,
)
from fedtl.solvers.summed import decide_by_sums


@dataclass(frozen=True)
class Settings:
    """How a federated model is learnt.

    Parameters
    ----------
    solver : {"moments", "latent", "auto", "liu"}
        Which learners are used beside the anchor.
    n_components : int
        Width of the latent space.
    max_iter : int
        Steps of the latent solver.
    local_updates : int
        Steps that each side takes on one exchange.
    batch_size : int
        Rows of a mini-batch.
    lr : float
        Highest learning rate.
    """

    solver: str
    n_components: int
    max_iter: int
    local_updates: int
    batch_size: int
    lr: float

    def plan(self, members: int) -> Plan:
        """Return the sizes of the joint training."""
        return Plan(
            members=members,
            n_components=self.n_components,
            n_exchanges=max(self.max_iter // self.local_updates, 1),
            local_updates=min(self.local_updates, self.max_iter),
            lr=self.lr,
        )


@dataclass
class Timer:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a block of code to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, eq=False)
class Seen:
    """New rows, scored and encoded by all parties.

    Parameters
    ----------
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which row.
    experts : Experts
        Linear scores.
    latents : ndarray of shape (members, n_rows, n_parties, n_components) or None
        Latents; zero where a party does not know the row.
    """

    known: np.ndarray
    experts: Experts
    latents: np.ndarray | None


@dataclass(eq=False)
class TransferModel:
    """The active party's part of a fitted federated model.

    Parameters
    ----------
    name : str
        Name of the session at all parties.
    session : Session
        The active party's features.
    anchor : Anchor
        Its own model.
    pairs : list of Pair or None
        What was learnt with each other party by moments.
    latent : LatentModel or None
        What was learnt by joint training.
    served : dict of tuple to Served
        How each subset of parties is served.
    prior : ndarray of shape (n_outputs,), dtype float64
        Mean target: the score of a row that nobody knows.
    fold_seed : int
        Seed of the folds.
    """

    name: str
    session: Session
    anchor: Anchor
    pairs: list[Pair | None]
    latent: LatentModel | None
    served: dict[Subset, Served]
    prior: np.ndarray
    fold_seed: int = 0

    def see(self, coalition: Coalition, *, scores: bool = True, latents: bool = True) -> Seen:
        """Ask all parties about new rows.

        Parameters
        ----------
        coalition : Coalition
            The parties, with the new rows.
        scores, latents : bool
            What is wanted.

        Returns
        -------
        Seen
            Their answers.
        """
        latents = latents and self.latent is not None
        moments = scores and any(pair is not None for pair in self.pairs)
        trees = [moments and pair is not None and pair.tree_share > 0 for pair in self.pairs]
        servings: Sequence[Serving | None]
        servings = [None if pair is None else pair.serving for pair in self.pairs]
        layers = self.latent if isinstance(self.latent, SharedLatentModel) and latents else None
        if layers is not None and layers.servings:
            servings = layers.servings
        rows = look_up(coalition, scores=moments, latents=latents, trees=trees, servings=servings)
        anchor = np.zeros((len(rows.known), len(self.prior)))
        start = anchor.copy()
        if scores or layers is not None:
            anchor[rows.own] = self.anchor.scores(self.session, rows.columns, rows.own)
        if moments:
            start[rows.own] = self.anchor.start_scores(self.session, rows.columns, rows.own)
        joint: list[np.ndarray | None] = []
        alone: list[np.ndarray | None] = []
        for reply, pair in zip(rows.replies, self.pairs, strict=True):
            both, single = None, None
            if reply is not None and pair is not None and scores:
                directions = np.zeros((len(rows.known), pair.directions.shape[1]))
                for piece, encoded in self.session.features.chunks(rows.columns, rows.own):
                    mapped = encoded @ pair.directions[1:] + pair.directions[0]
                    directions[rows.own[piece]] = mapped
                both, single = pair.split(reply.scores, reply.trees, start, directions)
            joint.append(both)
            alone.append(single)
        encoded_rows = None
        if latents and self.latent is not None:
            encoded_rows = self.latent.see(rows, self.session, anchor)
        return Seen(rows.known, Experts(anchor, joint, alone), encoded_rows)

    def party_scores(self, seen: Seen) -> np.ndarray:
        """Return the scores of each party's own linear model.

        Parameters
        ----------
        seen : Seen
            The rows.

        Returns
        -------
        ndarray of shape (n_rows, n_parties * n_outputs), dtype float64
            Less the mean target; zero where a party does not know the row.
        """
        own = seen.experts.anchor
        parts = [np.where(seen.known[:, [ACTIVE]], own - self.prior, 0.0)]
        for party, pair in enumerate(self.pairs, start=1):
            score = seen.experts.alone[party - 1]
            if score is not None:
                parts.append(np.where(seen.known[:, [party]], score - self.prior, 0.0))
            elif pair is not None:  # it could not be reached
                parts.append(np.zeros_like(own))
        return np.hstack(parts)

    def groups(self, known: np.ndarray) -> Iterator[tuple[Served | None, np.ndarray]]:
        """Group rows by the model that serves them: None for rows that nobody knows."""
        patterns, index = np.unique(known, axis=0, return_inverse=True)
        for i, pattern in enumerate(patterns):
            subset = tuple(int(p) for p in np.flatnonzero(pattern))
            yield self._find(subset), np.flatnonzero(index.ravel() == i)

    def _find(self, subset: Subset) -> Served | None:
        if not subset or subset in self.served:
            return self.served.get(subset)
        inside = [s for s in self.served if set(s) <= set(subset)]
        return self.served[max(inside, key=lambda s: (len(s), s))]

    def score(self, seen: Seen, served: Served, rows: np.ndarray) -> np.ndarray:
        """Score rows by the model of one subset, on the scale of the target.

        Parameters
        ----------
        seen : Seen
            The rows.
        served : Served
            How the subset is served.
        rows : ndarray of shape (n,), dtype int
            Which of the rows.

        Returns
        -------
        ndarray of shape (n, n_outputs), dtype float64
            Probability of the positive class, of each class, or standardised target.
        """
        score = np.zeros((len(rows), len(self.prior)))
        network = None
        wanted = served.network_share or (served.stacks_network and served.linear_share)
        if wanted and self.latent is not None and seen.latents is not None:
            mask = np.zeros(seen.known.shape[1], dtype=bool)
            mask[list(served.parties)] = True
            network = self.latent.scores(seen.latents[:, rows], mask).mean(axis=0)
            score += served.network_share * network
        if served.linear_share:
            score += served.linear_share * served.linear(seen.experts.take(rows), network)
        for party, share in served.single_shares.items():
            if share:
                score += share * self.score(seen, self.served[(party,)], rows)
        return score


def bins_for(known: np.ndarray, labeled: np.ndarray, task: str) -> list[int]:
    """Return the bins of each party's encoding: more of them where more labelled rows are.

    Parameters
    ----------
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which row.
    labeled : ndarray of shape (n_rows,), dtype bool
        Which rows are labelled.
    task : {"binary", "multiclass", "regression"}
        Many classes leave fewer rows for each coefficient.

    Returns
    -------
    list of int
        The active party's first.
    """
    if task == "multiclass":
        return [4] * known.shape[1]
    return [8 if n < 2000 else 16 for n in known[labeled].sum(axis=0)]


def fit_transfer(
    coalition: Coalition,
    problem: Problem,
    settings: Settings,
    timer: Timer,
    *,
    previous: TransferModel | None,
    on_step: StepHook,
) -> TransferModel:
    """Learn anchor, moments and latent space, and decide how every subset is served.

    Parameters
    ----------
    coalition : Coalition
        The parties, whose rows are encoded.
    problem : Problem
        What is to be learnt.
    settings : Settings
        How.
    timer : Timer
        Where the phases' seconds go.
    previous : TransferModel or None
        A model whose networks are trained on.
    on_step : callable
        Called after each exchange of the latent solver.

    Returns
    -------
    TransferModel
        The model.
    """
    with timer.phase("anchor"):
        anchor = fit_anchor(coalition.session, problem)
    if isinstance(coalition.moments, PrivateMoments):
        return _fit_private(coalition, coalition.moments, problem, anchor, timer)
    pairs: list[Pair | None] = [None] * len(coalition.channels)
    if settings.solver == "liu":
        with timer.phase("liu"):
            pairs = [fit_liu(coalition, problem, settings.n_components)]
    elif settings.solver != "latent":
        with timer.phase("moments"):
            judge = Judge(problem, anchor) if settings.solver == "moments" else None
            pairs = [
                fit_pair(coalition, party, problem, anchor, judge)
                for party in range(1, len(pairs) + 1)
            ]
    model = TransferModel(
        coalition.name, coalition.session, anchor, pairs, None, {}, _prior(problem)
    )
    model.fold_seed = problem.seed if problem.fold_seed is None else problem.fold_seed
    if settings.solver in ("latent", "auto"):
        with timer.phase("latent"):
            earlier = previous.latent if previous else None
            model.latent = fit_latent(
                coalition, problem, settings, anchor=anchor, previous=earlier, on_step=on_step
            )
    with timer.phase("evidence"):
        model.served = _decide_all(model, coalition, problem, settings.solver)
    coalition.end()
    # Held-out scores of training rows were needed for the evidence only.
    model.anchor = anchor.without_evidence()
    model.pairs = [None if pair is None else pair.without_evidence() for pair in pairs]
    model.latent = model.latent and model.latent.without_evidence()
    return model


def _fit_private(
    coalition: Coalition, moments: PrivateMoments, problem: Problem, anchor: Anchor, timer: Timer
) -> TransferModel:
    """Learn from sums with noise."""
    with timer.phase("moments"):
        fits = [
            fit_private_pair(coalition, moments, party, problem, anchor)
            for party in range(1, problem.n_parties)
        ]
    with timer.phase("evidence"):
        served = decide_privately(problem, anchor, fits)
    coalition.end()
    anchor = anchor.without_evidence()
    pairs: list[Pair | None] = [fit.pair.without_evidence() for fit in fits]
    session, prior = coalition.session, _prior(problem)
    return TransferModel(coalition.name, session, anchor, pairs, None, served, prior)


def fit_latent(
    coalition: Coalition,
    problem: Problem,
    settings: Settings,
    *,
    anchor: Anchor,
    previous: LatentModel | None,
    on_step: StepHook,
) -> LatentModel:
    """Train encoders and head for a supervised problem; parameters as in :func:`fit_transfer`."""
    exchange, others = coalition.moments, problem.n_parties > 1
    if previous is not None and previous.head is not None:
        members, head = previous.encoder.members, previous.head.float()
    else:
        members = problem.n_folds
        generator = torch.Generator().manual_seed(problem.seed)
        kind = LayerHead if others and isinstance(exchange, LayerExchange | PrivateLatent) else Head
        head = kind(
            (members, settings.n_components, problem.n_parties, problem.n_outputs), generator
        )
    rows = np.flatnonzero(problem.labeled & problem.known.any(axis=1))
    training = Training(
        known=problem.known,
        sampling=plan_sampling(problem.known, rows, settings.batch_size),
        plan=settings.plan(members),
        objective=SupervisedObjective(problem, head, members),
        head=head,
        task=problem.task,
        seed=problem.seed,
    )
    if others and isinstance(exchange, LayerExchange):
        return fit_shared_latent(
            coalition, problem, exchange, anchor=anchor, training=training, on_step=on_step
        )
    if others and isinstance(exchange, PrivateLatent):
        return fit_private_latent(coalition, problem, anchor, training, on_step)
    return train(coalition, training, previous, on_step)


def _decide_all(
    model: TransferModel, coalition: Coalition, problem: Problem, solver: str
) -> dict[Subset, Served]:
    judged = [pair.judged for pair in model.pairs if pair is not None and pair.judged is not None]
    if judged:
        return decide_by_sums(problem, model.anchor, judged)
    decisions = Decisions(problem, held_out_experts(model.anchor, model.pairs), solver)
    latents, rows = None, np.flatnonzero(problem.labeled & problem.known.any(axis=1))
    if model.latent is not None:
        latents = model.latent.training_latents(coalition, problem.known, rows)
    served = {}
    for subset in subsets_to_serve(problem.known):
        network = None
        if latents is not None and model.latent is not None and subset != (ACTIVE,):
            network = _held_out_network(model.latent, latents, rows, subset, problem)
        served[subset] = decisions.decide(subset, network)
    return served


def _held_out_network(
    latent: LatentModel, latents: np.ndarray, rows: np.ndarray, subset: Subset, problem: Problem
) -> np.ndarray:
    """Each labelled row's score by the member that did not see its label."""
    mask = np.zeros(problem.n_parties, dtype=bool)
    mask[list(subset)] = True
    scores = latent.scores(latents, mask)
    member = np.minimum(problem.folds[rows], len(scores) - 1)
    network = np.zeros_like(problem.target)
    network[rows] = scores[member, np.arange(len(rows))]
    return network


def _prior(problem: Problem) -> np.ndarray:
    rows = problem.labeled
    return np.asarray(np.average(problem.target[rows], axis=0, weights=problem.weight[rows]))
