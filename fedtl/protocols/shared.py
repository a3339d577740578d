"""Shared columns: a party's model of the columns that it has in common with the active party.

For parties that hold different rows and know few columns in common. One round; no row and no score
of a row crosses, and the active party sends nothing of its rows.

Who learns what:

- ``shared.request/1`` tells the party which columns the active party records.
- ``shared.model/1`` gives the active party a model of the columns that both record: for each of
  them a curve, bent at quantiles of the party's rows, that says how the target depends on it, as
  far as the party's other columns explain it too. *Its bends are values that single rows of the
  party have, though not whose; and a model says something of the rows that it was fitted to.*
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.learning.distilled import Additive, distill
from fedtl.parties import PartyService
from fedtl.wire import Message, Tensor, message

_MOST_BINS = 64


@message("shared.request/1")
class Request(Message):
    """Ask for a model of the columns that are recorded on both sides."""

    fit: str
    columns: Annotated[np.ndarray, Tensor("int64", ("recorded",))]
    n_classes: int
    n_bins: int
    seed: int


@message("shared.model/1")
class Model(Message):
    """See :class:`fedtl.learning.distilled.Additive`; `edges` stand one column after another."""

    columns: Annotated[np.ndarray, Tensor("int64", ("shared",))]
    n_edges: Annotated[np.ndarray, Tensor("int64", ("shared",))]
    edges: Annotated[np.ndarray, Tensor("float64", ("edges",))]
    frequent: Annotated[np.ndarray, Tensor("float64", ("shared",), finite=False)]
    mean: Annotated[np.ndarray, Tensor("float64", ("encoded",))]
    coefficients: Annotated[np.ndarray, Tensor("float64", ("rows", "outputs"))]


def ask_model(
    channel: Channel, fit: str, columns: np.ndarray, *, n_classes: int, n_bins: int, seed: int
) -> tuple[np.ndarray, Additive]:
    """Ask a party for its model of the columns that both record.

    Parameters
    ----------
    channel : Channel
        The party.
    fit : str
        Name of the fit.
    columns : ndarray of int
        Positions of the columns that the active party records.
    n_classes : int
        Number of classes; 0 for real targets.
    n_bins : int
        Bins of a column.
    seed : int
        Seed of what the party draws.

    Returns
    -------
    columns : ndarray of int
        Positions of the columns that both record.
    model : Additive
        The party's model of these.

    Raises
    ------
    PartyError
        If the reply is no such model.
    """
    request = Request(
        fit=fit,
        columns=columns.astype(np.int64),
        n_classes=n_classes,
        n_bins=n_bins,
        seed=seed,
    )
    reply = channel.ask(request, Model)
    n_outputs = n_classes if n_classes > 2 else 1
    parts = np.split(reply.edges, np.cumsum(reply.n_edges)[:-1])
    model = Additive(tuple(parts), reply.frequent, reply.mean, reply.coefficients)
    bends = np.maximum(reply.n_edges - 1, 0).sum() + (~np.isnan(reply.frequent)).sum()
    well_formed = (
        np.isin(reply.columns, columns).all()
        and (reply.n_edges >= 0).all()
        and reply.n_edges.sum() == len(reply.edges)
        and all((np.diff(part) > 0).all() for part in parts)
        and len(reply.mean) == bends
        and reply.coefficients.shape == (1 + bends, n_outputs)
    )
    if not well_formed:
        raise PartyError(channel.name, "replied with something that is no model of shared columns")
    return reply.columns, model


def answer_model(party: PartyService, request: Request) -> Model:
    """Fit a model of all the party's columns, and distil it into one of the shared columns."""
    rows = party.rows(request.fit)
    party.row_fit(request.fit)
    used = np.flatnonzero(rows.labeled & (rows.weight > 0))
    party.policy.allow_aggregate(party.name, len(used))
    if not 1 <= request.n_bins <= _MOST_BINS or request.n_classes < 0 or request.seed < 0:
        raise PartyError(party.name, f"n_bins must be in 1..{_MOST_BINS}, the others not negative")
    if rows.y is None or len(used) < 2:
        raise PartyError(party.name, f"has {len(used)} rows with a target; at least 2 are needed")
    numbers, y = np.asarray(rows.X, dtype=np.float64)[used], rows.y[used]
    recorded = np.flatnonzero(~np.isnan(numbers).all(axis=0))
    shared = np.intersect1d(recorded, request.columns)
    if not len(shared):
        raise PartyError(party.name, "records no column that the active party records as well")
    target = y.astype(np.float64)[:, None]
    if request.n_classes:
        if y.min() < 0 or y.max() >= request.n_classes:
            raise PartyError(
                party.name, f"has other classes than the {request.n_classes} agreed on"
            )
        party.policy.limits.allow(8 * len(y) * request.n_classes)  # before it is made
        target = indicators(y, request.n_classes)
    model = distill(
        numbers[:, recorded],
        np.searchsorted(recorded, shared),
        target,
        rows.weight[used],
        n_bins=request.n_bins,
        classes=request.n_classes > 0,
        seed=request.seed,
    )
    return Model(
        columns=shared.astype(np.int64),
        n_edges=np.array([len(edges) for edges in model.edges], dtype=np.int64),
        edges=np.concatenate(model.edges),
        frequent=model.frequent,
        mean=model.mean,
        coefficients=model.coefficients,
    )


def indicators(codes: np.ndarray, n_classes: int) -> np.ndarray:
    """Return one column for two classes, that of the second, else one for each: float64."""
    columns = (codes[:, None] == np.arange(n_classes)).astype(np.float64)
    return columns[:, 1:] if n_classes == 2 else columns
