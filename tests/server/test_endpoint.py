"""Whatever bytes come, they are answered once, in order, within bounds, and written down."""

import json
import threading
import time

import numpy as np
import pytest

from fedtl.exceptions import PartyBusy, PartyError, PolicyRefusal, SessionExpired
from fedtl.identity import Partner
from fedtl.parties import PartyService, Policy, Table
from fedtl.protocols import ANSWERS, moments, session
from fedtl.server import AuditLog, Bounds, Endpoint, PolicySettings, UsageFile, verify
from fedtl.server._serve import PlainRecipe
from fedtl.wire import (
    Close,
    Closed,
    ConversationLost,
    Describe,
    Failure,
    Frame,
    Limits,
    WireError,
    decode,
    encode,
    pack,
    raised,
    unpack,
)

BANK, OTHER = Partner("bank", "a" * 64), Partner("other", "b" * 64)
BLOCK = np.random.default_rng(0).normal(size=(40, 2))


class Asking:
    """A partner's end, with frames made by hand."""

    def __init__(self, endpoint, partner=BANK, group=b"g" * 8, conversation=b"c" * 8):
        self.endpoint, self.partner = endpoint, partner
        self.group, self.conversation, self.number = group, conversation, 0

    def frame(self, request):
        self.number += 1
        return pack(Frame(self.group, self.conversation, self.number, encode(request)))

    def send(self, data):
        reply = decode(unpack(self.endpoint.answer(self.partner, data)).body)
        if isinstance(reply, Failure):
            raise raised(reply, "shop")
        return reply

    def ask(self, request):
        return self.send(self.frame(request))


@pytest.fixture
def endpoint(tmp_path):
    """A function that makes an endpoint over forty rows; one process cannot lock a log twice."""
    logs = []

    def make(policy=None, answers=ANSWERS, **settings):
        service = PartyService("shop", Table(BLOCK), PlainRecipe(), answers, policy=policy)
        logs.append(AuditLog(tmp_path / "audit.jsonl"))
        usages = UsageFile(tmp_path / "usage.json", settings.pop("approvals", None))
        return Endpoint(service, logs[-1], usages, **settings)

    yield make
    for log in logs:
        log.close()


def lines(endpoint):
    return [json.loads(line) for line in endpoint.audit.path.read_text().splitlines()]


def opening(name="s", resume=False):
    return session.Open(session=name, resume=resume, ids=np.arange(40))


def fits(endpoint, caller="bank"):
    return endpoint.caller(caller).service.usage.fits


# Once


def test_a_message_that_comes_again_gets_the_same_reply_and_is_not_carried_out_again(endpoint):
    shop = endpoint()
    asking = Asking(shop)
    frame = asking.frame(opening())
    replies = {shop.answer(BANK, frame) for _ in range(3)}
    assert len(replies) == 1
    assert fits(shop) == 1
    assert [line["outcome"] for line in lines(shop)] == ["answered", "repeated", "repeated"]


def test_a_refusal_is_repeated_too(endpoint):
    shop = endpoint(Policy(max_fits=0))
    frame = Asking(shop).frame(opening())
    assert shop.answer(BANK, frame) == shop.answer(BANK, frame)
    with pytest.raises(PolicyRefusal):
        Asking(shop).send(frame)


