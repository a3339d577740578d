"""Serving: how new rows are scored where a fit was protected, whatever protects it."""

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


class Inputs(Protocol):
    """What of a party's rows is multiplied by a part of the model that it cannot read."""

    @property
    def rotated(self) -> bool:
        """Whether rows are encoded as they are for everything that crosses, or in codes."""
        ...

    def integers(self, encoded: np.ndarray) -> np.ndarray:
        """Return the numbers of encoded rows: (n_rows, n_inputs), int64."""
        ...


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
