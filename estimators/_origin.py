"""How columns came about, so that parties on other machines can make them of what they record.

A federated transformer whose parties are remote puts out a pandas frame that carries its origin:
the columns that parties record, and the steps that made the frame's columns of them. What is fitted
on the frame tells both to the parties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtl.learning.steps import Step

_KEY = "fedtl"


@dataclass(frozen=True, eq=False)
class Origin:
    """Columns that every party records, and what is done to them.

    Parameters
    ----------
    columns : tuple of str
        The columns by name, in this order.
    steps : tuple of Step, default=()
        What is done to them, one after the other.
    """

    columns: tuple[str, ...]
    steps: tuple[Step, ...] = ()


class _Mark(str):
    """What ``DataFrame.attrs`` holds of a frame that steps made.

    pandas keeps attrs where it changes the frame as well, so that the mark knows the names and, by
    one number each, the rows that the steps made: what was done to the frame since is noticed. A
    selection of rows is no change. It is a text because pandas writes attrs to files as JSON: what
    the steps know stays out of them, and the frame that is read is one without an origin.
    """

    origin: Origin
    names: list[str]
    rows: np.ndarray

    def __deepcopy__(self, memo: Any) -> _Mark:
        return self  # pandas copies attrs with every frame that it makes of this one


def origin_of(X: Any, columns: Sequence[str]) -> Origin:
    """Return where columns come from.

    Parameters
    ----------
    X : array-like or dataframe of shape (n_rows, n_columns)
        The rows, without the column of the party.
    columns : sequence of str
        Names of its columns.

    Returns
    -------
    Origin
        By the steps that X carries, or else the columns themselves.

    Raises
    ------
    ValueError
        If steps made X and something else changed it.
    """
    mark = getattr(X, "attrs", {}).get(_KEY)
    if not isinstance(mark, _Mark):
        return Origin(tuple(columns))
    what = _changed(mark, X)
    if what:
        raise ValueError(
            f"X has other {what} than the federated transformers made that it went through. "
            "Remote parties do what these did with their own rows, and cannot do what was done "
            "since: leave out what stands in between, and select columns before the first of them"
        )
    return mark.origin


def with_origin(
    X: Any, columns: Sequence[str], step: Step, made: np.ndarray, names: Sequence[str]
) -> Any:
    """Return what a step made of X as a frame that says so.

    Parameters
    ----------
    X : array-like or dataframe of shape (n_rows, n_columns)
        The rows, without the column of the party.
    columns : sequence of str
        Names of its columns.
    step : Step
        What was done to them.
    made : ndarray of shape (n_rows, n_out), dtype float64
        What came out.
    names : sequence of str
        Names of what came out.

    Returns
    -------
    pandas.DataFrame or ndarray of shape (n_rows, n_out)
        `made` itself where nobody knows what X was made of.
    """
    import pandas as pd

    try:
        before = origin_of(X, columns)
    except ValueError:
        return made
    mark = _Mark(f"{len(before.steps) + 1} federated steps")
    mark.origin = Origin(before.columns, (*before.steps, step))
    mark.names, mark.rows = list(names), _numbers_of_rows(made)
    index = X.index if isinstance(X, pd.DataFrame) else None
    frame = pd.DataFrame(made, index=index, columns=mark.names, copy=False)
    frame.attrs[_KEY] = mark
    return frame


def _changed(mark: _Mark, frame: Any) -> str:
    """Return what of a frame is not as the steps left it, or an empty text."""
    if list(frame.columns) != mark.names:
        return "columns"
    try:
        values = np.asarray(frame, dtype=np.float64)
    except (TypeError, ValueError):
        return "values"
    return "" if np.isin(_numbers_of_rows(values), mark.rows).all() else "values"


def _numbers_of_rows(values: np.ndarray) -> np.ndarray:
    """Return a number for each row that another row hardly ever has: (n_rows,), uint64."""
    from pandas.util import hash_array

    hashed = hash_array(np.ascontiguousarray(values).ravel()).reshape(values.shape)
    places = np.random.default_rng(0).integers(2**63, size=values.shape[1], dtype=np.uint64)
    return np.asarray((hashed * (2 * places + 1)).sum(axis=1, dtype=np.uint64))
