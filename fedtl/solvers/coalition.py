"""All parties of one model: the active one here, the others behind channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedtl.exceptions import PartyError, PartyUnreachable, SessionExpired
from fedtl.federation import Channel
from fedtl.learning.columns import Columns
from fedtl.learning.network import PartyEncoder
from fedtl.parties import LocalFeatures, Recipe, Session, Table
from fedtl.protocols.dealer import Deals
from fedtl.protocols.moments import CLEAR, MomentsExchange
from fedtl.protocols.predict import Reply, ask_predictions, local_latents
from fedtl.protocols.private_latent import PrivateLatent
from fedtl.protocols.private_moments import PrivateMoments
from fedtl.protocols.serving import Serving
from fedtl.protocols.session import end_session, open_session, prepare_session
from fedtl.solvers.problem import ACTIVE

_AT_ONCE = 4096
"""Rows that are predicted at once under protection: messages hold up to 2 KiB a row and more."""


def _not_without(error: PartyError, n_rows: int) -> None:
    raise error


@dataclass(eq=False)
class Coalition:
    """The parties of one fit.

    Parameters
    ----------
    name : str
        Name of the session at all parties.
    table : Table
        The active party's rows.
    session : Session
        The active party's features, and its rows while the fit runs.
    channels : sequence of Channel
        The other parties.
    moments : MomentsExchange
        How moments are asked for.
    deals : Deals or None
        Asks the dealer of secret shares, where there is one.
    on_missing : callable
        Called with the error of a party that cannot be reached, and how many new rows it was
        asked about; returns if they may be served without it. By default they may not.
    """

    name: str
    table: Table
    session: Session
    channels: Sequence[Channel]
    moments: MomentsExchange = field(default=CLEAR)
    deals: Deals | None = None
    on_missing: Callable[[PartyError, int], None] = _not_without

    @classmethod
    def begin(
        cls, name: str, table: Table, channels: Sequence[Channel], active: str, recipe: Recipe
    ) -> Coalition:
        """Set up a first fit, with features that are still to be fitted.

        Parameters
        ----------
        name : str
            Name of the session.
        table : Table
            The active party's rows.
        channels : sequence of Channel
            The other parties.
        active : str
            Name of the active party.
        recipe : Recipe
            Its encoder.

        Returns
        -------
        Coalition
            The parties.
        """
        return cls(name, table, Session(LocalFeatures(active, recipe)), channels)

    def align(self, *, resume: bool) -> np.ndarray:
        """Ask who knows which of the active party's rows.

        Parameters
        ----------
        resume : bool
            Whether to go on from an earlier fit, whose features are kept.

        Returns
        -------
        ndarray of shape (n_rows, n_parties), dtype bool
            Who knows which row, the active party first.

        Raises
        ------
        PartyError
            If a party shares no row with the active one.
        """
        session = self.session
        session.ids = np.arange(len(self.table), dtype=np.int64)
        session.known = session.features.known(self.table, session.ids)
        known = [session.known]
        for channel in self.channels:
            theirs = open_session(channel, self.name, session.ids, resume)
            if theirs.any() and session.known.any() and not (theirs & session.known).any():
                raise PartyError(
                    channel.name,
                    f"shares no row with the active party {session.features.party!r}: it knows "
                    f"{int(theirs.sum())} of the {len(theirs)} rows, and the active party knows "
                    f"{int(session.known.sum())} others; check how missing values mark the rows "
                    "that a party does not know",
                )
            known.append(theirs)
        return np.column_stack(known)

    def prepare(self, n_bins: Sequence[int], seed: int, n_components: int = 0) -> None:
        """Have every party encode its own rows.

        Parameters
        ----------
        n_bins : sequence of int
            Bins of each party's piecewise-linear encoding, the active party's first.
        seed : int
            Seed of what the parties draw.
        n_components : int, default=0
            If positive, the other parties' encodings are so many of their principal components.
        """
        if not self.session.features.fitted:
            self.session.features.fit(self.table.block, n_bins[ACTIVE], seed)
        self.session.read(self.table)
        for channel, bins in zip(self.channels, n_bins[1:], strict=True):
            if isinstance(self.moments, PrivateMoments | PrivateLatent):
                self.moments.prepare(channel, self.name, seed)
            else:
                prepare_session(channel, self.name, bins, seed, n_components)

    def ask(
        self,
        party: int,
        ids: np.ndarray,
        serving: Serving | None,
        *,
        scores: bool,
        latents: bool,
        trees: bool = False,
    ) -> Reply:
        """Ask a party about new rows.

        Parameters
        ----------
        party : int
            Its number.
        ids : ndarray of shape (n_ids,), dtype int64
            Ids of the rows.
        serving : Serving or None
            What asks under protection for the scores of what was fitted, and nothing else.
        scores, latents, trees : bool
            What is wanted in the clear.

        Returns
        -------
        Reply
            Its answer.
        """
        channel = self.channels[party - 1]
        if serving is None:
            return ask_predictions(
                channel, self.name, ids, scores=scores, latents=latents, trees=trees
            )
        told = [
            serving.ask(channel, self.name, ids[i : i + _AT_ONCE], self.deals)
            for i in range(0, max(len(ids), 1), _AT_ONCE)
        ]
        return Reply(
            known=np.concatenate([part.known for part in told]),
            scores=np.concatenate([part.scores for part in told]),
            trees=np.zeros((len(ids), 0)),
            latents=np.zeros((0, len(ids), 0)),
        )

    def end(self) -> None:
        """Have every party forget what only training needs, the active party included."""
        self.session.end_fit()
        for channel in self.channels:
            end_session(channel, self.name)


@dataclass(frozen=True, eq=False)
class NewRows:
    """New rows as all parties together see them.

    Parameters
    ----------
    columns : Columns
        The active party's part.
    known : ndarray of shape (n_rows, n_parties), dtype bool
        Who knows which row.
    replies : list of (Reply or None)
        What the other parties say of them; None of one that could not be reached.
    """

    columns: Columns
    known: np.ndarray
    replies: list[Reply | None]

    @property
    def own(self) -> np.ndarray:
        """Positions of the rows that the active party knows."""
        return np.flatnonzero(self.known[:, ACTIVE])

    def latents(self, session: Session, encoder: PartyEncoder) -> np.ndarray:
        """Return the latents of all parties.

        Parameters
        ----------
        session : Session
            The active party's features.
        encoder : PartyEncoder
            The active party's encoder.

        Returns
        -------
        ndarray of shape (members, n_rows, n_parties, n_components), dtype float64
            Zero where a party does not know the row.
        """
        own = local_latents(session, encoder, self.columns, self.own)
        nothing = np.zeros_like(own)
        others = [nothing if reply is None else reply.latents for reply in self.replies]
        return np.stack([own, *others], axis=2)


def look_up(
    coalition: Coalition,
    *,
    scores: bool,
    latents: bool,
    trees: Sequence[bool] | None = None,
    servings: Sequence[Serving | None] | None = None,
) -> NewRows:
    """Ask all parties about the rows of the coalition's table.

    Parameters
    ----------
    coalition : Coalition
        A fitted coalition with new rows.
    scores, latents : bool
        What is wanted of the other parties.
    trees : sequence of bool, optional
        Of which of them the scores of its trees are wanted; of none by default.
    servings : sequence of (Serving or None), optional
        What asks each of them under protection; in the clear by default.

    Returns
    -------
    NewRows
        Their answers.
    """
    ids = np.arange(len(coalition.table), dtype=np.int64)
    columns, own = coalition.session.features.read(coalition.table, ids)
    wanted = [False] * len(coalition.channels) if trees is None else trees
    replies: list[Reply | None] = []
    hidden = [None] * len(coalition.channels) if servings is None else servings
    for party, (serving, of_trees) in enumerate(zip(hidden, wanted, strict=True), start=1):
        try:
            reply = coalition.ask(
                party, ids, serving, scores=scores, latents=latents, trees=of_trees
            )
        except (PartyUnreachable, SessionExpired) as error:
            coalition.on_missing(error, len(ids))
            replies.append(None)
        else:
            replies.append(reply)
    nobody = np.zeros(len(ids), dtype=bool)
    known = [nobody if reply is None else reply.known for reply in replies]
    return NewRows(columns, np.column_stack([own, *known]), replies)
