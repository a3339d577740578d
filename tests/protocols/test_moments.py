"""Sums over folds are those of the encoded rows, and scores are products with them."""

import numpy as np
import pytest

from fedtl.parties import Table
from fedtl.protocols.moments import ask_moments, ask_scores, fold_moments, fold_scores
from fedtl.protocols.predict import ask_predictions
from fedtl.protocols.session import open_session, prepare_session

FOLDS = 3
RNG = np.random.default_rng(1)
ROWS = RNG.permutation(np.delete(np.arange(60), [5, 17]))[:40]
FOLD = RNG.integers(0, FOLDS, 40)
WEIGHT = RNG.uniform(0.1, 2.0, 40)
TARGETS = RNG.normal(size=(40, 2))


@pytest.fixture
def shop(channel):
    open_session(channel, "s", np.arange(60), resume=False)
    prepare_session(channel, "s", 4, seed=0)
    return channel


def design(channel, rows=ROWS):
    """Return the party's encoded rows behind a constant column, computed in one piece."""
    features, table = channel._service.sessions["s"].features, channel._service.table
    columns, _ = features.read(table, np.arange(60))
    encoded = features.encoding_.transform(columns[rows])
    return np.hstack([np.ones((len(rows), 1)), encoded])


def ask(channel, **changed):
    options = {"folds": FOLD, "weight": WEIGHT, "targets": TARGETS, "n_folds": FOLDS} | changed
    return ask_moments(channel, "s", ROWS, **options)


def assert_moments(gram, cross, x):
    for fold in range(FOLDS):
        inside = np.diag(WEIGHT * (fold == FOLD))
        np.testing.assert_allclose(gram[fold], x.T @ inside @ x, atol=1e-10)
        np.testing.assert_allclose(cross[fold], x.T @ inside @ TARGETS, atol=1e-10)


def test_answered_moments_are_products_of_the_encoded_rows(shop):
    gram, cross = ask(shop)
    assert_moments(gram, cross, design(shop))


def test_moments_summed_piece_by_piece_are_the_same(shop, monkeypatch):
    monkeypatch.setattr("fedtl.parties._features._CHUNK", 7)
    gram, cross = ask(shop)
    assert_moments(gram, cross, design(shop))


def test_the_active_party_sums_its_own_without_a_message(shop, crossed):
    session = shop._service.sessions["s"]
    gram, cross = fold_moments(
        session, ROWS, folds=FOLD, weight=WEIGHT, targets=TARGETS, n_folds=FOLDS
    )
    assert_moments(gram, cross, design(shop))
    assert not crossed


def test_a_fold_without_rows_sums_to_zero(shop):
    gram, cross = ask(shop, n_folds=FOLDS + 1)
    assert gram.shape[0] == cross.shape[0] == FOLDS + 1
    assert not gram[FOLDS].any()
    assert not cross[FOLDS].any()


def test_without_targets_only_the_columns_are_summed(shop):
    gram, cross = ask(shop, targets=np.empty((40, 0)))
    assert cross.shape == (FOLDS, gram.shape[1], 0)
    np.testing.assert_allclose(gram.sum(0), design(shop).T @ np.diag(WEIGHT) @ design(shop))


def test_the_reply_is_as_large_for_few_rows_as_for_many(shop, crossed):
    ask(shop)
    width = design(shop).shape[1]
    tensors = 8 * FOLDS * (width * (width + 1) // 2 + width * 2)
    assert tensors < len(crossed[-1][2]) < tensors + 300


def test_each_row_is_scored_with_the_coefficients_of_its_fold(shop):
    x = design(shop)
    held_out = RNG.normal(size=(FOLDS, x.shape[1], 2))
    scores = ask_scores(shop, "s", ROWS, folds=FOLD, held_out=held_out)
    expected = np.einsum("nd,ndo->no", x, held_out[FOLD])
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    session = shop._service.sessions["s"]
    np.testing.assert_allclose(fold_scores(session, ROWS, FOLD, held_out), expected, atol=1e-12)


def test_coefficients_are_kept_only_where_they_are_given_and_score_new_rows(shop):
    x = design(shop)
    held_out, coefficients = RNG.normal(size=(1, x.shape[1], 1)), RNG.normal(size=(x.shape[1], 3))
    zero = np.zeros(40)
    ask_scores(shop, "s", ROWS, folds=zero, held_out=held_out)
    ids = np.array([3, 5, 99, 20])
    assert ask_predictions(shop, "s", ids, scores=True, latents=False).scores.shape == (4, 0)
    ask_scores(shop, "s", ROWS, folds=zero, held_out=held_out, coefficients=coefficients)
    ask_scores(shop, "s", ROWS, folds=zero, held_out=held_out)  # does not forget them
    reply = ask_predictions(shop, "s", ids, scores=True, latents=False)
    assert reply.known.tolist() == [True, False, False, True]
    np.testing.assert_allclose(
        reply.scores[[0, 3]], design(shop, np.array([3, 20])) @ coefficients, atol=1e-12
    )
    assert not reply.scores[1:3].any()
    assert ask_predictions(shop, "s", ids, scores=False, latents=True).scores.shape == (4, 0)


def test_new_rows_are_encoded_with_what_was_fitted(shop):
    x = design(shop)
    coefficients = RNG.normal(size=(x.shape[1], 1))
    held_out = np.zeros((1, *coefficients.shape))
    options = {"folds": np.zeros(40), "held_out": held_out, "coefficients": coefficients}
    ask_scores(shop, "s", ROWS, **options)
    row = 7
    before = ask_predictions(shop, "s", np.array([row]), scores=True, latents=False).scores
    view = shop._service.with_table(Table(shop._service.table.block[[row]]))
    later = type(shop)(view, shop._ledger, shop._serialize)
    after = ask_predictions(later, "s", np.array([0]), scores=True, latents=False).scores
    np.testing.assert_allclose(after, before, atol=1e-12)
