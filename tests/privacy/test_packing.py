"""Numbers come out of ciphertexts as they were put in, whatever lies beside them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")

from fedtl.privacy.packing import Layout
from fedtl.privacy.paillier import PrivateKey, Slots


@pytest.fixture(scope="module")
def key():
    return PrivateKey.generate(2048)


@given(
    st.sampled_from([2048, 3072, 4096]),
    st.integers(1, 140),
    st.integers(0, 70),
    st.integers(0, 2**32 - 1),
)
def test_an_output_is_read_at_its_own_rows_place(bits, n_outputs, n_items, seed):
    layout = Layout(Slots.of_key(bits, 64), n_outputs)
    rng = np.random.default_rng(seed)
    items = rng.integers(-(2**63) + 1, 2**63, (n_items, n_outputs))
    columns = range(0, n_outputs, layout.together)
    by_part = [items[:, first : first + layout.together] for first in columns]
    groups = [
        sum(
            layout.slots.pack(row.tolist()) << (64 * layout.together * i)
            for i, row in enumerate(part[first : first + layout.at_once])
        )
        for part in by_part
        for first in range(0, n_items, layout.at_once)
    ]
    assert len(groups) == layout.n_parts * layout.n_groups(n_items)
    np.testing.assert_array_equal(layout.read(groups, n_items), items)


@pytest.mark.parametrize("n_outputs", [1, 2, 40])
def test_encrypted_joined_and_sealed_numbers_are_read_by_the_owner_of_the_key(key, n_outputs):
    """With 40 outputs, an item takes two ciphertexts of 31 slots."""
    layout, public = Layout.of_key(key.public, n_outputs), key.public
    items = np.random.default_rng(0).integers(-(2**62), 2**62, (17, n_outputs))
    flat = layout.encrypt(public, items, key.noise())
    assert len({int(c) for c in flat}) == 17 * layout.n_parts
    sealed = []
    for part in range(layout.n_parts):
        groups = layout.join(public, flat[part :: layout.n_parts])
        sealed += layout.seal(groups, 17, key.noise())
    np.testing.assert_array_equal(layout.read(key.decrypt(sealed), 17), items)


def test_slots_that_hold_no_item_are_random(key):
    """Else a side that lies about what it encrypted reads more bits in the last ciphertext."""
    layout = Layout.of_key(key.public, 2)
    assert (layout.slots.count, layout.at_once) == (31, 15)
    nothing = [key.public.encrypt(0, 1)] * 2  # of 17 items
    sealed = layout.seal(nothing, 17, key.noise())
    numbers = [layout.slots.unpack(n) for n in key.decrypt(sealed)]
    assert numbers[0][:30] == [0] * 30
    assert numbers[1][:4] == [0] * 4
    random = [abs(number) for number in [numbers[0][30], *numbers[1][4:]]]
    assert min(random) > 2**40
    assert len(set(random)) == 28
