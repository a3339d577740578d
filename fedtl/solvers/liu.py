"""Liu et al.'s secure federated transfer learning, from one exchange of sums.

The source party is the active one, the target party the other. The loss is in
:mod:`fedtl.learning.liu`. An encoder's lower part is local here, and trained without labels: the
party's encoding, or a pretrained network of its own, and principal components. The layer above it
is linear, so that all that the loss takes of the target are sums over shared rows: products of its
features with each other, with the labels and with the source's latents. They are asked for once
(:mod:`fedtl.protocols.moments` or a protected form of it), and the source alone learns them. In the
paper parties exchange encrypted gradients in every step, and each learns its own. The target learns
its weights times the prototypes, by which it serves its rows.

Sums over few rows are equations for these rows. With as many latents and labels as shared rows the
source could solve for the target's features, which is the known leak. It is refused, in the clear
as well: latents and labels are fewer than half the labelled shared rows, and the target's features
at most half of them, so that what the source learns of each feature is fewer than three equations
for four unknowns. The target rotates its features by a rotation of its own, so that it does not
help to know that its columns hold whole numbers.

What weighs alignment and penalty is averaged by the error of shared rows that are left out in turn,
which takes no more than the same sums. Without alignment the target learns from shared labels
alone: this is among the candidates, as the paper's safeguard against transfer that harms. It takes
the place of the paper's transfer cross-validation, back from the target to the source's labels,
which in trials favoured more alignment than predicts best.
"""

from __future__ import annotations

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import opened
from fedtl.learning.canonical import whitening
from fedtl.learning.liu import (
    Means,
    SourceRows,
    TargetModel,
    average,
    derivatives,
    labels_about_zero,
    prototypes_of,
)
from fedtl.protocols.moments import fold_moments, fold_scores
from fedtl.protocols.restraint import ProtectedExchange
from fedtl.solvers.coalition import Coalition
from fedtl.solvers.linear import Linear
from fedtl.solvers.pair import Pair
from fedtl.solvers.problem import ACTIVE, Problem

_TARGET = 1


