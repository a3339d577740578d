"""How rows are served that a given subset of parties knows, decided by held-out evidence.

For every subset there are up to two candidates: the linear score, which is a party's own model,
the joint model of a pair, or a ridge regression on the scores of all members where there are more
parties; and the networks' score. They are averaged by held-out error, and where the active party
is a member the result is trusted over its own anchor only as far as a paired t statistic says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fedtl.learning.evidence import (
    Calibration,
    Gain,
    fit_calibration,
    guard_weight,
    paired_gain,
    squared_error,
)
from fedtl.learning.ridge import Family, evidence_weights, moments_of, solve
from fedtl.solvers.anchor import Anchor
from fedtl.solvers.pair import Pair
from fedtl.solvers.problem import ACTIVE, Problem

_BLENDS = np.linspace(0.0, 1.0, 5)
_ROWS_FOR_NETWORK = 200
_EXPERT_SCALE = 3.0
_ALL_SUBSETS_UP_TO = 6

Subset = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Experts:
    """Linear scores of some rows; None where a model does not exist.

    Parameters
    ----------
    anchor : ndarray of shape (n_rows, n_outputs), dtype float64
        The active party's own model.
    joint, alone : sequence of ndarray of shape (n_rows, n_outputs) or None
        For each other party, the joint model of the pair and that party's own model.
    """

    anchor: np.ndarray
    joint: Sequence[np.ndarray | None]
    alone: Sequence[np.ndarray | None]

    def of(self, subset: Subset) -> list[np.ndarray]:
        """Return the scores that are to be had when these parties know a row.

        The one that serves the subset best without further learning comes first.
        """
        others = [p - 1 for p in subset if p != ACTIVE]
        joint = [self.joint[p] for p in others] if ACTIVE in subset else []
        alone = [self.alone[p] for p in others]
        anchor = [self.anchor] if ACTIVE in subset else []
        return [score for score in [*joint, *anchor, *alone] if score is not None]

    def position_of_anchor(self, subset: Subset) -> int:
        """Return where the anchor stands in :meth:`of`, if the active party is a member."""
        return sum(self.joint[p - 1] is not None for p in subset if p != ACTIVE)

    def take(self, rows: np.ndarray) -> Experts:
        """Return the scores of some of the rows."""
        return Experts(
            self.anchor[rows],
            [None if s is None else s[rows] for s in self.joint],
            [None if s is None else s[rows] for s in self.alone],
        )


@dataclass(frozen=True, eq=False)
class Served:
    """How one subset of parties is served, and the evidence for it.

    Parameters
    ----------
    parties : tuple of int
        The subset.
    stack : ndarray of shape (1 + n_columns, n_outputs) or None
        Ridge regression on the members' scores, constant first; None where one score serves.
    network_share : float
        Share of the networks in the score, from 0 to 1.
    trust : float
        How far the joint score is trusted over the reference, from 0 to 1.
    reference : int
        Position of the reference among the scores of :meth:`Experts.of`; -1 for none.
    calibration : Calibration or None
        From scores to probabilities (classification only).
    gain : Gain or None
        Held-out gain over the active party alone, on labelled rows that it knows too.
    score, score_alone : float
        Held-out score (ROC AUC, accuracy or R squared) of this subset's model and of the active
        party alone, on the same rows; NaN without evidence.
    n_rows : int
        Labelled rows known to all of the subset.
    """

    parties: Subset
    stack: np.ndarray | None
    network_share: float
    trust: float
    reference: int
    calibration: Calibration | None = None
    gain: Gain | None = None
    score: float = np.nan
    score_alone: float = np.nan
    n_rows: int = 0

    def scores(self, experts: Experts, network: np.ndarray | None) -> np.ndarray:
        """Score rows that this subset knows.

        Parameters
        ----------
        experts : Experts
            Linear scores of the rows.
        network : ndarray of shape (n_rows, n_outputs) or None
            The networks' scores.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs), dtype float64
            Scores on the scale of the target.
        """
        columns = experts.of(self.parties)
        if self.stack is not None:
            joint = np.hstack(columns) @ self.stack[1:] + self.stack[0]
        elif columns:
            joint = columns[0]
        else:
            assert network is not None
            joint = network
        return self._guarded(joint, columns, network)

    def _guarded(
        self, joint: np.ndarray, columns: list[np.ndarray], network: np.ndarray | None
    ) -> np.ndarray:
        if self.network_share and network is not None:
            joint = joint + self.network_share * (network - joint)
        if self.reference < 0:
            return joint
        reference = columns[self.reference]
        return reference + self.trust * (joint - reference)


def subsets_to_serve(known: np.ndarray) -> list[Subset]:
    """Return the subsets that get a model of their own.

    All of them for up to six parties; beyond that those seen in training, those of one party,
    and those that lack one party. A row known to another subset is served by the largest of
    these that it contains.
    """
    n_parties = known.shape[1]
    parties = range(n_parties)
    if n_parties <= _ALL_SUBSETS_UP_TO:
        return [s for size in parties for s in combinations(parties, size + 1)]
    seen = {tuple(np.flatnonzero(pattern)) for pattern in np.unique(known, axis=0)}
    ends = {*combinations(parties, 1), *combinations(parties, n_parties - 1), tuple(parties)}
    return sorted((seen | ends) - {()}, key=lambda s: (len(s), s))


def held_out_experts(anchor: Anchor, pairs: Sequence[Pair | None]) -> Experts:
    """Return the held-out scores of all training rows."""
    return Experts(
        anchor.held_out,
        [None if p is None or p.joint is None else p.held_out_joint for p in pairs],
        [None if p is None else p.held_out_alone for p in pairs],
    )


def decide(
    subset: Subset,
    problem: Problem,
    experts: Experts,
    network: np.ndarray | None,
    ambiguity: np.ndarray | None,
    solver: str,
) -> Served:
    """Decide how a subset is served.

    Parameters
    ----------
    subset : tuple of int
        The parties.
    problem : Problem
        What was to be learnt.
    experts : Experts
        Held-out linear scores of all training rows.
    network : ndarray of shape (n_rows, n_outputs) or None
        Held-out network scores of all training rows, seen as by this subset.
    ambiguity : ndarray of shape (n_rows,) or None
        Variance of the members' scores, summed over outputs.
    solver : {"moments", "latent", "auto"}
        Which candidates are allowed.

    Returns
    -------
    Served
        The decision.
    """
    rows = problem.rows(*subset)
    target, weight = problem.target[rows], problem.weight[rows]
    columns = [column[rows] for column in experts.of(subset)]
    plain = subset == (ACTIVE,)
    stack, linear = _linear_score(subset, problem, rows, columns)
    seen = None if network is None or plain else network[rows]
    share = 0.0
    if seen is not None:
        spread = np.zeros(len(rows)) if ambiguity is None else ambiguity[rows]
        share = _network_share(linear, seen, spread, target, weight, solver)
        linear = seen if linear is None else linear
    assert linear is not None
    fused = linear if seen is None else linear + share * (seen - linear)
    reference = _reference(subset, columns, experts.position_of_anchor(subset), target, weight)
    trust, served = 1.0, fused
    if reference >= 0:
        base = columns[reference]
        gain = paired_gain(squared_error(target, base), squared_error(target, fused), weight)
        trust = guard_weight(gain)
        served = base + trust * (fused - base)
    return _with_evidence(
        Served(subset, stack, share, trust, reference, n_rows=len(rows)),
        problem,
        experts,
        rows,
        served,
    )


def _linear_score(
    subset: Subset, problem: Problem, rows: np.ndarray, columns: list[np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The stack (None where one score serves) and its held-out scores."""
    if not columns:
        return None, None
    pair = len(subset) == 2 and ACTIVE in subset and len(columns) == 3
    if len(columns) == 1 or pair:
        return None, columns[0]
    n_outputs = problem.n_outputs
    if len(rows) < 4 * problem.n_folds:
        average = np.vstack([np.zeros((1, n_outputs)), *[np.eye(n_outputs)] * len(columns)])
        return average / len(columns), np.asarray(np.mean(columns, axis=0))
    return _fit_stack(problem, rows, columns)


