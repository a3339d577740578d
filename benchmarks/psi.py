"""Entity alignment against openmined-psi, which has to be in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.speed import ratio, seconds
from fedtl import Encoder
from fedtl.federation import InProcessChannel, Ledger
from fedtl.parties import KeyedTable, PartyService
from fedtl.protocols import ANSWERS
from fedtl.protocols.alignment import align

N_IDS = 100_000
PEER = "openmined-psi==2.0.6"  # pins protobuf to one version, so that it cannot live beside ours
MAX_MEGABYTES = 10

# One thread, both sides in one process; messages as bytes, as they would cross.
_PEER_RUN = """
import json, sys, time
import private_set_intersection.python as psi

n = int(sys.argv[1])
theirs = [f"customer-{i}" for i in range(n)]
ours = [f"customer-{i}" for i in range(n // 2, n + n // 2)]
start = time.perf_counter()
client, server = psi.client.CreateWithNewKey(True), psi.server.CreateWithNewKey(True)
setup = server.CreateSetupMessage(1e-9, n, theirs).SerializeToString()
request = client.CreateRequest(ours).SerializeToString()
received = psi.Request(); received.ParseFromString(request)
response = server.ProcessRequest(received).SerializeToString()
first = psi.ServerSetup(); first.ParseFromString(setup)
second = psi.Response(); second.ParseFromString(response)
shared = client.GetIntersection(first, second)
elapsed = time.perf_counter() - start
print(json.dumps([elapsed, len(setup) + len(request) + len(response), len(shared)]))
"""


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
        times: dict[int, list[float]] = {1: [], 2: []}
        peers = []
        for _ in range(repeats):
            if peer is not None:
                peers.append(_peer_run(peer))
            for n_threads, measured in times.items():
                elapsed, n_bytes = _own_run(n_threads)
                measured.append(elapsed)
    for n_threads, measured in times.items():
        what = f"alignment of {N_IDS:,} ids a side, {n_threads} thread{'s' * (n_threads > 1)}"
        yield f"{what}: {np.median(measured):.1f} s, both sides"
        if peers:
            against = f"{what} / {PEER}, 1 thread ({np.median(peers):.1f} s)"
            ratios = [own / other for own, other in zip(measured, peers, strict=True)]
            yield ratio(against, ratios, round(1 / 1.3, 3))
    yield ratio("megabytes on the wire, all messages", [n_bytes / 1e6], MAX_MEGABYTES)


def _own_run(n_threads: int) -> tuple[float, int]:
    """Seconds from a table and ids to positions, and bytes of all messages."""
    frame = pd.DataFrame({"id": [f"customer-{i}" for i in range(N_IDS)], "value": 1.0})
    table = KeyedTable("shop", frame, key="id", n_threads=n_threads)
    keys = [f"customer-{i}" for i in range(N_IDS // 2, N_IDS + N_IDS // 2)]
    ledger = Ledger()
    channel = InProcessChannel(PartyService("shop", table, Encoder(), ANSWERS), ledger, True)
    found = []
    elapsed = seconds(lambda: found.append(align(channel, keys, n_threads=n_threads)))
    if (found[0] >= 0).sum() != N_IDS // 2:
        raise RuntimeError("the alignment is wrong")
    return elapsed, ledger.n_bytes


def _environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", PEER], check=True)
    return python


def _peer_run(python: Path) -> float:
    command = [python, "-c", _PEER_RUN, str(N_IDS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    elapsed, _, n_shared = json.loads(done.stdout)
    if n_shared != N_IDS // 2:
        raise RuntimeError("the other implementation is wrong")
    return elapsed
