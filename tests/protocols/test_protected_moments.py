"""Moments under encryption are the clear ones, and only the owner of the key can read them."""

import dataclasses

import numpy as np
import pytest

from fedtl import Encoder
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger
from fedtl.parties import PartyService, Policy, Table
from fedtl.privacy import FixedPointError
from fedtl.protocols import ANSWERS
from fedtl.protocols.moments import ask_moments
from fedtl.protocols.protected_moments import Keep, Kept, ProtectedMoments, Reply, Request
from fedtl.protocols.protected_predict import SEALED
from fedtl.protocols.session import end_session, open_session, prepare_session
from fedtl.wire import decode

pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")

FOLDS = 3
RNG = np.random.default_rng(1)
ROWS = RNG.permutation(np.delete(np.arange(60), [5, 17]))[:45]
FOLD = np.arange(45) % FOLDS
TARGETS = np.column_stack([RNG.integers(0, 2, 45), RNG.normal(size=45)]).astype(float)
MOMENTS = {"folds": FOLD, "weight": np.full(45, 0.7), "targets": TARGETS, "n_folds": FOLDS}


@pytest.fixture(scope="module")
def exchange():
    exchange = ProtectedMoments(2048)
    exchange.prepare(1000)
    return exchange


def begin(border, n_bins=2):
    open_session(border, "s", np.arange(60), resume=False)
    return prepare_session(border, "s", n_bins, seed=0)


@pytest.fixture
def shop(block):
    service = PartyService("shop", Table(block), Encoder(), ANSWERS)
    border = InProcessChannel(service, Ledger(), serialize=True)
    begin(border)
    return border


def test_moments_are_those_in_the_clear_to_the_fixed_point_error(shop, exchange):
    gram, cross = exchange.ask_moments(shop, "s", ROWS, **MOMENTS)
    expected = ask_moments(shop, "s", ROWS, **MOMENTS)
    np.testing.assert_allclose(gram, expected[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(cross, expected[1], atol=1e-3)
    assert shop._service.sessions["s"].features.encoding_.rotation_ is None


@pytest.mark.parametrize("n_targets", [1, 9, 30])
def test_more_targets_than_slots_take_more_ciphertexts(block, exchange, n_targets):
    border = InProcessChannel(PartyService("shop", Table(block), Encoder(), ANSWERS), Ledger())
    begin(border, n_bins=0)
    targets = RNG.normal(size=(45, n_targets))
    options = MOMENTS | {"targets": targets, "folds": np.arange(45) // 23, "n_folds": 2}
    options = options | {"folds": np.zeros(45, dtype=int)} if n_targets > 9 else options
    _, cross = exchange.ask_moments(border, "s", ROWS[:45], **options)
    _, expected = ask_moments(border, "s", ROWS[:45], **options)
    np.testing.assert_allclose(cross, expected, atol=1e-3)


def test_a_rotated_encoding_is_rotated_under_encryption(block, exchange, monkeypatch):
    monkeypatch.setattr("fedtl.parties._features.MAX_WIDTH", 4)
    border = InProcessChannel(PartyService("shop", Table(block), Encoder(), ANSWERS), Ledger())
    assert begin(border) == 4
    _, cross = exchange.ask_moments(border, "s", ROWS, **MOMENTS)
    _, expected = ask_moments(border, "s", ROWS, **MOMENTS)
    np.testing.assert_allclose(cross, expected, atol=1e-3)


def test_coefficients_that_do_not_fit_are_refused(shop, exchange, crossed):
    width = begin(shop)
    kept = RNG.normal(size=(1 + width, 2))
    with pytest.raises(PartyError, match=f"'shop': coefficients for {width} columns were sent"):
        exchange.keep(shop, "s", kept[1:])
    crossed.clear()
    with pytest.raises(FixedPointError, match="scale the target down"):
        exchange.keep(shop, "s", kept * 1e8)
    assert not crossed
    end_session(shop, "s")
    with pytest.raises(PartyError, match="'shop': no fit is under way"):
        exchange.keep(shop, "s", kept)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"key": np.full(128, 255, dtype=np.uint8)}, "'shop': .*1024 bits"),
        ({"ciphertexts": lambda c: c * 0 + 255}, "out of range"),
        ({"ciphertexts": lambda c: c[..., 1:]}, "512 bytes"),
        ({"n_outputs": 0}, "at least one"),
        ({"n_outputs": 32}, "were expected"),
    ],
)
def test_malformed_coefficients_are_refused(shop, exchange, crossed, changed, said):
    exchange.keep(shop, "s", RNG.normal(size=(1 + begin(shop), 2)))
    (request,) = [decode(data) for _, kind, data in crossed if kind == Keep.kind]
    values = {k: v(getattr(request, k)) if callable(v) else v for k, v in changed.items()}
    begin(shop)
    with pytest.raises(PartyError, match=said):
        shop.ask(dataclasses.replace(request, **values), Kept)
    assert SEALED not in shop._service.sessions["s"].state


