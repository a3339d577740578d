"""Moments with one other party: its own linear model, and a joint one around the anchor.

The joint model is an average over three ways of posing the regression: what the anchor leaves
over; the target itself with the anchor's score as one more column; the target from the other
party's columns alone. The last is also that party's own model, for rows that only it knows. Where
shared rows without labels outnumber those with labels, both averages also hold a model on the
canonical directions of the two parties, and the other party's own model a student of the joint
one. Penalties and families are weighted by held-out error.

With assistance the other party's own model is what the active party's is: a blend of the linear
one with trees on the party's plain columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel, opened
from fedtl.learning.canonical import N_COMPONENTS, canonical_directions, whitening
from fedtl.learning.evidence import best_share
from fedtl.learning.ridge import Averaged, Family, Moments, Path, solve, target_squares
from fedtl.learning.trees import trees_can_learn
from fedtl.parties import Session
from fedtl.protocols.assistance import ask_assistance
from fedtl.protocols.moments import ask_scores, fold_moments, fold_scores
from fedtl.protocols.serving import Serving
from fedtl.solvers.anchor import Anchor
from fedtl.solvers.coalition import Coalition
from fedtl.solvers.distillation import distil
from fedtl.solvers.judge import Judge, Judged
from fedtl.solvers.linear import Linear
from fedtl.solvers.problem import ACTIVE, Problem

_ANCHOR_SCALE = 3.0
"""The anchor's score is penalised a ninth as much as a column of the same variance."""


