"""Training on, random states, and evidence that is honest."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone

from fedtl import Encoder
from tests.estimators.test_transfer import SOLVERS, TASKS, answers, auc, estimator

# Training on


def exchanges(fitted):
    """How many mini-batches were asked for."""
    counted = fitted.ledger_.rows()
    return sum(row["messages"] for row in counted if row["kind"] == "latent.exchange/1")


@pytest.mark.parametrize("task", TASKS)
def test_a_warm_start_goes_on_where_the_last_fit_ended(rows, task):
    made = rows(task=task)
    warm = estimator(made.parties, task, "latent", warm_start=True, max_iter=20, lr=0.02)
    first = warm.fit(made.X, made.y).history_
    second = warm.fit(made.X, made.y).history_
    assert len(first) == len(second) == 20
    assert np.mean(second[:3]) < np.mean(first[:3])
    assert np.mean(second) < np.mean(first)
    cold = estimator(made.parties, task, "latent", max_iter=20, lr=0.02).fit(made.X, made.y)
    assert cold.fit(made.X, made.y).history_ == first


def test_a_first_warm_start_is_an_ordinary_fit(rows):
    made = rows()
    warm = estimator(made.parties, solver="latent", warm_start=True).fit(made.X, made.y)
    cold = estimator(made.parties, solver="latent").fit(made.X, made.y)
    assert_array_equal(warm.predict_proba(made.X), cold.predict_proba(made.X))


@pytest.mark.parametrize("solver", ["moments", "auto"])
def test_a_warm_start_changes_nothing_where_no_network_alone_is_trained(rows, solver):
    made = rows()
    warm = estimator(made.parties, solver=solver, warm_start=True).fit(made.X, made.y)
    once = warm.predict_proba(made.X)
    assert_array_equal(warm.fit(made.X, made.y).predict_proba(made.X), once)


@pytest.mark.parametrize("task", TASKS)
def test_partial_fit_goes_on_with_new_rows(rows, task):
    made = rows(300, task=task)
    fitted = estimator(made.parties, task, "latent", max_iter=20)
    first = fitted.partial_fit(made.X[:150], made.y[:150]).history_
    before = answers(fitted, made.X)
    second = fitted.partial_fit(made.X[150:], made.y[150:]).history_
    assert np.mean(second[:5]) < np.mean(first[:5])
    assert not np.allclose(answers(fitted, made.X), before)
    assert fitted.report_.rows["bank"]["labelled"] == made.known[150:, 0].sum()


def test_a_first_partial_fit_is_a_fit(rows):
    made = rows()
    partial = estimator(made.parties, solver="latent").partial_fit(made.X, made.y)
    whole = estimator(made.parties, solver="latent").fit(made.X, made.y)
    assert_array_equal(partial.predict_proba(made.X), whole.predict_proba(made.X))


def test_a_fit_after_partial_fits_begins_anew(rows):
    made = rows()
    fitted = estimator(made.parties, solver="latent").partial_fit(made.X, made.y)
    fitted.partial_fit(made.X, made.y).fit(made.X, made.y)
    whole = estimator(made.parties, solver="latent").fit(made.X, made.y)
    assert_array_equal(fitted.predict_proba(made.X), whole.predict_proba(made.X))


def test_partial_fit_announces_classes_that_are_still_to_come(rows):
    made = rows(task="multiclass")
    early = made.y < 2
    fitted = estimator(made.parties, solver="latent", max_iter=30)
    fitted.partial_fit(made.X[early], made.y[early], classes=[0, 1, 2])
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert fitted.predict_proba(made.X).shape == (len(made.X), 3)
    fitted.partial_fit(made.X, made.y)
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert 2 in fitted.predict(made.X)
    fitted.partial_fit(made.X[early], made.y[early])
    assert fitted.classes_.tolist() == [0, 1, 2]


def test_a_class_that_was_not_announced_is_refused(rows):
    made = rows(task="multiclass")
    fitted = estimator(made.parties, solver="latent")
    with pytest.raises(ValueError, match=r"classes \[2\], which were not announced"):
        fitted.partial_fit(made.X, made.y, classes=[0, 1])
    assert not hasattr(fitted, "classes_")
    early = made.y < 2
    fitted.partial_fit(made.X[early], made.y[early])
    before = fitted.predict_proba(made.X)
    with pytest.raises(ValueError, match=r"classes \[2\], which were not announced"):
        fitted.partial_fit(made.X, made.y)
    assert_array_equal(fitted.predict_proba(made.X), before)


@pytest.mark.parametrize("solver", ["moments", "auto"])
def test_only_the_latent_solver_has_partial_fit(rows, solver):
    assert not hasattr(estimator(None, solver=solver), "partial_fit")
    assert hasattr(estimator(None, solver="latent"), "partial_fit")


def test_several_local_updates_send_fewer_messages(rows):
    made = rows()
    often = estimator(made.parties, solver="latent", max_iter=20).fit(made.X, made.y)
    seldom = estimator(made.parties, solver="latent", max_iter=20, local_updates=4)
    seldom.fit(made.X, made.y)
    assert exchanges(often) == 20 + 1  # the last one carries a gradient and no rows
    assert exchanges(seldom) == 5 + 1
    assert often.n_iter_ == seldom.n_iter_ == 20
    assert len(often.history_) == 20
    assert len(seldom.history_) == 5
    assert seldom.ledger_.n_bytes < 0.5 * often.ledger_.n_bytes


@pytest.mark.parametrize("local_updates", [1, 4])
def test_local_updates_learn_too(rows, without, local_updates):
    made, new = rows(300, overlap=1.0), rows(300, overlap=1.0, seed=1)
    fitted = estimator(made.parties, solver="latent", max_iter=28, local_updates=local_updates)
    alone = without(new.X, made.columns, "shop")
    fitted.fit(made.X, made.y)
    assert auc(fitted, new.X, new.y) > auc(fitted, alone, new.y) + 0.08


def test_no_more_steps_are_taken_than_max_iter(rows):
    made = rows()
    fitted = estimator(made.parties, solver="latent", max_iter=10, local_updates=4)
    assert fitted.fit(made.X, made.y).n_iter_ <= 10


def test_moments_take_one_iteration_and_leave_no_history(rows):
    made = rows()
    fitted = estimator(made.parties, solver="moments").fit(made.X, made.y)
    assert fitted.n_iter_ == 1
    assert fitted.history_ == []
    assert exchanges(fitted) == 0


def test_the_latent_solver_alone_asks_for_no_moments(rows):
    made = rows()
    fitted = estimator(made.parties, solver="latent").fit(made.X, made.y)
    assert {row["kind"].split(".")[0] for row in fitted.ledger_.rows()} == {"session", "latent"}


def test_the_loss_of_the_latent_solver_falls(rows):
    made = rows()
    history = estimator(made.parties, solver="latent", max_iter=30, lr=0.02)
    history = history.fit(made.X, made.y).history_
    assert np.mean(history[-5:]) < 0.9 * np.mean(history[:5])


# Random states


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_seed_gives_one_model_and_another_seed_another(rows, solver):
    made = rows()
    one = estimator(made.parties, solver=solver).fit(made.X, made.y).predict_proba(made.X)
    same = estimator(made.parties, solver=solver).fit(made.X, made.y).predict_proba(made.X)
    other = estimator(made.parties, solver=solver, random_state=1).fit(made.X, made.y)
    assert_array_equal(one, same)
    assert not np.array_equal(one, other.predict_proba(made.X))


def test_a_random_state_instance_seeds_each_fit_anew(rows):
    made = rows()
    fitted = estimator(made.parties, random_state=np.random.RandomState(3))
    first = fitted.fit(made.X, made.y).predict_proba(made.X)
    second = fitted.fit(made.X, made.y).predict_proba(made.X)
    assert not np.array_equal(first, second)
    again = clone(fitted).set_params(random_state=np.random.RandomState(3))
    assert_array_equal(again.fit(made.X, made.y).predict_proba(made.X), first)


@pytest.mark.parametrize("solver", SOLVERS)
def test_random_generators_of_the_process_stay_where_they_are(rows, solver):
    made = rows()
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    fitted = estimator(made.parties, solver=solver, random_state=3).fit(made.X, made.y)
    fitted.predict_proba(made.X)
    fitted.transform(made.X)
    assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)


# Evidence


@pytest.fixture
def noise():
    """Labels that no column has anything to do with."""
    rng = np.random.default_rng(0)
    parties = {"bank": slice(0, 20), "shop": slice(20, 40)}
    return rng.normal(size=(120, 40)), rng.integers(0, 2, 120), parties


@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_does_not_look_like_a_gain(noise, solver):
    X, y, parties = noise
    fitted = estimator(parties, solver=solver, max_iter=30, lr=0.05).fit(X, y)
    both = fitted.model_.served[(0, 1)]
    assert not both.evidence.score >= 0.65  # by sums there is none
    assert both.trust < 0.5


def test_training_on_does_not_make_noise_look_like_a_gain(noise):
    X, y, parties = noise
    fitted = estimator(
        parties,
        solver="latent",
        warm_start=True,
        random_state=np.random.RandomState(0),  # as None: each fit draws a seed of its own
        max_iter=30,
    )
    for _ in range(4):
        fitted.fit(X, y)
    both = fitted.model_.served[(0, 1)]
    assert both.evidence.score < 0.7
    assert both.trust < 0.5


def test_an_estimator_without_parties_is_one_party_with_all_columns(rows):
    made = rows(overlap=1.0)
    none = estimator(None).fit(made.X, made.y)
    one = estimator([("all", Encoder(), slice(None))]).fit(made.X, made.y)
    assert none.n_parties_ == 1
    assert none.ledger_.messages == 0
    assert_array_equal(none.predict_proba(made.X), one.predict_proba(made.X))
