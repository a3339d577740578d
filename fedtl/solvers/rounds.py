"""The coordinator's side of training in rounds: who takes part, what is kept, when it ends."""

from __future__ import annotations

import heapq
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fedtl.exceptions import (
    BudgetSpent,
    DivergenceError,
    DroppedPartyWarning,
    PartyError,
    PolicyRefusal,
)
from fedtl.federation import Channel, Ledger, ask_all
from fedtl.learning.strategies import Layout, Setting, State, Update
from fedtl.protocols.rounds import (
    Evaluate,
    Evaluated,
    Ready,
    Reply,
    Round,
    RoundsPlan,
    read_update,
)
from fedtl.solvers.secure_tuning import SecureMean


@dataclass(frozen=True)
class Schedule:
    """How many rounds, with whom, and when to stop.

    Parameters
    ----------
    n_rounds : int
        Rounds; versions of the model where parties are not waited for.
    cohort : int
        Parties of a round, drawn at random.
    min_replies : int
        A round with fewer replies is an error.
    patience : int or None
        Rounds without a better loss on held-out rows, after which training stops.
    """

    n_rounds: int
    cohort: int
    min_replies: int
    patience: int | None


@dataclass(eq=False)
class Flight:
    """Which parties are under way, where they are not waited for.

    Parameters
    ----------
    rng : Generator
        Draws durations, and who starts next.
    clock : float
        Simulated time.
    n_started : int
        Trainings that were started.
    under_way : list of (float, int, str, int, Round)
        A heap: when a training ends, its number, the party, the version that it started from, and
        what was sent.
    """

    rng: np.random.Generator
    clock: float = 0.0
    n_started: int = 0
    under_way: list[tuple[float, int, str, int, Round]] = field(default_factory=list)


@dataclass(eq=False)
class Progress:
    """Where a training in rounds is: all that has to be saved to go on with it.

    Parameters
    ----------
    state : State
        The strategy's state; the shared parameters among it.
    buffers : ndarray of shape (n_buffers,)
        Recorded statistics.
    n_rounds : int
        Rounds that are done.
    history : list of dict
        One record a round.
    best : ndarray of shape (n_parameters + n_buffers,)
        The best parameters and statistics so far.
    best_round : int
        The round that made them; 0 before there is one.
    flight : Flight or None
        Which parties are under way, where they are not waited for.
    """

    state: State
    buffers: np.ndarray
    n_rounds: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: np.ndarray = field(default_factory=lambda: np.empty(0))
    best_round: int = 0
    flight: Flight | None = None

    @property
    def parameters(self) -> np.ndarray:
        """The shared parameters, in double precision."""
        return self.state["parameters"]


