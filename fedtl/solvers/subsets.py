"""How rows are served that a given subset of parties knows, decided by held-out evidence.

For two classes, the scores of the members' own models, of the pairs' joint models and of the
networks are stacked as log odds (see :mod:`fedtl.learning.stacking`). Otherwise, and where one
score or few rows are all there is, there are up to three kinds of candidates: a ridge regression
on the linear scores; the networks' score; and what serves each other party alone. They are
averaged on the scale of the target (probabilities for classes) by held-out error. Where the active
party is a member, the result is trusted over its own anchor only as far as a paired t statistic
says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.linalg import block_diag
from scipy.special import logit

from fedtl.learning.evidence import (
    TRUST_AVERAGE,
    TRUST_STACK,
    Calibration,
    Gain,
    fit_calibration,
    guard_weight,
    paired_gain,
    squared_error,
)
from fedtl.learning.ridge import Family, evidence_weights, moments_of, solve
from fedtl.learning.stacking import LogitStack, fit_logit_stack
from fedtl.solvers.anchor import Anchor
from fedtl.solvers.pair import Pair
from fedtl.solvers.problem import ACTIVE, Problem

_BLENDS = np.linspace(0.0, 1.0, 5)
_ROWS_FOR_NETWORK = 200
_ROWS_TO_STACK_NETWORK = 500
_MANY_ROWS = 100
"""With fewer rows nothing is stacked, and an average has to be three times as sure: a few rows of
the rarer class decide what looks best, and their errors are far from normal."""
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

        Parameters
        ----------
        subset : tuple of int
            The parties.

        Returns
        -------
        list of ndarray of shape (n_rows, n_outputs)
            Scores.
        """
        others = [p - 1 for p in subset if p != ACTIVE]
        joint = [self.joint[p] for p in others] if ACTIVE in subset else []
        alone = [self.alone[p] for p in others]
        anchor = [self.anchor] if ACTIVE in subset else []
        return [score for score in [*joint, *anchor, *alone] if score is not None]

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
    stack : LogitStack, ndarray of shape (1 + n_columns, n_outputs) or None
        Stack of the members' scores as log odds, the networks' last if `stacks_network`; or ridge
        regression on them, constant first; None where one score serves.
    stacks_network : bool
        Whether the networks are in the stack.
    calibration : Calibration or None
        From linear scores to probabilities (classification only).
    linear_share, network_share : float
        Weights of the linear score and of the networks.
    single_shares : dict of int to float
        Weights of what serves single parties. All weights together sum to one.
    trust : float
        How far the average is trusted over the active party's own model, from 0 to 1.
    evidence : Evidence
        The comparison with the active party alone.
    """

    parties: Subset
    stack: LogitStack | np.ndarray | None
    stacks_network: bool
    calibration: Calibration | None
    linear_share: float
    network_share: float
    single_shares: Mapping[int, float]
    trust: float
    evidence: Evidence

    @property
    def network_weight(self) -> float:
        """Weight of the networks in what serves the subset, inside a stack or beside it."""
        if not isinstance(self.stack, LogitStack) or not self.stacks_network:
            return self.network_share
        return float(self.linear_share * self.stack.shares[-1])

    def linear(self, experts: Experts, network: np.ndarray | None) -> np.ndarray:
        """Return the stacked score on the scale of the target: (n_rows, n_outputs)."""
        columns = experts.of(self.parties)
        if isinstance(self.stack, LogitStack):
            if self.stacks_network and network is not None:
                columns.append(as_scores(network))
            return self.stack.probabilities(columns)
        score = columns[0]
        if self.stack is not None:
            score = np.hstack(columns) @ self.stack[1:] + self.stack[0]
        return on_target_scale(score, self.calibration)


@dataclass(frozen=True)
class Evidence:
    """What held-out rows say of a subset's model.

    Parameters
    ----------
    n_rows : int
        Labelled rows known to all of the subset.
    gain : Gain or None
        Gain over the active party alone, on those that it knows too.
    score, score_alone : float
        Held-out score (ROC AUC, accuracy or R squared) of this subset's model and of the active
        party alone, on the same rows; NaN where there are none.
    """

    n_rows: int
    gain: Gain | None = None
    score: float = np.nan
    score_alone: float = np.nan


def subsets_to_serve(known: np.ndarray) -> list[Subset]:
    """Return the subsets that get a model of their own.

    All of them for up to six parties; beyond that those seen in training, those of one party,
    and those that lack one party. A row known to another subset is served by the largest of
    these that it contains.

    Parameters
    ----------
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which training row.

    Returns
    -------
    list of tuple of int
        Subsets, smaller ones first.
    """
    n_parties = known.shape[1]
    parties = range(n_parties)
    if n_parties <= _ALL_SUBSETS_UP_TO:
        return [s for size in parties for s in combinations(parties, size + 1)]
    seen = {tuple(int(p) for p in np.flatnonzero(pattern)) for pattern in np.unique(known, axis=0)}
    ends = {*combinations(parties, 1), *combinations(parties, n_parties - 1), tuple(parties)}
    return sorted((seen | ends) - {()}, key=lambda s: (len(s), s))


def how_sure(task: str, n_rows: int, full: float) -> float:
    """Return the standard errors of full trust in a gain: more for few rows of two classes.

    Parameters
    ----------
    task : {"binary", "multiclass", "regression"}
        What is learnt.
    n_rows : int
        Rows that the gain was seen on.
    full : float
        What is asked with many rows.

    Returns
    -------
    float
        Standard errors.
    """
    return 3.0 * full if task == "binary" and n_rows < _MANY_ROWS else full


def held_out_experts(anchor: Anchor, pairs: Sequence[Pair | None]) -> Experts:
    """Return the held-out scores of all training rows."""
    return Experts(
        anchor.held_out,
        [None if p is None or p.joint is None else p.held_out_joint for p in pairs],
        [None if p is None else p.held_out_alone for p in pairs],
    )


class Decisions:
    """Decides subset by subset, single parties first, from held-out scores.

    Parameters
    ----------
    problem : Problem
        What was to be learnt.
    experts : Experts
        Held-out linear scores of all training rows.
    solver : {"moments", "latent", "auto", "liu"}
        Which candidates are allowed.
    """

    def __init__(self, problem: Problem, experts: Experts, solver: str) -> None:
        self.problem, self.experts, self.solver = problem, experts, solver
        self.singles: dict[int, np.ndarray] = {}

    def decide(self, subset: Subset, network: np.ndarray | None) -> Served:
        """Decide how a subset is served.

        Parameters
        ----------
        subset : tuple of int
            The parties; those of one party come before others.
        network : ndarray of shape (n_rows, n_outputs) or None
            Held-out network scores of all training rows, seen as by this subset.

        Returns
        -------
        Served
            The decision.
        """
        rows = self.problem.rows(*subset)
        if len(rows) < _ROWS_FOR_NETWORK and self.solver != "latent":
            network = None
        stack: LogitStack | np.ndarray | None
        candidates: dict[str | int, np.ndarray]
        calibration = None
        if self._can_stack(subset, rows):
            if len(rows) < _ROWS_TO_STACK_NETWORK:
                network = None
            stack, stacked = self._logit_stack(subset, rows, network)
            candidates, weights = {"linear": stacked}, np.ones(1)
        else:
            stack, linear = self._linear(subset, rows)
            if linear is not None:
                calibration = self._calibration(linear, rows)
                linear = on_target_scale(linear, calibration)
            candidates, weights = self._average(subset, rows, linear, network)
        served = np.tensordot(weights, np.stack(list(candidates.values())), 1)
        shares = dict(zip(candidates, weights.tolist(), strict=True))
        trust = 1.0
        if ACTIVE in subset and len(subset) > 1:
            anchor = self.singles[ACTIVE][rows]
            full = TRUST_STACK if isinstance(stack, LogitStack) else TRUST_AVERAGE
            wanted = how_sure(self.problem.task, len(rows), full)
            trust = guard_weight(self._gain(rows, anchor, served), wanted)
            served = anchor + trust * (served - anchor)
            shares = {name: trust * share for name, share in shares.items()}
            shares[ACTIVE] = 1.0 - trust
        if len(subset) == 1:
            self.singles[subset[0]] = np.zeros_like(self.problem.target)
            self.singles[subset[0]][rows] = served
        return Served(
            subset,
            stack,
            isinstance(stack, LogitStack) and network is not None,
            calibration,
            linear_share=shares.get("linear", 0.0),
            network_share=shares.get("network", 0.0),
            single_shares={p: share for p, share in shares.items() if isinstance(p, int)},
            trust=trust,
            evidence=self._evidence(subset, rows, served),
        )

    def _can_stack(self, subset: Subset, rows: np.ndarray) -> bool:
        """Log odds need two classes, several scores and rows enough to calibrate them."""
        return (
            self.problem.task == "binary"
            and self.solver != "latent"
            and len(self.experts.of(subset)) > 1
            and len(rows) >= _MANY_ROWS
            and len(np.unique(self.problem.order[rows])) == 2
        )

    def _logit_stack(
        self, subset: Subset, rows: np.ndarray, network: np.ndarray | None
    ) -> tuple[LogitStack, np.ndarray]:
        columns = [column[rows] for column in self.experts.of(subset)]
        if network is not None:
            columns.append(as_scores(network[rows]))
        target = self.problem.order[rows].astype(int)
        return fit_logit_stack(
            columns,
            target,
            self.problem.weight[rows],
            self.problem.folds[rows],
            self.problem.n_folds,
        )

    def _linear(
        self, subset: Subset, rows: np.ndarray
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The stack (None where one score serves) and its held-out scores."""
        columns = [column[rows] for column in self.experts.of(subset)]
        anchor_only = self.solver == "latent" and len(subset) > 1
        if not columns or anchor_only:
            return None, None
        pair = len(subset) == 2 and len(columns) == 3
        few = len(rows) < 4 * self.problem.n_folds
        if len(columns) == 1 or (pair and few):
            return None, columns[0]
        n_outputs = self.problem.n_outputs
        if few:
            average = np.vstack([np.zeros((1, n_outputs)), *[np.eye(n_outputs)] * len(columns)])
            return average / len(columns), np.asarray(np.mean(columns, axis=0))
        return _fit_stack(self.problem, rows, columns)

    def _calibration(self, linear: np.ndarray, rows: np.ndarray) -> Calibration | None:
        task = self.problem.task
        if task == "regression":
            return None
        classes = self.problem.order[rows].astype(int)
        if len(np.unique(classes)) < 2:
            return Calibration(4.0, -2.0) if task == "binary" else Calibration(5.0)
        return fit_calibration(linear, classes, self.problem.weight[rows])

    def _average(
        self,
        subset: Subset,
        rows: np.ndarray,
        linear: np.ndarray | None,
        network: np.ndarray | None,
    ) -> tuple[dict[str | int, np.ndarray], np.ndarray]:
        """Candidates, and their weights by held-out error over blends of them."""
        candidates: dict[str | int, np.ndarray] = {}
        if linear is not None:
            candidates["linear"] = linear
        if network is not None:
            candidates["network"] = network[rows]
        mixtures = [np.eye(len(candidates))]
        if len(candidates) == 2:
            mixtures = [np.column_stack([1.0 - _BLENDS, _BLENDS])]
        others = [p for p in subset if p != ACTIVE and len(subset) > 1]
        candidates |= {p: self.singles[p][rows] for p in others if p in self.singles}
        tried = block_diag(*mixtures, *[np.eye(1)] * (len(candidates) - mixtures[0].shape[1]))
        target, weight = self.problem.target[rows], self.problem.weight[rows]
        if not len(rows):
            return candidates, tried.mean(axis=0)
        stacked = np.stack(list(candidates.values()))
        errors = [
            np.average(squared_error(target, np.tensordot(m, stacked, 1)), weights=weight)
            for m in tried
        ]
        return candidates, evidence_weights(np.array(errors), len(rows)) @ tried

    def _gain(self, rows: np.ndarray, reference: np.ndarray, score: np.ndarray) -> Gain:
        target = self.problem.target[rows]
        return paired_gain(
            squared_error(target, reference),
            squared_error(target, score),
            self.problem.weight[rows],
        )

    def _evidence(self, subset: Subset, rows: np.ndarray, served: np.ndarray) -> Evidence:
        """Compare with the active party alone, on the rows that it knows too."""
        both = self.problem.known[rows, ACTIVE]
        if both.sum() < 2:
            return Evidence(len(rows))
        inside, own = rows[both], served[both]
        anchor = self.singles[ACTIVE][inside]
        target, weight = self.problem.target[inside], self.problem.weight[inside]
        return Evidence(
            len(rows),
            None if subset == (ACTIVE,) else self._gain(inside, anchor, own),
            held_out_score(self.problem.task, target, own, weight),
            held_out_score(self.problem.task, target, anchor, weight),
        )


