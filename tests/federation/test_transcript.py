"""A transcript holds what crossed, in order, and only where somebody asked for it."""

import pickle

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.linear_model import SGDClassifier

from fedtl import FederatedFineTuner, FederatedTransferClassifier
from fedtl.datasets import make_federated_classification
from fedtl.federation import Ledger, Simulation, opened, record_transcript
from fedtl.privacy import Paillier
from fedtl.protocols.moments import Scores
from fedtl.protocols.session import Ended
from fedtl.wire import encode

PARTIES = {"bank": [0, 1, 2], "shop": [3, 4, 5]}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 6))
    return X, (X[:, 0] + X[:, 3] > 0).astype(int)


def classifier(**params):
    return FederatedTransferClassifier(PARTIES, solver="moments", random_state=0, **params)


def counted(transcript):
    """Count the messages of a transcript as a ledger does."""
    ledger = Ledger()
    for party in transcript.parties:
        for each in transcript.with_party(party):
            kind, protection = each.message.kind, each.message.protection
            n_bytes = len(encode(each.message))
            ledger.add(party, each.direction, kind, n_bytes, protection)
    return sorted(ledger.rows(), key=str)


@pytest.mark.parametrize("serialize", [False, True])
@pytest.mark.parametrize("privacy", ["none", "sharing"])
def test_every_message_that_the_ledger_counts_is_recorded(rows, serialize, privacy):
    model = classifier(privacy=privacy, federation=Simulation(serialize=serialize))
    with record_transcript() as transcript:
        model.fit(*rows)
    assert counted(transcript) == sorted(model.ledger_.rows(), key=str)


def test_nothing_is_recorded_outside_the_block(rows):
    with record_transcript() as transcript:
        pass
    model = classifier().fit(*rows)
    model.predict(rows[0])
    assert transcript.events == []
    assert repr(transcript) == "Transcript(0 messages with nobody)"


def test_an_estimator_keeps_nothing_of_what_was_recorded(rows):
    with record_transcript():
        recorded = classifier().fit(*rows)
    usual = len(pickle.dumps(classifier().fit(*rows)))
    assert len(pickle.dumps(recorded)) == pytest.approx(usual, rel=0.01)


def test_a_transcript_holds_copies():
    sent = Ended(session="one")
    scores = np.ones((3, 1))
    with record_transcript() as transcript:
        transcript.add("shop", "sent", sent)
        transcript.add("shop", "received", Scores(scores=scores))
    scores[:] = 0.0
    kept = [crossing.message for crossing in transcript.with_party("shop")]
    assert kept[0].session == "one"
    np.testing.assert_array_equal(kept[1].scores, np.ones((3, 1)))


@pytest.mark.parametrize("privacy", ["none", "sharing", "paillier"])
def test_what_is_opened_is_the_same_with_and_without_protection(rows, privacy):
    if privacy == "paillier":
        pytest.importorskip("gmpy2")
    with record_transcript() as clear:
        classifier().fit(*rows)
    protection = Paillier(2048) if privacy == "paillier" else privacy
    with record_transcript() as protected:
        classifier(privacy=protection).fit(*rows)
    for kind, name in (("moments.sums", "cross"), ("moments.held_out", "held_out")):
        expected, came = (t.openings("shop", kind)[0][name] for t in (clear, protected))
        np.testing.assert_allclose(came, expected, atol=1e-3)


def test_nobody_opens_anything_where_nothing_is_recorded():
    opened("shop", "moments.scores", scores=np.ones(3))
    with record_transcript() as transcript:
        opened("shop", "latent.sums", holder="shop", sums=np.ones(3))
    assert transcript.openings("shop", "moments.scores") == []
    assert len(transcript.openings("shop", "latent.sums", holder="shop")) == 1


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
def test_parties_in_threads_and_processes_are_recorded_too(rows, backend):
    tuner = FederatedFineTuner(SGDClassifier(), n_rounds=2, random_state=0)
    kinds = {}
    for jobs in (1, 2):
        with record_transcript() as transcript, parallel_config(backend=backend, n_jobs=jobs):
            tuner.fit(*rows, sample_party=np.arange(80) % 3)
        kinds[jobs] = {
            p: [(c.direction, c.message.kind) for c in transcript.with_party(p)]
            for p in transcript.parties
        }
    assert kinds[1] == kinds[2]
    assert len(kinds[1]["0"]) == 2 * 4


def test_a_block_inside_another_records_for_itself(rows):
    data = make_federated_classification(60, n_features=4, random_state=0)
    with record_transcript() as outer:
        with record_transcript() as inner:
            FederatedTransferClassifier(data.parties, solver="moments").fit(data.data, data.target)
        classifier().fit(*rows)
    assert inner.parties == list(data.parties)[1:]
    assert outer.parties == ["shop"]
