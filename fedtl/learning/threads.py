"""How many threads the arithmetic of a fit uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from threadpoolctl import threadpool_limits

_ROWS_FOR_THREADS = 50_000


@contextmanager
def one_thread() -> Iterator[None]:
    """Run linear algebra and networks on one thread.

    The matrices of a fit are small: handing them to several threads costs more than it saves,
    and many times more where other processes compete for the cores, as in a grid search.
    Trees have threads of their own: see :func:`tree_threads`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def tree_threads(n_rows: int) -> AbstractContextManager[Any]:
    """Give gradient-boosted trees one thread below 50,000 rows, for the same reason.

    Parameters
    ----------
    n_rows : int
        Rows that are fitted to or scored.

    Returns
    -------
    context manager
        Limits OpenMP while it is open.
    """
    if n_rows >= _ROWS_FOR_THREADS:
        return nullcontext()
    return threadpool_limits(limits=1, user_api="openmp")
