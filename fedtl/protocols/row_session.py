"""Row session: how a party on another machine reads its table for a fit with others' rows.

Parties that hold rows of the same kind have to mean the same by columns and classes. A simulated
party's rows come that way; a party with a table of its own is told. Names of columns and classes
cross as JSON text.

Where federated transformers made the columns of the fit, the party is told the columns that they
were made of, and the steps of :mod:`fedtl.learning.steps` that made them, and does these with its
own rows. A step crosses as one of three kinds, as JSON text, and its numbers: no code crosses.

Who learns what:

- ``row_session.labels/1`` tells the party nothing. ``row_session.classes/1`` gives the coordinator
  the classes that occur among the party's rows, not how often. Nobody asks for regression.
- ``row_session.open/1`` tells the party the names of the columns that the model uses, and the
  classes of all parties. Steps tell it, of all parties' rows together, what transformers learnt:
  means and standard deviations, which columns lack values somewhere, principal components, and
  their variances if they were made equal. ``row_session.opened/1`` gives the coordinator the number
  of the party's rows, which every protocol that follows tells as well. What follows is then about
  the columns that the steps make; indicators among them set apart the rows that lack a value.

The party counts a fit when it is opened, and checks its policy then. What it keeps for the fit is
forgotten when the session is closed, by the message that closes any session, or when it has not
been asked about for long.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.learning.steps import Step, read_steps, write_steps
from fedtl.parties import READING, Label, PartyService, Reading, RowTable
from fedtl.wire import Message, Tensor, message

_TARGETS = ("none", "numbers", "classes")


@message("row_session.labels/1")
class Labels(Message):
    """Ask which classes there are."""


@message("row_session.classes/1")
class Classes(Message):
    """The classes of the party's rows, as a JSON list."""

    classes: Annotated[np.ndarray, Tensor("uint8", ("characters",))]


@message("row_session.open/1")
class Open(Message):
    """Begin a fit: these columns in this order, and the target as that."""

    session: str
    columns: Annotated[np.ndarray, Tensor("uint8", ("characters",))]
    target: str
    classes: Annotated[np.ndarray, Tensor("uint8", ("class characters",))]
    allow_missing: bool
    steps: Annotated[np.ndarray, Tensor("uint8", ("step characters",))]
    numbers: Annotated[np.ndarray, Tensor("float64", ("numbers",), finite=False)]


@message("row_session.opened/1")
class Opened(Message):
    """How many rows the fit is about."""

    n_rows: int


def ask_classes(channels: Mapping[str, Channel]) -> dict[str, list[Label]]:
    """Ask parties for the classes that occur among their rows.

    Parameters
    ----------
    channels : mapping of str to Channel
        The parties.

    Returns
    -------
    dict of str to list
        By party, texts and numbers.

    Raises
    ------
    PartyError
        If a party's target cannot be classes, or its reply no list of them.
    """
    return {
        name: [_label(name, value) for value in _read(name, c.ask(Labels(), Classes).classes)]
        for name, c in channels.items()
    }


def open_rows(
    channels: Mapping[str, Channel],
    fit: str,
    *,
    columns: Sequence[str],
    target: str,
    classes: Sequence[Label] = (),
    allow_missing: bool = False,
    steps: Sequence[Step] = (),
) -> dict[str, int]:
    """Have parties read their tables for a fit.

    Parameters
    ----------
    channels : mapping of str to Channel
        The parties.
    fit : str
        Name of the fit.
    columns : sequence of str
        Names of the features in order.
    target : {"none", "numbers", "classes"}
        What the target is.
    classes : sequence of (str, int or float)
        All parties' classes in order.
    allow_missing : bool, default=False
        Whether values and columns may be missing.
    steps : sequence of Step, default=()
        What is done to the columns, one step after the other.

    Returns
    -------
    dict of str to int
        By party, its number of rows.
    """
    kinds, numbers = write_steps(steps)
    request = Open(
        session=fit,
        columns=_text([str(column) for column in columns]),
        target=target,
        classes=_text(list(classes)),
        allow_missing=allow_missing,
        steps=_text(kinds),
        numbers=numbers,
    )
    return {name: channel.ask(request, Opened).n_rows for name, channel in channels.items()}


def answer_labels(party: PartyService, request: Labels) -> Classes:
    """Return the classes of the party's rows."""
    return Classes(classes=_text(_table(party).labels()))


def answer_open(party: PartyService, request: Open) -> Opened:
    """Read the table as the fit needs it."""
    table = _table(party)
    party.policy.allow_aggregate(party.name, len(table))
    names = [str(name) for name in _read(party.name, request.columns)]
    if request.target not in _TARGETS:
        raise PartyError(party.name, "the plan of the fit cannot be read")
    if len(set(names)) < len(names):
        raise PartyError(party.name, "two columns of the fit have one name")
    if request.session in party.fits:
        raise PartyError(party.name, "a fit of that name is under way")
    reading = Reading(
        tuple(names),
        request.target,
        tuple(_label(party.name, value) for value in _read(party.name, request.classes)),
        request.allow_missing,
        _steps(party, request, len(names)),
        # Sums over filled columns do not show any more how few rows have a value. Where noise
        # protects rows instead, none must decide what becomes of the others.
        party.policy.min_rows if party.policy.epsilon is None else 1,
    )
    rows = table.rows(reading)  # first: what cannot be read is no fit
    party.row_fit(request.session)[READING] = reading
    return Opened(n_rows=len(rows))


def _steps(party: PartyService, request: Open, n_columns: int) -> tuple[Step, ...]:
    kinds = _read(party.name, request.steps)
    try:
        steps = read_steps(kinds, request.numbers, n_columns)
    except ValueError as error:
        raise PartyError(party.name, f"the steps of the fit cannot be read: {error}") from None
    for step in steps:  # before anything is computed
        party.policy.allow_table(party.name, n_bytes=8 * len(_table(party)) * step.n_out)
    return steps


def _table(party: PartyService) -> RowTable:
    if not isinstance(party.table, RowTable):
        raise PartyError(party.name, "has no table of rows with a target")
    return party.table


def _text(values: list[Any]) -> np.ndarray:
    return np.frombuffer(json.dumps(values).encode(), dtype=np.uint8)


def _read(party: str, text: np.ndarray) -> list[Any]:
    try:
        found = json.loads(text.tobytes())
    except (ValueError, RecursionError):
        raise PartyError(party, "names of columns, classes or steps cannot be read") from None
    if not isinstance(found, list):
        raise PartyError(party, "names of columns, classes or steps are no list")
    return found


def _label(party: str, value: Any) -> Label:
    if not isinstance(value, str | int | float) or value != value:  # noqa: PLR0124  (NaN)
        raise PartyError(party, "a class is neither text nor a number")
    return value
