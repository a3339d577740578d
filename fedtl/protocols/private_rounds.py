"""Private rounds: local training in rounds, in which no row of a party matters much.

Beside `rounds`: it is agreed on after ``rounds.begin/1`` and before the first round, and
changes how the party answers ``rounds.round/1``. From then on its updates are functions of noisy
sums of clipped gradients, its loss is not told, and it answers the agreed number of rounds. Each
party draws its own rows and noise, so that nobody has to be trusted with either.

Who learns what:

- ``private_rounds.plan/1`` tells the party what a fit may spend of its rows' privacy and how many
  rounds there will be.
- ``private_rounds.planned/1`` tells the coordinator how much noise the party will add, and which
  share of its rows takes part in a step. That follows from the number of its rows.
- ``rounds.update/1`` then gives the coordinator, over all rounds, (epsilon, delta)-differentially
  private functions of the party's rows, whatever it knows of the others. Its number of rows is
  told as before and not protected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from fedtl.exceptions import PartyError
from fedtl.learning.local import LocalRecipe, PrivateSteps
from fedtl.parties import Answer, PartyService
from fedtl.privacy import DifferentialPrivacy
from fedtl.privacy.accounting import Gaussian, calibrated, check_delta
from fedtl.protocols.rounds import model_of, party_rounds
from fedtl.wire import Message, message


@message("private_rounds.plan/1")
class Plan(Message):
    """What a fit may spend of a party's rows' privacy, over how many rounds."""

    fit: str
    epsilon: float
    delta: float
    clip: float
    n_rounds: int


@message("private_rounds.planned/1")
class Planned(Message):
    """How the party will train."""

    noise_multiplier: float
    sampling_rate: float
    n_steps: int


@dataclass
class PrivateRounds:
    """A party's private training: paid for as a whole, before the first row is used.

    Parameters
    ----------
    steps : PrivateSteps
        What is done in one round.
    mechanism : Gaussian
        What is done in all of them.
    rounds_left : int
        Rounds that are still to be answered.
    paid : bool
        Whether it is in the book.
    """

    steps: PrivateSteps
    mechanism: Gaussian
    rounds_left: int
    paid: bool = False

    def begin(self, party: PartyService) -> PrivateSteps:
        """Begin one more round, and pay for all of them with the first."""
        if not self.rounds_left:
            raise PartyError(party.name, "all rounds of this private training have been answered")
        if not self.paid:
            party.usage.spend(party.name, party.policy, self.mechanism)
            if party.budget is not None:
                party.budget.spend(party.name, self.mechanism)
        self.paid = True
        self.rounds_left -= 1
        return self.steps


def plan(privacy: DifferentialPrivacy, fit: str, n_rounds: int) -> Plan:
    """Return the message that makes a training private."""
    return Plan(
        fit=fit,
        epsilon=float(privacy.epsilon),
        delta=float(privacy.delta),
        clip=float(privacy.clip),
        n_rounds=n_rounds,
    )


def answers(recipe: LocalRecipe) -> Mapping[str, tuple[str, Answer]]:
    """Return the party's end of the protocol, by kinds of requests, for a party with a recipe."""
    return {Plan.kind: ("private_rounds", partial(answer_plan, recipe))}


def answer_plan(recipe: LocalRecipe, party: PartyService, request: Plan) -> Planned:
    """Work out the noise, and refuse what the budget does not have."""
    state = party_rounds(party, request.fit)
    if request.n_rounds < 1 or not 0.0 < request.clip < math.inf:
        raise PartyError(party.name, "the plan of the private training is out of range")
    if state.plan.held_out or not state.strategy.trains_once:
        raise PartyError(
            party.name,
            "under differential privacy it holds no rows out, and trains once a round; the plan "
            f"holds out {state.plan.held_out:g}, by the strategy {state.strategy.name!r}",
        )
    n_rows = len(party.rows(request.fit))
    with model_of(recipe, party, state.plan) as model:
        if not model.has_gradients:
            raise PartyError(
                party.name,
                "differentially private training needs gradients of single rows, which "
                "scikit-learn's models do not give; use a torch network, or unit='party'",
            )
        if model.buffers.size:
            raise PartyError(
                party.name,
                "its model records statistics of rows, as batch norms do, which would be told "
                "without noise; use group or layer norms",
            )
        rate = sampling_rate(model.batch_rows(n_rows), n_rows)
    n_steps = state.plan.local_epochs * math.ceil(1.0 / rate)
    try:
        check_delta(request.delta, n_rows)
        mechanism = calibrated(request.epsilon, request.delta, rate, n_steps * request.n_rounds)
    except (ImportError, ValueError) as error:
        raise PartyError(party.name, str(error)) from error
    party.usage.allow_spending(party.name, party.policy, mechanism)
    if party.budget is not None:
        party.budget.allow(party.name, mechanism)
    steps = PrivateSteps(n_steps, rate, request.clip, mechanism.noise_multiplier)
    state.begin_private = PrivateRounds(steps, mechanism, request.n_rounds).begin
    return Planned(noise_multiplier=mechanism.noise_multiplier, sampling_rate=rate, n_steps=n_steps)


def sampling_rate(batch_rows: int, n_rows: int) -> float:
    """Return the probability with which each row takes part in a step.

    Parameters
    ----------
    batch_rows : int
        Rows of a mini-batch.
    n_rows : int
        Rows in all.

    Returns
    -------
    float
        Their ratio, rounded up to two digits: parties of nearly equal size have the same noise.
    """
    rate = batch_rows / n_rows
    digit = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return min(1.0, math.ceil(rate / digit - 1e-9) * digit)
