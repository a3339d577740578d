"""What every data set of this package looks like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sklearn.utils import Bunch


def as_bunch(
    data: Any,
    target: Any,
    parties: Mapping[str, Iterable[Any]],
    *,
    task: str,
    descr: str,
    **extra: Any,
) -> Bunch:
    """Put a table, its target and its parties together, columns in the order of the parties."""
    blocks = {name: list(columns) for name, columns in parties.items()}
    ordered = [column for columns in blocks.values() for column in columns]
    return Bunch(data=data[ordered], target=target, parties=blocks, task=task, DESCR=descr, **extra)


def require_pandas(caller: str) -> Any:
    """Return the pandas module, or say who needs it and how to get it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            f"{caller} returns a pandas DataFrame, and pandas is not installed.\n"
            "Install it with `pip install pandas`."
        ) from error
    return pandas
