"""Throw hostile messages at a party's service: ``python -m benchmarks.fuzz --messages 1000000``.

Reports messages a second, outcomes, errors of the service's own (there should be none), the
slowest answer by its time of a processor, and how memory grew. Frames, headers and tensors are
mutated at random, and messages of every kind that a remote party answers are made with values that
nobody expects.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedtl.alignment import Matcher
from fedtl.federation import InProcessChannel, Ledger
from fedtl.identity import Partner
from fedtl.parties import KeyedTable, PartyService, Policy
from fedtl.privacy.paillier import PrivateKey
from fedtl.protocols import (
    ANSWERS,
    alignment,
    assistance,
    cardinality,
    latent,
    moments,
    predict,
    protected_latent,
    protected_moments,
    protected_predict,
    session,
    shared_moments,
    shared_predict,
)
from fedtl.server import AuditLog, Bounds, Endpoint, UsageFile, verify
from fedtl.server._serve import PlainRecipe
from fedtl.wire import (
    Close,
    Describe,
    Frame,
    Limits,
    Message,
    Tensor,
    WireError,
    encode,
    pack,
)
from fedtl.wire._message import lookup

_ROWS = 60
_REQUESTS: tuple[type[Message], ...] = (*map(lookup, ANSWERS), Close, Describe)
_LENGTHS = {
    **{"rows": 20, "ids": _ROWS, "columns": 17, "with_constant": 18, "members": 2, "components": 3},
    **{"last": 0, "outputs": 1, "targets": 1, "parts": 1, "modulus": 256, "bytes": 512},
    "groups": 1,
}
_WORDS = {"normalisation": "exact", "task": "binary", "context": "c"}
_SLOW_EVERY = 2000  # messages; trees take a quarter of a second
_NUMBERS = (0, 1, 2, 3, 5, 17, 255, 256, 65_536, -1, 2**31, 2**32, 2**63 - 1, -(2**63))
_REALS = (0.0, 1.0, -1.0, 1e-300, 1e300, 0.003, -0.0)


@dataclass
class Findings:
    """What came of the messages.

    Parameters
    ----------
    outcomes : Counter
        By the audit log's outcome.
    own_errors : Counter
        Exceptions that nobody foresaw, by kind of message and class.
    slowest : tuple of (float, str)
        Seconds of a processor that the slowest answer took, and the kind of its request.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    own_errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")


