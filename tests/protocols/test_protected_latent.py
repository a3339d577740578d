"""A layer under encryption is the layer under shares; nobody reads it while it is trained."""

import dataclasses

import numpy as np
import pytest

from fedtl import Encoder
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger, record_transcript
from fedtl.learning.whitening import Whitening
from fedtl.parties import PartyService, Policy, Table
from fedtl.privacy import FixedPointError
from fedtl.privacy.packing import Layout
from fedtl.protocols import ANSWERS
from fedtl.protocols.dealer import Dealer, Deals
from fedtl.protocols.layers import LayerExchange
from fedtl.protocols.moments import CLEAR
from fedtl.protocols.protected_latent import Kept, Layer, Ready, Score, Scores
from fedtl.protocols.protected_moments import ProtectedMoments
from fedtl.protocols.session import end_session, open_session, prepare_session
from fedtl.protocols.shared_latent import SharedLatent
from fedtl.wire import Limits, WireError, decode

pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")

FOLDS, N = 3, 45
RNG = np.random.default_rng(1)
ROWS = RNG.permutation(np.delete(np.arange(60), [5, 17]))[:N]
FOLD = np.arange(N) % FOLDS
RESIDUALS = np.column_stack([RNG.integers(0, 2, N) - 0.4, RNG.normal(size=N)])


@pytest.fixture(scope="module")
def exchange():
    exchange = ProtectedMoments(2048)
    exchange.prepare(2500)
    return exchange


@pytest.fixture(scope="module")
def encrypted(exchange):
    """Residuals of one output."""
    service = PartyService("shop", Table(RNG.normal(size=(60, 3))), Encoder(), ANSWERS)
    layer = begun(exchange, opened(InProcessChannel(service, Ledger())))
    return layer._encrypted(np.arange(N)[:, None], Layout.of_key(exchange._key.public, 1))


def opened(border):
    open_session(border, "s", np.arange(60), resume=False)
    prepare_session(border, "s", 4, seed=0)
    return border


def begun(exchange, border, rows=ROWS):
    folds = np.arange(len(rows)) % FOLDS
    return exchange.layer(border, "s", rows=rows, folds=folds, n_folds=FOLDS)


def with_policy(block, **bounds):
    service = PartyService("shop", Table(block), Encoder(), ANSWERS, policy=Policy(**bounds))
    return opened(InProcessChannel(service, Ledger()))


@pytest.fixture
def shop(block):
    service = PartyService("shop", Table(block), Encoder(), ANSWERS)
    return opened(InProcessChannel(service, Ledger(), serialize=True))


def under_shares(border):
    deals = Deals(InProcessChannel(Dealer(), Ledger()))
    return SharedLatent(border, "s", deals, rows=ROWS, folds=FOLD, n_folds=FOLDS)


def features(border):
    """What the party computes by itself, in the clear: of the rows trained on, and of all."""
    session = border._service.sessions["s"]
    own = np.concatenate([e for _, e in session.encoded(np.flatnonzero(session.known))])
    trained = np.concatenate([e for _, e in session.encoded(ROWS)])
    whitening = Whitening(own, N)
    return whitening.transform(trained), whitening.transform(own)


def test_scores_are_those_of_a_layer_without_the_fold_and_those_under_shares(exchange, shop):
    scores = begun(exchange, shop).scores(RESIDUALS)
    trained, _ = features(shop)
    for fold in range(FOLDS):
        i = fold == FOLD
        expected = trained[i] @ (trained[~i].T @ RESIDUALS[~i]) * N / (~i).sum()
        np.testing.assert_allclose(scores[i], expected, atol=1e-4)
    end_session(shop, "s")
    np.testing.assert_array_equal(scores, under_shares(opened(shop)).scores(RESIDUALS))


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_the_party_keeps_the_layer_of_all_rows_encrypted_and_it_is_the_one_under_shares(
    exchange, shop, n_outputs
):
    residuals = np.random.default_rng(0).normal(size=(N, n_outputs))
    serving = begun(exchange, shop).keep(residuals)
    trained, own = features(shop)
    end_session(shop, "s")
    told = serving.ask(shop, "s", np.arange(60), None)
    expected = own @ (trained.T @ residuals)
    np.testing.assert_allclose(told.scores[told.known], expected, atol=1e-4)
    assert not told.scores[~told.known].any()
    other = under_shares(opened(shop)).keep(residuals)
    deals = Deals(InProcessChannel(Dealer(), Ledger()))
    np.testing.assert_array_equal(told.scores, other.ask(shop, "s", np.arange(60), deals).scores)


def test_more_outputs_than_slots_take_several_ciphertexts_a_row(exchange, shop, monkeypatch):
    monkeypatch.setattr("fedtl.privacy.packing.SLOT_BITS", 700)  # two of them
    residuals, (trained, _) = np.column_stack([RESIDUALS, RNG.normal(size=N)]), features(shop)
    scores = begun(exchange, shop).scores(residuals)
    i = FOLD == 0
    expected = trained[i] @ (trained[~i].T @ residuals[~i]) * N / (~i).sum()
    np.testing.assert_allclose(scores[i], expected, atol=1e-4)


