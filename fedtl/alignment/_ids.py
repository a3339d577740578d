"""Ids in a form that both sides agree on: bytes that are equal where the ids mean the same."""

from __future__ import annotations

import numbers
import unicodedata
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

_EXACT_FLOATS = 2**53


def canonical_ids(keys: Any, normalisation: str) -> list[bytes | None]:
    """Bring ids into the form that is compared.

    A whole number and the text that spells it in decimal are the same id: 7, 7.0 and ``"7"``
    match. ``"007"`` is another id, except under ``"digits"``, as a column of numbers has lost its
    leading zeros already.

    Parameters
    ----------
    keys : array-like of shape (n_rows,)
        Text, whole numbers or UUIDs, in a list, an array, a pandas index or series, a polars
        series or an arrow array. Whole numbers may come as floats, which is what pandas makes of
        a column of integers with missing values.
    normalisation : {"exact", "casefold", "digits"}
        What both sides declare:

        - ``"exact"``: as it is, each character counts;
        - ``"casefold"``: without white space around it, compatibility forms and case (Unicode
          NFKC and case folding);
        - ``"digits"``: decimal digits only, without leading zeros.

    Returns
    -------
    list of (bytes or None)
        UTF-8; None where the id is missing (None, NaN, NaT, NA) or nothing is left of it. A
        missing id matches nothing, another missing id included.

    Raises
    ------
    ValueError
        If the normalisation is unknown, or an id is neither text nor a whole number.

    Examples
    --------
    >>> from fedtl.alignment import canonical_ids
    >>> canonical_ids([7, "7", "007", None], "exact")
    [b'7', b'7', b'007', None]
    >>> canonical_ids([7, "DE-007", ""], "digits")
    [b'7', b'7', None]
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(
            f"normalisation must be one of {', '.join(map(repr, NORMALISATIONS))}, "
            f"got {normalisation!r}"
        )
    rule = NORMALISATIONS[normalisation]
    canonical: list[bytes | None] = []
    for position, key in enumerate(as_list(keys)):
        text = key if type(key) is str else _text(key, position)
        try:
            canonical.append((rule(text).encode() or None) if text is not None else None)
        except UnicodeEncodeError:
            raise ValueError(f"the id at position {position} is no valid Unicode text") from None
    return canonical


def as_list(keys: Any) -> list[Any]:
    """Return ids as a list of Python objects.

    Parameters
    ----------
    keys : array-like of shape (n_rows,)
        See :func:`canonical_ids`.

    Returns
    -------
    list of shape (n_rows,)
        The same ids.

    Raises
    ------
    ValueError
        If there is not one id for each row.
    """
    if getattr(keys, "ndim", 1) != 1 or isinstance(keys, str | bytes):
        raise ValueError("ids must be a list or a one-dimensional array, one for each row")
    for name in ("to_pylist", "tolist", "to_list"):  # arrow; NumPy and pandas; polars
        if hasattr(keys, name):
            return getattr(keys, name)()
    return list(keys)


def _exact(text: str) -> str:
    return text


def _casefold(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return text.casefold().strip()


def _digits(text: str) -> str:
    digits = "".join(filter(str.isdecimal, text))
    if not digits.isascii():
        digits = "".join(str(unicodedata.decimal(c)) for c in digits)
    return digits.lstrip("0") or digits[:1]


NORMALISATIONS: dict[str, Callable[[str], str]] = {
    "exact": _exact,
    "casefold": _casefold,
    "digits": _digits,
}
"""What a party may declare of its ids, by name."""


def _text(key: Any, position: int) -> str | None:
    if key is None or type(key).__name__ in {"NAType", "NaTType"}:
        return None
    if isinstance(key, str | uuid.UUID):
        return str(key)
    if isinstance(key, numbers.Real | Decimal) and not isinstance(key, bool):
        number: Any = key
        if number != number:  # noqa: PLR0124  (NaN)
            return None
        if isinstance(key, numbers.Integral) or (
            abs(number) < _EXACT_FLOATS and int(number) == number  # infinity fails the first
        ):
            return str(int(number))
        raise ValueError(
            f"the id at position {position} is a number that is not whole or too large for a "
            "float; ids are text or whole numbers"
        )
    raise ValueError(
        f"the id at position {position} is of type {type(key).__name__}; "
        "ids are text or whole numbers"
    )
