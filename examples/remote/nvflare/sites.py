"""A FLARE server and provisioned sites as processes of this machine.

What is done here by a script is done by several people in docs/nvflare.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from fedtl.federation._nvflare import socket_of
from fedtl.nvflare import write_job
from fedtl.nvflare._job import CLASSES

ADMIN = "admin@bank.example"
PROJECT = Path(__file__).with_name("project.yml")
PARTY = """\
name = "{name}"
callers = ["bank"]
state = "../party/state"

[table]
path = "../party/table.parquet"
key = "{key}"

[policy]
{policy}
"""


class Sites:
    """A consortium of a bank, a shop and a telecom, on the loopback interface.

    Parameters
    ----------
    folder : Path
        Where all of them have their workspaces; its name should be short, for the bank's socket.
    server : str, default="localhost"
        Name of the FLARE server.
    """

    def __init__(self, folder: Path, server: str = "localhost") -> None:
        self.folder, self.server = folder, server
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._session: Session | None = None

    def provision(self) -> None:
        """Make the root certificate, and a startup kit with certificates for everybody."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        project = self.folder / "project.yml"
        project.write_text(PROJECT.read_text().replace("18002", str(port)))
        nvflare = Path(sys.executable).with_name("nvflare")
        subprocess.run(
            [nvflare, "provision", "-p", project, "-w", self.folder / "made", "--force"],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        (self.folder / "made" / "fedtl" / "prod_00").rename(self.folder / "w")
        for name in (self.server, "bank", "shop", "telecom"):
            self._allow_classes(name)

    def workspace(self, name: str) -> Path:
        """Return the workspace of the server, a site or the person."""
        return self.folder / "w" / name

    def set_up_party(self, name: str, table: pd.DataFrame, policy: str = "min_rows = 1") -> None:
        """Give a site its table and its party.toml."""
        party = self.workspace(name) / "party"
        party.mkdir(exist_ok=True)
        table.to_parquet(party / "table.parquet", index=False)
        text = PARTY.format(name=name, key=table.columns[0], policy=policy)
        (self.workspace(name) / "local" / "party.toml").write_text(text)

    def forbid_pushed_code(self, name: str) -> None:
        """Let a site refuse every job that brings code, whoever submits it."""
        local = self.workspace(name) / "local"
        rules = json.loads((local / "authorization.json.default").read_text())
        for role, rights in rules["permissions"].items():
            if isinstance(rights, dict):
                rights["byoc"] = "none"
            elif rights == "any":
                rules["permissions"][role] = {
                    "submit_job": "any",
                    "manage_job": "any",
                    "view": "any",
                    "operate": "any",
                    "byoc": "none",
                }
        (local / "authorization.json").write_text(json.dumps(rules, indent=2))

    def start(self, *names: str) -> None:
        """Start the server or sites, by the scripts of their startup kits."""
        for name in names:
            log = (self.workspace(name) / "start.log").open("wb")
            # What its person has: python3 of the environment that nvflare is installed in.
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            self._started[name] = subprocess.Popen(
                ["bash", self.workspace(name) / "startup" / "sub_start.sh", "--once"],
                env=os.environ | {"PATH": path},
                cwd=self.workspace(name),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill a site's processes, its part in a session among them, as a power cut would."""
        process = self._started.pop(name)
        try:
            parent = psutil.Process(process.pid)
            family = [*parent.children(recursive=True), parent]
        except psutil.NoSuchProcess:
            return
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()

    def stop(self) -> None:
        """Stop everything that was started."""
        if self._session is not None:
            self._session.close()
        for name in list(self._started):
            self.kill(name)

    @property
    def admin(self) -> Session:
        """The person's connection to the server."""
        if self._session is None:
            until = time.monotonic() + 60
            while self._session is None:
                try:
                    self._session = new_secure_session(ADMIN, str(self.workspace(ADMIN)))
                except Exception:
                    if time.monotonic() > until:
                        raise
                    time.sleep(1.0)
        return self._session

    def wait_for_sites(self, n_sites: int, seconds: float = 90.0) -> None:
        """Wait until so many sites have dialled in."""
        until = time.monotonic() + seconds
        while len(self.admin.get_system_info().client_info) < n_sites:
            if time.monotonic() > until:
                raise TimeoutError(f"{n_sites} sites did not come within {seconds} s")
            time.sleep(0.5)

    def open_session(self, *passive: str, active: str = "bank", seconds: float = 120.0) -> str:
        """Submit a session job, and return its id when the active party can ask."""
        listening, until = socket_of(self.workspace(active)), time.monotonic() + seconds
        if listening.exists():
            raise RuntimeError(f"{active!r} has a session already")
        job = write_job(self.folder / "session", active, passive)
        job_id: str = self.admin.submit_job(str(job))
        while not listening.exists():
            status = self.status(job_id)
            if status.startswith("FINISHED") or time.monotonic() > until:
                raise RuntimeError(f"the session did not begin: {status}")
            time.sleep(0.2)
        return job_id

    def status(self, job_id: str) -> str:
        """Return what the server says about a job."""
        meta: dict[str, Any] = self.admin.get_job_meta(job_id)
        return str(meta.get("status"))

    def close_session(self, job_id: str, seconds: float = 60.0) -> str:
        """Abort a session, and return its status when it has ended."""
        if not self.status(job_id).startswith("FINISHED"):
            self.admin.abort_job(job_id)
        return self.wait_for_end(job_id, seconds)

    def wait_for_end(self, job_id: str, seconds: float = 60.0) -> str:
        """Return the status of a session when it has ended."""
        until = time.monotonic() + seconds
        while not (status := self.status(job_id)).startswith("FINISHED"):
            if time.monotonic() > until:
                raise TimeoutError(f"job {job_id} has not ended within {seconds} s: {status}")
            time.sleep(0.5)
        return status

    def __enter__(self) -> Sites:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _allow_classes(self, name: str) -> None:
        """Add the session's classes to those that jobs may name at this site."""
        local = self.workspace(name) / "local"
        resources = json.loads((local / "resources.json.default").read_text())
        resources["class_allow_list"] += CLASSES
        if name == self.server:  # keep what it stores in this folder
            kept = self.workspace(name) / "storage"
            resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(
                kept / "snapshots"
            )
            for component in resources["components"]:
                if component["id"] == "job_manager":
                    component["args"]["uri_root"] = str(kept / "jobs")
        (local / "resources.json").write_text(json.dumps(resources, indent=2))
