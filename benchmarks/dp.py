"""What differential privacy costs in accuracy, and what an attack proves of epsilon at least.

``python -m benchmarks.dp rows canaries releases moments latents labels``, or some of them. The last
three take credit default from FEDTL_DATA.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.stats import beta
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import nn

from fedtl import Encoder, FederatedFineTuner, FederatedTransferClassifier
from fedtl.datasets import fetch_credit_default
from fedtl.federation import Channel, Ledger, Simulation
from fedtl.learning.columns import as_columns
from fedtl.learning.local import LocalRecipe, PrivateSteps, Shape
from fedtl.privacy import DifferentialPrivacy
from fedtl.privacy.accounting import calibrated
from fedtl.protocols import ANSWERS
from fedtl.protocols.predict import PROJECTION
from fedtl.protocols.private_latent import PrivateLatent
from fedtl.protocols.private_moments import PrivateMoments
from fedtl.protocols.session import open_session

SEEDS = range(3)
EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)


def rows() -> Iterator[str]:
    """Accuracy on digits of three parties of about 450 rows, by epsilon."""
    yield "| epsilon of a row | accuracy |\n|---|---|"
    digits = load_digits()
    for epsilon in (*EPSILONS, None):
        found = []
        for seed in SEEDS:
            X, X_test, y, y_test = train_test_split(
                digits.data / 16, digits.target, random_state=seed, stratify=digits.target
            )
            torch.manual_seed(seed)
            tuner = FederatedFineTuner(
                nn.Linear(64, 10),
                n_rounds=10,
                lr=0.5 if epsilon is None else 0.3,
                batch_size=128,
                privacy="none" if epsilon is None else DifferentialPrivacy(epsilon, clip=3.0),
                random_state=seed,
            )
            tuner.fit(X, y, sample_party=np.arange(len(y)) % 3)
            found.append(tuner.score(X_test, y_test))
        yield f"| {epsilon or 'none'} | {np.mean(found):.3f} ± {np.std(found):.3f} |"


def canaries(trials: int = 1000) -> Iterator[str]:
    """Lower bound on epsilon from a game: was a row of a class of its own in the training?"""
    yield "| claimed epsilon | attack's lower bound (95 %) | true, false positives |\n|---|---|---|"
    digits = load_digits()
    X, y = (digits.data[:200] / 16).astype(np.float32), digits.target[:200] % 9
    canary = np.full((1, 64), 10.0, dtype=np.float32)
    with_canary = np.concatenate([X, canary]), np.append(y, 9)
    # Neighbours differ by one row's gradient, so that both worlds divide by the same number: the
    # row that is taken out stays as one without gradient, a zero row of an output without bias.
    without = np.concatenate([X, np.zeros_like(canary)]), np.append(y, 9)
    for epsilon in (1.0, 4.0, 8.0):
        mechanism = calibrated(epsilon, 1e-5, 0.5, 4)
        steps = PrivateSteps(4, 0.5, 1.0, mechanism.noise_multiplier)
        scores = np.array(
            [
                [_game(rows, canary[0], steps) for rows in (with_canary, without)]
                for _ in range(trials)
            ]
        )
        bound, positives = lower_bound(scores[:, 0], scores[:, 1], 1e-5)
        yield f"| {epsilon:g} | {bound:.2f} | {positives[0]:.2f}, {positives[1]:.3f} |"


def _game(rows: tuple[np.ndarray, np.ndarray], canary: np.ndarray, steps: PrivateSteps) -> float:
    """Train, and return how far the canary's own direction was gone."""
    module = nn.Linear(64, 10, bias=False)
    nn.init.zeros_(module.weight)
    model = LocalRecipe(module, lr=1.0).build(Shape(64, 10), 0)
    model.train_privately(*rows, steps, seed=0)
    weight = model.read().shared.reshape(10, 64)
    return float((weight[9] - weight[:9].mean(axis=0)) @ canary)


def releases(trials: int = 1000) -> Iterator[str]:
    """The same of what a party of 200 rows tells with noise: moments, and latents of its rows.

    The canary is at the far end of every column. In its place stands a row in the middle of each,
    whose part in sums and whose latents are next to nothing. The attack knows the canary's columns
    and how the party encodes them.
    """
    yield "| told | claimed epsilon | attack's lower bound (95 %) | true, false positives |"
    yield "|---|---|---|---|"
    table = np.random.default_rng(0).normal(size=(200, 4))
    far, middle = table.copy(), table.copy()
    far[0], middle[0] = 5.0, np.median(table, axis=0)
    for told, play in (("moments", _told_moments), ("latents", _told_latents)):
        for epsilon in (1.0, 4.0, 8.0):
            privacy = DifferentialPrivacy(epsilon, 1e-5)
            scores = np.array(
                [[play(block, far[:1], privacy) for block in (far, middle)] for _ in range(trials)]
            )
            bound, positives = lower_bound(scores[:, 0], scores[:, 1], 1e-5)
            yield f"| {told} | {epsilon:g} | {bound:.2f} | {positives[0]:.2f}, {positives[1]:.3f} |"