def test_a_message_that_comes_again_while_it_is_worked_on_waits_for_its_reply(endpoint):
    begun, go_on = threading.Event(), threading.Event()

    def slow(party, request):
        begun.set()
        assert go_on.wait(10)
        return session.answer_open(party, request)

    shop = endpoint(answers={**ANSWERS, "session.open/1": ("session", slow)})
    frame, replies = Asking(shop).frame(opening()), []
    threads = [
        threading.Thread(target=lambda: replies.append(shop.answer(BANK, frame))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(replies) == 3
    assert len(set(replies)) == 1
    assert fits(shop) == 1


def test_an_older_message_is_refused_as_replayed_or_reordered(endpoint):
    shop = endpoint()
    asking = Asking(shop)
    first, second = asking.frame(opening("a")), asking.frame(opening("b"))
    asking.send(first)
    asking.send(second)
    with pytest.raises(WireError, match="message 1 .* after message 2: replayed or reordered"):
        asking.send(first)
    assert fits(shop) == 2


def test_other_words_under_a_used_number_are_refused(endpoint):
    shop = endpoint()
    asking = Asking(shop)
    asking.ask(opening("a"))
    asking.number = 0
    with pytest.raises(WireError, match="with other words"):
        asking.ask(opening("b"))


def test_a_conversation_that_is_not_known_has_to_begin_with_its_first_message(endpoint):
    asking = Asking(endpoint())
    asking.number = 5
    with pytest.raises(ConversationLost, match="party 'shop': was started anew"):
        asking.ask(opening())


def test_a_message_may_be_skipped_that_never_arrived(endpoint):
    asking = Asking(endpoint())
    asking.ask(opening("a"))
    asking.frame(opening("lost"))
    asking.ask(opening("b"))


def test_replies_that_are_kept_are_bounded_in_bytes(endpoint):
    shop = endpoint(bounds=Bounds(reply_bytes=1000))
    talks = [Asking(shop, conversation=bytes([i]) * 8) for i in range(1, 9)]
    frames = [talk.frame(opening(str(i))) for i, talk in enumerate(talks)]
    for frame in frames:
        shop.answer(BANK, frame)
    Asking(shop).send(frames[-1])
    with pytest.raises(WireError, match="no longer kept"):
        Asking(shop).send(frames[0])
    assert fits(shop) == 8


# In order of cost


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda data: b"", "truncated"),
        (lambda data: data[:20], "truncated"),
        (lambda data: data[:40], "truncated"),
        (lambda data: data[:-3], "no message"),
        (lambda data: b"HTTP" + data[4:], "something else"),
        (lambda data: data[:4] + b"\x02" + data[5:], "version 2, this side speaks version 1"),
        (lambda data: data[:5] + b"\x40" + data[6:], "out of range"),
        (lambda data: data[:24] + bytes(8) + data[32:], "out of range"),
        (lambda data: data.replace(b"session.open/1", b"session.open/9"), "unknown kind"),
        (lambda data: data.replace(b"session.open/1", b"no.such.kind/1"), "unknown kind"),
        (lambda data: data + bytes(5000), "at most 2000 accepted"),
    ],
)
def test_what_is_no_message_is_refused_with_its_reason_and_written_down(endpoint, spoil, problem):
    shop = endpoint(Policy(limits=Limits(message_bytes=2000)))
    asking = Asking(shop)
    with pytest.raises(WireError, match=problem):
        asking.send(spoil(asking.frame(opening())))
    assert shop.n_sessions == 0
    [line] = lines(shop)
    assert (line["outcome"], line["caller"]) == ("wire", "bank")
    Asking(shop, conversation=b"d" * 8).ask(opening())  # and the service goes on


def test_a_compressed_message_is_not_expanded_beyond_the_limit(endpoint):
    shop = endpoint(Policy(limits=Limits(message_bytes=10_000)))
    bomb = pack(Frame(b"g" * 8, b"c" * 8, 1, bytes(10**8), compressed=True))
    assert len(bomb) < 10**6
    small = pack(Frame(b"g" * 8, b"c" * 8, 1, bytes(10**6), compressed=True))
    for data in (bomb, small, small[:32] + (9000).to_bytes(8, "little") + small[40:]):
        with pytest.raises(WireError):
            Asking(shop).send(data)


