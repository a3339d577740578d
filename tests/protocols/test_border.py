"""A whole fit is the same, and costs the same, whether messages are serialised or not."""

import numpy as np

from fedtl import Encoder
from fedtl.federation import InProcessChannel, Ledger
from fedtl.parties import PartyService, Table
from fedtl.protocols import ANSWERS
from fedtl.protocols.moments import ask_moments, ask_scores
from fedtl.protocols.predict import ask_predictions
from fedtl.protocols.session import end_session, open_session, prepare_session


def one_round(block, serialize):
    """Ask for moments, scores and predictions; return all that came back, and the ledger."""
    rng = np.random.default_rng(3)
    service = PartyService("shop", Table(block), Encoder(), ANSWERS)
    border = InProcessChannel(service, Ledger(), serialize)
    known = open_session(border, "s", np.arange(60), resume=False)
    width = prepare_session(border, "s", 4, seed=0)
    rows = np.flatnonzero(known)
    folds = rng.integers(0, 3, len(rows))
    came = [known]
    came += ask_moments(
        border,
        "s",
        rows,
        folds=folds,
        weight=rng.uniform(size=len(rows)),
        targets=rng.normal(size=(len(rows), 2)),
        n_folds=3,
    )
    held_out = rng.normal(size=(3, 1 + width, 2))
    came.append(
        ask_scores(border, "s", rows, folds=folds, held_out=held_out, coefficients=held_out[0])
    )
    end_session(border, "s")
    came.append(ask_predictions(border, "s", np.arange(70), scores=True, latents=True).scores)
    return came, border._ledger


def test_what_comes_back_and_what_it_cost_are_the_same_to_the_last_bit(block):
    (one, ledger), (two, serialized) = one_round(block, False), one_round(block, True)
    assert [a.tobytes() for a in one] == [a.tobytes() for a in two]
    assert ledger.rows() == serialized.rows()
    assert ledger.messages == 2 * 6


def test_the_ledger_counts_every_encoded_byte(block, crossed):
    for serialize in (False, True):
        crossed.clear()
        _, ledger = one_round(block, serialize)
        assert ledger.n_bytes == sum(len(data) for _, _, data in crossed)
        for row in ledger.rows():
            sizes = [
                len(data)
                for direction, kind, data in crossed
                if (direction, kind) == (row["direction"], row["kind"])
            ]
            assert (row["messages"], row["bytes"]) == (len(sizes), sum(sizes))


def test_a_party_may_reuse_its_arrays_after_it_has_answered(block):
    before = block.copy()
    one_round(block, False)
    np.testing.assert_array_equal(block, before)
