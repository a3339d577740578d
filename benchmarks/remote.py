"""Remote parties over simulated ones, on the loopback interface: ratios, bytes, many callers."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import select
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from benchmarks.speed import ratio, seconds
from fedtl import Encoder, FederatedTransferClassifier
from fedtl.datasets import make_federated_classification
from fedtl.federation import Federation, Ledger
from fedtl.identity import Identity
from fedtl.server import Server, serve
from fedtl.wire import Message, Tensor, message

_CALLERS, _SECONDS = 100, 60.0


@message("benchmark.echo/1")
class Echo(Message):
    """A message that comes back."""

    latents: Annotated[np.ndarray, Tensor("float32", ("rows", 64))]


class Proxy:
    """A TCP connection that counts bytes, and can be cut.

    Parameters
    ----------
    address : str
        Where it leads.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.target, self.up, self.n_bytes = (host, int(port)), True, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and take no more until `up` is set."""
        self.up = False
        for pair in self._pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                if not self.up:
                    inner.close()
                    continue
                pair = (inner, socket.create_connection(self.target))
                self._pairs.append(pair)
                threading.Thread(target=self._carry, args=(pair,), daemon=True).start()

    def _carry(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                for source in select.select(pair, [], [])[0]:
                    data = source.recv(2**16)
                    if not data:
                        raise OSError
                    self.n_bytes += len(data)
                    pair[1 - pair.index(source)].sendall(data)
        for each in pair:
            each.close()


def _party(folder: str, block: pd.DataFrame, pipe: multiprocessing.connection.Connection) -> None:
    """The other process: the party, and a bare gRPC server that echoes, with TLS and without."""
    import grpc

    server: Server = serve("shop", block, credentials=f"{folder}/shop", state=f"{folder}/state")
    answers = {**server.endpoint.service.answers, Echo.kind: ("benchmark", lambda _, echo: echo)}
    server.endpoint.service.answers = answers
    bare = grpc.server(ThreadPoolExecutor(8))
    handler = grpc.unary_unary_rpc_method_handler(lambda data, _: data)
    generic = grpc.method_handlers_generic_handler("bare", {"Echo": handler})
    bare.add_generic_rpc_handlers((generic,))
    own = Identity(f"{folder}/shop")
    credentials = grpc.ssl_server_credentials(
        [(own.key, own.certificate)], own.trust(), require_client_auth=True
    )
    ports = bare.add_secure_port("127.0.0.1:0", credentials), bare.add_insecure_port("127.0.0.1:0")
    bare.start()
    with server:
        pipe.send((server.address, *(f"127.0.0.1:{port}" for port in ports)))
        pipe.recv()
    bare.stop(0)


class Setting:
    """A bank here and a shop in a process of its own, with 20,000 rows.

    Parameters
    ----------
    n_rows : int
        Rows that both know.
    """

    def __init__(self, n_rows: int = 20_000) -> None:
        data = make_federated_classification(n_rows, n_features=6, overlap=1.0, random_state=0)
        self.X, self.y = data.data, np.asarray(data.target)
        owned = zip(("bank", "shop"), data.parties.values(), strict=True)
        self.columns = {name: list(self.X[own].columns) for name, own in owned}
        self._folder = tempfile.TemporaryDirectory()
        folder = self._folder.name
        made = {name: Identity.create(f"{folder}/{name}", name) for name in ("bank", "shop")}
        made["bank"].pin(made["shop"].certificate, made["shop"].fingerprint)
        made["shop"].pin(made["bank"].certificate, made["bank"].fingerprint)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        block = self.X[self.columns["shop"]]
        self._process = context.Process(target=_party, args=(folder, block, theirs))
        self._process.start()
        self.address, self.bare, self.plain = self._pipe.recv()
        self.credentials = f"{folder}/bank"

    def connect(self, **changed: Any) -> Federation:
        """Return a handle on the shop."""
        return Federation.connect(
            **{"credentials": self.credentials, "shop": self.address, **changed}
        )

    def estimator(self, federation: Federation | None, solver: str) -> Any:
        """Return an estimator with the shop simulated, or behind the federation."""
        names = ["bank", "shop"] if federation is None else ["bank"]
        parties = [(name, Encoder(), self.columns[name]) for name in names]
        return FederatedTransferClassifier(
            parties,
            federation=federation,
            solver=solver,
            privacy="none",
            max_iter=100,
            random_state=0,
        )

    @property
    def memory(self) -> float:
        """Resident memory of the shop's process, in MiB."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def __enter__(self) -> Setting:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pipe.send(None)
        self._process.join(30)
        self._folder.cleanup()


