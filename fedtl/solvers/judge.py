"""The models of a pair, pooled and judged by sums: no score of a training row is told.

With ``solver="moments"`` the joint model of a pair is the logarithmic opinion pool of three: the
joint regression, the active party's anchor and the other party's own model, each calibrated. Of
the two that are linear in the other party's columns one model is made. Sums over held-out rows
decide how far the pool is trusted over the anchor. Trees that the anchor has beside its linear
part (more than two classes) are taken to move both alike: sums know the linear part only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedtl.learning.evidence import Calibration, Gain, fit_calibration
from fedtl.learning.ridge import Moments, target_squares
from fedtl.learning.score_sums import calibrate, correction_of, gain_by_sums, score_products
from fedtl.solvers.anchor import Anchor
from fedtl.solvers.linear import Linear
from fedtl.solvers.problem import ACTIVE, Problem

_ROWS_A_FOLD = 4
"""Scores are pooled from so many rows on."""


@dataclass(frozen=True, eq=False)
class Judged:
    """The models of a pair, and what sums of held-out rows say of them.

    Parameters
    ----------
    joint : Linear or None
        The pool without the anchor; None where too few labelled rows are known to both.
    anchor_share : float
        Weight of the anchor's scores in the pool.
    joint_curve, alone_curve : Calibration or None
        From the scores of the pool, and of the other party's own model, to probabilities.
    gain, alone_gain : Gain or None
        Of the pool, and of the other party's own model, over the anchor.
    products : ndarray of shape (1 + 3 * n_outputs, 1 + 3 * n_outputs) or None
        Of one, the anchor's scores, the pool's and the target.
    """

    joint: Linear | None
    anchor_share: float
    joint_curve: Calibration | None
    alone_curve: Calibration | None
    gain: Gain | None
    alone_gain: Gain | None
    products: np.ndarray | None


class Judge:
    """Judges the models of pairs by sums.

    Parameters
    ----------
    problem : Problem
        What is to be learnt.
    anchor : Anchor
        The active party's own model.
    """

    def __init__(self, problem: Problem, anchor: Anchor) -> None:
        self.problem, self.anchor = problem, anchor
        self._correction, rows = 1.0, problem.rows(ACTIVE)
        if problem.task != "regression" and len(np.unique(problem.order[rows])) > 1:
            own, target, weight = anchor.start[rows], problem.target[rows], problem.weight[rows]
            fitted = fit_calibration(own, problem.order[rows].astype(int), weight)
            numbers = np.hstack([np.ones((len(rows), 1)), own, target])
            together = np.zeros(len(rows), dtype=np.uint8)
            products = target_squares(numbers, together, weight, 1)[0]
            self._correction = correction_of(products, problem.task, fitted)

    def pair(
        self,
        party: int,
        joint: Linear | None,
        alone: Linear,
        *,
        shared_sums: Moments | None,
        alone_sums: Moments,
    ) -> Judged:
        """Pool and judge the models of one pair.

        Parameters
        ----------
        party : int
            The other party.
        joint : Linear or None
            The joint regression.
        alone : Linear
            The other party's own model.
        shared_sums : Moments or None
            Of rows that both know: columns of the other party; target and the joint model's own
            columns, the anchor's scores first.
        alone_sums : Moments
            The same of rows that the other party knows; the target is the first of the targets.

        Returns
        -------
        Judged
            The pool, and what the rows say.
        """
        n = self.problem.n_outputs
        own = _scores(alone_sums, alone, n)
        target = _selected(alone_sums, 0, n)
        products = score_products(alone_sums, [own, target]).sum(axis=0)
        alone_curve = self._calibrate(products)
        if joint is None or shared_sums is None:
            return Judged(None, 0.0, None, alone_curve, None, None, None)
        anchor, target = _selected(shared_sums, n, n), _selected(shared_sums, 0, n)
        maps = [_scores(shared_sums, joint, n), anchor, _scores(shared_sums, alone, n)]
        products = score_products(shared_sums, [*maps, target]).sum(axis=0)
        shares, constant = self._shares(party, products)
        linear = _pooled(joint, alone, shares, constant)
        pool = _scores(shared_sums, linear, n) + shares[1] * anchor
        products = score_products(shared_sums, [anchor, pool, target]).sum(axis=0)
        keep = np.r_[0, 1 + n : 1 + 3 * n]
        curve = self._calibrate(products[np.ix_(keep, keep)])
        single = score_products(shared_sums, [anchor, maps[2], target]).sum(axis=0)
        return Judged(
            linear,
            float(shares[1]),
            curve,
            alone_curve,
            gain_by_sums(products),
            gain_by_sums(single),
            products,
        )

    def _calibrate(self, products: np.ndarray) -> Calibration | None:
        return calibrate(products, self.problem.task, self._correction)

    def _shares(self, party: int, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights of joint regression, anchor and own model, for equal log odds; a constant."""
        n, n_rows = self.problem.n_outputs, len(self.problem.rows(ACTIVE, party))
        if self.problem.task == "regression" or n_rows < _ROWS_A_FOLD * self.problem.n_folds:
            return np.array([1.0, 0.0, 0.0]), np.zeros(n)
        scores, target = np.arange(1, 1 + 3 * n).reshape(3, n), np.arange(1 + 3 * n, 1 + 4 * n)
        slopes = np.empty(3)
        for i, score in enumerate(scores):
            keep = np.r_[0, score, target]
            curve = self._calibrate(products[np.ix_(keep, keep)])
            assert curve is not None
            slopes[i] = curve.slope
        shares = slopes / slopes.sum()
        # Back to the scale of the target, by least squares.
        means = products[0] / products[0, 0]
        about = products / products[0, 0] - np.outer(means, means)
        mixed = np.vstack([share * np.eye(n) for share in shares])
        covered = np.trace(mixed.T @ about[np.ix_(scores.ravel(), target)])
        spread = np.trace(mixed.T @ about[np.ix_(scores.ravel(), scores.ravel())] @ mixed)
        shares *= max(float(covered), 0.0) / max(float(spread), 1e-12)
        return shares, means[target] - shares @ means[scores]


def _selected(moments: Moments, first: int, n: int) -> np.ndarray:
    """The map that picks out some of the targets."""
    n_folds, width, n_targets = moments.cross.shape
    chosen = np.zeros((n_folds, width + n_targets, n))
    chosen[:, width + first : width + first + n] = np.eye(n)
    return chosen


def _scores(moments: Moments, model: Linear, n: int) -> np.ndarray:
    """The map that is a model's held-out scores."""
    n_folds, width, n_targets = moments.cross.shape
    scores = np.zeros((n_folds, width + n_targets, n))
    scores[:, :width] = model.other_held_out
    scores[:, 0] += model.constant_held_out
    n_own = model.own_held_out.shape[1]
    scores[:, width + n : width + n + n_own] = model.own_held_out
    return scores


def _pooled(joint: Linear, alone: Linear, shares: np.ndarray, constant: np.ndarray) -> Linear:
    """Add up joint regression and own model with the first and last weight, and a constant."""
    first, _, last = shares
    return Linear(
        first * joint.other + last * alone.other,
        first * joint.other_held_out + last * alone.other_held_out,
        first * joint.own,
        first * joint.own_held_out,
        constant + first * joint.constant,
        constant + first * joint.constant_held_out,
    )
