"""Declared operations on columns: what a federated transformer does to rows, wherever they live.

A transformer applies its step to the rows that it is given; a party on another machine is told the
step as its kind and numbers, and applies it to rows of its own. Both do it by the code of this
module, so that both come to the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

MOST_STEPS = 16
_MOST_GROWTH = 2  # indicators at most double the columns; after one step none is missing


class Step(ABC):
    """One operation on all columns; steps with the same numbers are equal."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def n_in(self) -> int:
        """How many columns it takes."""

    @property
    @abstractmethod
    def n_out(self) -> int:
        """How many columns it makes."""

    @property
    @abstractmethod
    def numbers(self) -> np.ndarray:
        """All that it knows, one after the other: (n_numbers,), float64."""

    @abstractmethod
    def apply(self, columns: np.ndarray) -> np.ndarray:
        """Return what it makes of rows: (n_rows, n_out), float64."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, int, bytes]:
        return self.kind, self.n_out, self.numbers.tobytes()


@dataclass(frozen=True, eq=False)
class Standardise(Step):
    """Subtract and divide; missing values stay missing.

    Parameters
    ----------
    shift : ndarray of shape (n_in,), dtype float64
        What is subtracted. NaN makes the whole column missing: nobody records it.
    scale : ndarray of shape (n_in,), dtype float64
        What columns are divided by.
    """

    shift: np.ndarray
    scale: np.ndarray
    kind: ClassVar[str] = "standardise"

    @property
    def n_in(self) -> int:
        """How many columns it takes."""
        return len(self.shift)

    @property
    def n_out(self) -> int:
        """How many columns it makes: as many."""
        return len(self.shift)

    @property
    def numbers(self) -> np.ndarray:
        """Shift, then scale."""
        return np.concatenate([self.shift, self.scale])

    def apply(self, columns: np.ndarray) -> np.ndarray:
        """Return standardised rows: (n_rows, n_out), float64."""
        return np.asarray((columns - self.shift) / self.scale)


@dataclass(frozen=True, eq=False)
class Fill(Step):
    """Fill missing values, and say in further columns where they were.

    Parameters
    ----------
    values : ndarray of shape (n_in,), dtype float64
        What stands in the place of a missing value.
    indicated : ndarray of shape (n_in,), dtype bool
        The columns for which a further one is 1 where the value is missing, and 0 elsewhere.
    """

    values: np.ndarray
    indicated: np.ndarray
    kind: ClassVar[str] = "fill"

    @property
    def n_in(self) -> int:
        """How many columns it takes."""
        return len(self.values)

    @property
    def n_out(self) -> int:
        """How many columns it makes: those that it takes, and the indicators."""
        return len(self.values) + int(self.indicated.sum())

    @property
    def numbers(self) -> np.ndarray:
        """Values, then 1 for each column that is indicated and 0 for the others."""
        return np.concatenate([self.values, self.indicated.astype(np.float64)])

    def apply(self, columns: np.ndarray) -> np.ndarray:
        """Return rows without missing values: (n_rows, n_out), float64."""
        missing = np.isnan(columns)
        filled = np.where(missing, self.values, columns)
        if not self.indicated.any():
            return filled
        return np.hstack([filled, missing[:, self.indicated].astype(np.float64)])


@dataclass(frozen=True, eq=False)
class Project(Step):
    """Coordinates along components.

    Parameters
    ----------
    mean : ndarray of shape (n_in,), dtype float64
        What is subtracted before.
    components : ndarray of shape (n_out, n_in), dtype float64
        The components.
    scale : ndarray of shape (n_out,), dtype float64
        What coordinates are divided by.
    """

    mean: np.ndarray
    components: np.ndarray
    scale: np.ndarray
    kind: ClassVar[str] = "project"

    @property
    def n_in(self) -> int:
        """How many columns it takes."""
        return len(self.mean)

    @property
    def n_out(self) -> int:
        """How many columns it makes: one for each component."""
        return len(self.components)

    @property
    def numbers(self) -> np.ndarray:
        """Mean, components one after the other, scale."""
        return np.concatenate([self.mean, self.components.ravel(), self.scale])

    def apply(self, columns: np.ndarray) -> np.ndarray:
        """Return coordinates: (n_rows, n_out), float64."""
        return np.asarray((columns - self.mean) @ self.components.T / self.scale)


def apply_steps(steps: Sequence[Step], columns: np.ndarray) -> np.ndarray:
    """Apply steps one after the other.

    Parameters
    ----------
    steps : sequence of Step
        The steps; with none, columns stay as they are.
    columns : ndarray of shape (n_rows, n_columns), dtype float64
        Rows; NaN for a missing value.

    Returns
    -------
    ndarray of shape (n_rows, n_out), dtype float64
        What the last step makes.
    """
    for step in steps:
        columns = step.apply(columns)
    return columns


def write_steps(steps: Sequence[Step]) -> tuple[list[Any], np.ndarray]:
    """Return steps as names and numbers.

    Parameters
    ----------
    steps : sequence of Step
        The steps.

    Returns
    -------
    kinds : list of [str, int]
        For each step its kind and how many columns it makes.
    numbers : ndarray of shape (n_numbers,), dtype float64
        The numbers of all steps, one step after the other.
    """
    kinds = [[step.kind, step.n_out] for step in steps]
    return kinds, np.concatenate([np.empty(0), *(step.numbers for step in steps)])


def read_steps(kinds: Any, numbers: np.ndarray, n_columns: int) -> tuple[Step, ...]:
    """Read steps that somebody else wrote; nothing is believed of them.

    Parameters
    ----------
    kinds : object
        As :func:`write_steps` returns them, or anything else.
    numbers : ndarray of shape (n_numbers,), dtype float64
        The numbers.
    n_columns : int
        How many columns the first step is to take.

    Returns
    -------
    tuple of Step
        The steps, each taking what the one before makes.

    Raises
    ------
    ValueError
        If they are no steps on so many columns, are too many, or make too many columns.
    """
    if not isinstance(kinds, list) or len(kinds) > MOST_STEPS:
        raise ValueError(f"steps must be a list of at most {MOST_STEPS}")
    steps: list[Step] = []
    n_in, rest = n_columns, numbers
    for entry in kinds:
        kind, n_out = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if not isinstance(kind, str) or kind not in _SIZES or type(n_out) is not int:
            raise ValueError("a step is of no known kind")
        if not 0 < n_out <= _MOST_GROWTH * n_columns:
            raise ValueError(f"a step makes {n_out} columns of {n_columns}")
        if kind == Project.kind and n_out > n_in:
            raise ValueError(f"there are not {n_out} components of {n_in} columns")
        size = _SIZES[kind](n_in, n_out)
        if size > len(rest):
            raise ValueError("a step has too few numbers")
        step = _READ[kind](rest[:size], n_in, n_out)
        if step.n_out != n_out:
            raise ValueError(f"a step is said to make {n_out} columns and makes {step.n_out}")
        steps.append(step)
        n_in, rest = n_out, rest[size:]
    if len(rest):
        raise ValueError(f"{len(rest)} numbers belong to no step")
    return tuple(steps)


def _standardise(numbers: np.ndarray, n_in: int, n_out: int) -> Step:
    shift, scale = numbers[:n_in], numbers[n_in:]
    if np.isinf(shift).any() or not _positive(scale):
        raise ValueError("numbers to standardise by must be finite, and scales positive")
    return Standardise(shift, scale)


def _fill(numbers: np.ndarray, n_in: int, n_out: int) -> Step:
    values, indicated = numbers[:n_in], numbers[n_in:]
    if not np.isfinite(values).all() or not np.isin(indicated, (0.0, 1.0)).all():
        raise ValueError("numbers to fill with must be finite, and columns indicated or not")
    return Fill(values, indicated == 1.0)


def _project(numbers: np.ndarray, n_in: int, n_out: int) -> Step:
    mean, components, scale = np.split(numbers, [n_in, n_in + n_out * n_in])
    if not np.isfinite(numbers).all() or not _positive(scale):
        raise ValueError("numbers to project by must be finite, and scales positive")
    return Project(mean, components.reshape(n_out, n_in), scale)


def _positive(scale: np.ndarray) -> bool:
    return bool((np.isfinite(scale) & (scale > 0.0)).all())


_SIZES = {
    Standardise.kind: lambda n_in, n_out: 2 * n_in,
    Fill.kind: lambda n_in, n_out: 2 * n_in,
    Project.kind: lambda n_in, n_out: n_in + n_out * n_in + n_out,
}
_READ = {Standardise.kind: _standardise, Fill.kind: _fill, Project.kind: _project}
