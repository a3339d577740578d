"""Private moments: sums of products with noise, and nothing about single rows.

In place of ``session.prepare/1`` and of `moments`. The party's encoding is fitted to noisy
histograms, encoded rows and targets are clipped, each fold's sums get Gaussian noise. Neighbouring
data differ in the values of one of the party's rows, which are there or are all zero: which rows
it has is known by the session. All of it is one Gaussian mechanism, paid for before it is begun.
No held-out score of a training row is told: evidence has to come from the sums.

Who learns what:

- ``private_moments.prepare/1`` tells the party what the fit may spend of its rows' privacy.
  ``private_moments.prepared/1`` tells the active party how many columns the encoding has, which
  follows from noisy histograms, and how much noise its sums will have.
- ``private_moments.request/1`` gives the party what ``moments.request/1`` gives it: position, fold
  and targets of shared rows. *The labels are not protected from it.*
- ``private_moments.reply/1`` gives the active party the sums over folds, with noise: with what it
  was told before, an (epsilon, delta)-differentially private function of the party's rows.
- ``private_moments.model/1`` gives the party its coefficients, ``private_moments.kept/1`` says that
  it has them. *Scores of rows that are asked about later are told without noise, and of training
  rows too.*
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.learning.private_projection import within
from fedtl.parties import PartyService, Session
from fedtl.privacy import DifferentialPrivacy
from fedtl.privacy.accounting import calibrated, check_delta
from fedtl.privacy.noise import gaussian, symmetric_gaussian
from fedtl.protocols.moments import ClearMoments, allow_sums, keep_coefficients, pack, unpack
from fedtl.wire import Message, Tensor, message

PROTECTION = "differential privacy"
MIN_CELL = 20
"""Sums over fewer rows are refused, whatever the policy says: they would be nothing but noise."""

_SHARES = {"histograms": 0.1, "columns": 0.3, "targets": 0.6}
"""How the precision is divided between what is told; they sum to one."""

CLIP = 0.8
"""Bound of a row's norm, as a multiple of the root of its width: noise grows with its square."""

N_BINS = 2
"""Bins of the encoding: noise grows faster than the number of columns."""

_STATE = "private_moments"


@message("private_moments.prepare/1")
class Prepare(Message):
    """Fit an encoding whose sums can be told with noise."""

    session: str
    epsilon: float
    delta: float
    n_bins: int
    seed: int


@message("private_moments.prepared/1", protection=PROTECTION)
class Prepared(Message):
    """Width of the encoding, the bound of its rows' norms, noise as a multiple of bounds."""

    width: int
    bound: float
    noise_multiplier: float


@message("private_moments.request/1")
class Request(Message):
    """Targets on shared rows, of norm one at most."""

    session: str
    n_folds: int
    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]
    folds: Annotated[np.ndarray, Tensor("uint8", ("rows",))]
    targets: Annotated[np.ndarray, Tensor("float64", ("rows", "targets"))]


@message("private_moments.reply/1", protection=PROTECTION)
class Reply(Message):
    """Noisy sums over each fold, of the columns, and of the columns with one and the targets."""

    gram: Annotated[np.ndarray, Tensor("float64", ("folds", "triangle"))]
    cross: Annotated[np.ndarray, Tensor("float64", ("folds", "columns", "targets"))]


@message("private_moments.model/1")
class Model(Message):
    """Coefficients on the party's columns for new rows, constant column first."""

    session: str
    coefficients: Annotated[np.ndarray, Tensor("float64", ("columns", "kept"))]


@message("private_moments.kept/1")
class Kept(Message):
    """The coefficients are kept."""

    session: str


