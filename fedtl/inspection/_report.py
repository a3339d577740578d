"""What a federated fit gained, decided and exchanged, for a data scientist and for an auditor."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtl.federation import Ledger
from fedtl.solvers.problem import ACTIVE, Problem
from fedtl.solvers.subsets import Served
from fedtl.solvers.transfer import TransferModel

_MOST_SHOWN = 16
_METRICS = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "r2"}


@dataclass(frozen=True, eq=False)
class FederationReport:
    """Report of a federated fit; prints as text, shows as HTML, turns into pandas tables.

    Parameters
    ----------
    parties : tuple of str
        Names, the active party first.
    metric : str
        Name of the held-out score.
    subsets : list of dict
        One record for each subset of parties; see :meth:`to_frame`.
    messages : list of dict
        One record for each party, direction and kind of message, as :meth:`Ledger.rows`.
    rounds : int
        Exchanges with each other party that had to wait for one another.
    seconds : dict of str to float
        Seconds by phase.
    rows : dict of str to dict of str to int
        For each party the rows that it knows, and how many of them are labelled and shared.
    """

    parties: tuple[str, ...]
    metric: str
    subsets: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    rounds: int
    seconds: dict[str, float]
    rows: dict[str, dict[str, int]]

    @classmethod
    def of_fit(
        cls,
        parties: list[str],
        model: TransferModel,
        problem: Problem,
        ledger: Ledger,
        seconds: dict[str, float],
    ) -> FederationReport:
        """Make the report of a fit.

        Parameters
        ----------
        parties : list of str
            Names of the parties.
        model : TransferModel
            What was fitted.
        problem : Problem
            What was to be learnt.
        ledger : Ledger
            What crossed the border.
        seconds : dict of str to float
            Seconds by phase.

        Returns
        -------
        FederationReport
            The report.
        """
        messages = ledger.rows()
        sent: dict[str, int] = {}
        for row in messages:
            if row["direction"] == "sent":
                sent[row["party"]] = sent.get(row["party"], 0) + row["messages"]
        rows = {
            name: {
                "rows": int(problem.known[:, i].sum()),
                "labelled": int((problem.known[:, i] & problem.labeled).sum()),
                "shared": int((problem.known[:, i] & problem.known[:, ACTIVE]).sum()),
            }
            for i, name in enumerate(parties)
        }
        return cls(
            parties=tuple(parties),
            metric=_METRICS[problem.task],
            subsets=[_subset_record(parties, served) for served in model.served.values()],
            messages=messages,
            rounds=max(sent.values(), default=0),
            seconds=dict(seconds),
            rows=rows,
        )

    @property
    def n_messages(self) -> int:
        """Number of messages in both directions."""
        return sum(row["messages"] for row in self.messages)

    @property
    def n_bytes(self) -> int:
        """Encoded bytes in both directions."""
        return sum(row["bytes"] for row in self.messages)

    def largest_subsets(self, most: int) -> list[dict[str, Any]]:
        """Return the records of single parties and of the largest subsets.

        Parameters
        ----------
        most : int
            How many records at most.

        Returns
        -------
        list of dict
            In the order of :attr:`subsets`.
        """
        if len(self.subsets) <= most:
            return self.subsets
        singles = [i for i, row in enumerate(self.subsets) if len(row["members"]) == 1]
        rest = sorted(set(range(len(self.subsets))) - set(singles))
        kept = {*singles[:most], *rest[len(rest) - max(most - len(singles), 0) :]}
        return [self.subsets[i] for i in sorted(kept)]

    def to_frame(self, table: str = "subsets") -> Any:
        """Return one of the report's tables.

        Parameters
        ----------
        table : {"subsets", "messages", "seconds", "rows"}, default="subsets"
            Which one. The table of subsets has, for each subset of parties: the labelled rows
            that the evidence rests on, the held-out score of the federated model and of the
            active party alone on the same rows, the relative reduction of squared error with
            its 95 % interval, the weights of the linear model, of the networks and of what
            serves single parties, and how far the guard trusts the joint model, from 0 to 1.

        Returns
        -------
        pandas.DataFrame
            The table.
        """
        import pandas as pd

        if table == "seconds":
            return pd.DataFrame({"seconds": self.seconds}).rename_axis("phase").reset_index()
        if table == "rows":
            return pd.DataFrame(self.rows).T.rename_axis("party").reset_index()
        if table not in ("subsets", "messages"):
            raise ValueError(f"no table {table!r}: subsets, messages, seconds or rows")
        return pd.DataFrame(getattr(self, table))

    def __str__(self) -> str:
        lines = [f"Federation of {', '.join(self.parties)} (active party: {self.parties[0]})", ""]
        for name, counts in self.rows.items():
            lines.append(
                f"  {name}: {counts['rows']:,} rows, {counts['labelled']:,} of them labelled, "
                f"{counts['shared']:,} known to {self.parties[0]}"
            )
        lines += ["", _text_table(*self._subset_table())]
        hidden = len(self.subsets) - len(self.largest_subsets(_MOST_SHOWN))
        if hidden:
            lines.append(f"  and {hidden} smaller subsets, in to_frame()")
        lines += [
            "",
            f"Border: {self.rounds} rounds, {self.n_messages} messages, {self.n_bytes:,} bytes",
        ]
        if self.messages:
            lines.append(_text_table(*self._message_table()))
        timing = ", ".join(f"{phase} {s:.2f}" for phase, s in self.seconds.items())
        lines += ["", f"Seconds: {timing}"]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        parts = [f"<h4>Federation of {html.escape(', '.join(self.parties))}</h4>"]
        parts.append(_html_table(*self._subset_table()))
        parts.append(
            f"<p>{self.rounds} rounds, {self.n_messages} messages, {self.n_bytes:,} bytes</p>"
        )
        parts.append(_html_table(*self._message_table()))
        return "".join(parts)

    def _subset_table(self) -> tuple[list[str], list[list[str]]]:
        header = [
            "known to",
            "rows",
            self.metric,
            "alone",
            "gain (95 % interval)",
            "network",
            "decision",
        ]
        shown = self.largest_subsets(_MOST_SHOWN)
        body = [
            [
                row["parties"],
                f"{row['n_rows']:,}",
                _number(row["score"]),
                _number(row["score_alone"]),
                _interval(row),
                f"{row['network_share']:.2f}",
                row["decision"],
            ]
            for row in shown
        ]
        return header, body

    def _message_table(self) -> tuple[list[str], list[list[str]]]:
        header = ["party", "direction", "kind", "protection", "messages", "bytes"]
        body = [
            [
                row["party"],
                row["direction"],
                row["kind"],
                row["protection"],
                f"{row['messages']:,}",
                f"{row['bytes']:,}",
            ]
            for row in self.messages
        ]
        return header, body


def _subset_record(parties: list[str], served: Served) -> dict[str, Any]:
    evidence = served.evidence
    gain = evidence.gain
    return {
        "parties": " + ".join(parties[p] for p in served.parties),
        "members": tuple(parties[p] for p in served.parties),
        "n_rows": evidence.n_rows,
        "score": evidence.score,
        "score_alone": evidence.score_alone,
        "gain": np.nan if gain is None else gain.mean,
        "gain_low": np.nan if gain is None else gain.low,
        "gain_high": np.nan if gain is None else gain.high,
        "linear_share": served.linear_share,
        "network_share": served.network_weight,
        "single_shares": {parties[p]: share for p, share in served.single_shares.items()},
        "trust": served.trust,
        "decision": _decision(parties, served),
    }


def _decision(parties: list[str], served: Served) -> str:
    """Say in words what the guard decided and why."""
    if served.parties == (ACTIVE,):
        return "served by the active party's own model"
    if not served.evidence.n_rows:
        return "no labelled row is known to all of these; the candidates are averaged"
    if len(served.parties) == 1:
        return f"served by the columns of {parties[served.parties[0]]}"
    if ACTIVE not in served.parties:
        return "joint model: the active party knows nothing of these rows to guard it by"
    if served.trust >= 0.995:
        return "joint model: its held-out gain is beyond doubt"
    if served.trust <= 0.0:
        return "kept to the active party's own model: held-out rows show no gain"
    return (
        f"joint model damped to {served.trust:.2f}: its gain is within the noise of held-out rows"
    )


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def _interval(row: dict[str, Any]) -> str:
    if np.isnan(row["gain"]):
        return ""
    return f"{row['gain']:+.1%} ({row['gain_low']:+.1%}, {row['gain_high']:+.1%})"


def _text_table(header: list[str], body: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *body]) for i in range(len(header))]
    rows = [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in [header, *body]
    ]
    return "\n".join(rows)


def _html_table(header: list[str], body: list[list[str]]) -> str:
    def cells(row: list[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)

    rows = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in body)
    return f"<table><tr>{cells(header, 'th')}</tr>{rows}</table>"
