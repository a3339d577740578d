"""The coordinator's side of exact models: sums over all rows, seen by party or as totals only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.learning.pooled import Derivatives, Moments, Products
from fedtl.privacy import CryptoError
from fedtl.privacy.fixed_point import read_limbs
from fedtl.protocols.secure_statistics import (
    SecureColumns,
    SecureNewton,
    SecureProducts,
    read_columns,
    read_derivatives,
    read_products,
)
from fedtl.protocols.secure_sums import group_of
from fedtl.protocols.statistics import ask_columns, ask_derivatives, ask_products
from fedtl.solvers.secure_sums import Exchange, TooFew
from fedtl.wire import Message


@dataclass(frozen=True, eq=False)
class LogisticModel:
    """A logistic model under way; see :func:`fedtl.learning.pooled.logistic_derivatives`.

    Parameters
    ----------
    coefficients : ndarray of shape (n_outputs, intercept + n_columns), dtype float64
        The model.
    intercept : bool
        Whether its first column are intercepts.
    center : ndarray of shape (n_columns,), dtype float64
        What is subtracted from the columns.
    class_weight : ndarray of shape (n_classes,), dtype float64
        Weights of classes.
    """

    coefficients: np.ndarray
    intercept: bool
    center: np.ndarray
    class_weight: np.ndarray


class Statistics(Protocol):
    """What exact models ask of all parties."""

    def columns(self, n_columns: int, n_classes: int = 0) -> list[Moments]:
        """Return moments of single columns, by class if wanted, in parts to be merged."""
        ...

    def products(self, n_columns: int, *, targets: bool, fold: int = -1) -> list[Products]:
        """Return products of all pairs of columns, in parts to be merged."""
        ...

    def derivatives(self, model: LogisticModel, fold: int = -1) -> Derivatives:
        """Return the derivatives of a model's loss on all rows."""
        ...


@dataclass(frozen=True)
class OpenStatistics:
    """Each party's sums are seen.

    Parameters
    ----------
    channels : mapping of str to Channel
        The parties.
    fit : str
        Name of the fit.
    """

    channels: Mapping[str, Channel]
    fit: str

    def columns(self, n_columns: int, n_classes: int = 0) -> list[Moments]:
        """Return moments of single columns by party."""
        return list(ask_columns(self.channels, self.fit, n_columns, n_classes).values())

    def products(self, n_columns: int, *, targets: bool, fold: int = -1) -> list[Products]:
        """Return products of all pairs of columns by party."""
        found = ask_products(self.channels, self.fit, n_columns, targets=targets, fold=fold)
        return list(found.values())

    def derivatives(self, model: LogisticModel, fold: int = -1) -> Derivatives:
        """Return the derivatives of a model's loss on all rows."""
        return ask_derivatives(
            self.channels,
            self.fit,
            model.coefficients,
            intercept=model.intercept,
            center=model.center,
            class_weight=model.class_weight,
            fold=fold,
        )


@dataclass(eq=False)
class SecureStatistics:
    """Only totals over all parties are seen.

    Sums are asked for twice, around zero and then around the means that this gave: around zero
    alone, columns far from it would lose their digits.

    Parameters
    ----------
    channels : mapping of str to Channel
        The parties, three or more.
    fit : str
        Name of the fit.
    """

    channels: Mapping[str, Channel]
    fit: str
    _n_sums: int = field(default=0, init=False)

    def columns(self, n_columns: int, n_classes: int = 0) -> list[Moments]:
        """Return moments of single columns of all rows, in one part."""
        shape = (max(n_classes, 1), n_columns)

        def around(center: np.ndarray) -> Moments:
            def request(index: int, sealed: np.ndarray) -> SecureColumns:
                return SecureColumns(
                    fit=self.fit, index=index, n_classes=n_classes, center=center, sealed=sealed
                )

            return read_columns(self._sum(request, shape[0] + 4 * center.size), center)

        return [around(around(np.zeros(shape)).mean)]

    def products(self, n_columns: int, *, targets: bool, fold: int = -1) -> list[Products]:
        """Return products of all pairs of columns of all rows, in one part."""

        def around(center: np.ndarray, pairs: bool) -> Products:
            def request(index: int, sealed: np.ndarray) -> SecureProducts:
                return SecureProducts(
                    fit=self.fit,
                    index=index,
                    fold=fold,
                    targets=targets,
                    pairs=pairs,
                    center=center,
                    sealed=sealed,
                )

            triangle = n_columns * (n_columns + 1) // 2
            length = 2 + n_columns + (triangle if pairs else 0)
            return read_products(self._sum(request, length), center)

        return [around(around(np.zeros(n_columns), False).mean, True)]

    def derivatives(self, model: LogisticModel, fold: int = -1) -> Derivatives:
        """Return the derivatives of a model's loss on all rows."""

        def request(index: int, sealed: np.ndarray) -> SecureNewton:
            return SecureNewton(
                fit=self.fit,
                index=index,
                fold=fold,
                intercept=model.intercept,
                center=model.center,
                class_weight=model.class_weight,
                coefficients=model.coefficients,
                sealed=sealed,
            )

        size = model.coefficients.size
        summed = self._sum(request, 1 + size + size * (size + 1) // 2)
        return read_derivatives(summed, size)

    def _sum(self, request: Callable[[int, np.ndarray], Message], length: int) -> np.ndarray:
        """Return one total over all parties; none of them may be missing."""
        index, self._n_sums = self._n_sums, self._n_sums + 1
        names = list(self.channels)
        group = group_of(self.fit, index, names, len(names))
        exchange = Exchange(self.fit, index, group, self.channels)
        try:
            summed = exchange.run(lambda sealed: request(index, sealed), 3 * length)
        except TooFew:
            raise exchange.errors[0] from None
        except CryptoError as error:
            raise PartyError("the coordinator", f"secure aggregation: {error}") from error
        return read_limbs(summed)
