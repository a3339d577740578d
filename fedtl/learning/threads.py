"""How many threads the arithmetic of a fit uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """Run linear algebra and networks on one thread.

    The matrices of a fit are small: handing them to several threads costs more than it saves,
    and many times more where other processes compete for the cores, as in a grid search.
    Gradient-boosted trees keep their own threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
