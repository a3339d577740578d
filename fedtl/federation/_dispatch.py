"""Asking many parties at once."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import repeat
from typing import Any, TypeVar, cast

from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend

from fedtl.exceptions import PartyError
from fedtl.federation._channel import Channel, InProcessChannel
from fedtl.federation._ledger import Ledger
from fedtl.wire import Message, WireError

R = TypeVar("R", bound=Message)
_MOST_THREADS = 32

_workers: ContextVar[Any] = ContextVar("workers", default=None)


@contextmanager
def same_workers() -> Iterator[None]:
    """Let all :func:`ask_all` within use the same workers, where joblib's backend has any.

    Some backends, Ray's among them, start processes for each call otherwise.
    """
    if effective_n_jobs(None) == 1:
        yield
        return
    with Parallel() as workers:
        token = _workers.set(workers)
        try:
            yield
        finally:
            _workers.reset(token)


def ask_all(
    channels: Sequence[Channel], requests: Sequence[Message], expected: type[R]
) -> list[R | PartyError]:
    """Ask each party its request; a party that fails does not keep the others from answering.

    Simulated parties are asked one after the other, unless :func:`joblib.parallel_config` names a
    backend: it spreads them over threads, processes or a cluster. What parties in other processes
    learnt is brought back. With parties on other machines among them, all are asked at the same
    time.

    Parameters
    ----------
    channels : sequence of Channel
        The parties.
    requests : sequence of Message
        One for each of them.
    expected : type
        The message that the protocol replies with.

    Returns
    -------
    list of (Message or PartyError)
        For each party its reply, or why there is none.
    """
    if not all(isinstance(channel, InProcessChannel) for channel in channels):
        return list(_threads(os.getpid()).map(_ask, channels, requests, repeat(expected)))
    if effective_n_jobs(None) == 1:
        return [_ask(c, r, expected) for c, r in zip(channels, requests, strict=True)]
    backend, _ = get_active_backend()
    if getattr(backend, "supports_sharedmem", False):
        jobs = (delayed(_ask)(c, r, expected) for c, r in zip(channels, requests, strict=True))
        return list(_parallel()(jobs))
    simulated = [cast(InProcessChannel, channel) for channel in channels]
    copies = [InProcessChannel(c._service, Ledger(), c._serialize) for c in simulated]
    for copy in copies:
        copy._transcript = None  # what it would record in another process would not come back
    jobs = (delayed(_ask_apart)(c, r, expected) for c, r in zip(copies, requests, strict=True))
    replies = []
    answers = _parallel()(jobs)
    for channel, request, (reply, copy) in zip(simulated, requests, answers, strict=True):
        _bring_back(channel, copy)
        channel.record("sent", request)
        if isinstance(reply, Message):
            channel.record("received", reply)
        replies.append(reply)
    return replies


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Threads of this process that wait for parties: a thread is a conversation with each."""
    return ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="fedtl parties")


def _parallel() -> Any:
    return _workers.get() or Parallel()


def _ask(channel: Channel, request: Message, expected: type[R]) -> R | PartyError:
    try:
        return channel.ask(request, expected)
    except PartyError as error:
        return error
    except WireError as error:
        return PartyError(channel.name, f"a message was refused: {error}")


def _ask_apart(
    channel: InProcessChannel, request: Message, expected: type[R]
) -> tuple[R | PartyError, InProcessChannel]:
    reply = _ask(channel, request, expected)
    service = channel._service
    without_rows = service.with_table(())
    without_rows.answers = {}
    return reply, InProcessChannel(without_rows, channel._ledger)


def _bring_back(channel: InProcessChannel, copy: InProcessChannel) -> None:
    """Take over what a copy in another process counted and learnt."""
    for (party, direction, kind), entry in copy._ledger.entries.items():
        counted = channel._ledger.entries[party, direction, kind]
        counted.messages += entry.messages
        counted.n_bytes += entry.n_bytes
    service, learnt = channel._service, copy._service
    service.fits.clear()
    service.fits.update(learnt.fits)
    vars(service.usage).update(vars(learnt.usage))