@dataclass(eq=False)
class Coordinator:
    """Runs the rounds.

    Parameters
    ----------
    channels : mapping of str to Channel
        The parties that train.
    watchers : mapping of str to Channel
        The parties whose held-out rows are evidence.
    plan : RoundsPlan
        What parties were told.
    schedule : Schedule
        How many rounds, with whom.
    layout : Layout
        Names and shapes of the parameters.
    ledger : Ledger
        What crossed the border.
    on_round : callable
        Called with the progress after each round; true stops the training.
    release : callable or None
        From the updates of a round, and the number of parties that were asked, to those that the
        strategy is given.
    tells_loss : bool
        Whether parties tell the loss of their training.
    secure : SecureMean or None
        What asks for a round's updates where they are seen as their mean only.
    """

    channels: Mapping[str, Channel]
    watchers: Mapping[str, Channel]
    plan: RoundsPlan
    schedule: Schedule
    layout: Layout
    ledger: Ledger
    on_round: Callable[[Progress], bool]
    release: Callable[[list[Update], int], list[Update]] | None = None
    tells_loss: bool = True
    secure: SecureMean | None = None

    def run(self, progress: Progress) -> Progress:
        """Train until the rounds are done, the loss gets no better, or a callback says so.

        Parameters
        ----------
        progress : Progress
            Where to start from; it is changed.

        Returns
        -------
        Progress
            Where the training ended. If it stopped early or diverged, parameters and statistics
            are those of the best round.

        Raises
        ------
        PartyError
            If too few parties reply.
        DivergenceError
            If training diverges before any round is done.
        """
        waits = self.plan.strategy.updates_per_version is None
        versions = self._rounds(progress) if waits else self._versions(progress)
        try:
            for _ in versions:
                if self.on_round(progress) or self._out_of_patience(progress):
                    break
        except DivergenceError as error:
            if not progress.best_round:
                raise
            warnings.warn(
                f"training diverged after {progress.n_rounds} rounds ({error}); the model of "
                f"round {progress.best_round} is kept. Try a smaller learning rate",
                ConvergenceWarning,
                stacklevel=2,
            )
            self._restore_best(progress)
            return progress
        if self.schedule.patience is not None:
            self._restore_best(progress)
        return progress

    def _rounds(self, progress: Progress) -> Any:
        """Yield after each round in which all that were asked have replied or failed."""
        while progress.n_rounds < self.schedule.n_rounds:
            begun, before = time.perf_counter(), self.ledger.n_bytes
            names = self._cohort(progress.n_rounds)
            sent = self._round(progress)
            came, n_replies, errors = self._ask({n: self.channels[n] for n in names}, sent)
            if n_replies < self.schedule.min_replies or not came:
                self._give_up(errors, n_replies, len(names))
            _warn(errors)
            self._merge(progress, came, (n_replies, len(names)), begun, before)
            yield

    def _ask(
        self, channels: Mapping[str, Channel], sent: Round
    ) -> tuple[list[tuple[Update, np.ndarray]], int, list[PartyError]]:
        """Return updates with statistics, of how many parties they are, and why not of others."""
        if self.secure is not None:
            mean, n_replies, errors = self.secure(channels, sent)
            return mean, n_replies, errors
        replies = ask_all(list(channels.values()), [sent] * len(channels), Reply)
        came, errors = _read(list(channels), replies, sent)
        return came, len(came), errors

    def _versions(self, progress: Progress) -> Any:
        """Yield after each version of the model, where parties are not waited for.

        In simulation time is simulated too: a party's speed is drawn once, the time of each of
        its trainings around it. As a party's reply depends on nothing but what it was sent, it
        trains when its time is over.
        """
        names = list(self.channels)
        # Paces are drawn from a generator of their own, so that they are the same when resumed.
        drawn = np.random.default_rng([self.plan.seed, 1]).lognormal(sigma=0.75, size=len(names))
        pace = dict(zip(names, drawn, strict=True))
        resumed = progress.flight is not None
        flight = progress.flight or Flight(np.random.default_rng([self.plan.seed, 3]))
        progress.flight = flight

        def start(name: str) -> None:
            end = flight.clock + pace[name] * flight.rng.uniform(0.5, 1.5)
            sent = replace(self._round(progress), index=flight.n_started)
            heapq.heappush(flight.under_way, (end, flight.n_started, name, progress.n_rounds, sent))
            flight.n_started += 1

        if not resumed:
            for name in flight.rng.choice(names, size=self.schedule.cohort, replace=False):
                start(str(name))
        in_a_row: list[PartyError] = []
        while progress.n_rounds < self.schedule.n_rounds:
            begun, before = time.perf_counter(), self.ledger.n_bytes
            came: list[tuple[Update, np.ndarray]] = []
            asked = 0
            while len(came) < (self.plan.strategy.updates_per_version or 1):
                flight.clock, _, name, version, sent = heapq.heappop(flight.under_way)
                asked += 1
                read, errors = _read([name], ask_all([self.channels[name]], [sent], Reply), sent)
                in_a_row = [] if read else [*in_a_row, *errors]
                if len(in_a_row) > len(names):
                    self._give_up(in_a_row, 0, len(in_a_row))
                _warn(errors)
                staleness = progress.n_rounds - version
                came += [(replace(update, staleness=staleness), b) for update, b in read]
                busy = {each[2] for each in flight.under_way}
                start(str(flight.rng.choice([n for n in names if n not in busy])))
            self._merge(progress, came, (len(came), asked), begun, before)
            yield

    def _round(self, progress: Progress) -> Round:
        vectors = self.plan.strategy.send(progress.state).astype(np.float32)
        if not np.isfinite(vectors).all():
            raise DivergenceError("the coordinator", "the shared parameters are NaN or infinite")
        return Round(
            fit=self.plan.fit,
            index=progress.n_rounds,
            vectors=vectors,
            buffers=progress.buffers.astype(np.float32),
        )

    def _cohort(self, index: int) -> list[str]:
        names = list(self.channels)
        if self.schedule.cohort >= len(names):
            return names
        rng = np.random.default_rng([self.plan.seed, 2, index])
        chosen = rng.choice(len(names), size=self.schedule.cohort, replace=False)
        return [names[i] for i in np.sort(chosen)]

    def _give_up(self, errors: list[PartyError], n_replies: int, n_asked: int) -> None:
        for error in errors:
            _raise_refusal(error)
        first = errors[0]
        if all(isinstance(error, DivergenceError) for error in errors):
            raise first
        raise PartyError(
            first.party,
            f"{first.problem}. Only {n_replies} of {n_asked} parties replied in this round, at "
            f"least {self.schedule.min_replies} are needed (min_parties)",
        ) from first

    def _merge(
        self,
        progress: Progress,
        came: list[tuple[Update, np.ndarray]],
        counts: tuple[int, int],
        begun: float,
        bytes_before: int,
    ) -> None:
        """Make the next state, and write down how it went; counts are of replies and requests."""
        n_replies, n_asked = counts
        updates = [update for update, _ in came]
        rows = np.array([update.n_rows for update in updates], dtype=np.float64)
        setting = Setting(self.layout, len(self.channels))
        strategy = self.plan.strategy
        released = updates if self.release is None else self.release(updates, n_asked)
        state = strategy.at_coordinator(progress.state, released, setting)
        if not all(np.isfinite(vector).all() for vector in state.values()):
            raise DivergenceError("the coordinator", "the shared parameters became NaN or infinite")
        buffers = strategy.merge_buffers(np.stack([b for _, b in came]).astype(np.float64), rows)
        losses = np.array([update.loss for update in updates])
        progress.state, progress.buffers = state, buffers
        progress.n_rounds += 1
        record = {
            "round": progress.n_rounds,
            "loss": float(np.average(losses, weights=rows)) if self.tells_loss else np.nan,
            "replies": n_replies,
            "dropped": n_asked - n_replies,
        }
        record |= self._evaluate(progress)
        record["bytes"] = self.ledger.n_bytes - bytes_before
        record["seconds"] = time.perf_counter() - begun
        progress.history.append(record)
        self._remember_best(progress)

    def _evaluate(self, progress: Progress) -> dict[str, float]:
        """Ask for loss and score on held-out rows, if anything depends on them."""
        if not self.watchers:
            return {}
        request = Evaluate(
            fit=self.plan.fit,
            parameters=progress.parameters.astype(np.float32),
            buffers=progress.buffers.astype(np.float32),
        )
        replies = ask_all(list(self.watchers.values()), [request] * len(self.watchers), Evaluated)
        came = [r for r in replies if isinstance(r, Evaluated) and r.n_rows > 0]
        if not came:
            return {"held_out_loss": np.inf, "held_out_score": -np.inf}
        weights = [reply.n_rows for reply in came]
        return {
            "held_out_loss": float(np.average([r.loss for r in came], weights=weights)),
            "held_out_score": float(np.average([r.score for r in came], weights=weights)),
        }

    def _remember_best(self, progress: Progress) -> None:
        key = "held_out_loss" if self.watchers else "loss"
        earlier = [record[key] for record in progress.history[:-1]]
        if progress.history[-1][key] < min(earlier, default=np.inf):
            progress.best = np.concatenate([progress.parameters, progress.buffers])
            progress.best_round = progress.n_rounds

    def _restore_best(self, progress: Progress) -> None:
        if progress.best_round:
            parameters, buffers = np.split(progress.best, [self.layout.size])
            progress.state = {**progress.state, "parameters": parameters}
            progress.buffers = buffers

    def _out_of_patience(self, progress: Progress) -> bool:
        patience = self.schedule.patience
        return patience is not None and progress.n_rounds - progress.best_round >= patience


