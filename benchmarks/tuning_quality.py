"""What strategies are worth on digits, over five seeds: ``python -m benchmarks.tuning_quality``.

Ten parties; labels equally distributed (iid) or skewed by a Dirichlet distribution of .3. Test
rows are half of each party's rows where parties are served by models of their own, and a quarter
where some of them are hostile.
"""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import nn

from fedtl import FederatedFineTuner
from fedtl.exceptions import DroppedPartyWarning, PartyError
from fedtl.learning.strategies import Median, MultiKrum, TrimmedMean
from fedtl.protocols import rounds

N_PARTIES = 10
HOSTILE = ("0", "1")
ROBUST: dict[str, Any] = {"lr": 0.5, "batch_size": 64, "n_rounds": 100, "local_epochs": 1}


def skewed(y: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Give each class's rows to parties in shares drawn from a Dirichlet distribution."""
    party = np.empty(len(y), dtype=int)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        shares = rng.dirichlet(np.full(N_PARTIES, alpha))
        party[rows] = np.repeat(
            np.arange(N_PARTIES),
            np.diff(np.r_[0, np.round(np.cumsum(shares) * len(rows))]).astype(int),
        )
    return party


def mlp(seed: int) -> nn.Module:
    """A network with two hidden layers, the second of which is under the head."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )


class Data:
    """Digits of ten parties; training and test rows of each.

    Parameters
    ----------
    seed : int
        Seed of split and skew.
    alpha : float or None
        Parameter of the Dirichlet distribution; None for equal distributions.
    test_share : float
        Share of each party's rows that it is tested on.
    """

    def __init__(self, seed: int, alpha: float | None, test_share: float) -> None:
        X, y = load_digits(return_X_y=True)
        rng = np.random.default_rng(seed)
        party = rng.permutation(len(y)) % N_PARTIES if alpha is None else skewed(y, alpha, rng)
        frame = pd.DataFrame((X / 16).astype(np.float32)).rename(columns=str).assign(party=party)
        test = np.zeros(len(y), dtype=bool)
        for p in range(N_PARTIES):
            rows = rng.permutation(np.flatnonzero(party == p))
            test[rows[: round(test_share * len(rows))]] = True
        self.X, self.y, self.X_test, self.y_test = frame[~test], y[~test], frame[test], y[test]

    def score(self, seed: int, **params: Any) -> float:
        """Fit on training rows and return the accuracy on test rows of all parties."""
        given = {"n_rounds": 40, "lr": 0.1, "batch_size": 16, "local_epochs": 2}
        tuner = FederatedFineTuner(
            mlp(seed), party="party", random_state=seed, **{**given, **params}
        )
        return tuner.fit(self.X, self.y).score(self.X_test, self.y_test)


def poisoned(run: Callable[[], float]) -> float:
    """Run while two parties send ten times the opposite of their change."""
    answer = rounds.answer_round

    def flipped(recipe: Any, party: Any, request: Any) -> Any:
        reply = answer(recipe, party, request)
        if party.name in HOSTILE:
            reply = dataclasses.replace(reply, values=-10 * reply.values)
        return reply

    with mock.patch.object(rounds, "answer_round", flipped):
        return run()


def main() -> None:
    """Print mean and standard deviation of each variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("parts", nargs="*", default=["personal", "dropout", "iid", "skewed"])
    options = parser.parse_args()
    seeds = range(options.seeds)
    if "personal" in options.parts:
        personalised({seed: Data(seed, 0.3, 0.5) for seed in seeds})
    if "dropout" in options.parts:
        dropout({seed: Data(seed, 0.3, 0.25) for seed in seeds})
    for kind, alpha in (("iid", None), ("skewed", 0.3)):
        if kind in options.parts:
            robust(kind, {seed: Data(seed, alpha, 0.25) for seed in seeds})


def personalised(data: dict[int, Data]) -> None:
    """Show what serves parties with skewed labels best."""
    variants: dict[str, dict[str, Any]] = {
        "fedavg": {},
        "local": {"deploy": "local"},
        "fine-tuned": {"deploy": "fine-tuned"},
        "personal head": {"personal": ("4",)},
        "personal head and layer below": {"personal": ("2", "4")},
        "ditto": {"strategy": "ditto"},
    }
    for name, params in variants.items():
        show(f"skewed, {name}", [data[seed].score(seed, **params) for seed in data])


def robust(kind: str, data: dict[int, Data]) -> None:
    """Show what robust rules cost, and what they save."""
    rules: dict[str, Any] = {
        "fedavg": "fedavg",
        "median": Median(),
        "median without mixing": Median(mixing=False),
        "trimmed mean": TrimmedMean(),
        "trimmed mean without mixing": TrimmedMean(mixing=False),
        "multi-krum": MultiKrum(),
    }
    for name, rule in rules.items():
        for attack, run in (("no attack", _clean), ("two of ten hostile", poisoned)):
            scores = [run(partial(data[s].score, s, strategy=rule, **ROBUST)) for s in data]
            show(f"{kind}, {name}, {attack}", scores)


def dropout(data: dict[int, Data]) -> None:
    """Show what it costs that half of the parties, others each time, drop out of every round."""
    answer = rounds.answer_round

    def half(recipe: Any, party: Any, request: Any) -> Any:
        order = np.random.default_rng(request.index).permutation(N_PARTIES)
        if int(party.name) in order[: N_PARTIES // 2]:
            raise PartyError(party.name, "dropped out")
        return answer(recipe, party, request)

    show("skewed, all reply", [data[s].score(s) for s in data])
    with mock.patch.object(rounds, "answer_round", half), warnings.catch_warnings():
        warnings.simplefilter("ignore", DroppedPartyWarning)
        show("skewed, half drop out of each round", [data[s].score(s) for s in data])


def _clean(run: Callable[[], float]) -> float:
    return run()


def show(name: str, scores: list[float]) -> None:
    """Print one line."""
    print(f"{name}: {np.mean(scores):.3f} +- {np.std(scores):.3f}", flush=True)


if __name__ == "__main__":
    main()
