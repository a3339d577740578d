"""Only labelled rows are tested; unlabelled rows always train."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)

from fedtl import LabeledFold

RNG = np.random.default_rng(0)
NAN = float("nan")


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from([-1, 0, 1]), min_size=4, max_size=40),
    st.integers(2, 3),
    st.sampled_from(["int", "float nan", "text"]),
)
def test_folds_are_those_of_the_labelled_rows_with_all_unlabelled_rows_in_training(y, k, kind):
    y = np.array([*y, *[0] * k, *[1] * k])
    hidden = y == -1
    labelled = np.flatnonzero(~hidden)
    target, marker = {
        "int": (y, -1),
        "float nan": (np.where(hidden, np.nan, y), NAN),
        "text": (np.where(hidden, "?", np.where(y == 1, "yes", "no")), "?"),
    }[kind]
    folds = list(LabeledFold(k, unlabeled=marker).split(np.zeros((len(y), 2)), target))
    expected = list(StratifiedKFold(k).split(labelled, y[labelled]))
    assert len(folds) == k
    for (train, test), (own_train, own_test) in zip(folds, expected, strict=True):
        np.testing.assert_array_equal(test, labelled[own_test])
        assert not hidden[test].any()
        assert hidden[train].sum() == hidden.sum()
        np.testing.assert_array_equal(train[~hidden[train]], labelled[own_train])
        assert (np.diff(train) > 0).all()


def test_real_targets_are_not_stratified():
    y = RNG.normal(size=30)
    y[::4] = np.nan
    labelled = np.flatnonzero(~np.isnan(y))
    tests = [test for _, test in LabeledFold(3, unlabeled=NAN).split(y, y)]
    expected = [labelled[test] for _, test in KFold(3).split(labelled)]
    assert [t.tolist() for t in tests] == [e.tolist() for e in expected]


def test_with_every_row_labelled_it_is_the_splitter_that_it_was_given():
    y = RNG.integers(0, 2, 20)
    cv = StratifiedKFold(4, shuffle=True, random_state=0)
    for (a, b), (c, d) in zip(LabeledFold(cv).split(y, y), cv.split(y, y), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)


@pytest.mark.parametrize("container", [np.asarray, pd.Series, list])
def test_groups_of_labelled_rows_stay_together(container):
    y = np.array([0, 1, -1] * 8)
    groups = np.repeat(np.arange(6), 4)
    fold = LabeledFold(GroupKFold(3))
    splits = list(fold.split(np.zeros(24), container(y), container(groups)))
    assert fold.get_n_splits(np.zeros(24), container(y), container(groups)) == len(splits) == 3
    for train, test in splits:
        own = train[y[train] != -1]
        assert not set(groups[own]) & set(groups[test])
        assert (y[train] == -1).sum() == 8


def test_a_list_of_splits_counts_labelled_rows():
    y = np.array([-1, 0, 1, -1, 0, 1])
    given_ = [([0, 1], [2, 3]), ([2, 3], [0, 1])]
    splits = list(LabeledFold(given_).split(y, y))
    assert [test.tolist() for _, test in splits] == [[4, 5], [1, 2]]
    assert [train.tolist() for train, _ in splits] == [[0, 1, 2, 3], [0, 3, 4, 5]]
    assert LabeledFold(given_).get_n_splits() == 2


def test_an_iterator_of_splits_can_be_counted_before_it_is_used():
    y = np.array([-1, 0, 1, -1, 0, 1])
    fold = LabeledFold(iter([([0, 1], [2, 3]), ([2, 3], [0, 1])]))
    assert fold.get_n_splits(y, y) == 2
    assert len(list(fold.split(y, y))) == 2


def test_the_number_of_folds_is_that_of_the_labelled_rows():
    y = np.array([0, 1, -1, 0, 1, -1, 0])
    assert LabeledFold(3).get_n_splits() == 3
    assert LabeledFold(LeaveOneOut()).get_n_splits(y, y) == 5
    assert len(list(LabeledFold(LeaveOneOut()).split(y, y))) == 5


def test_without_labels_there_is_nothing_to_split():
    with pytest.raises(ValueError, match="no row is labelled: every y is -1"):
        next(LabeledFold(2).split(np.zeros(3), np.full(3, -1)))
    with pytest.raises(ValueError, match="LabeledFold needs y"):
        next(LabeledFold(2).split(np.zeros(3)))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        next(LabeledFold(2).split(np.zeros(3), np.zeros(4)))


class OfLabelled(ClassifierMixin, BaseEstimator):
    """Fits a classifier on the labelled rows and remembers how many others it was given."""

    def __init__(self, C=1.0, unlabeled=-1):
        self.C = C
        self.unlabeled = unlabeled

    def fit(self, X, y):
        labelled = np.asarray(y) != self.unlabeled
        self.model_ = LogisticRegression(C=self.C).fit(X[labelled], np.asarray(y)[labelled])
        self.classes_ = self.model_.classes_
        self.n_unlabelled_ = int((~labelled).sum())
        return self

    def predict(self, X):
        return self.model_.predict(X)


@pytest.fixture(params=["int", "text"])
def problem(request):
    X = RNG.normal(size=(60, 2))
    y = (X[:, 0] > 0).astype(int)
    marker = -1
    if request.param == "text":
        y, marker = np.array(["no", "yes"])[y].astype(object), "?"
    y[::3] = marker
    return X, y, marker


def test_cross_validation_scores_labelled_rows_only(problem):
    X, y, marker = problem
    estimator = OfLabelled(unlabeled=marker)
    scores = cross_val_score(estimator, X, y, cv=LabeledFold(4, unlabeled=marker))
    labelled = y != marker
    expected = cross_val_score(
        clone(estimator), X[labelled], y[labelled].astype(type(y[1])), cv=StratifiedKFold(4)
    )
    np.testing.assert_allclose(scores, expected)
    assert scores.mean() > 0.8


def test_a_search_fits_with_all_unlabelled_rows_every_time(problem):
    X, y, marker = problem
    search = GridSearchCV(
        OfLabelled(unlabeled=marker),
        {"C": [1e-3, 1.0]},
        cv=LabeledFold(3, unlabeled=marker),
        return_train_score=False,
        error_score="raise",
    ).fit(X, y)
    assert search.n_splits_ == 3
    assert search.best_estimator_.n_unlabelled_ == 20
    assert clone(search).cv.unlabeled == marker


def test_predictions_for_all_rows_are_refused_by_scikit_learn():
    X, y = RNG.normal(size=(30, 2)), np.tile([0, 1, -1], 10)
    with pytest.raises(ValueError, match="only works for partitions"):
        cross_val_predict(OfLabelled(), X, y, cv=LabeledFold(3))


def test_it_shows_how_it_was_made():
    assert repr(LabeledFold(3, unlabeled="?")) == "LabeledFold(cv=3, unlabeled='?')"