def _read(
    names: Sequence[str], replies: Sequence[Reply | PartyError], sent: Round
) -> tuple[list[tuple[Update, np.ndarray]], list[PartyError]]:
    """Return the updates and statistics that can be used, and why others cannot."""
    came, errors = [], []
    for name, reply in zip(names, replies, strict=True):
        try:
            if isinstance(reply, PartyError):
                raise reply
            came.append(read_update(reply, name, sent))
        except PartyError as error:
            errors.append(error)
    return came, errors


def _warn(errors: list[PartyError]) -> None:
    for error in errors:
        _raise_refusal(error)
        warnings.warn(f"{error}. It is left out of this round", DroppedPartyWarning, stacklevel=2)


def _raise_refusal(error: PartyError) -> None:
    if isinstance(error, BudgetSpent | PolicyRefusal):
        raise error  # it would say the same in every round


def begin(
    channels: Mapping[str, Channel], plan: RoundsPlan, held_out: Mapping[str, float]
) -> dict[str, Ready]:
    """Ask every party to begin; those that cannot are left out with a warning.

    Parameters
    ----------
    channels : mapping of str to Channel
        The parties.
    plan : RoundsPlan
        What they are told.
    held_out : mapping of str to float
        Share of its rows that a party holds out.

    Returns
    -------
    dict of str to Ready
        The reply of each party that takes part.

    Raises
    ------
    PartyError
        If none can, or one alone of several: that would be no federation.
    """
    requests = [plan.begin(held_out[name]) for name in channels]
    replies = dict(zip(channels, ask_all(list(channels.values()), requests, Ready), strict=True))
    ready = {name: reply for name, reply in replies.items() if isinstance(reply, Ready)}
    errors = [reply for reply in replies.values() if isinstance(reply, PartyError)]
    if errors and len(ready) < 2:
        raise errors[0]
    for error in errors:
        warnings.warn(f"{error}. It is left out", DroppedPartyWarning, stacklevel=2)
    return ready
