"""A protected model predicts the same wherever it is, and its parties cannot read their parts."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from fedtl import FederatedTransferClassifier
from fedtl.persistence import load, save
from fedtl.privacy import Paillier

PRIVACY = {"sharing": "sharing", "paillier": Paillier(key_bits=2048)}
pytestmark = pytest.mark.parametrize("privacy", list(PRIVACY))


@pytest.fixture(scope="module")
def fits(rows):
    """A fit of each kind, made once: keys take their time."""
    made, found = rows(n=120), {}

    def fit(privacy, solver="moments"):
        if (privacy, solver) not in found:
            if privacy == "paillier":
                pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")
            estimator = FederatedTransferClassifier(
                made.parties,
                solver=solver,
                privacy=PRIVACY[privacy],
                max_iter=5,
                n_folds=3,
                random_state=0,
            )
            found[privacy, solver] = estimator.fit(made.X, made.y)
        return made, found[privacy, solver]

    return fit


@pytest.mark.parametrize("solver", ["moments", "latent"])
def test_a_party_holds_no_number_that_it_could_score_a_row_by(fits, privacy, solver):
    _, model = fits(privacy, solver)
    (service,) = model.services_.services
    (session,) = service.sessions.values()
    held = {"sharing": {"moments": set(), "latent": {"fitted.share"}}}
    expected = held.get(privacy, {}).get(solver, {"fitted.sealed"})
    assert {key for key in session.state if key.startswith("fitted")} == expected


@pytest.mark.parametrize("solver", ["moments", "latent"])
def test_a_saved_and_a_pickled_model_predict_the_same(fits, privacy, solver, tmp_path):
    made, model = fits(privacy, solver)
    expected = model.predict_proba(made.X)
    save(model, tmp_path / "model")
    for again in (load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(again.predict_proba(made.X), expected)


def test_predictions_in_threads_do_not_meet(fits, privacy):
    made, model = fits(privacy)
    parts = [made.X[i::4] for i in range(4)]
    expected = [model.predict_proba(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(model.predict_proba, parts), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_many_rows_are_asked_about_a_few_at_a_time(fits, privacy, monkeypatch):
    """Masked columns of all rows at once would not fit into a message."""
    made, model = fits(privacy)
    expected = model.predict_proba(made.X)
    monkeypatch.setattr("fedtl.solvers.coalition._AT_ONCE", 50)
    np.testing.assert_array_equal(model.predict_proba(made.X), expected)
    [kind] = {"sharing": ["shared_predict.reply/1"], "paillier": ["protected_predict.scores/1"]}[
        privacy
    ]
    count = [row["messages"] for row in model.ledger_.rows() if row["kind"] == kind]
    assert sum(count) >= len(made.X) // 50


def test_a_model_of_shares_needs_its_dealer_and_one_of_ciphertexts_nobody(fits, privacy):
    made, model = fits(privacy)
    model = pickle.loads(pickle.dumps(model)).set_params(privacy="none")
    if privacy == "sharing":
        with pytest.raises(ValueError, match="set privacy back to SecretSharing"):
            model.predict(made.X)
    else:
        assert model.predict(made.X).shape == (len(made.y),)


def test_a_model_without_shared_rows_to_predict_tells_which_are_known(fits, privacy):
    made, model = fits(privacy)
    alone = made.X.copy()
    alone[:, 2:] = np.nan
    assert np.isfinite(model.predict_proba(alone)).all()
    np.testing.assert_allclose(model.transform(alone)[:, -1], 0.0)


def test_a_cross_validation_scores_every_fold_under_protection(fits, privacy):
    made, model = fits(privacy)
    found = cross_val_score(clone(model), made.X, made.y, cv=2)
    clear = cross_val_score(clone(model).set_params(privacy="none"), made.X, made.y, cv=2)
    np.testing.assert_allclose(found, clear, atol=0.02)
