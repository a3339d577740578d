"""Messages to bytes and back.

An encoded message is a valid safetensors file: eight bytes of header length, a JSON header, raw
little-endian tensors. The scalars and the message's kind are JSON in the header's metadata. The
header is written here, so that a message's exact size is known without encoding it; it is read
by the safetensors library, which checks offsets and lengths before anything is allocated.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors

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
_DTYPES = {code: np.dtype(name) for name, code in _CODES.items()}


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
    header = _header(sent)
    parts = [len(header).to_bytes(8, "little"), header]
    parts += [_little_endian(value).tobytes() for _, value in _tensors(sent)]
    return b"".join(parts)


def encoded_size(sent: Message) -> int:
    """Return ``len(encode(sent))``, in bytes, without copying a tensor."""
    return 8 + len(_header(sent)) + sum(value.nbytes for _, value in _tensors(sent))


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
    _check_limits(data, limits or Limits())
    try:
        metadata = _metadata(data)
        parts = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise WireError(f"no message: {error}") from None
    cls = lookup(metadata["kind"])
    values = metadata["scalars"]
    for name, part in parts.items():
        values[name] = _array(part)
    if set(values) != set(cls.schema):
        raise WireError(
            f"{cls.kind}: expected the fields {sorted(cls.schema)}, got {sorted(values)[:32]}"
        )
    received = cls(**values)
    check(received)
    return received


def _tensors(sent: Message) -> list[tuple[str, np.ndarray]]:
    return [(name, getattr(sent, name)) for name, t in sent.schema.items() if isinstance(t, Tensor)]


def _header(sent: Message) -> bytes:
    scalars = {
        name: getattr(sent, name) for name, t in sent.schema.items() if not isinstance(t, Tensor)
    }
    text = _to_json({"kind": sent.kind, "scalars": scalars})
    parts = [f'"__metadata__":{{"fedtl":{_to_json(text)}}}']
    offset = 0
    # Names of fields need no escaping, so that this is JSON: written here, as it is written for
    # every message that crosses in a simulation too, and small messages would wait for it.
    for name, value in _tensors(sent):
        end, shape = offset + value.nbytes, ",".join(map(str, value.shape))
        code = _CODES[sent.schema[name].dtype]  # type: ignore[union-attr]
        parts.append(
            f'"{name}":{{"dtype":"{code}","shape":[{shape}],"data_offsets":[{offset},{end}]}}'
        )
        offset = end
    encoded = f"{{{','.join(parts)}}}".encode()
    return encoded.ljust(math.ceil(len(encoded) / 8) * 8)


def _check_limits(data: bytes, limits: Limits) -> None:
    limits.allow(len(data))
    header = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header > len(data) - 8:
        raise WireError("no message: truncated")
    if header > limits.header_bytes:
        raise WireError(f"header of {header} bytes, at most {limits.header_bytes} accepted")


def _metadata(data: bytes) -> dict[str, Any]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    try:
        metadata = json.loads(header["__metadata__"]["fedtl"])
        well_formed = set(metadata) == {"kind", "scalars"} and isinstance(metadata["scalars"], dict)
    except (KeyError, TypeError):
        well_formed = False
    if not well_formed:
        raise ValueError("metadata is missing or malformed")
    return metadata


def _array(part: dict[str, Any]) -> np.ndarray:
    if part["dtype"] not in _DTYPES:
        raise WireError(f"element type {part['dtype']} is not accepted")
    dtype = _DTYPES[part["dtype"]]
    array = np.frombuffer(bytes(part["data"]), dtype=dtype.newbyteorder("<"))
    if dtype.kind == "b" and len(array) and array.view(np.uint8).max() > 1:
        raise WireError("a byte of a bool tensor is neither 0 nor 1")
    try:
        return array.reshape(part["shape"]).astype(dtype, copy=False)
    except (ValueError, OverflowError) as error:
        raise WireError(f"no message: {error}") from None


def _little_endian(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
