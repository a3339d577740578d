"""Federated transfer learning from the first message to the model that serves every row."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.learning.network import Head
from fedtl.parties import LocalFeatures, Recipe, Session, Table
from fedtl.protocols.latent import Plan
from fedtl.protocols.predict import ask_predictions, local_latents
from fedtl.protocols.session import end_session, open_session, prepare_session
from fedtl.solvers.anchor import Anchor, fit_anchor
from fedtl.solvers.latent import (
    LatentModel,
    StepHook,
    SupervisedObjective,
    plan_sampling,
    train,
    training_latents,
)
from fedtl.solvers.pair import Pair, fit_pair
from fedtl.solvers.problem import ACTIVE, Problem
from fedtl.solvers.subsets import (
    Experts,
    Served,
    Subset,
    decide,
    held_out_experts,
    subsets_to_serve,
)


@dataclass
class Settings:
    """How a federated model is learnt.

    Parameters
    ----------
    solver : {"moments", "latent", "auto"}
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
    """New rows as all parties together see them.

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
    """

    name: str
    session: Session
    anchor: Anchor
    pairs: list[Pair | None]
    latent: LatentModel | None
    served: dict[Subset, Served]
    prior: np.ndarray

    def see(
        self, table: Table, channels: Sequence[Channel], *, scores: bool, latents: bool
    ) -> Seen:
        """Ask all parties about new rows.

        Parameters
        ----------
        table : Table
            The active party's rows.
        channels : sequence of Channel
            The other parties.
        scores, latents : bool
            What is wanted.

        Returns
        -------
        Seen
            Their answers.
        """
        ids = np.arange(len(table), dtype=np.int64)
        columns, own = self.session.features.read(table, ids)
        rows = np.flatnonzero(own)
        n_outputs = len(self.prior)
        anchor = np.zeros((len(ids), n_outputs))
        if scores:
            anchor[rows] = self.anchor.scores(self.session, columns, rows)
        known, joint, alone = [own], [], []
        own_latents = []
        if latents and self.latent is not None:
            own_latents = [local_latents(self.session, self.latent.encoder, columns, rows)]
        for channel, pair in zip(channels, self.pairs, strict=True):
            reply = ask_predictions(channel, self.name, ids, scores and pair is not None, latents)
            known.append(reply.known)
            own_latents.append(reply.latents)
            if pair is None or not scores:
                joint.append(None)
                alone.append(None)
                continue
            directions = np.zeros((len(ids), pair.directions.shape[1]))
            for piece, encoded in self.session.features.chunks(columns, rows):
                directions[rows[piece]] = encoded @ pair.directions[1:] + pair.directions[0]
            both, single = pair.split(reply.scores, anchor, directions)
            joint.append(both)
            alone.append(single)
        stacked = None
        if latents and self.latent is not None:
            stacked = np.stack(own_latents, axis=2)
        return Seen(np.column_stack(known), Experts(anchor, joint, alone), stacked)

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
        """Score rows by the model of one subset: (n_rows, n_outputs)."""
        network = None
        if self.latent is not None and seen.latents is not None and served.network_share:
            mask = np.zeros(seen.known.shape[1], dtype=bool)
            mask[list(served.parties)] = True
            network = self.latent.scores(seen.latents[:, rows], mask).mean(axis=0)
        return served.scores(seen.experts.take(rows), network)


def open_parties(
    name: str,
    table: Table,
    recipe: Recipe,
    active: str,
    channels: Sequence[Channel],
    previous: Session | None,
) -> tuple[Session, np.ndarray]:
    """Begin a fit at every party.

    Parameters
    ----------
    name : str
        Name of the session.
    table : Table
        The active party's rows.
    recipe : Recipe
        Its encoder.
    active : str
        Its name.
    channels : sequence of Channel
        The other parties.
    previous : Session or None
        The active party's session of an earlier fit whose encodings are kept (warm start).

    Returns
    -------
    session : Session
        The active party's.
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which row.

    Raises
    ------
    PartyError
        If a party knows no row, or shares none with the active party.
    """
    ids = np.arange(len(table), dtype=np.int64)
    features = LocalFeatures(active, recipe) if previous is None else previous.features
    session = Session(features, ids, state=dict(previous.state) if previous else {})
    session.known = features.known(table, ids)
    known = [session.known]
    for channel in channels:
        theirs = open_session(channel, name, ids, previous is not None)
        if theirs.any() and session.known.any() and not (theirs & session.known).any():
            raise PartyError(
                channel.name,
                f"shares no row with the active party {active!r}: it knows {int(theirs.sum())} of "
                f"the {len(ids)} rows and {active!r} knows {int(session.known.sum())} others; "
                "check how missing values mark the rows that a party does not know",
            )
        known.append(theirs)
    return session, np.column_stack(known)


def prepare_parties(
    name: str,
    session: Session,
    table: Table,
    channels: Sequence[Channel],
    known: np.ndarray,
    labeled: np.ndarray,
    task: str,
    seed: int,
) -> None:
    """Have every party encode its own rows.

    Parameters
    ----------
    name : str
        Name of the session.
    session : Session
        The active party's.
    table : Table
        The active party's rows.
    channels : sequence of Channel
        The other parties.
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which row.
    labeled : ndarray of shape (n_rows,), dtype bool
        Which rows are labelled.
    task : {"binary", "multiclass", "regression"}
        Many classes leave fewer rows for each coefficient.
    seed : int
        Seed of what the parties draw.
    """
    if not session.features.fitted:
        session.features.fit(table.block, _n_bins(labeled & known[:, ACTIVE], task), seed)
    session.read(table)
    for party, channel in enumerate(channels, start=1):
        prepare_session(channel, name, _n_bins(labeled & known[:, party], task), seed)


