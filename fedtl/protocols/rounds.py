"""Rounds: local training at the parties, and what becomes of it at the coordinator.

The parameters of a model cross as one vector; what its parts are called and how they are shaped
is hashed, and both sides compare the hash before anything is trained. Only trainable parameters
that are not personal cross, and the running statistics of batch norms; frozen parameters never
do. Which model it is, and how it is trained, is each party's own configuration: no code, no class
name and no hyperparameter of the model crosses. All numbers cross in single precision.

Who learns what:

- ``rounds.begin/1`` tells the party the hash of names and shapes, the number of classes, the name
  of the strategy and the plan of the training. ``rounds.ready/1`` tells the coordinator how many
  rows the party trains on and holds out.
- ``rounds.round/1`` gives the party the shared parameters, that is what all parties together
  learnt so far, and whatever else the strategy sends. *They say something about the rows of the
  other parties, most where those are few.*
- ``rounds.update/1`` gives the coordinator how this party's training changed the parameters, the
  mean loss, and the number of steps. *Of small batches, rows can be reconstructed from it.*
  ``rounds.private_update/1`` is under `private_rounds`.
- ``rounds.evaluate/1`` and ``rounds.evaluated/1`` give the coordinator loss and score of the shared
  parameters on rows that the party holds out.
- ``rounds.compare/1`` gives the party the final parameters; in ``rounds.compared/1`` it says how
  well these, the same after some training of its own, and a model trained on its rows alone do on
  the rows that it holds out, and which of them it will use.
- ``rounds.finish/1`` and ``rounds.finished/1`` say that training is over; what it needs is lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import numpy as np

from fedtl.exceptions import DivergenceError, PartyError
from fedtl.learning.compression import Compression, Packed, pack_with_feedback, unpack
from fedtl.learning.local import (
    LocalModel,
    LocalRecipe,
    PrivateSteps,
    RowsProblem,
    Shape,
    Weights,
    evidence,
    hold_out,
)
from fedtl.learning.strategies import STRATEGIES, Memory, Strategy, Update
from fedtl.parties import Answer, PartyService, Rows
from fedtl.wire import Message, Tensor, message

_STATE = "rounds"
MODELS = ("federated", "fine-tuned", "local")


@message("rounds.begin/1")
class Begin(Message):
    """Begin a training in rounds."""

    fit: str
    layout: str
    n_classes: int
    strategy: str
    strength: float
    local_epochs: int
    seed: int
    held_out: float
    eight_bits: bool
    top: float


@message("rounds.ready/1")
class Ready(Message):
    """The party is ready to train."""

    n_rows: int
    n_held_out: int


@message("rounds.round/1")
class Round(Message):
    """Train from these parameters."""

    fit: str
    index: int
    vectors: Annotated[np.ndarray, Tensor("float32", ("vectors", "parameters"))]
    buffers: Annotated[np.ndarray, Tensor("float32", ("buffers",))]


@message("rounds.update/1")
class Reply(Message):
    """How training changed the parameters; whole, or the largest changes, or in eight bits."""

    indices: Annotated[np.ndarray, Tensor("uint32", ("vectors", "kept"))]
    values: Annotated[np.ndarray, Tensor("float32", ("vectors", "values"))]
    codes: Annotated[np.ndarray, Tensor("uint8", ("vectors", "codes"))]
    ranges: Annotated[np.ndarray, Tensor("float32", ("vectors", "blocks", 2))]
    buffers: Annotated[np.ndarray, Tensor("float32", ("buffers",))]
    n_rows: int
    n_steps: int
    loss: float


@message("rounds.private_update/1", protection="differential privacy")
class PrivateReply(Reply):
    """The same of private training: with noise, and no loss."""


@message("rounds.evaluate/1")
class Evaluate(Message):
    """Ask how well parameters do on held-out rows."""

    fit: str
    parameters: Annotated[np.ndarray, Tensor("float32", ("parameters",))]
    buffers: Annotated[np.ndarray, Tensor("float32", ("buffers",))]


@message("rounds.evaluated/1")
class Evaluated(Message):
    """Loss and score on held-out rows."""

    n_rows: int
    loss: float
    score: float


@message("rounds.compare/1")
class Compare(Message):
    """Ask which model serves the party best."""

    fit: str
    parameters: Annotated[np.ndarray, Tensor("float32", ("parameters",))]
    buffers: Annotated[np.ndarray, Tensor("float32", ("buffers",))]
    epochs: int
    local_epochs: int
    deploy: str


@message("rounds.compared/1")
class Compared(Message):
    """How the federated, the fine-tuned and the party's own local model do on held-out rows."""

    n_rows: int
    losses: Annotated[np.ndarray, Tensor("float64", (3,))]
    scores: Annotated[np.ndarray, Tensor("float64", (3,))]
    deployed: str