def _opened(block: np.ndarray) -> tuple[Channel, np.ndarray]:
    [channel] = Simulation().parties({"shop": Encoder()}, ANSWERS).channels([block], Ledger())
    rows = np.arange(len(block))
    open_session(channel, "game", rows, resume=False)
    return channel, rows


def _encoded(channel: Channel, canary: np.ndarray) -> np.ndarray:
    features = channel._service.session("game").features
    return features.encoding_.transform(features.features(as_columns(canary)))


def _told_moments(block: np.ndarray, canary: np.ndarray, privacy: DifferentialPrivacy) -> float:
    """Return how far products with a target that only the canary has go in its direction."""
    (channel, rows), exchange = _opened(block), PrivateMoments(privacy)
    exchange.prepare(channel, "game", 0)
    _, cross, _ = exchange.ask_sums(
        channel,
        "game",
        rows,
        folds=np.zeros(len(rows), dtype=int),
        targets=(rows == 0).astype(float)[:, None],
        n_folds=1,
    )
    return float(_encoded(channel, canary)[0] @ cross[0, 1:, 0])


def _told_latents(block: np.ndarray, canary: np.ndarray, privacy: DifferentialPrivacy) -> float:
    """Return how far the first row's latents go in the direction of the canary's."""
    (channel, rows), exchange = _opened(block), PrivateLatent(privacy, 4)
    exchange.prepare(channel, "game", 0)
    latents, _, _ = exchange.told("shop", rows)
    projection = channel._service.session("game").state[PROJECTION]
    return float(projection.scores(_encoded(channel, canary))[0] @ latents[0])


def lower_bound(
    inside: np.ndarray, outside: np.ndarray, delta: float
) -> tuple[float, tuple[float, float]]:
    """Bound epsilon from below by the errors of a threshold that the first half of trials chose."""
    half = len(inside) // 2
    best, threshold = -np.inf, 0.0
    for t in np.quantile(np.r_[inside[:half], outside[:half]], np.linspace(0.02, 0.98, 97)):
        found = _epsilon(
            int((inside[:half] > t).sum()), int((outside[:half] > t).sum()), half, delta
        )
        if found > best:
            best, threshold = found, float(t)
    true, false = (int((scores[half:] > threshold).sum()) for scores in (inside, outside))
    n = len(inside) - half
    return max(_epsilon(true, false, n, delta), 0.0), (true / n, false / n)


def _epsilon(true: int, false: int, n: int, delta: float) -> float:
    """Clopper and Pearson's bounds of both rates, each at 97.5 %, in the definition of epsilon."""
    least = beta.ppf(0.025, true, n - true + 1) if true else 0.0
    most = beta.ppf(0.975, false + 1, n - false) if false < n else 1.0
    forward = np.log(max(least - delta, 1e-12) / most)
    most_missed = 1.0 - least
    least_kept = beta.ppf(0.025, n - false, false + 1) if false < n else 0.0
    return float(max(forward, np.log(max(least_kept - delta, 1e-12) / max(most_missed, 1e-12))))


def moments() -> Iterator[str]:
    """AUC on credit default, where the other party's sums are told with noise, by epsilon."""
    yield "| epsilon of a row | AUC | alone |\n|---|---|---|"
    yield from _credit((*EPSILONS, None), "row")


def latents() -> Iterator[str]:
    """AUC on credit default, where latents of the other party's rows are told with noise."""
    yield "| epsilon of a row | AUC | alone |\n|---|---|---|"
    yield from _credit((*EPSILONS, None), "row", "latent")


def labels() -> Iterator[str]:
    """AUC on credit default, where labels are told by randomised response, by epsilon."""
    yield "| epsilon of a label | AUC | alone, true labels |\n|---|---|---|"
    yield from _credit((*EPSILONS, None), "label")


def _credit(
    epsilons: tuple[float | None, ...], unit: str, solver: str = "moments"
) -> Iterator[str]:
    credit = fetch_credit_default()
    active = {"alone": next(iter(credit.parties.values()))}

    def auc(parties: Any, privacy: Any, seed: int) -> float:
        X, X_test, y, y_test = train_test_split(
            credit.data, credit.target, train_size=10_000, test_size=5_000, random_state=seed
        )
        model = FederatedTransferClassifier(
            parties, solver=solver, privacy=privacy, random_state=seed
        )
        return float(roc_auc_score(y_test, model.fit(X, y).predict_proba(X_test)[:, 1]))

    alone = np.mean([auc(active, "none", seed) for seed in SEEDS])
    for epsilon in epsilons:
        privacy: Any = "none" if epsilon is None else DifferentialPrivacy(epsilon, 1e-5, unit)
        found = [auc(credit.parties, privacy, seed) for seed in SEEDS]
        yield f"| {epsilon or 'none'} | {np.mean(found):.4f} ± {np.std(found):.4f} | {alone:.4f} |"


BENCHMARKS = {
    "rows": rows,
    "canaries": canaries,
    "releases": releases,
    "moments": moments,
    "latents": latents,
    "labels": labels,
}


def main() -> None:
    """Print one table for each name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}")
    for name in parser.parse_args().names or BENCHMARKS:
        for line in BENCHMARKS[name]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
