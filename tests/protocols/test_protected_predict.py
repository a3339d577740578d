"""A party scores new rows by what it cannot read, and the scores are those in the clear."""

import dataclasses

import numpy as np
import pytest

from fedtl import Encoder
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger
from fedtl.parties import PartyService, Policy, Table
from fedtl.protocols import ANSWERS
from fedtl.protocols.moments import keep
from fedtl.protocols.predict import ask_predictions
from fedtl.protocols.protected_moments import Keep, ProtectedMoments
from fedtl.protocols.protected_predict import SEALED, Encrypted, Request
from fedtl.protocols.session import end_session, open_session, prepare_session
from fedtl.wire import Limits, WireError, decode

pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")

IDS = np.arange(60)
RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def exchange():
    exchange = ProtectedMoments(2048)
    exchange.prepare(300)
    return exchange


def opened(block, n_bins=4, **bounds):
    service = PartyService("shop", Table(block), Encoder(), ANSWERS, policy=Policy(**bounds))
    border = InProcessChannel(service, Ledger(), serialize=True)
    open_session(border, "s", np.arange(len(block)), resume=False)
    width = prepare_session(border, "s", n_bins, seed=0)
    return border, width


def in_the_clear(border, coefficients, ids=IDS):
    keep(border, "s", coefficients)
    return ask_predictions(border, "s", ids, scores=True, latents=False)


@pytest.mark.parametrize("n_outputs", [1, 3, 40])
def test_scores_are_those_of_the_coefficients_in_the_clear(block, exchange, n_outputs):
    """With 40 outputs, a row takes two ciphertexts of 31 slots."""
    border, width = opened(block)
    coefficients = RNG.normal(size=(1 + width, n_outputs)) / 3
    serving = exchange.keep(border, "s", coefficients)
    expected = in_the_clear(border, coefficients)
    end_session(border, "s")
    told = serving.ask(border, "s", IDS, None)
    np.testing.assert_array_equal(told.known, expected.known)
    np.testing.assert_allclose(told.scores, expected.scores, atol=2e-3)
    assert not told.scores[[5, 17]].any()


def test_a_rotated_encoding_is_scored_too(block, exchange, monkeypatch):
    monkeypatch.setattr("fedtl.parties._features.MAX_WIDTH", 4)
    border, width = opened(block)
    assert width == 4
    coefficients = RNG.normal(size=(5, 2))
    serving = exchange.keep(border, "s", coefficients)
    told, expected = serving.ask(border, "s", IDS, None), in_the_clear(border, coefficients)
    np.testing.assert_allclose(told.scores, expected.scores, atol=2e-3)


def test_rows_outside_of_what_was_seen_in_the_fit_are_scored_as_in_the_clear(block, exchange):
    """Codes then lie outside of zero and one."""
    border, width = opened(block)
    coefficients = RNG.normal(size=(1 + width, 2))
    serving = exchange.keep(border, "s", coefficients)
    keep(border, "s", coefficients)
    end_session(border, "s")
    new = InProcessChannel(
        border._service.with_table(Table(np.vstack([block * 100.0, -block, block * np.nan]))),
        Ledger(),
    )
    ids = np.arange(180)
    told = serving.ask(new, "s", ids, None)
    expected = ask_predictions(new, "s", ids, scores=True, latents=False)
    np.testing.assert_array_equal(told.known, expected.known)
    np.testing.assert_allclose(told.scores, expected.scores, atol=3e-3)


@pytest.mark.parametrize("ids", [[], [5], [3], [3, 3, 17]])
def test_few_rows_unknown_ones_and_rows_asked_for_twice(block, exchange, ids):
    border, width = opened(block)
    coefficients = RNG.normal(size=(1 + width, 2))
    serving = exchange.keep(border, "s", coefficients)
    ids = np.array(ids, dtype=np.int64)
    expected = in_the_clear(border, coefficients, ids)
    told = serving.ask(border, "s", ids, None)
    np.testing.assert_array_equal(told.known, expected.known)
    np.testing.assert_allclose(told.scores, expected.scores, atol=2e-3)


