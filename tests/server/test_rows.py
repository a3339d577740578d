"""Parties on other machines with rows of the same kind: the same model as simulated ones give."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch

from fedtl import (
    FederatedFineTuner,
    FederatedGaussianNB,
    FederatedLogisticRegression,
    FederatedPCA,
    FederatedRidge,
    FederatedSharedColumnsClassifier,
    FederatedSimpleImputer,
    FederatedStandardScaler,
)
from fedtl.exceptions import BudgetSpent, PartyError, PolicyRefusal
from fedtl.parties import Policy, RowTable
from fedtl.privacy import DifferentialPrivacy, SecureAggregation
from fedtl.server._serve import PartyFile

X, Y = load_breast_cancer(return_X_y=True, as_frame=True)
X = ((X - X.mean()) / X.std()).iloc[:, :6]
PARTY = np.random.default_rng(0).choice(["own", "shop", "post"], len(X))
OWN = PARTY == "own"
NET = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
TUNER = FederatedFineTuner(NET, n_rounds=2, privacy="none", random_state=0)


def table(name, X=X, y=Y, **settings):
    frame = X[name == PARTY].assign(ill=np.asarray(y)[name == PARTY])
    return RowTable(name, frame, target="ill", **settings)


def hospitals(**tables):
    """A world of these tables, by default of all rows but the caller's own."""
    return Bunch(blocks=tables or {name: table(name) for name in ("shop", "post")})


@pytest.fixture
def federation(world):
    return world(hospitals(), trainer=TUNER).connect()


@pytest.mark.parametrize(
    "model",
    [
        FederatedRidge(),
        FederatedLogisticRegression(),
        FederatedGaussianNB(),
        FederatedPCA(3),
        FederatedStandardScaler(),
        FederatedSimpleImputer(),
        FederatedSharedColumnsClassifier("own", random_state=0),
        TUNER,
        clone(TUNER).set_params(strategy="scaffold", validation=0.2),
    ],
    ids=lambda model: type(model).__name__,
)
def test_remote_rows_give_the_model_of_simulated_ones(federation, model):
    y = None if hasattr(model, "transform") else Y
    local = clone(model).fit(X, y, sample_party=PARTY)
    remote = clone(model).set_params(federation=federation)
    if "privacy" in model.get_params():
        remote.set_params(privacy="none")
    remote.fit(X[OWN], None if y is None else Y[OWN])
    method = next(m for m in ("predict_proba", "predict", "transform") if hasattr(model, m))
    np.testing.assert_array_equal(getattr(remote, method)(X), getattr(local, method)(X))
    assert remote.parties_ == local.parties_ == ["own", "post", "shop"]


