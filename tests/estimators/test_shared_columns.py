"""Few shared columns and no shared rows: what others know of them helps, or is not trusted."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import r2_score, roc_auc_score

from fedtl import FederatedSharedColumnsClassifier, FederatedSharedColumnsRegressor
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger, Simulation
from fedtl.learning.distilled import distill
from fedtl.parties import PartyService, Policy, Rows
from fedtl.persistence import load, save
from fedtl.protocols import ROW_ANSWERS, shared
from fedtl.protocols.shared import ask_model
from fedtl.wire import WireError


def make_rows(n_clinic=30, n_hospital=250, *, hospital="useful", seed=0, n_classes=2):
    """A clinic of few rows, a hospital of many; column "b" is shared, "a" and "c" are not."""
    rng = np.random.default_rng(seed)
    n = n_clinic + n_hospital + 1000
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=list("abc"))
    signal = 0.5 * X["a"] + np.sin(2.0 * X["b"]) * 2.0 + X["c"] + 0.3 * rng.normal(size=n)
    owner = np.repeat(["clinic", "hospital", "test"], [n_clinic, n_hospital, 1000])
    if hospital == "noise":
        signal[owner == "hospital"] = rng.normal(size=n_hospital)
    elif hospital == "misleading":
        signal[owner == "hospital"] *= -1.0
    X.loc[owner != "hospital", "c"] = np.nan
    X.loc[owner == "hospital", "a"] = np.nan
    return X, signal.to_numpy(), owner, np.digitize(signal, np.linspace(-2, 2, n_classes + 1)[1:-1])


def test_a_useful_party_helps_and_says_by_which_columns():
    gains = []
    for seed in range(3):
        X, signal, owner, y = make_rows(seed=seed)
        train, test = owner != "test", owner == "test"
        clf = FederatedSharedColumnsClassifier("clinic", random_state=0)
        clf.fit(X[train], y[train], sample_party=owner[train])
        alone = clone(clf).fit(X[owner == "clinic"], y[owner == "clinic"], sample_party=owner[:30])
        assert (alone.n_parties_, alone.trust_) == (1, 0.0)
        assert clf.shared_columns_ == {"hospital": ["b"]}
        scores = [roc_auc_score(y[test], m.predict_proba(X[test])[:, 1]) for m in (alone, clf)]
        gains.append(scores[1] - scores[0])
        reg = FederatedSharedColumnsRegressor("clinic", random_state=0)
        reg.fit(X[train], signal[train], sample_party=owner[train])
        alone = clone(reg).set_params(active=None).fit(X[:30], signal[:30])
        better, worse = (r2_score(signal[test], m.predict(X[test])) for m in (reg, alone))
        assert better > worse
        assert reg.gain_.mean > 0.0
    assert min(gains) > 0.0
    assert np.mean(gains) > 0.02


@pytest.mark.parametrize("hospital", ["noise", "misleading"])
def test_a_party_that_knows_nothing_or_the_contrary_does_next_to_no_harm(hospital):
    harm = []
    for seed in range(4):
        X, signal, owner, _ = make_rows(60, hospital=hospital, seed=seed)
        train, test = owner != "test", owner == "test"
        reg = FederatedSharedColumnsRegressor("clinic", random_state=0)
        reg.fit(X[train], signal[train], sample_party=owner[train])
        alone = clone(reg).set_params(active=None).fit(X[:60], signal[:60])
        with_it, without = (r2_score(signal[test], m.predict(X[test])) for m in (reg, alone))
        harm.append(without - with_it)
    assert max(harm) < 0.02
    assert np.mean(harm) < 0.005


def test_the_model_is_the_same_when_the_clinics_rows_cross_no_border():
    X, _, owner, y = make_rows()
    train = owner != "test"
    models = []
    for serialize in (False, True):
        clf = FederatedSharedColumnsClassifier(
            "clinic", random_state=0, federation=Simulation(serialize=serialize)
        )
        models.append(clf.fit(X[train], y[train], sample_party=owner[train]))
    a, b = (m.predict_proba(X) for m in models)
    assert a.tobytes() == b.tobytes()
    rows = models[0].ledger_.rows()
    assert rows == models[1].ledger_.rows()
    assert [(r["party"], r["direction"], r["messages"]) for r in rows] == [
        ("hospital", "sent", 1),
        ("hospital", "received", 1),
    ]
    assert models[0].ledger_.n_bytes < 2000  # whatever the number of rows


@pytest.mark.parametrize("n_classes", [2, 4])
def test_several_parties_and_classes_serve_rows_with_holes(n_classes):
    X, _, owner, y = make_rows(n_clinic=60, n_classes=n_classes)
    owner = np.where(owner == "test", "third", owner)
    X.loc[owner == "third", "b"] = np.nan
    labels = np.array(["p", "q", "r", "s"])[y]
    clf = FederatedSharedColumnsClassifier("clinic", random_state=0)
    clf.fit(X, labels, sample_party=owner)
    assert clf.shared_columns_ == {"hospital": ["b"], "third": ["a"]}
    p = clf.predict_proba(X)
    assert p.shape == (len(X), n_classes)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    majority = max(np.mean(labels == c) for c in clf.classes_)
    assert clf.score(X[owner == "hospital"], labels[owner == "hospital"]) > majority


def test_parties_without_a_column_in_common_are_named():
    X, _, owner, y = make_rows()
    X.loc[owner == "hospital", "b"] = np.nan
    with pytest.raises(PartyError, match="'hospital': records no column that the active party"):
        FederatedSharedColumnsClassifier("clinic").fit(X, y, sample_party=owner)


def test_the_active_party_has_to_be_named_among_several():
    X, _, owner, y = make_rows()
    for active in (None, "klinik"):
        with pytest.raises(ValueError, match=r"active=.*one of \['clinic', 'hospital', 'test'\]"):
            FederatedSharedColumnsClassifier(active).fit(X, y, sample_party=owner)


def test_an_active_party_without_rows_enough_is_named_and_nothing_is_changed():
    X, _, owner, y = make_rows()
    owner[1:30] = "hospital"
    clf = FederatedSharedColumnsClassifier("clinic")
    with pytest.raises(PartyError, match=r"'clinic': the active party has 1 row\(s\)"):
        clf.fit(X, y, sample_party=owner)
    assert not [name for name in vars(clf) if name.endswith("_")]


def test_a_policy_bounds_rows_protocols_and_fits():
    X, _, owner, y = make_rows(n_hospital=20)
    for policy, says in (
        (Policy(min_rows=21), "sum over 20 rows"),
        (Policy(protocols=frozenset({"statistics"})), "'shared'"),
        (Policy(max_fits=0), "0 fits"),
    ):
        federation = Simulation(policies={"hospital": policy})
        clf = FederatedSharedColumnsClassifier("clinic", federation=federation)
        with pytest.raises(PolicyRefusal, match=f"'hospital': .*{says}"):
            clf.fit(X, y, sample_party=owner)


def test_a_fitted_model_is_the_same_after_a_file_and_a_pickle(tmp_path):
    X, _, owner, y = make_rows()
    clf = FederatedSharedColumnsClassifier("clinic", random_state=0)
    clf.fit(X, y, sample_party=owner)
    save(clf, tmp_path / "model.safetensors")
    for again in (load(tmp_path / "model.safetensors"), pickle.loads(pickle.dumps(clf))):
        np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def channel(rows):
    return InProcessChannel(PartyService("h", rows, None, ROW_ANSWERS), Ledger(), serialize=True)


ROWS = Rows(np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2)


@pytest.mark.parametrize(
    ("rows", "n_classes", "n_bins", "says"),
    [
        (ROWS, 2, 0, "n_bins must be in"),
        (ROWS, 2, 65, "n_bins must be in"),
        (ROWS, -1, 8, "not negative"),
        (ROWS, 1, 8, "other classes than the 1"),
        (Rows(ROWS.X), 2, 8, "a sum over 0 rows"),
        (Rows(ROWS.X[:1], np.ones(1)), 0, 8, "1 rows with a target"),
    ],
)
def test_a_request_that_cannot_be_answered_is_an_error_of_the_party(rows, n_classes, n_bins, says):
    with pytest.raises(PartyError, match=f"'h': .*{says}"):
        ask_model(channel(rows), "f", np.arange(2), n_classes=n_classes, n_bins=n_bins, seed=0)


def test_more_classes_than_a_message_could_hold_are_refused_before_memory_is_taken():
    with pytest.raises(WireError, match="bytes, at most"):
        ask_model(channel(ROWS), "f", np.arange(2), n_classes=2**40, n_bins=8, seed=0)


@pytest.mark.parametrize(
    "forged",
    [
        {"columns": np.array([0, 7])},
        {"n_edges": np.array([-1, 10])},
        {"n_edges": np.array([3, 3])},
        {"edges": np.zeros(10)},
        {"mean": np.zeros(3)},
        {"coefficients": np.zeros((9, 2))},
    ],
)
def test_a_reply_that_is_no_model_is_refused(forged, monkeypatch):
    whole = {
        "columns": np.array([0, 1]),
        "n_edges": np.array([5, 5]),
        "edges": np.tile(np.arange(5.0), 2),
        "frequent": np.full(2, np.nan),
        "mean": np.zeros(8),
        "coefficients": np.zeros((9, 1)),
    }
    service = PartyService("h", ROWS, None, {})
    for values, good in ((whole, True), (whole | forged, False)):
        reply = shared.Model(**values)
        service.answers = {"shared.request/1": ("shared", lambda party, request, r=reply: r)}
        to = InProcessChannel(service, Ledger(), serialize=True)
        if good:
            _, model = ask_model(to, "f", np.arange(3), n_classes=2, n_bins=4, seed=0)
            assert model.scores(np.zeros((2, 2))).shape == (2, 1)
        else:
            with pytest.raises(PartyError, match="'h': replied with something that is no model"):
                ask_model(to, "f", np.arange(3), n_classes=2, n_bins=4, seed=0)


def test_what_other_columns_explain_makes_the_shared_curve_more_accurate():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = (X[:, 0] ** 2 + 4.0 * X[:, 1])[:, None]
    new = np.linspace(-1.5, 1.5, 50)[:, None]
    kept = {"n_bins": 8, "classes": False, "seed": 0}
    wide, narrow = (
        np.mean((distill(c, np.array([0]), y, np.ones(400), **kept).scores(new) - new**2) ** 2)
        for c in (X, X[:, :1])
    )
    assert wide < narrow


def test_columns_of_codes_of_two_values_and_of_one_value_are_taken():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, 2, 300), rng.integers(0, 4, 300), np.ones(300)]).astype(
        float
    )
    y = (X[:, :1] + (X[:, 1:2] == 2) * 2.0) + 0.1 * rng.normal(size=(300, 1))
    model = distill(X, np.arange(3), y, np.ones(300), n_bins=8, classes=False, seed=0)
    scores = model.scores(np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 2.0, 1.0]]))[:, 0]
    np.testing.assert_allclose(scores - scores[0], [0.0, 1.0, 2.0], atol=0.1)
    assert np.isfinite(model.scores(np.full((1, 3), np.nan))).all()
