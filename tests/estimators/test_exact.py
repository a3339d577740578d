"""Models from sums over the rows of parties equal scikit-learn's on the pooled rows."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import StandardScaler

from fedtl import (
    FederatedGaussianNB,
    FederatedLogisticRegression,
    FederatedPCA,
    FederatedRidge,
    FederatedSimpleImputer,
    FederatedStandardScaler,
)
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import Simulation
from fedtl.parties import Policy
from fedtl.persistence import load, save

ALL = [
    FederatedRidge(),
    FederatedLogisticRegression(),
    FederatedGaussianNB(),
    FederatedPCA(),
    FederatedStandardScaler(),
    FederatedSimpleImputer(add_indicator=True),
]
COMMON = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make_rows(n=60, n_classes=2, seed=0):
    """Rows whose columns differ in place and scale, a target, and classes of it."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)) * [1.0, 0.1, 5.0, 1.0] + [0.0, 3.0, -40.0, 100.0]
    X[:, 3] += X[:, 0]
    y = X[:, 0] - 10.0 * X[:, 1] + rng.normal(size=n)
    return X, y, np.argsort(np.argsort(y)) * n_classes // n


@st.composite
def splits(draw, n=60):
    """Owners of n rows: one to six parties, the last of them with one row if there are two."""
    n_parties = draw(st.integers(1, 6))
    cuts = sorted(draw(st.lists(st.integers(0, n), min_size=n_parties - 1, max_size=n_parties - 1)))
    owners = np.searchsorted(cuts, np.arange(n), side="right")
    if draw(st.booleans()):  # else parties follow the order of the target: some have one class
        owners = np.random.default_rng(draw(st.integers(0, 9))).permutation(owners)
    if n_parties > 1:
        owners[draw(st.integers(0, n - 1))] = n_parties
    return owners


weighting = st.sampled_from([None, "any", "with zeros"])


def weights(kind, n=60):
    """Weights of a kind, or None."""
    rng = np.random.default_rng(5)
    if kind is None:
        return None
    return rng.uniform(0.1, 3.0, n) * (1.0 if kind == "any" else rng.integers(0, 2, n))


def close(ours, theirs, names, tol=1e-8):
    """Compare fitted attributes, relative to the largest number of each."""
    for name in names.split():
        a, b = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, rtol=0, atol=tol * max(1.0, np.abs(b).max()), err_msg=name)


@given(owners=splits(), kind=weighting, intercept=st.booleans(), outputs=st.sampled_from([0, 1, 2]))
@COMMON
def test_ridge_equals_the_pooled_one(owners, kind, intercept, outputs):
    X, y, _ = make_rows()
    y = y if not outputs else np.column_stack([y, X[:, 2] + y**2])[:, :outputs]
    w = weights(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a target that is a column
        ours = FederatedRidge(0.3, fit_intercept=intercept).fit(X, y, w, sample_party=owners)
    expected = y[:, 0] if outputs == 1 else y
    theirs = Ridge(0.3, fit_intercept=intercept, solver="cholesky").fit(X, expected, w)
    close(ours, theirs, "coef_ intercept_")
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-7)


@given(owners=splits(), kind=weighting, intercept=st.booleans(), n_classes=st.sampled_from([2, 4]))
@COMMON
def test_logistic_regression_equals_the_pooled_one(owners, kind, intercept, n_classes):
    X, _, y = make_rows(n_classes=n_classes)
    X = (X - [0.0, 3.0, -40.0, 100.0]) / [1.0, 0.1, 5.0, 1.0]  # for scikit-learn's convergence
    w = weights(kind)
    labels = np.array(["d", "a", "c", "b"])[y]
    ours = FederatedLogisticRegression(0.7, fit_intercept=intercept)
    ours.fit(X, labels, w, sample_party=owners)
    used = slice(None) if w is None else w > 0
    theirs = LogisticRegression(
        C=0.7, fit_intercept=intercept, tol=1e-13, solver="newton-cg", max_iter=1000
    ).fit(X[used], labels[used], None if w is None else w[used])
    close(ours, theirs, "coef_ intercept_")
    assert (ours.classes_ == theirs.classes_).all()
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-8)
    assert (ours.predict(X) == theirs.predict(X)).all()
    shown = ours.decision_function(X)
    np.testing.assert_allclose(shown, theirs.decision_function(X), atol=1e-7)


@given(owners=splits(), kind=weighting, n_classes=st.sampled_from([1, 2, 4]))
@COMMON
def test_naive_bayes_equals_the_pooled_one(owners, kind, n_classes):
    X, _, y = make_rows(n_classes=n_classes)
    w = weights(kind)
    ours = FederatedGaussianNB().fit(X, y, w, sample_party=owners)
    used = slice(None) if w is None else w > 0
    theirs = GaussianNB().fit(X[used], y[used], None if w is None else w[used])
    close(ours, theirs, "theta_ class_count_ class_prior_ classes_")
    ours.raw_, theirs.raw_ = ours.var_ - ours.epsilon_, theirs.var_ - theirs.epsilon_
    close(ours, theirs, "raw_")
    if w is None:
        close(ours, theirs, "var_ epsilon_")
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


