"""Alignment finds the rows of the plain join, asks about no id twice, and refuses what is wrong."""

import doctest
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl import Encoder
from fedtl.alignment import AlignmentCache, KeyList, SharedCache, canonical_ids
from fedtl.exceptions import PartyError, PolicyRefusal, StaleAlignment
from fedtl.federation import InProcessChannel, Ledger
from fedtl.parties import KeyedTable, PartyService, Policy, Table
from fedtl.protocols import ANSWERS
from fedtl.protocols import alignment as protocol
from fedtl.protocols.alignment import align, align_and_ask
from fedtl.protocols.cardinality import Count, Counted, count_shared
from fedtl.protocols.predict import ask_predictions
from fedtl.protocols.session import end_session, open_session, prepare_session
from fedtl.wire import decode, encode

IDS = [f"C{i:03d}" for i in range(60)]


def frame(ids=IDS):
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(len(ids), 3)), index=pd.Index(ids), columns=list("abc"))


def party(ids=IDS, policy=None, serialize=True, name="shop", **options):
    """A channel to a party whose table has these ids."""
    table = KeyedTable(name, frame(ids), n_threads=1, **options)
    service = PartyService(name, table, Encoder(), ANSWERS, policy=policy)
    return InProcessChannel(service, Ledger(), serialize)


def rows_of(channel, positions):
    return channel._service.table.key_list.rows(positions).tolist()


def sent(channel):
    """How many messages of each kind were sent to a party."""
    return {
        row["kind"].split(".")[1][:-2]: row["messages"]
        for row in channel._ledger.rows()
        if row["direction"] == "sent"
    }


keys_of = st.lists(
    st.one_of(st.none(), st.just(float("nan")), st.integers(0, 12), st.integers(0, 12).map(str))
)


@settings(max_examples=40, deadline=None)
@given(
    keys_of,
    st.lists(st.integers(0, 12), unique=True, min_size=1),
    st.sampled_from("exact digits".split()),
)
def test_positions_lead_to_the_rows_of_a_plain_join(keys, known, normalisation):
    channel = party(known, normalisation=normalisation)
    positions = align(channel, keys, normalisation=normalisation, n_threads=1)
    where = {str(i).encode(): row for row, i in enumerate(known)}
    expected = [where.get(i, -1) for i in canonical_ids(keys, normalisation)]
    assert positions.dtype == np.int64
    assert rows_of(channel, positions) == expected
    assert ((positions >= 0) == (np.array(expected, dtype=int) >= 0)).all()
    shared = {row for row in expected if row >= 0}
    assert count_shared(channel, keys, normalisation=normalisation, n_threads=1) == len(shared)


def test_rows_are_selected_in_the_order_of_the_keys_and_unknown_ones_left_out():
    channel = party()
    keys = ["C007", "nobody", "C003", None, "C007"]
    rows, found = channel._service.table.select(align(channel, keys))
    assert found.tolist() == [True, False, True, False, True]
    pd.testing.assert_frame_equal(
        rows.reset_index(drop=True), frame().iloc[[7, 3, 7]].reset_index(drop=True)
    )


def test_fit_and_predict_go_by_positions_as_they_go_by_row_numbers():
    remote = party()
    plain = InProcessChannel(
        PartyService("shop", Table(frame()), Encoder(), ANSWERS), Ledger(), serialize=True
    )
    keys = [*IDS[50:], "nobody", *IDS[:20]]
    numbers = np.array([*range(50, 60), 99, *range(20)])
    cache = AlignmentCache()
    known = [
        open_session(remote, "s", align(remote, keys, cache=cache), resume=False),
        open_session(plain, "s", numbers, resume=False),
    ]
    assert known[0].tolist() == known[1].tolist()
    assert prepare_session(remote, "s", 4, 0) == prepare_session(plain, "s", 4, 0)
    encoded = []
    for channel in (remote, plain):
        session = channel._service.sessions["s"]
        encoded.append(np.vstack([part for _, part in session.encoded(np.flatnonzero(known[0]))]))
        end_session(channel, "s")
    assert encoded[0].tobytes() == encoded[1].tobytes()
    replies = [
        ask_predictions(
            remote, "s", align(remote, keys[5:15], cache=cache), scores=True, latents=False
        ),
        ask_predictions(plain, "s", numbers[5:15], scores=True, latents=False),
    ]
    assert replies[0].known.tolist() == replies[1].known.tolist()
    assert sent(remote)["blind"] == 1


