"""One fit in rounds from beginning to end, and the models that it leaves behind."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from fedtl.exceptions import PartyError, UnknownRowsWarning
from fedtl.federation import Channel, Ledger, RowParties, ask_all
from fedtl.learning.compression import Compression
from fedtl.learning.local import LocalModel, LocalRecipe, Shape, Weights
from fedtl.learning.strategies import Memory, Strategy
from fedtl.privacy import DifferentialPrivacy, SecureAggregation
from fedtl.protocols.rounds import (
    Compare,
    Compared,
    Finish,
    Finished,
    Ready,
    RoundsPlan,
    party_rounds,
)
from fedtl.solvers.checkpoint import Checkpoint
from fedtl.solvers.private_tuning import protect
from fedtl.solvers.rounds import Coordinator, Progress, Schedule, begin
from fedtl.solvers.secure_tuning import SecureMean, check_secure


@dataclass(frozen=True)
class Comparison:
    """What parties are asked after the last round.

    Parameters
    ----------
    deploy : {"federated", "fine-tuned", "local", "best"}
        What serves a party's rows.
    fine_tune_epochs : int
        Epochs of the fine-tuned model after the last round.
    local_epochs : int
        Epochs of the local model.
    """

    deploy: str
    fine_tune_epochs: int
    local_epochs: int


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be done.

    Parameters
    ----------
    recipe : LocalRecipe
        The model.
    shape : Shape
        Features and classes.
    strategy : Strategy
        How local training becomes one model.
    local_epochs : int
        Epochs of a round.
    compression : Compression
        How updates are made smaller.
    held_out : mapping of str to float
        Share of its rows that each party holds out.
    schedule : callable
        From the number of parties that train to the schedule.
    compare : Comparison or None
        What parties are asked after the last round.
    checkpoint : Checkpoint or None
        Where the training is saved.
    start : TunedModel or None, default=None
        An earlier model to go on from.
    privacy : DifferentialPrivacy, SecureAggregation or None
        What the training may spend of the privacy of rows or parties, or whether updates are seen
        as their mean only.
    """

    recipe: LocalRecipe
    shape: Shape
    strategy: Strategy
    local_epochs: int
    compression: Compression
    held_out: Mapping[str, float]
    schedule: Callable[[int], Schedule]
    compare: Comparison | None
    checkpoint: Checkpoint | None
    start: TunedModel | None = None
    privacy: DifferentialPrivacy | SecureAggregation | None = None


@dataclass(frozen=True, eq=False)
class Done:
    """What came of it.

    Parameters
    ----------
    model : TunedModel
        The models.
    progress : Progress
        How the rounds went.
    ready : dict of str to Ready
        The parties that took part.
    compared : dict of str to Compared
        What they said of their models.
    seconds : dict of str to float
        Seconds by phase.
    noise : dict of str to float
        Noise multiplier by party, where training was private.
    """

    model: TunedModel
    progress: Progress
    ready: dict[str, Ready]
    compared: dict[str, Compared]
    seconds: dict[str, float]
    noise: dict[str, float]


def held_out_shares(validation: Any, needed: bool, names: list[str]) -> dict[str, float]:
    """Return the share of its rows that each party holds out.

    Parameters
    ----------
    validation : float, sequence of str or None
        A share, or parties that hold out all of their rows.
    needed : bool
        Whether None stands for .2.
    names : list of str
        The parties.

    Returns
    -------
    dict of str to float
        By party.

    Raises
    ------
    ValueError
        If a party is none of these.
    """
    if validation is None:
        return dict.fromkeys(names, 0.2 if needed else 0.0)
    if isinstance(validation, Real):
        return dict.fromkeys(names, float(validation))
    wanted = {str(name) for name in validation}
    if isinstance(validation, str) or wanted - set(names):
        raise ValueError(f"validation={validation!r} must be names of parties, which are {names}")
    return {name: float(name in wanted) for name in names}