@given(owners=splits(), n_components=st.sampled_from([None, 2, 0.9]), whiten=st.booleans())
@COMMON
def test_pca_equals_the_pooled_one(owners, n_components, whiten):
    X, _, _ = make_rows()
    ours = FederatedPCA(n_components, whiten=whiten).fit(X, sample_party=owners)
    theirs = PCA(n_components, whiten=whiten, svd_solver="full").fit(X)
    names = "components_ explained_variance_ explained_variance_ratio_ singular_values_ mean_"
    close(ours, theirs, f"{names} n_components_ n_samples_ noise_variance_")
    out = ours.transform(X)
    np.testing.assert_allclose(out, theirs.transform(X), atol=1e-7)
    np.testing.assert_allclose(
        ours.inverse_transform(out), theirs.inverse_transform(out), atol=1e-7
    )
    assert (ours.get_feature_names_out() == [f"federatedpca{i}" for i in range(out.shape[1])]).all()


@given(owners=splits(), kind=weighting, holes=st.booleans())
@COMMON
def test_scaler_and_imputer_equal_the_pooled_ones(owners, kind, holes):
    X, _, _ = make_rows()
    if holes:  # one party does not record the last column at all
        X[np.random.default_rng(0).uniform(size=X.shape) < 0.2] = np.nan
        X[owners == owners[0], 3] = np.nan
    w = weights(kind)
    used = np.ones(60, dtype=bool) if w is None else w > 0
    ours = FederatedStandardScaler().fit(X, sample_weight=w, sample_party=owners)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # columns that are all missing
        theirs = StandardScaler().fit(X[used], sample_weight=None if w is None else w[used])
        close(ours, theirs, "mean_ var_ scale_" if np.isfinite(theirs.mean_).all() else "")
        out = ours.transform(X)
        np.testing.assert_allclose(out, theirs.transform(X), atol=1e-8)
        back = np.where(np.isnan(theirs.mean_), np.nan, X)
        np.testing.assert_allclose(ours.inverse_transform(out), back, atol=1e-8)
        imputer = SimpleImputer(keep_empty_features=True, add_indicator=True).fit(X[used])
    filled = FederatedSimpleImputer(add_indicator=True).fit(X[used], sample_party=owners[used])
    close(filled, imputer, "statistics_")
    np.testing.assert_allclose(filled.transform(X), imputer.transform(X), atol=1e-9)
    assert (filled.get_feature_names_out() == imputer.get_feature_names_out()).all()


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_columns_far_from_zero_do_not_cancel(offset):
    X, y, classes = make_rows()
    owners = np.arange(60) % 3
    moved = X + offset
    for model, name in (
        (FederatedRidge(0.3), "coef_"),
        (FederatedLogisticRegression(), "coef_"),
        (FederatedStandardScaler(), "scale_"),
        (FederatedPCA(), "components_"),
    ):
        target = y if isinstance(model, FederatedRidge) else classes
        here = clone(model).fit(X, target, sample_party=owners)
        there = clone(model).fit(moved, target, sample_party=owners)
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), rtol=1e-6, atol=1e-7)


def test_columns_of_any_scale_and_repeated_columns_are_solved():
    X, y, classes = make_rows()
    scaled = X * [1e-9, 1.0, 1e9, 1.0]
    plain = FederatedRidge(0.0).fit(X, y, sample_party=np.arange(60) % 2)
    model = FederatedRidge(0.0).fit(scaled, y, sample_party=np.arange(60) % 2)
    np.testing.assert_allclose(model.predict(scaled), plain.predict(X), atol=1e-6)
    twice = np.column_stack([X, X[:, 0], np.ones(60)])
    model = FederatedRidge(0.0).fit(twice, y, sample_party=np.arange(60) % 2)
    np.testing.assert_allclose(model.predict(twice), plain.predict(X), atol=1e-6)
    model = FederatedLogisticRegression(np.inf).fit(twice, classes // 1 ^ (np.arange(60) % 7 == 0))
    assert np.isfinite(model.coef_).all()
    assert model.n_iter_ < 30


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1.0, 1: 4.0, 2: 0.5}])
def test_class_weights_are_those_of_scikit_learn(class_weight):
    X, _, y = make_rows(n_classes=3)
    keep, w = (y != 1) | (np.arange(60) % 2 == 0), weights("any")
    w = np.ones(60) if class_weight == "balanced" else w  # older versions balance without them
    X = StandardScaler().fit_transform(X)[keep]
    fits = {"class_weight": class_weight, "tol": 1e-13}
    ours = FederatedLogisticRegression(**fits)
    ours.fit(X, y[keep], w[keep], sample_party=np.arange(len(X)) % 4)
    theirs = LogisticRegression(max_iter=1000, solver="newton-cg", **fits)
    close(ours, theirs.fit(X, y[keep], w[keep]), "coef_ intercept_")