def test_ids_that_were_asked_about_once_are_not_asked_about_again():
    channel, cache = party(), AlignmentCache()
    whole = align(channel, [*IDS, "x", "y"], cache=cache)
    first = sent(channel)
    assert first == {"begin": 1, "tags": 1, "blind": 1}
    fold = [*IDS[10:30], "y", *IDS[:5]]
    positions = align(channel, fold, cache=cache)
    assert positions.tolist() == [*whole[10:30], whole[-1], *whole[:5]]
    assert sent(channel) == first
    more = align(channel, [*fold, "new", "C001"], cache=cache)
    assert more.tolist() == [*positions, -1, whole[1]]
    assert sent(channel) == {"begin": 2, "tags": 1, "blind": 2}
    assert channel._service.usage.aligned_ids == len(IDS) + 3


def test_a_prediction_for_ten_ids_costs_ten_points_and_no_tags(monkeypatch):
    channel, cache = party([f"C{i}" for i in range(5000)]), AlignmentCache()
    align(channel, ["x"], cache=cache)
    before = channel._ledger.n_bytes
    built = []
    monkeypatch.setattr(KeyList, "__init__", lambda *a, **k: built.append(a))
    assert (align(channel, [f"C{i}" for i in range(10)], cache=cache) >= 0).all()
    assert channel._ledger.n_bytes - before < 2 * 10 * 32 + 1500
    assert not built


def test_pieces_of_a_large_set_make_one_result(monkeypatch):
    whole = {i: row for row, i in enumerate(IDS)}
    monkeypatch.setattr(protocol, "POINTS_PER_MESSAGE", 7)
    monkeypatch.setattr(protocol, "TAGS_PER_MESSAGE", 11)
    channel = party()
    keys = [*IDS[::-1], *"abcdefgh"]
    assert rows_of(channel, align(channel, keys)) == [whole.get(k, -1) for k in keys]
    assert sent(channel) == {"begin": 1, "tags": 6, "blind": 10}


def test_ids_beyond_the_quota_are_refused_before_any_is_counted():
    channel, cache = party(policy=Policy(max_aligned_ids=25)), AlignmentCache()
    with pytest.raises(PolicyRefusal, match="allows 25 ids to be asked about; 0 are used and 60"):
        align(channel, IDS, cache=cache)
    assert channel._service.usage.aligned_ids == 0
    align(channel, IDS[:20], cache=cache)
    align(channel, IDS[:20], cache=cache)
    with pytest.raises(PolicyRefusal, match="20 are used and 6 more"):
        align(channel, IDS[:26], cache=cache)
    align(channel, IDS[:25], cache=cache)
    with pytest.raises(PolicyRefusal, match="25 are used and 1 more"):
        count_shared(channel, ["x"])


def test_a_refusal_in_the_middle_keeps_the_pieces_before_it(monkeypatch):
    monkeypatch.setattr(protocol, "POINTS_PER_MESSAGE", 10)
    channel, cache = party(), AlignmentCache()
    ask, asked = channel.ask, []

    def cut(request, expected):
        asked.append(request)
        if len(asked) == 5:
            raise PartyError("shop", "cannot be reached")
        return ask(request, expected)

    channel.ask = cut
    with pytest.raises(PartyError, match="cannot be reached"):
        align(channel, IDS, cache=cache)
    assert rows_of(channel, align(channel, IDS, cache=cache)) == list(range(60))
    assert channel._service.usage.aligned_ids == 60


