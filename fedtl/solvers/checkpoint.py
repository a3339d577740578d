"""Training in rounds saved between rounds, without code in the files, and resumed from there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedtl.learning.strategies import Memory
from fedtl.protocols.rounds import Round
from fedtl.solvers.rounds import Flight, Progress

_COORDINATOR, _PARTIES = "coordinator.safetensors", "parties.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Where a training is saved, and how often.

    Each training has a folder of its own, named after a hash of everything it depends on; so the
    folds of a cross-validation do not meet. A save is complete or absent: it is written beside
    the last one and takes its place in one step. In simulation the parties' memories are
    saved too, each of which a remote party would save at its own side.

    Parameters
    ----------
    folder : Path
        The folder of this training.
    every : int
        Rounds between saves.
    """

    folder: Path
    every: int

    def save(self, progress: Progress, fit: str, seed: int, memories: Mapping[str, Memory]) -> None:
        """Save, if it is time to.

        Parameters
        ----------
        progress : Progress
            Where the training is.
        fit : str
            Name of the fit.
        seed : int
            Its seed.
        memories : mapping of str to Memory
            What each party remembers.
        """
        if progress.n_rounds % self.every:
            return
        new = self.folder / f"{progress.n_rounds}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        tensors = {f"state.{name}": value for name, value in progress.state.items()}
        tensors |= {"buffers": progress.buffers, "best": progress.best}
        numbers = {
            "n_rounds": progress.n_rounds,
            "best_round": progress.best_round,
            "history": progress.history,
            "fit": fit,
            "seed": seed,
        }
        if progress.flight is not None:
            more, numbers["flight"] = _pack(progress.flight)
            tensors |= more
        # Contiguous copies: safetensors writes memory as it lies.
        tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        save_file(tensors, new / _COORDINATOR, {"fedtl": json.dumps(numbers)})
        # Names of parties are anything; the file counts them.
        kept = {
            f"{i}.{key}": np.ascontiguousarray(value)
            for i, memory in enumerate(memories.values())
            for key, value in memory.items()
        }
        save_file(kept, new / _PARTIES, {"fedtl": json.dumps(list(memories))})
        os.replace(new, self.folder / str(progress.n_rounds))
        for older in self._saves()[:-1]:
            shutil.rmtree(self.folder / str(older))

    def load(self) -> tuple[Progress, str, int, dict[str, Memory]] | None:
        """Return what was saved last: progress, name and seed of the fit, memories; or None.

        Returns
        -------
        tuple or None
            What :meth:`save` was given.

        Raises
        ------
        ValueError
            If the files cannot be read.
        """
        saves = self._saves()
        if not saves:
            return None
        last = self.folder / str(saves[-1])
        try:
            tensors, numbers = _read(last / _COORDINATOR)
            kept, names = _read(last / _PARTIES)
            state = {
                name.removeprefix("state."): value
                for name, value in tensors.items()
                if name.startswith("state.")
            }
            progress = Progress(
                state,
                tensors["buffers"],
                n_rounds=numbers["n_rounds"],
                history=numbers["history"],
                best=tensors["best"],
                best_round=numbers["best_round"],
            )
            if "flight" in numbers:
                progress.flight = _unpack(numbers["flight"], tensors, numbers["fit"])
            memories: dict[str, Memory] = {name: {} for name in names}
            for name, value in kept.items():
                index, _, key = name.partition(".")
                memories[names[int(index)]][key] = value
            return progress, numbers["fit"], numbers["seed"], memories
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the checkpoint in {last} cannot be read ({error}); remove it to start anew"
            ) from error

    def remove(self) -> None:
        """Remove the training's folder: it is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _saves(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())


def fingerprint(params: Mapping[str, Any], estimator: Any, data: Any) -> str:
    """Return a hash of everything that a training depends on.

    Parameters
    ----------
    params : mapping of str to object
        Parameters, by what they print as.
    estimator : nn.Module or estimator
        The model, by what it prints as and by the parameters of modules in it.
    data : object
        Rows and targets.

    Returns
    -------
    str
        The hash.
    """
    parts = [estimator]
    if hasattr(estimator, "get_params"):
        parts += list(estimator.get_params().values())
    modules = [
        [(name, value.numpy(force=True)) for name, value in part.state_dict().items()]
        for part in parts
        if isinstance(part, torch.nn.Module)
    ]
    return str(joblib.hash((repr(dict(params)), repr(estimator), modules, data)))


def _pack(flight: Flight) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    sent = [message for *_, message in flight.under_way]
    tensors = {
        "flight.vectors": np.stack([message.vectors for message in sent]),
        "flight.buffers": np.stack([message.buffers for message in sent]),
    }
    numbers = {
        "random": flight.rng.bit_generator.state,
        "clock": flight.clock,
        "n_started": flight.n_started,
        "under_way": [entry[:4] for entry in flight.under_way],
    }
    return tensors, numbers


def _unpack(numbers: Any, tensors: Mapping[str, np.ndarray], fit: str) -> Flight:
    rng = np.random.default_rng()
    rng.bit_generator.state = numbers["random"]
    flight = Flight(rng, numbers["clock"], numbers["n_started"])
    rows = zip(
        numbers["under_way"], tensors["flight.vectors"], tensors["flight.buffers"], strict=True
    )
    for (end, number, name, version), vectors, buffers in rows:
        sent = Round(fit=fit, index=number, vectors=vectors, buffers=buffers)
        flight.under_way.append((end, number, name, version, sent))
    return flight


def _read(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["fedtl"])
