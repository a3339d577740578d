"""What goes around an encoded message between machines: version, message id, compression.

A frame is 32 bytes and the encoded message. It is the same over every transport, so that a
transport carries opaque bytes and nothing else.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from fedtl.wire._codec import Limits
from fedtl.wire._message import WireError

_HEAD = struct.Struct("<4sBB2x8s8sQ")
_MAGIC = b"FDTL"
_VERSION = 1
_DEFLATED, _MAY_DEFLATE = 1, 2
_LENGTH = struct.Struct("<Q")
_SAMPLE = 4096
_WORTHWHILE = 0.5

FRAME_BYTES = _HEAD.size
"""Bytes that a frame adds to an encoded message that is not compressed."""


@dataclass(frozen=True)
class Frame:
    """An encoded message with its id.

    Parameters
    ----------
    group : bytes of length 8
        Names the handle that asks, over all its processes: its sessions end together.
    conversation : bytes of length 8
        Names one sequence of requests, each sent when the one before has been answered.
    number : int
        Position in the conversation, from 1 on. A reply has its request's. A number is never
        used for two requests, so that a repeated frame is a retry.
    body : bytes
        The encoded message.
    compressed : bool, default=False
        Whether this message, and the reply to it, may be compressed.
    """

    group: bytes
    conversation: bytes
    number: int
    body: bytes
    compressed: bool = False


def pack(frame: Frame) -> bytes:
    """Encode a frame.

    Parameters
    ----------
    frame : Frame
        What is sent. If it says so, the message is deflated where a sample of it says that this
        halves it at least.

    Returns
    -------
    bytes
        What a transport carries.
    """
    flags, body = _MAY_DEFLATE if frame.compressed else 0, frame.body
    if frame.compressed and _compressible(body):
        flags, body = flags | _DEFLATED, _LENGTH.pack(len(body)) + zlib.compress(body, 1)
    return _HEAD.pack(_MAGIC, _VERSION, flags, frame.group, frame.conversation, frame.number) + body


def unpack(data: bytes, limits: Limits | None = None) -> Frame:
    """Decode a frame, without looking into the message.

    Parameters
    ----------
    data : bytes
        What a transport brought.
    limits : Limits, optional
        What is accepted; the defaults of :class:`Limits` otherwise.

    Returns
    -------
    Frame
        Its parts.

    Raises
    ------
    WireError
        If it is no frame, of another version, or larger than the limits allow. A compressed
        message is not expanded beyond them.
    """
    limits = limits or Limits()
    limits.allow(len(data) - _HEAD.size)
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        raise WireError("no frame of fedtl: truncated, or something else")
    _, version, flags, group, conversation, number = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise WireError(
            f"frame of version {version}, this side speaks version {_VERSION}; both sides need "
            "versions of fedtl that fit together"
        )
    if flags not in (0, _MAY_DEFLATE, _MAY_DEFLATE | _DEFLATED) or not number:
        raise WireError("a frame's flags or number are out of range")
    body = data[_HEAD.size :]
    if flags & _DEFLATED:
        body = _inflate(body, limits)
    return Frame(group, conversation, number, body, bool(flags))


def _compressible(body: bytes) -> bool:
    middle = len(body) // 2
    sample = body[middle : middle + _SAMPLE]
    return len(sample) == _SAMPLE and len(zlib.compress(sample, 1)) < _WORTHWHILE * _SAMPLE


def _inflate(body: bytes, limits: Limits) -> bytes:
    if len(body) < _LENGTH.size:
        raise WireError("no frame of fedtl: truncated")
    (length,) = _LENGTH.unpack_from(body)
    limits.allow(length)
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(body[_LENGTH.size :], length + 1)
    except zlib.error as error:
        raise WireError(f"a compressed message is damaged: {error}") from None
    if len(inflated) != length or not inflater.eof or inflater.unused_data:
        raise WireError("a compressed message has another length than it says")
    return inflated
