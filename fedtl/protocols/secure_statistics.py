"""Secure statistics: sums over all parties' rows, of which the coordinator sees no party's own.

The same sums as in `statistics`, taken around a point that all parties are told instead of around
each one's own mean, so that they add up; each is one sum of :mod:`fedtl.protocols.secure_sums`, and
the third of its exchanges is here.

Who learns what:

- ``secure_statistics.columns/1``, ``secure_statistics.products/1`` and
  ``secure_statistics.newton/1`` tell the party what their namesakes in `statistics` do; the points
  are zero, or means of all parties' columns.
- What it masks are its sums, as integers in three limbs. The coordinator learns their total over
  all parties: of columns, numbers of rows and values, weights, sums and squares; of products, those
  of all pairs of columns; of a model under way, loss and derivatives.

Numbers are added as integers, exactly: what comes out is that of `statistics` to rounding.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.learning.pooled import Derivatives, Moments, Products, symmetric
from fedtl.parties import PartyService
from fedtl.privacy.fixed_point import limbs
from fedtl.protocols.secure_sums import SEALED_BYTES, Masked, guarded, masked
from fedtl.protocols.statistics import (
    Columns,
    Newton,
    ProductsRequest,
    answer_columns,
    answer_newton,
    answer_products,
)
from fedtl.wire import Message, Tensor, message


@message("secure_statistics.columns/1")
class SecureColumns(Message):
    """Ask for sums of single columns around `center`, by class if `n_classes` is not zero."""

    fit: str
    index: int
    n_classes: int
    center: Annotated[np.ndarray, Tensor("float64", ("groups", "columns"))]
    sealed: Annotated[np.ndarray, Tensor("uint8", ("members", SEALED_BYTES))]


@message("secure_statistics.products/1")
class SecureProducts(Message):
    """Ask for sums of columns around `center`, and of products of all pairs if wanted."""

    fit: str
    index: int
    fold: int
    targets: bool
    pairs: bool
    center: Annotated[np.ndarray, Tensor("float64", ("columns",))]
    sealed: Annotated[np.ndarray, Tensor("uint8", ("members", SEALED_BYTES))]


@message("secure_statistics.newton/1")
class SecureNewton(Message):
    """Ask for the derivatives of a logistic model; see ``statistics.newton/1``."""

    fit: str
    index: int
    fold: int
    intercept: bool
    center: Annotated[np.ndarray, Tensor("float64", ("columns",))]
    class_weight: Annotated[np.ndarray, Tensor("float64", ("classes",))]
    coefficients: Annotated[np.ndarray, Tensor("float64", ("outputs", "width"))]
    sealed: Annotated[np.ndarray, Tensor("uint8", ("members", SEALED_BYTES))]


@guarded
def answer_secure_columns(party: PartyService, request: SecureColumns) -> Masked:
    """Mask the sums of the party's columns."""

    def sums() -> np.ndarray:
        told = answer_columns(party, Columns(fit=request.fit, n_classes=request.n_classes))
        _expect(party, told.mean.shape, request.center.shape)
        away = np.where(told.weight > 0, told.mean - request.center, 0.0)
        parts = (
            told.rows,
            told.count,
            told.weight,
            told.weight * away,
            told.squares + told.weight * away**2,
        )
        return limbs(np.concatenate([part.ravel().astype(np.float64) for part in parts]))

    return masked(party, request, sums)


@guarded
def answer_secure_products(party: PartyService, request: SecureProducts) -> Masked:
    """Mask the sums of the party's columns and of their products."""

    def sums() -> np.ndarray:
        plain = ProductsRequest(fit=request.fit, fold=request.fold, targets=request.targets)
        told = answer_products(party, plain)
        _expect(party, told.mean.shape, request.center.shape)
        away = told.mean - request.center
        parts = [np.array([told.count, told.weight]), told.weight * away]
        if request.pairs:
            upper = np.triu_indices(len(away))
            parts.append(told.products + told.weight * np.outer(away, away)[upper])
        return limbs(np.concatenate(parts))

    return masked(party, request, sums)


@guarded
def answer_secure_newton(party: PartyService, request: SecureNewton) -> Masked:
    """Mask the derivatives of the loss on the party's rows."""

    def sums() -> np.ndarray:
        plain = Newton(
            fit=request.fit,
            fold=request.fold,
            intercept=request.intercept,
            center=request.center,
            class_weight=request.class_weight,
            coefficients=request.coefficients,
        )
        told = answer_newton(party, plain)
        return limbs(np.concatenate([[told.loss], told.gradient, told.hessian]))

    return masked(party, request, sums)


def read_columns(summed: np.ndarray, center: np.ndarray) -> Moments:
    """Return moments of all parties' columns.

    Parameters
    ----------
    summed : ndarray of shape (n_values,), dtype float64
        The sums that parties were asked for.
    center : ndarray of shape (n_groups, n_columns), dtype float64
        Around what they are.

    Returns
    -------
    Moments
        Of the pooled rows.
    """
    n_groups, size = len(center), center.size
    rows, *parts = np.split(summed, n_groups + size * np.arange(4))
    count, weight, first, second = (part.reshape(center.shape) for part in parts)
    away = np.divide(first, weight, out=np.zeros_like(first), where=weight > 0)
    return Moments(
        np.rint(rows).astype(np.int64),
        np.rint(count).astype(np.int64),
        weight,
        np.where(weight > 0, center + away, 0.0),
        np.maximum(second - first * away, 0.0),
    )


def read_products(summed: np.ndarray, center: np.ndarray) -> Products:
    """Return products of all parties' columns; all zero if pairs were not asked for.

    Parameters
    ----------
    summed : ndarray of shape (n_values,), dtype float64
        The sums that parties were asked for.
    center : ndarray of shape (n_columns,), dtype float64
        Around what they are.

    Returns
    -------
    Products
        Of the pooled rows.
    """
    (count, weight), first, pairs = np.split(summed, [2, 2 + len(center)])
    products = np.zeros((len(center), len(center)))
    if len(pairs):
        products = symmetric(pairs, len(center)) - np.outer(first, first) / weight
    return Products(round(count), float(weight), center + first / weight, products)


def read_derivatives(summed: np.ndarray, size: int) -> Derivatives:
    """Return loss and derivatives on all parties' rows, for a model of `size` coefficients."""
    (loss,), gradient, hessian = np.split(summed, [1, 1 + size])
    return Derivatives(float(loss), gradient, symmetric(hessian, size))


def _expect(party: PartyService, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise PartyError(
            party.name, f"its sums have the shape {found}, and a center of {expected} was sent"
        )
