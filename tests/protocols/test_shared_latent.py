"""A layer under shares is the layer in the clear; neither labels nor columns cross."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import chisquare

from fedtl import Encoder
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger, record_transcript
from fedtl.learning.whitening import Whitening
from fedtl.parties import PartyService, Policy, Table
from fedtl.privacy import FixedPointError
from fedtl.protocols import ANSWERS
from fedtl.protocols.dealer import Dealer, Deals
from fedtl.protocols.session import end_session, open_session, prepare_session
from fedtl.protocols.shared_latent import Layer, Masked, Score, Scores, SharedLatent
from fedtl.protocols.shared_predict import SHARE
from fedtl.wire import decode

FOLDS, N = 3, 45
RNG = np.random.default_rng(1)
ROWS = RNG.permutation(np.delete(np.arange(60), [5, 17]))[:N]
FOLD = np.arange(N) % FOLDS
RESIDUALS = np.column_stack([RNG.integers(0, 2, N) - 0.4, RNG.normal(size=N)])


def opened(border):
    open_session(border, "s", np.arange(60), resume=False)
    prepare_session(border, "s", 4, seed=0)
    return border


def begun(border, dealer=None, rows=ROWS):
    deals = Deals(InProcessChannel(dealer or Dealer(), border._ledger, border._serialize))
    folds = np.arange(len(rows)) % FOLDS
    return SharedLatent(border, "s", deals, rows=rows, folds=folds, n_folds=FOLDS)


def with_policy(block, **bounds):
    service = PartyService("shop", Table(block), Encoder(), ANSWERS, policy=Policy(**bounds))
    return opened(InProcessChannel(service, Ledger()))


@pytest.fixture
def shop(channel):
    return opened(channel)


def features(border):
    """What the party computes by itself, in the clear: of the rows trained on, and of all."""
    session = border._service.sessions["s"]
    own = np.concatenate([e for _, e in session.encoded(np.flatnonzero(session.known))])
    trained = np.concatenate([e for _, e in session.encoded(ROWS)])
    whitening = Whitening(own, N)
    return whitening.transform(trained), whitening.transform(own)


def test_scores_are_those_of_a_layer_without_the_fold(shop):
    scores = begun(shop).scores(RESIDUALS)
    trained, _ = features(shop)
    for fold in range(FOLDS):
        i = fold == FOLD
        layer = trained[~i].T @ RESIDUALS[~i]
        expected = trained[i] @ layer * N / (~i).sum()
        np.testing.assert_allclose(scores[i], expected, atol=1e-4)


def test_the_layer_of_all_rows_stays_two_shares_that_score_new_rows(shop):
    layer = begun(shop)
    serving = layer.keep(RESIDUALS)
    trained, own = features(shop)
    end_session(shop, "s")
    deals = Deals(InProcessChannel(Dealer(), Ledger()))
    told = serving.ask(shop, "s", np.arange(60), deals)
    expected = own @ (trained.T @ RESIDUALS)
    np.testing.assert_allclose(told.scores[told.known], expected, atol=1e-4)
    assert not told.scores[~told.known].any()
    # Either share says nothing: it is as large as the ring, whatever the residuals.
    share = shop._service.sessions["s"].state[SHARE].share
    for held in (share, serving.factor):
        assert np.abs(held.view(np.int64)).astype(float).mean() > 2.0**60


def test_a_final_layer_of_too_many_outputs_is_refused(shop):
    with pytest.raises(PartyError, match="'shop': 9 scores of each row .* its 5 features"):
        begun(shop).keep(np.ones((N, 9)))


def test_a_transcript_has_what_either_side_opens_and_not_what_the_other_does(shop):
    """Else attacks see masked numbers only, and the report says that nothing leaks."""
    with record_transcript() as transcript:
        layer = begun(shop)
        scores = layer.scores(RESIDUALS)
        layer.keep(RESIDUALS)
    (told,) = transcript.openings("shop", "shared_latent.scores")
    np.testing.assert_array_equal(told["rows"], ROWS)
    np.testing.assert_array_equal(told["scores"], scores)
    assert not [e for e in transcript.events if getattr(e, "holder", "") == "shop"]


def test_features_are_a_hat_matrix_within_their_bound():
    own = np.random.default_rng(0).normal(size=(300, 6)) * [5, 3, 1, 1, 0.1, 0]
    whitening = Whitening(own, 300)
    found = whitening.transform(own)
    centered = own - own.mean(0)
    hat = centered @ np.linalg.solve(centered.T @ centered + 300 * np.eye(6), centered.T)
    np.testing.assert_allclose(found @ found.T, hat, atol=1e-12)
    assert np.linalg.norm(found, axis=1).max() <= whitening.bound == 1.0
    assert Whitening(own, 100).bound ** 2 == pytest.approx(3.0)
    assert Whitening(own, 24).transform(own).shape[1] == 3


def crossing(block, crossed, residuals):
    """All that crosses masked, as bytes: from the active party, and from the passive one."""
    border = with_policy(block)
    crossed.clear()
    for _ in range(15):
        begun(opened(border)).scores(residuals)
    came = [decode(data) for _, _, data in crossed]
    to_party = [m.masked for m in came if isinstance(m, Layer | Score)]
    to_active = [part for m in came if isinstance(m, Scores) for part in (m.masked, m.shares)]
    to_active += [m.masked for m in came if isinstance(m, Masked)]
    return [np.concatenate([p.ravel() for p in ps]).view(np.uint8) for ps in (to_party, to_active)]


@pytest.mark.parametrize(
    "residuals", [RESIDUALS, np.zeros((N, 2)), np.full((N, 2), 1e2)], ids=["some", "none", "large"]
)
def test_what_crosses_is_uniform_whatever_residuals_and_columns(block, crossed, residuals):
    for columns in (block, np.where(np.isnan(block), np.nan, np.sign(block))):
        for seen in crossing(columns, crossed, residuals):
            # The odds of failing by chance are one in 10**6 for each of 12 samples.
            assert chisquare(np.bincount(seen, minlength=256)).pvalue > 1e-6


def test_what_is_not_masked_does_not_depend_on_labels(block, crossed):
    """Beside masked numbers, the party gets rows and folds, and the sum of shares at the end."""
    unmasked = []
    for residuals in (RESIDUALS, -RESIDUALS):
        border = with_policy(block)
        crossed.clear()
        begun(border).scores(residuals)
        unmasked.append(
            [
                dataclasses.replace(m, masked=m.masked * 0, sealed=m.sealed * 0)
                if isinstance(m, Layer | Score)
                else m
                for m in (decode(data) for way, _, data in crossed if way == "sent")
                if not m.kind.startswith("dealer")
            ]
        )
    assert len(unmasked[0]) == 3
    for one, two in zip(*unmasked, strict=True):
        assert str(one) == str(two)


def test_no_more_than_half_the_features_are_told_of_a_row_in_one_fit(shop):
    layer, one = begun(shop), RESIDUALS[:, :1]
    assert layer.n_features == N // 8
    layer.scores(one)
    refused = "'shop': 4 scores of each row .* its 5 features"
    with pytest.raises(PartyError, match=refused):
        layer.scores(one)
    with pytest.raises(PartyError, match=refused):
        begun(shop).scores(one)


def test_few_rows_and_rows_named_twice_are_refused(shop):
    with pytest.raises(PartyError, match="'shop': shares 19 different labelled rows"):
        begun(shop, rows=ROWS[:19])
    with pytest.raises(PartyError, match="each of them once"):
        begun(shop, rows=np.append(ROWS, ROWS[0]))


def test_a_policy_bounds_rows_of_a_sum_and_scores_of_a_row(block):
    with pytest.raises(PolicyRefusal, match="15 rows"):
        begun(with_policy(block, min_rows=16))
    layer = begun(with_policy(block, max_row_scores=2))
    with pytest.raises(PolicyRefusal, match=r"3 scores of one training row .* allows 2"):
        layer.scores(RESIDUALS)
    with pytest.raises(PolicyRefusal, match="'shared_latent'"):
        begun(with_policy(block, protocols=frozenset({"session", "latent"})))


class WrongDealer(Dealer):
    """A dealer that deals a wrong number in the n-th deal."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong, self.deals = wrong, 0

    def answer(self, request):
        dealt = super().answer(request)
        self.deals += 1
        if self.deals != self.wrong:
            return dealt
        corrections = dealt.corrections.copy()
        corrections[4] += np.uint64(1 << 30)
        return dataclasses.replace(dealt, corrections=corrections)


