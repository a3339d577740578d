"""Training in rounds: over a plain torch loop of the same arithmetic, and with many parties."""

from __future__ import annotations

import copy
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.peers import PEERS, seconds_of_rounds
from benchmarks.speed import ratio
from fedtl import FederatedFineTuner
from fedtl.learning.local._module import ModuleModel
from fedtl.protocols.rounds import round_seed
from fedtl.solvers.rounds import Coordinator

_ROUNDS, _LR, _BATCH, _SEED = 20, 0.1, 32, 5


def _digits() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


def _mlp(hidden: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def _tuner(net: nn.Module, **params: object) -> FederatedFineTuner:
    given = {"n_rounds": _ROUNDS, "lr": _LR, "batch_size": _BATCH, "random_state": _SEED}
    return FederatedFineTuner(net, **{**given, **params})


def _plain_loop(net: nn.Module, X: np.ndarray, y: np.ndarray, party: np.ndarray) -> np.ndarray:
    """FedAvg as one would write it by hand: the same batches, steps and averages."""
    seed = int(np.random.RandomState(_SEED).randint(2**31 - 1))
    net = copy.deepcopy(net)
    blocks = [
        (str(p), torch.from_numpy(X[party == p]), torch.from_numpy(y[party == p]))
        for p in np.unique(party)
    ]
    criterion = nn.CrossEntropyLoss()
    shared = nn.utils.parameters_to_vector(net.parameters()).detach().double()
    for index in range(_ROUNDS):
        total = torch.zeros_like(shared)
        for name, rows, targets in blocks:
            start = shared.float()
            nn.utils.vector_to_parameters(start.clone(), net.parameters())
            optimizer = torch.optim.SGD(net.parameters(), lr=_LR)
            generator = torch.Generator().manual_seed(round_seed(seed, index, name))
            order = torch.randperm(len(rows), generator=generator)
            for batch in order.split(_BATCH):
                optimizer.zero_grad()
                criterion(net(rows[batch]), targets[batch]).backward()
                optimizer.step()
            change = nn.utils.parameters_to_vector(net.parameters()).detach() - start
            total += change * (len(rows) / len(y))
        shared = shared + total
    return shared.float().numpy()


def rounds(repeats: int) -> Iterator[str]:
    """Ten parties, 20 rounds, digits: over the plain loop; the parameters are the same."""
    X, y = _digits()
    party, net = np.arange(len(y)) % 10, _mlp()
    fitted = _tuner(net).fit(X, y, party)
    plain = _plain_loop(net, X, y, party)
    difference = float(np.abs(fitted.model_.shared - plain).max())
    yield ratio("rounds: largest difference to the plain loop's parameters", [difference], 0.0)
    ratios = [
        _cpu_seconds(lambda: _tuner(net).fit(X, y, party))
        / _cpu_seconds(lambda: _plain_loop(net, X, y, party))
        for _ in range(max(repeats, 3))
    ]
    yield ratio("rounds / plain torch loop, 10 parties, 20 rounds of digits", ratios, 1.2)


def peers(repeats: int, install: bool = False) -> Iterator[str]:
    """Ten parties, 20 rounds, digits: over Flower's simulation and pfl-research's."""
    X, y = _digits()
    party, net = np.arange(len(y)) % 10, _mlp()
    if not install:
        yield f"rounds: {', '.join(PEERS.values())} are installed and compared only with --install"
        return
    initial = nn.utils.parameters_to_vector(net.parameters()).detach().numpy()
    job = {"X": X, "y": y, "party": party, "initial": initial}
    job |= {"lr": _LR, "batch_size": _BATCH, "n_rounds": _ROUNDS}
    bounds = dict(zip(PEERS.values(), (0.1, 1.0), strict=True))
    _tuner(net).fit(X, y, party)
    runs = seconds_of_rounds(job, lambda: _tuner(net).fit(X, y, party), max(repeats // 2, 3))
    for peer, pairs in runs.items():
        if isinstance(pairs, str):
            yield f"rounds: {peer} could not be installed or run: {pairs}"
            continue
        own, *theirs = np.median(pairs, axis=0)
        for column, what in enumerate(("rounds alone", "whole simulation")):
            yield ratio(
                f"rounds: whole fit in {own:.2f} s / {what} of {peer} in {theirs[column]:.2f} s",
                [pair[0] / pair[1 + column] for pair in pairs],
                bounds[peer],
            )


def many_parties(repeats: int) -> Iterator[str]:
    """Five hundred parties, 50 a round: what dispatching costs, and memory over 50 in all."""
    X, y = _digits()
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(y), 100 * 500)
    X, y, net = X[rows], y[rows], _mlp(256)
    party = np.arange(len(rows)) % 500
    for epochs in (1, 5):
        shares = []
        for _ in range(repeats):
            tuner = _tuner(net, n_rounds=5, cohort=50, local_epochs=epochs)
            in_rounds, trained = _cpu_seconds_of_rounds(partial(tuner.fit, X, y, party))
            shares.append(in_rounds / trained - 1.0)
        what = f"{epochs} epochs of 100 rows at 50 of 500 parties"
        yield ratio(f"rounds: dispatch / local training, {what}", shares, 0.1)
    peaks = []
    for n_parties in (50, 500):  # the same rows
        tracemalloc.start()
        _tuner(net, n_rounds=2, cohort=50).fit(X, y, party % n_parties)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    yield ratio(
        "rounds: peak memory, 500 / 50 parties of the same rows", [peaks[1] / peaks[0]], 1.2
    )


def _cpu_seconds(run: Callable[[], object]) -> float:
    """Return processor time of one call: on a busy machine, both sides' clocks stop alike."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def _cpu_seconds_of_rounds(fit: Callable[[], object]) -> tuple[float, float]:
    """Run a fit; return processor time of its rounds, and of the parties' training among it."""
    spent = {"run": 0.0, "train": 0.0}

    def timed(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            result: list[object] = []
            spent[call.__name__] += _cpu_seconds(lambda: result.append(call(*args, **kwargs)))
            return result[0]

        return wrapped

    with (
        mock.patch.object(Coordinator, "run", timed(Coordinator.run)),
        mock.patch.object(ModuleModel, "train", timed(ModuleModel.train)),
    ):
        fit()
    return spent["run"], spent["train"]


BENCHMARKS: dict[str, Callable[[int], Iterator[str]]] = {
    "rounds": rounds,
    "many_parties": many_parties,
}
