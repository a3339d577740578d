"""A PostgreSQL server of the tests' own, on a port of the loopback interface."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


def binaries():
    """Where initdb and postgres are, in the path or where Debian puts them."""
    found = [Path(path).parent for path in [shutil.which("postgres")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((d for d in found if (d / "postgres").exists() and (d / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgresql():
    """The URL of an empty database, as SQLAlchemy and ADBC write it behind their prefix."""
    where = binaries()
    if where is None:
        pytest.skip("PostgreSQL is not installed: no postgres and initdb were found")
    user = {}
    folder = Path(tempfile.mkdtemp(prefix="fedtl-postgresql-"))
    if os.getuid() == 0:  # PostgreSQL does not run as root
        account = pwd.getpwnam("nobody")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data, log = folder / "data", (folder / "log").open("wb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = {"cwd": folder, "stdout": log, "stderr": log, **user}
    server = None
    try:
        options = ["-D", data, "-U", "fedtl", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run([where / "initdb", *options], check=True, **run)
        settings = [
            "listen_addresses=127.0.0.1",
            f"port={port}",
            "unix_socket_directories=",
            "fsync=off",
        ]
        flags = [part for setting in settings for part in ("-c", setting)]
        server = subprocess.Popen([where / "postgres", "-D", data, *flags], **run)
        wait_for(server, port)
        yield f"fedtl@127.0.0.1:{port}/postgres"
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # which does not wait for clients
            server.wait(20)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(server, port):
    import psycopg

    for _ in range(200):
        assert server.poll() is None, "PostgreSQL did not start"
        try:
            psycopg.connect(f"postgresql://fedtl@127.0.0.1:{port}/postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("PostgreSQL did not answer within ten seconds")