def _fit_stack(
    problem: Problem, rows: np.ndarray, columns: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression on scores, shrunk towards nothing, towards their mean and to the first."""
    n_outputs, folds = problem.n_outputs, problem.folds[rows]
    scores = np.hstack(columns)
    moments = moments_of(
        scores * _EXPERT_SCALE,
        np.hstack([problem.target[rows], np.mean(columns, axis=0), columns[0]]),
        folds,
        problem.weight[rows],
        problem.n_folds,
    )
    everything = np.arange(1, 1 + scores.shape[1])
    nothing, one = np.zeros((n_outputs, n_outputs)), np.eye(n_outputs)
    families = [
        Family(everything, np.vstack([nothing, nothing, nothing])),
        Family(everything, np.vstack([nothing, one, nothing])),
        Family(everything, np.vstack([nothing, nothing, one])),
    ]
    averaged = solve(moments.centered(), families, n_outputs)
    column_mean, target_mean = moments.means()
    mean_map, first_map = np.split(averaged.offset[n_outputs:], 2)
    constant = target_mean[:n_outputs] - target_mean[n_outputs:] @ averaged.offset[n_outputs:]
    full, held_out = averaged.with_constant(column_mean, constant)
    offset = np.tile(mean_map, (len(columns), 1)) / len(columns)
    offset[:n_outputs] += first_map
    full[1:] = full[1:] * _EXPERT_SCALE + offset
    held_out[:, 1:] = held_out[:, 1:] * _EXPERT_SCALE + offset
    stacked = np.einsum("nc,nco->no", scores, held_out[folds, 1:]) + held_out[folds, 0]
    return full, stacked


def as_scores(probabilities: np.ndarray) -> np.ndarray:
    """Return probabilities as log odds, shrunk and shifted to where linear scores are."""
    return np.asarray(logit(np.clip(probabilities, 1e-4, 1.0 - 1e-4)) / 4.0 + 0.5)


def on_target_scale(score: np.ndarray, calibration: Calibration | None) -> np.ndarray:
    """Return scores as probabilities (of the positive class, or of all), or as they are."""
    if calibration is None:
        return score
    probabilities = calibration.probabilities(score)
    return probabilities[:, 1:] if score.shape[1] == 1 else probabilities


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