def n_features_for(n_labeled: int) -> int:
    """Return how many features the target may have: half as many as labelled shared rows."""
    return max(n_labeled // 2, 1)


def fit_liu(coalition: Coalition, problem: Problem, n_components: int) -> Pair:
    """Learn from the source's labels what serves the target's rows: a round for sums, one to serve.

    Parameters
    ----------
    coalition : Coalition
        Two parties; the target's features are principal components.
    problem : Problem
        Classes to be learnt.
    n_components : int
        Latents at most.

    Returns
    -------
    Pair
        The target's own model, and its held-out scores.

    Raises
    ------
    PartyError
        If too few labelled rows are shared.
    """
    shared, own = problem.rows(ACTIVE, _TARGET), problem.rows(ACTIVE)
    labels, weight = labels_about_zero(problem.target), problem.weight
    latent_map = _latent_map(coalition, problem, _n_latents(coalition, problem, n_components))
    latents = _latents(coalition, latent_map, own)
    prototypes = prototypes_of(labels[own], latents, weight[own])
    labeled, aligned = _ask(coalition, problem, latent_map)
    rows = SourceRows(labels[shared], latents[np.isin(own, shared)], weight[shared])
    model = average(prototypes, labeled, aligned, rows)
    return _serve(coalition, problem, model, rows)


def _n_latents(coalition: Coalition, problem: Problem, wanted: int) -> int:
    """How many latents sums over the labelled shared rows allow, at least one."""
    n_labeled, n_outputs = len(problem.rows(ACTIVE, _TARGET)), problem.n_outputs
    most = ProtectedExchange().most_targets(n_labeled) - n_outputs
    if most < 1:
        raise PartyError(
            coalition.channels[0].name,
            f"shares {n_labeled} labelled rows with the active party, and solver='liu' needs at "
            f"least {2 * (n_outputs + 3)}: its sums over them are with {n_outputs} label(s) and at "
            "least one latent, and more such sums than half the rows could give the rows away. "
            "Share more labelled rows",
        )
    return min(most, wanted)


def _latent_map(coalition: Coalition, problem: Problem, n_latents: int) -> np.ndarray:
    """From the source's encoding to principal components of unit variance, of all its rows."""
    rows = problem.rows(ACTIVE, labeled=False)
    gram, _ = fold_moments(
        coalition.session,
        rows,
        folds=np.zeros(len(rows), dtype=np.uint8),
        weight=np.ones(len(rows)),
        targets=np.empty((len(rows), 0)),
        n_folds=1,
    )
    return whitening(gram[0], n_latents)


def _latents(coalition: Coalition, latent_map: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The source's latents of rows that it knows: (n_rows, n_latents)."""
    one_fold = np.zeros(len(rows), dtype=np.uint8)
    return fold_scores(coalition.session, rows, one_fold, latent_map[None])


def _ask(coalition: Coalition, problem: Problem, latent_map: np.ndarray) -> tuple[Means, Means]:
    """Ask for sums over the labelled shared rows, and over all shared rows for the alignment.

    Unlabelled ones are left out where they are so few that their sums would tell of them.
    """
    n_outputs, n_latents = problem.n_outputs, latent_map.shape[1]
    shared = problem.rows(ACTIVE, _TARGET, labeled=False)
    labeled = problem.labeled[shared]
    if ProtectedExchange().most_targets(int((~labeled).sum())) < n_outputs + n_latents:
        shared, labeled = shared[labeled], labeled[labeled]
    labels = np.where(labeled[:, None], labels_about_zero(problem.target[shared]), 0.0)
    weight = problem.weight[shared]
    gram, cross = coalition.moments.ask_moments(
        coalition.channels[0],
        coalition.name,
        shared,
        folds=(~labeled).astype(np.uint8),
        weight=weight,
        targets=np.hstack([labels, _latents(coalition, latent_map, shared)]),
        n_folds=1 if labeled.all() else 2,
    )

    def means(folds: slice, rows: np.ndarray) -> Means:
        n_rows = float(weight[rows].sum())
        with_labels, with_latents = np.split(cross[folds].sum(axis=0) / n_rows, [n_outputs], axis=1)
        return Means(gram[folds].sum(axis=0) / n_rows, with_labels, with_latents, n_rows)

    return means(slice(1), labeled), means(slice(None), np.ones_like(labeled))


def _serve(coalition: Coalition, problem: Problem, model: TargetModel, rows: SourceRows) -> Pair:
    """Leave the coefficients with the target, so that they score on the scale of its labels.

    Rows that only the target knows were not learnt from: what they score is held out as it is.
    """
    n_outputs, known = problem.n_outputs, problem.rows(_TARGET)
    slope, curvature = derivatives(n_outputs)
    scale = curvature / slope * (0.5 if n_outputs == 1 else 1.0)
    middle = 1.0 / max(n_outputs, 2)
    coefficients = scale * model.coefficients
    coefficients[0] += middle
    held_out = np.zeros_like(problem.target)
    channel = coalition.channels[0]
    serving = coalition.moments.keep(channel, coalition.name, coefficients)
    opened(channel.name, "moments.coefficients", coefficients=coefficients)
    ids = coalition.session.ids[known]
    held_out[known] = coalition.ask(_TARGET, ids, serving, scores=True, latents=False).scores
    shared = problem.rows(ACTIVE, _TARGET)
    scores = (held_out[shared] - middle) / scale
    held_out[shared] = middle + scale * model.left_out(scores, rows)
    nothing, zero = np.empty((0, n_outputs)), np.zeros(n_outputs)
    alone = Linear(coefficients, coefficients[None], nothing, nothing[None], zero, zero[None])
    no_directions = np.empty((1 + coalition.session.features.encoding_.width, 0))
    nowhere = np.zeros_like(held_out)
    return Pair(None, alone, 0.0, no_directions, nowhere, held_out, serving=serving)
