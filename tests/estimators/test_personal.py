"""deploy="best": each party is served the best of three models by its own held-out rows."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss

from fedtl import FederatedLogisticRegression, FederatedRidge
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger, Simulation
from fedtl.learning.evidence import deal_folds
from fedtl.learning.personal import Task, own_models
from fedtl.parties import PartyService, Policy, Rows
from fedtl.persistence import load, save
from fedtl.protocols import ROW_ANSWERS
from fedtl.protocols.personal import Federated, ask_scores, deal, offer
from fedtl.protocols.statistics import ask_products

SIZES = {"east": 80, "odd": 60, "west": 100}


def make_rows(seed=0, sizes=SIZES):
    """Rows of parties of which one, "odd", goes by rules of its own."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(list(sizes), list(sizes.values()))
    X = pd.DataFrame(rng.normal(size=(len(owner), 3)), columns=list("abc")).assign(party=owner)
    signal = np.where(owner == "odd", 2.0, -1.0) * X["a"] + X["b"] + 0.5 * rng.normal(size=len(X))
    return X, signal.to_numpy(), (signal > 0).to_numpy().astype(int)


def best(kind, **more):
    return kind(deploy="best", party="party", random_state=0, **more)


def test_held_out_losses_are_those_of_models_that_have_not_seen_the_row():
    X, y, _ = make_rows()
    model = best(FederatedRidge, alpha=2.0, n_folds=4).fit(X, y)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    Z, folds = X[list("abc")].to_numpy(), np.empty(len(X), dtype=int)
    for name, n in SIZES.items():
        own = (X["party"] == name).to_numpy()
        folds[own] = deal_folds(np.zeros(n), y[own], 4, np.random.default_rng(seed))
    for row in model.report_.parties:
        own = (X["party"] == row["party"]).to_numpy()
        losses = {name: [] for name in ("federated", "tuned", "local")}
        for fold in range(4):
            train, test = own & (folds != fold), own & (folds == fold)
            fed = Ridge(2.0).fit(Z[folds != fold], y[folds != fold])
            ones = np.column_stack([np.ones(len(Z)), Z])
            left = y - fed.predict(Z)
            near = Ridge(2.0, fit_intercept=False).fit(ones[train], left[train])
            local = Ridge(2.0).fit(Z[train], y[train])
            found = (fed.predict(Z), fed.predict(Z) + near.predict(ones), local.predict(Z))
            for name, p in zip(losses, found, strict=True):
                losses[name].append((y[test] - p[test]) ** 2)
        losses = {name: np.concatenate(parts) for name, parts in losses.items()}
        for name, values in losses.items():
            assert row[name] == pytest.approx(values.mean(), rel=1e-9)
        served = min(losses, key=lambda name: losses[name].mean())
        difference = losses["local"] - losses[served]
        assert row["served"] == served
        assert row["gain"] == pytest.approx(difference.mean(), abs=1e-12)
        assert row["gain_se"] == pytest.approx(difference.std() / np.sqrt(len(difference)))


