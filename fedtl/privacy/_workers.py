"""Several processes of this machine, for arithmetic that holds the interpreter's lock."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from joblib import Parallel, cpu_count, delayed

from fedtl.privacy import _work

_MANY = 100_000
"""From about so many multiplications on, which take a second, other processes pay off."""

_CLOUDPICKLES = ("cloudpickle", "joblib.externals.cloudpickle")
"""Where joblib finds it: from version 1.6 on, and before."""


def n_workers(n_multiplications: int) -> int:
    """Return how many processes a computation is worth."""
    return int(cpu_count()) if n_multiplications > _MANY else 1


def in_processes(function: Callable[..., list[Any]], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a function of :mod:`fedtl.privacy._work`, each call in a process of its own.

    Parameters
    ----------
    function : callable
        Returns a list.
    calls : sequence of tuple
        Arguments of each call; a single call is made in this process.

    Returns
    -------
    list
        All results in one list, in the order of the calls.
    """
    if len(calls) == 1:
        return function(*calls[0])
    for name in _CLOUDPICKLES:
        with suppress(ImportError):
            importlib.import_module(name).register_pickle_by_value(_work)
    parts = Parallel(len(calls))(delayed(function)(*call) for call in calls)
    return [result for part in parts for result in part]