def test_a_fold_without_rows_and_a_single_fold_score_nothing_wrong(exchange, shop):
    folds = np.where(FOLD == 1, 2, FOLD)
    layer = exchange.layer(shop, "s", rows=ROWS, folds=folds, n_folds=FOLDS)
    trained, _ = features(shop)
    i = folds == 0
    expected = trained[i] @ (trained[~i].T @ RESIDUALS[~i, :1]) * N / (~i).sum()
    np.testing.assert_allclose(layer.scores(RESIDUALS[:, :1])[i], expected, atol=1e-4)
    alone = exchange.layer(shop, "s", rows=ROWS, folds=0 * FOLD, n_folds=1)
    assert not alone.scores(RESIDUALS[:, :1]).any()


def test_a_transcript_has_what_either_side_opens_and_not_what_the_other_does(exchange, shop):
    """Else attacks see ciphertexts only, and the report says that nothing leaks."""
    with record_transcript() as transcript:
        layer = begun(exchange, shop)
        scores = layer.scores(RESIDUALS)
        layer.keep(RESIDUALS)
    (told,) = transcript.openings("shop", "shared_latent.scores")
    np.testing.assert_array_equal(told["rows"], ROWS)
    np.testing.assert_array_equal(told["scores"], scores)
    assert not [e for e in transcript.events if getattr(e, "holder", "") == "shop"]


def came(crossed, kind):
    return [m for m in (decode(data) for _, _, data in crossed) if isinstance(m, kind)]


def test_equal_residuals_are_encrypted_differently_and_scores_are_randomised_anew(
    exchange, shop, crossed
):
    begun(exchange, shop).scores(np.full((N, 1), 0.37))
    (request,) = came(crossed, Score)
    assert len({c.tobytes() for c in request.ciphertexts}) == N
    first, second = (shop.ask(request, Scores).ciphertexts for _ in range(2))
    assert not (first == second).all(axis=2).any()


def test_what_the_party_sees_beside_ciphertexts_does_not_depend_on_labels(exchange, shop, crossed):
    seen = []
    for residuals in (RESIDUALS, -RESIDUALS):
        end_session(shop, "s")
        opened(shop)
        crossed.clear()
        begun(exchange, shop).scores(residuals)
        sent = [decode(data) for way, _, data in crossed if way == "sent"]
        seen.append(
            [
                dataclasses.replace(m, ciphertexts=m.ciphertexts * 0) if isinstance(m, Score) else m
                for m in sent
            ]
        )
    assert len(seen[0]) == 2
    for one, two in zip(*seen, strict=True):
        assert str(one) == str(two)


def test_no_more_than_half_the_features_are_told_of_a_row_in_one_fit(exchange, shop):
    layer, one = begun(exchange, shop), RESIDUALS[:, :1]
    assert layer.n_features == N // 8
    layer.scores(RESIDUALS)
    layer.scores(one)
    refused = "'shop': 4 scores of each row .* its 5 features"
    with pytest.raises(PartyError, match=refused):
        layer.scores(one)
    with pytest.raises(PartyError, match=refused):
        begun(exchange, shop).scores(one)


def test_few_rows_rows_named_twice_and_policies_are_refused_as_under_shares(exchange, shop, block):
    with pytest.raises(PartyError, match="'shop': shares 19 different labelled rows"):
        begun(exchange, shop, rows=ROWS[:19])
    with pytest.raises(PartyError, match="each of them once"):
        begun(exchange, shop, rows=np.append(ROWS, ROWS[0]))
    with pytest.raises(PolicyRefusal, match="15 rows"):
        begun(exchange, with_policy(block, min_rows=16))
    layer = begun(exchange, with_policy(block, max_row_scores=1))
    with pytest.raises(PolicyRefusal, match=r"2 scores of one training row .* allows 1"):
        layer.scores(RESIDUALS)
    with pytest.raises(PolicyRefusal, match="'protected_latent'"):
        begun(exchange, with_policy(block, protocols=frozenset({"session", "shared_latent"})))
    # Named dealers are of no concern here.
    begun(exchange, with_policy(block, dealers=frozenset()))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ciphertexts": np.full((N, 1, 512), 255, dtype=np.uint8)}, "'shop': .* out of range"),
        ({"ciphertexts": np.zeros((N, 1, 512), dtype=np.uint8)}, "'shop': .* out of range"),
        ({"ciphertexts": np.ones((N, 1, 256), dtype=np.uint8)}, "were expected"),
        ({"ciphertexts": np.ones((N - 1, 1, 512), dtype=np.uint8)}, "were expected"),
        ({"n_outputs": 0}, "at least one"),
        ({"n_outputs": -(2**63)}, "at least one"),
        ({"n_outputs": 2**63 - 1}, "were expected"),
        ({"n_outputs": 32}, "were expected"),
        ({"n_outputs": 31}, "more than half its 5 features"),
    ],
)
def test_a_malformed_request_is_refused(exchange, shop, encrypted, changed, said):
    begun(exchange, shop)
    request = Score(session="s", n_outputs=1, ciphertexts=encrypted)
    with pytest.raises(PartyError, match=said):
        shop.ask(dataclasses.replace(request, **changed), Scores)
    if "half" not in said:
        layer = Layer(session="s", n_outputs=1, ciphertexts=encrypted)
        with pytest.raises(PartyError, match=said):
            shop.ask(dataclasses.replace(layer, **changed), Kept)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (np.full(256, 255, dtype=np.uint8), "'shop': its partner's encryption is refused"),
        (np.full(128, 255, dtype=np.uint8), "1024 bits"),
        (np.zeros(0, dtype=np.uint8), "0 bits"),
    ],
)
def test_a_key_that_is_none_is_refused(exchange, shop, crossed, key, said):
    begun(exchange, shop)
    begin = decode(crossed[0][2])
    with pytest.raises(PartyError, match=said):
        shop.ask(dataclasses.replace(begin, key=key), Ready)


