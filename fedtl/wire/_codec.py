"""Messages to bytes and back.

An encoded message is a valid safetensors file: eight bytes of header length, a JSON header, raw
little-endian tensors. The scalars and the message's kind are JSON in the header's metadata. The
header is written and read here, so that a message's exact size is known without encoding it, and
its tensors are views of the bytes that came. What the safetensors library refuses is refused,
before any memory is taken, and so are names that come twice, entries that it would overlook, and
element types that no message has.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from fedtl.wire._message import Message, Tensor, WireError, check, lookup

_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float32": "F32",
    "float64": "F64",
}
_to_json = json.JSONEncoder(allow_nan=False).encode
# As the library writes them; it takes longer for a few numbers than all else that a header needs.
_SCALARS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    int: repr,
    float: repr,
    str: _to_json,
}
_DTYPES = {code: np.dtype(name) for name, code in _CODES.items()}
_MAX_AXES = 32


@dataclass(frozen=True)
class Limits:
    """What a receiver accepts before it looks at a message's content.

    Parameters
    ----------
    message_bytes : int, default=2**30
        Bytes of one encoded message.
    header_bytes : int, default=16384
        Bytes of its header, which is the only part that is parsed as text.
    """

    message_bytes: int = 2**30
    header_bytes: int = 16_384

    def allow(self, n_bytes: int) -> None:
        """Refuse a message that is too large.

        Parameters
        ----------
        n_bytes : int
            Its encoded size in bytes.

        Raises
        ------
        WireError
            Naming the size and the limit.
        """
        if n_bytes > self.message_bytes:
            raise WireError(f"message of {n_bytes} bytes, at most {self.message_bytes} accepted")


def encode(sent: Message) -> bytes:
    """Encode a message.

    Parameters
    ----------
    sent : Message
        Any declared message.

    Returns
    -------
    bytes
        A valid safetensors file.

    Raises
    ------
    WireError
        If the message breaks its schema.
    """
    check(sent)
    header, _ = _header(sent)
    parts = [len(header).to_bytes(8, "little"), header]
    parts += [_little_endian(value).tobytes() for value in _tensors(sent)]
    return b"".join(parts)


def encoded_size(sent: Message) -> int:
    """Return ``len(encode(sent))``, in bytes, without copying a tensor."""
    header, n_bytes = _header(sent)
    return 8 + len(header) + n_bytes


def checked_size(sent: Message) -> int:
    """Check a message and return its encoded size, both once for a message that crosses often.

    A request to many parties is one object, and messages are not changed.

    Parameters
    ----------
    sent : Message
        Any declared message.

    Returns
    -------
    int
        Its size in bytes.

    Raises
    ------
    WireError
        If the message breaks its schema.
    """
    size: int | None = sent.__dict__.get("_checked_size")
    if size is None:
        check(sent)
        size = encoded_size(sent)
        object.__setattr__(sent, "_checked_size", size)  # it is frozen
    return size


def decode(data: bytes, limits: Limits | None = None) -> Message:
    """Decode and check one message.

    Parameters
    ----------
    data : bytes
        What came over the border.
    limits : Limits, optional
        What is accepted; the defaults of :class:`Limits` otherwise.

    Returns
    -------
    Message
        The message; its tensors are read-only.

    Raises
    ------
    WireError
        If the bytes are no message, break a limit, or break the declared schema.
    """
    size = _header_bytes(data, limits or Limits())
    try:
        told, tensors = _read_header(data[8 : 8 + size])
        cls = lookup(told["kind"])
        values = told["scalars"]
        values.update(_views(data, 8 + size, tensors))
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, WireError) else WireError(f"no message: {error}") from None
    if set(values) != set(cls.schema):
        raise WireError(
            f"{cls.kind}: expected the fields {sorted(cls.schema)}, got {sorted(values)[:32]}"
        )
    received = cls(**values)
    check(received)
    return received


def _tensors(sent: Message) -> list[np.ndarray]:
    return [getattr(sent, name) for name, t in sent.schema.items() if isinstance(t, Tensor)]


def _header(sent: Message) -> tuple[bytes, int]:
    """Return the header, and the bytes of the tensors that follow it."""
    scalars = ", ".join(
        f'"{name}": {_SCALARS[t](getattr(sent, name))}'
        for name, t in sent.schema.items()
        if not isinstance(t, Tensor)
    )
    text = f'{{"kind": {_to_json(sent.kind)}, "scalars": {{{scalars}}}}}'
    shapes = tuple(value.shape for value in _tensors(sent))
    declared, n_bytes = _declarations(type(sent), shapes)  # type: ignore[arg-type]
    encoded = f'{{"__metadata__":{{"fedtl":{_to_json(text)}}}{declared}}}'.encode()
    return encoded.ljust(math.ceil(len(encoded) / 8) * 8), n_bytes


# Many messages differ in nothing but numbers, and in a simulation headers are only counted.
@functools.lru_cache(maxsize=1024)
def _declarations(cls: type[Message], shapes: tuple[tuple[int, ...], ...]) -> tuple[str, int]:
    """Return what a header says of tensors of these shapes, and their bytes."""
    parts, offset = [], 0
    declared = [(name, t.dtype) for name, t in cls.schema.items() if isinstance(t, Tensor)]
    # Names of fields need no escaping, so that this is JSON.
    for (name, dtype), shape in zip(declared, shapes, strict=True):
        end = offset + math.prod(shape) * np.dtype(dtype).itemsize
        lengths = ",".join(map(str, shape))
        parts.append(
            f',"{name}":{{"dtype":"{_CODES[dtype]}","shape":[{lengths}],'
            f'"data_offsets":[{offset},{end}]}}'
        )
        offset = end
    return "".join(parts), offset


def _header_bytes(data: bytes, limits: Limits) -> int:
    limits.allow(len(data))
    header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header > len(data) - 8:
        raise WireError("no message: truncated")
    if header > limits.header_bytes:
        raise WireError(f"header of {header} bytes, at most {limits.header_bytes} accepted")
    return header


def _read_header(header: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the metadata say, and name and declaration of each tensor."""
    if not header.startswith(b"{"):
        raise ValueError("a header is a JSON object from its first byte on")
    tensors = _HEADER.decode(header.decode())
    try:
        metadata = tensors.pop("__metadata__")
        metadata["fedtl"].encode()  # half a surrogate pair is no UTF-8
        told = _METADATA.decode(metadata["fedtl"])
        well_formed = len(metadata) == 1 and isinstance(told, dict)
        well_formed = well_formed and set(told) == {"kind", "scalars"}
    except (KeyError, TypeError, AttributeError):
        well_formed = False
    if not (well_formed and isinstance(told["scalars"], dict)):
        raise ValueError("metadata is missing or malformed")
    return told, tensors


