"""Epsilon is the one that is known, and no budget is ever exceeded."""

import copy
import json
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from joblib import Parallel, delayed
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.base import clone

from fedtl.exceptions import BudgetSpent, PartyError
from fedtl.privacy import DifferentialPrivacy, PrivacyBudget
from fedtl.privacy.accounting import Gaussian, Response, calibrated, epsilon_of

pytest.importorskip("dp_accounting")


def exact_epsilon(sigma, delta):
    """Balle and Wang's exact curve of one Gaussian sum, solved for epsilon."""

    def excess(epsilon):
        a, b = 0.5 / sigma, epsilon * sigma
        return norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b) - delta

    return brentq(excess, 0.0, 100.0)


@pytest.mark.parametrize("sigma", [0.8, 2.0, 6.0])
def test_one_gaussian_sum_costs_what_the_exact_formula_says(sigma):
    assert epsilon_of([Gaussian(sigma)], 1e-5) == pytest.approx(
        exact_epsilon(sigma, 1e-5), rel=2e-3
    )


def test_gaussian_sums_compose_like_one_with_less_noise():
    together = epsilon_of([Gaussian(3.0), Gaussian(4.0)], 1e-6)
    assert together == pytest.approx(exact_epsilon(1 / math.hypot(1 / 3, 1 / 4), 1e-6), rel=2e-3)


def test_known_answer_of_ten_thousand_sampled_steps():
    training = Gaussian(1.1, sampling_rate=0.01, n_steps=10_000)
    assert epsilon_of([training], 1e-5, "rdp") == pytest.approx(5.632, abs=0.02)
    assert epsilon_of([training], 1e-5) == pytest.approx(5.193, abs=0.01)


@pytest.mark.parametrize(
    "mechanism", [Gaussian(2.0, 0.1, 200), Gaussian(1.0, 0.02, 500), Gaussian(4.0, 1.0, 10)]
)
def test_renyi_accounting_agrees_and_is_never_below(mechanism):
    pld, rdp = (epsilon_of([mechanism], 1e-5, name) for name in ("pld", "rdp"))
    assert pld <= rdp <= 1.2 * pld


def test_responses_to_the_same_labels_add_up():
    assert epsilon_of([Response(0.5), Response(0.7)], 1e-5) == pytest.approx(1.2)


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 1), (0.1, 100)])
def test_calibrated_noise_costs_what_was_asked_for_and_no_more(rate, steps):
    found = calibrated(1.5, 1e-5, rate, steps)
    assert 1.48 < epsilon_of([found], 1e-5) <= 1.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"epsilon": math.nan},
        {"epsilon": math.inf},
        {"epsilon": "1"},
        {"epsilon": 1.0, "delta": 0.0},
        {"epsilon": 1.0, "delta": 1.0},
        {"epsilon": 1.0, "unit": "person"},
        {"epsilon": 1.0, "clip": 0.0},
    ],
)
def test_parameters_that_promise_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        DifferentialPrivacy(**wrong)


def test_a_budget_refuses_what_would_exceed_it_and_keeps_its_book():
    budget = PrivacyBudget(1.0, 1e-5)
    budget.spend("clinic", Gaussian(6.0))
    before = budget.entries()
    with pytest.raises(BudgetSpent, match=r"'clinic'.*1 earlier.*budget is 1") as refused:
        budget.spend("clinic", Gaussian(4.0))
    assert isinstance(refused.value, PartyError)
    assert budget.entries() == before
    budget.spend("clinic", Gaussian(8.0))
    assert budget.spent("clinic") <= 1.0


def test_each_owner_has_the_whole_budget():
    budget = PrivacyBudget(1.0, 1e-5)
    for owner in ("clinic", "hospital"):
        budget.spend(owner, Gaussian(4.0))
    with pytest.raises(BudgetSpent):
        budget.spend("hospital", Gaussian(4.0))


def test_copies_clones_and_pickles_spend_from_the_same_book():
    budget = PrivacyBudget(1.0, 1e-5)
    others = [clone(budget), copy.deepcopy(budget), pickle.loads(pickle.dumps(budget))]
    for other in others:
        other.spend("clinic", Gaussian(20.0))
    assert len(budget.entries()) == 3


def test_a_pickle_that_goes_away_leaves_the_book():
    budget = PrivacyBudget(1.0, 1e-5)
    del pickle.loads(pickle.dumps(budget)).__dict__
    assert budget.entries() == []


def test_a_book_is_gone_on_with_and_not_one_of_another_budget(tmp_path):
    path = tmp_path / "book.json"
    PrivacyBudget(2.0, 1e-5, path).spend("clinic", Gaussian(3.0))
    assert len(PrivacyBudget(2.0, 1e-5, path).entries()) == 1
    with pytest.raises(ValueError, match="book of a budget of epsilon 2"):
        PrivacyBudget(9.0, 1e-5, path)


@pytest.mark.parametrize("text", ["", "{", '{"epsilon": 2.0}', json.dumps({"spent": 3})])
def test_nothing_is_spent_from_a_book_that_cannot_be_read(tmp_path, text):
    path = tmp_path / "book.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="cannot be read"):
        PrivacyBudget(2.0, 1e-5, path)


def _try(budget, mechanism):
    try:
        budget.spend("clinic", mechanism)
    except BudgetSpent:
        return 0
    return 1


def test_threads_do_not_spend_more_than_there_is():
    budget, each = PrivacyBudget(1.0, 1e-5), Gaussian(10.0)
    with ThreadPoolExecutor(8) as pool:
        granted = sum(pool.map(lambda _: _try(budget, each), range(16)))
    assert granted == len(budget.entries())
    assert epsilon_of([each] * granted, 1e-5) <= 1.0 < epsilon_of([each] * (granted + 1), 1e-5)


@pytest.mark.slow
def test_processes_do_not_spend_more_than_there_is():
    budget, each = PrivacyBudget(1.0, 1e-5), Gaussian(10.0)
    granted = sum(Parallel(2)(delayed(_try)(budget, each) for _ in range(10)))
    assert granted == len(budget.entries())
    assert epsilon_of([each] * granted, 1e-5) <= 1.0 < epsilon_of([each] * (granted + 1), 1e-5)
