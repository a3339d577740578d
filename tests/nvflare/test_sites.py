"""Provisioned sites as processes: the same models, policies and failures as over gRPC."""

import gc
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import cross_val_score
from sklearn.utils import Bunch

pytest.importorskip("nvflare", reason="needs the extra nvflare: scripts/nvflare runs this")

from examples.remote.nvflare.sites import Sites
from fedtl import Encoder, FederatedTransferClassifier
from fedtl.exceptions import PartyUnreachable, PolicyRefusal
from fedtl.federation import Federation
from fedtl.identity import Identity
from fedtl.nvflare import write_job
from fedtl.privacy import SecretSharing
from fedtl.server import verify

pytestmark = pytest.mark.slow

NAMES = ("bank", "shop", "telecom")
SETTINGS = {
    "max_iter": 8,
    "lr": 0.03,
    "n_folds": 2,
    "random_state": 0,
    "n_components": 4,
    "privacy": "none",
}
POLICY = 'min_rows = 1\nprotocols = ["alignment", "session", "moments", "latent", "predict"]'


def make_data(n=200):
    """Rows of which each party has two columns and does not know a tenth."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(n, 3))
    X = np.repeat(factors, 2, axis=1) + 0.4 * rng.normal(size=(n, 6))
    known = rng.random((n, 3)) < 0.9
    known[: n // 2] = True
    X[~np.repeat(known, 2, axis=1)] = np.nan
    columns = {name: [f"{name}1", f"{name}2"] for name in NAMES}
    frame = pd.DataFrame(X, columns=[name for own in columns.values() for name in own])
    return Bunch(X=frame, columns=columns, y=(factors.sum(axis=1) > 0).astype(int))


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.fixture(scope="module")
def sites(data):
    """Sites that have dialled in; the shop refuses pushed code."""
    folder = Path(tempfile.mkdtemp(prefix="fl"))  # pytest's own are too deep for a socket
    with Sites(folder) as made:
        made.provision()
        for name in ("shop", "telecom"):
            table = data.X[data.columns[name]].reset_index(names="id")
            made.set_up_party(name, table, POLICY)
        made.forbid_pushed_code("shop")
        made.start("localhost")
        assert made.admin
        made.start(*NAMES)
        made.wait_for_sites(3)
        yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def session(sites):
    """A session of all three; one of the last tests breaks it."""
    return sites.open_session("shop", "telecom")


def connect(sites, *partners, site="bank", **settings):
    addresses = {name: f"nvflare://{name}" for name in partners}
    settings = {"deadline": 60.0, "reconnect": 20.0, **settings}
    return Federation.connect(credentials=sites.workspace(site), **settings, **addresses)


def estimator(data, *simulated, **changed):
    parties = [(name, Encoder(), data.columns[name]) for name in simulated]
    return FederatedTransferClassifier(parties, **SETTINGS | changed)


def audit(sites, name):
    return sites.workspace(name) / "party" / "state" / "audit.jsonl"


def lines(sites, name):
    return [json.loads(line) for line in audit(sites, name).read_text().splitlines()]


@pytest.mark.parametrize("n_parties", [2, 3])
@pytest.mark.parametrize("solver", ["moments", "latent"])
def test_sites_give_the_identical_model(sites, session, data, solver, n_parties):
    names = NAMES[:n_parties]
    X = data.X[[column for name in names for column in data.columns[name]]]
    own = data.X[data.columns["bank"]]
    local = estimator(data, *names, solver=solver).fit(X, data.y)
    with connect(sites, *names[1:]) as federation:
        there = estimator(data, "bank", solver=solver, federation=federation).fit(own, data.y)
        assert_array_equal(local.predict_proba(X), there.predict_proba(own))
        assert_array_equal(local.transform(X), there.transform(own))
        crossed = there.ledger_.rows()
    # Ids of a table of one's own are aligned first; everything else crosses as in a simulation.
    assert local.ledger_.rows() == [r for r in crossed if not r["kind"].startswith("alignment.")]
    for name in names[1:]:
        assert verify(audit(sites, name)).problems == []


def test_cross_validation_in_workers_leaves_no_session_behind(sites, session, data):
    own = data.X[data.columns["bank"]]
    with connect(sites, "shop", "telecom") as federation:
        clf = estimator(data, "bank", solver="moments", federation=federation)
        scores = [cross_val_score(clf, own, data.y, cv=3, n_jobs=n) for n in (1, 2)]
        assert_array_equal(*scores)
        assert scores[0].mean() > 0.75
        gc.collect()
        until = time.monotonic() + 10
        while any(told["sessions"] for told in federation.describe().values()):
            assert time.monotonic() < until
            time.sleep(0.1)


def test_a_policy_is_that_of_the_site(sites, session, data):
    own = data.X[data.columns["bank"]]
    with connect(sites, "shop") as federation:
        refused = estimator(data, "bank", solver="moments", federation=federation)
        refused.set_params(privacy="paillier")
        with pytest.raises(PolicyRefusal, match="'shop'.*protected_moments"):
            refused.fit(own, data.y)
    last = lines(sites, "shop")[-1]
    assert last["caller"] == "bank"
    assert len(last["certificate"]) == 16


def test_a_job_that_pushes_code_is_refused_by_the_site_that_forbids_it(sites, session, tmp_path):
    job = tmp_path / "pushed"
    (job / "app" / "config").mkdir(parents=True)
    (job / "app" / "custom").mkdir()
    (job / "app" / "custom" / "own.py").write_text(
        "from nvflare.apis.executor import Executor\n"
        "class Own(Executor):\n"
        "    def execute(self, *arguments):\n"
        f"        open({str(tmp_path / 'ran')!r}, 'w')\n"
    )
    (job / "meta.json").write_text(
        json.dumps(
            {
                "name": "pushed",
                "min_clients": 1,
                "mandatory_clients": ["shop"],
                "deploy_map": {"app": ["server", "shop"]},
            }
        )
    )
    server = {
        "format_version": 2,
        "workflows": [{"id": "session", "path": "fedtl.nvflare.Session"}],
    }
    (job / "app" / "config" / "config_fed_server.json").write_text(json.dumps(server))
    executor = {"tasks": ["fedtl.session"], "executor": {"path": "own.Own"}}
    client = {"format_version": 2, "executors": [executor]}
    (job / "app" / "config" / "config_fed_client.json").write_text(json.dumps(client))
    job_id = sites.admin.submit_job(str(job))
    assert sites.wait_for_end(job_id, 90) != "FINISHED:COMPLETED"
    meta = sites.admin.get_job_meta(job_id)
    assert "byoc" in json.dumps(meta).lower(), meta
    assert not (tmp_path / "ran").exists()


def during(clf, data, step, act):
    """Fit, and act in the middle of the training; return what was raised and after how long."""
    raised, ended = [], []

    def fit():
        try:
            clf.fit(data.X[data.columns["bank"]], data.y)
        except Exception as error:
            raised.append(error)
        ended.append(time.monotonic())

    ledger = clf.federation.ledger
    thread = threading.Thread(target=fit)
    thread.start()
    while ledger.messages < step and thread.is_alive():
        time.sleep(0.01)
    assert thread.is_alive(), "the fit was over before anything could happen to it"
    act()
    acted = time.monotonic()
    thread.join(120)
    assert not thread.is_alive()
    return raised, ended[0] - acted


def test_a_second_session_of_a_site_is_refused_and_the_first_goes_on(sites, session):
    job = sites.admin.submit_job(str(write_job(sites.folder / "second", "bank", ["telecom"])))
    assert sites.wait_for_end(job, 90) == "FINISHED:EXECUTION_EXCEPTION"
    with connect(sites, "telecom") as federation:
        assert "error" not in federation.describe()["telecom"]
    assert sites.status(session) == "RUNNING"


def test_a_site_that_is_killed_ends_the_fit_and_the_session(sites, session, data):
    with connect(sites, "shop", "telecom") as federation:
        clf = estimator(data, "bank", solver="latent", max_iter=5000, federation=federation)
        [error], seconds = during(clf, data, 200, lambda: sites.kill("shop"))
        assert isinstance(error, PartyUnreachable)
        assert "begun again once the party is back; nothing of it was kept" in str(error)
        assert seconds < 60
        assert not [name for name in vars(clf) if name.endswith("_") and name[0] != "_"]
    assert sites.wait_for_end(session, 60) == "FINISHED:EXECUTION_EXCEPTION"
    # The other site's sessions ended with its part, and its log is whole.
    until = time.monotonic() + 30
    while lines(sites, "telecom")[-1].get("event") != "stopped":
        assert time.monotonic() < until
        time.sleep(0.2)
    assert verify(audit(sites, "telecom")).problems == []
    assert verify(audit(sites, "shop")).problems == []
    sites.start("shop")
    sites.wait_for_sites(3)


def test_a_site_that_is_not_among_the_callers_is_not_answered(sites, data):
    """And after a site was killed, the next session is as good as any."""
    job = sites.open_session("shop", active="telecom")
    with connect(sites, "shop", site="telecom") as federation:
        told = federation.describe()["shop"]
    assert "its party.toml has to name it among the callers" in told["error"]
    last = lines(sites, "shop")[-1]
    assert (last["caller"], last["outcome"]) == ("telecom", "refused")
    assert sites.close_session(job) == "FINISHED:ABORTED"


def test_the_example_ends_with_a_better_score():
    done = subprocess.run(
        [sys.executable, "-m", "examples.remote.nvflare.run"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scores = done.stdout.split("cross-validated: alone ")[1].split("\n")[0]
    alone, federated = scores.split(", federated ")
    assert float(federated) > float(alone) + 0.03
    assert done.stdout.count("problems: []") == 2


def test_a_site_without_data_deals_the_randomness_of_secret_shares(sites, data):
    """Key and seed are signed by identities beside FLARE's; the last test, as it turns a site."""
    identities = {
        name: Identity.create(sites.workspace(name) / "party" / "identity", name)
        for name in ("shop", "telecom")
    }
    for one, other in (("shop", "telecom"), ("telecom", "shop")):
        identities[one].pin(identities[other].certificate, identities[other].fingerprint)
    table = data.X[data.columns["shop"]].reset_index(names="id")
    sites.set_up_party("shop", table, 'min_rows = 1\ndealers = ["telecom"]')
    own_identity = 'credentials = "../party/identity"\n'
    file = sites.workspace("shop") / "local" / "party.toml"
    file.write_text(own_identity + file.read_text())
    (sites.workspace("telecom") / "local" / "dealer.toml").write_text(
        own_identity + 'name = "telecom"\ncallers = ["bank"]\nstate = "../party/state"\n'
    )
    job = sites.open_session("shop", "telecom")
    X = data.X[data.columns["bank"] + data.columns["shop"]]
    own = data.X[data.columns["bank"]]
    shares = SecretSharing(dealer={"telecom": "nvflare://telecom"})
    with connect(sites, "shop") as federation:
        for solver in ("moments", "latent"):
            settings = {"solver": solver, "privacy": SecretSharing()}
            local = estimator(data, "bank", "shop", **settings).fit(X, data.y)
            settings |= {"privacy": shares, "federation": federation}
            there = estimator(data, "bank", **settings).fit(own, data.y)
            assert_allclose(there.predict_proba(own), local.predict_proba(X), rtol=0, atol=1e-12)
    assert lines(sites, "telecom")[-1]["kind"] == "dealer.deal/1"
    sites.close_session(job)
    for name in ("shop", "telecom"):
        assert verify(audit(sites, name)).problems == []