def _n_bins(usable: np.ndarray, task: str) -> int:
    if task == "multiclass":
        return 4
    return 8 if usable.sum() < 2000 else 16


def fit_transfer(
    name: str,
    session: Session,
    channels: Sequence[Channel],
    problem: Problem,
    settings: Settings,
    timer: Timer,
    trunk_lr: float | None,
    previous: TransferModel | None,
    on_step: StepHook,
) -> TransferModel:
    """Learn anchor, moments and latent space, and decide how every subset is served.

    Parameters
    ----------
    name : str
        Name of the session, open at all parties.
    session : Session
        The active party's.
    channels : sequence of Channel
        The other parties.
    problem : Problem
        What is to be learnt.
    settings : Settings
        How.
    timer : Timer
        Where the phases' seconds go.
    trunk_lr : float or None
        Learning rate of the active party's pretrained network.
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
        anchor = fit_anchor(session, problem)
    pairs: list[Pair | None] = [None] * len(channels)
    if settings.solver != "latent":
        with timer.phase("moments"):
            pairs = [
                fit_pair(channel, name, party, session, problem, anchor)
                for party, channel in enumerate(channels, start=1)
            ]
    model = TransferModel(name, session, anchor, pairs, None, {}, _prior(problem))
    if settings.solver != "moments":
        with timer.phase("latent"):
            earlier = previous.latent if previous else None
            model.latent = fit_latent(
                name, session, channels, problem, settings, trunk_lr, earlier, on_step
            )
    with timer.phase("evidence"):
        model.served = _decide_all(model, channels, problem, settings.solver)
    finish(model, channels)
    return model


def fit_latent(
    name: str,
    session: Session,
    channels: Sequence[Channel],
    problem: Problem,
    settings: Settings,
    trunk_lr: float | None,
    previous: LatentModel | None,
    on_step: StepHook,
) -> LatentModel:
    """Train encoders and head for a supervised problem; parameters as in :func:`fit_transfer`."""
    members = problem.n_folds
    if previous is not None and previous.head is not None:
        members, head = previous.encoder.members, previous.head.float()
    else:
        generator = torch.Generator().manual_seed(problem.seed)
        head = Head(members, settings.n_components, problem.n_parties, problem.n_outputs, generator)
    plan = Plan(
        members=members,
        n_components=settings.n_components,
        n_exchanges=-(-settings.max_iter // settings.local_updates),
        local_updates=settings.local_updates,
        lr=settings.lr,
    )
    rows = np.flatnonzero(problem.labeled & problem.known.any(axis=1))
    return train(
        channels,
        name,
        session,
        problem.known,
        plan_sampling(problem.known, rows, settings.batch_size),
        plan,
        SupervisedObjective(problem, head, members),
        head,
        seed=problem.seed,
        trunk_lr=trunk_lr,
        task=problem.task,
        previous=previous,
        on_step=on_step,
    )


def finish(model: TransferModel, channels: Sequence[Channel]) -> None:
    """Have every party forget what only training needs, the active party included."""
    model.session.end_fit()
    # Held-out scores of training rows were needed for the evidence only.
    nothing = model.anchor.held_out[:0]
    model.anchor = replace(model.anchor, held_out=nothing)
    model.pairs = [
        None if p is None else replace(p, held_out_joint=nothing, held_out_alone=nothing)
        for p in model.pairs
    ]
    for channel in channels:
        end_session(channel, model.name)


def _decide_all(
    model: TransferModel, channels: Sequence[Channel], problem: Problem, solver: str
) -> dict[Subset, Served]:
    experts = held_out_experts(model.anchor, model.pairs)
    latents, rows = None, np.flatnonzero(problem.labeled & problem.known.any(axis=1))
    if model.latent is not None:
        latents = training_latents(
            channels, model.name, model.session, model.latent, problem.known, rows
        )
    served = {}
    for subset in subsets_to_serve(problem.known):
        network = ambiguity = None
        if latents is not None and model.latent is not None and subset != (ACTIVE,):
            network, ambiguity = _held_out_network(model.latent, latents, rows, subset, problem)
        served[subset] = decide(subset, problem, experts, network, ambiguity, solver)
    return served


def _held_out_network(
    latent: LatentModel, latents: np.ndarray, rows: np.ndarray, subset: Subset, problem: Problem
) -> tuple[np.ndarray, np.ndarray]:
    """Each labelled row's score by the member that did not see its label, and the variance."""
    mask = np.zeros(problem.n_parties, dtype=bool)
    mask[list(subset)] = True
    scores = latent.scores(latents, mask)
    member = np.minimum(problem.folds[rows], len(scores) - 1)
    network = np.zeros_like(problem.target)
    network[rows] = scores[member, np.arange(len(rows))]
    ambiguity = np.zeros(len(problem.target))
    ambiguity[rows] = scores.var(axis=0).sum(axis=1)
    return network, ambiguity


def _prior(problem: Problem) -> np.ndarray:
    rows = problem.labeled
    return np.asarray(np.average(problem.target[rows], axis=0, weights=problem.weight[rows]))
