"""Parties with identities that know one another, in this process or in their own."""

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.utils import Bunch

from fedtl import Encoder
from fedtl.federation import Federation
from fedtl.identity import Identity
from fedtl.server import serve

if not (find_spec("grpc") and find_spec("cryptography")):
    collect_ignore_glob = ["test_*.py"]

ROOT = Path(__file__).parents[2]
NAMES = ("bank", "shop", "post")


def make_identities(folder, *names):
    """Identities of a bank and its partners, who have pinned one another."""
    made = {name: Identity.create(folder / name, name) for name in ("bank", *names)}
    for name in names:
        made[name].pin(made["bank"].certificate, made["bank"].fingerprint)
        made["bank"].pin(made[name].certificate, made[name].fingerprint)
    return made


def make_data(n=200, n_parties=2, task="binary", seed=0):
    """Rows of which each party has two columns and does not know a tenth."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, n_parties))
    X = np.repeat(factors, 2, axis=1) + 0.4 * rng.normal(size=(n, 2 * n_parties))
    known = rng.random((n, n_parties)) < 0.9
    known[: n // 2] = True
    X[~np.repeat(known, 2, axis=1)] = np.nan
    signal = factors.sum(axis=1)
    y = (signal > 0).astype(int) if task == "binary" else 3.0 * signal
    frame = pd.DataFrame(X, columns=[f"{n}{i}" for n in NAMES[:n_parties] for i in (1, 2)])
    columns = {name: [f"{name}1", f"{name}2"] for name in NAMES[:n_parties]}
    return Bunch(
        X=frame,
        own=frame[columns["bank"]],
        y=y,
        parties=[(name, Encoder(), own) for name, own in columns.items()],
        blocks={name: frame[own] for name, own in columns.items()},
    )


class World:
    """A bank, and partners that answer on the loopback interface."""

    def __init__(self, folder, data, **settings):
        self.folder, self.data = folder, data
        partners = [name for name in data.blocks if name != "bank"]
        self.identities = make_identities(folder, *partners)
        self.servers = {
            name: serve(
                name,
                data.blocks[name],
                credentials=folder / name,
                state=folder / f"state-{name}",
                **settings,
            ).start()
            for name in partners
        }
        self._handles = []

    def connect(self, credentials="bank", **settings):
        """Return a handle of the bank."""
        addresses = {name: server.address for name, server in self.servers.items()}
        settings = {"deadline": 60.0, "reconnect": 5.0, **settings, **addresses}
        handle = Federation.connect(credentials=self.folder / credentials, **settings)
        self._handles.append(handle)
        return handle

    def audit_log(self, name="shop"):
        return self.folder / f"state-{name}" / "audit.jsonl"

    @property
    def n_sessions(self):
        return {name: server.endpoint.n_sessions for name, server in self.servers.items()}

    def stop(self):
        for handle in self._handles:
            handle.close()
        for server in self.servers.values():
            server.stop(1.0)


@pytest.fixture
def world(tmp_path):
    """A function that sets up a world; all of them are taken down in the end."""
    worlds = []

    def make(data=None, **settings):
        folder = tmp_path / str(len(worlds))
        worlds.append(World(folder, data or make_data(), **settings))
        return worlds[-1]

    yield make
    for each in worlds:
        each.stop()


@pytest.fixture(scope="session")
def data():
    """The function that makes data."""
    return make_data


@pytest.fixture
def identities(tmp_path):
    """The function that makes identities in the test's folder."""
    return lambda *names: make_identities(tmp_path, *names)


class Process:
    """``fedtl serve`` as a process."""

    def __init__(self, folder, block, *, policy="", name="shop"):
        self.folder, self.name = folder, name
        block.reset_index(names="id").to_parquet(folder / "table.parquet")
        self.file = folder / "party.toml"
        self.port = 0
        self.write(policy)
        self.start()

    def write(self, policy):
        self.file.write_text(
            f'name = "{self.name}"\ncredentials = "{self.name}"\nstate = "state"\n'
            f'listen = "127.0.0.1:{self.port}"\n[table]\npath = "table.parquet"\nkey = "id"\n'
            f"[policy]\nmin_rows = 1\n{policy}\n"
        )

    def start(self):
        """Start it and wait until it answers, on the port that it had before."""
        log = self.folder / "log"
        command = [sys.executable, "-m", "fedtl.cli", "serve", str(self.file), "--grace", "2"]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=file,
                stderr=file,
            )
        until = time.monotonic() + 180
        while "answers on" not in log.read_text():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        told = log.read_text().split("answers on ")[1].split()[0]
        if not self.port:
            self.port = int(told.rpartition(":")[2])
            self.file.write_text(self.file.read_text().replace(":0", f":{self.port}"))
        self.address = told

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        return self.process.wait(30)


@pytest.fixture
def process(tmp_path):
    """A function that starts a party as a process; whatever still runs is killed in the end."""
    started = []

    def start(block, **settings):
        started.append(Process(tmp_path, block, **settings))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.kill()
