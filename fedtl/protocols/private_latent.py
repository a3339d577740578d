"""Private latent: a few latents of each row, told once, with noise that hides the row.

In place of ``session.prepare/1`` and of `latent`. The party encodes its rows by noisy histograms,
as in :mod:`fedtl.protocols.private_moments`, finds leading directions from a noisy matrix of second
moments, maps its rows to these, cuts each row to a bound, and tells all of them with Gaussian noise
of their own (local differential privacy). Neighbouring data differ in the values of one of the
party's rows, which are there or are all zero: which rows it has is known by the session. All of it
is one Gaussian mechanism without sampling, paid for before a row is used.

What is learnt from the noisy latents, by whatever networks in however many steps, costs nothing
more, and no message is needed for it.

Who learns what:

- ``private_latent.release/1`` tells the party what the fit may spend of its rows' privacy, and how
  many latents are wanted. Neither labels nor folds nor which rows are labelled ever cross, and the
  party keeps nothing that depends on labels: *it learns nothing of them*.
- ``private_latent.released/1`` gives the active party noisy latents of all rows of the session,
  their second moments with noise, and how much noise the latents have: an
  (epsilon, delta)-differentially private function of the party's rows.
- *Latents of rows that are asked about later are told without noise, and of training rows too*
  (``predict.reply/1``): as many numbers a row as there are latents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel, opened
from fedtl.learning.private_projection import ClippedProjection, within
from fedtl.parties import PartyService, Session
from fedtl.privacy import DifferentialPrivacy
from fedtl.privacy.noise import gaussian, symmetric_gaussian
from fedtl.protocols.moments import ClearMoments, pack, unpack
from fedtl.protocols.predict import PROJECTION
from fedtl.protocols.private_moments import CLIP, MIN_CELL, N_BINS, PROTECTION, pay_and_encode
from fedtl.wire import Message, Tensor, message

N_COMPONENTS = 4
"""Latents that are asked for at most: noise grows with their number, in each of them."""

_SHARES = {"histograms": 0.1, "directions": 0.1, "spread": 0.05, "latents": 0.75}
"""How the precision is divided between what is told; they sum to one."""

_MOST_COMPONENTS = 256


@message("private_latent.release/1")
class Release(Message):
    """Pay, and tell latents of all rows of the fit, with noise."""

    session: str
    epsilon: float
    delta: float
    n_bins: int
    n_components: int
    seed: int


@message("private_latent.released/1", protection=PROTECTION)
class Released(Message):
    """Latents of the rows that the party knows, their second moments, and their noise."""

    latents: Annotated[np.ndarray, Tensor("float32", ("rows", "components"))]
    moments: Annotated[np.ndarray, Tensor("float64", ("triangle",))]
    noise: float


class PrivateLatent(ClearMoments):
    """Latents with noise.

    Parameters
    ----------
    privacy : DifferentialPrivacy
        What a fit may spend of the privacy of each other party's rows.
    n_components : int
        Latents of a row, at most.

    Attributes
    ----------
    released : dict of str to Released
        What each party told.
    """

    def __init__(self, privacy: DifferentialPrivacy, n_components: int) -> None:
        self.privacy, self.n_components = privacy, min(n_components, N_COMPONENTS)
        self.released: dict[str, Released] = {}

    def prepare(self, channel: Channel, session: str, seed: int) -> int:
        """Ask a party to pay and to tell its latents, and return how many a row has."""
        request = Release(
            session=session,
            epsilon=float(self.privacy.epsilon),
            delta=float(self.privacy.delta),
            n_bins=N_BINS,
            n_components=self.n_components,
            seed=seed,
        )
        self.released[channel.name] = channel.ask(request, Released)
        return self.released[channel.name].latents.shape[1]

    def told(self, party: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Return what a party told of its rows.

        Parameters
        ----------
        party : str
            Its name.
        rows : ndarray of shape (n_rows,), dtype int
            The rows that it knows.

        Returns
        -------
        latents : ndarray of shape (n_rows, n_components), dtype float64
            With noise.
        second_moments : ndarray of shape (n_components, n_components), dtype float64
            Mean products of the latents without their noise, but with some of its own.
        noise : float
            Standard deviation of the noise of each latent.

        Raises
        ------
        PartyError
            If it told of another number of rows.
        """
        said = self.released[party]
        n_rows, width = said.latents.shape
        if n_rows != len(rows) or len(said.moments) != width * (width + 1) // 2:
            raise PartyError(party, f"told latents of {n_rows} rows, of {len(rows)} that it knows")
        latents = said.latents.astype(np.float64)
        opened(party, "private_latent.latents", rows=rows, scores=latents)
        return latents, unpack(said.moments[None], width)[0] / n_rows, said.noise