@dataclass(frozen=True, eq=False)
class Pair:
    """What was learnt with one other party.

    Parameters
    ----------
    joint : Linear or None
        The joint model; None where too few labelled rows are known to both.
    alone : Linear
        The linear part of the other party's own model.
    tree_share : float
        The share of that party's trees in its own model.
    directions : ndarray of shape (1 + width, n_directions), dtype float64
        The active party's canonical directions, constant first.
    held_out_joint, held_out_alone : ndarray of shape (n_rows, n_outputs), dtype float64
        Held-out scores of both models on labelled rows; zero where there are none.
    judged : Judged or None
        What sums say of them, where no held-out score was asked for.
    serving : Serving or None
        What asks the other party for scores of new rows, where it was not told its part.
    """

    joint: Linear | None
    alone: Linear
    tree_share: float
    directions: np.ndarray
    held_out_joint: np.ndarray
    held_out_alone: np.ndarray
    judged: Judged | None = None
    serving: Serving | None = None

    def without_evidence(self) -> Pair:
        """Return what serves new rows: held-out scores and models are left out."""
        nothing = self.held_out_alone[:0]
        joint = None if self.joint is None else self.joint.without_folds()
        return replace(
            self,
            joint=joint,
            alone=self.alone.without_folds(),
            held_out_joint=nothing,
            held_out_alone=nothing,
            judged=None,
        )

    def split(
        self,
        partial: np.ndarray,
        trees: np.ndarray,
        anchor: np.ndarray,
        directions: np.ndarray,
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Complete the other party's partial scores of new rows.

        Parameters
        ----------
        partial : ndarray of shape (n_rows, n_kept), dtype float64
            The linear scores that the party sent.
        trees : ndarray of shape (n_rows, n_outputs or 0), dtype float64
            The scores of its trees, if they have a share.
        anchor : ndarray of shape (n_rows, n_outputs), dtype float64
            The anchor's start scores of these rows.
        directions : ndarray of shape (n_rows, n_directions), dtype float64
            The active party's canonical directions of these rows.

        Returns
        -------
        joint : ndarray of shape (n_rows, n_outputs) or None
            Joint scores, which hold where the active party knows the row too.
        alone : ndarray of shape (n_rows, n_outputs), dtype float64
            Scores of the other party's own model.
        """
        n_outputs = anchor.shape[1]
        alone = partial[:, -n_outputs:]
        if self.tree_share:
            alone = alone + self.tree_share * (trees - alone)
        if self.joint is None:
            return None, alone
        own = np.hstack([anchor, directions])
        return partial[:, :n_outputs] + own @ self.joint.own + self.joint.constant, alone


def fit_pair(
    coalition: Coalition, party: int, problem: Problem, anchor: Anchor, judge: Judge | None
) -> Pair:
    """Learn with one other party: a round for the moments, one for the model.

    Without a judge by sums there are held-out scores, and a round more for the party's trees.

    Parameters
    ----------
    coalition : Coalition
        All parties.
    party : int
        The number of the one to learn with.
    problem : Problem
        What is to be learnt.
    anchor : Anchor
        The active party's own model.
    judge : Judge or None
        Judges by sums; None if held-out scores are to be asked for, and trees.

    Returns
    -------
    Pair
        What was learnt.

    Raises
    ------
    PartyError
        If the party knows no labelled row.
    """
    channel, session = coalition.channels[party - 1], coalition.session
    alone_rows, shared_rows = problem.rows(party), problem.rows(ACTIVE, party)
    if not len(alone_rows):
        raise PartyError(
            channel.name,
            f"knows {int(problem.known[:, party].sum())} rows but none of them is labelled, so "
            "nothing can be learnt with it; share labelled rows or leave the party out",
        )
    own_map, other_map = _directions(coalition, party, problem)
    if own_map.shape[1]:
        folds = problem.folds[shared_rows]
        smallest = int(np.bincount(folds, minlength=problem.n_folds).min())
        free = coalition.moments.most_targets(smallest) - 2 * problem.n_outputs
        own_map = own_map[:, : max(free, 0)]
    own = np.hstack([anchor.start[shared_rows], _project(session, shared_rows, own_map)])
    joint, shared_moments, alone_moments = None, None, None
    if len(shared_rows) == len(alone_rows) or len(shared_rows) >= 2 * problem.n_folds:
        shared_moments = _ask(coalition, party, problem, shared_rows, own)
        joint = solve_joint(shared_moments, problem.n_outputs, own, other_map)
        alone_moments = shared_moments if len(shared_rows) == len(alone_rows) else None
    if alone_moments is None:
        nothing = np.empty((len(alone_rows), 0))
        alone_moments = _ask(coalition, party, problem, alone_rows, nothing)
    students: list[Path] = []
    if joint is not None and len(other_map):
        centered = alone_moments.centered()
        students = distil(
            coalition,
            party,
            problem,
            anchor=anchor,
            joint=joint,
            directions=own_map,
            labeled=centered,
        )
    alone = solve_alone(alone_moments, problem.n_outputs, other_map, students)
    if judge is not None:
        judged = judge.pair(
            party, joint, alone, shared_sums=shared_moments, alone_sums=alone_moments
        )
        models = [alone] if judged.joint is None else [judged.joint, alone]
        kept = np.concatenate([model.other for model in models], axis=1)
        serving = coalition.moments.keep(channel, coalition.name, kept)
        opened(channel.name, "moments.coefficients", coefficients=kept)
        opened(
            channel.name,
            "moments.held_out",
            rows=alone_rows,
            folds=problem.folds[alone_rows],
            held_out=np.concatenate([model.other_held_out for model in models], axis=2),
        )
        none = np.empty((0, problem.n_outputs))
        return Pair(judged.joint, alone, 0.0, own_map, none, none, judged, serving)
    pair = Pair(joint, alone, 0.0, own_map, np.empty(0), np.empty(0))
    return _with_scores(coalition, party, problem, pair, own)


def _with_scores(
    coalition: Coalition, party: int, problem: Problem, pair: Pair, own: np.ndarray
) -> Pair:
    """Ask for held-out scores of both models, and for the party's trees."""
    joint, alone = pair.joint, pair.alone
    channel, name = coalition.channels[party - 1], coalition.name
    alone_rows, shared_rows = problem.rows(party), problem.rows(ACTIVE, party)
    models = [alone] if joint is None else [joint, alone]
    scores = ask_scores(
        channel,
        name,
        alone_rows,
        folds=problem.folds[alone_rows],
        held_out=np.concatenate([model.other_held_out for model in models], axis=2),
        coefficients=np.concatenate([model.other for model in models], axis=1),
    )
    held_out = [np.zeros_like(problem.target), np.zeros_like(problem.target)]
    own_scores = scores[:, -problem.n_outputs :]
    own_scores, share = _assist(channel, name, problem, alone_rows, own_scores)
    held_out[1][alone_rows] = own_scores
    if joint is not None:
        inside = problem.known[alone_rows, ACTIVE]
        fold = problem.folds[shared_rows]
        held_out[0][shared_rows] = (
            scores[inside, : problem.n_outputs]
            + np.einsum("nm,nmo->no", own, joint.own_held_out[fold])
            + joint.constant_held_out[fold]
        )
    return replace(pair, tree_share=share, held_out_joint=held_out[0], held_out_alone=held_out[1])


def _assist(
    channel: Channel, name: str, problem: Problem, rows: np.ndarray, linear: np.ndarray
) -> tuple[np.ndarray, float]:
    """Blend the party's linear scores with those of its trees."""
    target, weight, folds = problem.target[rows], problem.weight[rows], problem.folds[rows]
    if not trees_can_learn(problem.task, target, folds):
        return linear, 0.0
    trees = ask_assistance(
        channel,
        name,
        rows,
        task=problem.task,
        folds=folds,
        weight=weight,
        target=target,
        n_folds=problem.n_folds,
        seed=problem.seed,
    )
    share = best_share(target, linear, trees, weight)
    return linear + share * (trees - linear), share


def _project(session: Session, rows: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Map the active party's encoded rows: (n_rows, n_directions)."""
    return fold_scores(session, rows, np.zeros(len(rows), dtype=np.uint8), linear[None])


def _directions(
    coalition: Coalition, party: int, problem: Problem
) -> tuple[np.ndarray, np.ndarray]:
    """Canonical directions of both sides; none where labelled rows are not outnumbered."""
    channel, session = coalition.channels[party - 1], coalition.session
    rows = problem.rows(ACTIVE, party, labeled=False)
    if 2 * len(problem.rows(ACTIVE, party)) > len(rows):
        return np.empty((1 + session.features.encoding_.width, 0)), np.empty((0, 0))
    weight = problem.weight[rows]
    whole = {"folds": np.zeros(len(rows), dtype=np.uint8), "weight": weight, "n_folds": 1}
    gram, _ = fold_moments(session, rows, targets=np.empty((len(rows), 0)), **whole)
    most = min(coalition.moments.most_targets(len(rows)), N_COMPONENTS)
    if not most:
        return np.empty((1 + session.features.encoding_.width, 0)), np.empty((0, 0))
    own = whitening(gram[0], most)
    components = _project(session, rows, own)
    other_gram, products = coalition.moments.ask_moments(
        channel, coalition.name, rows, targets=components, **whole
    )
    other = whitening(other_gram[0])
    return canonical_directions(own, other, products[0], float(weight.sum()))


def _ask(
    coalition: Coalition, party: int, problem: Problem, rows: np.ndarray, own: np.ndarray
) -> Moments:
    """Moments of the other party's columns with the target and the active party's columns.

    The targets are the target itself, then the active party's columns.
    """
    folds, weight = problem.folds[rows], problem.weight[rows]
    targets = np.hstack([problem.target[rows], own])
    gram, cross = coalition.moments.ask_moments(
        coalition.channels[party - 1],
        coalition.name,
        rows,
        folds=folds,
        weight=weight,
        targets=targets,
        n_folds=problem.n_folds,
    )
    square = target_squares(
        np.hstack([np.ones((len(rows), 1)), targets]), folds, weight, problem.n_folds
    )
    # The sums of the targets are known here; what the other party says of them is not used.
    cross = np.concatenate([square[:, :1, 1:], cross[:, 1:]], axis=1)
    return Moments(gram, cross, square[:, 1:, 1:])


def solve_alone(
    moments: Moments, n_outputs: int, other_map: np.ndarray, students: list[Path]
) -> Linear:
    """Solve the other party's own model: its encoding, its canonical directions, its student."""
    width = moments.gram.shape[1] - 1
    moments = Moments(
        moments.gram, moments.cross[:, :, :n_outputs], moments.square[:, :n_outputs, :n_outputs]
    )
    no_offset = np.zeros((n_outputs, n_outputs))
    families = [Family(np.arange(1, 1 + width), no_offset)]
    moments, mixing = _with_directions(moments, width, other_map)
    if mixing.shape[1]:
        families.append(Family(np.arange(1 + width, 1 + width + mixing.shape[1]), no_offset))
    averaged = solve(moments.centered(), families, n_outputs, students)
    column_mean, target_mean = moments.means()
    full, held_out = averaged.with_constant(column_mean, target_mean)
    nothing = np.empty((len(held_out), 0, n_outputs))
    return Linear(
        _fold_back(full, width, mixing),
        _fold_back(held_out, width, mixing),
        nothing[0],
        nothing,
        np.zeros(n_outputs),
        np.zeros((len(held_out), n_outputs)),
    )


def solve_joint(moments: Moments, n_outputs: int, own: np.ndarray, other_map: np.ndarray) -> Linear:
    """Solve the joint model around the anchor."""
    width, n_own = moments.gram.shape[1] - 1, own.shape[1]
    scale = np.ones(n_own)
    scale[:n_outputs] = _ANCHOR_SCALE
    joined, mixing = _with_directions(_join(moments, n_outputs, scale), width + n_own, other_map)
    other = np.arange(1, 1 + width)
    anchor = np.arange(1 + width, 1 + width + n_outputs)
    directions = np.arange(1 + width + n_outputs, joined.gram.shape[1])
    no_offset = np.zeros((2 * n_outputs, n_outputs))
    anchor_offset = np.vstack([np.zeros((n_outputs, n_outputs)), np.eye(n_outputs)])
    families = [
        Family(np.concatenate([other, anchor]), anchor_offset),
        Family(np.concatenate([other, anchor]), no_offset),
        Family(other, no_offset),
    ]
    if len(directions):
        families.append(Family(directions, no_offset))
    averaged = solve(joined.centered(), families, n_outputs)
    return _linear(averaged, joined, width, scale, mixing)


def _join(moments: Moments, n_outputs: int, scale: np.ndarray) -> Moments:
    """Make columns of the active party's columns; of the targets, keep the target and anchor."""
    products = moments.cross[:, :, n_outputs:] * scale
    squares = moments.square[:, n_outputs:, n_outputs:] * np.outer(scale, scale)
    gram = np.block([[moments.gram, products], [products.transpose(0, 2, 1), squares]])
    own_cross = moments.square[:, n_outputs:, : 2 * n_outputs] * scale[:, None]
    cross = np.concatenate([moments.cross[:, :, : 2 * n_outputs], own_cross], axis=1)
    return Moments(gram, cross, moments.square[:, : 2 * n_outputs, : 2 * n_outputs])


def _with_directions(
    moments: Moments, n_columns: int, other_map: np.ndarray
) -> tuple[Moments, np.ndarray]:
    """Put the other party's canonical directions behind the columns."""
    mixing = other_map[1:] if len(other_map) else np.empty((0, 0))
    padded = np.zeros((n_columns, mixing.shape[1]))
    padded[: len(mixing)] = mixing
    return moments.with_combinations(padded), padded


def _fold_back(coefficients: np.ndarray, width: int, mixing: np.ndarray) -> np.ndarray:
    """Turn coefficients on canonical directions into ones on the columns that they are made of."""
    n_columns = 1 + len(mixing)
    folded = coefficients[..., :n_columns, :].copy()
    folded[..., 1:, :] += mixing @ coefficients[..., n_columns:, :]
    return np.asarray(folded[..., : 1 + width, :])


def _linear(
    averaged: Averaged,
    joined: Moments,
    width: int,
    scale: np.ndarray,
    mixing: np.ndarray,
) -> Linear:
    """Split an averaged joint model into the two parties' parts."""
    column_mean, target_mean = joined.means()
    n_outputs = averaged.coefficients.shape[1]
    anchor_map = averaged.offset[n_outputs:]
    constant = target_mean[:n_outputs] - target_mean[n_outputs:] @ anchor_map
    full, held_out = averaged.with_constant(column_mean, constant)
    own_slice = slice(1 + width, 1 + width + len(scale))
    own = full[own_slice] * scale[:, None]
    own_held_out = held_out[:, own_slice] * scale[:, None]
    own[:n_outputs] += anchor_map
    own_held_out[:, :n_outputs] += anchor_map
    other, other_held_out = (_fold_back(c, width, mixing) for c in (full, held_out))
    constants = other[0].copy(), other_held_out[:, 0].copy()
    other[0], other_held_out[:, 0] = 0.0, 0.0
    return Linear(other, other_held_out, own, own_held_out, *constants)
