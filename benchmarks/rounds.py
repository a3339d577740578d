"""Training in rounds: over a plain torch loop of the same arithmetic, and with many parties."""

from __future__ import annotations

import copy
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.peers import PEERS, seconds_of_rounds
from benchmarks.speed import ratio, seconds
from fedtl import FederatedFineTuner
from fedtl.protocols.rounds import round_seed

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
        seconds(lambda: _tuner(net).fit(X, y, party))
        / seconds(lambda: _plain_loop(net, X, y, party))
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
    repeats = max(repeats // 2, 3)
    bounds = dict(zip(PEERS.values(), (0.1, 1.0), strict=True))
    _tuner(net).fit(X, y, party)
    for peer, theirs in seconds_of_rounds(job, repeats):
        if isinstance(theirs, str):
            yield f"rounds: {peer} could not be installed or run: {theirs}"
            continue
        own = [seconds(lambda: _tuner(net).fit(X, y, party)) for _ in theirs]
        ratios = [ours / rounds for ours, rounds in zip(own, theirs, strict=True)]
        yield ratio(
            f"rounds: whole fit in {np.median(own):.2f} s / rounds of {peer} in "
            f"{np.median(theirs):.2f} s",
            ratios,
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
            trained = _seconds_of_training(partial(tuner.fit, X, y, party))
            shares.append(sum(r["seconds"] for r in tuner.history_) / trained - 1.0)
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


def _seconds_of_training(fit: Callable[[], object]) -> float:
    """Run a fit and return the seconds that parties spent on their own training."""
    from fedtl.learning.local import _module

    total = 0.0
    train = _module.ModuleModel.train

    def timed(*args: object, **kwargs: object) -> object:
        nonlocal total
        result: list[object] = []
        total += seconds(lambda: result.append(train(*args, **kwargs)))
        return result[0]

    _module.ModuleModel.train = timed
    try:
        fit()
    finally:
        _module.ModuleModel.train = train
    return total


BENCHMARKS: dict[str, Callable[[int], Iterator[str]]] = {
    "rounds": rounds,
    "many_parties": many_parties,
}
