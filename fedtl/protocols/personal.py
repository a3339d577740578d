"""Personal: each party compares the federated model with its own, and serves itself the best.

Who learns what:

- ``personal.folds/1`` tells the party in how many folds it should deal its rows; the party does so
  by itself. ``personal.dealt/1`` says in how many it did: none if they would be smaller than its
  policy's `min_rows`, since sums with and without a fold give away the sum over it.
- ``personal.offer/1`` tells the party the federated model, and those without each fold of all
  parties' rows.
- ``personal.evidence/1`` gives the coordinator the mean held-out losses of the party's models and
  which of them the party serves; not the models.
- ``personal.request/1`` and ``personal.scores/1`` are a party's questions to itself in a
  simulation: scores of new rows of its own. Between machines they do not cross.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.learning.evidence import deal_folds
from fedtl.learning.personal import CANDIDATES, Choice, Task, choose, own_models
from fedtl.parties import PartyService
from fedtl.protocols.statistics import FOLDS
from fedtl.wire import Message, Tensor, message

_MOST_FOLDS = 50
_MODEL = "personal.coefficients"


@message("personal.folds/1")
class Folds(Message):
    """Deal your rows to folds."""

    fit: str
    n_folds: int
    seed: int


@message("personal.dealt/1")
class Dealt(Message):
    """In how many folds they were dealt; 0 for none."""

    n_folds: int


@message("personal.offer/1")
class Offer(Message):
    """The federated model, and those without each fold."""

    fit: str
    n_classes: int
    penalty: float
    intercept: bool
    coefficients: Annotated[np.ndarray, Tensor("float64", ("outputs", "width"))]
    held_out: Annotated[np.ndarray, Tensor("float64", ("folds", "outputs", "width"))]


@message("personal.evidence/1")
class Evidence(Message):
    """Held-out losses by candidate, infinite without evidence, and which one is served."""

    n_rows: int
    losses: Annotated[np.ndarray, Tensor("float64", (len(CANDIDATES),), finite=False)]
    gain_error: float
    served: int


@message("personal.request/1")
class Request(Message):
    """Ask for scores of all rows."""

    fit: str


@message("personal.scores/1")
class Scores(Message):
    """Scores by the model that the party serves."""

    scores: Annotated[np.ndarray, Tensor("float64", ("rows", "outputs"))]


@dataclass(frozen=True, eq=False)
class Federated:
    """What is offered to the parties.

    Parameters
    ----------
    task : Task
        What was learnt.
    coefficients : ndarray of shape (n_outputs, width), dtype float64
        The federated model.
    held_out : ndarray of shape (n_folds, n_outputs, width), dtype float64
        Those without each fold.
    """

    task: Task
    coefficients: np.ndarray
    held_out: np.ndarray


def deal(channel: Channel, fit: str, n_folds: int, seed: int) -> int:
    """Have a party deal its rows to folds, and return in how many it did; 0 for none."""
    return channel.ask(Folds(fit=fit, n_folds=n_folds, seed=seed), Dealt).n_folds


def offer(channel: Channel, fit: str, federated: Federated) -> Evidence:
    """Offer a party the federated model.

    Parameters
    ----------
    channel : Channel
        The party.
    fit : str
        Name of the fit.
    federated : Federated
        The models.

    Returns
    -------
    Evidence
        What its held-out rows say.
    """
    task = federated.task
    request = Offer(
        fit=fit,
        n_classes=task.n_classes,
        penalty=task.penalty,
        intercept=task.intercept,
        coefficients=federated.coefficients,
        held_out=federated.held_out,
    )
    return channel.ask(request, Evidence)


def ask_scores(channel: Channel, fit: str) -> np.ndarray:
    """Return a party's scores of its rows: (n_rows, n_outputs), float64."""
    return channel.ask(Request(fit=fit), Scores).scores


def answer_folds(party: PartyService, request: Folds) -> Dealt:
    """Deal rows to folds evenly over the target, if each is large enough."""
    rows = party.rows(request.fit)
    kept = party.row_fit(request.fit)
    if not 2 <= request.n_folds <= _MOST_FOLDS or request.seed < 0 or rows.y is None:
        raise PartyError(party.name, f"folds must be 2 to {_MOST_FOLDS}, of rows with targets")
    if FOLDS in kept:
        raise PartyError(party.name, "has dealt its rows to folds already in this fit")
    n_folds = request.n_folds
    kept[FOLDS] = np.full(len(rows), -1)
    if len(rows) // n_folds < max(party.policy.min_rows, 1):
        return Dealt(n_folds=0)
    order = rows.y if rows.y.ndim == 1 else rows.y[:, 0]
    rng = np.random.default_rng(request.seed)
    kept[FOLDS] = deal_folds(np.zeros(len(rows)), order, n_folds, rng).astype(np.int64)
    return Dealt(n_folds=n_folds)


def answer_offer(party: PartyService, request: Offer) -> Evidence:
    """Compare the models on the party's rows, and keep the best one to serve."""
    rows = party.rows(request.fit)
    kept = party.row_fit(request.fit)
    task = Task(request.n_classes, request.penalty, request.intercept)
    X, y = np.asarray(rows.X, dtype=np.float64), rows.y
    if FOLDS not in kept or y is None:
        raise PartyError(party.name, "was offered a model before folds were dealt")
    _check(party, request, X, y)
    folds = kept[FOLDS]
    found = Choice(np.full(len(CANDIDATES), np.inf), 0, 0.0)
    if (folds >= 0).all():
        found = choose(task, X, y, rows.weight, folds=folds, held_out=request.held_out)
    models = own_models(task, X, y, rows.weight, request.coefficients)
    kept[_MODEL] = (models[found.best], task)
    del kept[FOLDS]
    return Evidence(
        n_rows=len(rows), losses=found.losses, gain_error=found.gain_error, served=found.best
    )


def answer_scores(party: PartyService, request: Request) -> Scores:
    """Score the party's rows by the model that it serves."""
    rows = party.rows(request.fit)
    if request.fit not in party.fits or _MODEL not in party.fits[request.fit]:
        raise PartyError(party.name, "has no model of that name; fit the estimator again")
    party.usage.predict(party.name, party.policy, len(rows))
    coefficients, task = party.fits[request.fit][_MODEL]
    return Scores(scores=task.design(np.asarray(rows.X, dtype=np.float64)) @ coefficients.T)


def _check(party: PartyService, request: Offer, X: np.ndarray, y: np.ndarray) -> None:
    """Refuse a model that does not fit the party's rows."""
    n_outputs = request.n_classes if request.n_classes > 2 else 1
    if request.n_classes == 0:
        n_outputs = y.reshape(len(y), -1).shape[1]
    elif request.n_classes < 2 or y.ndim != 1 or y.min() < 0 or y.max() >= request.n_classes:
        raise PartyError(party.name, f"has other targets than {request.n_classes} classes")
    shape = (n_outputs, X.shape[1] + request.intercept)
    if request.coefficients.shape != shape or request.penalty < 0.0:
        raise PartyError(
            party.name,
            f"a model of the shape {request.coefficients.shape} was offered; with this party's "
            f"rows it must have the shape {shape}, and no negative penalty",
        )
