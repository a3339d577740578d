"""A model is the same whether its parties are simulated or answer over mutual TLS."""

import copy
import gc
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

from fedtl import (
    Encoder,
    FederatedProjector,
    FederatedTransferClassifier,
    FederatedTransferRegressor,
)
from fedtl.estimators import _privacy
from fedtl.exceptions import PartyError, PolicyRefusal, SessionExpired
from fedtl.federation import Ledger
from fedtl.parties import Policy
from fedtl.privacy import Paillier
from fedtl.server import verify

SETTINGS = {
    "max_iter": 8,
    "lr": 0.03,
    "n_folds": 2,
    "random_state": 0,
    "n_components": 4,
    "privacy": "none",
}


def active(data, **changed):
    """The bank's estimator: its own columns, the others behind the federation."""
    kind = changed.pop("kind", FederatedTransferClassifier)
    return kind([data.parties[0]], **{**SETTINGS, **changed})


def wait_for(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("n_parties", [2, 3])
@pytest.mark.parametrize("solver", ["moments", "latent", "auto"])
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_remote_parties_give_the_identical_model(world, data, solver, n_parties, task):
    made = data(n_parties=n_parties, task=task)
    binary = task == "binary"
    kind = FederatedTransferClassifier if binary else FederatedTransferRegressor
    local = kind(made.parties, solver=solver, **SETTINGS).fit(made.X, made.y)
    there = world(made)
    federation = there.connect()
    remote = active(made, kind=kind, solver=solver, federation=federation).fit(made.own, made.y)
    say = "predict_proba" if binary else "predict"
    assert_array_equal(getattr(local, say)(made.X), getattr(remote, say)(made.own))
    assert_array_equal(local.transform(made.X), remote.transform(made.own))
    assert remote.ledger_.rows() == federation.ledger.rows()
    # Ids of a table of one's own are aligned first; everything else crosses as in a simulation.
    beside = [row for row in remote.ledger_.rows() if not row["kind"].startswith("alignment.")]
    assert local.ledger_.rows() == beside
    assert remote.n_parties_ == n_parties
    assert str(local.report_).splitlines()[:3] == str(remote.report_).splitlines()[:3]
    assert verify(there.audit_log()).problems == []


def test_lius_transfer_is_the_same_too(world, data):
    made = data()
    local = FederatedTransferClassifier(made.parties, solver="liu", **SETTINGS)
    local.fit(made.X, made.y)
    remote = active(made, solver="liu", federation=world(made).connect()).fit(made.own, made.y)
    assert_array_equal(local.predict_proba(made.X), remote.predict_proba(made.own))


def test_compressed_messages_give_the_identical_model_and_the_same_ledger(world, data):
    made = data()
    there = world(made)
    fits = [
        active(made, solver="moments", federation=there.connect(compress=compress))
        for compress in (False, True)
    ]
    received = []
    for fit in fits:
        fit.fit(made.own, made.y)
        received.append(there.servers["shop"].endpoint.metrics.received_bytes)
    assert_array_equal(*[fit.predict_proba(made.own) for fit in fits])
    assert fits[0].ledger_.rows() == fits[1].ledger_.rows()


def test_the_projector_is_the_same_too(world, data):
    made = data()
    settings = {"max_iter": 5, "n_components": 3, "random_state": 0}
    local = FederatedProjector(made.parties, **settings).fit(made.X)
    remote = FederatedProjector(
        [made.parties[0]], federation=world(made).connect(), **settings
    ).fit(made.own)
    assert_array_equal(local.transform(made.X), remote.transform(made.own))


def test_rows_are_found_by_the_index_of_X_in_any_order(world, data):
    made = data()
    fitted = active(made, solver="moments", federation=world(made).connect())
    fitted.fit(made.own, made.y)
    shuffled = made.own.sample(frac=0.5, random_state=0)
    whole = fitted.predict_proba(made.own)[shuffled.index]
    # Matrix products over other batches may round differently.
    assert_allclose(fitted.predict_proba(shuffled), whole, atol=1e-12)


def test_remote_parties_answer_under_encryption_and_never_with_the_asking_side_as_dealer(
    world, data
):
    pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")
    made = data()
    clear = active(made, solver="moments").set_params(parties=made.parties).fit(made.X, made.y)
    there = active(made, solver="moments", federation=world(made).connect())
    there.set_params(privacy=Paillier(key_bits=2048)).fit(made.own, made.y)
    assert_allclose(clear.predict_proba(made.X), there.predict_proba(made.own), atol=1e-3)
    kinds = {row["kind"] for row in there.ledger_.rows()}
    assert "protected_moments.request/1" in kinds
    assert "moments.request/1" not in kinds
    with pytest.raises(ValueError, match="needs a dealer who is none of the parties"):
        clone(there).set_params(privacy="sharing").fit(made.own, made.y)


def test_remote_parties_are_protected_unless_it_is_said_otherwise(world, data, monkeypatch):
    pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")
    made = data()
    weaker = {**_privacy._PROTECTIONS, "paillier": Paillier(key_bits=2048)}
    monkeypatch.setattr(_privacy, "_PROTECTIONS", weaker)  # a key of 3,072 bits takes seconds
    federation = world(made).connect()
    fitted = active(made, federation=federation, privacy="auto", solver="auto")
    fitted.fit(made.own, made.y)
    crossed = {(row["kind"], row["protection"]) for row in fitted.ledger_.rows()}
    assert ("protected_moments.request/1", "paillier") in crossed
    assert not [kind for kind, _ in crossed if kind.startswith(("latent.", "assistance."))]
    assert "moments.request/1" not in {kind for kind, _ in crossed}
    joint = clone(fitted).set_params(solver="latent").fit(made.own, made.y)
    crossed = {(row["kind"], row["protection"]) for row in joint.ledger_.rows()}
    assert ("protected_latent.scores/1", "paillier") in crossed
    assert not [kind for kind, _ in crossed if kind.startswith("latent.")]
    # The same messages as in a simulation, and nothing but noise is drawn anew.
    local = active(made, solver="latent", privacy="paillier").set_params(parties=made.parties)
    local.fit(made.X, made.y)
    assert_array_equal(local.predict_proba(made.X), joint.predict_proba(made.own))


@pytest.mark.parametrize("where", ["index", "column"])
def test_ids_may_be_text_in_the_index_or_in_a_column(world, data, where):
    made = data()
    local = active(made, solver="moments").set_params(parties=made.parties).fit(made.X, made.y)
    names = [f"C{number:04d}" for number in range(len(made.X))]
    shuffled = np.random.default_rng(1).permutation(len(names))
    made.blocks["shop"] = made.blocks["shop"].set_axis(names).iloc[shuffled]
    there = world(made).connect()
    own = made.own.set_axis(names) if where == "index" else made.own.assign(customer=names)
    key = "index" if where == "index" else "customer"
    remote = active(made, federation=there, key=key, solver="moments").fit(own, made.y)
    # The shop's encoding is of its rows in another order: equal but for rounding.
    assert_allclose(local.predict_proba(made.X), remote.predict_proba(own), atol=1e-10)


@pytest.mark.parametrize("wrong", ["array", "index", "key", "claimed"])
def test_rows_without_ids_are_refused(world, data, wrong):
    made = data()
    fitted = active(made, federation=world(made).connect())
    X, problem = made.own, "no column of X"
    if wrong == "array":
        X, problem = made.own.to_numpy(), r"has no index\. .*set_output"
        fitted.set_params(parties=[("bank", Encoder(), [0, 1])])
    elif wrong == "index":
        X, problem = made.own.set_axis(made.own.index + 0.5), "not whole"
    elif wrong == "key":
        fitted.set_params(key="customer")
    else:
        fitted.set_params(key="bank1")
        problem = "claims the column 'bank1'"
    with pytest.raises(ValueError, match=problem):
        fitted.fit(X, made.y)
    assert not [name for name in vars(fitted) if name.endswith("_") and name[0] != "_"]


def test_other_parties_in_X_and_a_name_twice_are_refused(world, data):
    made = data()
    federation = world(made).connect()
    both = FederatedTransferClassifier(made.parties, federation=federation)
    with pytest.raises(ValueError, match=r"\['shop'\].*name only the active party"):
        both.fit(made.X, made.y)
    same = FederatedTransferClassifier([("shop", Encoder(), ["bank1"])], federation=federation)
    with pytest.raises(ValueError, match="also one of the federation's parties"):
        same.fit(made.own, made.y)


# Handles


def test_a_handle_is_an_address(world):
    federation = world().connect()
    assert clone(federation) is copy.deepcopy(federation) is copy.copy(federation) is federation
    assert federation.describe()["shop"]["min_rows"] == 1
    other = pickle.loads(pickle.dumps(federation))
    assert other.addresses == federation.addresses
    assert other.group == federation.group
    assert "shop='127.0.0.1:" in repr(other)
    other.close()


def test_a_fitted_estimator_predicts_after_pickling(world, data):
    made = data()
    there = world(made)
    fitted = active(made, solver="moments", federation=there.connect()).fit(made.own, made.y)
    copied = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(copied.predict_proba(made.own), fitted.predict_proba(made.own))
    del fitted
    gc.collect()
    time.sleep(0.2)
    copied.predict(made.own)  # the copy's session did not end with the original
    assert there.n_sessions == {"shop": 1}
    copied.federation.close()
    assert there.n_sessions == {"shop": 0}
    with pytest.raises(SessionExpired, match="'shop': the session has ended; fit the estimator"):
        copied.predict(made.own)


def test_a_session_ends_with_its_estimator_or_with_the_handle(world, data):
    made = data()
    there = world(made)
    with there.connect() as federation:
        kept = active(made, solver="moments", federation=federation).fit(made.own, made.y)
        gone = clone(kept).fit(made.own, made.y)
        assert there.n_sessions == {"shop": 2}
        del gone
        wait_for(lambda: there.n_sessions == {"shop": 1})
        kept.predict(made.own)
    assert there.n_sessions == {"shop": 0}


def test_a_failed_fit_leaves_neither_attributes_nor_a_session(world, data):
    made = data()
    there = world(made, policy=Policy(min_rows=1000))
    fitted = active(made, solver="moments", federation=there.connect())
    with pytest.raises(PolicyRefusal, match="'shop': a sum over .* answers from 1000 on"):
        fitted.fit(made.own, made.y)
    assert not [name for name in vars(fitted) if name.endswith("_") and name[0] != "_"]
    gc.collect()
    wait_for(lambda: there.n_sessions == {"shop": 0})


def test_training_on_is_refused_and_changes_nothing(world, data):
    made = data()
    fitted = active(made, solver="latent", federation=world(made).connect(), warm_start=True)
    before = fitted.fit(made.own, made.y).predict_proba(made.own)
    with pytest.raises(PartyError, match="'shop': is remote, and training on"):
        fitted.fit(made.own, made.y)
    assert_array_equal(fitted.predict_proba(made.own), before)


def test_cross_validation_in_workers_leaves_no_session_behind(world, data):
    made = data()
    there = world(made, policy=Policy(max_fits=6, max_aligned_ids=len(made.y)))
    federation = there.connect()
    clf = active(made, solver="moments", federation=federation)
    scores = [cross_val_score(clf, made.own, made.y, cv=3, n_jobs=n) for n in (2, 1)]
    assert_array_equal(*scores)
    assert scores[0].mean() > 0.75
    wait_for(lambda: there.n_sessions == {"shop": 0})
    told = federation.describe()["shop"]
    assert told["fits"] == {"allowed": 6, "used": 6}
    # Each id once, whichever process asked.
    assert told["aligned_ids"] == {"allowed": len(made.y), "used": len(made.y)}
    with pytest.raises(PolicyRefusal, match="allows 6 fits; all are used"):
        clf.fit(made.own, made.y)
    assert len(list((there.folder / "bank" / "alignments").iterdir())) == 1
    federation.close()
    assert list((there.folder / "bank" / "alignments").iterdir()) == []


def test_a_grid_search_in_workers_keeps_the_session_of_the_best_alone(world, data):
    made = data()
    there = world(made)
    clf = active(made, solver="latent", federation=there.connect())
    search = GridSearchCV(clf, {"n_components": [2, 4]}, cv=2, n_jobs=2)
    search.fit(made.own, made.y)
    wait_for(lambda: there.n_sessions == {"shop": 1})
    search.predict(made.own)
    del search
    wait_for(lambda: there.n_sessions == {"shop": 0})
    assert there.servers["shop"].endpoint.caller("bank").service.usage.fits == 5


SCRIPT = """
import sys, numpy as np, pandas as pd
from fedtl import Encoder, FederatedTransferClassifier
from fedtl.federation import Federation
X = pd.read_parquet(sys.argv[3])
y = X.pop("y")
clf = FederatedTransferClassifier(
    [("bank", Encoder(), list(X.columns))],
    federation=Federation.connect(credentials=sys.argv[1], shop=sys.argv[2]),
    solver="moments", n_folds=2, random_state=0, privacy="none",
)
print(clf.fit(X, y).score(X, y))
"""


def test_a_process_that_ends_leaves_no_session_behind(world, data, tmp_path):
    made = data()
    there = world(made)
    made.own.assign(y=made.y).to_parquet(tmp_path / "table.parquet")
    arguments = [there.folder / "bank", there.servers["shop"].address, tmp_path / "table.parquet"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert float(done.stdout) > 0.75, done.stderr
    assert there.n_sessions == {"shop": 0}
    assert '"kind":"party.close/1"' in there.audit_log().read_text()


def test_callers_in_threads_get_their_own_models_and_are_counted_exactly(world, data):
    made = data()
    there = world(made)
    federation = there.connect()
    expected = active(made, solver="moments", federation=federation).fit(made.own, made.y)
    n, models = 6, {}

    def run(i):
        clf = active(made, solver="moments", federation=federation)
        models[i] = clf.fit(made.own, made.y).predict_proba(made.own)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = expected.predict_proba(made.own)
    assert all(np.array_equal(models[i], wanted) for i in range(n))
    usage = there.servers["shop"].endpoint.caller("bank").service.usage
    assert (usage.fits, usage.predicted_rows) == (n + 1, (n + 1) * len(made.y))


def test_a_party_describes_itself_as_far_as_its_policy_allows(world, data):
    there = world(
        data(),
        policy=Policy(protocols=frozenset({"session", "moments"}), min_rows=7, max_fits=3),
        shows_columns=True,
    )
    told = there.connect().describe()["shop"]
    assert told["protocols"] == ["moments", "session"]
    assert (told["min_rows"], told["fits"]) == (7, {"allowed": 3, "used": 0})
    assert told["columns"] == {"shop1": "float64", "shop2": "float64"}


def test_an_answer_counts_in_the_ledger_whether_it_is_a_reply_or_a_refusal(world, data):
    made = data()
    federation = world(made, policy=Policy(protocols=frozenset())).connect()
    ledger = Ledger()
    from fedtl.protocols.session import open_session

    [channel] = federation.channels(ledger)
    with pytest.raises(PolicyRefusal, match="'session'"):
        open_session(channel, "s", np.arange(3), resume=False)
    kinds = [(row["direction"], row["kind"]) for row in ledger.rows()]
    assert kinds == [("sent", "session.open/1"), ("received", "party.error/1")]
