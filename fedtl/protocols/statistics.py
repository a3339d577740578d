"""Statistics: sums over all rows of a party, from which models of the pooled rows follow exactly.

For parties that hold rows of the same kind. Each reply adds up with those of the other parties;
single columns and products take one round, the derivatives of a model one round for each step.
Class labels never cross: classes are numbered, in an order that all parties agreed on before.

Who learns what (*the coordinator* asks, *the party* answers; parties learn nothing of each other
but what the coordinator sends them):

- ``statistics.columns/1`` tells the party which statistics are wanted, and nothing of anyone's
  rows.
- ``statistics.column_moments/1`` gives the coordinator, for each column, and for each class if it
  asked by class: how many of the party's rows have a value, and their weight, mean and sum of
  squared deviations. So it learns the party's size, its class frequencies, and which columns it
  does not record.
- ``statistics.products/1`` tells the party nothing but that they are wanted.
- ``statistics.product_sums/1`` gives the coordinator number, weight and means of the party's rows,
  and the products of all pairs of columns, targets among them, summed over its rows. *As many
  products as unknowns give rows away: with fewer rows than columns, it learns the space that they
  span.*
- ``statistics.newton/1`` tells the party a model of all parties' rows under way, the means of the
  pooled columns and the weights of the classes.
- ``statistics.derivatives/1`` gives the coordinator the loss of that model and its first and second
  derivatives, summed over the party's rows. *Each step is another view on the same rows, and
  coefficients that the coordinator makes up can single out the rows near a decision boundary.*

A request may ask to leave out one of the folds that ``personal.folds/1`` had the party deal; the
difference of two replies is then a sum over that fold.

The party's policy bounds how few rows a sum may be over (`min_rows`) and how many fits begin
(`max_fits`). A party, or a class at a party, of too few rows refuses; a column with too few values
is withheld as if it had none, so that what few rows happen to record stays at home. The policy
does not bound the steps of one fit, and nothing is masked here: each party's sums are seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.learning.pooled import (
    Derivatives,
    Moments,
    Products,
    column_moments,
    logistic_derivatives,
    product_moments,
    symmetric,
)
from fedtl.parties import PartyService, Rows
from fedtl.wire import Message, Tensor, message

FOLDS = "statistics.folds"
"""Where a party keeps the folds of its rows for a fit; see :mod:`fedtl.protocols.personal`."""


@message("statistics.columns/1")
class Columns(Message):
    """Ask for moments of single columns, by class if `n_classes` is not zero."""

    fit: str
    n_classes: int


@message("statistics.column_moments/1")
class ColumnMoments(Message):
    """See :class:`fedtl.learning.pooled.Moments`."""

    rows: Annotated[np.ndarray, Tensor("int64", ("groups",))]
    count: Annotated[np.ndarray, Tensor("int64", ("groups", "columns"))]
    weight: Annotated[np.ndarray, Tensor("float64", ("groups", "columns"))]
    mean: Annotated[np.ndarray, Tensor("float64", ("groups", "columns"))]
    squares: Annotated[np.ndarray, Tensor("float64", ("groups", "columns"))]


@message("statistics.products/1")
class ProductsRequest(Message):
    """Ask for products of all pairs of columns, with the targets as further columns if wanted."""

    fit: str
    fold: int
    targets: bool


@message("statistics.product_sums/1")
class ProductSums(Message):
    """See :class:`fedtl.learning.pooled.Products`; `products` is an upper triangle."""

    count: int
    weight: float
    mean: Annotated[np.ndarray, Tensor("float64", ("columns",))]
    products: Annotated[np.ndarray, Tensor("float64", ("triangle",))]


@message("statistics.newton/1")
class Newton(Message):
    """Ask for the derivatives of a logistic model, whose intercepts come first if it has any."""

    fit: str
    fold: int
    intercept: bool
    center: Annotated[np.ndarray, Tensor("float64", ("columns",))]
    class_weight: Annotated[np.ndarray, Tensor("float64", ("classes",))]
    coefficients: Annotated[np.ndarray, Tensor("float64", ("outputs", "width"))]


@message("statistics.derivatives/1")
class NewtonSums(Message):
    """See :class:`fedtl.learning.pooled.Derivatives`; `hessian` is an upper triangle."""

    loss: float
    gradient: Annotated[np.ndarray, Tensor("float64", ("coefficients",))]
    hessian: Annotated[np.ndarray, Tensor("float64", ("triangle",))]


def ask_columns(
    channels: Mapping[str, Channel], fit: str, n_columns: int, n_classes: int = 0
) -> dict[str, Moments]:
    """Ask all parties for the moments of their columns.

    Parameters
    ----------
    channels : mapping of str to Channel
        The parties.
    fit : str
        Name of the fit.
    n_columns : int
        How many columns the parties agreed on.
    n_classes : int, default=0
        Number of classes; 0 for the moments of all rows in one group.

    Returns
    -------
    dict of str to Moments
        Those of each party.

    Raises
    ------
    PartyError
        If a reply is not of that shape.
    """
    request, found = Columns(fit=fit, n_classes=n_classes), {}
    for name, channel in channels.items():
        reply = channel.ask(request, ColumnMoments)
        _expect(name, reply.mean.shape, (max(n_classes, 1), n_columns))
        found[name] = Moments(reply.rows, reply.count, reply.weight, reply.mean, reply.squares)
    return found


def ask_products(
    channels: Mapping[str, Channel], fit: str, n_columns: int, *, targets: bool, fold: int = -1
) -> dict[str, Products]:
    """Ask all parties for the products of their columns.

    Parameters
    ----------
    channels : mapping of str to Channel
        The parties.
    fit : str
        Name of the fit.
    n_columns : int
        How many columns the parties agreed on, those of the targets included if wanted.
    targets : bool
        Whether the targets stand among the columns, as the last ones.
    fold : int, default=-1
        Which fold of its own rows each party leaves out; -1 for none.

    Returns
    -------
    dict of str to Products
        Those of each party.

    Raises
    ------
    PartyError
        If a reply is not of that shape.
    """
    request, found = ProductsRequest(fit=fit, fold=fold, targets=targets), {}
    for name, channel in channels.items():
        reply = channel.ask(request, ProductSums)
        _expect(name, reply.mean.shape, (n_columns,))
        products = _unpack(name, reply.products, n_columns)
        found[name] = Products(reply.count, reply.weight, reply.mean, products)
    return found


def ask_derivatives(
    channels: Mapping[str, Channel],
    fit: str,
    coefficients: np.ndarray,
    *,
    intercept: bool,
    center: np.ndarray,
    class_weight: np.ndarray,
    fold: int = -1,
) -> Derivatives:
    """Ask all parties for the derivatives of a logistic model and add them up.

    Parameters
    ----------
    channels : mapping of str to Channel
        The parties.
    fit : str
        Name of the fit.
    coefficients : ndarray of shape (n_outputs, intercept + n_columns), dtype float64
        The model: see :func:`fedtl.learning.pooled.logistic_derivatives`.
    intercept : bool
        Whether its first column are intercepts.
    center : ndarray of shape (n_columns,), dtype float64
        What is subtracted from the columns.
    class_weight : ndarray of shape (n_classes,), dtype float64
        By what the weights of each class's rows are multiplied.
    fold : int, default=-1
        Which fold of its own rows each party leaves out; -1 for none.

    Returns
    -------
    Derivatives
        Those of the pooled rows.

    Raises
    ------
    PartyError
        If a reply is not of the model's shape.
    """
    request = Newton(
        fit=fit,
        fold=fold,
        intercept=intercept,
        center=center,
        class_weight=class_weight,
        coefficients=coefficients,
    )
    size = coefficients.size
    total = Derivatives(0.0, np.zeros(size), np.zeros((size, size)))
    for name, channel in channels.items():
        reply = channel.ask(request, NewtonSums)
        _expect(name, reply.gradient.shape, (size,))
        total += Derivatives(reply.loss, reply.gradient, _unpack(name, reply.hessian, size))
    return total


def answer_columns(party: PartyService, request: Columns) -> ColumnMoments:
    """Return the moments of the party's columns, of those that enough rows have a value in."""
    rows = _begin(party, request.fit)
    if request.n_classes < 0:
        raise PartyError(party.name, "the number of classes must not be negative")
    groups, n_groups = np.zeros(len(rows), dtype=np.int64), 1
    if request.n_classes:
        groups, n_groups = _codes(party, rows, request.n_classes), request.n_classes
    columns = _numbers(party, rows)
    party.policy.limits.allow(8 * n_groups * columns.shape[1])  # before it is computed
    moments = column_moments(columns, rows.weight, groups, n_groups)
    # No row at all is no sum over rows: a class that the party lacks, a column it does not record.
    for n_rows in moments.rows[moments.rows > 0]:
        party.policy.allow_aggregate(party.name, int(n_rows))
    moments = moments.withhold(moments.count < party.policy.min_rows)
    return ColumnMoments(
        rows=moments.rows,
        count=moments.count,
        weight=moments.weight,
        mean=moments.mean,
        squares=moments.squares,
    )