def _views(data: bytes, start: int, tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors, which must fill the bytes from `start` on without a gap."""
    views, end = {}, 0
    for name, told in sorted(tensors.items(), key=_offsets):
        dtype, shape = _DTYPES.get(told["dtype"]), told["shape"]
        if dtype is None:
            raise WireError(f"element type {str(told['dtype'])[:20]} is not accepted")
        count = math.prod(shape)
        if told["data_offsets"] != [end, end + count * dtype.itemsize]:
            raise ValueError(f"the bytes of tensor {name[:80]!r} are not where and as many as told")
        end += count * dtype.itemsize
        if start + end > len(data):
            raise ValueError("truncated")
        views[name] = _view(data, start + end - count * dtype.itemsize, dtype, shape)
    if start + end != len(data):
        raise ValueError("bytes that belong to no tensor")
    return views


def _offsets(named: tuple[str, Any]) -> list[int]:
    """Return where a tensor begins and ends, once its declaration is one."""
    told = named[1]
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("a tensor has a dtype, a shape and offsets")
    offsets, shape = told["data_offsets"], told["shape"]
    for numbers in (offsets, shape):
        if not isinstance(numbers, list) or not all(type(n) is int and n < 2**63 for n in numbers):
            raise ValueError("offsets and lengths are whole numbers below 2**63")
    if len(offsets) != 2 or len(shape) > _MAX_AXES or type(told["dtype"]) is not str:
        raise ValueError(f"a tensor has a type, two offsets and at most {_MAX_AXES} axes")
    return offsets


def _view(data: bytes, start: int, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    count = math.prod(shape)
    if not count:  # NumPy has no empty view behind the last byte
        data, start = b"", 0
    stored = dtype.newbyteorder("<")
    view = np.frombuffer(data, stored, count, start)
    if not view.flags.aligned:
        view = np.frombuffer(data[start : start + view.nbytes], stored)
    if dtype.kind == "b" and count and view.view(np.uint8).max() > 1:
        raise WireError("a byte of a bool tensor is neither 0 nor 1")
    return view.reshape(shape).astype(dtype, copy=False)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name comes twice")
    return entries


def _whole(digits: str) -> int:
    if digits.startswith("-"):
        raise ValueError("a negative offset or length")
    return int(digits)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant[:20]} is no offset and no length")


_METADATA = json.JSONDecoder(object_pairs_hook=_unique)
_HEADER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_whole, parse_float=_refuse, parse_constant=_refuse
)


def _little_endian(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
