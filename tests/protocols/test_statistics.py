"""A party answers for statistics of its own rows, and for nothing that does not fit them."""

import numpy as np
import pytest

from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger
from fedtl.parties import PartyService, Policy, Rows
from fedtl.protocols import ROW_ANSWERS
from fedtl.protocols.statistics import ask_columns, ask_derivatives, ask_products
from fedtl.wire import WireError

X = np.random.default_rng(0).normal(size=(12, 3))
CODES = np.arange(12) % 2


def channels(rows, **policy):
    service = PartyService("clinic", rows, None, ROW_ANSWERS, policy=Policy(**policy))
    return {"clinic": InProcessChannel(service, Ledger(), serialize=True)}


def ask_newton(to, shape=(1, 4), n_columns=3, n_classes=2):
    return ask_derivatives(
        to,
        "f",
        np.zeros(shape),
        intercept=True,
        center=np.zeros(n_columns),
        class_weight=np.ones(n_classes),
    )


def test_products_are_those_of_the_rows_and_their_targets():
    y = np.stack([CODES, CODES**2 + 1.0], axis=1)
    found = ask_products(channels(Rows(X, y)), "f", 5, targets=True)["clinic"]
    expected = np.cov(np.hstack([X, y]).T, ddof=0) * 12
    np.testing.assert_allclose(found.products, expected, atol=1e-12)
    assert (found.count, found.weight) == (12, 12.0)


def test_rows_without_weight_are_no_rows():
    weight = np.where(np.arange(12) < 5, 1.5, 0.0)
    rows = Rows(X, CODES, weight)
    found = ask_columns(channels(rows), "f", 3)["clinic"]
    np.testing.assert_allclose(found.mean[0], X[:5].mean(axis=0))
    assert found.count.tolist() == [[5, 5, 5]]
    for ask in (lambda c: ask_columns(c, "f", 3), lambda c: ask_products(c, "f", 3, targets=False)):
        with pytest.raises(PolicyRefusal, match="'clinic': a sum over 5 rows"):
            ask(channels(rows, min_rows=6))
    with pytest.raises(PolicyRefusal, match="'clinic': a sum over 5 rows"):
        ask_newton(channels(rows, min_rows=6))


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda c: ask_columns(c, "f", 4), r"shape \(1, 3\) came where \(1, 4\)"),
        (lambda c: ask_columns(c, "f", 3, 1), "other classes than the 1"),
        (lambda c: ask_columns(c, "f", 3, -1), "negative"),
        (lambda c: ask_products(c, "f", 4, targets=False), r"\(3,\) came where \(4,\)"),
        (lambda c: ask_newton(c, (1, 3)), r"\(1, 3\) was sent for 2 classes.*\(1, 4\)"),
        (lambda c: ask_newton(c, (1, 4), n_classes=3), r"must have the shape \(3, 4\)"),
        (lambda c: ask_newton(c, (1, 4), n_classes=1), "for 1 classes"),
        (lambda c: ask_newton(c, n_columns=2), r"\(2,\) came where \(3,\)"),
    ],
)
def test_a_request_that_does_not_fit_the_rows_is_refused_by_the_party(ask, says):
    with pytest.raises(PartyError, match=f"'clinic': .*{says}"):
        ask(channels(Rows(X, CODES)))


HOLES = np.where(np.arange(3) == 1, np.nan, X)


@pytest.mark.parametrize(
    ("rows", "ask", "says"),
    [
        (Rows(X), lambda c: ask_products(c, "f", 4, targets=True), "has no targets"),
        (Rows(X), ask_newton, "has no targets that are classes"),
        (Rows(X, CODES * 0.5), ask_newton, "has no targets that are classes"),
        (Rows(X, CODES - 1), ask_newton, "other classes"),
        (Rows(HOLES, CODES), ask_newton, r"missing \(NaN\) in its columns \[1\]"),
        (Rows(HOLES), lambda c: ask_products(c, "f", 3, targets=False), r"columns \[1\]"),
        (Rows(np.full((4, 3), "a")), lambda c: ask_columns(c, "f", 3), "no numbers"),
        (Rows(X[:, 0]), lambda c: ask_columns(c, "f", 3), "must be a table"),
        (Rows(np.full((4, 3), np.inf)), lambda c: ask_columns(c, "f", 3), "without infinity"),
    ],
)
def test_rows_that_cannot_be_summed_are_an_error_that_names_the_party(rows, ask, says):
    with pytest.raises(PartyError, match=f"'clinic': .*{says}"):
        ask(channels(rows))


def test_moments_by_class_have_no_row_for_a_class_that_the_party_lacks():
    found = ask_columns(channels(Rows(X, CODES), min_rows=6), "f", 3, 3)["clinic"]
    assert found.count[:, 0].tolist() == [6, 6, 0]
    assert not found.mean[2].any()


def test_what_would_be_too_large_to_send_is_refused_before_it_is_computed():
    wide = Rows(np.zeros((4, 20_000)), np.array([0, 1, 0, 1]))
    for ask in (
        lambda c: ask_columns(c, "f", 20_000, 2**40),
        lambda c: ask_products(c, "f", 20_000, targets=False),
        lambda c: ask_newton(c, (1, 20_001), n_columns=20_000),
    ):
        with pytest.raises(WireError, match="at most"):
            ask(channels(wide))