@message("rounds.finish/1")
class Finish(Message):
    """Training is over."""

    fit: str


@message("rounds.finished/1")
class Finished(Message):
    """What only training needs is forgotten."""

    fit: str


@dataclass(frozen=True)
class RoundsPlan:
    """What all parties are told at the beginning.

    Parameters
    ----------
    fit : str
        Name of the fit, the same for all parties.
    layout : str
        Hash of names and shapes of what is exchanged.
    n_classes : int
        Number of classes; 0 for regression.
    strategy : Strategy
        How training becomes one model.
    local_epochs : int
        Epochs of a round.
    seed : int
        Seed of everything that is drawn.
    held_out : float
        Share of its rows that a party holds out.
    compression : Compression
        How updates are made smaller.
    """

    fit: str
    layout: str
    n_classes: int
    strategy: Strategy
    local_epochs: int
    seed: int
    held_out: float = 0.0
    compression: Compression = field(default_factory=Compression)

    def begin(self, held_out: float | None = None) -> Begin:
        """Return the message that begins the training."""
        return Begin(
            fit=self.fit,
            layout=self.layout,
            n_classes=self.n_classes,
            strategy=self.strategy.name,
            strength=float(self.strategy.strength),
            local_epochs=self.local_epochs,
            seed=self.seed,
            held_out=float(self.held_out if held_out is None else held_out),
            eight_bits=self.compression.eight_bits,
            top=float(self.compression.top),
        )


def read_update(reply: Reply, party: str, sent: Round) -> tuple[Update, np.ndarray]:
    """Check what a party replied against what it was sent.

    Parameters
    ----------
    reply : Reply
        The reply.
    party : str
        Name of the party.
    sent : Round
        The request.

    Returns
    -------
    update : Update
        What the strategy takes.
    buffers : ndarray of shape (n_buffers,)
        Recorded statistics.

    Raises
    ------
    PartyError
        If shapes or counts cannot be right.
    """
    n_vectors, n = sent.vectors.shape
    try:
        packed = Packed(reply.indices, reply.values, reply.codes, reply.ranges)
        vectors = unpack(packed, n)
    except ValueError as error:
        raise PartyError(party, f"its update cannot be read: {error}") from None
    if not 1 <= len(vectors) <= n_vectors or reply.buffers.shape != sent.buffers.shape:
        raise PartyError(
            party,
            f"its update has {len(vectors)} vectors and {len(reply.buffers)} statistics, expected "
            f"{n_vectors} and {len(sent.buffers)}",
        )
    if reply.n_rows < 1 or reply.n_steps < 1:
        raise PartyError(party, "its update is of no row or no step")
    return Update(vectors, reply.n_steps, reply.loss, reply.n_rows, party=party), reply.buffers


