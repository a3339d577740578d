"""The loss of Liu et al.'s federated transfer learning [1]_, minimised from means over rows.

A row has latents ``u_A`` at the source party and ``u_B`` at the target party. A class scores it by
``u_B @ prototype``, where its prototype is the mean of ``y * u_A`` over the source's labelled rows.
What is minimised over the target's weights, from its features to ``u_B``, is the sum of

- the label loss, to second order about zero as in the paper: for two classes
  ``log 2 - y s / 2 + s**2 / 8``, with ``y`` of -1 or 1. For `C` classes it is the same expansion of
  the cross-entropy, ``log C - (y - 1/C) @ s + s @ s / (2 C)`` for scores that sum to zero, of which
  the first is the case ``C = 2``. It is a squared error, to scores of ``2 y`` or of ``C y - 1``;
- the alignment, ``gamma`` times the squared distance of ``u_A`` and ``u_B``;
- the penalty, ``lam / 2`` times the sum of squared weights, the constant's left out.

Here ``u_A`` has unit variance and stays as it is. Were it trained as well, both sides could come as
close as they like by shrinking, or by forgetting what they differ in. Prototypes of such latents
are the source's own least squares classifier already.

So the loss is quadratic, and its minimum, and how well it predicts rows that are left out, follow
from means of products over rows.

References
----------
.. [1] Y. Liu, Y. Kang, C. Xing, T. Chen, Q. Yang. A secure federated transfer learning framework.
   IEEE Intelligent Systems 35, 2020.
.. [2] G. Golub, M. Heath, G. Wahba. Generalized cross-validation as a method for choosing a good
   ridge parameter. Technometrics 21, 1979.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from fedtl.learning.ridge import evidence_weights

GAMMAS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)
LAMBDAS = tuple(10.0**e for e in np.arange(-3.0, 1.1, 0.5))
"""In units of the mean variance of the target's features."""
_FREE = 1e-6
_MOST_LEVERAGE = 0.99


@dataclass(frozen=True, eq=False)
class Means:
    """Means over rows of products of the target's features, a constant one first.

    Parameters
    ----------
    gram : ndarray of shape (1 + n_features, 1 + n_features), dtype float64
        With each other.
    labels : ndarray of shape (1 + n_features, n_outputs), dtype float64
        With the labels.
    latents : ndarray of shape (1 + n_features, n_latents), dtype float64
        With the source's latents.
    n_rows : float
        Rows.
    """

    gram: np.ndarray
    labels: np.ndarray
    latents: np.ndarray
    n_rows: float


@dataclass(frozen=True, eq=False)
class SourceRows:
    """What the source knows of the labelled shared rows.

    Parameters
    ----------
    labels : ndarray of shape (n_rows, n_outputs), dtype float64
        From :func:`labels_about_zero`.
    latents : ndarray of shape (n_rows, n_latents), dtype float64
        Its latents.
    weight : ndarray of shape (n_rows,), dtype float64
        Row weights.
    """

    labels: np.ndarray
    latents: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class TargetModel:
    """How the target's features score classes.

    Parameters
    ----------
    coefficients : ndarray of shape (1 + n_features, n_outputs), dtype float64
        From features to scores: weights times prototypes.
    of_labels, of_latents : ndarray of shape (n_outputs or n_latents, n_outputs), dtype float64
        How much of its own label and latents is in the score of a labelled shared row.
    leverage : float
        That share of a score, a mean over rows and directions: with it taken off, the rest grows by
        ``1 / (1 - leverage)``.
    """

    coefficients: np.ndarray
    of_labels: np.ndarray
    of_latents: np.ndarray
    leverage: float

    def left_out(self, scores: np.ndarray, rows: SourceRows) -> np.ndarray:
        """Return what rows score without having been learnt from.

        As in generalised cross-validation [2]_, each row's leverage is replaced by their mean.

        Parameters
        ----------
        scores : ndarray of shape (n_rows, n_outputs), dtype float64
            What they score.
        rows : SourceRows
            The rows.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs), dtype float64
            Scores.
        """
        own = rows.labels @ self.of_labels + rows.latents @ self.of_latents
        return (scores - own) / (1.0 - self.leverage)


def derivatives(n_outputs: int) -> tuple[float, float]:
    """Return slope and curvature of the label loss at zero; one output is for two classes."""
    return (0.5, 0.25) if n_outputs == 1 else (1.0, 1.0 / n_outputs)


def labels_about_zero(target: np.ndarray) -> np.ndarray:
    """Return labels of -1 or 1 for one column of zeros and ones, else one-hot less ``1 / C``."""
    n_outputs = target.shape[1]
    return 2.0 * target - 1.0 if n_outputs == 1 else target - 1.0 / n_outputs