def test_naive_bayes_takes_priors_and_refuses_impossible_ones():
    X, _, y = make_rows(n_classes=3)
    priors = [0.5, 0.25, 0.25]
    ours = FederatedGaussianNB(priors).fit(X, y, sample_party=y)
    theirs = GaussianNB(priors=priors).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
    for wrong in ([0.5, 0.5], [0.5, 0.4, 0.4], [1.5, -0.5, 0.0]):
        with pytest.raises(ValueError, match="priors must"):
            FederatedGaussianNB(wrong).fit(X, y)


def test_classes_without_a_boundary_warn_unless_there_is_a_penalty():
    X = np.arange(20.0)[:, None]
    y = (X[:, 0] > 9).astype(int)
    with pytest.warns(ConvergenceWarning, match="max_iter=8.*lower C"):
        FederatedLogisticRegression(np.inf, max_iter=8).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FederatedLogisticRegression().fit(X, y).score(X, y) == 1.0


@pytest.mark.parametrize("model", ALL, ids=lambda m: type(m).__name__)
def test_the_ledger_counts_one_round_or_one_for_each_step(model):
    X, _, classes = make_rows()
    owners = np.array(["a", "b", "c"])[np.arange(60) % 3]
    fitted = clone(model).fit(X, classes, sample_party=owners)
    rounds = getattr(fitted, "n_iter_", 0) + 1
    assert fitted.ledger_.messages == 2 * 3 * rounds
    serialized = clone(model).set_params(federation=Simulation(serialize=True))
    serialized.fit(X, classes, sample_party=owners)
    assert serialized.ledger_.rows() == fitted.ledger_.rows()
    for name, value in vars(fitted).items():
        if isinstance(value, np.ndarray):
            assert value.tobytes() == getattr(serialized, name).tobytes(), name


@pytest.mark.parametrize("model", ALL, ids=lambda m: type(m).__name__)
def test_a_party_refuses_by_its_own_policy_and_a_failed_fit_changes_nothing(model):
    X, _, y = make_rows()
    owners = np.where(np.arange(60) % 20 == 0, "small", "large")
    policies = {"small": Policy(min_rows=4)}
    model = clone(model).set_params(federation=Simulation(policies=policies))
    with pytest.raises(PolicyRefusal, match="'small': a sum over 3 rows"):
        model.fit(X, y, sample_party=owners)
    assert not [name for name in vars(model) if name.endswith("_")]
    with pytest.warns(UserWarning, match=r"\['small'\]"):
        model.fit(X, y)
    before = dict(vars(model))
    with pytest.raises(PolicyRefusal):
        model.fit(X[:, :2], y, sample_party=owners)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())


def test_a_policy_bounds_each_class_by_itself():
    X, _, y = make_rows()
    y[:] = 0
    y[:3] = 1
    federation = Simulation(policies={"all": Policy(min_rows=5)})
    with pytest.raises(PolicyRefusal, match="over 3 rows"):
        FederatedGaussianNB(federation=federation).fit(X, y)


def test_a_column_of_too_few_values_is_withheld_and_the_others_answered():
    X, _, _ = make_rows()
    owners = np.where(np.arange(60) < 20, "few", "many")
    X[4:20, 1] = np.nan
    X[:20, 2] = np.nan
    federation = Simulation(policies={"few": Policy(min_rows=5)})
    model = FederatedStandardScaler(federation=federation).fit(X, sample_party=owners)
    assert model.n_samples_seen_.tolist() == [60, 40, 40, 60]
    np.testing.assert_allclose(model.mean_[1], X[20:, 1].mean())
    np.testing.assert_allclose(model.mean_[0], X[:, 0].mean())


def test_protocols_and_fits_are_bounded():
    X, y, _ = make_rows()
    closed = Simulation(policies={"all": Policy(protocols=frozenset({"moments"}))})
    with pytest.raises(PolicyRefusal, match=r"'statistics' \(allowed: moments\)"):
        FederatedRidge(federation=closed).fit(X, y)
    once = FederatedRidge(federation=Simulation(policies={"all": Policy(max_fits=1)}))
    once.fit(X, y)
    with pytest.raises(PolicyRefusal, match="1 fits; all are used"):
        clone(once).fit(X, y)
    steps = FederatedLogisticRegression(
        federation=Simulation(policies={"all": Policy(max_fits=1)})
    ).fit(X, y > np.median(y))
    assert steps.n_iter_ > 1  # all steps are of one fit


