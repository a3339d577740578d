"""Whose row is whose: by metadata or by a column, through all of scikit-learn's tools."""

from typing import Annotated

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import ClassifierMixin, clone
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedtl.estimators._rowwise import RowwiseEstimator, check_parties, split_rows
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import Ledger, Simulation
from fedtl.parties import Policy
from fedtl.wire import Message, Tensor, message


@message("test.means/1")
class Ask(Message):
    shift: float


@message("test.meant/1")
class Sums(Message):
    sums: Annotated[np.ndarray, Tensor("float64", (2, "columns"))]
    counts: Annotated[np.ndarray, Tensor("float64", (2,))]


def answer_means(party, request):
    rows = party.table
    party.policy.allow_aggregate(party.name, len(rows))
    sums = np.stack([rows.X[rows.y == c].sum(axis=0) for c in (0, 1)]) + request.shift
    return Sums(sums=sums, counts=np.array([np.sum(rows.y == c) for c in (0, 1)], float))


ANSWERS = {"test.means/1": ("means", answer_means)}


class NearestMean(ClassifierMixin, RowwiseEstimator):
    """The smallest row-wise classifier there is."""

    def __init__(self, shift=0.0, *, party=None, federation=None):
        self.shift, self.party, self.federation = shift, party, federation

    def fit(self, X, y, sample_weight=None, *, sample_party=None):
        with self._unchanged_on_failure():
            self.classes_ = np.unique(y)
            owners = self._owners(X, sample_party)
            features = np.asarray(self._without_party(X), dtype=float)
            rows, ledger = split_rows(owners, features, np.asarray(y), sample_weight), Ledger()
            _, channels = self._open(rows, ANSWERS, ledger, "fit")
            replies = [c.ask(Ask(shift=self.shift), Sums) for c in channels.values()]
            self.means_ = sum(r.sums for r in replies) / sum(r.counts for r in replies)[:, None]
            self._set_parties(channels, ledger)
        return self

    def predict(self, X):
        X = np.asarray(self._without_party(X), dtype=float)
        distance = ((X[:, None] - self.means_) ** 2).sum(axis=2)
        return self.classes_[distance.argmin(axis=1)]


def data(n=60, n_parties=3):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    X = pd.DataFrame(rng.normal(size=(n, 2)) + 3 * y[:, None], columns=["a", "b"])
    return X, y, np.array(["north", "south", "west"])[np.arange(n) // 2 % n_parties]


def test_one_party_has_all_rows_when_nobody_says_whose_they_are():
    X, y, _ = data()
    model = NearestMean().fit(X, y)
    assert (model.parties_, model.n_parties_, model.ledger_.messages) == (["all"], 1, 2)


@pytest.mark.parametrize("kind", ["metadata", "pandas column", "polars column", "position"])
def test_owners_are_the_same_by_metadata_and_by_column(kind):
    X, y, party = data()
    pooled = NearestMean().fit(X, y)
    if kind == "metadata":
        model = NearestMean().fit(X, y, sample_party=party)
    elif kind == "position":
        X = np.column_stack([X["a"], np.unique(party, return_inverse=True)[1], X["b"]])
        model = NearestMean(party=1).fit(X, y)
    else:
        X = X.assign(hospital=party)
        X = pl.from_pandas(X) if kind == "polars column" else X
        model = NearestMean(party="hospital").fit(X, y)
    names = ["0", "1", "2"] if kind == "position" else ["north", "south", "west"]
    assert model.parties_ == names
    assert {row["party"] for row in model.ledger_.rows()} == set(names)
    np.testing.assert_allclose(model.means_, pooled.means_, rtol=1e-12)
    assert model.predict(X).shape == (60,)


@given(
    owners=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30),
    weights=st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=30, max_size=30),
)
def test_every_row_with_a_weight_goes_to_its_party_in_its_order(owners, weights):
    owners, weight = np.array(owners, dtype=object), np.array(weights[: len(owners)])
    X, y = np.arange(len(owners))[:, None], -np.arange(len(owners))
    if not weight.any():
        with pytest.raises(ValueError, match="at least one non-zero entry"):
            split_rows(owners, X, y, weight)
        return
    split = split_rows(owners, X, y, weight)
    assert list(split) == sorted(set(owners[weight > 0]))
    for name, rows in split.items():
        expected = np.flatnonzero((owners == name) & (weight > 0))
        assert rows.X[:, 0].tolist() == expected.tolist()
        assert rows.y.tolist() == (-expected).tolist()
        assert rows.weight.tolist() == weight[expected].tolist()


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1, 2], ["1", "2"]),
        ([1.0, 2.5], ["1", "2.5"]),
        ([True, False], ["False", "True"]),
        (["b", 3], ["3", "b"]),
        (pd.Series(["x", "y"], dtype="category"), ["x", "y"]),
    ],
)
def test_parties_are_named_by_the_strings_of_their_values(values, names):
    owners = NearestMean()._owners(np.zeros((2, 1)), values)
    assert sorted(owners) == names


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, ""])
def test_a_row_without_a_party_is_refused_with_its_number(missing):
    with pytest.raises(ValueError, match="sample_party is missing for 1 of 3 rows, the first .* 1"):
        NearestMean()._owners(np.zeros((3, 1)), np.array(["a", missing, "b"], dtype=object))