def test_no_coefficient_and_no_score_is_told_to_the_party(block, exchange, crossed):
    """The same ones are other ciphertexts each time, and each of the two sides' are new."""
    border, width = opened(block)
    coefficients = np.full((1 + width, 1), 0.37)
    serving = exchange.keep(border, "s", coefficients)
    again = exchange.keep(border, "s", coefficients)
    kept = [decode(data).ciphertexts[:, 0] for _, kind, data in crossed if kind == Keep.kind]
    assert len({c.tobytes() for c in np.concatenate(kept)}) == 2 * width
    for asked in (serving, again):
        asked.ask(border, "s", IDS, None)
    told = [decode(data).ciphertexts for _, kind, data in crossed if kind == Encrypted.kind]
    assert not (told[0] == told[1]).all(axis=2).any()
    sent = b"".join(data for direction, _, data in crossed if direction == "sent")
    assert np.float64(0.37).tobytes() not in sent


def test_the_party_cannot_read_what_it_holds(block, exchange):
    """Neither a key nor a number is in its session, and another key opens nothing sensible."""
    border, width = opened(block)
    serving = exchange.keep(border, "s", RNG.normal(size=(1 + width, 2)))
    held = border._service.sessions["s"].state[SEALED]
    assert set(vars(held)) == {"modulus", "ciphertexts", "n_outputs", "inputs"}
    assert "primes" not in repr(serving)  # it may be printed with what holds it
    other = dataclasses.replace(serving, primes=ProtectedMoments(2048)._key.primes)
    with pytest.raises(PartyError, match="'shop': its scores cannot be decrypted"):
        other.ask(border, "s", IDS, None)


def test_policies_bind_protected_predictions_too(block, exchange):
    border, width = opened(block, max_predicted_rows=100)
    serving = exchange.keep(border, "s", RNG.normal(size=(1 + width, 2)))
    serving.ask(border, "s", IDS, None)
    with pytest.raises(PolicyRefusal, match="100 predicted rows"):
        serving.ask(border, "s", IDS, None)
    border, width = opened(block, protocols=frozenset({"session", "protected_moments"}))
    serving = exchange.keep(border, "s", RNG.normal(size=(1 + width, 2)))
    with pytest.raises(PolicyRefusal, match="'protected_predict'"):
        serving.ask(border, "s", IDS, None)
    border, width = opened(block, limits=Limits(message_bytes=20_000))
    serving = exchange.keep(border, "s", RNG.normal(size=(1 + width, 2)))
    with pytest.raises(WireError, match="at most 20000"):
        serving.ask(border, "s", np.repeat(IDS, 20), None)


def test_nothing_is_told_before_it_was_fitted(block):
    border, _ = opened(block)
    with pytest.raises(PartyError, match="'shop': nothing was fitted under encryption"):
        border.ask(Request(session="s", ids=IDS), Encrypted)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: {"ciphertexts": r.ciphertexts[:, :-1]}, "were expected"),
        (lambda r: {"ciphertexts": np.full_like(r.ciphertexts, 255)}, "out of range"),
        (lambda r: {"known": r.known[:-1]}, "were expected"),
        (lambda r: {"known": np.zeros_like(r.known)}, "were expected"),
    ],
)
def test_replies_that_are_no_scores_are_refused(block, exchange, monkeypatch, spoil, said):
    border, width = opened(block)
    serving = exchange.keep(border, "s", RNG.normal(size=(1 + width, 2)))
    answer = PartyService.answer

    def wrong(self, request):
        reply = answer(self, request)
        return dataclasses.replace(reply, **spoil(reply))

    monkeypatch.setattr(PartyService, "answer", wrong)
    with pytest.raises(PartyError, match=f"'shop': .*{said}"):
        serving.ask(border, "s", IDS, None)


def test_the_ledger_tells_what_is_encrypted(block, exchange):
    border, width = opened(block)
    exchange.keep(border, "s", RNG.normal(size=(1 + width, 2))).ask(border, "s", IDS, None)
    told = {row["kind"]: row["protection"] for row in border._ledger.rows()}
    assert told[Keep.kind] == told[Encrypted.kind] == "paillier"
    assert told[Request.kind] == "none"
