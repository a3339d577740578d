"""Secure rounds: rounds of which the coordinator sees the parties' mean update and no single one.

Each round is one sum of :mod:`fedtl.protocols.secure_sums`, in which a party may drop out between
any two exchanges; the third of them is here.

Who learns what:

- ``secure_rounds.round/1`` gives the party the shared parameters, as ``rounds.round/1`` does, the
  number of all parties' rows, by which it weighs its own, and the shares meant for it.
- What it masks is its update: change, statistics, loss, steps and one, weighed, in fixed point.
  From the sum the coordinator learns the mean change, mean loss and mean statistics of the parties
  that stayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.learning.local import LocalRecipe
from fedtl.parties import Answer, PartyService
from fedtl.privacy.secure_aggregation import plan_sum
from fedtl.protocols.rounds import Round, answer_round, party_rounds
from fedtl.protocols.secure_sums import DTYPE, SEALED_BYTES, Masked, guarded, masked
from fedtl.wire import Message, Tensor, message

MAGNITUDE_BITS = 20
"""Weighed changes and statistics are below 2**20; what is larger is refused, never wrapped."""


@message("secure_rounds.round/1")
class SecureRound(Message):
    """Train from these parameters, and mask what comes of it."""

    fit: str
    index: int
    n_rows: int
    vectors: Annotated[np.ndarray, Tensor("float32", ("vectors", "parameters"))]
    buffers: Annotated[np.ndarray, Tensor("float32", ("buffers",))]
    sealed: Annotated[np.ndarray, Tensor("uint8", ("members", SEALED_BYTES))]


def answers(recipe: LocalRecipe) -> Mapping[str, tuple[str, Answer]]:
    """Return the party's end of the protocol, by kinds of requests, for a party with a recipe."""
    return {SecureRound.kind: ("secure_rounds", guarded(partial(answer_round_masked, recipe)))}


def answer_round_masked(recipe: LocalRecipe, party: PartyService, request: SecureRound) -> Masked:
    """Train, and mask the update."""
    state = party_rounds(party, request.fit)
    if state.plan.eight_bits or state.plan.top < 1.0 or not state.strategy.averages:
        raise PartyError(
            party.name,
            "masked updates can be averaged and nothing else; the strategy "
            f"{state.strategy.name!r}, or its compression, needs more",
        )
    plain = Round(
        fit=request.fit, index=request.index, vectors=request.vectors, buffers=request.buffers
    )

    def update() -> np.ndarray:
        reply = answer_round(recipe, party, plain)
        if reply.n_rows > request.n_rows:
            raise PartyError(
                party.name, f"it trains on {reply.n_rows} rows, of {request.n_rows} in all"
            )
        values = np.concatenate([reply.values[0], reply.buffers, [reply.loss, reply.n_steps, 1.0]])
        fixed = plan_sum(MAGNITUDE_BITS, len(request.sealed), DTYPE)
        weight = reply.n_rows / request.n_rows
        return fixed.encode(weight * values.astype(np.float64)).astype(DTYPE)

    return masked(party, request, update)