@pytest.mark.parametrize("model", ALL[:4], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize(("bad", "says"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_values_that_cannot_be_used_are_named_with_party_column_and_rows(model, bad, says):
    X, _, y = make_rows()
    X = pd.DataFrame(X, columns=list("abcd"))
    X.loc[[3, 4], "c"] = bad
    owners = np.where(np.arange(60) < 10, "va", "zurich")
    with pytest.raises(PartyError, match=rf"'va': .*{says} in 2 of 10 rows, .*\['c'\]"):
        clone(model).fit(X, y, sample_party=owners)


def test_targets_that_cannot_be_used_are_refused():
    X, y, _ = make_rows()
    with pytest.raises(ValueError, match="one class, 1"):
        FederatedLogisticRegression().fit(X, np.ones(60, int), sample_party=np.arange(60) % 2)
    with pytest.raises(ValueError, match="Unknown label type"):
        FederatedGaussianNB().fit(X, y)
    y[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        FederatedRidge().fit(X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        FederatedRidge().fit(X, y[1:] * 0)


@pytest.mark.parametrize("model", ALL, ids=lambda m: type(m).__name__)
def test_a_party_column_is_no_feature_and_may_name_new_parties_later(model):
    X, _, y = make_rows()
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame.insert(1, "hospital", np.array(["va", "zurich"])[np.arange(60) % 2])
    other = clone(model).fit(frame[list("abcd")], y, sample_party=frame["hospital"])
    fitted = clone(model).set_params(party="hospital").fit(frame, y)
    assert fitted.parties_ == other.parties_ == ["va", "zurich"]
    assert fitted.n_features_in_ == 5
    method = "predict" if hasattr(model, "predict") else "transform"
    new = frame.assign(hospital=["budapest"] + [None] * 59)
    out = getattr(fitted, method)(new)
    expected = getattr(other, method)(frame[list("abcd")])
    if method == "predict" and hasattr(fitted, "classes_"):
        assert (out == expected).all()
    else:
        np.testing.assert_allclose(out, expected, atol=1e-9)
    if method == "transform":
        assert "hospital" not in fitted.get_feature_names_out()
        assert len(fitted.get_feature_names_out()) == out.shape[1]
        shown = clone(fitted).set_output(transform="pandas").fit(frame, y).transform(frame)
        assert list(shown.columns) == list(fitted.get_feature_names_out())
    as_array = clone(model).set_params(party=1).fit(frame.to_numpy(), y)
    np.testing.assert_allclose(getattr(as_array, method)(frame.to_numpy()), out)


def test_scaling_by_party_gives_every_party_mean_zero_and_variance_one():
    X, _, _ = make_rows()
    owners = np.array(["a", "b", "c"])[np.arange(60) % 3]
    X[owners == "b"] += 1000.0
    X[owners == "c", 2] = np.nan
    frame = pd.DataFrame(X, columns=list("abcd")).assign(party=owners)
    scaler = FederatedStandardScaler(by_party=True, party="party").fit(frame)
    out = scaler.transform(frame)
    assert scaler.mean_.shape == (3, 4)
    for name in "abc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = StandardScaler().fit_transform(X[owners == name])
        np.testing.assert_allclose(out[owners == name], expected, atol=1e-9)
    with pytest.raises(PartyError, match=r"'z': took no part in the fit.*\['a', 'b', 'c'\]"):
        scaler.transform(frame.assign(party="z"))
    with pytest.raises(ValueError, match="give the column"):
        FederatedStandardScaler(by_party=True).fit(X, sample_party=owners)
    with pytest.raises(ValueError, match="taken back"):
        scaler.inverse_transform(out)


def test_a_column_that_no_party_records_is_filled_with_zero():
    X = np.column_stack([np.arange(4.0), np.full(4, np.nan)])
    model = FederatedSimpleImputer().fit(X, sample_party=list("aabb"))
    np.testing.assert_array_equal(model.transform(X)[:, 1], np.zeros(4))


@pytest.mark.parametrize("model", ALL, ids=lambda m: type(m).__name__)
def test_a_fitted_model_is_the_same_after_a_file_and_a_pickle(model, tmp_path):
    X, _, y = make_rows()
    fitted = clone(model).set_params(federation=Simulation(policies={"0": Policy(min_rows=2)}))
    fitted.fit(X, y, sample_party=np.arange(60) % 3)
    save(fitted, tmp_path / "model.safetensors")
    method = "predict" if hasattr(model, "predict") else "transform"
    for again in (load(tmp_path / "model.safetensors"), pickle.loads(pickle.dumps(fitted))):
        assert again.parties_ == ["0", "1", "2"]
        assert again.ledger_.rows() == fitted.ledger_.rows()
        np.testing.assert_array_equal(getattr(again, method)(X), getattr(fitted, method)(X))
