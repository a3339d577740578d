"""The asking side: channels to parties, and the ledger of what crossed."""

from fedtl.federation._channel import Channel, InProcessChannel
from fedtl.federation._dispatch import ask_all
from fedtl.federation._ledger import Ledger
from fedtl.federation._rowwise import RowParties
from fedtl.federation._simulation import Simulation

__all__ = ["Channel", "InProcessChannel", "Ledger", "RowParties", "Simulation", "ask_all"]