@pytest.mark.parametrize(
    "request_",
    [
        session.Prepare(session="s", n_bins=10**9, seed=0),
        moments.MomentsRequest(
            session="s",
            n_folds=200,
            rows=np.empty(0, np.uint32),
            folds=np.empty(0, np.uint8),
            weight=np.empty(0),
            targets=np.empty((0, 2**40)),
        ),
        moments.Model(
            session="s",
            keep=False,
            rows=np.zeros(100_000, np.uint32),
            folds=np.zeros(100_000, np.uint8),
            held_out=np.zeros((1, 33, 1000)),
            coefficients=np.zeros((33, 0)),
        ),
    ],
    ids=["bins", "targets of no rows", "many scores of one row"],
)
def test_a_small_message_that_asks_for_a_lot_of_memory_is_refused(endpoint, request_):
    shop = endpoint(Policy(limits=Limits(message_bytes=10**7)))
    asking = Asking(shop)
    asking.ask(opening())
    asking.ask(session.Prepare(session="s", n_bins=16, seed=0))
    start = time.perf_counter()
    with pytest.raises((PartyError, WireError)):
        asking.ask(request_)
    assert time.perf_counter() - start < 5.0
    assert "MemoryError" not in shop.audit.path.read_text()


def test_an_error_of_the_service_is_not_told_and_does_not_end_it(endpoint):
    def broken(party, request):
        raise RuntimeError("the password is 1234")

    shop = endpoint(answers={**ANSWERS, "session.open/1": ("session", broken)})
    asking = Asking(shop)
    with pytest.raises(PartyError, match="an error of its own") as told:
        asking.ask(opening())
    assert "1234" not in str(told.value)
    assert lines(shop)[-1]["problem"] == "RuntimeError"
    asking.ask(Close(session=""))


# Whose


def test_a_session_belongs_to_the_caller_that_opened_it(endpoint):
    shop = endpoint()
    Asking(shop).ask(opening())
    thief = Asking(shop, OTHER)
    for request in (
        session.Prepare(session="s", n_bins=4, seed=0),
        opening(resume=True),
        session.End(session="s"),
    ):
        with pytest.raises(SessionExpired):
            thief.ask(request)
    assert thief.ask(Close(session="s")).sessions == 0
    assert Asking(shop, conversation=b"d" * 8).ask(session.End(session="s")).session == "s"


def test_a_handle_ends_its_own_sessions_only(endpoint):
    shop = endpoint()
    mine, yours = Asking(shop), Asking(shop, group=b"h" * 8)
    mine.ask(opening("a"))
    yours.ask(opening("b"))
    assert mine.ask(Close(session="")).sessions == 1
    assert shop.n_sessions == 1
    assert isinstance(yours.ask(Close(session="b")), Closed)
    assert shop.n_sessions == 0


def test_quotas_are_each_callers_own(endpoint):
    shop = endpoint(Policy(max_fits=1))
    for partner in (BANK, OTHER):
        asking = Asking(shop, partner)
        asking.ask(opening("a"))
        with pytest.raises(PolicyRefusal, match="all are used"):
            asking.ask(opening("b"))


# Bounds


def test_sessions_conversations_and_requests_in_flight_are_bounded(endpoint):
    shop = endpoint(bounds=Bounds(sessions=2, conversations=2, in_flight=1))
    asking = Asking(shop)
    asking.ask(opening("a"))
    asking.ask(opening("b"))
    with pytest.raises(PolicyRefusal, match="2 sessions of this caller are open"):
        asking.ask(opening("c"))
    asking.ask(opening("a"))  # the same one anew
    Asking(shop, conversation=b"d" * 8).ask(opening("a"))
    with pytest.raises(PartyBusy, match="2 conversations"):
        Asking(shop, conversation=b"e" * 8).ask(opening("a"))
    with shop.caller("bank").flight(), pytest.raises(PartyBusy, match="1 requests"):
        asking.ask(opening("a"))
    asking.ask(opening("a"))


def test_what_is_not_used_for_long_is_ended_and_forgotten(endpoint):
    shop = endpoint(bounds=Bounds(session_seconds=0.05, conversation_seconds=0.05))
    asking = Asking(shop)
    asking.ask(opening())
    shop.sweep()
    assert shop.n_sessions == 1
    time.sleep(0.1)
    shop.sweep()
    assert shop.n_sessions == 0
    assert not shop.caller("bank").service.sessions
    assert lines(shop)[-1]["event"] == "sessions expired"
    with pytest.raises(ConversationLost):
        asking.ask(opening())
    with pytest.raises(SessionExpired):
        Asking(shop).ask(session.Prepare(session="s", n_bins=4, seed=0))


