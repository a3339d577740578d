"""Whatever crosses is counted to the byte, and a simulated border is a border."""

from typing import Annotated

import numpy as np
import pytest

from fedtl import Encoder
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger, Simulation
from fedtl.parties import PartyService, Policy, Table
from fedtl.protocols import ANSWERS, session
from fedtl.wire import Limits, Message, Tensor, WireError, encode, message


@message("test.ping/1")
class Ping(Message):
    text: str
    table: Annotated[np.ndarray, Tensor("float64", ("rows", 2))]


@message("test.pong/1")
class Pong(Message):
    table: Annotated[np.ndarray, Tensor("float64", ("rows", 2))]


def answer_ping(party, request):
    """Reply with the table that came, doubled; with nonsense when told so."""
    if request.text == "strange":
        return request
    if request.text == "broken":
        return Pong(table=np.full((1, 2), np.nan))
    party.seen = request
    return Pong(table=2.0 * request.table)


@pytest.fixture(params=[False, True], ids=["by reference", "serialized"])
def serialize(request):
    return request.param


def channel(serialize, **policy):
    service = PartyService(
        "shop", Table(()), None, {"test.ping/1": ("ping", answer_ping)}, policy=Policy(**policy)
    )
    return InProcessChannel(service, Ledger(), serialize), service


def test_a_reply_comes_back_and_both_messages_are_counted_to_the_byte(serialize):
    border, _ = channel(serialize)
    request = Ping(text="é", table=np.ones((3, 2)))
    reply = border.ask(request, Pong)
    np.testing.assert_array_equal(reply.table, np.full((3, 2), 2.0))
    assert border._ledger.rows() == [
        {
            "party": "shop",
            "direction": "sent",
            "kind": "test.ping/1",
            "protection": "none",
            "messages": 1,
            "bytes": len(encode(request)),
        },
        {
            "party": "shop",
            "direction": "received",
            "kind": "test.pong/1",
            "protection": "none",
            "messages": 1,
            "bytes": len(encode(reply)),
        },
    ]


def test_only_a_serialized_message_is_a_copy():
    for serialize in (False, True):
        border, service = channel(serialize)
        request = Ping(text="", table=np.ones((3, 2)))
        border.ask(request, Pong)
        assert (service.seen is request) == (not serialize)
        assert np.shares_memory(service.seen.table, request.table) == (not serialize)


def test_a_request_that_breaks_its_schema_does_not_reach_the_party(serialize):
    border, service = channel(serialize)
    with pytest.raises(WireError, match="table"):
        border.ask(Ping(text="", table=np.full((1, 2), np.nan)), Pong)
    assert not hasattr(service, "seen")


def test_a_reply_that_breaks_its_schema_is_not_handed_on(serialize):
    border, _ = channel(serialize)
    with pytest.raises(WireError, match=r"test\.pong/1"):
        border.ask(Ping(text="broken", table=np.ones((1, 2))), Pong)


def test_a_reply_of_another_kind_is_refused_with_both_names(serialize):
    border, _ = channel(serialize)
    with pytest.raises(PartyError, match=r"'shop': replied 'test\.ping/1' instead of 'test\.pong"):
        border.ask(Ping(text="strange", table=np.ones((1, 2))), Pong)


def test_a_refusal_comes_through_and_what_was_sent_is_counted(serialize):
    border, _ = channel(serialize, protocols=frozenset())
    with pytest.raises(PolicyRefusal, match=r"'shop': .*'ping' \(allowed: none\)"):
        border.ask(Ping(text="", table=np.ones((1, 2))), Pong)
    assert border._ledger.messages == 1


LIMITS = [
    (True, Limits(message_bytes=300)),
    (False, Limits(message_bytes=300)),
    # Without serialising there is no header to be parsed.
    (True, Limits(header_bytes=64)),
]


@pytest.mark.parametrize(("serialize", "limits"), LIMITS)
def test_a_message_beyond_the_limits_of_the_party_is_refused(serialize, limits):
    border, service = channel(serialize, limits=limits)
    with pytest.raises(WireError, match="at most"):
        border.ask(Ping(text="", table=np.ones((30, 2))), Pong)
    assert not hasattr(service, "seen")


def test_a_ledger_sums_messages_of_one_kind_and_keeps_directions_apart():
    ledger = Ledger()
    ledger.add("a", "sent", "k/1", 10)
    ledger.add("a", "sent", "k/1", 5)
    ledger.add("a", "received", "k/1", 7)
    ledger.add("b", "sent", "k/1", 1)
    assert [(r["party"], r["direction"], r["messages"], r["bytes"]) for r in ledger.rows()] == [
        ("a", "sent", 2, 15),
        ("a", "received", 1, 7),
        ("b", "sent", 1, 1),
    ]
    assert (ledger.messages, ledger.n_bytes) == (4, 23)
    assert repr(ledger) == "Ledger(4 messages, 23 bytes)"


RECIPES = {"shop": Encoder(), "post": Encoder()}


def test_simulated_parties_keep_their_sessions_but_not_their_rows():
    parties = Simulation().parties(RECIPES, ANSWERS)
    blocks = [np.arange(6.0)[:, None], np.array([[1.0], [np.nan], [2.0]])]
    channels = parties.channels(blocks, Ledger())
    assert [c.name for c in channels] == ["shop", "post"]
    known = [session.open_session(c, "s", np.arange(4), resume=False) for c in channels]
    assert [k.tolist() for k in known] == [[True] * 4, [True, False, True, False]]
    later = parties.channels([np.full((2, 1), np.nan), np.ones((2, 1))], Ledger())
    known = [session.open_session(c, "s", np.arange(2), resume=True) for c in later]
    assert [k.tolist() for k in known] == [[False] * 2, [True] * 2]
    assert all(len(service.table) == 0 for service in parties.services)


def test_each_party_has_its_own_policy():
    simulation = Simulation(policies={"post": Policy(max_fits=0)})
    blocks = [np.ones((2, 1))] * 2
    shop, post = simulation.parties(RECIPES, ANSWERS).channels(blocks, Ledger())
    session.open_session(shop, "s", np.arange(2), resume=False)
    with pytest.raises(PolicyRefusal, match="party 'post'"):
        session.open_session(post, "s", np.arange(2), resume=False)


def test_a_policy_for_no_party_is_refused_beside_the_parties_there_are():
    simulation = Simulation(policies={"shpo": Policy()})
    with pytest.raises(ValueError, match=r"\['shpo'\].*\['post', 'shop'\]"):
        simulation.parties(RECIPES, ANSWERS)


def test_blocks_are_given_for_every_party():
    with pytest.raises(ValueError, match="zip"):
        Simulation().parties(RECIPES, ANSWERS).channels([np.ones((2, 1))], Ledger())