def test_both_sides_must_declare_the_same_normalisation():
    problem = "ids are declared as 'casefold', it was asked with 'exact'; declare the same"
    channel = party(normalisation="casefold")
    for ask in (align, count_shared):
        with pytest.raises(PartyError, match=f"party 'shop': its {problem}"):
            ask(channel, IDS)
    assert (align(channel, [i.lower() for i in IDS], normalisation="casefold") >= 0).all()


def test_too_few_shared_ids_are_an_error_at_the_active_party_and_a_refusal_at_the_passive_one():
    channel = party(policy=Policy(min_intersection=20))
    keys = [*IDS[:19], *IDS[:19], "a", "b"]
    with pytest.raises(PartyError, match="has 19 of the 21 different ids, 20 are required"):
        align(channel, keys, min_intersection=20)
    positions = align(channel, keys)
    with pytest.raises(
        PolicyRefusal, match="19 rows or fewer are shared, its policy takes part from 20 on"
    ):
        open_session(channel, "s", positions, resume=False)
    assert not channel._service.sessions
    assert open_session(channel, "s", align(channel, [*keys, IDS[19]]), resume=False).sum() == 39
    with pytest.raises(PolicyRefusal, match="19 rows or fewer are shared"):
        count_shared(channel, IDS[:19])


def test_a_policy_may_allow_to_count_and_not_to_align():
    channel = party(policy=Policy(protocols=frozenset({"cardinality"})))
    assert count_shared(channel, [*IDS[:9], *IDS[:3], "x", None]) == 9
    with pytest.raises(PolicyRefusal, match="does not allow the protocol 'alignment'"):
        align(channel, IDS)


def test_a_table_that_has_changed_is_aligned_anew_and_never_gives_other_rows():
    channel, cache = party(), AlignmentCache()
    align(channel, IDS[:10], cache=cache)
    channel._service.table = KeyedTable("shop", frame([*IDS[5:], "new"]))
    asked = []

    def ask(positions):
        asked.append(positions)
        return channel._service.table.select(positions)[0]

    with pytest.raises(StaleAlignment, match="align again"):
        ask(align(channel, IDS[:10], cache=cache))
    rows = align_and_ask(channel, IDS[:10], ask, cache=cache)
    assert rows.index.tolist() == [0, 1, 2, 3, 4]
    assert (asked[-1] >= 0).tolist() == [False] * 5 + [True] * 5
    # Ids that were not asked about yet bring the new list by themselves.
    channel._service.table = KeyedTable("shop", frame(IDS))
    assert rows_of(channel, align(channel, IDS, cache=cache)) == list(range(60))


def test_ids_that_were_unknown_are_found_once_the_party_has_them():
    channel, cache = party(IDS[:50]), AlignmentCache()
    align(channel, IDS[:5], cache=cache)
    assert align(channel, IDS[50:], cache=cache).max() < 0
    before = channel._service.usage.aligned_ids
    assert align(channel, IDS[50:], cache=cache).max() < 0
    assert channel._service.usage.aligned_ids == before == 15
    channel._service.table = KeyedTable("shop", frame(IDS), n_threads=1)
    assert rows_of(channel, align(channel, IDS[50:], cache=cache)) == list(range(50, 60))


def test_processes_that_share_a_cache_ask_about_each_id_once(tmp_path):
    channel, cache = party(), AlignmentCache()
    align(channel, IDS[:10], cache=cache)
    first = SharedCache.share(cache, tmp_path / "folder")
    second = SharedCache(tmp_path / "folder")
    whole = align(channel, [*IDS, "x"], cache=second)
    assert channel._service.usage.aligned_ids == 61
    messages = channel._ledger.messages
    np.testing.assert_array_equal(align(channel, [*IDS, "x"], cache=first), whole)
    assert channel._ledger.messages == messages
    for path in [tmp_path / "folder", *(tmp_path / "folder").iterdir()]:
        assert path.stat().st_mode & 0o077 == 0
    first.forget("shop")
    align(channel, IDS, cache=second)
    assert channel._service.usage.aligned_ids == 121
    first.remove()
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(align(channel, IDS, cache=second), whole[:60])
    assert channel._service.usage.aligned_ids == 121


