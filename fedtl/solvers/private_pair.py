"""Moments with noise: what is learnt with each other party, and decided, from sums alone.

The joint model, and the other party's own, are those of :mod:`fedtl.solvers.pair`. But no held-out
score of a training row is told, so that evidence is made of sums too: the error on a fold of what
was solved without it is a function of that fold's sums. Over folds it varies with rows and with
noise, and the guard weighs the mean difference by that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.learning.evidence import (
    TRUST_AVERAGE,
    Calibration,
    Gain,
    fit_calibration,
    guard_weight,
    squared_error,
)
from fedtl.learning.ridge import Moments, target_squares
from fedtl.protocols.private_moments import PrivateMoments
from fedtl.solvers.anchor import Anchor
from fedtl.solvers.coalition import Coalition
from fedtl.solvers.linear import Linear
from fedtl.solvers.pair import Pair, solve_alone, solve_joint
from fedtl.solvers.problem import ACTIVE, Problem
from fedtl.solvers.subsets import (
    Decisions,
    Evidence,
    Experts,
    Served,
    Subset,
    subsets_to_serve,
)


@dataclass(frozen=True, eq=False)
class PrivatePair:
    """What was learnt with one other party.

    Parameters
    ----------
    pair : Pair
        The models, without held-out scores.
    gain : Gain
        Of the joint model over the active party's own, on the rows that both know.
    """

    pair: Pair
    gain: Gain


def fit_private_pair(
    coalition: Coalition, moments: PrivateMoments, party: int, problem: Problem, anchor: Anchor
) -> PrivatePair:
    """Learn with one other party: a round for the sums, one for the coefficients.

    Parameters
    ----------
    coalition : Coalition
        All parties.
    moments : PrivateMoments
        How sums are asked for.
    party : int
        The number of the one to learn with.
    problem : Problem
        What is to be learnt.
    anchor : Anchor
        The active party's own model.

    Returns
    -------
    PrivatePair
        What was learnt.

    Raises
    ------
    PartyError
        If no labelled row is known to both.
    """
    channel, rows = coalition.channels[party - 1], problem.rows(ACTIVE, party)
    if not len(rows):
        raise PartyError(channel.name, "shares no labelled row with the active party; leave it out")
    folds, own = problem.folds[rows], anchor.start[rows]
    targets = np.hstack([problem.target[rows], own])
    centre = targets.mean(axis=0)
    gram, cross, spectrum = moments.ask_sums(
        channel,
        coalition.name,
        rows,
        folds=folds,
        targets=targets - centre,
        n_folds=problem.n_folds,
    )
    cross = cross + gram[:, :, :1] * centre  # as if the targets had not been centred
    square = target_squares(
        np.hstack([np.ones((len(rows), 1)), targets]), folds, np.ones(len(rows)), problem.n_folds
    )
    sums = Moments(gram, cross, square[:, 1:, 1:])
    # Noise makes eigenvalues negative; without a floor the least noisy evidence is that of models
    # which fit noise.
    floor = spectrum * np.diag(np.r_[0.0, np.ones(gram.shape[1] - 1)])
    damped = Moments(gram + floor, cross, sums.square)
    n, nothing = problem.n_outputs, np.empty((0, 0))
    joint, alone = solve_joint(damped, n, own, nothing), solve_alone(damped, n, nothing, [])
    moments.keep(channel, coalition.name, np.hstack([joint.other, alone.other]))
    gain = _gain(sums, joint, squared_error(problem.target[rows], own), folds, n)
    width = 1 + coalition.session.features.encoding_.width
    none = np.empty((0, n))
    return PrivatePair(Pair(joint, alone, 0.0, np.empty((width, 0)), none, none), gain)


def _gain(
    sums: Moments, joint: Linear, reference: np.ndarray, folds: np.ndarray, n_outputs: int
) -> Gain:
    """Compare the joint model with the anchor, fold by fold."""
    n_folds = len(sums.gram)
    differences, alone = np.empty(n_folds), np.empty(n_folds)
    for fold in range(n_folds):
        other, own = joint.other_held_out[fold].copy(), joint.own_held_out[fold]
        other[0] += joint.constant_held_out[fold]
        with_own = sums.cross[fold][:, n_outputs:]
        squares = sums.square[fold]
        error = (
            np.trace(squares[:n_outputs, :n_outputs])
            + np.sum(other * (sums.gram[fold] @ other))
            + np.sum(own * (squares[n_outputs:, n_outputs:] @ own))
            + 2.0 * np.sum(other * (with_own @ own))
            - 2.0 * np.sum(other * sums.cross[fold][:, :n_outputs])
            - 2.0 * np.sum(own * squares[n_outputs:, :n_outputs])
        )
        alone[fold] = reference[folds == fold].mean()
        differences[fold] = alone[fold] - error / sums.gram[fold, 0, 0]
    mean, scale = float(differences.mean()), max(float(alone.mean()), 1e-12)
    error = max(float(differences.std(ddof=1)) / np.sqrt(n_folds), 1e-12)
    low, high = (mean - 1.96 * error) / scale, (mean + 1.96 * error) / scale
    return Gain(mean / scale, low, high, mean / error, len(reference))


def decide_privately(
    problem: Problem, anchor: Anchor, fits: list[PrivatePair]
) -> dict[Subset, Served]:
    """Decide how every subset of parties is served.

    Parameters
    ----------
    problem : Problem
        What was to be learnt.
    anchor : Anchor
        The active party's own model.
    fits : list of PrivatePair
        What was learnt with each other party.

    Returns
    -------
    dict of tuple to Served
        By subset: with the active party, the mean of the joint models, trusted as their gains
        say; without it, the mean of the others' own models.
    """
    nothing: list[np.ndarray | None] = [None] * len(fits)
    alone = Decisions(problem, Experts(anchor.held_out, nothing, nothing), "moments")
    served: dict[Subset, Served] = {(ACTIVE,): alone.decide((ACTIVE,), None)}
    calibration = _calibration(problem, anchor)
    for subset in subsets_to_serve(problem.known):
        if subset == (ACTIVE,):
            continue
        others = [fits[party - 1] for party in subset if party != ACTIVE]
        n, k = problem.n_outputs, len(others)
        trust, gain = 1.0, None
        if ACTIVE in subset:
            gain = min((fit.gain for fit in others), key=lambda g: g.t)
            trust = float(np.mean([guard_weight(fit.gain, TRUST_AVERAGE) for fit in others]))
        # The scores of a subset: k joint ones, the anchor's, k of the others alone.
        unused = 0 if ACTIVE not in subset else 1 + k
        average = np.vstack([np.zeros((1, n)), *[np.eye(n) / k] * k, np.zeros((unused * n, n))])
        served[subset] = Served(
            subset,
            average,
            False,
            calibration,
            linear_share=trust,
            network_share=0.0,
            single_shares={ACTIVE: 1.0 - trust} if ACTIVE in subset else {},
            trust=trust,
            evidence=Evidence(len(problem.rows(*subset)), gain),
        )
    return served


def _calibration(problem: Problem, anchor: Anchor) -> Calibration | None:
    """That of the active party's own scores, around which the joint models are solved."""
    if problem.task == "regression":
        return None
    rows = problem.rows(ACTIVE)
    return fit_calibration(
        anchor.start[rows], problem.order[rows].astype(int), problem.weight[rows]
    )
