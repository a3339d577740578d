"""Rows are scored under shares as in the clear; coefficients and rows are uniform to the others."""

import dataclasses
import pickle

import numpy as np
import pytest
from scipy.stats import chisquare

from fedtl import Encoder
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger
from fedtl.parties import PartyService, Policy, Table
from fedtl.protocols import ANSWERS
from fedtl.protocols.dealer import Dealer, Deals
from fedtl.protocols.moments import keep
from fedtl.protocols.predict import ask_predictions
from fedtl.protocols.session import end_session, open_session, prepare_session
from fedtl.protocols.shared_moments import SharedMoments
from fedtl.protocols.shared_predict import Key, Public, Reply, Request
from fedtl.wire import Limits, WireError, decode

IDS = np.arange(60)
RNG = np.random.default_rng(1)


def deals(dealer=None):
    return Deals(InProcessChannel(dealer or Dealer(), Ledger()))


def opened(block, **bounds):
    service = PartyService("shop", Table(block), Encoder(), ANSWERS, policy=Policy(**bounds))
    border = InProcessChannel(service, Ledger(), serialize=True)
    open_session(border, "s", IDS, resume=False)
    return border, prepare_session(border, "s", 4, seed=0)


def served(border, coefficients):
    """What asks for scores, after the fit has ended."""
    serving = SharedMoments(deals()).keep(border, "s", coefficients)
    keep(border, "s", coefficients)
    end_session(border, "s")
    return serving


@pytest.mark.parametrize("n_outputs", [1, 3, 40])
def test_scores_are_those_of_the_coefficients_in_the_clear(block, n_outputs):
    border, width = opened(block)
    serving = served(border, RNG.normal(size=(1 + width, n_outputs)))
    expected = ask_predictions(border, "s", IDS, scores=True, latents=False)
    told = serving.ask(border, "s", IDS, deals())
    np.testing.assert_array_equal(told.known, expected.known)
    np.testing.assert_allclose(told.scores, expected.scores, atol=1e-5)
    assert not told.scores[[5, 17]].any()
    nobody = serving.ask(border, "s", IDS[:0], deals())
    assert nobody.scores.shape == (0, n_outputs)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_what_crosses_is_uniform_whatever_coefficients_and_rows(block, crossed, scale):
    for columns in (block, np.where(np.isnan(block), np.nan, np.sign(block))):
        border, width = opened(columns)
        serving = served(border, np.full((1 + width, 2), scale))
        crossed.clear()
        for _ in range(30):
            serving.ask(border, "s", IDS, deals())
        came = [decode(data) for _, _, data in crossed]
        to_party = [m.masked for m in came if isinstance(m, Request)]
        to_active = [part for m in came if isinstance(m, Reply) for part in (m.masked, m.shares)]
        for parts in (to_party, to_active):
            seen = np.concatenate([p.ravel() for p in parts]).view(np.uint8)
            # The odds of failing by chance are one in 10**6 for each of 12 samples.
            assert chisquare(np.bincount(seen, minlength=256)).pvalue > 1e-6


class WrongDealer(Dealer):
    """A dealer that deals a wrong number."""

    def answer(self, request):
        dealt = super().answer(request)
        corrections = dealt.corrections.copy()
        corrections[4] += np.uint64(1 << 30)
        return dataclasses.replace(dealt, corrections=corrections)


def test_wrong_numbers_of_dealer_and_party_are_found_out(block, monkeypatch):
    border, width = opened(block)
    serving = served(border, RNG.normal(size=(1 + width, 2)))
    with pytest.raises(PartyError, match="'shop': its shares .* do not add up"):
        serving.ask(border, "s", IDS, deals(WrongDealer()))
    answer = PartyService.answer

    def wrong(self, request):
        reply = answer(self, request)
        if isinstance(reply, Reply):
            parts = reply.shares.copy()
            parts[7, 0] += np.uint64(1)
            reply = dataclasses.replace(reply, shares=parts)
        return reply

    monkeypatch.setattr(PartyService, "answer", wrong)
    with pytest.raises(PartyError, match="'shop': its shares .* do not add up"):
        serving.ask(border, "s", IDS, deals())


