"""Killed, cut off, slow or full: a fit goes on to the same model, or stops and says what to do."""

import datetime
import json
import resource
import socket
import threading
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from benchmarks.remote import Proxy
from fedtl import FederatedTransferClassifier
from fedtl.exceptions import PartyError, PartyUnreachable, PolicyRefusal, SessionExpired
from fedtl.federation import Federation
from fedtl.parties import Policy
from fedtl.server import verify

SETTINGS = {
    "lr": 0.03,
    "n_folds": 2,
    "random_state": 0,
    "n_components": 4,
    "privacy": "none",
}


def connect(folder, address, **settings):
    settings = {"deadline": 60.0, "reconnect": 20.0, **settings}
    return Federation.connect(credentials=folder / "bank", shop=address, **settings)


def estimator(made, federation, **changed):
    return FederatedTransferClassifier(
        [made.parties[0]], federation=federation, **SETTINGS | changed
    )


def nothing_is_left(there, *estimators):
    """Close handles: no session is open then, and the audit log is as it was written."""
    for clf in estimators:
        clf.federation.close()
    assert there.n_sessions == {"shop": 0}
    assert verify(there.audit_log()).problems == []


def is_unfitted(clf):
    return not [name for name in vars(clf) if name.endswith("_") and name[0] != "_"]


def during(clf, made, step, act):
    """Fit, and act in the middle of the training; return what was raised."""
    raised = []

    def fit():
        try:
            clf.fit(made.own, made.y)
        except Exception as error:
            raised.append(error)

    ledger = clf.federation.ledger
    thread = threading.Thread(target=fit)
    thread.start()
    while ledger.messages < step and thread.is_alive():
        time.sleep(0.002)
    assert thread.is_alive(), "the fit was over before anything could happen to it"
    act()
    thread.join(300)
    assert not thread.is_alive()
    return raised


def test_a_party_that_is_killed_and_started_anew_ends_the_fit_with_what_to_do(
    process, data, identities, tmp_path
):
    made = data()
    identities("shop")
    party = process(made.blocks["shop"], policy="fits_per_day = 3")
    # A process imports torch before it answers: most of a minute on a busy machine.
    federation = connect(tmp_path, party.address, deadline=180.0, reconnect=180.0)
    clf = estimator(made, federation, solver="latent", max_iter=2000)

    def kill_and_start():
        party.kill()
        party.start()

    [error] = during(clf, made, 100, kill_and_start)
    assert isinstance(error, SessionExpired)
    assert "'shop'" in str(error)
    assert "fit the estimator again" in str(error)
    assert is_unfitted(clf)
    log = tmp_path / "state" / "audit.jsonl"
    assert verify(log).problems == []
    # Quotas are those of before: one fit was begun, and two more are allowed.
    clf.set_params(max_iter=3)
    for _ in range(2):
        clf.fit(made.own, made.y)
    with pytest.raises(PolicyRefusal, match="allows 3 fits"):
        clf.fit(made.own, made.y)
    federation.close()
    assert party.stop() == 0
    assert verify(log).problems == []
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "stopped"


def test_a_party_that_stays_away_ends_the_fit_in_time(process, data, identities, tmp_path):
    made = data()
    identities("shop")
    party = process(made.blocks["shop"])
    federation = connect(tmp_path, party.address, reconnect=1.0)
    clf = estimator(made, federation, solver="latent", max_iter=2000)
    start = time.monotonic()
    [error] = during(clf, made, 100, party.kill)
    assert isinstance(error, PartyUnreachable)
    assert "cannot be reached" in str(error)
    assert "begun again once the party is back" in str(error)
    assert time.monotonic() - start < 30
    assert is_unfitted(clf)


@pytest.mark.parametrize(
    "seconds", [(1.5, 1.5), pytest.param((10.0,), marks=pytest.mark.slow)], ids=["twice", "long"]
)
def test_a_connection_that_is_cut_for_seconds_changes_nothing(world, data, seconds):
    made = data()
    there = world(made)
    proxy = Proxy(there.servers["shop"].address)
    settings = {"solver": "latent", "max_iter": 60}
    whole = estimator(made, there.connect(), **settings).fit(made.own, made.y)
    federation = connect(there.folder, proxy.address)

    def cut():
        for each in seconds:
            proxy.cut()
            time.sleep(each)
            proxy.up = True
            time.sleep(0.3)

    clf = estimator(made, federation, **settings)
    assert during(clf, made, 30, cut) == []
    assert_array_equal(clf.predict_proba(made.own), whole.predict_proba(made.own))
    assert clf.ledger_.rows() == whole.ledger_.rows()
    assert there.servers["shop"].endpoint.caller("bank").service.usage.fits == 2
    federation.close()
    nothing_is_left(there, clf, whole)


def test_bytes_on_the_socket_are_those_of_the_ledger(world, data):
    made = data(n=3000)
    there = world(made)
    proxy = Proxy(there.servers["shop"].address)
    federation = connect(there.folder, proxy.address)
    estimator(made, federation, solver="moments").fit(made.own, made.y)
    assert 1.0 <= proxy.n_bytes / federation.ledger.n_bytes < 1.05
    federation.close()


