"""Messages as declared schemas, their encoding and its limits; knows nothing of learning."""

from fedtl.wire._codec import Limits, decode, encode, encoded_size
from fedtl.wire._message import Message, Tensor, WireError, check, message

__all__ = [
    "Limits",
    "Message",
    "Tensor",
    "WireError",
    "check",
    "decode",
    "encode",
    "encoded_size",
    "message",
]