def test_what_serves_a_party_is_the_model_of_the_report():
    X, y, _ = make_rows()
    model = best(FederatedRidge).fit(X, y)
    plain = FederatedRidge(party="party").fit(X, y)
    np.testing.assert_allclose(model.coef_, plain.coef_)
    served = {row["party"]: row["served"] for row in model.report_.parties}
    assert served["odd"] in ("local", "tuned")
    own = (X["party"] == "odd").to_numpy()
    local = Ridge().fit(X.loc[own, list("abc")], y[own])
    expected = {"local": local.predict(X.loc[own, list("abc")])}
    if served["odd"] == "local":
        np.testing.assert_allclose(model.predict(X)[own], expected["local"])
    error, of_plain = (np.mean((y[own] - m.predict(X)[own]) ** 2) for m in (model, plain))
    assert error < 0.2 * of_plain
    elsewhere = X.assign(party="new")  # a party that took no part
    np.testing.assert_allclose(model.predict(elsewhere), plain.predict(elsewhere))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_own_classifiers_equal_scikit_learns(n_classes):
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(70, 3)), rng.uniform(0.5, 2.0, 70)
    y = np.digitize(X[:, 0] + rng.normal(size=70), [0.0, 0.7][: n_classes - 1])
    task = Task(n_classes, 0.5, True)
    far = np.zeros((1 if n_classes == 2 else n_classes, 4))
    _, tuned, local = own_models(task, X, y, weight, far)
    theirs = LogisticRegression(C=2.0, tol=1e-12, solver="newton-cg").fit(X, y, weight)
    np.testing.assert_allclose(local[:, 1:], theirs.coef_, atol=1e-7)
    np.testing.assert_allclose(local[:, 0], theirs.intercept_, atol=1e-7)
    shown = task.losses(task.design(X), y, local)
    assert shown.mean() == pytest.approx(log_loss(y, theirs.predict_proba(X)), abs=1e-6)
    # Around what is best already there is nothing to move but for the penalty, which is zero there.
    again = own_models(Task(n_classes, 1e9, True), X, y, weight, local)[1]
    np.testing.assert_allclose(again, local, atol=1e-6)
    assert np.abs(tuned).sum() < np.abs(local).sum()


def test_nobody_is_worse_off_than_alone_on_new_rows():
    gains = []
    for seed in range(4):
        X, _, y = make_rows(seed)
        new, _, target = make_rows(seed + 100, dict.fromkeys(SIZES, 500))
        model = best(FederatedLogisticRegression).fit(X, y)
        for name in SIZES:
            own, at = (X["party"] == name).to_numpy(), (new["party"] == name).to_numpy()
            local = LogisticRegression().fit(X.loc[own, list("abc")], y[own])
            losses = [
                log_loss(target[at], p)
                for p in (
                    local.predict_proba(new.loc[at, list("abc")]),
                    model.predict_proba(new)[at],
                )
            ]
            gains.append(losses[0] - losses[1])
    assert np.mean(gains) > 0.0
    assert min(gains) > -0.05


def test_a_party_without_evidence_is_served_the_federated_model():
    X, _, y = make_rows()
    X.loc[X.index[:3], "party"] = "tiny"
    model = best(FederatedLogisticRegression, n_folds=5).fit(X, y)
    tiny = next(row for row in model.report_.parties if row["party"] == "tiny")
    assert (tiny["served"], tiny["rows"]) == ("federated", 3)
    assert np.isnan([tiny["federated"], tiny["gain"]]).all()
    # A policy that would not let a fold be told apart has the same effect.
    federation = Simulation(policies={"odd": Policy(min_rows=13)})
    model = best(FederatedLogisticRegression, federation=federation).fit(X, y)
    odd = next(row for row in model.report_.parties if row["party"] == "odd")
    assert odd["served"] == "federated"


def test_a_party_of_one_class_has_no_local_model_but_a_tuned_one():
    X, _, y = make_rows()
    y[(X["party"] == "odd").to_numpy()] = 1
    model = best(FederatedLogisticRegression).fit(X, y)
    odd = next(row for row in model.report_.parties if row["party"] == "odd")
    assert np.isnan(odd["local"])
    assert odd["served"] == "tuned"
    assert "odd" in str(model.report_)


def test_serialised_parties_give_the_same_model_and_the_ledger_counts_on():
    X, _, y = make_rows()
    models = []
    for serialize in (False, True):
        federation = Simulation(serialize=serialize)
        models.append(best(FederatedLogisticRegression, federation=federation).fit(X, y))
    a, b = (m.predict_proba(X) for m in models)
    assert a.tobytes() == b.tobytes()
    rows = models[0].ledger_.rows()
    assert rows == models[1].ledger_.rows()
    kinds = {(r["kind"], r["messages"]) for r in rows if r["party"] == "odd"}
    for kind in ("personal.folds/1", "personal.offer/1", "personal.request/1"):
        assert (kind, 1) in kinds
    models[0].predict(X)
    counted = {r["kind"]: r["messages"] for r in models[0].ledger_.rows() if r["party"] == "odd"}
    assert counted["personal.scores/1"] == 2


