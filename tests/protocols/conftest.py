"""A party behind a channel, and a spy on what crosses."""

import numpy as np
import pytest

from fedtl import Encoder
from fedtl.federation import InProcessChannel, Ledger
from fedtl.parties import PartyService, Table
from fedtl.protocols import ANSWERS
from fedtl.wire import encode

N = 60


@pytest.fixture
def block():
    """A party's table: 60 rows of 3 columns, of which it does not know rows 5 and 17."""
    block = np.random.default_rng(0).normal(size=(N, 3))
    block[[5, 17]] = np.nan
    block[8, 1] = np.nan
    return block


@pytest.fixture(params=[False, True], ids=["by reference", "serialized"])
def channel(request, block):
    """A channel to a party with that table."""
    service = PartyService("shop", Table(block), Encoder(), ANSWERS)
    return InProcessChannel(service, Ledger(), serialize=request.param)


@pytest.fixture
def crossed(monkeypatch):
    """Every message that crosses a border, as (direction, kind, encoded bytes)."""
    seen = []
    cross = InProcessChannel._cross

    def spy(self, direction, sent):
        seen.append((direction, sent.kind, encode(sent)))
        return cross(self, direction, sent)

    monkeypatch.setattr(InProcessChannel, "_cross", spy)
    return seen
