"""Private set intersection finds exactly the shared ids, and tells neither side more."""

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.alignment import (
    AlignmentCache,
    InvalidPoint,
    KeyList,
    Matcher,
    hash_to_group,
    label,
    multiply,
    random_scalar,
)
from fedtl.alignment._psi import is_sorted

ids_of = st.lists(st.integers(0, 30).map(lambda i: b"%d" % i), unique=True)


def rows_of(points):
    return {row.tobytes() for row in points}


@settings(max_examples=40, deadline=None)
@given(ids_of, ids_of, st.data())
def test_positions_lead_to_the_rows_of_the_plain_intersection(asked, known, data):
    gaps = data.draw(st.lists(st.booleans(), max_size=5))
    rows = [None] * len(gaps) + known + [None]  # rows without an id are never found
    party, asking = KeyList(rows, n_threads=1), Matcher(asked, n_threads=1)
    positions = asking.positions(party.answer(asking.points), party.tags)
    assert party.rows(positions).tolist() == [rows.index(i) if i in known else -1 for i in asked]
    assert ((positions >= 0) == [i in known for i in asked]).all()
    raised, tags = party.shuffled(asking.points)
    assert (asking.positions(raised, tags) >= 0).sum() == len({*asked} & {*known})


def test_tags_of_ids_outside_the_intersection_cannot_be_computed_without_the_key():
    ids = [b"%d" % i for i in range(300)]
    party = KeyList(ids)
    tags = rows_of(party.tags)
    points = hash_to_group(ids)
    # What the asking side can compute by itself, with any key of its own.
    for key in (bytes([1]) + bytes(31), random_scalar(), random_scalar()):
        assert rows_of(label(multiply(key, points))[0]).isdisjoint(tags)
    # What it gets for other ids, and for those that it asks about with another blinding on top.
    asking = Matcher([b"x%d" % i for i in range(300)])
    raised = party.answer(asking.points)
    assert (asking.positions(raised, party.tags) == -1).all()
    assert rows_of(label(raised)[0]).isdisjoint(tags)
    assert rows_of(raised).isdisjoint(rows_of(points))


def test_the_same_ids_are_blinded_differently_each_time():
    ids = [b"%d" % i for i in range(100)]
    assert rows_of(Matcher(ids).points).isdisjoint(rows_of(Matcher(ids).points))


def test_a_position_is_known_only_to_whoever_had_its_id_raised():
    party = KeyList([b"%d" % i for i in range(1000)])
    tags = party.tags
    guesses = np.concatenate([np.arange(-5, 5000), tags[:, :8].copy().view("<i8")[:, 0]])
    assert (party.rows(guesses) == -1).all()
    assert is_sorted(tags)  # their order is that of the tags, not of the rows


def test_a_secret_gives_the_same_list_after_a_restart_and_another_when_the_ids_change():
    ids = [b"ann", b"bob", None, b"eve"]
    one, again = KeyList(ids, b"s" * 32), KeyList(ids, b"s" * 32)
    asking = Matcher([b"bob"])
    positions = asking.positions(one.answer(asking.points), one.tags)
    assert one.name == again.name
    assert again.rows(positions).tolist() == [1]
    moved = KeyList([b"eve", b"bob", b"ann"], b"s" * 32)  # the same set in other rows
    assert moved.name == one.name
    assert moved.rows(positions).tolist() == [1]
    for other in (KeyList([b"ann", b"bob"], b"s" * 32), KeyList(ids, b"t" * 32), KeyList(ids)):
        assert other.name != one.name
        assert other.rows(positions).tolist() == [-1]
        assert rows_of(other.tags).isdisjoint(rows_of(one.tags))


def test_a_count_tells_neither_which_ids_are_shared_nor_that_an_id_was_asked_twice():
    party = KeyList([b"%d" % i for i in range(50)])
    asking = Matcher([b"%d" % i for i in range(25, 75)])
    (one, tags), (two, others) = party.shuffled(asking.points), party.shuffled(asking.points)
    assert (asking.positions(one, tags) >= 0).sum() == 25
    assert rows_of(one).isdisjoint(rows_of(two))
    assert rows_of(tags).isdisjoint(rows_of(others) | rows_of(party.tags))
    assert is_sorted(tags)
    assert is_sorted(one)


def test_a_point_that_is_none_is_refused_at_both_ends():
    party, asking = KeyList([b"ann"]), Matcher([b"ann"])
    for hostile in (np.zeros((1, 32), np.uint8), np.full((1, 32), 255, np.uint8)):
        with pytest.raises(InvalidPoint):
            party.answer(hostile)
        with pytest.raises(InvalidPoint):
            party.shuffled(hostile)
        with pytest.raises(InvalidPoint):
            asking.positions(hostile, party.tags)


def test_ids_that_differ_in_bytes_only_are_different_even_with_zeros_at_their_end():
    ids = [b"a", b"a\0", b"a\0\0", b"\0a"]
    party, asking = KeyList(ids[:2]), Matcher(ids)
    positions = asking.positions(party.answer(asking.points), party.tags)
    assert party.rows(positions).tolist() == [0, 1, -1, -1]
    cache = AlignmentCache()
    assert len(np.unique(cache.digests(ids, "exact"))) == 4


def test_a_cache_remembers_what_was_asked_by_party_and_normalisation_up_to_its_bound():
    from fedtl.alignment._cache import KnownList

    cache = AlignmentCache()
    ids = [b"%d" % i for i in range(10)]
    digests = cache.digests(ids, "exact")
    known = KnownList("list", np.empty((0, 16), np.uint8))
    known.add(digests[:4], np.array([40, 41, -1, 43]), max_ids=8)
    known.add(digests[4:6], np.array([44, 45]), max_ids=8)
    positions, asked = known.look_up(digests)
    assert positions.tolist() == [40, 41, -1, 43, 44, 45, -1, -1, -1, -1]
    assert asked.tolist() == [True] * 6 + [False] * 4
    assert not known.look_up(cache.digests(ids, "digits"))[1].any()
    known.add(digests[6:], np.arange(4), max_ids=8)  # no room: what was known before goes
    assert known.look_up(digests)[1].tolist() == [False] * 6 + [True] * 4
    known.add(digests, np.arange(10), max_ids=8)
    assert len(known.digests) == 8


def test_a_cache_crosses_processes_with_what_it_knows_and_without_ids():
    from fedtl.alignment._cache import KnownList

    cache = AlignmentCache()
    known = cache.lists["shop"] = KnownList("list", np.empty((0, 16), np.uint8))
    known.add(cache.digests([b"customer-4711"], "exact"), np.array([5]), cache.max_ids)
    with cache.lock("shop"):
        data = pickle.dumps(cache)
    assert b"4711" not in data
    there = pickle.loads(data)
    digests = there.digests([b"customer-4711"], "exact")
    assert there.lists["shop"].look_up(digests)[0].tolist() == [5]
    assert isinstance(there.lock("shop"), type(threading.Lock()))
    there.forget("shop")
    assert repr(there) == "AlignmentCache({})"
    assert repr(cache) == "AlignmentCache({'shop': 1})"