def tune(
    job: Job,
    services: RowParties,
    channels: Mapping[str, Channel],
    ledger: Ledger,
    *,
    seed: int,
    fit: str,
) -> Done:
    """Begin, run the rounds, compare, finish.

    Parameters
    ----------
    job : Job
        What is to be done.
    services : RowParties
        The simulated parties, for what they save and keep at their own side.
    channels : mapping of str to Channel
        The way to each party, remote ones among them.
    ledger : Ledger
        What crosses is counted there.
    seed : int
        Seed of everything that is drawn; that of a saved training takes its place.
    fit : str
        Name of the fit; that of a saved training takes its place.

    Returns
    -------
    Done
        What came of it.

    Raises
    ------
    ValueError
        If no party has a row to train on; a PartyError if too few reply.
    """
    clock = [time.perf_counter()]
    saved = job.checkpoint.load() if job.checkpoint else None
    fit, seed = (fit, seed) if saved is None else saved[1:3]
    with job.recipe.model(job.shape, seed) as model:
        initial, layout, digest = model.initial, model.shared, model.layout_digest
    if job.start is not None:
        initial = _initial(job.start, initial)
    plan = RoundsPlan(
        fit,
        digest,
        job.shape.n_classes,
        job.strategy,
        job.local_epochs,
        seed,
        compression=job.compression,
    )
    ready = begin(channels, plan, job.held_out)
    channels = {name: channels[name] for name in ready}
    training = {name: c for name, c in channels.items() if ready[name].n_rows}
    if not training:
        raise ValueError("no party has a row to train on: all are held out")
    if job.start is not None:
        _remember(job.start, services, fit, job.strategy.keeps_model)
    schedule = job.schedule(len(training))
    private = job.privacy if isinstance(job.privacy, DifferentialPrivacy) else None
    if private is not None and initial.buffers.size:
        raise ValueError(
            "differentially private training cannot take batch norms: what they record of rows "
            "would be told without noise. Use group or layer norms, or freeze them"
        )
    noise, release = protect(private, fit, schedule.n_rounds, services, training)
    progress = Progress(job.strategy.start(initial.shared), initial.buffers.astype(np.float64))
    if saved is not None:
        progress = saved[0]
        for name, memory in saved[3].items():
            party_rounds(services.services[name], fit).memory = memory

    def on_round(progress: Progress) -> bool:
        if job.checkpoint:
            job.checkpoint.save(progress, fit, seed, _memories(services, fit))
        return False

    coordinator = Coordinator(
        training,
        {name: c for name, c in channels.items() if ready[name].n_held_out},
        plan,
        schedule,
        layout,
        ledger,
        on_round,
        release,
        tells_loss=private is None,
        secure=_secure(job, schedule, ready),
    )
    clock.append(time.perf_counter())
    progress = coordinator.run(progress)
    clock.append(time.perf_counter())
    compared = _compare(job.compare, channels, progress, fit) if job.compare else {}
    ask_all(list(channels.values()), [Finish(fit=fit)] * len(channels), Finished)
    clock.append(time.perf_counter())
    tuned = TunedModel(
        recipe=job.recipe,
        shape=job.shape,
        seed=seed,
        shared=progress.parameters.astype(np.float32),
        buffers=progress.buffers.astype(np.float32),
        memories=_memories(services, fit),
    )
    if job.checkpoint:
        job.checkpoint.remove()
    seconds = dict(zip(("begin", "rounds", "compare"), np.diff(clock).tolist(), strict=True))
    return Done(tuned, progress, ready, compared, seconds, noise)


def _secure(job: Job, schedule: Schedule, ready: Mapping[str, Ready]) -> SecureMean | None:
    """Return what asks for updates as their mean only, if that is wanted."""
    if not isinstance(job.privacy, SecureAggregation):
        return None
    check_secure(job.strategy, job.compression != Compression(), schedule.cohort)
    return SecureMean({name: r.n_rows for name, r in ready.items()}, schedule.min_replies)