def prototypes_of(labels: np.ndarray, latents: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the classes' prototypes, on the scale that minimises the source's own label loss.

    Parameters
    ----------
    labels : ndarray of shape (n_rows, n_outputs), dtype float64
        From :func:`labels_about_zero`.
    latents : ndarray of shape (n_rows, n_latents), dtype float64
        The source's.
    weight : ndarray of shape (n_rows,), dtype float64
        Row weights.

    Returns
    -------
    ndarray of shape (n_outputs, n_latents), dtype float64
        Prototypes.
    """
    slope, curvature = derivatives(labels.shape[1])
    return slope / curvature * (labels * (weight / weight.sum())[:, None]).T @ latents


def solve(
    prototypes: np.ndarray, labeled: Means, aligned: Means, gamma: float, lam: float
) -> TargetModel:
    """Minimise the loss over the target's weights.

    Along the principal axes of the prototypes, latents are ridge regressions of their own.

    Parameters
    ----------
    prototypes : ndarray of shape (n_outputs, n_latents), dtype float64
        From :func:`prototypes_of`.
    labeled, aligned : Means
        Of the labelled shared rows, and of those that the alignment is over, these among them.
    gamma : float
        Weight of the alignment.
    lam : float
        Penalty, in units of the mean variance of the features.

    Returns
    -------
    TargetModel
        The minimum.
    """
    slope, curvature = derivatives(len(prototypes))
    energy, axes = np.linalg.eigh(prototypes.T @ prototypes)
    label, align = curvature * np.maximum(energy, 0.0), 2.0 * gamma
    variance = np.trace(labeled.gram[1:, 1:]) / max(len(labeled.gram) - 1, 1)
    penalty = np.full(len(labeled.gram), lam * max(variance, _FREE))
    penalty[0] = _FREE
    inverse = np.linalg.inv(
        label[:, None, None] * labeled.gram + align * aligned.gram + np.diag(penalty)
    )
    pull = slope * labeled.labels @ prototypes + align * aligned.latents
    weights = np.einsum("aij,ja->ia", inverse, pull @ axes)
    spread = np.einsum("ij,aji->a", labeled.gram, inverse)
    leverage = spread * (label / labeled.n_rows + align / aligned.n_rows)
    to_scores = axes.T @ prototypes.T
    own = axes * spread @ to_scores
    mean = float(np.average(leverage, weights=label + 1e-12))
    return TargetModel(
        coefficients=weights @ to_scores,
        of_labels=slope / labeled.n_rows * prototypes @ own,
        of_latents=align / aligned.n_rows * own,
        leverage=min(mean, _MOST_LEVERAGE),
    )


def left_out_error(model: TargetModel, labeled: Means, rows: SourceRows) -> float:
    """Return the mean squared error of rows that are left out in turn, from means over rows.

    Parameters
    ----------
    model : TargetModel
        What is judged.
    labeled : Means
        Of the labelled shared rows.
    rows : SourceRows
        The same rows, as the source sees them.

    Returns
    -------
    float
        The error as of labels, summed over outputs.
    """
    slope, curvature = derivatives(rows.labels.shape[1])
    scale = curvature / slope / (1.0 - model.leverage)
    coefficients = scale * model.coefficients
    own = scale * (rows.labels @ model.of_labels + rows.latents @ model.of_latents)
    own_means = scale * (labeled.labels @ model.of_labels + labeled.latents @ model.of_latents)
    unexplained = np.average(((rows.labels + own) ** 2).sum(axis=1), weights=rows.weight)
    explained = 2.0 * (labeled.labels + own_means) - labeled.gram @ coefficients
    return float(unexplained - np.sum(coefficients * explained))


def average(
    prototypes: np.ndarray, labeled: Means, aligned: Means, rows: SourceRows
) -> TargetModel:
    """Average the minima over a grid of `gamma` and `lam`, by their errors on rows left out.

    Parameters
    ----------
    prototypes, labeled, aligned : ndarray, Means, Means
        As for :func:`solve`.
    rows : SourceRows
        The labelled shared rows, as the source sees them.

    Returns
    -------
    TargetModel
        The average.
    """
    models = [solve(prototypes, labeled, aligned, g, lam) for g in GAMMAS for lam in LAMBDAS]
    errors = np.array([left_out_error(model, labeled, rows) for model in models])
    weights = evidence_weights(errors, labeled.n_rows)
    parts = [
        sum(w * getattr(model, part.name) for w, model in zip(weights, models, strict=True))
        for part in fields(TargetModel)
    ]
    return TargetModel(*parts)
