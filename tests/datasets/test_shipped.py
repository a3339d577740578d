"""The data sets that ship with scikit-learn keep their values and get their parties."""

import sys

import numpy as np
import pytest
import sklearn.datasets

from fedtl import datasets

LOADERS = {
    "load_digits_halves": ("load_digits", "multiclass", [32, 32]),
    "load_breast_cancer_parties": ("load_breast_cancer", "binary", [10, 20]),
    "load_diabetes_parties": ("load_diabetes", "regression", [4, 6]),
    "load_wine_parties": ("load_wine", "multiclass", [5, 8]),
}


@pytest.mark.parametrize("name", LOADERS)
def test_values_and_target_are_those_of_scikit_learn(name):
    original, task, sizes = LOADERS[name]
    bunch = getattr(datasets, name)()
    expected = getattr(sklearn.datasets, original)(as_frame=True)
    assert bunch.data[expected.data.columns].equals(expected.data)
    assert np.array_equal(bunch.target, expected.target)
    assert bunch.task == task
    assert [len(columns) for columns in bunch.parties.values()] == sizes


@pytest.mark.parametrize("name", LOADERS)
def test_every_column_belongs_to_one_party_in_order(name):
    bunch = getattr(datasets, name)()
    columns = [column for block in bunch.parties.values() for column in block]
    assert columns == list(bunch.data.columns)
    assert all(party in bunch.DESCR for party in bunch.parties)


def test_the_left_party_sees_the_left_half_of_each_image():
    bunch = datasets.load_digits_halves()
    images = sklearn.datasets.load_digits().images
    left = bunch.data[bunch.parties["left"]].to_numpy().reshape(-1, 8, 4)
    assert np.array_equal(left, images[:, :, :4])


def test_classes_have_names_and_regression_has_none():
    assert list(datasets.load_breast_cancer_parties().target_names) == ["malignant", "benign"]
    assert "target_names" not in datasets.load_diabetes_parties()


@pytest.mark.parametrize("name", [*LOADERS, "make_federated_regression", "fetch_adult"])
def test_a_missing_pandas_is_named_with_the_way_to_get_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        getattr(datasets, name)()


def test_every_public_name_exists_and_is_documented():
    for name in datasets.__all__:
        assert ">>>" in getattr(datasets, name).__doc__
