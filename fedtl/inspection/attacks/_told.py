"""The numbers about single rows that messages hold, read by their declared schemas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fedtl.federation import Crossing
from fedtl.wire import Message, Tensor

Batch = tuple[np.ndarray, np.ndarray]
"""Positions of rows, and numbers about them: shapes (n,) and (n, n_numbers)."""


@dataclass(eq=False)
class RowNumbers:
    """One field of the messages of one kind.

    Parameters
    ----------
    source : str
        Kind of the message and name of its field.
    batches : list of (ndarray, ndarray)
        Rows and numbers of each message.
    """

    source: str
    batches: list[Batch] = field(default_factory=list)

    @property
    def varies(self) -> bool:
        """Whether rows differ: a number that is the same for all tells nothing of any."""
        first = self.batches[0][1][0]
        return any((values != first).any() for _, values in self.batches)

    def averaged(self, scaled: bool = False) -> Batch:
        """Average what was told of each row.

        Parameters
        ----------
        scaled : bool, default=False
            Whether each batch is divided by its mean norm first, so that early ones do not count
            more than late ones.

        Returns
        -------
        rows : ndarray of shape (n_rows,), dtype int64
            Rows of which something was told, in increasing order.
        values : ndarray of shape (n_rows, n_numbers), dtype float64
            Means.
        """
        rows, inverse = np.unique(np.concatenate([r for r, _ in self.batches]), return_inverse=True)
        values = np.concatenate([_scaled(v) if scaled else v for _, v in self.batches])
        total = np.zeros((len(rows), values.shape[1]))
        np.add.at(total, inverse, values)
        return rows, total / np.bincount(inverse)[:, None]


def numbers_of_rows(crossings: Sequence[Crossing], direction: str) -> list[RowNumbers]:
    """Find every number about a single row in what one side received.

    Parameters
    ----------
    crossings : sequence of Crossing
        Messages to and from one party.
    direction : {"sent", "received"}
        "sent" is what that party received, "received" what the one that asks did.

    Returns
    -------
    list of RowNumbers
        One for each kind, field and width in which rows differ. Masked numbers and ciphertexts are
        among them, read as numbers: they are what the receiver sees.

    Notes
    -----
    A tensor with an axis that its schema calls ``rows`` is about the rows that the message, or for
    a reply its request, names in ``rows``; if it names none, those that its protocol named last.
    ``last`` stands for the rows of the request of the same kind before.
    """
    found: dict[tuple[str, str, int], RowNumbers] = {}
    rows_of_kind: dict[str, np.ndarray] = {}
    axes: dict[str, np.ndarray] = {}
    for crossing in crossings:
        message = crossing.message
        if crossing.direction == "sent":
            protocol, axes = message.kind.split(".")[0], {}
            if "rows" in message.schema:
                rows = message.rows.astype(np.int64)  # type: ignore[attr-defined]
                axes = {"rows": rows, "last": rows_of_kind.get(message.kind, rows[:0])}
                rows_of_kind[message.kind] = rows_of_kind[protocol] = rows
            elif protocol in rows_of_kind:
                axes = {"rows": rows_of_kind[protocol]}
        if crossing.direction == direction:
            for name, about, values in _fields(message, axes):
                key = (message.kind, name, values.shape[1])
                kept = found.setdefault(key, RowNumbers(f"{message.kind}: {name}"))
                kept.batches.append((about, values))
    return [told for told in found.values() if told.varies]


def _fields(
    message: Message, axes: dict[str, np.ndarray]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    fields = []
    for name, declared in message.schema.items():
        if not isinstance(declared, Tensor) or name == "rows":
            continue
        values = getattr(message, name)
        for i, axis in enumerate(declared.shape):
            rows = axes.get(str(axis))
            if rows is not None and len(rows) and values.shape[i] == len(rows) and values.size:
                flat = np.moveaxis(values, i, 0).reshape(len(rows), -1)
                fields.append((name, rows, _as_numbers(flat)))
                break
    return fields


def _as_numbers(values: np.ndarray) -> np.ndarray:
    """Return float64; masked numbers are signed ones."""
    if values.dtype == np.uint64:
        values = values.view(np.int64)
    return values.astype(np.float64)


def _scaled(values: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(values, axis=1).mean())
    return values / norm if norm > 0 else values
