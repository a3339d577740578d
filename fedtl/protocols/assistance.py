"""Assistance: a party fits trees of its own to the target, by itself, and tells their scores.

One round. What a linear model of the party's encoding cannot see, thresholds and interactions
among its own columns, its trees do; they never leave it. This is assisted learning [1]_ with one
round of assistance and the target itself as what is assisted with.

Who learns what:

- ``assistance.request/1`` gives the party the labels of labelled rows that it knows, their folds
  and weights. *The party sees these labels*, as with ``moments.request/1``.
- ``assistance.scores/1`` gives the active party one held-out score a row and output: what trees
  that did not see the row's fold say of its columns. Scores of many rows say something about the
  party's columns; no column crosses.

References
----------
.. [1] X. Xian, X. Wang, J. Ding, R. Ghanadan. Assisted learning: a framework for
   multi-organization learning. NeurIPS 2020.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.learning.columns import Columns
from fedtl.learning.trees import Trees, fit_trees, trees_can_learn
from fedtl.parties import PartyService, Session
from fedtl.protocols.moments import count_scores
from fedtl.wire import Message, Tensor, message

_TASKS = ("binary", "multiclass", "regression")
_MAX_FOLDS = 50  # there is a fit for each, and one more


@message("assistance.request/1")
class Request(Message):
    """The target on rows that the party knows."""

    session: str
    task: str
    n_folds: int
    seed: int
    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]
    folds: Annotated[np.ndarray, Tensor("uint8", ("rows",))]
    weight: Annotated[np.ndarray, Tensor("float64", ("rows",))]
    target: Annotated[np.ndarray, Tensor("float64", ("rows", "outputs"))]


@message("assistance.scores/1")
class Scores(Message):
    """Held-out scores of these rows."""

    scores: Annotated[np.ndarray, Tensor("float64", ("rows", "outputs"))]


def ask_assistance(
    channel: Channel,
    session: str,
    rows: np.ndarray,
    *,
    task: str,
    folds: np.ndarray,
    weight: np.ndarray,
    target: np.ndarray,
    n_folds: int,
    seed: int,
) -> np.ndarray:
    """Ask a party to fit its own trees, and return their held-out scores.

    Parameters
    ----------
    channel : Channel
        The party.
    session : str
        Name of the session.
    rows : ndarray of shape (n_rows,), dtype int
        Positions of rows that the party knows, among those that the session was opened with.
    task : {"binary", "multiclass", "regression"}
        What the target is.
    folds : ndarray of shape (n_rows,), dtype int
        Fold of each row.
    weight : ndarray of shape (n_rows,), dtype float64
        Weight of each row.
    target : ndarray of shape (n_rows, n_outputs), dtype float64
        1 for the positive class, one-hot classes, or real targets.
    n_folds : int
        Number of folds.
    seed : int
        Seed of what the party draws.

    Returns
    -------
    ndarray of shape (n_rows, n_outputs), dtype float64
        Scores on the scale of the target.
    """
    request = Request(
        session=session,
        task=task,
        n_folds=n_folds,
        seed=seed,
        rows=rows.astype(np.uint32),
        folds=folds.astype(np.uint8),
        weight=weight,
        target=target,
    )
    return channel.ask(request, Scores).scores


def answer_assistance(party: PartyService, request: Request) -> Scores:
    """Fit trees, keep them for new rows, and tell what those without each fold say of it."""
    session = party.session(request.session)
    rows = party.training_rows(session, request.rows)
    _check(party.name, request)
    n_outputs = request.target.shape[1]
    party.policy.limits.allow(8 * len(rows) * n_outputs * request.n_folds)
    party.policy.allow_aggregate(party.name, len(np.unique(session.ids[rows])))
    count_scores(party, session, rows, n_outputs)
    assert session.columns is not None
    trees = fit_trees(
        request.task,
        session.features.plain(session.columns, rows),
        request.target,
        weight=request.weight,
        folds=request.folds,
        n_folds=request.n_folds,
        seed=request.seed,
    )
    session.state["fitted.trees"] = trees.full
    return Scores(scores=trees.held_out)


def _check(party: str, request: Request) -> None:
    """Refuse what scikit-learn would stumble over."""
    one_output = request.target.shape[1] == 1
    if request.task not in _TASKS or one_output == (request.task == "multiclass"):
        raise PartyError(
            party, f"target of {request.target.shape[1]} outputs for the task {request.task!r}"
        )
    if not (2 <= request.n_folds <= _MAX_FOLDS and 0 <= request.seed < 2**32):
        raise PartyError(party, f"n_folds must lie in [2, {_MAX_FOLDS}] and seed in [0, 2**32)")
    if len(request.folds) and request.folds.max() >= request.n_folds:
        raise PartyError(party, f"folds must lie below n_folds={request.n_folds}")
    if (request.weight < 0).any() or (
        request.task != "regression" and not np.isin(request.target, (0.0, 1.0)).all()
    ):
        raise PartyError(party, "weights must not be negative, and classes be marked by 0 and 1")
    if not trees_can_learn(request.task, request.target, request.folds):
        raise PartyError(
            party, f"{len(request.rows)} rows with these labels and folds are too few for trees"
        )


def local_scores(session: Session, trees: Trees, columns: Columns, rows: np.ndarray) -> np.ndarray:
    """Score known rows with a party's trees, zero elsewhere: (n_rows, n_outputs), float64."""
    scores = np.zeros((len(columns), trees.n_outputs))
    if len(rows):
        scores[rows] = trees.scores(session.features.plain(columns, rows))
    return scores