def answer_release(party: PartyService, request: Release) -> Released:
    """Pay, find directions, and tell the clipped latents with noise, once."""
    session = party.session(request.session)
    rows = _allowed_rows(party, session, request)
    multiplier = pay_and_encode(
        party,
        session,
        epsilon=request.epsilon,
        delta=request.delta,
        n_bins=request.n_bins,
        seed=request.seed,
        share=_SHARES["histograms"],
    )
    projection = ClippedProjection(_noisy_moments(session, rows, multiplier), request.n_components)
    latents = np.concatenate([projection.scores(part) for _, part in session.encoded(rows)])
    session.state[PROJECTION] = projection
    # What the party would tell of new rows, and does not of these.
    opened(party.name, "private_latent.clipped", holder=party.name, rows=rows, latents=latents)
    moments = latents.T @ latents
    moments += _noise("spread", projection.bound**2, multiplier) * _symmetric(len(moments))
    noise = _noise("latents", projection.bound, multiplier)
    latents += noise * gaussian(latents.shape)
    return Released(
        latents=latents.astype(np.float32),
        moments=pack(moments[None])[0],
        noise=noise,
    )


def _allowed_rows(party: PartyService, session: Session, request: Release) -> np.ndarray:
    """Return the rows that are told, if they are enough, and each of them is one row's only."""
    if not 1 <= request.n_components <= _MOST_COMPONENTS:
        raise PartyError(party.name, f"a row has 1 to {_MOST_COMPONENTS} latents")
    rows = np.flatnonzero(session.known)
    party.policy.limits.allow(4 * len(rows) * request.n_components)
    if len(np.unique(session.ids[rows])) < len(rows):
        raise PartyError(party.name, "a row was named twice; it is told with noise once")
    party.policy.allow_aggregate(party.name, len(rows))
    if len(rows) < MIN_CELL:
        raise PartyError(
            party.name,
            f"latents of {len(rows)} rows were asked for, and with noise they are told from "
            f"{MIN_CELL} on; share more rows",
        )
    return rows


def _noisy_moments(session: Session, rows: np.ndarray, multiplier: float) -> np.ndarray:
    """Mean products of encoded columns over rows, each row within its bound."""
    width = session.features.encoding_.width
    bound = CLIP * math.sqrt(max(width, 1))
    sums = _products((encoded for _, encoded in session.encoded(rows)), bound)
    sums += _noise("directions", bound**2, multiplier) * _symmetric(width)
    return np.asarray(sums / len(rows))


def _products(pieces: Iterable[np.ndarray], bound: float) -> np.ndarray:
    """Sum products of columns over rows, each row within a bound."""
    return np.asarray(sum(x.T @ x for x in (within(piece, bound) for piece in pieces)))


def _symmetric(width: int) -> np.ndarray:
    return symmetric_gaussian((1, width, width))[0]


def _noise(what: str, bound: float, multiplier: float) -> float:
    """Standard deviation beside what one row adds, which is `bound` at most."""
    return multiplier * bound / math.sqrt(_SHARES[what])
