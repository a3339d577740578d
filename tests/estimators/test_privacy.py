"""A protected fit predicts what the clear one does, and says what it cannot protect."""

import pickle
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer

from fedtl import Encoder, FederatedTransferClassifier, FederatedTransferRegressor
from fedtl.datasets import split_parties
from fedtl.federation import Simulation
from fedtl.persistence import load, save
from fedtl.privacy import Paillier, SecretSharing
from fedtl.protocols.dealer import Dealer

KINDS = {"regression": FederatedTransferRegressor}


def fit(made, task="binary", **parameters):
    settings = {"solver": "moments", "random_state": 0, "n_folds": 3} | parameters
    kind = KINDS.get(task, FederatedTransferClassifier)
    return kind(made.parties, **settings).fit(made.X, made.y)


def scores(fitted, X):
    return fitted.predict_proba(X) if hasattr(fitted, "predict_proba") else fitted.predict(X)


@pytest.mark.parametrize("n_parties", [2, 3])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_fit_under_secret_shares_predicts_what_the_clear_one_does(rows, task, n_parties):
    made = rows(n_parties=n_parties, task=task)
    clear, protected = fit(made, task), fit(made, task, privacy="sharing")
    assert_allclose(scores(protected, made.X), scores(clear, made.X), atol=1e-4)
    assert_allclose(protected.transform(made.X), clear.transform(made.X), atol=1e-4)


def test_few_labels_with_their_components_and_students_are_protected_too(rows):
    made = rows(n=900, overlap=1.0)
    made.y[np.arange(900) % 5 > 0] = -1
    clear = fit(made, unlabeled=-1)
    protected = fit(made, unlabeled=-1, privacy="sharing")
    assert_allclose(scores(protected, made.X), scores(clear, made.X), atol=1e-4)
    assert protected.report_.rounds >= clear.report_.rounds


def test_fewer_directions_are_asked_for_where_all_of_them_would_give_rows_away(rows):
    made = rows(n=200, overlap=1.0)
    made.y[np.arange(200) % 5 > 0] = -1  # 13 labelled rows a fold, 18 directions
    clear = fit(made, unlabeled=-1)
    protected = fit(made, unlabeled=-1, privacy="sharing")
    n_directions = [f.model_.pairs[0].directions.shape[1] for f in (clear, protected)]
    assert n_directions[0] == 18
    assert 0 < n_directions[1] <= 13 // 2
    agree = (clear.predict(made.X) == protected.predict(made.X)).mean()
    assert agree > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_on_breast_cancer_no_probability_differs_by_more_than_a_thousandth(seed):
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    parties = {"a": list(X)[:15], "b": list(X)[15:]}
    split = split_parties(X, y, parties, n_shared=250, n_per_party=300, random_state=seed)
    clear, protected = (
        FederatedTransferClassifier(
            parties,
            solver="moments",
            privacy=privacy,
            unlabeled=-1,
            random_state=seed,
        ).fit(split.X_train, split.y_train)
        for privacy in ("none", SecretSharing())
    )
    X = split.X_test
    assert_allclose(protected.predict_proba(X), clear.predict_proba(X), atol=1e-3)


def test_serializing_changes_neither_predictions_nor_counted_bytes(rows):
    made = rows()
    fits = [
        fit(made, privacy="sharing", federation=Simulation(serialize=serialize))
        for serialize in (False, True)
    ]
    # Masks differ from fit to fit and cancel exactly.
    np.testing.assert_array_equal(scores(fits[0], made.X), scores(fits[1], made.X))
    assert fits[0].ledger_.rows() == fits[1].ledger_.rows()


def test_no_moment_and_no_held_out_model_crosses_in_the_clear(rows):
    fitted = fit(rows(), privacy="sharing")
    kinds = {row["kind"]: row["protection"] for row in fitted.ledger_.rows()}
    assert not [kind for kind in kinds if kind.startswith("moments.")]
    assert not [kind for kind in kinds if "score" in kind]
    assert {p for kind, p in kinds.items() if kind.startswith("shared_moments.re")} == {"shares"}
    assert "protection" in str(fitted.report_)
    assert set(fitted.report_.to_frame("messages")["protection"]) == {"none", "shares"}


