"""Entity alignment against openmined-psi, which has to be in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.speed import ratio
from fedtl import Encoder
from fedtl.federation import InProcessChannel, Ledger
from fedtl.parties import KeyedTable, PartyService
from fedtl.protocols import ANSWERS
from fedtl.protocols.alignment import align

N_IDS = 100_000
PEER = "openmined-psi==2.0.6"  # pins protobuf to one version, so that it cannot live beside ours
MAX_MEGABYTES = 10
BOUND = round(1 / 1.3, 3)

# One thread, both sides in one process; messages as bytes, as they would cross.
_PEER_RUN = """
import json, sys, time
import private_set_intersection.python as psi

n = int(sys.argv[1])
theirs = [f"customer-{i}" for i in range(n)]
ours = [f"customer-{i}" for i in range(n // 2, n + n // 2)]
start, cpu = time.perf_counter(), time.process_time()
client, server = psi.client.CreateWithNewKey(True), psi.server.CreateWithNewKey(True)
setup = server.CreateSetupMessage(1e-9, n, theirs).SerializeToString()
request = client.CreateRequest(ours).SerializeToString()
received = psi.Request(); received.ParseFromString(request)
response = server.ProcessRequest(received).SerializeToString()
first = psi.ServerSetup(); first.ParseFromString(setup)
second = psi.Response(); second.ParseFromString(response)
shared = client.GetIntersection(first, second)
elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps([elapsed, cpu, len(setup) + len(request) + len(response), len(shared)]))
"""


class Run(NamedTuple):
    """Seconds of both sides together, and bytes of all messages."""

    wall: float
    cpu: float
    n_bytes: int


def alignment(repeats: int, install: bool = False) -> Iterator[str]:
    """Align two tables of 100,000 ids that share half of them, by messages that are encoded.

    Parameters
    ----------
    repeats : int
        How often.
    install : bool, default=False
        Whether to install the other implementation, into a temporary environment.

    Yields
    ------
    str
        One line for each ratio.
    """
    with tempfile.TemporaryDirectory(prefix="fedtl-psi-") as folder:
        peer = _environment(Path(folder)) if install else None
        if peer is None:
            repeats = 1
            yield f"alignment: not compared, as {PEER} is installed only with --install"
        own: dict[int, list[Run]] = {1: [], 2: []}
        peers: list[Run] = []
        for _ in range(repeats):
            peers += [] if peer is None else [_peer_run(peer)]
            for n_threads, runs in own.items():
                runs.append(_own_run(n_threads))
    for n_threads, runs in own.items():
        yield _line(f"alignment of {N_IDS:,} ids a side, threads: {n_threads}", runs)
    n_bytes = own[1][0].n_bytes
    if peers:
        yield _line(f"{PEER}, 1 thread, {peers[0].n_bytes / 1e6:.1f} MB", peers)
        # Other processes do not count in processor time, and at one thread it is the time.
        pairs = list(zip(own[1], peers, strict=True))
        yield ratio("1 thread / 1 thread, processor time", [a.cpu / b.cpu for a, b in pairs], BOUND)
        pairs = list(zip(own[2], peers, strict=True))
        yield ratio("2 threads / 1 thread, time", [a.wall / b.wall for a, b in pairs], BOUND)
    yield ratio("megabytes on the wire, all messages", [n_bytes / 1e6], MAX_MEGABYTES)


def _own_run(n_threads: int) -> Run:
    """From a table and ids to positions."""
    frame = pd.DataFrame({"id": [f"customer-{i}" for i in range(N_IDS)], "value": 1.0})
    table = KeyedTable("shop", frame, key="id", n_threads=n_threads)
    keys = [f"customer-{i}" for i in range(N_IDS // 2, N_IDS + N_IDS // 2)]
    ledger = Ledger()
    channel = InProcessChannel(PartyService("shop", table, Encoder(), ANSWERS), ledger, True)
    start, cpu = time.perf_counter(), time.process_time()
    positions = align(channel, keys, n_threads=n_threads)
    run = Run(time.perf_counter() - start, time.process_time() - cpu, ledger.n_bytes)
    if (positions >= 0).sum() != N_IDS // 2:
        raise RuntimeError("the alignment is wrong")
    return run


def _line(what: str, runs: list[Run]) -> str:
    wall, cpu = (np.median([getattr(run, name) for run in runs]) for name in ("wall", "cpu"))
    return f"{what}: {wall:.1f} s, of processors {cpu:.1f} s, both sides"


def _environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", PEER], check=True)
    return python


def _peer_run(python: Path) -> Run:
    command = [python, "-c", _PEER_RUN, str(N_IDS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, cpu, n_bytes, n_shared = json.loads(done.stdout)
    if n_shared != N_IDS // 2:
        raise RuntimeError("the other implementation is wrong")
    return Run(wall, cpu, n_bytes)
