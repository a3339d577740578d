"""What may cross a party's border: messages of tensors and small scalars, declared beforehand."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

_SCALARS = (bool, int, float, str)
_REGISTRY: dict[str, type[Message]] = {}
_dtype = functools.cache(np.dtype)

M = TypeVar("M", bound="Message")


class WireError(ValueError):
    """A message that breaks its declared schema, or bytes that are no message."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The declared type of one tensor of a message.

    Parameters
    ----------
    dtype : str
        NumPy's name of the element type, one that safetensors can carry.
    shape : tuple of (str or int)
        One entry for each axis. An int is the exact length; a name is a length that all axes of
        that name in the same message share.
    finite : bool, default=True
        Whether NaN and infinities are refused.
    """

    dtype: str
    shape: tuple[str | int, ...]
    finite: bool = True


class Message:
    """Base class of all messages; subclasses are declared with :func:`message`."""

    kind: str
    protection: str
    schema: dict[str, type | Tensor]


@dataclass_transform(frozen_default=True)
def message(kind: str, *, protection: str = "none") -> Callable[[type[M]], type[M]]:
    """Declare a class as the message `kind`.

    Parameters
    ----------
    kind : str
        Name and version, as ``"moments.request/1"``: what a receiver dispatches on. No class
        name and no code crosses a border.
    protection : str, default="none"
        What protects its content from its receiver, as ``"shares"``. It is for the account of what
        crossed; the protocol's docstring says what it promises.

    Returns
    -------
    callable
        A class decorator that makes a frozen dataclass of the class and registers it.

    Examples
    --------
    >>> import numpy as np
    >>> from typing import Annotated
    >>> from fedtl.wire import Message, Tensor, decode, encode, message
    >>> @message("doctest.scores/1")
    ... class Scores(Message):
    ...     session: str
    ...     scores: Annotated[np.ndarray, Tensor("float64", ("rows", "outputs"))]
    >>> sent = Scores(session="s", scores=np.zeros((2, 1)))
    >>> decode(encode(sent)).scores.shape
    (2, 1)
    """

    def declare(cls: type[M]) -> type[M]:
        cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
        cls.kind, cls.protection = kind, protection
        hints = get_type_hints(cls, include_extras=True)
        cls.schema = {f.name: _declared(kind, f.name, hints[f.name]) for f in _fields(cls)}
        if kind in _REGISTRY and _REGISTRY[kind].__qualname__ != cls.__qualname__:
            raise TypeError(f"two messages of the kind {kind!r}")
        _REGISTRY[kind] = cls
        return cls

    return declare


def lookup(kind: str) -> type[Message]:
    """Return the class that was declared for `kind`.

    Parameters
    ----------
    kind : str
        Name and version of a message.

    Returns
    -------
    type
        Its class.

    Raises
    ------
    WireError
        If there is none.
    """
    try:
        return _REGISTRY[kind]
    except (KeyError, TypeError):
        raise WireError(f"unknown kind of message: {str(kind)[:80]!r}") from None


def check(sent: Message) -> None:
    """Hold a message against its declared schema.

    Parameters
    ----------
    sent : Message
        Any declared message.

    Raises
    ------
    WireError
        Naming the message's kind, the field, what was declared and what came.
    """
    lengths: dict[str, int] = {}
    for name, declared in sent.schema.items():
        value = getattr(sent, name)
        if isinstance(declared, Tensor):
            wrong = _wrong(declared, value, lengths)
            if wrong:  # said only now, as nearly all messages are right, and there are many
                raise WireError(f"{sent.kind}: field {name!r}{wrong}")
        elif type(value) is not declared:
            raise WireError(
                f"{sent.kind}: field {name!r} must be {declared.__name__}, "
                f"got {type(value).__name__}"
            )
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise WireError(f"{sent.kind}: field {name!r} does not fit into 64 bits")
        elif isinstance(value, float) and not math.isfinite(value):
            raise WireError(f"{sent.kind}: field {name!r} is not finite")


def _wrong(declared: Tensor, value: Any, lengths: dict[str, int]) -> str:
    """Return what is wrong with a tensor, or an empty text."""
    if not isinstance(value, np.ndarray) or value.dtype != _dtype(declared.dtype):
        came = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        return f" must be a {declared.dtype} array, got {came}"
    if value.ndim != len(declared.shape):
        return f" must have {len(declared.shape)} axes, got {value.ndim}"
    for axis, length in zip(declared.shape, value.shape, strict=True):
        expected = axis if isinstance(axis, int) else lengths.setdefault(axis, length)
        if length != expected:
            return f": axis {axis!r} must have length {expected}, got {length}"
    checked = declared.finite and value.size and value.dtype.kind == "f"
    return " has NaN or infinity" if checked and not np.isfinite(value).all() else ""


def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _declared(kind: str, name: str, hint: Any) -> type | Tensor:
    if hint in _SCALARS:
        return hint
    if get_origin(hint) is Annotated:
        for extra in get_args(hint)[1:]:
            if isinstance(extra, Tensor):
                return extra
    raise TypeError(f"{kind}: field {name!r} must be a scalar or an annotated Tensor, not {hint}")