@pytest.mark.parametrize(
    "model",
    [
        FederatedRidge(),
        FederatedLogisticRegression(),
        FederatedGaussianNB(),
        FederatedPCA(3),
        FederatedStandardScaler(),
        FederatedSimpleImputer(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_sums_of_remote_parties_are_seen_as_totals_only_by_default(federation, model):
    y = None if hasattr(model, "transform") else Y
    # Far from zero and of another scale: totals around zero would have lost their digits.
    offset = np.array([1e7, 0, 0, 0, 0, -1e5])
    with_offset = (X * np.array([1, 1e-4, 1, 1e4, 1, 1])) + offset
    there = clone(model).set_params(federation=federation)
    local = clone(model).fit(X, y, sample_party=PARTY)
    there.fit(X[OWN], None if y is None else Y[OWN])
    method = next(m for m in ("predict_proba", "predict", "transform") if hasattr(model, m))
    np.testing.assert_allclose(getattr(there, method)(X), getattr(local, method)(X), atol=1e-9)
    kinds = {row["kind"].split("/")[0] for row in there.ledger_.rows()}
    assert "secure_sums.masked" in kinds
    assert not kinds & {
        "statistics.column_moments",
        "statistics.product_sums",
        "statistics.derivatives",
    }
    secure = clone(model).set_params(privacy=SecureAggregation())
    secure.fit(with_offset, y, sample_party=PARTY)
    plain = clone(model).fit(with_offset, y, sample_party=PARTY)
    np.testing.assert_allclose(
        getattr(secure, method)(with_offset),
        getattr(plain, method)(with_offset),
        rtol=1e-7,
        atol=1e-8,
    )


def test_nothing_is_left_at_a_party_after_a_fit_a_cross_validation_or_a_failure(world):
    there = world(hospitals(), trainer=TUNER)
    federation = there.connect()
    model = FederatedLogisticRegression(federation=federation, privacy="none")
    assert cross_val_score(model, X[OWN], Y[OWN], cv=3).mean() > 0.9
    with pytest.raises(PartyError, match="parameters have other names or shapes"):
        FederatedFineTuner(torch.nn.Linear(6, 2), federation=federation).fit(X[OWN], Y[OWN])
    del model
    federation.close()
    assert there.n_sessions == {"shop": 0, "post": 0}
    for server in there.servers.values():
        caller = server.endpoint.caller("bank")
        assert not caller.service.fits
        assert not caller.service.sessions


def test_a_class_that_only_a_remote_party_has_is_learnt(world):
    words = np.array(["well", "ill"], dtype=object)[Y]
    words[(PARTY == "post") & (np.arange(len(X)) % 2 == 0)] = "unsure"
    tables = {name: table(name, y=words) for name in ("shop", "post")}
    federation = world(hospitals(**tables)).connect()
    model = FederatedLogisticRegression(federation=federation, privacy="none").fit(
        X[OWN], words[OWN]
    )
    assert model.classes_.tolist() == ["ill", "unsure", "well"]
    pooled = LogisticRegression(tol=1e-12, solver="newton-cg").fit(X, words)
    np.testing.assert_allclose(model.coef_, pooled.coef_, atol=1e-8)


def test_whole_numbers_and_booleans_are_the_same_classes_at_both_ends(federation):
    # A party's table has numbers of one type only; 1 and True and 1.0 must not be three classes.
    for y in (Y.astype(bool), Y.astype(float), Y.astype(np.int8)):
        model = FederatedGaussianNB(federation=federation, privacy="none").fit(X[OWN], y[OWN])
        assert model.classes_.dtype == y.dtype
        assert len(model.classes_) == 2


def test_columns_are_found_by_name_and_others_are_not_read(world):
    there = world(hospitals(shop=table("shop", X.iloc[:, ::-1].assign(spare=0.0))))
    federation = there.connect()
    known = PARTY != "post"
    model = FederatedRidge(federation=federation, privacy="none").fit(X[OWN], Y[OWN])
    local = FederatedRidge().fit(X[known], Y[known], sample_party=PARTY[known])
    np.testing.assert_array_equal(model.coef_, local.coef_)
    with pytest.raises(ValueError, match="X has no names of columns, by which remote parties"):
        FederatedRidge(federation=federation, privacy="none").fit(X[OWN].to_numpy(), Y[OWN])


@pytest.mark.parametrize("transformer", [FederatedStandardScaler, FederatedSimpleImputer])
def test_what_a_transformer_made_of_own_rows_is_not_taken_for_the_columns_of_others(
    world, transformer
):
    """Remote rows go through steps that the output tells of (test_steps.py), and no others."""
    federation = world(hospitals()).connect()
    made = transformer(federation=federation, privacy="none").set_output(transform="pandas")
    out = made.fit_transform(X[OWN])
    model = FederatedRidge(federation=federation, privacy="none")
    without_origin = pd.DataFrame(out.to_numpy(), columns=out.columns)
    with pytest.raises(PartyError, match="lacks 6 of the 6 columns of the fit, the first of them"):
        model.fit(without_origin, Y[OWN])
    with pytest.raises(ValueError, match="X has no names of columns.*set_output"):
        make_pipeline(made.set_output(transform="default"), model).fit(X[OWN], Y[OWN])


def test_a_scikit_learn_model_is_trained_in_rounds_at_remote_parties(world):
    tuner = clone(TUNER).set_params(estimator=SGDClassifier(random_state=0))
    federation = world(hospitals(), trainer=tuner).connect()
    local = clone(tuner).fit(X, Y, sample_party=PARTY)
    remote = clone(tuner).set_params(federation=federation).fit(X[OWN], Y[OWN])
    np.testing.assert_array_equal(remote.predict(X), local.predict(X))


def test_updates_of_remote_parties_are_seen_as_their_mean_only_by_default(federation):
    local = clone(TUNER).fit(X, Y, sample_party=PARTY)
    remote = clone(TUNER).set_params(federation=federation, privacy="auto").fit(X[OWN], Y[OWN])
    np.testing.assert_allclose(remote.model_.shared, local.model_.shared, rtol=1e-4, atol=1e-5)
    kinds = {row["kind"] for row in remote.ledger_.rows()}
    assert "secure_sums.masked/1" in kinds
    assert "rounds.update/1" not in kinds


def test_two_parties_have_no_mean_that_hides_anything(world):
    federation = world(hospitals(shop=table("shop")), trainer=TUNER).connect()
    with pytest.raises(ValueError, match="needs 3 parties, there are 2"):
        FederatedFineTuner(NET, federation=federation).fit(X[OWN], Y[OWN])


def with_a_gap():
    gap = X.copy()
    gap.iloc[np.flatnonzero(PARTY == "shop")[0], 2] = np.nan
    return gap


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (lambda: table("shop", X.iloc[:, 1:]), "lacks 1 of the 6 columns of the fit"),
        (lambda: table("shop", X.assign(**{X.columns[2]: "a"})), "'mean perimeter' is no number"),
        (lambda: table("shop", with_a_gap()), "no value in 1 of"),
        (lambda: table("shop", X / (Y.to_numpy()[:, None] == 1)), "infinity in"),
        (lambda: table("shop", y=Y.where(Y == 1)), "has no target 'ill' in"),
        (lambda: table("shop", y=np.where(Y, "a", "b")), "text and numbers"),
        (lambda: table("shop", y=pd.to_datetime(Y)), "is a date"),
        (lambda: RowTable("shop", X), "its table has no target"),
        (lambda: X, "does not understand the message 'row_session.labels/1'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_name(world, tables, said):
    federation = world(hospitals(shop=tables())).connect()
    model = FederatedLogisticRegression(federation=federation, privacy="none")
    with pytest.raises(PartyError, match=said) as raised:
        model.fit(X[OWN], Y[OWN])
    assert raised.value.party == "shop"
    assert not [name for name in vars(model) if name.endswith("_")]


def test_the_policy_of_a_party_is_kept(world):
    federation = world(hospitals(), policy=Policy(max_fits=1, min_rows=30)).connect()
    model = FederatedRidge(federation=federation, privacy="none").fit(X[OWN], Y[OWN])
    with pytest.raises(PolicyRefusal, match="1 fits"):
        model.fit(X[OWN], Y[OWN])
    many = world(hospitals(), policy=Policy(min_rows=5000)).connect()
    with pytest.raises(PolicyRefusal, match="5000"):
        FederatedRidge(federation=many, privacy="none").fit(X[OWN], Y[OWN])


def test_a_party_that_counts_epsilon_answers_private_rounds_and_nothing_clear(world):
    there = world(hospitals(), trainer=TUNER, policy=Policy(epsilon=2.2))
    federation = there.connect()
    private = DifferentialPrivacy(2.0)
    tuner = clone(TUNER).set_params(federation=federation, privacy=private, n_rounds=1)
    tuner.fit(X[OWN], Y[OWN])
    spent = federation.describe()["shop"]["epsilon"]["used"]
    assert 1.9 < spent <= 2.0001
    with pytest.raises(BudgetSpent):
        tuner.fit(X[OWN], Y[OWN])
    for clear in (clone(TUNER), FederatedRidge(privacy="none"), FederatedRidge()):
        with pytest.raises(PolicyRefusal, match="tells of rows without noise"):
            clear.set_params(federation=federation).fit(X[OWN], Y[OWN])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (FederatedRidge(deploy="best", party=0), 'deploy="best" keeps a model at each party'),
        (clone(TUNER).set_params(deploy="best"), "deploy='best' and personal"),
        (clone(TUNER).set_params(checkpoint="here"), "checkpoint does not go together"),
    ],
)
def test_what_needs_a_party_to_keep_something_is_refused(federation, model, said):
    with pytest.raises(ValueError, match=said):
        model.set_params(federation=federation).fit(X[OWN], Y[OWN])


def test_a_party_whose_rows_are_in_x_cannot_be_remote_as_well(federation):
    with pytest.raises(ValueError, match=r"\['post', 'shop'\] have rows in X and an address"):
        FederatedRidge(federation=federation, privacy="none").fit(X, Y, sample_party=PARTY)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_partys_file_names_the_target_instead_of_a_key(tmp_path, kind):
    frame = X.assign(ill=Y)
    write = frame.to_parquet if kind == "parquet" else frame.to_csv
    write(tmp_path / f"rows.{kind}", index=False)
    said = f'name = "shop"\n[table]\npath = "rows.{kind}"\n'
    (tmp_path / "party.toml").write_text(said + 'target = "ill"\ncolumns = ["mean radius"]\n')
    endpoint = PartyFile.read(tmp_path / "party.toml").endpoint()
    read = endpoint.service.table
    assert list(read.block) == ["mean radius"]
    assert read.labels() == [0, 1]
    np.testing.assert_allclose(read.block["mean radius"], X["mean radius"], atol=1e-12)
    endpoint.audit.close()
    for wrong in ('target = "ill"\nkey = "id"\n', ""):
        (tmp_path / "party.toml").write_text(said + wrong)
        with pytest.raises(ValueError, match="either key, the column of the ids, or target"):
            PartyFile.read(tmp_path / "party.toml").endpoint()
