"""Decisions from sums alone: how subsets of parties are served where no score of a row is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedtl.learning.evidence import TRUST_STACK, Calibration, guard_weight, squared_error
from fedtl.learning.score_sums import error_of_mixture
from fedtl.solvers.anchor import Anchor
from fedtl.solvers.judge import Judged
from fedtl.solvers.problem import ACTIVE, Problem
from fedtl.solvers.subsets import (
    Decisions,
    Evidence,
    Experts,
    Served,
    Subset,
    held_out_score,
    how_sure,
    subsets_to_serve,
)


def decide_by_sums(
    problem: Problem, anchor: Anchor, pairs: Sequence[Judged]
) -> dict[Subset, Served]:
    """Decide how every subset of parties is served.

    Parameters
    ----------
    problem : Problem
        What was to be learnt.
    anchor : Anchor
        The active party's own model.
    pairs : sequence of Judged
        What was learnt with each other party.

    Returns
    -------
    dict of tuple to Served
        By subset: with the active party, the pool of the pairs' models, trusted as their gains say;
        without it, the pool of the others' own models.
    """
    nothing: list[np.ndarray | None] = [None] * len(pairs)
    alone = Decisions(problem, Experts(anchor.held_out, nothing, nothing), "moments")
    served: dict[Subset, Served] = {(ACTIVE,): alone.decide((ACTIVE,), None)}
    for subset in subsets_to_serve(problem.known):
        if subset == (ACTIVE,):
            continue
        members = [pairs[party - 1] for party in subset if party != ACTIVE]
        joined = [pair for pair in members if pair.joint is not None]
        if ACTIVE not in subset:
            served[subset] = _pool(problem, subset, [pair.alone_curve for pair in members])
            gain = members[0].alone_gain if len(members) == 1 else None
            evidence = replace(served[subset].evidence, gain=gain)
            served[subset] = replace(served[subset], evidence=evidence)
        elif joined:
            own = alone.singles[ACTIVE]
            served[subset] = _guarded(problem, subset, len(members), joined, own)
        else:
            served[subset] = replace(
                served[(ACTIVE,)],
                parties=subset,
                linear_share=0.0,
                single_shares={ACTIVE: 1.0},
                trust=0.0,
                evidence=Evidence(len(problem.rows(*subset))),
            )
    return served


def _pool(
    problem: Problem,
    subset: Subset,
    curves: Sequence[Calibration | None],
    anchor_shares: Sequence[float] = (),
    n_unused: int = 0,
) -> Served:
    """Pool scores so that they count alike as log odds.

    The anchor's score comes behind them if it has shares, and at last others that are not used.
    """
    n, slopes, pooled = problem.n_outputs, np.ones(len(curves)), None
    found = [curve for curve in curves if curve is not None]
    if found:
        slopes = np.array([curve.slope for curve in found])
        intercept = float(np.mean([curve.intercept for curve in found]))
        pooled = Calibration(float(slopes.mean()), intercept)
    shares = slopes / slopes.sum()
    weights = [*shares, shares @ anchor_shares] if len(anchor_shares) else [*shares]
    blocks = [weight * np.eye(n) for weight in [*weights, *[0.0] * n_unused]]
    return Served(
        subset,
        np.vstack([np.zeros((1, n)), *blocks]),
        False,
        pooled,
        linear_share=1.0,
        network_share=0.0,
        single_shares={},
        trust=1.0,
        evidence=Evidence(len(problem.rows(*subset))),
    )


def _guarded(
    problem: Problem,
    subset: Subset,
    n_members: int,
    joined: Sequence[Judged],
    own: np.ndarray,
) -> Served:
    """Pool the pairs' models, and trust them over the anchor as far as their gains bear out."""
    served = _pool(
        problem,
        subset,
        [pair.joint_curve for pair in joined],
        [pair.anchor_share for pair in joined],
        n_unused=n_members,
    )
    gains = [pair.gain for pair in joined if pair.gain is not None]
    wanted = how_sure(problem.task, served.evidence.n_rows, TRUST_STACK)
    trust = float(np.mean([guard_weight(gain, wanted) for gain in gains]))
    rows, score = problem.rows(*subset), np.nan
    target, weight = problem.target[rows], problem.weight[rows]
    products = joined[0].products
    if problem.task == "regression" and n_members == 1 and products is not None:
        mean = np.average(target, axis=0, weights=weight)
        spread = np.average(squared_error(target, mean), weights=weight)
        score = 1.0 - error_of_mixture(products, trust) / max(float(spread), 1e-12)
    score_alone = held_out_score(problem.task, target, own[rows], weight)
    gain = min(gains, key=lambda gain: gain.t)
    return replace(
        served,
        linear_share=trust,
        single_shares={ACTIVE: 1.0 - trust},
        trust=trust,
        evidence=Evidence(len(rows), gain, score, score_alone),
    )