@pytest.mark.parametrize("field", ["known", "masked", "shares"])
def test_replies_of_another_shape_are_refused(block, monkeypatch, field):
    border, width = opened(block)
    serving = served(border, RNG.normal(size=(1 + width, 2)))
    answer = PartyService.answer

    def short(self, request):
        reply = answer(self, request)
        if isinstance(reply, Reply):
            names = ("known", "masked", "shares")
            rest = {name: getattr(reply, name) for name in names}
            rest[field] = rest[field][:-1]
            # A schema ties the rows of one message together.
            reply = Reply(**{n: v[: len(rest[field])] for n, v in rest.items()})
        return reply

    monkeypatch.setattr(PartyService, "answer", short)
    with pytest.raises(PartyError, match="'shop': .*were expected"):
        serving.ask(border, "s", IDS, deals())


def captured(border, crossed):
    coefficients = RNG.normal(size=(1 + border._service.session("s").features.encoding_.width, 2))
    served(border, coefficients).ask(border, "s", IDS, deals())
    return next(decode(data) for _, kind, data in reversed(crossed) if kind == Request.kind)


def test_a_party_takes_a_request_once_for_its_key_and_context_only(block, crossed):
    border, _ = opened(block)
    request = captured(border, crossed)
    with pytest.raises(PartyError, match="before its key was asked for"):
        border.ask(request, Reply)
    fresh = border.ask(Key(session="s"), Public).key
    with pytest.raises(PartyError, match="'shop': .*cannot be opened"):
        border.ask(dataclasses.replace(request, key=fresh), Reply)
    with pytest.raises(PartyError, match="before its key was asked for"):
        border.ask(dataclasses.replace(request, key=fresh), Reply)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"masked": np.zeros((3, 2), np.uint64)}, "were expected"),
        ({"masked": np.zeros((0, 0), np.uint64)}, "were expected"),
        ({"sealed": np.zeros(4, np.uint8)}, "cannot be opened"),
    ],
)
def test_malformed_requests_are_refused(block, crossed, changed, said):
    border, _ = opened(block)
    request = captured(border, crossed)
    key = border.ask(Key(session="s"), Public).key
    with pytest.raises(PartyError, match=f"'shop': .*{said}"):
        border.ask(dataclasses.replace(request, key=key, **changed), Reply)


def test_keys_that_are_asked_for_and_not_used_do_not_pile_up_or_hinder_pickling(block):
    border, width = opened(block)
    serving = served(border, RNG.normal(size=(1 + width, 2)))
    for _ in range(100):
        border.ask(Key(session="s"), Public)
    (keys,) = [v for k, v in border._service.sessions["s"].state.items() if "keys" in k]
    assert len(keys) == 64
    pickle.loads(pickle.dumps(border._service.sessions["s"]))
    serving.ask(border, "s", IDS, deals())


def test_policies_bind_shared_predictions_too(block):
    border, width = opened(block, max_predicted_rows=100)
    serving = served(border, RNG.normal(size=(1 + width, 2)))
    serving.ask(border, "s", IDS, deals())
    with pytest.raises(PolicyRefusal, match="100 predicted rows"):
        serving.ask(border, "s", IDS, deals())
    only = frozenset({"session", "shared_moments", "moments"})
    border, width = opened(block, protocols=only)
    with pytest.raises(PolicyRefusal, match="'shared_predict'"):  # before anything is learnt
        served(border, RNG.normal(size=(1 + width, 2)))
    border, width = opened(block, limits=Limits(message_bytes=20_000))
    serving = served(border, RNG.normal(size=(1 + width, 2)))
    with pytest.raises(WireError, match="at most 20000"):
        serving.ask(border, "s", np.repeat(IDS, 20), deals())


def test_without_a_dealer_nothing_is_asked(block):
    border, width = opened(block)
    serving = served(border, RNG.normal(size=(1 + width, 2)))
    with pytest.raises(ValueError, match="set privacy back to SecretSharing"):
        serving.ask(border, "s", IDS, None)


def test_the_ledger_tells_what_is_shared(block):
    border, width = opened(block)
    served(border, RNG.normal(size=(1 + width, 2))).ask(border, "s", IDS, deals())
    told = {row["kind"]: row["protection"] for row in border._ledger.rows()}
    assert told[Request.kind] == told[Reply.kind] == "shares"
