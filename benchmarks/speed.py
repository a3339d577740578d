"""The ratios: each function yields lines of text with the median over repeats and its range."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import torch

from fedtl import Encoder
from fedtl.datasets import make_federated_classification
from fedtl.federation import Ledger, Simulation
from fedtl.learning.network import Head
from fedtl.learning.training import EncoderTraining, Schedule
from fedtl.parties import Session, Table
from fedtl.protocols import ANSWERS
from fedtl.protocols.latent import new_encoder
from fedtl.solvers.anchor import fit_anchor
from fedtl.solvers.coalition import Coalition
from fedtl.solvers.judge import Judge
from fedtl.solvers.latent import SupervisedObjective, Training, plan_sampling, train
from fedtl.solvers.pair import fit_pair
from fedtl.solvers.problem import Problem
from fedtl.solvers.transfer import Settings

_N_FEATURES = 6
_STEPS = 100


def prepared(n_rows: int) -> tuple[Coalition, Problem]:
    """Two parties that share all rows, each with 102 to 108 encoded columns."""
    data = make_federated_classification(
        n_rows, n_features=_N_FEATURES, overlap=1.0, random_state=0
    )
    blocks = [data.data[columns].to_numpy() for columns in data.parties.values()]
    services = Simulation().parties({"passive": Encoder()}, ANSWERS)
    channels = services.channels(blocks[1:], Ledger())
    coalition = Coalition.begin("benchmark", Table(blocks[0]), channels, "active", Encoder())
    known = coalition.align(resume=False)
    coalition.prepare([16, 16], seed=0)
    problem = Problem(
        task="binary",
        target=np.asarray(data.target, dtype=np.float64)[:, None],
        labeled=np.ones(n_rows, dtype=bool),
        weight=np.ones(n_rows),
        known=known,
        n_folds=5,
        seed=0,
    )
    return coalition, problem


def ratio(name: str, values: list[float], bound: float) -> str:
    """Format the median of some ratios, their range, and what it must not exceed."""
    median = float(np.median(values))
    verdict = "ok" if median <= bound else "TOO SLOW"
    return (
        f"{name}: {median:.3f} (from {min(values):.3f} to {max(values):.3f}), "
        f"at most {bound}: {verdict}"
    )


def seconds(run: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def latent(repeats: int) -> Iterator[str]:
    """Joint training over the border, over a plain loop that trains the same network."""
    coalition, problem = prepared(20_000)
    settings = Settings("latent", 16, _STEPS, 1, 512, 3e-3)
    ratios = [
        seconds(lambda: _over_the_border(coalition, problem, settings))
        / seconds(lambda: _plain_loop(coalition, problem, settings))
        for _ in range(repeats)
    ]
    yield ratio("latent solver / plain torch loop, 20,000 rows", ratios, 1.15)


def _training(problem: Problem, settings: Settings) -> Training:
    generator = torch.Generator().manual_seed(0)
    head = Head((5, settings.n_components, 2, 1), generator)
    return Training(
        known=problem.known,
        sampling=plan_sampling(problem.known, np.arange(len(problem.known)), settings.batch_size),
        plan=settings.plan(5),
        objective=SupervisedObjective(problem, head, 5),
        head=head,
        task="binary",
        seed=0,
    )


def _over_the_border(coalition: Coalition, problem: Problem, settings: Settings) -> None:
    train(coalition, _training(problem, settings))


def _plain_loop(coalition: Coalition, problem: Problem, settings: Settings) -> None:
    """The same encoders, head, losses, batches and optimiser in one graph, without parties."""
    training = _training(problem, settings)
    service = coalition.channels[0]._service  # the benchmark is both parties
    sessions: list[Session] = [coalition.session, service.sessions[coalition.name]]
    rows = np.arange(len(problem.known))
    parts = [
        EncoderTraining(
            new_encoder(session.features, training.plan, seed),
            session.features.latent_input(session.columns, rows),
            n_steps=_STEPS,
            n_local_rows=0,
            lr=settings.lr,
            trunk_lr=settings.lr,
            seed=seed,
        )
        for seed, session in enumerate(sessions)
    ]
    schedule = Schedule([(training.head.parameters(), settings.lr)], _STEPS)
    schedules = [schedule, *(part.schedule for part in parts)]
    rng = np.random.default_rng(0)
    for _ in range(_STEPS):
        batch = training.sampling.draw(rng)
        positions = torch.from_numpy(batch)
        latents = torch.stack([part.latents(positions) for part in parts], dim=2)
        loss = training.objective(latents, batch) + sum(part.auxiliary for part in parts)
        for each in schedules:
            each.zero_grad()
        loss.backward()
        for each in schedules:
            each.step()


def moments(repeats: int) -> Iterator[str]:
    """What the federation adds, over the active party's own anchor; and its peak memory."""
    coalition, problem = prepared(20_000)
    anchor = fit_anchor(coalition.session, problem)
    width = coalition.session.features.encoding_.width
    ratios = [
        seconds(lambda: fit_pair(coalition, 1, problem, anchor, Judge(problem, anchor)))
        / seconds(lambda: fit_anchor(coalition.session, problem))
        for _ in range(repeats)
    ]
    yield ratio(f"moments / anchor, 20,000 rows, {width} encoded columns", ratios, 0.5)
    peaks = {}
    for n_rows in (10_000, 20_000, 40_000):
        coalition, problem = prepared(n_rows)
        anchor = fit_anchor(coalition.session, problem)
        tracemalloc.start()
        fit_pair(coalition, 1, problem, anchor, Judge(problem, anchor))
        peaks[n_rows] = tracemalloc.get_traced_memory()[1] / (n_rows * width * 8)
        tracemalloc.stop()
    for n_rows, copies in peaks.items():
        yield ratio(f"peak memory of moments / encoded block, {n_rows:,} rows", [copies], 2.0)


def imports(repeats: int) -> Iterator[str]:
    """Importing fedtl, over importing scikit-learn and torch, each in a new process."""
    ratios = [
        seconds(lambda: _run("import fedtl")) / seconds(lambda: _run("import sklearn, torch"))
        for _ in range(repeats)
    ]
    yield ratio("import fedtl / import sklearn, torch", ratios, 1.25)


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


BENCHMARKS: dict[str, Callable[[int], Iterator[str]]] = {
    "latent": latent,
    "moments": moments,
    "imports": imports,
}
