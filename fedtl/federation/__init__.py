"""The asking side: channels to parties, and the ledger of what crossed."""

from fedtl.federation._channel import Channel, InProcessChannel
from fedtl.federation._dispatch import ask_all, same_workers
from fedtl.federation._ledger import Ledger
from fedtl.federation._remote import Federation
from fedtl.federation._remote_channel import RemoteChannel, RemoteParties
from fedtl.federation._rowwise import RowParties
from fedtl.federation._simulation import SimulatedParties, Simulation
from fedtl.federation._transcript import (
    Crossing,
    Opening,
    Transcript,
    opened,
    record_transcript,
)
from fedtl.federation._transport import Transport, Unreached

__all__ = [
    "Channel",
    "Crossing",
    "Federation",
    "InProcessChannel",
    "Ledger",
    "Opening",
    "RemoteChannel",
    "RemoteParties",
    "RowParties",
    "SimulatedParties",
    "Simulation",
    "Transcript",
    "Transport",
    "Unreached",
    "ask_all",
    "opened",
    "record_transcript",
    "same_workers",
]