def remote(repeats: int) -> Iterator[str]:
    """Fits, a round trip, and bytes on the socket."""
    with Setting() as setting, setting.connect() as federation:
        X, y = setting.X, setting.y
        own = X[setting.columns["bank"]]
        for solver, bound in (("moments", 2.0), ("latent", 3.0)):
            simulated, real = setting.estimator(None, solver), setting.estimator(federation, solver)
            ratios = []
            for _ in range(repeats):
                local = seconds(partial(simulated.fit, X, y))
                ratios.append(seconds(partial(real.fit, own, y)) / local)
            yield ratio(f"remote / simulated fit, {solver}, 20,000 rows", ratios, bound)
        yield from _round_trip(setting, federation, repeats)
        for solver in ("moments", "latent"):
            proxy = Proxy(setting.address)
            with setting.connect(shop=proxy.address) as counted:
                setting.estimator(counted, solver).fit(own, y)
                share = proxy.n_bytes / counted.ledger.n_bytes
            yield ratio(f"bytes on the socket / ledger, {solver}", [share], 1.05)


def _round_trip(setting: Setting, federation: Federation, repeats: int) -> Iterator[str]:
    """A message of 64 KiB and its echo, between calls of bare gRPC with the same bytes."""
    import grpc

    [channel] = federation.channels(Ledger())
    echo = Echo(latents=np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32))
    body, own = echo.latents.tobytes(), Identity(setting.credentials)
    credentials = grpc.ssl_channel_credentials(own.trust("shop"), own.key, own.certificate)
    options = [("grpc.ssl_target_name_override", "shop")]
    medians = []
    with (
        grpc.secure_channel(setting.bare, credentials, options) as bare,
        grpc.insecure_channel(setting.plain) as plain,
    ):
        calls: list[Callable[[], object]] = [
            partial(channel.ask, echo, Echo),
            partial(bare.unary_unary("/bare/Echo"), body),
            partial(plain.unary_unary("/bare/Echo"), body),
        ]
        for _ in range(max(repeats, 5)):
            took = [[seconds(call) for call in calls] for _ in range(200)]
            medians.append(1e3 * np.median(took, axis=0))
    ours, theirs, without = np.transpose(medians)
    floor = "64 KiB round trip / bare gRPC call with the same mutual TLS"
    yield ratio(floor, list(ours / theirs), 2.0)
    yield (
        f"  {np.median(ours):.2f} ms over {np.median(theirs):.2f} ms; "
        f"a bare call without TLS takes {np.median(without):.2f} ms"
    )


def callers(repeats: int) -> Iterator[str]:
    """A hundred callers that predict at once, for a minute: latency, errors, memory."""
    with Setting(2000) as setting, setting.connect() as federation:
        own = setting.X[setting.columns["bank"]]
        clf = setting.estimator(federation, "moments").fit(own, setting.y)
        expected = clf.predict_proba(own)
        until, took, errors = time.monotonic() + _SECONDS, [], []
        memory = [setting.memory]

        def call(seed: int) -> None:
            rng = np.random.default_rng(seed)
            while time.monotonic() < until:
                rows = rng.integers(len(own), size=10)
                start = time.perf_counter()
                try:
                    right = np.allclose(clf.predict_proba(own.iloc[rows]), expected[rows])
                    errors.extend([] if right else ["a wrong prediction"])
                except Exception as error:
                    errors.append(repr(error))
                took.append(1e3 * (time.perf_counter() - start))

        threads = [threading.Thread(target=call, args=(i,)) for i in range(_CALLERS)]
        for thread in threads:
            thread.start()
        while time.monotonic() < until:
            time.sleep(5.0)
            memory.append(setting.memory)
        for thread in threads:
            thread.join()
        p = np.percentile(took, [50, 90, 99, 100])
        yield (
            f"{_CALLERS} callers for {_SECONDS:.0f} s: {len(took) / _SECONDS:.0f} predictions of "
            f"10 rows a second, {len(errors)} errors {errors[:1] or ''}"
        )
        yield (
            f"  latency in ms: median {p[0]:.0f}, 90 % {p[1]:.0f}, 99 % {p[2]:.0f}, "
            f"longest {p[3]:.0f}"
        )
        yield (
            f"  memory of the party in MiB: {memory[0]:.0f} before, {memory[1]:.0f} after 5 s, "
            f"{memory[-1]:.0f} at the end"
        )


BENCHMARKS: dict[str, Callable[[int], Iterator[str]]] = {"remote": remote, "callers": callers}
