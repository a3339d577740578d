"""The folder of a session job, which refers to installed classes and holds no code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedtl.nvflare._sealed import TASK

CLASSES = tuple(f"fedtl.nvflare.{name}" for name in ("Answering", "Asking", "Session"))


def write_job(folder: str | Path, active: str, passive: Sequence[str]) -> Path:
    """Write a session job, to be submitted by ``nvflare job submit``.

    Parameters
    ----------
    folder : str or Path
        Where it is written; its last part is the name of the job.
    active : str
        Site of the party that asks.
    passive : sequence of str
        Sites of the parties that answer.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If a site is named twice, or none is to answer.
    """
    folder, sites = Path(folder), [active, *passive]
    if not passive or len(set(sites)) < len(sites):
        raise ValueError(f"one site that asks and others that answer are needed, got {sites}")
    _write(
        folder / "meta.json",
        {
            "name": folder.name,
            "resource_spec": {},
            "min_clients": len(sites),
            "mandatory_clients": sites,
            "deploy_map": {"session": ["server"], "asking": [active], "answering": list(passive)},
        },
    )
    workflow = {"id": "session", "path": "fedtl.nvflare.Session", "args": {}}
    _write(
        folder / "session" / "config" / "config_fed_server.json",
        {"format_version": 2, "workflows": [workflow], "components": []},
    )
    for app, executor in (("asking", "Asking"), ("answering", "Answering")):
        does = {"path": f"fedtl.nvflare.{executor}", "args": {}}
        _write(
            folder / app / "config" / "config_fed_client.json",
            {
                "format_version": 2,
                "executors": [{"tasks": [TASK], "executor": does}],
                "components": [],
            },
        )
    return folder


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
