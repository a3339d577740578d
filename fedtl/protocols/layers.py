"""Layers: what protected joint training of a party's own layer has in common, whatever protects it.

A party makes features by itself, without labels (:mod:`fedtl.learning.whitening`). The weights of
its layer are ``F.T @ r``, the gradient of a loss summed over rows: ``F`` has the features, ``r``
the residuals, which are the active party's. With weights that its own fold had no part in, each row
is scored. Features and residuals are integers at one scale under every protection, so that scores
are the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel, opened
from fedtl.learning.whitening import Whitening
from fedtl.parties import PartyService, Session
from fedtl.privacy.fixed_point import FixedPoint, FixedPointError, magnitude_bits
from fedtl.protocols.moments import allow_sums, count_scores
from fedtl.protocols.serving import Serving

FEATURE_BITS = 20
SCORE_BITS = 61
"""No score, as an integer, is larger than ``2**SCORE_BITS``."""
_TOLD = "shared_latent.told"
_FEWEST_BITS = 8
_FEWEST_ROWS = 20


class Layer(Protocol):
    """The active party's end of one party's layer."""

    def scores(self, residuals: np.ndarray) -> np.ndarray:
        """Train a layer on residuals and return what it scores each row without the row's fold.

        Parameters
        ----------
        residuals : ndarray of shape (n_rows, n_outputs), dtype float64
            Negative gradients of the loss for the scores; they stay here.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs), dtype float64
            Scores, to the fixed-point error.

        Raises
        ------
        FixedPointError
            If they do not fit; nothing was sent.
        PartyError
            If the party, or a dealer, answered with wrong numbers.
        """
        ...

    def keep(self, residuals: np.ndarray) -> Serving:
        """Train the final layer on all rows; nobody learns it.

        Parameters
        ----------
        residuals : ndarray of shape (n_rows, n_outputs), dtype float64
            As for :meth:`scores`, which raises the same.

        Returns
        -------
        Serving
            What asks for scores of new rows.
        """
        ...


@runtime_checkable
class LayerExchange(Protocol):
    """A protection under which layers can be trained."""

    def layer(
        self, channel: Channel, session: str, *, rows: np.ndarray, folds: np.ndarray, n_folds: int
    ) -> Layer:
        """Begin the training of a party's layer.

        Parameters
        ----------
        channel : Channel
            The party.
        session : str
            Name of the session.
        rows, folds : ndarray of shape (n_rows,), dtype int
            Rows that are trained on, and the fold of each.
        n_folds : int
            Number of folds.

        Returns
        -------
        Layer
            The active party's end.

        Raises
        ------
        PartyError
            If the party shares too few rows, or answers with numbers that make no sense.
        """
        ...


def check_ready(party: str, n_features: int, bound: float) -> None:
    """Refuse a number of features and a bound of their norm that make no sense."""
    if n_features < 1 or not 0 < bound < 2.0**16:
        raise PartyError(party, "number and bound of its features make no sense")


def scale_of(residuals: np.ndarray, bound: float) -> FixedPoint:
    """Return as many bits as are left beside those of scores, which Cauchy-Schwarz bounds.

    Parameters
    ----------
    residuals : ndarray of shape (n_rows, n_outputs), dtype float64
        What a layer is trained on.
    bound : float
        No row of the party's features, nor a column, has a larger Euclidean norm.

    Returns
    -------
    FixedPoint
        The scale of residuals.

    Raises
    ------
    FixedPointError
        If too few bits are left.
    """
    largest = bound**2 * np.linalg.norm(residuals, axis=0).max(initial=0.0)
    bits = SCORE_BITS - 2 * FEATURE_BITS - magnitude_bits(np.array([largest]))
    if bits < _FEWEST_BITS:
        raise FixedPointError(
            f"scores of {len(residuals)} rows may reach {largest:.3g}, which leaves {bits} "
            f"bits for the fractions of residuals, at least {_FEWEST_BITS} are needed; "
            "use fewer rows"
        )
    return FixedPoint(bits, magnitude_bits(residuals))


def open_scores(
    party: str, integers: np.ndarray, fixed: FixedPoint, *, rows: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Decode scores that the active party learnt, and record that it has them.

    Parameters
    ----------
    party : str
        Whose features they are of.
    integers : ndarray of shape (n_rows, n_outputs), dtype int64
        Sums of products.
    fixed : FixedPoint
        The scale of residuals.
    rows, folds : ndarray of shape (n_rows,), dtype int
        Which rows, and the fold that each was scored without.

    Returns
    -------
    ndarray of shape (n_rows, n_outputs), dtype float64
        Scores.
    """
    scores = fixed.decode(integers, 2 * FEATURE_BITS)
    # Less than all rows made the layer: brought to the scale of one of all rows.
    for fold in np.unique(folds):
        inside = folds == fold
        scores[inside] *= len(folds) / max(int((~inside).sum()), 1)
    opened(party, "shared_latent.scores", rows=rows, scores=scores)
    return scores