@pytest.mark.parametrize("privacy", ["auto", "none"])
def test_nothing_is_protected_in_process_unless_it_is_asked_for(rows, privacy):
    made = rows()
    assert set(row["protection"] for row in fit(made, privacy=privacy).ledger_.rows()) == {"none"}


@pytest.mark.parametrize("privacy", ["sharing", Paillier(key_bits=2048)])
def test_the_automatic_solver_is_the_one_that_is_protected(rows, privacy):
    made = rows()
    auto, moments = (
        fit(made, solver=solver, privacy=privacy, random_state=0) for solver in ("auto", "moments")
    )
    kinds = {row["kind"] for row in auto.ledger_.rows()}
    assert kinds == {row["kind"] for row in moments.ledger_.rows()}
    assert "moments.request/1" not in kinds
    assert_allclose(auto.predict_proba(made.X), moments.predict_proba(made.X), atol=1e-4)
    assert_allclose(auto.transform(made.X), moments.transform(made.X), atol=1e-3)


def test_unequal_weights_are_refused_and_equal_ones_or_zeros_are_not(rows):
    made = rows()
    estimator = FederatedTransferClassifier(made.parties, solver="moments", privacy="sharing")
    with pytest.raises(ValueError, match="which often follow the labels"):
        estimator.fit(made.X, made.y, sample_weight=1.0 + made.y)
    weight = np.full(len(made.y), 2.0)
    weight[:10] = 0.0
    estimator.fit(made.X, made.y, sample_weight=weight)


def test_no_party_may_be_called_as_the_dealer_is(rows):
    made = rows()
    made.parties = [(("bank", "dealer")[i], Encoder(), p[2]) for i, p in enumerate(made.parties)]
    with pytest.raises(ValueError, match="'dealer' is that of the dealer"):
        fit(made, privacy="sharing")


def test_folds_follow_a_given_random_state_and_are_secret_otherwise(rows):
    made = rows()
    given = [fit(made, privacy="sharing", random_state=1).model_.fold_seed for _ in range(2)]
    secret = [fit(made, privacy="sharing", random_state=None).model_.fold_seed for _ in range(2)]
    assert given[0] == given[1]
    assert secret[0] != secret[1]
    assert min(secret) > 2**64


OPTIONS = [Paillier(), Paillier(key_bits=2048), SecretSharing(), SecretSharing(Dealer())]


@pytest.mark.parametrize("privacy", OPTIONS, ids=lambda option: type(option).__name__)
def test_options_clone_pickle_and_show(privacy):
    estimator = FederatedTransferClassifier(solver="moments", privacy=privacy)
    for copy in (clone(estimator), pickle.loads(pickle.dumps(estimator))):
        assert type(copy.get_params()["privacy"]) is type(privacy)
        assert repr(copy.privacy).startswith(type(privacy).__name__)
    if getattr(privacy, "dealer", None) is None:
        assert clone(estimator).privacy == privacy


def test_an_option_that_is_none_is_refused(rows):
    with pytest.raises(ValueError, match="privacy"):
        fit(rows(), privacy="rot13")
    with pytest.raises(ValueError, match="key_bits must be 2048, 3072 or 4096, got 1024"):
        Paillier(key_bits=1024)


def test_a_protected_estimator_is_saved_and_loaded(rows, tmp_path):
    made = rows()
    fitted = fit(made, privacy=SecretSharing())
    save(fitted, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.privacy == SecretSharing()
    np.testing.assert_array_equal(again.predict_proba(made.X), fitted.predict_proba(made.X))


@pytest.mark.parametrize("n_parties", [2, 3])
def test_a_fit_under_encryption_predicts_what_the_clear_one_does(rows, n_parties):
    pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")
    made = rows(n=150, n_parties=n_parties, width=1)
    clear, protected = fit(made), fit(made, privacy=Paillier(key_bits=2048))
    assert_allclose(scores(protected, made.X), scores(clear, made.X), atol=1e-3)
    kinds = {row["kind"]: row["protection"] for row in protected.ledger_.rows()}
    assert kinds["protected_moments.request/1"] == kinds["protected_moments.reply/1"] == "paillier"
    assert "moments.request/1" not in kinds


def test_encryption_without_its_library_says_what_to_install(rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "gmpy2", None)
    with pytest.raises(ImportError, match=r"pip install 'fedtl\[paillier\]'"):
        fit(rows(), privacy="paillier")