def test_a_party_that_is_slower_than_the_deadline_is_not_waited_for(world, data, monkeypatch):
    made = data()
    there = world(made)
    service = there.servers["shop"].endpoint.caller("bank").service
    answer = service.answer

    def slow(request):
        if request.kind == "moments.request/1":
            time.sleep(1.5)
        return answer(request)

    monkeypatch.setattr(service, "answer", slow)
    impatient = estimator(made, there.connect(deadline=0.7, reconnect=0.5), solver="moments")
    with pytest.raises(PartyUnreachable, match="'shop': .* did not answer in time"):
        impatient.fit(made.own, made.y)
    assert is_unfitted(impatient)
    patient = estimator(made, there.connect(), solver="moments").fit(made.own, made.y)
    assert patient.predict(made.own).shape == made.y.shape
    nothing_is_left(there, impatient, patient)


def test_two_callers_at_once_do_not_see_one_another(world, data):
    from fedtl.identity import Identity

    made = data()
    there = world(made)
    shop = there.identities["shop"]
    rival = Identity.create(there.folder / "rival", "rival")
    shop.pin(rival.certificate, rival.fingerprint)
    rival.pin(shop.certificate, shop.fingerprint)
    models, threads = {}, []
    for name in ("bank", "rival"):
        clf = estimator(made, there.connect(name), solver="auto", max_iter=10)
        models[name] = clf
        threads.append(threading.Thread(target=clf.fit, args=(made.own, made.y)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_array_equal(*[clf.predict_proba(made.own) for clf in models.values()])
    callers = {json.loads(line).get("caller") for line in there.audit_log().open()}
    assert callers == {None, "bank", "rival"}
    nothing_is_left(there, *models.values())


def test_a_clock_that_jumps_in_the_middle_of_a_fit_changes_nothing(world, data, monkeypatch):
    made = data()
    there = world(made, policy=Policy(max_fits=2))
    settings = {"solver": "latent", "max_iter": 60}
    whole = estimator(made, there.connect(), **settings).fit(made.own, made.y)
    now = [datetime.datetime.now(datetime.UTC)]

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return now[-1]

    fake = SimpleNamespace(datetime=Clock, UTC=datetime.UTC)
    for module in ("_audit", "_usage"):
        monkeypatch.setattr(f"fedtl.server.{module}.datetime", fake)

    def jump():
        for days in (-400, 3):
            now.append(now[0] + datetime.timedelta(days=days))
            time.sleep(0.1)

    clf = estimator(made, there.connect(), **settings)
    assert during(clf, made, 30, jump) == []
    assert_array_equal(clf.predict_proba(made.own), whole.predict_proba(made.own))
    # It is another day, on which a clock that is put back gives nothing for a second time.
    for _ in range(2):
        clf.fit(made.own, made.y)
    now.append(now[0])
    with pytest.raises(PolicyRefusal, match="allows 2 fits"):
        clf.fit(made.own, made.y)
    times = [json.loads(line)["time"] for line in there.audit_log().open()]
    assert times != sorted(times)
    nothing_is_left(there, clf, whole)


def test_a_full_disk_stops_the_answers_and_the_log_verifies(process, data, identities, tmp_path):
    made = data()
    identities("shop")
    party = process(made.blocks["shop"])
    small = (12_000, resource.RLIM_INFINITY)
    resource.prlimit(party.process.pid, resource.RLIMIT_FSIZE, small)
    federation = connect(tmp_path, party.address)
    clf = estimator(made, federation, solver="latent", max_iter=200)
    with pytest.raises(PartyError, match="'shop': cannot write down .* make room on its disk"):
        clf.fit(made.own, made.y)
    assert is_unfitted(clf)
    federation.close()
    party.stop()
    verdict = verify(tmp_path / "state" / "audit.jsonl")
    assert verdict.problems == []
    assert 10 < verdict.head.n < 60


def test_a_process_stops_gracefully_and_tells_its_health(process, data, identities, tmp_path):
    made = data()
    identities("shop")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    party = process(made.blocks["shop"])
    party.stop()
    party.file.write_text(f'health = "127.0.0.1:{port}"\n' + party.file.read_text())
    party.start()
    federation = connect(tmp_path, party.address)
    clf = estimator(made, federation, solver="moments").fit(made.own, made.y)

    def ask(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.read().decode()

    assert json.loads(ask("/health")) == {"party": "shop", "answers": True, "sessions": 1}
    metrics = ask("/metrics")
    assert 'fedtl_requests_total{kind="session.open/1",outcome="answered"} 1' in metrics
    assert "fedtl_sessions 1" in metrics
    clf.predict(made.own)
    federation.close()
    assert json.loads(ask("/health"))["sessions"] == 0
    assert party.stop() == 0
    assert np.all([b"hash" in line for line in (tmp_path / "state/audit.jsonl").open("rb")])
