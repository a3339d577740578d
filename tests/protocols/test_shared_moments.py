"""Shared moments are the clear ones, what crosses is uniform, and wrong numbers are found out."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import chisquare

from fedtl import Encoder
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger
from fedtl.parties import PartyService, Policy, Table
from fedtl.privacy import FixedPointError
from fedtl.protocols import ANSWERS
from fedtl.protocols.dealer import Deal, Dealer, Deals, Dealt
from fedtl.protocols.moments import ask_moments, ask_scores
from fedtl.protocols.session import end_session, open_session, prepare_session
from fedtl.protocols.shared_moments import Reply, Request, SharedMoments
from fedtl.wire import decode

FOLDS = 3
RNG = np.random.default_rng(1)
ROWS = RNG.permutation(np.delete(np.arange(60), [5, 17]))[:45]
FOLD = np.arange(45) % FOLDS
WEIGHT = np.full(45, 0.7)
TARGETS = np.column_stack([RNG.integers(0, 2, 45), RNG.normal(size=45)]).astype(float)
MOMENTS = {"folds": FOLD, "weight": WEIGHT, "targets": TARGETS, "n_folds": FOLDS}


def begin(border):
    open_session(border, "s", np.arange(60), resume=False)
    return prepare_session(border, "s", 4, seed=0)


@pytest.fixture
def shop(channel):
    begin(channel)
    return channel


def shared(border, dealer=None):
    dealer = InProcessChannel(dealer or Dealer(), border._ledger, border._serialize)
    return SharedMoments(Deals(dealer))


def with_policy(block, **bounds):
    service = PartyService("shop", Table(block), Encoder(), ANSWERS, policy=Policy(**bounds))
    border = InProcessChannel(service, Ledger())
    return border, begin(border)


def test_moments_are_those_in_the_clear_to_the_fixed_point_error(shop):
    gram, cross = shared(shop).ask_moments(shop, "s", ROWS, **MOMENTS)
    expected = ask_moments(shop, "s", ROWS, **MOMENTS)
    np.testing.assert_allclose(gram, expected[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(cross, expected[1], atol=1e-5)


def test_a_fold_without_rows_sums_to_zero(shop):
    options = MOMENTS | {"folds": np.minimum(FOLD, 1), "n_folds": 4}
    gram, cross = shared(shop).ask_moments(shop, "s", ROWS, **options)
    assert not cross[2:].any()
    assert not gram[2:].any()


def test_coefficients_for_new_rows_do_not_cross(shop, crossed):
    width = begin(shop)
    kept = RNG.normal(size=(1 + width, 3))
    exchange = shared(shop)
    exchange.ask_moments(shop, "s", ROWS, **MOMENTS)
    crossed.clear()
    exchange.keep(shop, "s", kept)
    assert not crossed
    with pytest.raises(PartyError, match=f"coefficients for {width} columns were solved"):
        exchange.keep(shop, "s", kept[1:])
    with pytest.raises(FixedPointError, match="scale the numbers down"):
        exchange.keep(shop, "s", kept * 1e15)


def test_two_questions_in_one_session_have_masks_of_their_own(shop, crossed):
    exchange = shared(shop)
    for _ in range(2):
        exchange.ask_moments(shop, "s", ROWS, **MOMENTS)
    masked = [decode(data).masked for _, kind, data in crossed if kind == Request.kind]
    assert len(masked) == 2
    assert not (masked[0] == masked[1]).any()


def views(block, crossed, targets):
    """All that crosses masked, as bytes: from the active party, and from the passive one."""
    border = InProcessChannel(PartyService("shop", Table(block), Encoder(), ANSWERS), Ledger())
    begin(border)
    crossed.clear()
    exchange = shared(border)
    for _ in range(15):
        exchange.ask_moments(border, "s", ROWS, **MOMENTS | {"targets": targets})
    came = [decode(data) for _, _, data in crossed]
    to_party = [m.masked for m in came if isinstance(m, Request)]
    to_active = [part for m in came if isinstance(m, Reply) for part in (m.masked, m.shares)]
    return [
        np.concatenate([part.ravel() for part in parts]).view(np.uint8)
        for parts in (to_party, to_active)
    ]


@pytest.mark.parametrize(
    "targets", [TARGETS, np.zeros((45, 2)), np.full((45, 2), 1e3)], ids=["some", "none", "large"]
)
def test_what_crosses_is_uniform_whatever_targets_and_columns(block, crossed, targets):
    for columns in (block, np.where(np.isnan(block), np.nan, np.sign(block))):
        for seen in views(columns, crossed, targets):
            # The odds of failing by chance are one in 10**6 for each of 12 samples.
            assert chisquare(np.bincount(seen, minlength=256)).pvalue > 1e-6


def test_no_target_crosses_in_the_clear(shop, crossed):
    shared(shop).ask_moments(shop, "s", ROWS, **MOMENTS)
    sent = b"".join(data for direction, _, data in crossed if direction == "sent")
    for secret in TARGETS[:, 1]:
        assert secret.tobytes() not in sent


class WrongDealer(Dealer):
    """A dealer that dies, repeats itself, or deals wrong numbers."""

    def __init__(self, fault):
        super().__init__()
        self.fault, self.last = fault, None

    def answer(self, request):
        if self.fault == "dies":
            raise ConnectionError("the dealer cannot be reached")
        dealt = super().answer(request)
        if self.fault == "wrong":
            corrections = dealt.corrections.copy()
            corrections[7] += np.uint64(1 << 30)
            return dataclasses.replace(dealt, corrections=corrections)
        if self.fault == "short":
            return dataclasses.replace(dealt, corrections=dealt.corrections[1:])
        if self.fault == "sealed":
            return dataclasses.replace(
                dealt, sealed=self.last.sealed if self.last else dealt.sealed
            )
        if self.fault == "repeats":
            self.last = self.last or dealt
            return self.last
        return dealt


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("dies", ConnectionError, "cannot be reached"),
        ("wrong", PartyError, "do not add up"),
        ("short", PartyError, "'dealer': numbers of shape"),
    ],
)
def test_a_dealer_that_fails_gives_an_error_and_no_wrong_sum(block, fault, error, said):
    border, _ = with_policy(block)
    with pytest.raises(error, match=said):
        shared(border, WrongDealer(fault)).ask_moments(border, "s", ROWS, **MOMENTS)


def test_a_dealer_that_repeats_itself_is_found_out_before_anything_is_sent(block, crossed):
    border, _ = with_policy(block)
    exchange = shared(border, WrongDealer("repeats"))
    exchange.ask_moments(border, "s", ROWS, **MOMENTS)
    before = [kind for _, kind, _ in crossed].count(Request.kind)
    with pytest.raises(PartyError, match="'dealer': dealt the same randomness twice"):
        exchange.ask_moments(border, "s", ROWS, **MOMENTS)
    assert [kind for _, kind, _ in crossed].count(Request.kind) == before


def captured(border, crossed):
    shared(border).ask_moments(border, "s", ROWS, **MOMENTS)
    return next(decode(data) for _, kind, data in reversed(crossed) if kind == Request.kind)


def test_a_party_takes_a_seed_once_and_for_its_context_only(block, crossed):
    border, _ = with_policy(block)
    request = captured(border, crossed)
    with pytest.raises(PartyError, match="'shop': .*was used before"):
        border.ask(request, Reply)
    with pytest.raises(PartyError, match="'shop': .*cannot be opened"):
        border.ask(dataclasses.replace(request, context="s 2"), Reply)


def test_a_party_wants_to_be_asked_for_its_key_first(block, crossed):
    border, _ = with_policy(block)
    request = captured(border, crossed)
    end_session(border, "s")
    begin(border)
    with pytest.raises(PartyError, match="before its key was asked for"):
        border.ask(request, Reply)


def test_a_request_for_a_scale_that_does_not_fit_is_refused(block, crossed):
    border, _ = with_policy(block)
    request = captured(border, crossed)
    with pytest.raises(PartyError, match="'shop': 61 fraction bits"):
        border.ask(dataclasses.replace(request, fraction_bits=61), Reply)


def test_a_wrong_share_of_the_party_is_found_out(block, monkeypatch):
    border, _ = with_policy(block)
    answer = PartyService.answer

    def wrong(self, request):
        reply = answer(self, request)
        if isinstance(reply, Reply):
            parts = reply.shares.copy()
            parts[1, 2, 0] += np.uint64(1)
            reply = dataclasses.replace(reply, shares=parts)
        return reply

    monkeypatch.setattr(PartyService, "answer", wrong)
    with pytest.raises(PartyError, match="'shop': its shares .* do not add up"):
        shared(border).ask_moments(border, "s", ROWS, **MOMENTS)


def test_unequal_weights_are_refused_before_they_are_sent(shop, crossed):
    with pytest.raises(ValueError, match="all rows must weigh the same"):
        shared(shop).ask_moments(shop, "s", ROWS, **MOMENTS | {"weight": np.arange(45) + 1.0})
    assert not crossed


def test_targets_that_do_not_fit_are_refused_before_they_are_sent(shop, crossed):
    with pytest.raises(FixedPointError, match="scale the numbers down"):
        shared(shop).ask_moments(shop, "s", ROWS, **MOMENTS | {"targets": TARGETS * 1e12})
    assert Request.kind not in [kind for _, kind, _ in crossed]


def test_as_many_targets_as_rows_are_refused_as_they_would_give_the_rows_away(shop):
    with pytest.raises(PartyError, match="'shop': .* over 15 rows would give every row away"):
        shared(shop).ask_moments(
            shop, "s", ROWS, **MOMENTS | {"targets": RNG.normal(size=(45, 14))}
        )


def test_a_policy_bounds_rows_of_a_sum_and_scores_of_a_row(block):
    border, _ = with_policy(block, min_rows=16)
    with pytest.raises(PolicyRefusal, match="15 rows"):
        shared(border).ask_moments(border, "s", ROWS, **MOMENTS)
    border, width = with_policy(block, max_row_scores=5)
    held_out = np.zeros((FOLDS, 1 + width, 3))
    ask_scores(border, "s", ROWS, folds=FOLD, held_out=held_out)
    with pytest.raises(PolicyRefusal, match=r"scores of one training row .* allows 5"):
        ask_scores(border, "s", ROWS, folds=FOLD, held_out=held_out)


def test_a_party_may_allow_shared_moments_and_refuse_clear_ones(block):
    border, _ = with_policy(
        block, protocols=frozenset({"session", "shared_moments", "shared_predict"})
    )
    shared(border).ask_moments(border, "s", ROWS, **MOMENTS)
    with pytest.raises(PolicyRefusal, match="'moments'"):
        ask_moments(border, "s", ROWS, **MOMENTS)


def test_a_dealer_deals_within_bounds_and_understands_nothing_else():
    key = {"party": "shop", "proof": np.empty(0, np.uint8), "party_key": np.full(32, 9, np.uint8)}
    border = InProcessChannel(Dealer(), Ledger())
    for shapes, said in [([[-1, 2, 3]], "negative"), ([[2**14, 2**14, 2]], "fewer rows")]:
        with pytest.raises(PartyError, match=said):
            border.ask(Deal(context="s", **key, shapes=np.array(shapes)), Dealt)
    with pytest.raises(PartyError, match="'dealer': does not understand"):
        open_session(border, "s", np.arange(3), resume=False)


def test_the_ledger_tells_what_protects_each_message(shop):
    shared(shop).ask_moments(shop, "s", ROWS, **MOMENTS)
    protection = {row["kind"]: row["protection"] for row in shop._ledger.rows()}
    assert (
        protection["shared_moments.request/1"] == protection["shared_moments.reply/1"] == "shares"
    )
    assert protection["session.open/1"] == "none"
    assert {row["party"] for row in shop._ledger.rows()} == {"shop", "dealer"}
