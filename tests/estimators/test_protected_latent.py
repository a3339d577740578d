"""Joint training under protection: what it predicts, what crosses, and what it refuses."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedtl import FederatedTransferClassifier, FederatedTransferRegressor
from fedtl.exceptions import PartyError
from fedtl.federation import Simulation
from fedtl.persistence import load, save
from fedtl.privacy import Paillier


def fit(made, task="binary", **parameters):
    settings = {
        "solver": "latent",
        "privacy": "sharing",
        "random_state": 0,
        "n_folds": 3,
        "max_iter": 40,
    } | parameters
    kind = FederatedTransferRegressor if task == "regression" else FederatedTransferClassifier
    return kind(made.parties, **settings).fit(made.X, made.y)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_every_subset_of_parties_is_served_better_than_by_chance(rows, without, task):
    train, new = (
        rows(n=400, n_parties=3, task=task),
        rows(n=300, n_parties=3, overlap=1.0, task=task, seed=1),
    )
    model = fit(train, task)
    full = model.score(new.X, new.y)
    chance = {"binary": 0.5, "multiclass": 0.34, "regression": 0.0}[task]
    for hidden in ([], ["shop"], ["bank"], ["bank", "shop"], ["shop", "post"]):
        score = model.score(without(new.X, train.columns, *hidden), new.y)
        assert chance + 0.05 < score <= full + 0.05


def test_what_the_active_party_knows_alone_counts_where_networks_have_learnt_nothing(rows, without):
    train, new = rows(n=600, overlap=0.3), rows(n=500, overlap=1.0, seed=1)
    model = fit(train, max_iter=1)
    both, bank, shop = (
        roc_auc_score(new.y, model.predict_proba(without(new.X, new.columns, *hidden))[:, 1])
        for hidden in ([], ["shop"], ["bank"])
    )
    assert both > max(bank, shop) + 0.08


def test_protected_and_clear_training_rank_rows_alike(rows):
    train, new = rows(n=500), rows(n=500, overlap=1.0, seed=1)
    areas = [
        roc_auc_score(new.y, fit(train, privacy=privacy).predict_proba(new.X)[:, 1])
        for privacy in ("none", "sharing")
    ]
    assert areas[1] > areas[0] - 0.01


@pytest.mark.parametrize(("task", "n_parties"), [("binary", 3), ("multiclass", 2)])
def test_a_model_under_encryption_is_the_one_under_shares(rows, task, n_parties):
    """Both train the same integers; a model of other numbers would be another algorithm."""
    pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")
    made = rows(n=150, n_parties=n_parties, task=task)
    shares, encrypted = (
        fit(made, task, privacy=privacy, max_iter=5)
        for privacy in ("sharing", Paillier(key_bits=2048))
    )
    np.testing.assert_allclose(
        encrypted.predict_proba(made.X), shares.predict_proba(made.X), atol=1e-9
    )
    np.testing.assert_allclose(encrypted.transform(made.X), shares.transform(made.X), atol=1e-9)
    told = {row["kind"]: row["protection"] for row in encrypted.ledger_.rows()}
    assert {k for k, p in told.items() if p == "paillier"} == {
        *[f"protected_latent.{name}/1" for name in ("score", "scores", "layer")],
        "protected_predict.scores/1",
    }
    assert not [kind for kind in told if kind.startswith(("latent.", "shared_", "dealer."))]
    assert "paillier" in set(encrypted.report_.to_frame("messages")["protection"])


def test_serializing_changes_neither_predictions_nor_counted_bytes(rows):
    made = rows()
    fits = [fit(made, federation=Simulation(serialize=serialize)) for serialize in (False, True)]
    # Masks differ from fit to fit and cancel exactly.
    np.testing.assert_array_equal(*[model.predict_proba(made.X) for model in fits])
    assert fits[0].ledger_.rows() == fits[1].ledger_.rows()


def test_neither_latents_nor_gradients_cross_and_all_that_depends_on_labels_is_shared(rows):
    model = fit(rows())
    kinds = {row["kind"]: row["protection"] for row in model.ledger_.rows()}
    assert not [kind for kind in kinds if kind.startswith(("latent.", "moments."))]
    assert {k for k, p in kinds.items() if p == "shares"} >= {
        f"shared_latent.{name}/1" for name in ("layer", "masked", "score", "scores")
    }


def test_transform_gives_the_score_of_each_partys_part(rows):
    made = rows()
    model = fit(made)
    parts = model.transform(made.X)
    assert parts.shape == (len(made.X), 2) == (len(made.X), len(model.get_feature_names_out()))
    assert not parts[~made.known].any()
    for party in range(2):
        known = made.known[:, party]
        assert roc_auc_score(made.y[known], parts[known, party]) > 0.7


def test_a_saved_model_predicts_the_same(rows, tmp_path):
    made = rows()
    model = fit(made)
    save(model, tmp_path / "model")
    np.testing.assert_array_equal(
        load(tmp_path / "model").predict_proba(made.X), model.predict_proba(made.X)
    )


def test_a_protected_model_is_not_trained_on(rows):
    made = rows()
    model = fit(made)
    assert not hasattr(model, "partial_fit")
    with pytest.raises(ValueError, match="cannot be trained on; fit it anew"):
        model.set_params(warm_start=True).fit(made.X, made.y)


def test_few_shared_labels_are_refused_by_the_party_that_they_would_give_away(rows):
    made = rows(n=60)
    made.y[made.known.all(axis=1).nonzero()[0][10:]] = -1
    made.y[~made.known.all(axis=1)] = -1
    with pytest.raises(PartyError, match="'shop': shares 10 different labelled rows"):
        fit(made, unlabeled=-1)


def test_a_party_alone_trains_as_in_the_clear_without_a_message(rows):
    made = rows()
    model = FederatedTransferClassifier(
        {"bank": made.columns["bank"]},
        solver="latent",
        privacy="sharing",
        random_state=0,
        max_iter=20,
    )
    known = made.known[:, 0]
    model.fit(made.X[known], made.y[known])
    assert model.score(made.X[known], made.y[known]) > 0.6
    assert not model.ledger_.rows()
