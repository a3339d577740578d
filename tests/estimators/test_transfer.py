"""What the transfer estimators learn, and how they serve every subset of parties."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

from fedtl import FederatedTransferClassifier, FederatedTransferRegressor
from fedtl.datasets import (
    hide_party,
    load_digits_halves,
    make_federated_classification,
    split_parties,
)
from fedtl.exceptions import UnknownRowsWarning

SOLVERS = ("moments", "latent", "auto")
TASKS = ("binary", "multiclass", "regression")
NAN = np.nan


def estimator(parties, task="binary", solver="auto", **parameters):
    kind = FederatedTransferRegressor if task == "regression" else FederatedTransferClassifier
    settings = {"max_iter": 15, "lr": 0.03, "n_folds": 2, "random_state": 0, "n_components": 6}
    return kind(parties, solver=solver, **settings | parameters)


def answers(fitted, X):
    """All that an estimator says of rows, as numbers."""
    if hasattr(fitted, "predict_proba"):
        return fitted.predict_proba(X)
    return fitted.predict(X)[:, None]


# Who serves which row


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", TASKS)
def test_rows_without_the_partner_are_served_as_if_there_had_never_been_one(
    rows, without, task, solver
):
    made = rows(overlap=1.0, task=task)
    new = without(rows(60, overlap=1.0, task=task, seed=1).X, made.columns, "shop")
    joint = estimator(made.parties, task, solver).fit(made.X, made.y)
    alone = estimator(made.parties[:1], task, solver).fit(made.X, made.y)
    assert_array_equal(answers(joint, new), answers(alone, new))


def test_the_anchors_trees_serve_rows_without_the_partner_too(rows, without):
    made = rows(600, overlap=1.0)
    new = without(rows(60, overlap=1.0, seed=1).X, made.columns, "shop")
    crossed = (made.X[:, 0] > 0) != (made.X[:, 1] > 0.5)  # what no sum over columns says
    joint = estimator(made.parties, solver="moments").fit(made.X, crossed)
    alone = estimator(made.parties[:1], solver="moments").fit(made.X, crossed)
    assert joint.model_.anchor.trees is not None
    assert_array_equal(answers(joint, new), answers(alone, new))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", TASKS)
def test_what_the_partner_holds_does_not_change_rows_that_it_does_not_know(rows, task, solver):
    made = rows(task=task)
    other = made.X.copy()
    theirs = np.ix_(made.known[:, 1], made.columns["shop"])
    other[theirs] = np.random.default_rng(5).exponential(size=other[theirs].shape)
    both = [estimator(made.parties, task, solver).fit(X, made.y) for X in (made.X, other)]
    own = made.known[:, 0] & ~made.known[:, 1]
    assert own.sum() > 20
    assert_array_equal(answers(both[0], made.X[own]), answers(both[1], made.X[own]))
    shared = made.known.all(axis=1)
    assert not np.allclose(answers(both[0], made.X[shared]), answers(both[1], made.X[shared]))


def test_columns_of_no_party_are_left_out(rows):
    made = rows()
    extra = np.column_stack([made.X, made.y])
    fitted = estimator(made.parties).fit(extra, made.y)
    plain = estimator(made.parties).fit(made.X, made.y)
    extra[:, -1] = NAN
    assert_array_equal(fitted.predict_proba(extra), plain.predict_proba(made.X))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", TASKS)
def test_every_subset_of_three_parties_predicts_and_transforms(rows, without, task, solver):
    made = rows(n_parties=3, task=task)
    fitted = estimator(made.parties, task, solver).fit(made.X, made.y)
    full = rows(30, n_parties=3, task=task, overlap=1.0, seed=1)
    seen = []
    for mask in product([True, False], repeat=3):
        if not any(mask):
            continue
        hidden = [name for name, knows in zip(made.columns, mask, strict=True) if not knows]
        new = without(full.X, made.columns, *hidden)
        said, latents = answers(fitted, new), fitted.transform(new)
        assert np.isfinite(said).all()
        assert np.isfinite(latents).all()
        n_scores = 9 if task == "multiclass" else 3
        assert latents.shape == (30, n_scores if solver == "moments" else 6)
        if task != "regression":
            assert said.min() >= 0
            assert_allclose(said.sum(axis=1), 1.0)
            assert set(fitted.predict(new)) <= set(fitted.classes_)
        seen.append(said)
    different = {tuple(np.round(said.ravel(), 9)) for said in seen}
    assert len(different) == 7  # each subset is looked at in a way of its own


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_subset_of_a_mixed_batch_is_served_as_by_itself(rows, without, solver):
    made = rows(n_parties=3)
    fitted = estimator(made.parties, solver=solver).fit(made.X, made.y)
    full = rows(12, n_parties=3, overlap=1.0, seed=1).X
    parts = [
        full,
        without(full, made.columns, "bank"),
        without(full, made.columns, "shop", "post"),
        without(full, made.columns, "bank", "post"),
    ]
    mixed = np.vstack(parts)[np.random.default_rng(0).permutation(48)]
    back = np.argsort(np.random.default_rng(0).permutation(48))
    together = fitted.predict_proba(mixed)[back]
    assert_allclose(together, np.vstack([fitted.predict_proba(p) for p in parts]), rtol=1e-9)
    assert_allclose(
        fitted.transform(mixed)[back],
        np.vstack([fitted.transform(p) for p in parts]),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_order_and_batches_of_rows_do_not_matter(rows, solver):
    made = rows()
    fitted = estimator(made.parties, solver=solver).fit(made.X, made.y)
    expected = fitted.predict_proba(made.X)
    order = np.random.default_rng(0).permutation(len(made.X))
    assert_allclose(fitted.predict_proba(made.X[order]), expected[order], rtol=1e-9)
    one_by_one = np.vstack([fitted.predict_proba(made.X[i : i + 1]) for i in range(20)])
    assert_allclose(one_by_one, expected[:20], rtol=1e-9)


def test_predicting_rows_again_gives_the_same(rows):
    made = rows()
    fitted = estimator(made.parties).fit(made.X, made.y)
    assert_array_equal(fitted.predict_proba(made.X), fitted.predict_proba(made.X))


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_that_nobody_knows_get_the_share_of_each_class_and_a_warning(rows, solver):
    made = rows(task="multiclass")
    fitted = estimator(made.parties, "multiclass", solver).fit(made.X, made.y)
    nobody = np.full((2, made.X.shape[1]), NAN)
    with pytest.warns(UnknownRowsWarning, match="2 rows are known to no party"):
        said = fitted.predict_proba(np.vstack([made.X[:3], nobody]))
    assert_allclose(said[3:], [np.bincount(made.y) / len(made.y)] * 2)
    assert_allclose(said[:3], fitted.predict_proba(made.X[:3]), rtol=1e-9)


def test_rows_that_nobody_knows_get_the_mean_of_y_and_a_warning(rows):
    made = rows(task="regression")
    weight = np.where(made.y > 5, 3.0, 1.0)
    fitted = estimator(made.parties, "regression").fit(made.X, made.y, sample_weight=weight)
    with pytest.warns(UnknownRowsWarning, match="mean"):
        said = fitted.predict(np.full((1, made.X.shape[1]), NAN))
    assert_allclose(said, np.average(made.y, weights=weight))


def test_training_rows_that_nobody_knows_do_not_stop_a_fit(rows):
    made = rows()
    made.X[:5] = NAN
    for solver in SOLVERS:
        fitted = estimator(made.parties, solver=solver).fit(made.X, made.y)
        assert np.isfinite(fitted.predict_proba(made.X[5:])).all()


def test_more_parties_than_get_all_subsets_serve_any_subset(rows):
    n_parties = 8  # up to six, each subset has a model of its own
    names = [f"p{i}" for i in range(n_parties)]
    made = rows(200, n_parties=n_parties, overlap=0.8, width=1, names=names)
    fitted = estimator(made.parties, solver="moments").fit(made.X, made.y)
    rng = np.random.default_rng(0)
    new = made.X[made.known.all(axis=1)][:40].copy()
    new[rng.random(new.shape) < 0.5] = NAN
    new[np.isnan(new).all(axis=1), 3] = 0.0
    said = fitted.predict_proba(new)
    assert np.isfinite(said).all()
    assert_allclose(said.sum(axis=1), 1.0)


# What is learnt


@pytest.fixture(scope="module")
def factors():
    """Two parties that see the same factors through noise, split into training and test."""
    made = make_federated_classification(
        1000, n_features=2, n_latent=3, overlap=1.0, random_state=1
    )
    split = split_parties(made.data, made.target, made.parties, test_size=0.6, random_state=0)
    return made.parties, split


def auc(fitted, X, y):
    return roc_auc_score(y, fitted.predict_proba(X)[:, 1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_together_the_parties_are_clearly_better_than_the_active_one_alone(factors, solver):
    parties, split = factors
    joint = estimator(parties, solver=solver, max_iter=30).fit(split.X_train, split.y_train)
    both = auc(joint, split.X_test, split.y_test)
    alone = auc(joint, hide_party(split.X_test, parties, "party1"), split.y_test)
    assert both > alone + 0.1
    passive = auc(joint, hide_party(split.X_test, parties, "party0"), split.y_test)
    assert passive > 0.65


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_partner_of_noise_costs_next_to_nothing(factors, solver):
    parties, split = factors
    rng = np.random.default_rng(0)
    train, test = split.X_train.copy(), split.X_test.copy()
    for table in (train, test):
        table[parties["party1"]] = rng.normal(size=(len(table), 2))
    joint = estimator(parties, solver=solver, max_iter=30).fit(train, split.y_train)
    alone = hide_party(test, parties, "party1")
    assert auc(joint, test, split.y_test) > auc(joint, alone, split.y_test) - 0.02


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_regression_is_better_together(rows, without, solver):
    made = rows(300, task="regression", overlap=1.0)
    new = rows(300, task="regression", overlap=1.0, seed=1)
    fitted = estimator(made.parties, "regression", solver, max_iter=30).fit(made.X, made.y)
    alone = r2_score(new.y, fitted.predict(without(new.X, made.columns, "shop")))
    assert r2_score(new.y, fitted.predict(new.X)) > alone + 0.15
    assert fitted.score(new.X, new.y) == r2_score(new.y, fitted.predict(new.X))


@pytest.mark.parametrize("solver", SOLVERS)
def test_several_classes_are_better_together(rows, without, solver):
    made = rows(300, task="multiclass", overlap=1.0)
    new = rows(400, task="multiclass", overlap=1.0, seed=1)
    fitted = estimator(made.parties, "multiclass", solver, max_iter=30).fit(made.X, made.y)
    alone = accuracy_score(new.y, fitted.predict(without(new.X, made.columns, "shop")))
    assert accuracy_score(new.y, fitted.predict(new.X)) > alone + 0.08


def test_rows_of_the_partner_alone_are_served_from_its_columns(rows, without):
    made = rows(300)
    new = rows(400, overlap=1.0, seed=1)
    theirs = without(new.X, made.columns, "bank")
    for solver in SOLVERS:
        fitted = estimator(made.parties, solver=solver, max_iter=30)
        assert auc(fitted.fit(made.X, made.y), theirs, new.y) > 0.7


def test_unlabelled_shared_rows_help_where_labels_are_few_and_views_say_the_same():
    digits, gains = load_digits_halves(), []
    y = np.asarray(digits.target)
    for seed in range(3):
        order = np.random.RandomState(seed).permutation(len(y))
        train, few, new = order[:700], order[:40], order[700:]
        marked = np.where(np.isin(train, few), y[train], -1)
        scores = [
            FederatedTransferClassifier(
                digits.parties, solver="moments", unlabeled=unlabeled, random_state=0
            )
            .fit(digits.data.iloc[rows], target)
            .score(digits.data.iloc[new], y[new])
            for rows, target, unlabeled in ((train, marked, -1), (few, y[few], None))
        ]
        gains.append(scores[0] - scores[1])
    assert np.mean(gains) > 0


def test_the_order_of_string_labels_is_that_of_the_classes(rows):
    made = rows()
    names = np.array(["no", "yes"])[made.y]
    fitted = estimator(made.parties).fit(made.X, names)
    numbers = estimator(made.parties).fit(made.X, made.y)
    assert fitted.classes_.tolist() == ["no", "yes"]
    assert_array_equal(fitted.predict_proba(made.X), numbers.predict_proba(made.X))
    assert_array_equal(fitted.predict(made.X), np.array(["no", "yes"])[numbers.predict(made.X)])


def test_labels_that_are_booleans_or_far_apart_are_classes_like_others(rows):
    made = rows()
    numbers = estimator(made.parties).fit(made.X, made.y).predict(made.X)
    for labels in (np.array([False, True]), np.array([-1, 1000])):
        fitted = estimator(made.parties).fit(made.X, labels[made.y])
        assert_array_equal(fitted.predict(made.X), labels[numbers])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_class_that_is_missing_from_the_overlap_is_still_predicted(rows, solver):
    made = rows(300, task="multiclass")
    shared = made.known.all(axis=1)
    keep = ~(shared & (made.y == 2))
    X, y = made.X[keep], made.y[keep]
    assert 2 not in y[shared[keep]]
    fitted = estimator(made.parties, "multiclass", solver, max_iter=30).fit(X, y)
    assert fitted.classes_.tolist() == [0, 1, 2]
    own = made.known[:, 0] & ~made.known[:, 1]
    assert 2 in fitted.predict(made.X[own])
    assert_allclose(fitted.predict_proba(made.X).sum(axis=1), 1.0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_overlap_of_one_class_is_no_error(rows, solver):
    made = rows()
    keep = ~(made.known.all(axis=1) & (made.y == 1))
    fitted = estimator(made.parties, solver=solver).fit(made.X[keep], made.y[keep])
    assert np.isfinite(fitted.predict_proba(made.X)).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_class_of_one_row_which_all_but_one_fold_lack_is_no_error(rows, task, solver):
    made = rows(task=task)
    rare = np.flatnonzero(made.known.all(axis=1))[0]
    y = np.where(made.y == made.y.max(), 0, made.y)
    y[rare] = made.y.max()
    fitted = estimator(made.parties, task, solver, n_folds=3).fit(made.X, y)
    assert fitted.classes_.tolist() == sorted(set(made.y))
    said = fitted.predict_proba(made.X)
    assert np.isfinite(said).all()
    assert_allclose(said.sum(axis=1), 1.0)


def test_more_folds_than_labelled_rows_become_as_many_as_there_are(rows):
    made = rows(40, overlap=1.0)
    y = np.where(np.arange(40) < 6, np.arange(40) % 2, -1)
    for solver in SOLVERS:
        fitted = estimator(made.parties, solver=solver, n_folds=20, unlabeled=-1)
        assert np.isfinite(fitted.fit(made.X, y).predict_proba(made.X)).all()


# Labels that are missing


@pytest.mark.parametrize("solver", SOLVERS)
def test_minus_one_is_a_class_unless_it_marks_unlabelled_rows(rows, solver):
    made = rows()
    y = np.where(made.known[:, 0], made.y, -1)
    assert estimator(made.parties, solver=solver).fit(made.X, y).classes_.tolist() == [-1, 0, 1]
    fitted = estimator(made.parties, solver=solver, unlabeled=-1).fit(made.X, y)
    assert fitted.classes_.tolist() == [0, 1]
    assert set(fitted.predict(made.X)) == {0, 1}


def test_any_value_may_mark_unlabelled_rows(rows):
    made = rows()
    hidden = np.arange(len(made.y)) % 3 == 0
    expected = estimator(made.parties, unlabeled=-1).fit(made.X, np.where(hidden, -1, made.y))
    texts = np.where(hidden, "?", np.array(["no", "yes"])[made.y])
    texts = estimator(made.parties, unlabeled="?").fit(made.X, texts)
    assert texts.classes_.tolist() == ["no", "yes"]
    assert_array_equal(texts.predict_proba(made.X), expected.predict_proba(made.X))
    nans = estimator(made.parties, unlabeled=NAN).fit(made.X, np.where(hidden, NAN, made.y))
    assert_array_equal(nans.predict_proba(made.X), expected.predict_proba(made.X))


def test_text_may_mark_unlabelled_rows_among_numbers(rows):
    made = rows()
    hidden = np.arange(len(made.y)) % 3 == 0
    mixed = np.where(hidden, "?", made.y.astype(object))
    fitted = estimator(made.parties, unlabeled="?").fit(made.X, mixed)
    expected = estimator(made.parties, unlabeled=-1).fit(made.X, np.where(hidden, -1, made.y))
    assert_array_equal(fitted.predict_proba(made.X), expected.predict_proba(made.X))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_regressor_takes_unlabelled_rows_that_are_marked(rows, solver):
    made = rows(task="regression")
    hidden = ~made.known[:, 0]
    fitted = estimator(made.parties, "regression", solver, unlabeled=NAN)
    fitted.fit(made.X, np.where(hidden, NAN, made.y))
    other = estimator(made.parties, "regression", solver, unlabeled=-999.0)
    other.fit(made.X, np.where(hidden, -999.0, made.y))
    assert_array_equal(fitted.predict(made.X), other.predict(made.X))
    assert abs(fitted.predict(made.X).mean() - 5.0) < 2.0


# Weights


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", TASKS)
def test_a_row_of_weight_zero_is_a_row_that_is_not_there(rows, task, solver):
    made = rows(task=task)
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 2.0, len(made.y)) * (rng.random(len(made.y)) > 0.3)
    kept = weight > 0
    made.X[~kept] *= 100.0
    zero = estimator(made.parties, task, solver).fit(made.X, made.y, sample_weight=weight)
    gone = estimator(made.parties, task, solver)
    gone.fit(made.X[kept], made.y[kept], sample_weight=weight[kept])
    assert_array_equal(answers(zero, made.X), answers(gone, made.X))


@pytest.mark.parametrize("solver", SOLVERS)
def test_only_the_proportions_of_weights_count(rows, solver):
    made = rows()
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(made.y))
    once = estimator(made.parties, solver=solver).fit(made.X, made.y, sample_weight=weight)
    twice = estimator(made.parties, solver=solver).fit(made.X, made.y, sample_weight=2 * weight)
    assert_allclose(twice.predict_proba(made.X), once.predict_proba(made.X), atol=1e-4)
    ones = np.ones(len(made.y))
    equal = estimator(made.parties, solver=solver).fit(made.X, made.y, sample_weight=ones)
    plain = estimator(made.parties, solver=solver).fit(made.X, made.y)
    assert_array_equal(equal.predict_proba(made.X), plain.predict_proba(made.X))


@pytest.mark.parametrize("solver", SOLVERS)
def test_heavier_rows_pull_the_predictions_to_their_class(rows, solver):
    made = rows()
    heavy = np.where(made.y == 1, 10.0, 1.0)
    plain = estimator(made.parties, solver=solver, max_iter=30).fit(made.X, made.y)
    pulled = estimator(made.parties, solver=solver, max_iter=30)
    pulled.fit(made.X, made.y, sample_weight=heavy)
    for know in ([True, True], [True, False], [False, True]):
        new = made.X[(made.known == know).all(axis=1)]
        assert pulled.predict_proba(new)[:, 1].mean() > plain.predict_proba(new)[:, 1].mean() + 0.1