class Fuzzer:
    """Makes hostile frames.

    Parameters
    ----------
    seed : int
        Seed of all choices.
    table : KeyedTable
        Of the party, so that some messages are about its rows.
    """

    def __init__(self, seed: int, table: KeyedTable) -> None:
        self.rng = np.random.default_rng(seed)
        self.numbers: Counter[bytes] = Counter()
        self.words = {**_WORDS, "list": table.key_list.name}
        service = PartyService("shop", table, PlainRecipe(), ANSWERS)
        ids = alignment.align(InProcessChannel(service, Ledger()), range(_ROWS))
        self.valid = [encode(each) for each in _valid(ids, table.key_list.name)]
        self.slow = encode(_trees())

    def frames(self, n: int) -> Iterator[bytes]:
        """Yield frames: valid, mutated, and made up."""
        for i in range(n):
            body = self._body(i)
            # A frame whose number was changed spoils its conversation: begin others often.
            talk = (i // 20).to_bytes(8, "little")
            self.numbers[talk] += 1
            number = self.numbers[talk]
            if self.rng.random() < 0.02:
                number = max(1, number - int(self.rng.integers(3)))
            deflate = bool(self.rng.random() < 0.1)
            frame = pack(Frame(b"fuzzfuzz", talk, number, body, deflate))
            yield self._mutated(frame) if self.rng.random() < 0.1 else frame

    def _body(self, i: int) -> bytes:
        # Now and then the whole conversation as it should be, so that handlers are reached.
        if i % 200 < len(self.valid):
            return self.valid[i % 200]
        if i % _SLOW_EVERY == len(self.valid):
            return self.slow
        choice = self.rng.random()
        if choice < 0.45:
            return self._mutated(self.valid[self.rng.integers(len(self.valid))])
        if choice < 0.6:
            return self._header(self.valid[self.rng.integers(len(self.valid))])
        return self._made_up()

    def _mutated(self, data: bytes) -> bytes:
        rng, changed = self.rng, bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(changed) + 1))
            action = int(rng.integers(5))
            if action == 0:
                del changed[at:]
            elif action == 1:
                changed[at:at] = rng.bytes(int(rng.integers(1, 30)))
            elif action == 2:
                changed[at : at + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(1, 9)))
            elif action == 3 and at + 8 <= len(changed):
                struct.pack_into("<q", changed, at, int(rng.choice(_NUMBERS)))
            else:
                changed[at:at] = changed[: int(rng.integers(100))]
        return bytes(changed)

    def _header(self, data: bytes) -> bytes:
        """Change a value in the JSON of the header, with offsets and lengths as they were."""
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        names = [name for name in header if name != "__metadata__"]
        if names and self.rng.random() < 0.5:
            entry = header[str(self.rng.choice(names))]
            key = str(self.rng.choice(["dtype", "shape", "data_offsets"]))
            entry[key] = self._value()
        else:
            told = json.loads(header["__metadata__"]["fedtl"])
            place = told if self.rng.random() < 0.3 else told["scalars"]
            if place:
                place[str(self.rng.choice(list(place)))] = self._value()
            header["__metadata__"]["fedtl"] = json.dumps(told)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    def _value(self) -> Any:
        values = (*_NUMBERS, *_REALS, "s", "", "x" * 3000, None, True, [], {}, [[0]] * 50, "F64")
        deep: Any = []
        for _ in range(int(self.rng.integers(200))):
            deep = [deep]
        return [*values, deep, [0, 2**62], [2**62]][self.rng.integers(len(values) + 3)]

    def _made_up(self) -> bytes:
        """A message of some kind with right types and unexpected values."""
        kind = _REQUESTS[self.rng.integers(len(_REQUESTS))]
        lengths: dict[str | int, int] = {}
        values = {
            name: self._tensor(declared, lengths)
            if isinstance(declared, Tensor)
            else self._scalar(name, declared)
            for name, declared in kind.schema.items()
        }
        try:
            return encode(kind(**values))
        except WireError:
            return self.rng.bytes(50)

    def _scalar(self, name: str, declared: type) -> Any:
        rng = self.rng
        if declared is bool:
            return bool(rng.random() < 0.5)
        if declared is str:
            usual = self.words.get(name, "s")
            return str(rng.choice([usual, usual, usual, "t", "", "x" * 500]))
        if declared is float:
            return float(rng.choice(_REALS))
        small = int(rng.integers(1, 6))
        return small if rng.random() < 0.7 else int(rng.choice(_NUMBERS))

    def _tensor(self, declared: Tensor, lengths: dict[str | int, int]) -> np.ndarray:
        rng = self.rng
        for axis in declared.shape:
            if isinstance(axis, int):
                lengths[axis] = axis
            elif axis not in lengths:
                usual = _LENGTHS.get(str(axis), 2)
                odd = int(rng.choice([0, 1, 2, 7, 2**33]))
                lengths[axis] = usual if rng.random() < 0.85 else odd
        shape = tuple(lengths[axis] for axis in declared.shape)
        if np.prod([max(float(n), 1.0) for n in shape]) > 1e6:
            shape = (0, *[min(n, 2**33 if len(shape) < 3 else 2**20) for n in shape[1:]])
        dtype = np.dtype(declared.dtype)
        if dtype.kind == "f":
            return np.asarray(rng.choice(_REALS, size=shape), dtype=dtype)
        high = 2 if dtype.kind == "b" or rng.random() < 0.7 else 2 * _ROWS
        made = rng.integers(0, high, size=shape)
        if dtype.itemsize > 1 and rng.random() < 0.05:
            made = made - (2**31 if dtype.kind == "i" else 0)
        return made.astype(dtype)


def _valid(ids: np.ndarray, keys: str) -> list[Message]:
    rows = np.arange(0, _ROWS, 3).astype(np.uint32)
    folds, nothing = (rows % 2).astype(np.uint8), np.empty((2, 0, 3), np.float32)
    points = Matcher([b"1", b"2"]).points
    begin = {"members": 2, "n_components": 3, "n_exchanges": 5, "local_updates": 1}
    return [
        session.Open(session="s", resume=False, ids=ids),
        session.Prepare(session="s", n_bins=4, seed=0),
        moments.MomentsRequest(
            session="s",
            n_folds=2,
            rows=rows,
            folds=folds,
            weight=np.ones(len(rows)),
            targets=np.ones((len(rows), 1)),
        ),
        moments.Model(
            session="s",
            keep=True,
            rows=rows,
            folds=folds,
            held_out=np.zeros((2, 17, 1)),
            coefficients=np.zeros((17, 1)),
        ),
        latent.Begin(session="s", n_local_rows=4, lr=0.01, seed=0, keep_encoder=False, **begin),
        latent.Exchange(session="s", rows=rows, gradient=nothing),
        latent.Exchange(session="s", rows=rows, gradient=np.ones((2, len(rows), 3), np.float32)),
        latent.Encode(session="s", rows=rows),
        predict.Request(session="s", ids=ids[:9], scores=True, trees=True, latents=True),
        alignment.Begin(normalisation="exact", n_ids=2),
        alignment.Tags(list=keys, first=0),
        alignment.Blind(list=keys, points=points),
        cardinality.Count(normalisation="exact", points=points),
        shared_moments.Key(session="s"),
        *_encrypted(rows, folds, ids[:9]),
        *_shared(ids[:9]),
        Describe(),
    ]