@dataclass(eq=False)
class TunedModel:
    """The federated model, and in simulation what the parties keep of their own.

    Parameters
    ----------
    recipe : LocalRecipe
        The model.
    shape : Shape
        Features and classes.
    seed : int
        Seed of initial parameters.
    shared : ndarray of shape (n_parameters,), dtype float32
        Shared parameters.
    buffers : ndarray of shape (n_buffers,), dtype float32
        Recorded statistics.
    memories : dict of str to Memory
        What each party keeps: personal parameters, and the model that it uses if it is not the
        federated one. A real party would serve its rows by these at its own side.
    """

    recipe: LocalRecipe
    shape: Shape
    seed: int
    shared: np.ndarray
    buffers: np.ndarray
    memories: dict[str, Memory]

    def fitted(self) -> object:
        """Return the federated model in its own library's form."""
        with self.recipe.model(self.shape, self.seed) as model:
            model.load(Weights(self.shared, model.initial.personal, self.buffers))
            return model.fitted()

    def apply(self, method: str, owners: np.ndarray, X: np.ndarray) -> np.ndarray:
        """Serve rows, those of each party by what it uses.

        Parameters
        ----------
        method : {"predict", "predict_proba", "decision_function"}
            Which output; classes are positions.
        owners : ndarray of shape (n_rows,), dtype object
            The party of each row; of any other name if nobody knows.
        X : ndarray of shape (n_rows, ...)
            Rows.

        Returns
        -------
        ndarray of shape (n_rows, ...)
            The output.
        """
        names = {name: np.flatnonzero(owners == name) for name in np.unique(owners)}
        strangers = sorted(set(names) - set(self.memories))
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        with self.recipe.model(self.shape, self.seed) as model:
            for name in [name for name in names if name in self.memories]:
                model.load(self._weights(name))
                parts.append((names[name], model.apply(method, X[names[name]])))
            if strangers:
                rows = np.concatenate([names[name] for name in strangers])
                parts.append((rows, self._apply_to_strangers(model, method, X[rows], strangers)))
        output = np.empty((len(X), *parts[0][1].shape[1:]), dtype=parts[0][1].dtype)
        for rows, values in parts:
            output[rows] = values
        return output

    def _weights(self, party: str) -> Weights:
        memory = self.memories[party]
        return Weights(
            memory.get("model", self.shared),
            memory["personal"],
            memory.get("buffers", self.buffers),
        )

    def _apply_to_strangers(
        self, model: LocalModel, method: str, X: np.ndarray, names: list[str]
    ) -> np.ndarray:
        """Serve rows of parties that took no part, or of nobody knows whom."""
        if not model.personal.size:
            model.load(Weights(self.shared, model.initial.personal, self.buffers))
            return model.apply(method, X)
        warnings.warn(
            f"rows of {names[:10]} are of no party of the fit, for which personal parameters are "
            "known; they are served by the mean of all parties' models",
            UnknownRowsWarning,
            stacklevel=5,
        )
        classes = method == "predict" and self.shape.n_classes > 0
        total: Any = 0.0
        for name in self.memories:
            model.load(self._weights(name))
            total = total + model.apply("predict_proba" if classes else method, X)
        return np.asarray(total.argmax(axis=1) if classes else total / len(self.memories))


def _initial(start: TunedModel, drawn: Weights) -> Weights:
    """Return what an earlier model ended with in the place of what was drawn."""
    sizes = start.shared.size, start.buffers.size
    if sizes != (drawn.shared.size, drawn.buffers.size):
        raise ValueError(
            f"the model of the last fit has {sizes[0]} shared parameters and {sizes[1]} recorded "
            f"statistics, this one {drawn.shared.size} and {drawn.buffers.size}; set "
            "warm_start=False, or fit a clone"
        )
    return Weights(start.shared, drawn.personal, start.buffers)


def _remember(start: TunedModel, services: RowParties, fit: str, keeps_model: bool) -> None:
    """Let parties that took part in an earlier fit go on from what they kept of it."""
    for name, memory in _memories(services, fit).items():
        kept = start.memories.get(name, {})
        if "personal" in kept and kept["personal"].size == memory["personal"].size:
            memory["personal"] = kept["personal"]
        if keeps_model and "model" in kept:
            memory["model"] = kept["model"]


def _memories(services: RowParties, fit: str) -> dict[str, Memory]:
    """Return what each party that takes part remembers."""
    return {
        name: party_rounds(service, fit).memory
        for name, service in services.services.items()
        if fit in service.fits
    }


def _compare(
    asked: Comparison, channels: Mapping[str, Channel], progress: Progress, fit: str
) -> dict[str, Compared]:
    """Let each party compare its models and choose what serves its rows."""
    request = Compare(
        fit=fit,
        parameters=progress.parameters.astype(np.float32),
        buffers=progress.buffers.astype(np.float32),
        epochs=asked.fine_tune_epochs,
        local_epochs=asked.local_epochs,
        deploy=asked.deploy,
    )
    replies = ask_all(list(channels.values()), [request] * len(channels), Compared)
    for reply in replies:
        if isinstance(reply, PartyError):
            raise reply
    return {n: r for n, r in zip(channels, replies, strict=True) if isinstance(r, Compared)}