def answer_products(party: PartyService, request: ProductsRequest) -> ProductSums:
    """Return the products of the party's columns."""
    rows = _begin(party, request.fit, request.fold)
    columns = _complete(party, _numbers(party, rows))
    if request.targets:
        if rows.y is None:
            raise PartyError(party.name, "has no targets")
        columns = np.hstack([columns, rows.y.reshape(len(rows), -1).astype(np.float64)])
    _allow_triangle(party, columns.shape[1])
    sums = product_moments(columns, rows.weight)
    return ProductSums(
        count=sums.count, weight=sums.weight, mean=sums.mean, products=_pack(sums.products)
    )


def answer_newton(party: PartyService, request: Newton) -> NewtonSums:
    """Return the derivatives of the loss on the party's rows."""
    rows = _begin(party, request.fit, request.fold)
    columns = _complete(party, _numbers(party, rows))
    width = columns.shape[1] + request.intercept
    n_classes = len(request.class_weight)
    n_outputs = 1 if n_classes == 2 else n_classes
    if n_classes < 2 or request.coefficients.shape != (n_outputs, width):
        raise PartyError(
            party.name,
            f"a model of the shape {request.coefficients.shape} was sent for {n_classes} classes; "
            f"with this party's columns it must have the shape ({n_outputs}, {width})",
        )
    _expect(party.name, request.center.shape, columns.shape[1:])
    _allow_triangle(party, request.coefficients.size)
    codes = _codes(party, rows, n_classes)
    design = columns - request.center
    if request.intercept:
        design = np.hstack([np.ones((len(rows), 1)), design])
    weight = rows.weight * request.class_weight[codes]
    found = logistic_derivatives(design, codes, weight, request.coefficients)
    return NewtonSums(loss=found.loss, gradient=found.gradient, hessian=_pack(found.hessian))