@dataclass(eq=False)
class PartyRounds:
    """What a party keeps for one training in rounds.

    Parameters
    ----------
    plan : Begin
        What it was told.
    strategy : Strategy
        The party's side of the strategy.
    memory : Memory
        What strategy and party remember between rounds, as vectors by name.
    deployed : str
        Which of its models the party uses.
    begin_private : callable or None
        Pays for one more round and says how to train in it, where training has to be private.
    """

    plan: Begin
    strategy: Strategy
    memory: Memory = field(default_factory=dict)
    deployed: str = "federated"
    begin_private: Callable[[PartyService], PrivateSteps] | None = None

    def split(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Return positions of rows to train on and of rows held out, the same in every round."""
        plan = self.plan
        return hold_out(rows.targets, plan.held_out, stratify=plan.n_classes > 0, seed=plan.seed)


def answers(recipe: LocalRecipe) -> Mapping[str, tuple[str, Answer]]:
    """Return the party's end of the protocol, by kinds of requests, for a party with a recipe."""
    ends: dict[type[Message], Callable[..., Message]] = {
        Begin: answer_begin,
        Round: answer_round,
        Evaluate: answer_evaluate,
        Compare: answer_compare,
        Finish: answer_finish,
    }
    return {
        request.kind: ("rounds", partial(_guarded, answer, recipe))
        for request, answer in ends.items()
    }


def _guarded(
    answer: Callable[..., Message], recipe: LocalRecipe, party: PartyService, request: Message
) -> Message:
    """Answer, and say of whatever goes wrong whose error it is."""
    try:
        return answer(recipe, party, request)
    except PartyError:
        raise
    except Exception as error:
        raise PartyError(party.name, f"{error}") from error


def answer_begin(recipe: LocalRecipe, party: PartyService, request: Begin) -> Ready:
    """Compare layouts and count rows."""
    rows = party.rows(request.fit)
    party.policy.allow_aggregate(party.name, len(rows))
    if request.strategy not in STRATEGIES:
        raise PartyError(party.name, f"does not know the strategy {request.strategy!r}")
    if request.local_epochs < 1 or not 0.0 <= request.held_out <= 1.0 or not 0 < request.top <= 1:
        raise PartyError(party.name, "the plan of the training is out of range")
    strategy = STRATEGIES[request.strategy].with_strength(request.strength)
    state = PartyRounds(request, strategy)
    with model_of(recipe, party, request) as model:
        if model.layout_digest != request.layout:
            raise PartyError(party.name, "its model's parameters have other names or shapes")
        if strategy.needs_gradients and not model.has_gradients:
            raise PartyError(
                party.name,
                f"{strategy.name} works on gradients, which scikit-learn's models do not "
                "give; use fedavg, fednova, an adaptive or a robust strategy, or a torch network",
            )
        state.memory["personal"] = model.initial.personal
    training, held_out = state.split(rows)
    party.row_fit(request.fit)[_STATE] = state
    return Ready(n_rows=len(training), n_held_out=len(held_out))


def answer_round(recipe: LocalRecipe, party: PartyService, request: Round) -> Reply:
    """Train on the party's rows."""
    state, rows = party_rounds(party, request.fit), party.rows(request.fit)
    training, _ = state.split(rows)
    if not len(training):
        raise PartyError(party.name, "has no row to train on: all are held out")
    plan, memory = state.plan, state.memory
    private = state.begin_private and state.begin_private(party)
    with model_of(recipe, party, plan) as model:
        _check_length(party.name, model, request.vectors.shape[1], len(request.buffers))
        problem = RowsProblem(
            model,
            Weights(request.vectors[0], memory["personal"], request.buffers),
            rows.X[training] if len(training) < len(rows) else rows.X,
            rows.targets[training] if len(training) < len(rows) else rows.targets,
            epochs=plan.local_epochs,
            seed=round_seed(plan.seed, request.index, party.name),
            steps_before=steps_before(memory),
            private=private,
        )
        update = state.strategy.at_party(problem, request.vectors, memory)
    vectors = update.vectors.astype(np.float32, copy=False)
    if not (np.isfinite(vectors).all() and np.isfinite(update.loss)):
        raise DivergenceError(party.name, "its local training came to NaN or infinity")
    memory["personal"] = problem.after.personal
    memory["steps"] = np.array([problem.steps_after], dtype=np.float64)
    packed = pack_with_feedback(vectors, memory, Compression(plan.eight_bits, plan.top))
    return (Reply if private is None else PrivateReply)(
        **vars(packed),
        buffers=problem.after.buffers,
        n_rows=len(training),
        n_steps=update.n_steps,
        loss=float(update.loss),
    )


def answer_evaluate(recipe: LocalRecipe, party: PartyService, request: Evaluate) -> Evaluated:
    """Score parameters on held-out rows."""
    state, rows = party_rounds(party, request.fit), party.rows(request.fit)
    _, held_out = state.split(rows)
    if not len(held_out):
        return Evaluated(n_rows=0, loss=0.0, score=0.0)
    with model_of(recipe, party, state.plan) as model:
        _check_length(party.name, model, len(request.parameters), len(request.buffers))
        model.load(Weights(request.parameters, state.memory["personal"], request.buffers))
        loss, value = evidence(model, rows.X[held_out], rows.targets[held_out])
    return Evaluated(n_rows=len(held_out), loss=loss, score=value)


def answer_compare(recipe: LocalRecipe, party: PartyService, request: Compare) -> Compared:
    """Train a fine-tuned and a local model, compare them, and keep what is deployed."""
    state, rows = party_rounds(party, request.fit), party.rows(request.fit)
    plan, memory = state.plan, state.memory
    if request.deploy not in ("best", *MODELS) or min(request.epochs, request.local_epochs) < 1:
        raise PartyError(party.name, "the plan of the comparison is out of range")
    training, held_out = state.split(rows)
    said, candidates = {}, {}
    with model_of(recipe, party, plan) as model:
        _check_length(party.name, model, len(request.parameters), len(request.buffers))
        shared = memory.get("model", request.parameters)
        federated = Weights(shared, memory["personal"], request.buffers)
        model.load(federated)
        for name in MODELS:
            if name == "local":
                model.load(model.initial)
            if name != "federated" and len(training):
                epochs = request.epochs if name == "fine-tuned" else request.local_epochs
                seed = round_seed(plan.seed, MODELS.index(name), party.name)
                model.train(
                    rows.X[training],
                    rows.targets[training],
                    epochs=epochs,
                    seed=seed,
                    steps_before=steps_before(memory) if name == "fine-tuned" else 0,
                )
            candidates[name] = model.read()
            said[name] = evidence(model, rows.X[held_out], rows.targets[held_out])
    state.deployed = request.deploy
    if request.deploy == "best":
        finite = [n for n in MODELS if np.isfinite(candidates[n].shared).all()]
        # Where targets are no classes, what was trained for decides, whatever loss it is.
        classes = plan.n_classes > 0
        state.deployed = max(finite, key=lambda n: (said[n][1] if classes else 0.0, -said[n][0]))
    chosen = candidates[state.deployed]
    if state.deployed != "federated":
        memory |= {"model": chosen.shared, "buffers": chosen.buffers}
    memory["personal"] = chosen.personal
    return Compared(
        n_rows=len(held_out),
        losses=np.array([said[name][0] for name in MODELS]),
        scores=np.array([said[name][1] for name in MODELS]),
        deployed=state.deployed,
    )


def answer_finish(recipe: LocalRecipe, party: PartyService, request: Finish) -> Finished:
    """Forget what only training needs."""
    memory = party_rounds(party, request.fit).memory
    for name in set(memory) - {"personal", "model", "buffers"}:
        del memory[name]
    return Finished(fit=request.fit)


def party_rounds(party: PartyService, fit: str) -> PartyRounds:
    """Return what a party keeps for a fit.

    Parameters
    ----------
    party : PartyService
        The party.
    fit : str
        Name of the fit.

    Returns
    -------
    PartyRounds
        Its state.

    Raises
    ------
    PartyError
        If it does not know the fit.
    """
    try:
        state: PartyRounds = party.fits[fit][_STATE]
    except KeyError:
        raise PartyError(
            party.name, "no training in rounds is under way; fit the estimator again"
        ) from None
    return state


def steps_before(memory: Memory) -> int:
    """Return how many steps a party has taken in earlier rounds."""
    return int(memory["steps"][0]) if "steps" in memory else 0


def round_seed(seed: int, index: int, party: str) -> int:
    """Return the seed of a party in a round: different for each, and the same when resumed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {index} {party}".encode()).digest()[:4])


def model_of(
    recipe: LocalRecipe, party: PartyService, plan: Begin
) -> AbstractContextManager[LocalModel]:
    """Lend the model of a party's recipe."""
    X = party.rows(plan.fit).X
    width = X.shape[1] if X.ndim > 1 else 1
    return recipe.model(Shape(width, plan.n_classes), plan.seed)


def _check_length(party: str, model: LocalModel, n_parameters: int, n_buffers: int) -> None:
    expected = model.shared.size, model.buffers.size
    if (n_parameters, n_buffers) != expected:
        raise PartyError(
            party,
            f"its model has {expected[0]} parameters and {expected[1]} recorded statistics, "
            f"it was sent {n_parameters} and {n_buffers}",
        )
