"""Bank, shop, telecom and a notary as four processes with real certificates, on this machine.

    python examples/remote/run.py

Shop and telecom are ``fedtl serve`` in processes of their own, the notary, who deals the randomness
of secret shares, is ``fedtl dealer``; the bank is this one. What is done here by a script is done
by four people in docs/remote.md.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

try:
    import bank
    import cryptography  # noqa: F401
    import grpc  # noqa: F401
    import pandas  # noqa: F401
    import party
except ImportError as error:
    print(f"skipped: {error}; pip install 'fedtl[data,remote]' and pyarrow")
    sys.exit(0)

from fedtl.identity import Identity
from fedtl.server import AUDIT, verify

PARTNERS, DEALER = ("shop", "telecom"), "notary"


def exchange_certificates(folder: Path) -> None:
    """Make identities, and pin them as the people would who read fingerprints to one another."""
    names = (*party.NAMES, DEALER)
    made = {name: Identity.create(folder / name / "identity", name) for name in names}
    pairs = [("bank", name) for name in (*PARTNERS, DEALER)] + [(n, DEALER) for n in PARTNERS]
    for one, other in [*pairs, *(pair[::-1] for pair in pairs)]:
        made[one].pin(made[other].certificate, made[other].fingerprint)


def start(folder: Path, stack: ExitStack, command: str = "serve", file: str = "party.toml") -> str:
    """Start a command of ``fedtl`` and return the address where it answers."""
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedtl.cli", command, str(folder / file)], stderr=errors
        )
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)
    while "answers on" not in log.read_text():
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
        time.sleep(0.1)
    return log.read_text().split("answers on ")[1].split()[0]


def main() -> None:
    """Run all four."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        party.write_tables(folder)
        party.write_settings(folder, dict.fromkeys(PARTNERS, (0, 0)))
        party.write_dealer(folder, 0)
        exchange_certificates(folder)
        with ExitStack() as stack:
            addresses = {name: start(folder / name, stack) for name in PARTNERS}
            dealer = {DEALER: start(folder / DEALER, stack, "dealer", "dealer.toml")}
            for each in (None, dealer):
                bank.main(folder / "bank", dealer=each, **addresses)
        for name in (*PARTNERS, DEALER):
            verdict = verify(folder / name / "state" / AUDIT)
            print(f"{name}: {verdict.head.n} lines of audit log, problems: {verdict.problems}")


if __name__ == "__main__":
    main()
