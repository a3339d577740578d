"""Serving: how the active party asks for scores of new rows where a fit was protected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedtl.federation import Channel
from fedtl.protocols.dealer import Deals


@dataclass(frozen=True, eq=False)
class Scores:
    """What the active party is told of new rows.

    Parameters
    ----------
    known : ndarray of shape (n_ids,), dtype bool
        Which of them the party knows.
    scores : ndarray of shape (n_ids, n_outputs), dtype float64
        Zero where it does not.
    """

    known: np.ndarray
    scores: np.ndarray


class Serving(Protocol):
    """What the active party keeps of a protected fit, to have one party score new rows."""

    def ask(self, channel: Channel, session: str, ids: np.ndarray, deals: Deals | None) -> Scores:
        """Ask for scores of new rows.

        Parameters
        ----------
        channel : Channel
            The party.
        session : str
            Name of the session.
        ids : ndarray of shape (n_ids,), dtype int64
            Ids of the rows.
        deals : Deals or None
            Asks the dealer, where there is one.

        Returns
        -------
        Scores
            To the fixed-point error.

        Raises
        ------
        PartyError
            If the party, or the dealer, cannot answer or answers with wrong numbers.
        """
        ...
