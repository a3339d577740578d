"""The active party's model around the scores of others' models of shared columns, guarded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedtl.learning.columns import Columns
from fedtl.learning.distilled import Additive
from fedtl.learning.encoding import Encoding
from fedtl.learning.evidence import (
    TRUST_AVERAGE,
    Calibration,
    Gain,
    deal_folds,
    fit_calibration,
    guard_weight,
    paired_gain,
    squared_error,
)
from fedtl.learning.ridge import Averaged, Family, Moments, moments_of, solve

_SCORE_SCALE = 3.0  # a score counts more than one encoded column
_MAX_WIDTH = 256


@dataclass(frozen=True, eq=False)
class AnchoredModel:
    """The fitted model.

    Parameters
    ----------
    encoding : Encoding
        The active party's encoding of its own columns.
    donors : tuple of (ndarray, Additive)
        The other parties' shared columns and models.
    constant : ndarray of shape (n_outputs,), dtype float64
        Score at the mean.
    column_mean : ndarray of shape (n_columns,), dtype float64
        Means of encoded columns and scores.
    coefficients : ndarray of shape (n_columns, n_outputs), dtype float64
        Of encoded columns and scores.
    gain : Gain
        What the others' models gained on held-out rows over the active party's own model.
    trust : float
        How far they are trusted, from 0 to 1.
    calibration : Calibration or None
        Scores to probabilities, for classes.
    """

    encoding: Encoding
    donors: tuple[tuple[np.ndarray, Additive], ...]
    constant: np.ndarray
    column_mean: np.ndarray
    coefficients: np.ndarray
    gain: Gain
    trust: float
    calibration: Calibration | None

    def scores(self, numbers: np.ndarray, recorded: np.ndarray) -> np.ndarray:
        """Score rows: (n_rows, n_outputs), on the scale of the target."""
        columns = _columns(self.encoding, self.donors, numbers, recorded)
        return np.asarray((columns - self.column_mean) @ self.coefficients + self.constant)


def fit_anchored(
    numbers: np.ndarray,
    recorded: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    donors: Mapping[str, tuple[np.ndarray, Additive]],
    *,
    order: np.ndarray | None,
    n_folds: int,
    n_bins: int,
    seed: int,
) -> AnchoredModel:
    """Fit the active party's model with and without the others' scores, and average by evidence.

    Ridge regressions for many penalties are averaged by held-out error: on the active party's
    columns, and, for each other party and for all, around its score, which the strongest penalty
    leaves as it is. The guard shrinks what they gain over the first to what held-out rows bear out.

    Parameters
    ----------
    numbers : ndarray of shape (n_rows, n_columns), dtype float64
        The active party's rows, in all columns.
    recorded : ndarray of int
        Which columns it records.
    target : ndarray of shape (n_rows, n_outputs), dtype float64
        Targets, or indicators of classes.
    weight : ndarray of shape (n_rows,), dtype float64
        Weights.
    donors : mapping of str to (ndarray, Additive)
        The other parties' shared columns and models.
    order : ndarray of shape (n_rows,), dtype int, or None
        Class of each row; None for real targets.
    n_folds : int
        Folds of the held-out evidence.
    n_bins : int
        Bins of the piecewise-linear encoding.
    seed : int
        Seed of folds and encoding.

    Returns
    -------
    AnchoredModel
        The model and its evidence.
    """
    rng = np.random.default_rng(seed)
    weight = weight * len(weight) / weight.sum()
    n_folds = min(n_folds, len(target))
    stratum = target[:, 0] if order is None else order
    folds = deal_folds(np.zeros(len(target)), stratum, n_folds, rng)
    own = Columns(numbers[:, recorded], np.empty((len(numbers), 0), dtype=object))
    encoding = Encoding(n_bins, _MAX_WIDTH, random_state=seed).fit(own)
    models = tuple(donors.values())
    columns = _columns(encoding, models, numbers, recorded)
    n_outputs = target.shape[1]
    scores = columns[:, encoding.width :] / _SCORE_SCALE
    moments = moments_of(columns, np.hstack([target, scores]), folds, weight, n_folds)
    families = _families(encoding.width, n_outputs, len(models))
    alone, held_out_alone = _solve(moments, families[:1], columns, folds, n_outputs)
    joint, held_out_joint = _solve(moments, families, columns, folds, n_outputs)
    gain = paired_gain(
        squared_error(target, held_out_alone), squared_error(target, held_out_joint), weight
    )
    trust = guard_weight(gain, TRUST_AVERAGE) if models else 0.0
    column_mean, target_mean = moments.means()
    calibration = None
    if order is not None:
        held_out = held_out_alone + trust * (held_out_joint - held_out_alone)
        calibration = fit_calibration(held_out, order, weight)
    return AnchoredModel(
        encoding=encoding,
        donors=models,
        constant=target_mean[:n_outputs],
        column_mean=column_mean[1:],
        coefficients=alone + trust * (joint - alone),
        gain=gain,
        trust=trust,
        calibration=calibration,
    )


def _columns(
    encoding: Encoding,
    donors: tuple[tuple[np.ndarray, Additive], ...],
    numbers: np.ndarray,
    recorded: np.ndarray,
) -> np.ndarray:
    """Encoded columns of the active party, and scaled scores of the others' models."""
    own = Columns(numbers[:, recorded], np.empty((len(numbers), 0), dtype=object))
    scores = [_SCORE_SCALE * model.scores(numbers[:, shared]) for shared, model in donors]
    return np.hstack([encoding.transform(own), *scores])


def _families(width: int, n_outputs: int, n_donors: int) -> list[Family]:
    """Ways of posing the regression; columns are counted with the constant one."""
    own, nothing = np.arange(1, 1 + width), np.zeros((n_outputs * (1 + n_donors), n_outputs))
    families = [Family(own, nothing)]
    for d in range(n_donors):
        block = slice(n_outputs * (1 + d), n_outputs * (2 + d))
        offset = nothing.copy()
        offset[block] = np.eye(n_outputs)
        score = 1 + width + np.arange(n_outputs * d, n_outputs * (1 + d))
        families.append(Family(np.append(own, score), offset))
    if n_donors > 1:
        mean = np.vstack([nothing[:n_outputs], *[np.eye(n_outputs) / n_donors] * n_donors])
        families.append(Family(np.arange(1, 1 + width + n_outputs * n_donors), mean))
    return families


def _solve(
    moments: Moments,
    families: list[Family],
    columns: np.ndarray,
    folds: np.ndarray,
    n_outputs: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients of the centred columns, and held-out scores of the rows."""
    found: Averaged = solve(moments.centered(), families, n_outputs)
    # An offset is a fixed combination of scores, which are columns too.
    offset = np.zeros((1 + columns.shape[1], n_outputs))
    of_scores = found.offset[n_outputs:]
    offset[len(offset) - len(of_scores) :] = of_scores / _SCORE_SCALE
    column_mean, target_mean = moments.means()
    centered = columns - column_mean[1:]
    held_out = np.empty((len(columns), n_outputs))
    for fold in range(len(found.held_out)):
        inside = folds == fold
        coefficients = (found.held_out[fold] + offset)[1:]
        held_out[inside] = centered[inside] @ coefficients + target_mean[:n_outputs]
    return (found.coefficients + offset)[1:], held_out