def _fit_stack(
    problem: Problem, rows: np.ndarray, columns: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    n_outputs = problem.n_outputs
    mean = np.mean(columns, axis=0)
    stacked = np.hstack(columns) * _EXPERT_SCALE
    moments = moments_of(
        stacked,
        np.hstack([problem.target[rows], mean]),
        problem.folds[rows],
        problem.weight[rows],
        problem.n_folds,
    )
    everything = np.arange(1, 1 + stacked.shape[1])
    no_offset = np.zeros((2 * n_outputs, n_outputs))
    mean_offset = np.vstack([np.zeros((n_outputs, n_outputs)), np.eye(n_outputs)])
    averaged = solve(
        moments.centered(),
        [Family(everything, no_offset), Family(everything, mean_offset)],
        n_outputs,
    )
    column_mean, target_mean = moments.means()
    mean_map = averaged.offset[n_outputs:]
    constant = target_mean[:n_outputs] - target_mean[n_outputs:] @ mean_map
    full, held_out = averaged.with_constant(column_mean, constant)
    tiled = np.tile(mean_map, (len(columns), 1)) / len(columns)
    full[1:], held_out[:, 1:] = full[1:] * _EXPERT_SCALE, held_out[:, 1:] * _EXPERT_SCALE
    full[1:] += tiled
    held_out[:, 1:] += tiled
    unscaled, folds = np.hstack(columns), problem.folds[rows]
    scores = np.empty((len(rows), n_outputs))
    for fold in np.unique(folds):
        inside = folds == fold
        scores[inside] = unscaled[inside] @ held_out[fold, 1:] + held_out[fold, 0]
    return full, scores


def _network_share(
    linear: np.ndarray | None,
    network: np.ndarray,
    ambiguity: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    solver: str,
) -> float:
    """The networks' share, averaged over shares by held-out error.

    Held-out scores come from one member, new rows are scored by the mean of all. By the
    ambiguity decomposition (Krogh and Vedelsby, NIPS 1995) the mean's squared error is a
    member's minus the members' variance, which needs no labels.
    """
    if linear is None or solver == "latent":
        return 1.0
    n = int((weight > 0).sum())
    if n < _ROWS_FOR_NETWORK:
        return 0.0
    errors = [
        np.average(
            squared_error(target, linear + s * (network - linear)) - s**2 * ambiguity,
            weights=weight,
        )
        for s in _BLENDS
    ]
    return float(evidence_weights(np.maximum(errors, 1e-12), n) @ _BLENDS)


def _reference(
    subset: Subset,
    columns: list[np.ndarray],
    anchor: int,
    target: np.ndarray,
    weight: np.ndarray,
) -> int:
    """What the joint score must beat: the anchor, or the best other party's own model."""
    if len(subset) == 1 or not columns:
        return -1
    if ACTIVE in subset:
        return anchor
    if not len(target):
        return -1
    return int(np.argmin([weight @ squared_error(target, column) for column in columns]))


def _with_evidence(
    served: Served, problem: Problem, experts: Experts, rows: np.ndarray, scores: np.ndarray
) -> Served:
    """Add the calibration, and the comparison with the active party alone."""
    target, weight = problem.target[rows], problem.weight[rows]
    calibration = None
    if problem.task != "regression":
        calibration = default_calibration(problem.task)
        classes = problem.order[rows].astype(int)
        if len(np.unique(classes)) > 1:
            calibration = fit_calibration(scores, classes, weight)
    values = {**served.__dict__, "calibration": calibration}
    both = problem.known[rows, ACTIVE]
    if both.sum() > 1:
        base, own = experts.anchor[rows][both], scores[both]
        truth, w = target[both], weight[both]
        if served.parties != (ACTIVE,):
            values["gain"] = paired_gain(squared_error(truth, base), squared_error(truth, own), w)
        values["score"] = held_out_score(problem.task, truth, own, w)
        values["score_alone"] = held_out_score(problem.task, truth, base, w)
    return Served(**values)


def default_calibration(task: str) -> Calibration:
    """Return the curve that is used where no labelled row tells a better one."""
    return Calibration(4.0, -2.0) if task == "binary" else Calibration(5.0)


def held_out_score(task: str, target: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float:
    """Return ROC AUC, accuracy or R squared of held-out scores; NaN where it is not defined."""
    from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

    if task == "binary":
        if len(np.unique(target[weight > 0])) < 2:
            return np.nan
        return float(roc_auc_score(target[:, 0], score[:, 0], sample_weight=weight))
    if task == "multiclass":
        return float(accuracy_score(target.argmax(1), score.argmax(1), sample_weight=weight))
    return float(r2_score(target[:, 0], score[:, 0], sample_weight=weight))
