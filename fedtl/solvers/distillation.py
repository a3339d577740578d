"""Distillation: what the joint model says of unlabelled shared rows teaches a party's own model.

A party that will serve rows alone has few labels but many shared rows. The joint model, which
sees more columns, scores those without a label, and the party's own ridge regression is fitted to
these scores. For an honest comparison with models that are fitted to labels, each fold's student
has a teacher that did not see the labels of that fold. The student is one more member of the
average by held-out error, never forced.

References
----------
Z. Ren, L. Yang, K. Chen. Improving availability of vertical federated learning: relaxing
inference on non-overlapping data. ACM TIST, 2022 (distillation to single parties).
"""

from __future__ import annotations

import numpy as np

from fedtl.learning.ridge import Family, Moments, Path, held_out_errors, ridge
from fedtl.protocols.moments import fold_scores
from fedtl.solvers.anchor import Anchor
from fedtl.solvers.coalition import Coalition
from fedtl.solvers.linear import Linear
from fedtl.solvers.problem import ACTIVE, Problem


def distil(
    coalition: Coalition,
    party: int,
    problem: Problem,
    *,
    anchor: Anchor,
    joint: Linear,
    directions: np.ndarray,
    labeled: Moments,
) -> list[Path]:
    """Fit a party's own columns to the joint model's scores, in one more round.

    What the teachers' scores have of the party's own columns, sums of its columns' products tell;
    so that no score of a row is asked for.

    Parameters
    ----------
    coalition : Coalition
        All parties.
    party : int
        The student.
    problem : Problem
        What is to be learnt.
    anchor : Anchor
        The active party's model, with those without each fold.
    joint : Linear
        The joint model.
    directions : ndarray of shape (1 + width, n_directions), dtype float64
        The active party's canonical directions.
    labeled : Moments
        Moments of the party's labelled rows, centred.

    Returns
    -------
    list of Path
        The student at every penalty, with its held-out errors; empty where there are no
        unlabelled shared rows, or too few for sums that give none of them away under protection.
    """
    rows = problem.rows(ACTIVE, party, labeled=False)
    rows = rows[~problem.labeled[rows]]
    channel, name, exchange = coalition.channels[party - 1], coalition.name, coalition.moments
    versions = np.concatenate([*joint.other_held_out, joint.other], axis=1)
    if not len(rows) or versions.shape[1] > exchange.most_targets(len(rows)):
        return []
    gram, cross = exchange.ask_moments(
        channel,
        name,
        rows,
        folds=np.zeros(len(rows), dtype=np.uint8),
        weight=problem.weight[rows],
        targets=_own_part(coalition, rows, anchor, joint, directions),
        n_folds=1,
    )
    cross = cross + gram @ versions
    square = np.zeros((1, versions.shape[1], versions.shape[1]))
    taught = Moments(gram, cross, square).centered()
    n_outputs = problem.n_outputs
    columns = np.arange(1, gram.shape[1])
    solved = ridge(taught.gram[0, 1:, 1:], taught.cross[0, 1:])
    students = np.stack(np.split(solved, problem.n_folds + 1, axis=2))
    own = labeled.gram[:, 1 : len(columns) + 1, 1 : len(columns) + 1]
    products = labeled.cross[:, 1 : len(columns) + 1, :n_outputs]
    squares = np.einsum("foo->f", labeled.square[:, :n_outputs, :n_outputs])
    errors = held_out_errors(own, products, squares, students[:-1])
    family = Family(columns, np.zeros((n_outputs, n_outputs)))
    return [Path(family, students[-1], students[:-1], errors)]


def _own_part(
    coalition: Coalition,
    rows: np.ndarray,
    anchor: Anchor,
    joint: Linear,
    directions: np.ndarray,
) -> np.ndarray:
    """The active party's part of each teacher's scores, the one that saw all labels last."""
    session = coalition.session
    assert session.columns is not None
    whole = np.zeros(len(rows), dtype=np.uint8)
    projected = fold_scores(session, rows, whole, directions[None])
    parts = []
    for version, own, constant in zip(
        [*anchor.without, anchor],
        [*joint.own_held_out, joint.own],
        [*joint.constant_held_out, joint.constant],
        strict=True,
    ):
        scores = version.start_scores(session, session.columns, rows)
        parts.append(np.hstack([scores, projected]) @ own + constant)
    return np.hstack(parts)
