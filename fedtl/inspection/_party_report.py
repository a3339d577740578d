"""What each party gains by a row-wise federation, by its own held-out rows."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtl.inspection._report import _html_table, _text_table


@dataclass(frozen=True, eq=False)
class PartyReport:
    """Held-out losses of each party's models, and which of them serves it.

    Parameters
    ----------
    loss : str
        Name of the loss, the smaller the better.
    parties : list of dict
        One record for each party: ``party``, ``rows``; the mean loss of the ``federated`` model, of
        the party's own model ``tuned`` around it and of its ``local`` one; ``gain``, the local loss
        less that of what is served, with its standard error ``gain_se``; and what is ``served``.
        NaN where there is no evidence.

    Examples
    --------
    >>> from fedtl.inspection import PartyReport
    >>> row = {"party": "va", "rows": 140, "federated": 0.52, "tuned": 0.5, "local": 0.55}
    >>> PartyReport("log_loss", [row | {"gain": 0.05, "gain_se": 0.02, "served": "tuned"}])
    party  rows  federated  tuned   local   gain (s.e.)        served
    va     140   0.5200     0.5000  0.5500  +0.0500 (0.0200)   tuned
    """

    loss: str
    parties: list[dict[str, Any]]

    def to_frame(self) -> Any:
        """Return the table.

        Returns
        -------
        pandas.DataFrame
            One row for each party.
        """
        import pandas as pd

        return pd.DataFrame(self.parties)

    def __str__(self) -> str:
        return "\n".join(line[2:] for line in _text_table(*self._table()).splitlines())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<p>held-out {html.escape(self.loss)}</p>" + _html_table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = ["party", "rows", "federated", "tuned", "local", "gain (s.e.)", "served"]
        body = []
        for row in self.parties:
            losses = [_number(row[name]) for name in header[2:5]]
            gain = "" if np.isnan(row["gain"]) else f"{row['gain']:+.4f} ({row['gain_se']:.4f})"
            body.append([row["party"], f"{row['rows']:,}", *losses, gain, row["served"]])
        return header, body


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"
