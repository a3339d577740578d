"""What protected forms of the moments have in common: restraint, so that sums tell of no row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedtl.exceptions import PartyError


class ProtectedExchange:
    """What protected exchanges share: restraint in what they ask for."""

    def most_targets(self, n_rows: int) -> int:
        """Return how many targets may be asked for, so that sums do not give rows away.

        Products of `n_rows` rows with as many targets are `n_rows` equations for each column. Half
        of them leave the rows open.

        Parameters
        ----------
        n_rows : int
            Rows of the smallest sum.

        Returns
        -------
        int
            Half of them, the constant target and one for its own sum being taken off.
        """
        return max(n_rows // 2 - 2, 0)


def more_rows_than_targets(party: str, summed: Mapping[int, int], n_targets: int) -> None:
    """Refuse protected sums from which every row could be computed.

    Parameters
    ----------
    party : str
        Who is asked.
    summed : mapping of int to int
        Different rows in each fold.
    n_targets : int
        Targets, whose products with the party's columns are told.

    Raises
    ------
    PartyError
        If a fold has not more rows than there are targets, the constant one included.
    """
    for n_rows in summed.values():
        if n_rows <= n_targets + 1:
            raise PartyError(
                party,
                f"products of {n_targets} targets over {n_rows} rows would give every row away; "
                "share more rows or use fewer folds",
            )


def equal_weight(party: str, weight: np.ndarray) -> float:
    """Return the one weight that all rows have.

    Parameters
    ----------
    party : str
        Who would have to be told the weights.
    weight : ndarray of shape (n_rows,), dtype float64
        Weights.

    Returns
    -------
    float
        The weight; 1 for no rows.

    Raises
    ------
    ValueError
        If weights differ.
    """
    if len(weight) and np.ptp(weight) > 1e-12 * weight.max():
        raise ValueError(
            f"under protection all rows must weigh the same: party {party!r} would be told their "
            "weights, which often follow the labels; leave sample_weight out or use zeros and ones"
        )
    return float(weight[0]) if len(weight) else 1.0
