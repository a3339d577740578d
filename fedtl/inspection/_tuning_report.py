"""What training in rounds brought each party, and what it cost."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtl.federation import Ledger
from fedtl.inspection._report import _html_table, _text_table
from fedtl.protocols.rounds import MODELS, Compared, Ready

_MOST_SHOWN = 20


@dataclass(frozen=True, eq=False)
class TuningReport:
    """Report of training in rounds; prints as text, shows as HTML, turns into pandas tables.

    Parameters
    ----------
    metric : str
        Name of the score on held-out rows: ``"accuracy"`` or ``"r2"``.
    parties : list of dict
        One record for each party; see :meth:`to_frame`.
    history : list of dict
        One record for each round.
    messages : list of dict
        One record for each party, direction and kind of message, as :meth:`Ledger.rows`.
    seconds : dict of str to float
        Seconds by phase.
    """

    metric: str
    parties: list[dict[str, Any]]
    history: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    seconds: dict[str, float]

    @classmethod
    def of_fit(
        cls,
        metric: str,
        ready: Mapping[str, Ready],
        compared: Mapping[str, Compared],
        *,
        history: list[dict[str, Any]],
        ledger: Ledger,
        seconds: Mapping[str, float],
    ) -> TuningReport:
        """Make the report of a fit.

        Parameters
        ----------
        metric : str
            Name of the score.
        ready : mapping of str to Ready
            How many rows each party has.
        compared : mapping of str to Compared
            What parties said of their models on held-out rows; empty if they were not asked.
        history : list of dict
            One record for each round.
        ledger : Ledger
            What crossed the border.
        seconds : mapping of str to float
            Seconds by phase.

        Returns
        -------
        TuningReport
            The report.
        """
        records = []
        for name, counts in ready.items():
            record: dict[str, Any] = {
                "party": name,
                "rows": counts.n_rows,
                "held_out": counts.n_held_out,
            }
            reply = compared.get(name)
            for i, model in enumerate(MODELS):
                known = reply is not None and reply.n_rows > 0
                record[model] = float(reply.scores[i]) if reply and known else np.nan
            record["deployed"] = "federated" if reply is None else reply.deployed
            records.append(record)
        return cls(metric, records, list(history), ledger.rows(), dict(seconds))

    @property
    def n_messages(self) -> int:
        """Number of messages in both directions."""
        return sum(row["messages"] for row in self.messages)

    @property
    def n_bytes(self) -> int:
        """Encoded bytes in both directions."""
        return sum(row["bytes"] for row in self.messages)

    def to_frame(self, table: str = "parties") -> Any:
        """Return one of the report's tables.

        Parameters
        ----------
        table : {"parties", "rounds", "messages", "seconds"}, default="parties"
            Which one. The table of parties has the rows trained on and held out, the score on
            the party's own held-out rows of the federated model, of the same after some training
            of its own, and of a model trained on its own rows alone; and which of them serves it.

        Returns
        -------
        pandas.DataFrame
            The table.
        """
        import pandas as pd

        if table == "seconds":
            return pd.DataFrame({"seconds": self.seconds}).rename_axis("phase").reset_index()
        tables = {"parties": self.parties, "rounds": self.history, "messages": self.messages}
        if table not in tables:
            raise ValueError(f"no table {table!r}: parties, rounds, messages or seconds")
        return pd.DataFrame(tables[table])

    def __str__(self) -> str:
        hidden = len(self.parties) - _MOST_SHOWN
        timing = ", ".join(f"{phase} {s:.2f}" for phase, s in self.seconds.items())
        lines = [
            f"Training in {len(self.history)} rounds with {len(self.parties)} parties; "
            f"{self.metric} on rows that each party held out",
            "",
            _text_table(*self._party_table()),
            *([f"  and {hidden} more parties, in to_frame()"] if hidden > 0 else []),
            "",
            f"Border: {self.n_messages} messages, {self.n_bytes:,} bytes",
            _text_table(*self._message_table()),
            "",
            f"Seconds: {timing}",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        title = f"{len(self.history)} rounds, {len(self.parties)} parties, {self.metric}"
        return "".join(
            [
                f"<h4>{html.escape(title)}</h4>",
                _html_table(*self._party_table()),
                f"<p>{self.n_messages} messages, {self.n_bytes:,} bytes</p>",
                _html_table(*self._message_table()),
            ]
        )

    def _party_table(self) -> tuple[list[str], list[list[str]]]:
        header = ["party", "rows", "held out", *MODELS, "deployed"]
        body = [
            [
                row["party"],
                f"{row['rows']:,}",
                f"{row['held_out']:,}",
                *["" if np.isnan(row[m]) else f"{row[m]:.4f}" for m in MODELS],
                row["deployed"],
            ]
            for row in self.parties[:_MOST_SHOWN]
        ]
        return header, body

    def _message_table(self) -> tuple[list[str], list[list[str]]]:
        """Messages by direction and kind, over all parties."""
        totals: dict[tuple[str, str], list[int]] = {}
        for row in self.messages:
            total = totals.setdefault((row["direction"], row["kind"]), [0, 0])
            total[0] += row["messages"]
            total[1] += row["bytes"]
        body = [
            [direction, kind, f"{messages:,}", f"{n_bytes:,}"]
            for (direction, kind), (messages, n_bytes) in totals.items()
        ]
        return ["direction", "kind", "messages", "bytes"], body
