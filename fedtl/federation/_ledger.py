"""What crossed the border, counted in exact encoded bytes."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

# One for all, and not an attribute: ledgers are copied and pickled with estimators.
_COUNTING = threading.Lock()


@dataclass
class Entry:
    """Messages of one kind between the active party and one other.

    Parameters
    ----------
    messages : int
        How many.
    n_bytes : int
        Their encoded size in bytes, summed.
    protection : str
        What protects their content from the receiver.
    """

    messages: int = 0
    n_bytes: int = 0
    protection: str = "none"


class Ledger:
    """Counts of messages and bytes by party, direction and kind.

    Attributes
    ----------
    missed_rows : dict of str to int
        Rows that were served without a party, as it could not be reached; by its name. See
        ``on_missing`` of :meth:`fedtl.federation.Federation.connect`.

    Examples
    --------
    >>> from fedtl.federation import Ledger
    >>> ledger = Ledger()
    >>> ledger.add("shop", "sent", "moments.request/1", 2048)
    >>> ledger.messages, ledger.n_bytes
    (1, 2048)
    """

    def __init__(self) -> None:
        self.entries: defaultdict[tuple[str, str, str], Entry] = defaultdict(Entry)
        self.missed_rows: dict[str, int] = {}

    def add(
        self, party: str, direction: str, kind: str, n_bytes: int, protection: str = "none"
    ) -> None:
        """Count one message.

        Parameters
        ----------
        party : str
            The other party.
        direction : {"sent", "received"}
            As seen from the active party.
        kind : str
            Kind of the message.
        n_bytes : int
            Its encoded size in bytes.
        protection : str, default="none"
            What protects its content from the receiver; messages of one kind have the same.
        """
        with _COUNTING:
            entry = self.entries[party, direction, kind]
            entry.protection = protection
            entry.messages += 1
            entry.n_bytes += n_bytes

    def miss(self, party: str, n_rows: int) -> None:
        """Count rows that are served without a party.

        Parameters
        ----------
        party : str
            The party that could not be reached.
        n_rows : int
            How many rows it was to be asked about.
        """
        with _COUNTING:
            self.missed_rows[party] = self.missed_rows.get(party, 0) + n_rows

    @property
    def messages(self) -> int:
        """Number of messages, of all kinds and in both directions."""
        return sum(entry.messages for entry in self.entries.values())

    @property
    def n_bytes(self) -> int:
        """Bytes of all messages in both directions."""
        return sum(entry.n_bytes for entry in self.entries.values())

    def rows(self) -> list[dict[str, Any]]:
        """Return one record for each party, direction and kind.

        Returns
        -------
        list of dict
            With the keys ``party``, ``direction``, ``kind``, ``protection``, ``messages`` and
            ``bytes``.
        """
        return [
            {
                "party": party,
                "direction": direction,
                "kind": kind,
                "protection": entry.protection,
                "messages": entry.messages,
                "bytes": entry.n_bytes,
            }
            for (party, direction, kind), entry in self.entries.items()
        ]

    def __repr__(self) -> str:
        missed = f", {sum(self.missed_rows.values())} rows missed" if self.missed_rows else ""
        return f"Ledger({self.messages} messages, {self.n_bytes:,} bytes{missed})"