def test_a_failed_opening_leaves_no_lease(endpoint):
    shop = endpoint(Policy(max_fits=0))
    with pytest.raises(PolicyRefusal):
        Asking(shop).ask(opening())
    assert shop.n_sessions == 0


# Quotas and approval


def test_quotas_are_kept_when_the_service_is_started_anew(endpoint):
    policy = PolicySettings(fits_per_day=2, predicted_rows_per_day=10).policy()
    first = endpoint(policy)
    Asking(first).ask(opening())
    first.audit.close()
    second = endpoint(policy)
    Asking(second).ask(opening())
    with pytest.raises(PolicyRefusal, match="allows 2 fits; all are used"):
        Asking(second, conversation=b"d" * 8).ask(opening())


def test_quotas_are_renewed_by_a_new_day_and_not_by_a_clock_that_is_put_back(endpoint, monkeypatch):
    shop = endpoint(Policy(max_fits=1))
    asking = Asking(shop)
    days = iter(["2026-05-02", "2026-05-02", "2026-05-01", "2026-05-03"])
    monkeypatch.setattr("fedtl.server._usage._today", lambda: next(days))
    asking.ask(opening("a"))
    for _ in range(2):
        with pytest.raises(PolicyRefusal):
            asking.ask(opening("b"))
    asking.ask(opening("b"))


def test_a_description_tells_what_is_used_of_the_quotas_of_today(endpoint, monkeypatch):
    shop = endpoint(Policy(max_fits=3))
    asking, days = Asking(shop), ["2026-05-01"]
    monkeypatch.setattr("fedtl.server._usage._today", lambda: days[-1])
    asking.ask(opening("a"))

    def used():
        return json.loads(asking.ask(Describe()).text.tobytes())["fits"]["used"]

    assert used() == 1
    days.append("2026-05-02")
    assert used() == 0
    days.append("2026-05-01")
    assert used() == 0


def test_a_fit_needs_an_approval_where_the_party_says_so(endpoint, tmp_path):
    from fedtl.server import approve

    shop = endpoint(approvals=tmp_path / "approvals")
    asking = Asking(shop)
    with pytest.raises(PolicyRefusal, match="wants every fit approved"):
        asking.ask(opening("a"))
    assert approve(tmp_path / "approvals", "bank", 2) == 2
    asking.ask(opening("a"))
    asking.ask(opening("b"))
    with pytest.raises(PolicyRefusal):
        asking.ask(opening("c"))
    with pytest.raises(PolicyRefusal):
        Asking(shop, OTHER).ask(opening("a"))


# Nothing is answered unlogged


def test_nothing_is_answered_that_cannot_be_written_down(endpoint, monkeypatch):
    shop = endpoint()
    asking = Asking(shop)
    asking.ask(opening("a"))
    put = AuditLog._put.__globals__["os"].write

    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedtl.server._audit.os.write", full)
    frame = asking.frame(opening("b"))
    for _ in range(2):
        with pytest.raises(PartyError, match="'shop': cannot write down what it answers"):
            asking.send(frame)
    used = fits(shop)
    with pytest.raises(PartyError, match="cannot write down"):
        asking.ask(opening("c"))
    assert fits(shop) == used  # from then on nothing is carried out either
    monkeypatch.setattr("fedtl.server._audit.os.write", put)
    asking.ask(opening("d"))
    assert verify(shop.audit.path).problems == []
    assert "log writable again" in [line.get("event") for line in lines(shop)]


def test_a_line_tells_who_asked_what_about_how_many_rows(endpoint):
    shop = endpoint()
    Asking(shop).ask(opening("secret"))
    [line] = lines(shop)
    told = {"caller": "bank", "kind": "session.open/1", "rows": 40, "outcome": "answered"}
    assert told.items() <= line.items()
    assert line["certificate"] == "a" * 16
