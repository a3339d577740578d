"""Alignment finds what OpenMined's private set intersection finds; needs openmined-psi."""

import numpy as np
import pandas as pd
import pytest

psi = pytest.importorskip(
    "private_set_intersection.python",
    reason="an oracle, which pins protobuf: pip install openmined-psi elsewhere",
)

from fedtl import Encoder  # noqa: E402
from fedtl.federation import InProcessChannel, Ledger  # noqa: E402
from fedtl.parties import KeyedTable, PartyService  # noqa: E402
from fedtl.protocols import ANSWERS  # noqa: E402
from fedtl.protocols.alignment import align  # noqa: E402


def theirs(asked, held):
    client, server = psi.client.CreateWithNewKey(True), psi.server.CreateWithNewKey(True)
    setup = server.CreateSetupMessage(1e-9, len(asked), held)
    response = server.ProcessRequest(client.CreateRequest(asked))
    return {asked[i] for i in client.GetIntersection(setup, response)}


def ours(asked, held):
    frame = pd.DataFrame({"id": held, "value": 1.0})
    service = PartyService("shop", KeyedTable("shop", frame, key="id"), Encoder(), ANSWERS)
    positions = align(InProcessChannel(service, Ledger(), serialize=True), asked)
    return {asked[i] for i in np.flatnonzero(positions >= 0)}


@pytest.mark.parametrize("overlap", [0, 1, 100, 300])
def test_both_find_the_same_ids(overlap):
    rng = np.random.default_rng(overlap)
    ids = [f"{n:x}" for n in rng.choice(10**9, 900, replace=False)]
    held = list(rng.permutation(ids[:300]))
    asked = list(rng.permutation(ids[300 - overlap : 600]))
    found = ours(asked, held)
    assert found == theirs(asked, held) == set(asked) & set(held)
    assert len(found) == overlap
