"""Updates in fewer bytes: what is lost is bounded, remembered, and sent later."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedtl.learning.compression import (
    BLOCK,
    Compression,
    Packed,
    pack,
    pack_with_feedback,
    unpack,
)

vectors = arrays(
    np.float32,
    st.tuples(st.integers(1, 2), st.integers(1, 600)),
    elements=st.floats(-1e3, 1e3, width=32),
)


@settings(max_examples=50, deadline=None)
@given(vectors)
def test_eight_bits_are_off_by_half_a_level_at_most(values):
    got = unpack(pack(values, Compression(eight_bits=True)), values.shape[1])
    for start in range(0, values.shape[1], BLOCK):
        block = values[:, start : start + BLOCK]
        width = np.ptp(block, axis=1, keepdims=True) / 255
        error = np.abs(got[:, start : start + BLOCK] - block)
        assert (error <= 0.5 * width + 1e-6 * np.abs(block).max() + 1e-30).all()


@settings(max_examples=50, deadline=None)
@given(vectors, st.floats(0.01, 0.99))
def test_the_largest_changes_are_sent_as_they_are(values, top):
    got = unpack(pack(values, Compression(top=top)), values.shape[1])
    sent = max(1, int(np.ceil(top * values.shape[1])))
    largest = -np.sort(-np.abs(values), axis=1)[:, :sent]
    np.testing.assert_allclose(-np.sort(-np.abs(got), axis=1)[:, :sent], largest)
    assert ((got == values) | (got == 0)).all()


@settings(max_examples=50, deadline=None)
@given(vectors)
def test_without_compression_nothing_is_lost(values):
    np.testing.assert_array_equal(unpack(pack(values, Compression()), values.shape[1]), values)


@pytest.mark.parametrize("how", [Compression(True), Compression(top=0.1), Compression(True, 0.1)])
def test_what_is_lost_in_one_round_is_sent_in_later_ones(how):
    rng = np.random.default_rng(0)
    memory, sent, wanted = {}, 0.0, 0.0
    for _ in range(50):
        values = rng.normal(size=(1, 300)).astype(np.float32)
        wanted = wanted + values
        sent = sent + unpack(pack_with_feedback(values, memory, how), 300)
        np.testing.assert_allclose(sent + memory["residual"], wanted, atol=1e-3)
    assert np.abs(memory["residual"]).max() < 20


def packed(**changes):
    """Three numbers of five, changed in some way."""
    parts = {
        "indices": np.array([[0, 2, 4]], dtype=np.uint32),
        "values": np.ones((1, 3), dtype=np.float32),
        "codes": np.empty((1, 0), dtype=np.uint8),
        "ranges": np.empty((1, 0, 2), dtype=np.float32),
    }
    return Packed(**{**parts, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"indices": np.array([[0, 2, 5]], dtype=np.uint32)},
        {"indices": np.array([[0, 2, 2**32 - 1]], dtype=np.uint32)},
        {"indices": np.array([[2, 2, 4]], dtype=np.uint32)},
        {"indices": np.array([[4, 2, 0]], dtype=np.uint32)},
        {"values": np.ones((1, 2), dtype=np.float32)},
        {"indices": np.empty((1, 0), dtype=np.uint32)},
        {"codes": np.ones((1, 3), dtype=np.uint8)},
        {"ranges": np.ones((1, 1, 2), dtype=np.float32)},
        {"values": np.empty((1, 0), dtype=np.float32), "codes": np.ones((1, 3), dtype=np.uint8)},
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes):
    assert unpack(packed(), 5).tolist() == [[1, 0, 1, 0, 1]]
    with pytest.raises(ValueError, match="came|positions"):
        unpack(packed(**changes), 5)