def _begin(party: PartyService, fit: str, fold: int = -1) -> Rows:
    """Count the fit if it is a new one, and return the rows if a sum may be over all of them."""
    rows = party.rows(fit)
    kept = party.row_fit(fit)
    used = rows.weight > 0
    if fold >= 0:
        if FOLDS not in kept:
            raise PartyError(party.name, "was asked to leave out a fold before folds were dealt")
        used = used & (kept[FOLDS] != fold)
    party.policy.allow_aggregate(party.name, int(used.sum()))
    if used.all():
        return rows
    return Rows(
        np.asarray(rows.X)[used], None if rows.y is None else rows.y[used], rows.weight[used]
    )


def _allow_triangle(party: PartyService, width: int) -> None:
    """Refuse before computing what would be too large to send."""
    party.policy.limits.allow(8 * (width * (width + 1) // 2))


def _numbers(party: PartyService, rows: Rows) -> np.ndarray:
    try:
        columns = np.asarray(rows.X, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PartyError(party.name, f"its columns are no numbers: {error}") from error
    if columns.ndim != 2 or np.isinf(columns).any():
        raise PartyError(party.name, "its columns must be a table of numbers without infinity")
    return columns


def _complete(party: PartyService, columns: np.ndarray) -> np.ndarray:
    missing = np.flatnonzero(np.isnan(columns).any(axis=0))
    if len(missing):
        raise PartyError(
            party.name,
            f"values are missing (NaN) in its columns {missing[:10].tolist()}; fill them first",
        )
    return columns


def _codes(party: PartyService, rows: Rows, n_classes: int) -> np.ndarray:
    if rows.y is None or rows.y.ndim != 1 or not np.issubdtype(rows.y.dtype, np.integer):
        raise PartyError(party.name, "has no targets that are classes by position")
    if len(rows) and not (rows.y.min() >= 0 and rows.y.max() < n_classes):
        raise PartyError(party.name, f"has other classes than the {n_classes} agreed on")
    return rows.y


def _expect(party: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise PartyError(
            party, f"statistics of the shape {found} came where {expected} was expected"
        )


def _pack(symmetric: np.ndarray) -> np.ndarray:
    return symmetric[np.triu_indices(len(symmetric))]


def _unpack(party: str, triangle: np.ndarray, width: int) -> np.ndarray:
    _expect(party, triangle.shape, (width * (width + 1) // 2,))
    return symmetric(triangle, width)