def test_deploy_needs_the_party_of_new_rows():
    X, y, classes = make_rows()
    for kind in (FederatedRidge, FederatedLogisticRegression):
        with pytest.raises(ValueError, match="give the column"):
            kind(deploy="best").fit(X[list("abc")], classes, sample_party=X["party"])
    with pytest.raises(ValueError, match="sample_weight instead of class_weight"):
        best(FederatedLogisticRegression, class_weight="balanced").fit(X, classes)
    model = best(FederatedRidge).fit(X, np.column_stack([y, -y]))
    assert model.predict(X).shape == (240, 2)
    refit = clone(model).set_params(deploy="federated").fit(X, y)
    assert not hasattr(refit, "report_")
    model.set_params(deploy="federated").fit(X, y)
    assert not hasattr(model, "report_")


def test_quotas_bind_fits_and_predictions():
    X, y, _ = make_rows()
    policy = Policy(max_fits=1, max_predicted_rows=100)
    model = best(FederatedRidge, federation=Simulation(policies={"odd": policy})).fit(X, y)
    model.predict(X)
    with pytest.raises(PolicyRefusal, match="'odd': its policy allows 100 predicted rows"):
        model.predict(X)
    with pytest.raises(PolicyRefusal, match="'odd': its policy allows 1 fits"):
        model.fit(X, y)
    assert model.report_.parties


def test_a_fitted_model_is_the_same_after_a_file_and_a_pickle(tmp_path):
    X, _, y = make_rows()
    model = best(FederatedLogisticRegression).fit(X, y)
    save(model, tmp_path / "model.safetensors")
    for again in (load(tmp_path / "model.safetensors"), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
        assert str(again.report_) == str(model.report_)
        assert list(again.report_.to_frame()["party"]) == list(SIZES)
        assert "<table>" in again.report_._repr_html_()


def channel(rows=None, **policy):
    rows = rows or Rows(np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2)
    service = PartyService("p", rows, None, ROW_ANSWERS, policy=Policy(**policy))
    return InProcessChannel(service, Ledger(), serialize=True)


def federated(shape, n_classes=2, penalty=1.0):
    return Federated(Task(n_classes, penalty, True), np.zeros(shape), np.zeros((4, *shape)))


def test_requests_out_of_order_or_out_of_shape_are_refused_by_the_party():
    for n_folds, seed in ((1, 0), (51, 0), (4, -1)):
        with pytest.raises(PartyError, match="'p': folds must be 2 to 50"):
            deal(channel(), "f", n_folds, seed)
    with pytest.raises(PartyError, match="'p': folds must be"):
        deal(channel(Rows(np.zeros((40, 2)))), "f", 4, 0)
    with pytest.raises(PartyError, match="'p': was offered a model before folds"):
        offer(channel(), "f", federated((1, 3)))
    with pytest.raises(PartyError, match="'p': was asked to leave out a fold before"):
        ask_products({"p": channel()}, "f", 2, targets=False, fold=0)
    with pytest.raises(PartyError, match="'p': has no model of that name"):
        ask_scores(channel(), "f")
    to = channel()
    assert deal(to, "f", 4, 0) == 4
    with pytest.raises(PartyError, match="'p': has dealt its rows to folds already"):
        deal(to, "f", 4, 1)
    for wrong, says in (
        (federated((1, 4)), r"\(1, 4\) was offered.*\(1, 3\)"),
        (federated((2, 3)), r"\(2, 3\) was offered"),
        (federated((3, 3), 1), "other targets than 1 classes"),
        (federated((1, 3), penalty=-1.0), "no negative penalty"),
    ):
        with pytest.raises(PartyError, match=f"'p': .*{says}"):
            offer(to, "f", wrong)
    assert offer(to, "f", federated((1, 3))).n_rows == 40
    assert ask_scores(to, "f").shape == (40, 1)


def test_folds_smaller_than_a_sum_may_be_are_not_dealt():
    assert deal(channel(min_rows=10), "f", 4, 0) == 4
    assert deal(channel(min_rows=11), "f", 4, 0) == 0
