"""Where the fetched data sets come from: a local directory first, then the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import sklearn.datasets

PathLike: TypeAlias = str | os.PathLike[str]
Table = TypeVar("Table")

VARIABLE = "FEDTL_DATA"
UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"


def local_or_remote(
    files: Sequence[str],
    data_home: PathLike | None,
    read_local: Callable[..., Table],
    read_remote: Callable[[], Table] | None,
    registry: str,
) -> Table:
    """Read a data set from local files, or from the network when one of them is not there.

    Parameters
    ----------
    files : sequence of str
        The files that the local reader needs, relative to the data directory.
    data_home : path or None
        The data directory; None stands for the environment variable FEDTL_DATA.
    read_local : callable
        Takes one path per file.
    read_remote : callable or None
        Takes nothing. None when nobody offers the data set for download.
    registry : str
        What `read_remote` asks, for the error message.

    Returns
    -------
    tuple
        What the reader that was used returns.

    Raises
    ------
    FileNotFoundError
        If a local file is missing and the network did not answer either.
    """
    home = data_home if data_home is not None else os.environ.get(VARIABLE) or None
    paths = [Path(home, file) for file in files] if home is not None else []
    if paths and all(path.is_file() for path in paths):
        return read_local(*paths)
    if read_remote is None:
        raise FileNotFoundError(_not_found(files, home, registry, None))
    try:
        return read_remote()
    except (OSError, ValueError) as error:  # URLError is an OSError, OpenMLError a ValueError
        raise FileNotFoundError(_not_found(files, home, registry, error)) from error


def read_openml(name: str, version: int, data_home: PathLike | None) -> tuple[Any, Any]:
    """Fetch features and target of a data set on OpenML as a DataFrame and a Series."""
    features, target = sklearn.datasets.fetch_openml(
        name,
        version=version,
        as_frame=True,
        return_X_y=True,
        data_home=None if data_home is None else os.fspath(data_home),
    )
    return features, target


def _not_found(
    files: Sequence[str], home: PathLike | None, registry: str, error: Exception | None
) -> str:
    """Say what was looked for, where, and what to do about it."""
    if home is None:
        looked = f"no local directory: {VARIABLE} is not set and data_home is None"
    else:
        missing = [str(Path(home, file)) for file in files if not Path(home, file).is_file()]
        looked = f"not there: {', '.join(missing)}"
    asked = registry if error is None else f"{registry}: {type(error).__name__}: {error}"
    return (
        "The data set was found neither locally nor on the network.\n"
        f"  local:   {looked}\n"
        f"  network: {asked}\n"
        f"Way out: put {', '.join(files)} into a directory and name that directory with the\n"
        f"environment variable {VARIABLE}, or with data_home=; or run where the network answers."
    )