@pytest.mark.parametrize("wrong", [1, 2])
def test_a_dealer_that_deals_wrong_numbers_is_found_out(shop, wrong):
    with pytest.raises(PartyError, match="do not add up"):
        begun(shop, WrongDealer(wrong)).scores(RESIDUALS)


@pytest.mark.parametrize("wrong", [3, 4])
def test_a_dealer_that_deals_wrong_numbers_for_the_last_layer_is_found_out(shop, wrong):
    """When it predicts, as nobody sees this layer before, or ever."""
    layer = begun(shop, WrongDealer(wrong))
    layer.scores(RESIDUALS)
    serving = layer.keep(RESIDUALS)
    with pytest.raises(PartyError, match="'shop': its shares .* do not add up"):
        serving.ask(shop, "s", np.arange(60), layer._deals)


def test_a_layer_is_trained_before_it_scores_or_is_kept(shop):
    layer = begun(shop)
    layer.scores(RESIDUALS)
    score = Score(
        session="s",
        context="s 1",
        sealed=np.zeros(1, np.uint8),
        masked=np.zeros((FOLDS, layer.n_features, 9), np.uint64),
    )
    with pytest.raises(PartyError, match="'shop': scores were asked for before"):
        shop.ask(score, Scores)
    end_session(shop, "s")
    opened(shop)
    with pytest.raises(PartyError, match="'shop': no protected joint training is under way"):
        shop.ask(score, Scores)


def test_residuals_that_do_not_fit_are_refused_before_they_are_sent(shop, crossed):
    layer = begun(shop)
    crossed.clear()
    with pytest.raises(FixedPointError, match="bits for the fractions of residuals"):
        layer.scores(RESIDUALS * 1e6)
    assert not crossed
