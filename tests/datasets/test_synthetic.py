"""Made-up federations have the overlap, labels and holes that were asked for."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import cross_val_score

from fedtl.datasets import make_federated_classification, make_federated_regression

pd = pytest.importorskip("pandas")
both = pytest.mark.parametrize("make", [make_federated_classification, make_federated_regression])


def membership(made):
    blocks = [made.data[columns] for columns in made.parties.values()]
    return np.column_stack([block.notna().any(axis=1) for block in blocks])


@both
def test_rows_are_shared_in_part_and_else_spread_evenly(make):
    known = membership(make(100, n_parties=3, overlap=0.4, random_state=0))
    assert known.all(axis=1).sum() == 40
    assert set(known.sum(axis=1)) == {1, 3}
    assert list(known.sum(axis=0)) == [60, 60, 60]


@both
def test_only_the_active_party_has_labels_and_only_the_share_asked_for(make):
    made = make(100, overlap=0.4, labeled=0.5, random_state=0)
    labeled = made.target.notna() & (made.target != -1)
    assert labeled.sum() == 35
    assert membership(made)[labeled, 0].all()


@both
def test_one_site_lacks_columns_of_each_party_and_the_other_lacks_none(make):
    made = make(100, overlap=1.0, missing_columns=0.3, random_state=0)
    first = made.sample_party == "site0"
    assert first.sum() == 50
    assert made.data[first].notna().all(axis=None)
    for columns in made.parties.values():
        holes = made.data.loc[~first, columns].isna()
        assert holes.all().sum() == 3
        assert holes.any().sum() == 3


@both
def test_holes_never_swallow_a_whole_block(make):
    made = make(50, overlap=1.0, n_features=2, missing_columns=0.99, random_state=0)
    assert membership(made).all()


@both
def test_one_seed_gives_one_data_set_and_another_seed_another(make):
    first, again, other = (make(50, random_state=seed) for seed in (1, 1, 2))
    assert first.data.equals(again.data)
    assert first.target.equals(again.target)
    assert not first.data.equals(other.data)


def test_shapes_names_and_types_are_the_documented_ones():
    made = make_federated_classification(60, n_parties=3, n_features=4, n_classes=3, random_state=0)
    assert made.data.shape == (60, 12)
    assert list(made.parties) == ["party0", "party1", "party2"]
    assert made.parties["party1"] == [f"party1_{i}" for i in range(4)]
    assert made.target.dtype == "int64"
    assert made.task == "multiclass"
    assert made.target_names == ["class0", "class1", "class2"]
    assert make_federated_classification(20, random_state=0).task == "binary"
    assert make_federated_regression(20, random_state=0).target.dtype == "float64"


@pytest.mark.parametrize("seed", range(3))
def test_the_partner_adds_to_what_the_active_party_can_tell(seed):
    made = make_federated_classification(2000, overlap=1.0, random_state=seed)
    model = LogisticRegression()
    alone = cross_val_score(model, made.data[made.parties["party0"]], made.target).mean()
    assert cross_val_score(model, made.data, made.target).mean() > alone + 0.01
    made = make_federated_regression(2000, overlap=1.0, random_state=seed)
    model = LinearRegression()
    alone = cross_val_score(model, made.data[made.parties["party0"]], made.target).mean()
    assert cross_val_score(model, made.data, made.target).mean() > alone + 0.02


def test_without_noise_the_target_is_a_function_of_one_party():
    made = make_federated_regression(200, overlap=1.0, noise=0.0, random_state=0)
    block = made.data[made.parties["party1"]]
    assert LinearRegression().fit(block, made.target).score(block, made.target) > 0.999999


@pytest.mark.parametrize("n_classes", [2, 4])
def test_classes_are_about_equally_frequent(n_classes):
    made = make_federated_classification(4000, n_classes=n_classes, overlap=1.0, random_state=0)
    assert np.bincount(made.target) / 4000 == pytest.approx(1 / n_classes, abs=0.05)


@both
@pytest.mark.parametrize(
    "options",
    [{"overlap": 1.1}, {"labeled": 0.0}, {"missing_columns": 1.0}, {"noise": -1.0}]
    + [{"n_parties": 0}, {"n_samples": 0}, {"n_features": 0}, {"n_latent": 0}],
)
def test_a_number_out_of_range_is_named(make, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**{"n_samples": 20, **options})


def test_more_classes_than_factors_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match="pass n_latent=6 or more"):
        make_federated_classification(n_classes=6)
