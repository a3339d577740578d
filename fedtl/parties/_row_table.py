"""A party's own rows with a target, for training with parties that record the same columns."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.learning.steps import Fill, Step, apply_steps
from fedtl.learning.targets import is_missing
from fedtl.parties._canonical import FrameBuilder
from fedtl.parties._policy import Policy
from fedtl.parties._rows import Rows
from fedtl.parties._sources import batches

Label = str | int | float
_MOST_CLASSES = 1000
_KEPT = 4  # a pipeline of several steps reads its rows in as many ways


@dataclass(frozen=True)
class Reading:
    """How a table is read for one fit.

    Parameters
    ----------
    columns : tuple of str
        The features by name, in this order.
    target : {"none", "numbers", "classes"}
        What the target is read as.
    classes : tuple of (str, int or float)
        All parties' classes, in order.
    allow_missing : bool
        Whether values, and whole columns, may be missing.
    steps : tuple of Step, default=()
        What is done to the columns, one step after the other.
    min_values : int, default=1
        Where missing values are filled, a column with fewer values than this is taken for one that
        is not recorded.
    """

    columns: tuple[str, ...]
    target: str
    classes: tuple[Label, ...]
    allow_missing: bool
    steps: tuple[Step, ...] = ()
    min_values: int = 1

    @property
    def fills(self) -> bool:
        """Whether one of the steps fills missing values."""
        return any(isinstance(step, Fill) for step in self.steps)


class RowTable:
    """A party's own rows, with their target, for training with others who record the same.

    The other parties have rows of their own, in columns of the same names and meaning. No row is
    named by anyone: a fit is about all rows of the table.

    Parameters
    ----------
    party : str
        Name of the party, for errors.
    source : dataframe, str or path
        As of :class:`KeyedTable`.
    target : str, optional
        Column of the target; none for models that need none.
    query : str, optional
        What is read from a database or a DuckDB file: a SELECT statement.
    columns : sequence of str, optional
        Columns besides the target that others may train on; by default all of them.
    policy : Policy, optional
        Its ``max_table_rows`` and ``max_table_bytes`` bound what is read.

    Attributes
    ----------
    block : pandas.DataFrame of shape (n_rows, n_columns)
        The features.
    target : str or None
        Name of the target.

    Raises
    ------
    PartyError
        If the source cannot be read, or a column cannot be used.
    PolicyRefusal
        If the table is larger than the policy allows.

    Examples
    --------
    >>> import pandas as pd
    >>> from fedtl.parties import RowTable
    >>> frame = pd.DataFrame({"age": [40.0, 61.0], "dose": [1, 2], "ill": ["no", "yes"]})
    >>> table = RowTable("basel", frame, target="ill")
    >>> table.labels()
    ['no', 'yes']
    """

    def __init__(
        self,
        party: str,
        source: Any,
        *,
        target: str | None = None,
        query: str | None = None,
        columns: Sequence[str] | None = None,
        policy: Policy | None = None,
    ) -> None:
        wanted = None if columns is None else [*columns, *([target] if target else [])]
        builder = FrameBuilder(party, None, wanted, "exact", policy or Policy())
        reading = batches(
            party, source, key=None, query=query, columns=wanted, policy=builder.policy
        )
        with closing(reading):
            for batch in reading:
                builder.add(batch)
        frame = builder.frame()
        if target is not None and target not in frame:
            raise PartyError(
                party, f"its table has no target {target!r}; it has {', '.join(frame)}"
            )
        self.party, self.target = party, target
        self._y = None if target is None else frame.pop(target).to_numpy()
        self.block = frame
        self._forms: OrderedDict[Reading, Rows] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.block)

    def labels(self) -> list[Label]:
        """Return the classes of the target, whole numbers as int.

        Returns
        -------
        list of (str, int or float)
            In order.

        Raises
        ------
        PartyError
            If there is no target, a row has none, or it is of too many values to be classes.
        """
        y = self._targets()
        if y.dtype.kind not in "fO":
            raise PartyError(self.party, f"its target {self.target!r} is a date, and no class")
        found = np.unique(y)
        if len(found) > _MOST_CLASSES:
            raise PartyError(
                self.party,
                f"its target {self.target!r} has {len(found)} different values, more than the "
                f"{_MOST_CLASSES} that are taken for classes; use a regressor",
            )
        return [as_label(value) for value in found.tolist()]

    def rows(self, reading: Reading) -> Rows:
        """Return all rows, as they are read for a fit.

        Parameters
        ----------
        reading : Reading
            Which columns in which order, and what the target is.

        Returns
        -------
        Rows
            Features of float64; classes by their position among all classes. The last few
            ways of reading are kept.

        Raises
        ------
        PartyError
            Naming columns that the table lacks, that are no numbers, or lack values, and classes
            that were not agreed on.
        """
        with self._lock:
            if reading not in self._forms:
                self._forms[reading] = Rows(self._features(reading), self._coded(reading))
            self._forms.move_to_end(reading)
            while len(self._forms) > _KEPT:
                self._forms.popitem(last=False)
            return self._forms[reading]

    def _features(self, reading: Reading) -> np.ndarray:
        frame = self.block
        names = list(reading.columns)
        lacking = [name for name in names if name not in frame]
        may_lack = reading.allow_missing or reading.fills
        if lacking and (not may_lack or len(lacking) == len(names)):
            hint = ""
            if len(lacking) == len(names):
                hint = (
                    ". If a federated transformer made them, what it did is known only by its own "
                    "output as a pandas dataframe: set_output(transform='pandas') on every step "
                    "before, and no other transformer in between"
                )
            raise PartyError(
                self.party,
                f"its table lacks {len(lacking)} of the {len(names)} columns of the fit, the "
                f"first of them {lacking[0]!r}{hint}",
            )
        texts = [n for n in names if n in frame and frame[n].dtype.kind not in "fiub"]
        if texts:
            raise PartyError(
                self.party, f"its column {texts[0]!r} is no number; code it at its source"
            )
        found = np.ascontiguousarray(frame.reindex(columns=names), dtype=np.float64)
        self._check(found, names, may_lack)
        if not reading.steps:
            return found
        if reading.fills:
            few = np.isfinite(found).sum(axis=0) < reading.min_values
            found = np.where(few, np.nan, found)
        with np.errstate(over="ignore", invalid="ignore"):
            made = np.ascontiguousarray(apply_steps(reading.steps, found))
        self._check(made, [f"made {c}" for c in range(made.shape[1])], reading.allow_missing)
        return made

    def _check(self, found: np.ndarray, names: list[str], allow_missing: bool) -> None:
        for what, bad in (("infinity", np.isinf(found)), ("no value", np.isnan(found))):
            if bad.any() and not (allow_missing and what == "no value"):
                columns = [names[c] for c in np.flatnonzero(bad.any(axis=0))[:10]]
                raise PartyError(
                    self.party,
                    f"has {what} in {int(bad.any(axis=1).sum())} of {len(found)} rows, in the "
                    f"columns {columns}; fill or leave them out at its source",
                )

    def _coded(self, reading: Reading) -> np.ndarray | None:
        if reading.target == "none":
            return None
        y = self._targets()
        if reading.target == "numbers":
            if y.dtype.kind != "f" or np.isinf(y).any():
                raise PartyError(self.party, f"its target {self.target!r} is no finite number")
            return y
        own = self.labels()
        unknown = [label for label in own if label not in reading.classes]
        if unknown:
            raise PartyError(
                self.party, f"has the classes {unknown[:10]}, which were not agreed on"
            )
        position = np.array([reading.classes.index(label) for label in own], dtype=np.int64)
        return position[np.unique(y, return_inverse=True)[1]]

    def _targets(self) -> np.ndarray:
        if self._y is None:
            raise PartyError(self.party, "its table has no target; name its column as target=...")
        missing = is_missing(self._y)
        if missing.any():
            raise PartyError(
                self.party,
                f"has no target {self.target!r} in {int(missing.sum())} of {len(self)} rows; "
                "leave these rows out at its source",
            )
        return self._y


def as_label(value: Any) -> Label:
    """Return a class as text or a plain number, whole numbers as int."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return int(value)
    plain: Label = value.item() if isinstance(value, np.generic) else value
    return plain