def test_a_table_that_changes_in_the_middle_of_an_alignment_is_an_error_that_says_so():
    channel = party()
    ask = channel.ask

    def changing(request, expected):
        if expected is protocol.Blinded:
            channel._service.table = KeyedTable("shop", frame())
        return ask(request, expected)

    channel.ask = changing
    with pytest.raises(StaleAlignment, match="changed during an alignment"):
        align(channel, IDS)


def test_a_secret_that_the_party_keeps_makes_positions_outlive_a_restart():
    cache = AlignmentCache()
    before = party(secret=b"k" * 32)
    positions = align(before, IDS, cache=cache)
    after = party(secret=b"k" * 32)
    assert rows_of(after, positions) == list(range(60))
    assert align(after, [*IDS, "x"], cache=cache).tolist() == [*positions, -1]
    assert "tags" not in sent(after)


def test_each_party_is_asked_with_secrets_of_its_own_and_each_time_with_new_ones(monkeypatch):
    points = []
    answer = protocol.answer_blind

    def spy(service, request):
        points.extend(row.tobytes() for row in request.points)
        return answer(service, request)

    monkeypatch.setitem(ANSWERS, protocol.Blind.kind, ("alignment", spy))
    shop, telecom = party(), party(IDS[30:], name="telecom")
    cache = AlignmentCache()
    of_shop, of_telecom = align(shop, IDS, cache=cache), align(telecom, IDS, cache=cache)
    assert (of_shop >= 0).all()
    assert (of_telecom >= 0).sum() == 30
    assert set(of_shop.tolist()).isdisjoint(of_telecom.tolist())
    align(shop, IDS)  # without the cache: all again
    assert len(set(points)) == len(points) == 3 * len(IDS)


def test_threads_that_ask_for_the_same_ids_ask_the_party_once():
    channel, cache, results = party(), AlignmentCache(), []

    def run():
        results.append(align(channel, IDS, cache=cache).tolist())

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 6
    assert all(result == results[0] for result in results)
    assert sent(channel) == {"begin": 1, "tags": 1, "blind": 1}


def test_nothing_of_the_ids_is_in_the_messages_and_their_order_is_not_that_of_the_rows(
    monkeypatch,
):
    seen = []
    cross = InProcessChannel._cross
    monkeypatch.setattr(
        InProcessChannel,
        "_cross",
        lambda self, d, m: (seen.append(encode(m)), cross(self, d, m))[1],
    )
    align(party(), IDS)
    count_shared(party(), IDS)
    assert len(seen) == 8
    assert not any(i.encode() in data for i in IDS for data in seen)


@pytest.mark.parametrize("point", [bytes(32), b"\xff" * 32, b"\x01" + bytes(31)])
def test_hostile_points_are_refused_by_both_sides_with_an_error(point):
    channel = party()
    hostile = np.tile(np.frombuffer(point, dtype=np.uint8), (3, 1))
    name = channel.ask(protocol.Begin(normalisation="exact", n_ids=3), protocol.Begun).list
    with pytest.raises(PartyError, match="was sent no blinded ids: one of 3 points"):
        channel.ask(protocol.Blind(list=name, points=hostile), protocol.Blinded)
    with pytest.raises(PartyError, match="was sent no blinded ids"):
        channel.ask(Count(normalisation="exact", points=hostile), Counted)
    replaced(channel, protocol.Blinded, lambda reply: protocol.Blinded(points=hostile))
    with pytest.raises(PartyError, match="answered with no blinded ids"):
        align(channel, IDS[:3])