def _encrypted(rows: np.ndarray, folds: np.ndarray, ids: np.ndarray) -> list[Message]:
    modulus = np.frombuffer(PrivateKey.generate(2048).public.to_bytes(), dtype=np.uint8)
    sent = {"session": "s", "n_outputs": 1, "ciphertexts": np.ones((len(rows), 1, 512), np.uint8)}
    return [
        protected_latent.Begin(session="s", n_folds=2, key=modulus, rows=rows, folds=folds),
        protected_latent.Score(**sent),
        protected_latent.Layer(**sent),
        protected_moments.Keep(
            session="s", n_outputs=1, key=modulus, ciphertexts=np.ones((16, 1, 512), np.uint8)
        ),
        protected_predict.Request(session="s", ids=ids),
    ]


def _shared(ids: np.ndarray) -> list[Message]:
    return [
        shared_predict.Key(session="s"),
        shared_predict.Request(
            session="s",
            context="s 1",
            fraction_bits=20,
            key=np.zeros(32, np.uint8),
            sealed=np.zeros(80, np.uint8),
            ids=ids,
            masked=np.zeros((16, 2), np.uint64),
        ),
    ]


def _trees() -> Message:
    rows = np.repeat(np.arange(0, _ROWS, 3).astype(np.uint32), 8)
    return assistance.Request(
        session="s",
        task="binary",
        n_folds=2,
        seed=0,
        rows=rows,
        folds=(rows % 2).astype(np.uint8),
        weight=np.ones(len(rows)),
        target=(np.arange(len(rows)) % 3 == 0).astype(float)[:, None],
    )


def run(n_messages: int, seed: int, folder: Path) -> tuple[Findings, Endpoint]:
    """Send hostile messages to a party's service, without a network.

    Parameters
    ----------
    n_messages : int
        How many.
    seed : int
        Seed.
    folder : Path
        Where the audit log goes.

    Returns
    -------
    findings : Findings
        What came of them.
    endpoint : Endpoint
        The service.
    """
    columns = np.random.default_rng(0).normal(size=(_ROWS, 3))
    table = KeyedTable("shop", pd.DataFrame(columns, columns=["a", "b", "c"]))
    policy = Policy(limits=Limits(message_bytes=2**22))
    service = PartyService("shop", table, PlainRecipe(), ANSWERS, policy=policy)
    bounds = Bounds(sessions=8, reply_bytes=2**20, conversations=100, conversation_seconds=0.0)
    audit = AuditLog(folder / "audit.jsonl")
    endpoint = Endpoint(service, audit, UsageFile(folder / "usage.json"), bounds=bounds)
    findings, partner = Findings(), Partner("fuzzer", "f" * 64)
    append, kind = audit.append, ""

    def counted(**entry: Any) -> Any:
        nonlocal kind
        kind = entry.get("kind", "")
        findings.outcomes[entry.get("outcome", "event")] += 1
        # What the party tells is a sentence; the name of a class alone is an unforeseen error's.
        if str(entry.get("problem", " ")).isidentifier():
            findings.own_errors[entry["kind"], entry["problem"]] += 1
        return append(**entry)

    audit.append = counted  # type: ignore[method-assign]
    for frame in Fuzzer(seed, table).frames(n_messages):
        start = time.thread_time()
        endpoint.answer(partner, frame)
        findings.slowest = max(findings.slowest, (time.thread_time() - start, kind))
    audit.close()
    return findings, endpoint


def rss() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Run in rounds and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    np.seterr(all="ignore")
    torch.set_num_threads(1)
    total, start, memory = Findings(), time.perf_counter(), []
    rounds = max(options.messages // 50_000, 1)
    for i in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            each = options.messages // rounds
            findings, _ = run(each, options.seed + i, Path(folder))
            assert verify(Path(folder) / "audit.jsonl").problems == []
        total.outcomes += findings.outcomes
        total.own_errors += findings.own_errors
        total.slowest = max(total.slowest, findings.slowest)
        memory.append(rss())
        print(f"{(i + 1) * each:,} messages, {memory[-1]:.0f} MiB", flush=True)
    seconds = time.perf_counter() - start
    print(f"{sum(total.outcomes.values()):,} answers in {seconds:.0f} s; crashes: 0")
    print(f"outcomes: {dict(total.outcomes.most_common())}")
    print(f"errors of the service's own: {dict(total.own_errors) or 'none'}")
    print(f"slowest answer: {total.slowest[0]:.2f} s of a processor, to {total.slowest[1]}")
    print(f"memory after the first round {memory[0]:.0f} MiB, at the end {memory[-1]:.0f} MiB")


if __name__ == "__main__":
    main()
