"""A party's rows, found by id."""

from __future__ import annotations

from typing import Any

import numpy as np


class Table:
    """A block of rows; row ``i`` has the id ``i``.

    Parameters
    ----------
    block : ndarray or dataframe of shape (n_rows, n_columns)
        The rows.
    """

    def __init__(self, block: Any) -> None:
        self.block = block

    def __len__(self) -> int:
        return len(self.block)

    def select(self, ids: np.ndarray) -> tuple[Any, np.ndarray]:
        """Find rows.

        Parameters
        ----------
        ids : ndarray of shape (n_ids,), dtype int64
            What is looked for.

        Returns
        -------
        block : ndarray or dataframe of shape (n_found, n_columns)
            The rows that were found, in the order of the ids.
        found : ndarray of shape (n_ids,), dtype bool
            Which ids were found.
        """
        found = (ids >= 0) & (ids < len(self.block))
        if found.all() and len(ids) == len(self.block) and (np.diff(ids) == 1).all():
            return self.block, found
        return take_rows(self.block, ids[found]), found


def take_rows(block: Any, rows: np.ndarray) -> Any:
    """Take rows of an array or frame by position."""
    return block.iloc[rows] if hasattr(block, "iloc") else block[rows]
