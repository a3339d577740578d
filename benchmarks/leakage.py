"""The attack suite on real data: what partners could learn from a fit, protected and not.

    python -m benchmarks.leakage [names...] [--seeds 0 3]

The names are of data (cancer, digits, credit) or of what else is attacked (rounds, private_rounds,
ids). For every attack the mean over seeds of its score, its control, what it scores on what the
model tells in use, its excess over control or chance beside the margin for it, and in how many fits
it stayed below its bound: the margin, or half way from what it is compared with to 1 where that is
less. Credit needs the data directory that FEDTL_DATA names.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from fedtl import FederatedFineTuner, FederatedTransferClassifier
from fedtl.alignment import hash_to_group
from fedtl.datasets import fetch_credit_default, load_breast_cancer_parties, load_digits_halves
from fedtl.federation import Federation, record_transcript
from fedtl.identity import Identity
from fedtl.inspection import leakage_report
from fedtl.parties import Policy
from fedtl.privacy import DifferentialPrivacy
from fedtl.server import serve

_CREDIT_ROWS = 3_000
SETTINGS = {
    "moments, clear": {"solver": "moments", "privacy": "none"},
    "moments, sharing": {"solver": "moments", "privacy": "sharing"},
    "moments, paillier": {"solver": "moments", "privacy": "paillier"},
    "latent, clear": {"solver": "latent"},
    "latent, sharing": {"solver": "latent", "privacy": "sharing"},
    "latent, paillier": {"solver": "latent", "privacy": "paillier"},
}


def _cancer(seed: int):
    cancer = load_breast_cancer_parties()
    return cancer.data, cancer.target, cancer.parties


def _digits(seed: int):
    digits = load_digits_halves()
    return digits.data, (digits.target == 3).astype(int), digits.parties


def _credit(seed: int):
    credit = fetch_credit_default()
    rows = np.random.default_rng(seed).permutation(len(credit.data))[: _CREDIT_ROWS * 10 // 7]
    return credit.data.iloc[rows], credit.target.iloc[rows], credit.parties


DATA: dict[str, Callable] = {"cancer": _cancer, "digits": _digits, "credit": _credit}


def columns_apart(name: str, seeds: range, settings: list[str]) -> Iterator[str]:
    """Attack fits of parties with different columns, on 70 % of the rows."""
    for setting in settings:
        frames, scores, took = [], [], []
        for seed in seeds:
            X, y, parties = DATA[name](seed)
            X, X_test, y, y_test = train_test_split(
                X, y, test_size=0.3, random_state=seed, stratify=y
            )
            model = FederatedTransferClassifier(parties, random_state=seed, **SETTINGS[setting])
            with record_transcript() as transcript:
                model.fit(X, y)
            begun = time.perf_counter()
            report = leakage_report(model, X, y, transcript=transcript, random_state=seed)
            took.append(time.perf_counter() - begun)
            frames.append(report.to_frame())
            scores.append(roc_auc_score(y_test, model.predict_proba(X_test)[:, 1]))
        yield (
            f"\n{name}, {setting}: {len(X):,} rows, {np.mean(y == 1):.0%} of class 1, test AUC "
            f"{np.mean(scores):.4f}; attacks took {np.mean(took):.0f} s"
        )
        yield from table(frames)


def table(frames: list[pd.DataFrame]) -> Iterator[str]:
    """One line for each attack: means over fits, and how many fits withstood it."""
    whole = pd.concat(frames)
    tried = whole[~whole.verdict.str.startswith("not applicable")]
    # Which source serves best may change from fit to fit, unless each is an attack of its own.
    own = tried.attack.isin(["direct", "model completion"])
    tried = tried.assign(source=tried.source.where(own, ""))
    numbers = f"{'control':>8} {'in use':>7} {'excess':>7} {'margin':>7}"
    yield f"  {'attack':<58} {'score':>22} {numbers}  bound met"
    for (number, attack, source), group in tried.groupby(["number", "attack", "source"], sort=True):
        by = f"{number} {attack}" + (f" ({source})" if source else "")
        spread = f"({group.score_low.min():.3f}, {group.score_high.max():.3f})"
        yield (
            f"  {by:<58} {group.score.mean():6.3f} {spread:>15} {group.control.mean():8.3f} "
            f"{group.in_use.mean():7.3f} {group.excess.mean():7.3f} {group.margin.mean():7.2f}  "
            f"{group.withstood.sum()}/{len(group)}"
        )
    silent = whole[whole.verdict.str.startswith("not applicable")]
    for (number, attack), group in silent.groupby(["number", "attack"], sort=True):
        used = group.in_use.mean()
        in_use = "" if np.isnan(used) else f"; in use {used:.3f}"
        yield f"  {number} {attack}: {group.verdict.iloc[0]}{in_use}"


def rounds(seeds: range) -> Iterator[str]:
    """Attack local training on digits: few steps a round, and a model that remembers."""
    yield from _rounds(seeds, "none")


def private_rounds(seeds: range) -> Iterator[str]:
    """Attack the same under differential privacy of rows."""
    for epsilon in (1.0, 8.0):
        yield from _rounds(seeds, DifferentialPrivacy(epsilon, delta=1e-5))


def _rounds(seeds: range, privacy) -> Iterator[str]:
    X, y = load_digits(return_X_y=True)
    X = X / 16.0
    for name, n_rows, params in (
        ("one batch of 8 rows a party", 32, {"n_rounds": 1, "batch_size": 8}),
        ("5 rounds of 10 batches of 10 rows", 400, {"n_rounds": 5, "batch_size": 10}),
        ("60 rounds, batches of 10, few rows", 400, {"n_rounds": 60, "batch_size": 10}),
    ):
        frames = []
        for seed in seeds:
            kept = np.random.default_rng(seed).permutation(len(y))[:n_rows]
            torch.manual_seed(seed)
            net = torch.nn.Sequential(
                torch.nn.Linear(64, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 10)
            )
            tuner = FederatedFineTuner(net, lr=0.1, privacy=privacy, random_state=seed, **params)
            report = leakage_report(
                tuner,
                X[kept],
                y[kept],
                sample_party=np.arange(n_rows) % 4,
                n_shadows=16 if n_rows > 100 else 0,
                random_state=seed,
            )
            frames.append(report.to_frame())
        yield f"\nrounds, {name}: {n_rows} rows at 4 parties, privacy {privacy}"
        yield from table(frames)


def ids(seeds: range) -> Iterator[str]:
    """Attack ids that were matched over the network, and say what enumerating them takes."""
    codes = [b"%011d" % i for i in range(13_000_000_000, 13_000_200_000)]
    begun = time.perf_counter()
    for code in codes:
        hashlib.sha256(code).digest()
    plain = len(codes) / (time.perf_counter() - begun)
    begun = time.perf_counter()
    hash_to_group(codes[:5_000], 1)
    group = 5_000 / (time.perf_counter() - begun)
    yield f"\nids: {plain:,.0f} SHA-256/s: 10^9 plain hashes take {1e9 / plain / 3600:.2f} h"
    yield f"  {group:,.0f} maps to the group/s, before the other side's secret is needed for each"
    rng, n = np.random.default_rng(0), 400
    frame = pd.DataFrame(rng.normal(size=(n, 4)), index=13_000_000_000 + np.arange(n))
    frame.columns = ["a", "b", "c", "d"]
    y = (frame.a + frame.c > 0).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        bank, shop = (Identity.create(f"{folder}/{who}", who) for who in ("bank", "shop"))
        shop.pin(bank.certificate, bank.fingerprint)
        bank.pin(shop.certificate, shop.fingerprint)
        policy = Policy(max_aligned_ids=n * 3 // 2)
        server = serve("shop", frame[["c", "d"]], credentials=shop.directory, state=folder).start()
        try:
            with Federation.connect(credentials=bank.directory, shop=server.address) as handle:
                model = FederatedTransferClassifier(
                    {"bank": ["a", "b"]},
                    solver="moments",
                    privacy="none",
                    federation=handle,
                    random_state=0,
                )
                with record_transcript() as transcript:
                    model.fit(frame[["a", "b"]], y)
                report = leakage_report(
                    model,
                    frame[["a", "b"]],
                    y,
                    transcript=transcript,
                    policies={"shop": policy},
                )
        finally:
            server.stop()
    rows = report.to_frame()
    rows = rows[rows.number == "8"]
    yield from table([rows])
    yield f"  {rows.metric.iloc[-1]}"


def main() -> None:
    """Print a table for each kind of data and protection."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    others = {"rounds": rounds, "private_rounds": private_rounds, "ids": ids}
    parser.add_argument("names", nargs="*", help=f"of {', '.join([*DATA, *others])}")
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 3), metavar=("FROM", "TO"))
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    options = parser.parse_args()
    seeds = range(*options.seeds)
    for name in options.names or [*DATA, *others]:
        lines = others.get(name)
        found = lines(seeds) if lines else columns_apart(name, seeds, options.settings)
        for line in found:
            print(line, flush=True)


if __name__ == "__main__":
    main()
