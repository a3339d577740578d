"""``fedtl serve``, ``fedtl dealer`` and ``fedtl approve``."""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from pathlib import Path
from typing import Any

from fedtl.server import APPROVALS, DealerFile, HealthServer, PartyFile, approve


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    for name, kind, text in (
        ("serve", PartyFile, "answer partners, until SIGTERM or SIGINT"),
        ("dealer", DealerFile, "deal randomness to partners, without data of one's own"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=Path, help="the TOML file")
        command.add_argument(
            "--grace", type=float, default=30.0, help="seconds for requests under way when stopping"
        )
        command.set_defaults(run=serve, kind=kind)
    command = commands.add_parser("approve", help="approve fits of a partner")
    command.add_argument("file", type=Path, help="the party's TOML file")
    command.add_argument("caller", help="name of the partner")
    command.add_argument("--fits", type=int, default=1, help="how many more (default: 1)")
    command.set_defaults(run=approve_fits)


def serve(options: argparse.Namespace) -> int:
    """Answer partners until a signal comes, then finish what is under way."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    log = logging.getLogger("fedtl.server")
    party: PartyFile | DealerFile = options.kind.read(options.file)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = party.server().start()
    health = HealthServer(server.endpoint, party.health) if party.health else None
    log.info("%s answers on %s", party.name, server.address)
    stop.wait()
    log.info("stopping: up to %g seconds for requests under way", options.grace)
    server.stop(options.grace)
    if health is not None:
        health.close()
    return 0


def approve_fits(options: argparse.Namespace) -> int:
    """Approve fits; the service need not be started anew."""
    party = PartyFile.read(options.file)
    folder = party.inside(party.state) / APPROVALS
    total = approve(folder, options.caller, options.fits)
    print(f"{total} fits of {options.caller} are approved in all")
    return 0
