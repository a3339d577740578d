"""FedAvg by other libraries, each in an environment of its own that is made for the comparison."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PEERS = {"flower": "flwr[simulation]==1.42.0", "pfl": "pfl==0.6.0"}
"""What is installed for ``<name>_rounds.py``; torch is not, it is the one that runs here."""


def seconds_of_rounds(
    job: dict[str, Any], own: Callable[[], object], repeats: int
) -> dict[str, list[tuple[float, float, float]] | str]:
    """Run a job by every peer, and what is compared with it right before each run.

    Parameters
    ----------
    job : dict
        Arrays ``X``, ``y``, ``party`` and ``initial``, numbers ``lr``, ``batch_size`` and
        ``n_rounds``.
    own : callable
        What is compared.
    repeats : int
        How often.

    Returns
    -------
    dict of str to (list of (float, float, float), or str)
        For each peer that was installed, in each repetition the seconds of `own`, of the peer's
        rounds alone, and of its simulation with the start of its processes, but without imports; or
        why there are none.
    """
    results: dict[str, list[tuple[float, float, float]] | str] = {}
    with tempfile.TemporaryDirectory(prefix="fedtl-peers-") as folder:
        data = Path(folder) / "job.npz"
        np.savez(data, **job)
        commands: dict[str, list[Any]] = {}
        for name, requirement in PEERS.items():
            script = Path(__file__).with_name(f"{name}_rounds.py")
            try:
                commands[requirement] = [_environment(Path(folder) / name, requirement), script]
            except subprocess.CalledProcessError as error:
                results[requirement] = _last_line(error)
        for _ in range(repeats):
            for requirement, command in commands.items():
                earlier = results.setdefault(requirement, [])
                if isinstance(earlier, str):
                    continue
                begun = time.perf_counter()
                own()
                ours = time.perf_counter() - begun
                try:
                    rounds, whole, score = json.loads(_run([*command, data]).splitlines()[-1])
                except subprocess.CalledProcessError as error:
                    results[requirement] = _last_line(error)
                    continue
                if score < 0.8:
                    raise RuntimeError(f"{requirement} did not learn: accuracy {score}")
                earlier.append((ours, rounds, whole))
    return results


def _last_line(error: subprocess.CalledProcessError) -> str:
    return str(error.stderr).strip().rpartition("\n")[2]


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
