"""Reports of training in rounds, and what parties contribute."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import load_digits
from torch import nn

from fedtl import FederatedFineTuner
from fedtl.inspection import party_contributions


class Game(RegressorMixin, BaseEstimator):
    """An estimator whose score is a known function of who takes part."""

    def fit(self, X, y, sample_party):
        """Remember who takes part."""
        self.parties_ = set(sample_party)
        return self

    def score(self, X, y):
        """Parties 0 and 1 are worth something together only; the others by their number."""
        together = 1.0 if {0, 1} <= self.parties_ else 0.0
        return together + 0.1 * sum(self.parties_ - {0, 1})


def contributions(n, **params):
    X = np.zeros((2 * n, 1))
    party = np.arange(2 * n) % n
    return party_contributions(Game(), X, X[:, 0], party, X_test=X, y_test=X[:, 0], **params)


def test_leave_one_out_is_the_score_that_is_lost():
    found = contributions(4)
    np.testing.assert_allclose(found.values, [1.0, 1.0, 0.2, 0.3])
    assert found.n_fits == 5
    assert found.score == pytest.approx(1.5)


def test_shapley_values_equal_the_mean_over_all_orders():
    found = contributions(4, method="shapley")
    expected = np.zeros(4)
    for order in permutations(range(4)):
        for i, party in enumerate(order):
            before, after = Game().fit(0, 0, order[:i]), Game().fit(0, 0, order[: i + 1])
            expected[party] += (after.score(0, 0) - before.score(0, 0)) / 24
    np.testing.assert_allclose(found.values, expected)
    np.testing.assert_allclose(found.values, [0.5, 0.5, 0.2, 0.3])
    assert found.n_fits == 15


def test_sampled_shapley_values_add_up_and_keep_to_the_number_of_fits():
    found = contributions(8, method="shapley", max_fits=90, random_state=0)
    assert found.n_fits <= 90
    np.testing.assert_allclose(found.values.sum(), found.score)
    np.testing.assert_allclose(found.values[2:], 0.1 * np.arange(2, 8), atol=1e-12)
    np.testing.assert_allclose(found.values[:2], 0.5)  # orders come with their reverses
    assert list(found.to_frame()["party"]) == list("01234567")


def test_too_few_fits_and_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="at least 5"):
        contributions(4, max_fits=4)
    with pytest.raises(ValueError, match="'shapley'"):
        contributions(4, method="banzhaf")


@pytest.fixture(scope="module")
def tuned():
    """Three parties of digits, one of which has its labels in another order than the others."""
    X, y = load_digits(return_X_y=True)
    X, y, party = (X[:600] / 16).astype(np.float32), y[:600].copy(), np.arange(600) % 3
    y[party == 2] = (y[party == 2] + 1) % 10
    frame = pd.DataFrame(X).rename(columns=str).assign(party=party)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    return {
        deploy: FederatedFineTuner(
            net,
            party="party",
            deploy=deploy,
            validation=0.25,
            local_epochs=2,
            lr=0.2,
            random_state=0,
        ).fit(frame, y)
        for deploy in ("federated", "best")
    }, (frame, y)


def test_the_report_compares_three_models_on_each_partys_own_held_out_rows(tuned):
    models, _ = tuned
    table = models["best"].report_.to_frame()
    assert list(table["party"]) == ["0", "1", "2"]
    assert (table["rows"] + table["held_out"] == 200).all()
    assert table["held_out"].between(45, 55).all()
    odd = table.iloc[2]
    assert odd["local"] > odd["federated"] + 0.3
    assert odd["deployed"] != "federated"
    scores = table[["federated", "fine-tuned", "local"]].to_numpy()
    chosen = [table.loc[i, table.loc[i, "deployed"]] for i in range(3)]
    np.testing.assert_array_equal(chosen, scores.max(axis=1))


def test_the_best_by_evidence_serves_each_partys_rows(tuned):
    models, (frame, y) = tuned
    rows = (frame["party"] == 2).to_numpy()
    scores = {name: model.score(frame[rows], y[rows]) for name, model in models.items()}
    assert scores["best"] > scores["federated"] + 0.3


def test_the_report_prints_shows_and_turns_into_tables(tuned):
    report = tuned[0]["best"].report_
    assert "fine-tuned" in str(report)
    assert "rounds.update/1" in repr(report)
    assert "<table>" in report._repr_html_()
    assert len(report.to_frame("rounds")) == 10
    assert report.to_frame("messages")["bytes"].sum() == report.n_bytes
    assert set(report.to_frame("seconds")["phase"]) == {"begin", "rounds", "compare"}
    with pytest.raises(ValueError, match="no table"):
        report.to_frame("nothing")