def replaced(channel, cls, change):
    """Have a channel's replies of one kind changed on their way."""
    ask = channel.ask

    def changed(request, expected):
        reply = ask(request, expected)
        return change(reply) if expected is cls else reply

    channel.ask = changed


def many(tags):
    return np.concatenate([tags, tags])


@pytest.mark.parametrize(
    ("cls", "change", "problem"),
    [
        (protocol.Begun, lambda r: protocol.Begun(list=r.list, n_ids=10**12), "at most 20,000,000"),
        (protocol.Begun, lambda r: protocol.Begun(list=r.list, n_ids=-1), "at most"),
        (protocol.Begun, lambda r: protocol.Begun(list=r.list, n_ids=59), "did not send 59 sorted"),
        (protocol.TagList, lambda r: protocol.TagList(tags=r.tags[:0]), "did not send 60 sorted"),
        (protocol.TagList, lambda r: protocol.TagList(tags=r.tags[::-1]), "60 sorted"),
        (protocol.TagList, lambda r: protocol.TagList(tags=many(r.tags)), "60 sorted"),
        (protocol.Blinded, lambda r: protocol.Blinded(points=r.points[:-1]), "did not answer"),
        (protocol.Blinded, lambda r: protocol.Blinded(points=many(r.points)), "did not answer"),
    ],
)
def test_an_answer_that_is_not_of_the_protocol_is_an_error_and_is_not_remembered(
    cls, change, problem
):
    channel, cache = party(), AlignmentCache()
    ask = channel.ask
    replaced(channel, cls, change)
    with pytest.raises(PartyError, match=problem):
        align(channel, IDS, cache=cache)
    channel.ask = ask
    assert rows_of(channel, align(channel, IDS, cache=cache)) == list(range(60))


def test_requests_out_of_place_are_errors():
    channel = party()
    begun = channel.ask(protocol.Begin(normalisation="exact", n_ids=0), protocol.Begun)
    for first in (-1, 60, 2**62):
        with pytest.raises(PartyError, match="has 60 tags, number"):
            channel.ask(protocol.Tags(list=begun.list, first=first), protocol.TagList)
    with pytest.raises(PartyError, match="must not be negative"):
        channel.ask(protocol.Begin(normalisation="exact", n_ids=-1), protocol.Begun)
    with pytest.raises(StaleAlignment):
        channel.ask(protocol.Tags(list="other", first=0), protocol.TagList)
    no_keys = InProcessChannel(PartyService("shop", Table(frame()), Encoder(), ANSWERS), Ledger())
    with pytest.raises(PartyError, match="its table has no keys"):
        align(no_keys, IDS)


def test_no_ids_are_aligned_as_well():
    channel = party()
    assert align(channel, []).shape == (0,)
    assert align(channel, [None, np.nan]).tolist() == [-1, -1]
    assert count_shared(channel, []) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.binary(min_size=160, max_size=160))
def test_messages_come_back_from_their_bytes(n_points, n_tags, data):
    points = np.frombuffer(data[: 32 * n_points], dtype=np.uint8).reshape(-1, 32)
    tags = np.frombuffer(data[: 16 * n_tags], dtype=np.uint8).reshape(-1, 16)
    for message in (
        protocol.Begin(normalisation="exact", n_ids=n_points),
        protocol.Begun(list="l", n_ids=n_tags),
        protocol.Tags(list="l", first=n_tags),
        protocol.TagList(tags=tags),
        protocol.Blind(list="l", points=points),
        protocol.Blinded(points=points),
        Count(normalisation="digits", points=points),
        Counted(points=points, tags=tags),
    ):
        assert encode(decode(encode(message))) == encode(message)


def test_the_example_of_the_documentation_runs_as_shown():
    page = Path(__file__).parents[2] / "docs" / "alignment.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert (result.attempted > 5, result.failed) == (True, 0)
