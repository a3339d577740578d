"""Messages as declared schemas, their encoding and its limits; knows nothing of learning."""

from fedtl.wire._codec import Limits, checked_size, decode, encode, encoded_size
from fedtl.wire._control import (
    Close,
    Closed,
    ConversationLost,
    Describe,
    Description,
    Failure,
    failure,
    raised,
)
from fedtl.wire._frame import FRAME_BYTES, Frame, pack, unpack
from fedtl.wire._message import Message, Tensor, WireError, check, message

__all__ = [
    "FRAME_BYTES",
    "Close",
    "Closed",
    "ConversationLost",
    "Describe",
    "Description",
    "Failure",
    "Frame",
    "Limits",
    "Message",
    "Tensor",
    "WireError",
    "check",
    "checked_size",
    "decode",
    "encode",
    "encoded_size",
    "failure",
    "message",
    "pack",
    "raised",
    "unpack",
]
