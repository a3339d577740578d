"""FedAvg by other libraries, each in an environment of its own that is made for the comparison."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

PEERS = {"flower": "flwr[simulation]==1.42.0", "pfl": "pfl==0.6.0"}
"""What is installed for ``<name>_rounds.py``; torch is not, it is the one that runs here."""


def seconds_of_rounds(job: dict[str, Any], repeats: int) -> Iterator[tuple[str, list[float] | str]]:
    """Run a job by every peer.

    Parameters
    ----------
    job : dict
        Arrays ``X``, ``y``, ``party`` and ``initial``, numbers ``lr``, ``batch_size`` and
        ``n_rounds``.
    repeats : int
        How often.

    Yields
    ------
    requirement : str
        What was installed.
    seconds : list of float or str
        Seconds of the rounds in each run, without starting processes; or why there are none.
    """
    with tempfile.TemporaryDirectory(prefix="fedtl-peers-") as folder:
        data = Path(folder) / "job.npz"
        np.savez(data, **job)
        for name, requirement in PEERS.items():
            script = Path(__file__).with_name(f"{name}_rounds.py")
            try:
                python = _environment(Path(folder) / name, requirement)
                runs = [_run([python, script, data]) for _ in range(repeats)]
            except subprocess.CalledProcessError as error:
                yield requirement, error.stderr.strip().splitlines()[-1]
                continue
            seconds, scores = zip(*(json.loads(run.splitlines()[-1]) for run in runs), strict=True)
            if min(scores) < 0.8:
                raise RuntimeError(f"{requirement} did not learn: {scores}")
            yield requirement, list(seconds)


def _environment(folder: Path, requirement: str) -> Path:
    _run([sys.executable, "-m", "venv", folder])
    python = folder / "bin" / "python"
    _run([python, "-m", "pip", "install", "-q", requirement])
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # Looked into last: torch, and nothing that the peer brings itself.
    Path(paths["purelib"], "zz_shared.pth").write_text(sysconfig.get_paths()["purelib"])
    return python


def _run(command: list[Any]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return done.stdout