@pytest.mark.parametrize("wrong", ["a", ["a"] * 4, [["a", "b"]] * 3])
def test_owners_that_do_not_match_the_rows_are_refused_with_both_shapes(wrong):
    with pytest.raises(ValueError, match=r"each of the 3 rows.*\(3,\), got \("):
        NearestMean()._owners(np.zeros((3, 2)), wrong)


def test_owners_that_are_said_twice_are_refused():
    X, y, party = data()
    with pytest.raises(ValueError, match="party='a' names a column .*sample_party was passed"):
        NearestMean(party="a").fit(X, y, sample_party=party)


@pytest.mark.parametrize(
    ("party", "X", "says"),
    [
        ("clinic", data()[0], r"party='clinic' is no column of X, which has the columns \['a'"),
        ("clinic", data()[0].to_numpy(), "has no column names: pass a dataframe"),
        (7, data()[0].to_numpy(), "party=7 is no column of X, which has 2 columns"),
        (0, np.zeros((60, 2, 2)), "party=0 is no column"),
        (0, np.zeros((60, 1)), "no column beside party=0"),
    ],
)
def test_a_party_column_that_is_absent_is_refused_with_what_there_is(party, X, says):
    with pytest.raises(ValueError, match=says):
        NearestMean(party=party).fit(X, data()[1])


def test_a_party_that_took_no_part_in_the_fit_is_named():
    check_parties(["a", "b"], ["a", "b", "c"])
    with pytest.raises(PartyError, match=r"'d': took no part.*\['a', 'b'\]"):
        check_parties(np.array(["a", "d", "d"], dtype=object), ["a", "b"])


def test_a_failed_fit_changes_nothing():
    X, y, party = data()
    model = NearestMean(federation=Simulation(policies={"west": Policy(min_rows=5)}))
    with pytest.raises(PolicyRefusal, match="'west'"):
        model.fit(X[:10], y[:10], sample_party=party[:10])
    assert not [name for name in vars(model) if name.endswith("_")]
    model.fit(X, y, sample_party=party)
    before = dict(vars(model))
    with pytest.raises(PolicyRefusal, match="'west'"):
        model.fit(X[:10], y[:10], sample_party=party[:10])
    assert vars(model) == before


def test_serialised_parties_give_the_same_model_at_the_same_cost():
    X, y, party = data()
    models = [
        NearestMean(federation=Simulation(serialize=s)).fit(X, y, sample_party=party)
        for s in (False, True)
    ]
    assert models[0].means_.tobytes() == models[1].means_.tobytes()
    assert models[0].ledger_.rows() == models[1].ledger_.rows()


def test_leave_one_party_out_cross_validates_without_routing():
    X, y, party = data()
    result = cross_validate(
        NearestMean(),
        X,
        y,
        groups=party,
        cv=LeaveOneGroupOut(),
        params={"sample_party": party},
        return_estimator=True,
    )
    assert [model.parties_ for model in result["estimator"]] == [
        ["south", "west"],
        ["north", "west"],
        ["north", "south"],
    ]
    assert result["test_score"].min() > 0.8


def test_owners_are_routed_through_pipelines_searches_and_two_processes():
    X, y, party = data()
    with config_context(enable_metadata_routing=True):
        model = NearestMean().set_fit_request(sample_party=True)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), model),
            {"nearestmean__shift": [0.0, 50.0]},
            cv=LeaveOneGroupOut(),
            n_jobs=2,
        )
        search.fit(X, y, sample_party=party, groups=party)
        assert search.best_params_ == {"nearestmean__shift": 0.0}
        assert search.best_estimator_[-1].parties_ == ["north", "south", "west"]
        one_array = clone(model).set_fit_request(sample_party="groups")
        result = cross_validate(
            one_array,
            X,
            y,
            cv=LeaveOneGroupOut(),
            params={"groups": party},
            n_jobs=2,
            return_estimator=True,
        )
    assert [model.n_parties_ for model in result["estimator"]] == [2, 2, 2]
