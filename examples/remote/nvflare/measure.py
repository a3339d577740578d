"""What NVIDIA FLARE costs: a message, a fit, and what fewer messages cost in accuracy.

    python -m examples.remote.nvflare.measure [messages] [fits] [accuracy]

The first two start a FLARE server, a bank and a shop as processes of this machine, and beside them
the same shop over gRPC with mutual TLS.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split

from benchmarks.remote import Setting
from examples.remote.nvflare.sites import Sites
from fedtl import Encoder, FederatedTransferClassifier
from fedtl.federation import Federation
from fedtl.federation._transport import Unreached

_UPDATES = (1, 2, 4, 8)


@contextmanager
def both(n_rows: int = 20_000) -> Iterator[tuple[Setting, Federation, Federation]]:
    """The data with a shop over gRPC, and handles on the shop over gRPC and over FLARE."""
    folder = Path(tempfile.mkdtemp(prefix="fl"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        setting = stack.enter_context(Setting(n_rows))
        sites = stack.enter_context(Sites(folder))
        sites.provision()
        sites.set_up_party("shop", setting.X[setting.columns["shop"]].reset_index(names="id"))
        sites.start("localhost")
        assert sites.admin
        sites.start("bank", "shop")
        sites.wait_for_sites(2)
        start = time.perf_counter()
        sites.open_session("shop")
        print(f"session open after {time.perf_counter() - start:.1f} s")
        direct = stack.enter_context(setting.connect())
        address = {"credentials": str(sites.workspace("bank")), "shop": "nvflare://shop"}
        engine = stack.enter_context(Federation.connect(**address))
        yield setting, direct, engine


def messages() -> None:
    """Round trips of bytes of different sizes, whose reply is short."""
    with both(1000) as (_, direct, engine):
        lines = {"gRPC": direct.lines.transports["shop"], "FLARE": engine.lines.transports["shop"]}
        for size, times in ((100, 200), (2**16, 200), (2**20, 50), (20 * 2**20, 5)):
            data = bytes(size)
            took: dict[str, list[float]] = {name: [] for name in lines}
            for _ in range(times):
                for name, transport in lines.items():
                    start = time.perf_counter()
                    try:
                        transport.send(data, 60.0)
                    except Unreached as error:
                        sys.exit(f"{name}: {error}")
                    took[name].append(1e3 * (time.perf_counter() - start))
            told = {
                name: f"{np.median(ms):.2f} ms (90 %: {np.percentile(ms, 90):.2f})"
                for name, ms in took.items()
            }
            print(f"{size:9d} bytes: " + ", ".join(f"{k} {v}" for k, v in told.items()))


def fits() -> None:
    """Fits with simulated parties, over gRPC and over FLARE."""
    with both() as (setting, direct, engine):
        own = setting.X[setting.columns["bank"]]
        for solver, updates in (("moments", 1), *(("latent", n) for n in _UPDATES)):
            took, said = {}, {}
            for name, federation in (("simulated", None), ("gRPC", direct), ("FLARE", engine)):
                clf = setting.estimator(federation, solver).set_params(local_updates=updates)
                X = setting.X if federation is None else own
                start = time.perf_counter()
                clf.fit(X, setting.y)
                took[name] = time.perf_counter() - start
                said[name] = clf.predict_proba(X)
            same = all(np.array_equal(said["simulated"], other) for other in said.values())
            told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items())
            print(
                f"{solver}, {updates} local updates, {clf.report_.n_messages} messages: {told}; "
                f"FLARE / simulated {took['FLARE'] / took['simulated']:.2f}, identical: {same}"
            )


def accuracy() -> None:
    """Accuracy on held-out rows over local updates an exchange, five seeds, simulated parties."""
    tasks = {"digits": load_digits(return_X_y=True), "cancer": load_breast_cancer(return_X_y=True)}
    for task, (X, y) in tasks.items():
        parties = {"a": slice(0, X.shape[1] // 2), "b": slice(X.shape[1] // 2, X.shape[1])}
        named = [(name, Encoder(), list(range(X.shape[1])[own])) for name, own in parties.items()]
        scores = np.empty((5, len(_UPDATES)))
        for seed in range(len(scores)):
            X_train, X_test, y_train, y_test = train_test_split(
                X, y, test_size=0.5, stratify=y, random_state=seed
            )
            for i, updates in enumerate(_UPDATES):
                clf = FederatedTransferClassifier(
                    named, solver="latent", local_updates=updates, random_state=seed
                )
                scores[seed, i] = clf.fit(X_train, y_train).score(X_test, y_test)
        for updates, column in zip(_UPDATES, scores.T, strict=True):
            less = scores[:, 0] - column
            print(
                f"{task}, {updates} local updates: accuracy {column.mean():.4f}, less than with "
                f"one by {less.mean():.4f} (+- {less.std(ddof=1) / np.sqrt(len(less)):.4f})"
            )


PARTS: dict[str, Callable[[], None]] = {"messages": messages, "fits": fits, "accuracy": accuracy}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