def test_a_request_beyond_the_limits_is_refused_before_it_is_computed(exchange, block):
    border = with_policy(block, limits=Limits(message_bytes=4000))
    layer = begun(exchange, border)
    with pytest.raises(WireError, match="at most 4000"):
        layer.scores(RESIDUALS)


def test_replies_that_are_no_scores_are_refused(exchange, shop, crossed, monkeypatch):
    """By the active party: another shape, another key, beyond slots, beyond the bound."""
    layer, answer, public = begun(exchange, shop), PartyService.answer, exchange._key.public
    large = public.pack_ciphertexts([public.encrypt(1 << 63, 1), public.encrypt(1 << 62, 1)])
    faults = {
        "were expected": lambda came: came[:, :0],
        "out of range": lambda came: np.full_like(came, 255),
        "more than its slots": lambda came: np.pad(came[..., 1:-1], [(0, 0), (0, 0), (1, 1)]),
        "beyond its bound": lambda came: np.broadcast_to(large[0], came.shape),
    }
    for said, spoil in faults.items():

        def wrong(self, request, spoil=spoil):
            reply = answer(self, request)
            return dataclasses.replace(reply, ciphertexts=spoil(reply.ciphertexts))

        with monkeypatch.context() as patched:
            patched.setattr(PartyService, "answer", wrong)
            with pytest.raises(PartyError, match=f"'shop': .*{said}"):
                layer.scores(RESIDUALS[:, :1] * 0)
        end_session(shop, "s")
        layer = begun(exchange, opened(shop))


@pytest.mark.parametrize(("n_features", "bound"), [(0, 1.0), (5, 0.0), (5, 2.0**20)])
def test_numbers_of_features_that_make_no_sense_are_refused(
    exchange, shop, monkeypatch, n_features, bound
):
    answer = PartyService.answer
    monkeypatch.setattr(
        PartyService,
        "answer",
        lambda self, request: dataclasses.replace(
            answer(self, request), n_features=n_features, bound=bound
        ),
    )
    with pytest.raises(PartyError, match="'shop': number and bound of its features"):
        begun(exchange, shop)


def test_a_layer_is_kept_in_its_training_only(exchange, shop, encrypted):
    layer = Layer(session="s", n_outputs=1, ciphertexts=encrypted)
    with pytest.raises(PartyError, match="'shop': no encrypted joint training is under way"):
        shop.ask(layer, Kept)
    begun(exchange, shop).keep(RESIDUALS)
    with pytest.raises(PartyError, match="'shop': no encrypted joint training is under way"):
        shop.ask(layer, Kept)
    with pytest.raises(PartyError, match="'shop': 9 scores of each row .* its 5 features"):
        begun(exchange, shop).keep(np.ones((N, 9)))


def test_residuals_that_do_not_fit_are_refused_before_they_are_sent(exchange, shop, crossed):
    layer = begun(exchange, shop)
    crossed.clear()
    for train in (layer.scores, layer.keep):
        with pytest.raises(FixedPointError, match="bits for the fractions of residuals"):
            train(RESIDUALS * 1e6)
    assert not crossed


def test_the_ledger_tells_what_is_encrypted(exchange, shop):
    layer = begun(exchange, shop)
    layer.scores(RESIDUALS)
    layer.keep(RESIDUALS)
    told = {row["kind"]: row["protection"] for row in shop._ledger.rows()}
    assert {k for k, p in told.items() if p == "paillier"} == {
        f"protected_latent.{name}/1" for name in ("score", "scores", "layer")
    }


def test_layers_can_be_trained_under_shares_and_encryption_only(exchange):
    assert isinstance(exchange, LayerExchange)
    assert not isinstance(CLEAR, LayerExchange)