class PrivateMoments(ClearMoments):
    """Moments with noise.

    Parameters
    ----------
    privacy : DifferentialPrivacy
        What a fit may spend of the privacy of each other party's rows.

    Attributes
    ----------
    prepared : dict of str to Prepared
        What each party said of its encoding.
    """

    def __init__(self, privacy: DifferentialPrivacy) -> None:
        self.privacy = privacy
        self.prepared: dict[str, Prepared] = {}

    def prepare(self, channel: Channel, session: str, seed: int) -> int:
        """Ask a party to pay and to fit its encoding, and return how many columns that gives."""
        request = Prepare(
            session=session,
            epsilon=float(self.privacy.epsilon),
            delta=float(self.privacy.delta),
            n_bins=N_BINS,
            seed=seed,
        )
        self.prepared[channel.name] = channel.ask(request, Prepared)
        return self.prepared[channel.name].width

    def ask_sums(
        self,
        channel: Channel,
        session: str,
        rows: np.ndarray,
        *,
        folds: np.ndarray,
        targets: np.ndarray,
        n_folds: int,
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Ask a party for its sums with these targets.

        Parameters
        ----------
        channel : Channel
            The party.
        session : str
            Name of the session.
        rows : ndarray of shape (n_rows,), dtype int
            Positions of rows that the party knows.
        folds : ndarray of shape (n_rows,), dtype int
            Fold of each row.
        targets : ndarray of shape (n_rows, n_targets), dtype float64
            Targets.
        n_folds : int
            Number of folds.

        Returns
        -------
        gram : ndarray of shape (n_folds, 1 + width, 1 + width), dtype float64
            Products of the party's columns, a constant one first, with noise.
        cross : ndarray of shape (n_folds, 1 + width, n_targets), dtype float64
            Products with the targets; those of the constant one are known here, and exact.
        spectrum : float
            About the largest eigenvalue of the noise of a fold's columns.
        """
        largest = max(float(np.sqrt(np.square(targets).sum(axis=1)).max(initial=0.0)), 1e-12)
        reply = channel.ask(
            Request(
                session=session,
                n_folds=n_folds,
                rows=rows.astype(np.uint32),
                folds=folds.astype(np.uint8),
                targets=targets / largest,
            ),
            Reply,
        )
        ones = np.hstack([np.ones((len(rows), 1)), targets])
        known = np.stack([ones[folds == f].sum(axis=0) for f in range(n_folds)])
        width = reply.cross.shape[1]
        gram = np.zeros((n_folds, 1 + width, 1 + width))
        gram[:, 1:, 1:] = unpack(reply.gram, width)
        gram[:, 0, 0] = known[:, 0]
        gram[:, 1:, 0] = gram[:, 0, 1:] = reply.cross[:, :, 0]
        cross = np.concatenate([known[:, None, 1:], reply.cross[:, :, 1:] * largest], axis=1)
        said = self.prepared[channel.name]
        return gram, cross, _noise_of_columns(said) * math.sqrt(2.0 * width)

    def keep(self, channel: Channel, session: str, coefficients: np.ndarray) -> None:
        """Give a party its coefficients for new rows."""
        channel.ask(Model(session=session, coefficients=coefficients), Kept)


def answer_prepare(party: PartyService, request: Prepare) -> Prepared:
    """Pay, and fit the encoding to noisy histograms."""
    session = party.session(request.session)
    multiplier = pay_and_encode(
        party,
        session,
        epsilon=request.epsilon,
        delta=request.delta,
        n_bins=request.n_bins,
        seed=request.seed,
        share=_SHARES["histograms"],
    )
    width = session.features.encoding_.width
    prepared = Prepared(
        width=width, bound=CLIP * math.sqrt(max(width, 1)), noise_multiplier=multiplier
    )
    session.state[_STATE] = prepared
    return prepared


def pay_and_encode(
    party: PartyService,
    session: Session,
    *,
    epsilon: float,
    delta: float,
    n_bins: int,
    seed: int,
    share: float,
) -> float:
    """Pay for a fit, fit the party's encoding to noisy histograms, and read its rows.

    Parameters
    ----------
    party : PartyService
        Who is asked.
    session : Session
        The session of the fit.
    epsilon, delta : float
        What the fit may spend.
    n_bins : int
        Bins of the encoding.
    seed : int
        Seed of what is drawn from the histograms.
    share : float
        The histograms' share of the precision.

    Returns
    -------
    float
        The noise, as a multiple of what one row adds, if all precision were one number's.

    Raises
    ------
    PartyError
        If it is not the session's first fit, or no noise can be fitted to the columns.
    BudgetSpent
        If the party or the federation allows no more; no row was used.
    """
    if session.features.fitted or not (0 <= seed < 2**32 and 0 <= n_bins <= 16):
        raise PartyError(
            party.name, "a private fit begins anew, with up to 16 bins and a seed in [0, 2**32)"
        )
    numbers = session.features.plain_numbers(party.table.block)
    try:
        check_delta(delta, len(numbers))
        mechanism = calibrated(epsilon, delta)
    except (ImportError, ValueError) as error:
        raise PartyError(party.name, str(error)) from error
    party.usage.spend(party.name, party.policy, mechanism)
    if party.budget is not None:
        party.budget.spend(party.name, mechanism)
    noise = mechanism.noise_multiplier * math.sqrt(numbers.shape[1] / share)
    session.features.fit_privately(party.table.block, noise, n_bins=n_bins, seed=seed)
    session.read(party.table)
    return mechanism.noise_multiplier


def answer_request(party: PartyService, request: Request) -> Reply:
    """Sum products of clipped rows over each fold, once, and add the noise."""
    session = party.session(request.session)
    rows = party.training_rows(session, request.rows)
    if len(np.unique(session.ids[rows])) < len(rows):
        raise PartyError(party.name, "a row was named twice; its part of a sum has to be bounded")
    summed = allow_sums(
        party, session.ids[rows], request.folds, request.n_folds, np.ones(len(rows), dtype=bool)
    )
    if len(summed) < request.n_folds or min(summed.values()) < MIN_CELL:
        raise PartyError(
            party.name,
            f"a sum over {min(summed.values(), default=0)} rows was asked for, and one with noise "
            f"is answered from {MIN_CELL} on; share more rows or use fewer folds",
        )
    prepared: Prepared | None = session.state.pop(_STATE, None)
    if prepared is None:
        raise PartyError(party.name, "its sums have been told, or were not paid for; fit again")
    gram, cross = _clipped_sums(session, rows, request, prepared.bound)
    gram += _noise_of_columns(prepared) * symmetric_gaussian(gram.shape)
    cross += _noise_of_targets(prepared) * gaussian(cross.shape)
    return Reply(gram=pack(gram), cross=cross)


def answer_model(party: PartyService, request: Model) -> Kept:
    """Keep the coefficients for new rows."""
    keep_coefficients(party.name, party.session(request.session), request.coefficients)
    return Kept(session=request.session)


def _noise_of_columns(prepared: Prepared) -> float:
    """Standard deviation beside one row's share of at most ``bound ** 2``, in Frobenius norm."""
    share = math.sqrt(_SHARES["columns"])
    return prepared.noise_multiplier * prepared.bound**2 / share


def _noise_of_targets(prepared: Prepared) -> float:
    """Standard deviation beside a share of at most ``bound`` times the norm of one and targets."""
    share = math.sqrt(_SHARES["targets"])
    return prepared.noise_multiplier * prepared.bound * math.sqrt(2.0) / share


def _clipped_sums(
    session: Session, rows: np.ndarray, request: Request, bound: float
) -> tuple[np.ndarray, np.ndarray]:
    """Sum products over each fold, every row within its bound."""
    width, n_targets = session.features.encoding_.width, request.targets.shape[1]
    gram = np.zeros((request.n_folds, width, width))
    cross = np.zeros((request.n_folds, width, 1 + n_targets))
    targets = within(request.targets, 1.0)
    ones = np.hstack([np.ones((len(rows), 1)), targets])
    for piece, encoded in session.encoded(rows):
        clipped = within(encoded, bound)
        for fold in np.unique(request.folds[piece]):
            inside = request.folds[piece] == fold
            x = clipped[inside]
            gram[fold] += x.T @ x
            cross[fold] += x.T @ ones[piece][inside]
    return gram, cross