def requests(crossed):
    return [decode(data) for _, kind, data in crossed if kind == Request.kind]


def test_equal_targets_give_different_ciphertexts_and_none_crosses_in_the_clear(
    shop, exchange, crossed
):
    targets = np.full((45, 2), 0.37)
    exchange.ask_moments(shop, "s", ROWS, **MOMENTS | {"targets": targets})
    (request,) = requests(crossed)
    assert len({row.tobytes() for row in request.ciphertexts}) == 45
    sent = b"".join(data for direction, _, data in crossed if direction == "sent")
    assert np.float64(0.37).tobytes() not in sent


def test_sums_are_randomised_anew(shop, exchange, crossed):
    exchange.ask_moments(shop, "s", ROWS, **MOMENTS)
    (request,) = requests(crossed)
    sums = [shop.ask(request, Reply).sums for _ in range(2)]
    assert not [
        a for a, b in zip(*(s.reshape(-1, 512) for s in sums), strict=True) if (a == b).all()
    ]


def test_another_key_cannot_read_the_sums(shop, exchange, crossed):
    exchange.ask_moments(shop, "s", ROWS, **MOMENTS)
    (request,) = requests(crossed)
    sums = shop.ask(request, Reply).sums
    other = ProtectedMoments(2048)
    with pytest.raises(PartyError, match="cannot be decrypted"):
        other._opened("shop", sums, other._slots(45, _fixed()))


def _fixed():
    from fedtl.privacy.fixed_point import FixedPoint

    return FixedPoint(20, 2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"key": np.full(256, 255, dtype=np.uint8)}, "'shop': .* is refused"),
        ({"key": np.full(128, 255, dtype=np.uint8)}, "'shop': .*1024 bits"),
        ({"ciphertexts": np.full((45, 1, 512), 255, dtype=np.uint8)}, "out of range"),
        ({"ciphertexts": np.ones((45, 1, 256), dtype=np.uint8)}, "512 bytes"),
        ({"folds_together": 0}, "at least one"),
        ({"n_targets": 14}, "would give every row away"),
        ({"n_folds": 2}, "folds must lie below"),
    ],
)
def test_a_malformed_request_is_refused(shop, exchange, crossed, changed, said):
    exchange.ask_moments(shop, "s", ROWS, **MOMENTS)
    (request,) = requests(crossed)
    with pytest.raises(PartyError, match=said):
        shop.ask(dataclasses.replace(request, **changed), Reply)


def test_a_reply_that_is_no_ciphertext_of_the_key_is_refused(block, exchange, monkeypatch):
    border = InProcessChannel(PartyService("shop", Table(block), Encoder(), ANSWERS), Ledger())
    begin(border)
    answer = PartyService.answer
    faults = {
        "out of range": lambda sums: np.full_like(sums, 255),
        "more than its slots": lambda sums: np.pad(
            sums[..., 1:-1], [(0, 0)] * (sums.ndim - 1) + [(1, 1)]
        ),
        "were expected": lambda sums: sums[:, :, 1:],
    }
    for said, spoil in faults.items():

        def wrong(self, request, spoil=spoil):
            reply = answer(self, request)
            return dataclasses.replace(reply, sums=spoil(reply.sums))

        monkeypatch.setattr(PartyService, "answer", wrong)
        with pytest.raises(PartyError, match=f"'shop': .*{said}"):
            exchange.ask_moments(border, "s", ROWS, **MOMENTS)


def test_unequal_weights_and_targets_that_do_not_fit_are_refused(shop, exchange, crossed):
    with pytest.raises(ValueError, match="all rows must weigh the same"):
        exchange.ask_moments(shop, "s", ROWS, **MOMENTS | {"weight": np.arange(45) + 1.0})
    with pytest.raises(FixedPointError):
        exchange.ask_moments(shop, "s", ROWS, **MOMENTS | {"targets": TARGETS * 1e15})
    assert not crossed


def test_policies_bind_protected_moments_too(block, exchange):
    def border(**bounds):
        service = PartyService("shop", Table(block), Encoder(), ANSWERS, policy=Policy(**bounds))
        border = InProcessChannel(service, Ledger())
        begin(border)
        return border

    with pytest.raises(PolicyRefusal, match="15 rows"):
        exchange.ask_moments(border(min_rows=16), "s", ROWS, **MOMENTS)
    only = border(protocols=frozenset({"session", "protected_moments", "protected_predict"}))
    exchange.ask_moments(only, "s", ROWS, **MOMENTS)
    with pytest.raises(PolicyRefusal, match="'moments'"):
        ask_moments(only, "s", ROWS, **MOMENTS)


def test_the_ledger_tells_what_is_encrypted(shop, exchange):
    exchange.ask_moments(shop, "s", ROWS, **MOMENTS)
    protection = {row["kind"]: row["protection"] for row in shop._ledger.rows()}
    assert protection[Request.kind] == protection[Reply.kind] == "paillier"