@dataclass(frozen=True, eq=False)
class OwnFeatures:
    """What a party makes of its own rows, and keeps while its layer is trained.

    Parameters
    ----------
    rows, folds : ndarray of shape (n_rows,), dtype int
        Rows that are trained on, and the fold of each.
    n_folds : int
        Number of folds.
    whitening : Whitening
        From encoded rows to features.
    integers : ndarray of shape (n_rows, n_features), dtype int64
        Features in fixed point.
    """

    rows: np.ndarray
    folds: np.ndarray
    n_folds: int
    whitening: Whitening
    integers: np.ndarray


def make_features(
    party: PartyService, session: Session, asked: np.ndarray, folds: np.ndarray, n_folds: int
) -> OwnFeatures:
    """Make a party's features, without labels, if its policy and the number of rows allow it.

    Parameters
    ----------
    party : PartyService
        The party.
    session : Session
        Its session.
    asked, folds : ndarray of shape (n_rows,), dtype int
        Positions of rows that are to be trained on, and the fold of each.
    n_folds : int
        Number of folds.

    Returns
    -------
    OwnFeatures
        The features.

    Raises
    ------
    PartyError
        If rows are too few, or one is named twice.
    """
    rows = party.training_rows(session, asked)
    everywhere = np.ones(len(rows), dtype=bool)
    summed = allow_sums(party, session.ids[rows], folds, n_folds, everywhere)
    n_rows = sum(summed.values())
    if n_rows < _FEWEST_ROWS or n_rows < len(rows):
        raise PartyError(
            party.name,
            f"shares {n_rows} different labelled rows; protected joint training needs at least "
            f"{_FEWEST_ROWS}, each of them once, so that a layer says little about each row",
        )
    width = session.features.encoding_.width
    party.policy.limits.allow(8 * len(rows) * Whitening.n_features_for(n_rows, width))
    encoded = np.concatenate([part for _, part in session.encoded(np.flatnonzero(session.known))])
    whitening = Whitening(encoded, n_rows)
    features = np.concatenate([whitening.transform(part) for _, part in session.encoded(rows)])
    fixed = FixedPoint(FEATURE_BITS, magnitude_bits(np.array([whitening.bound])))
    integers = fixed.encode(features, "a feature")
    return OwnFeatures(rows, folds, n_folds, whitening, integers)


def allow_scores(party: PartyService, session: Session, own: OwnFeatures, n_outputs: int) -> None:
    """Count scores that a fit is told of each row, or refuse them.

    Parameters
    ----------
    party : PartyService
        Who is asked.
    session : Session
        Its session, in which scores are counted.
    own : OwnFeatures
        Its features.
    n_outputs : int
        Scores a row.

    Raises
    ------
    PartyError
        If they are more than half as many as features, or more than its policy allows.
    """
    n_told = session.state.get(_TOLD, 0) + n_outputs
    check_outputs(party.name, own, n_told)
    count_scores(party, session, own.rows, n_outputs)
    session.state[_TOLD] = n_told


def check_outputs(party: str, own: OwnFeatures, n_told: int) -> None:
    """Refuse as many scores of a row as would give its features away."""
    n_features = own.integers.shape[1]
    if 2 * n_told > n_features + 2:
        raise PartyError(
            party,
            f"{n_told} scores of each row were asked for, more than half its "
            f"{n_features} features: as many as features would give them away. "
            "Share more labelled rows, or ask for fewer exchanges or outputs",
        )


@dataclass(frozen=True, eq=False)
class NewFeatures:
    """A party's features of new rows, for a layer that nobody can read.

    Parameters
    ----------
    whitening : Whitening
        From encoded rows to features.
    """

    rotated: ClassVar[bool] = True
    whitening: Whitening

    def integers(self, encoded: np.ndarray) -> np.ndarray:
        """Return features in fixed point.

        Rows beyond twice the bound of training rows are brought there: scores have a bit to spare.

        Parameters
        ----------
        encoded : ndarray of shape (n_rows, width), dtype float64
            Rows.

        Returns
        -------
        ndarray of shape (n_rows, n_features), dtype int64
            Features times ``2**20``.
        """
        features, most = self.whitening.transform(encoded), 2.0 * self.whitening.bound
        norm = np.linalg.norm(features, axis=1, keepdims=True)
        features *= most / np.maximum(norm, most)
        return FixedPoint(FEATURE_BITS, magnitude_bits(np.array([most]))).encode(features)
