"""The report says what a fit gained, decided and exchanged, to people and to programs."""

import html
import re
from types import SimpleNamespace

import numpy as np
import pytest

from fedtl import FederatedTransferClassifier, FederatedTransferRegressor
from fedtl.datasets import load_breast_cancer_parties, load_diabetes_parties
from fedtl.federation import Ledger
from fedtl.inspection import FederationReport
from fedtl.learning.evidence import Gain
from fedtl.solvers.problem import Problem
from fedtl.solvers.subsets import Evidence, Served

pd = pytest.importorskip("pandas")

N = 12


def served(parties, *, trust=1.0, gain=None, n_rows=N):
    evidence = Evidence(n_rows, gain, 0.8, 0.7) if n_rows else Evidence(0)
    return Served(
        parties=parties,
        stack=None,
        stacks_network=False,
        calibration=None,
        linear_share=0.75,
        network_share=0.25,
        single_shares={},
        trust=trust,
        evidence=evidence,
    )


def report_of(*subsets, task="binary", parties=("bank", "shop")):
    """Return the report of a fit of twelve rows; all but the last are labelled."""
    known = np.ones((N, len(parties)), dtype=bool)
    known[:4, 1] = False
    target = np.zeros((N, 1))
    problem = Problem(task, target, np.arange(N) < N - 1, np.ones(N), known, n_folds=2, seed=0)
    ledger = Ledger()
    for _ in range(3):
        ledger.add(parties[1], "sent", "moments.request/1", 1000)
    ledger.add(parties[1], "received", "moments.reply/1", 500)
    model = SimpleNamespace(served={s.parties: s for s in subsets})
    return FederationReport.of_fit(list(parties), model, problem, ledger, {"moments": 0.25})


@pytest.fixture(scope="module")
def fitted():
    """The report of a real fit."""
    cancer = load_breast_cancer_parties()
    X, y = cancer.data.iloc[:200], cancer.target.iloc[:200]
    clf = FederatedTransferClassifier(cancer.parties, solver="moments", random_state=0)
    return clf.fit(X, y).report_


# What was decided


@pytest.mark.parametrize(
    ("subset", "decision"),
    [
        (served((0,)), "served by the active party's own model"),
        (served((1,)), "served by the columns of shop"),
        (served((0, 1), trust=1.0), "joint model: its held-out gain is beyond"),
        (served((0, 1), trust=0.0), "kept to the active party's own model"),
        (served((0, 1), trust=0.4), "joint model damped to 0.40"),
        (served((0, 1), n_rows=0), "no labelled row is known to all of these"),
    ],
)
def test_the_decision_is_said_in_words(subset, decision):
    report = report_of(subset)
    assert report.subsets[0]["decision"].startswith(decision)
    assert decision in str(report)
    assert decision in html.unescape(report._repr_html_())


def test_parties_without_the_active_one_have_nothing_to_guard_them():
    report = report_of(served((1, 2)), parties=("bank", "shop", "post"))
    assert report.subsets[0]["parties"] == "shop + post"
    assert "the active party knows nothing" in report.subsets[0]["decision"]


def test_a_real_fit_tells_a_party_that_helps_from_one_that_is_noise():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(600, 3))
    y = (latent.sum(axis=1) > 0).astype(int)
    X = np.hstack([latent, rng.normal(size=(600, 2))])
    parties = {"bank": [0], "shop": [1, 2], "noise": [3, 4]}
    clf = FederatedTransferClassifier(parties, solver="moments", random_state=0).fit(X, y)
    rows = {row["parties"]: row for row in clf.report_.subsets}
    assert rows["bank + shop"]["trust"] == 1.0
    assert rows["bank + shop"]["gain_low"] > 0.2
    assert "joint model: its held-out gain is beyond" in rows["bank + shop"]["decision"]
    assert rows["bank + noise"]["trust"] < 0.6
    assert abs(rows["bank + noise"]["gain"]) < 0.05
    assert (
        "damped" in rows["bank + noise"]["decision"] or "kept" in rows["bank + noise"]["decision"]
    )


# Text


def test_text_has_parties_evidence_and_what_crossed_the_border():
    text = str(report_of(served((0,)), served((0, 1), gain=Gain(0.125, 0.05, 0.2, 3.3, N))))
    assert "Federation of bank, shop (active party: bank)" in text
    assert "shop: 8 rows, 7 of them labelled, 8 known to bank" in text
    assert "+12.5% (+5.0%, +20.0%)" in text
    assert "0.8000" in text
    assert "Border: 3 rounds, 4 messages, 3,500 bytes" in text
    assert re.search(r"shop +sent +moments.request/1 +none +3 +3,000\n", text)
    assert "Seconds: moments 0.25" in text
    assert text == repr(
        report_of(served((0,)), served((0, 1), gain=Gain(0.125, 0.05, 0.2, 3.3, N)))
    )


def test_what_has_no_evidence_is_left_blank_not_called_nan():
    text = str(report_of(served((0, 1), n_rows=0)))
    assert "nan" not in text.lower()


def test_the_columns_of_a_text_table_stand_below_one_another():
    lines = str(report_of(served((0,)), served((0, 1), trust=0.4))).splitlines()
    start = next(i for i, line in enumerate(lines) if "known to " in line and "decision" in line)
    column = lines[start].index("decision")
    assert lines[start + 1][column:].startswith("served by")
    assert lines[start + 2][column:].startswith("joint model damped")


def test_a_federation_of_one_prints_too():
    X = np.random.default_rng(0).normal(size=(60, 2))
    clf = FederatedTransferClassifier(solver="moments", random_state=0).fit(X, X[:, 0] > 0)
    assert "0 messages, 0 bytes" in str(clf.report_)
    assert "<table>" in clf.report_._repr_html_()


# HTML


def test_html_escapes_what_users_named():
    parties = ("<b>bank</b>", "<script>alert(1)</script>")
    page = report_of(served((1,)), served((0, 1)), parties=parties)._repr_html_()
    assert "<script>" not in page
    assert "<b>" not in page
    assert html.escape(parties[1]) in page


def test_html_holds_the_same_cells_as_the_text(fitted):
    page = html.unescape(fitted._repr_html_())
    cells = re.findall(r"<td>(.*?)</td>", page)
    text = str(fitted)
    assert len(cells) > 20
    assert all(cell in text for cell in cells)


# Tables


def test_the_table_of_subsets_has_a_row_for_each(fitted):
    frame = fitted.to_frame().set_index("parties")
    assert list(frame.index) == ["mean", "spread", "mean + spread"]
    assert {"n_rows", "score", "score_alone", "gain", "trust", "decision"} <= set(frame.columns)
    assert frame.loc["mean", "score"] == frame.loc["mean", "score_alone"]
    assert np.isnan(frame.loc["mean", "gain"])
    both = frame.loc["mean + spread"]
    assert both["gain_low"] < both["gain"] < both["gain_high"]
    assert both["n_rows"] == 200


def test_the_table_of_messages_adds_up(fitted):
    frame = fitted.to_frame("messages")
    assert frame["messages"].sum() == fitted.n_messages
    assert frame["bytes"].sum() == fitted.n_bytes
    assert set(frame["direction"]) == {"sent", "received"}
    sent = frame[frame["direction"] == "sent"]
    assert sent.groupby("party")["messages"].sum().max() == fitted.rounds


def test_the_tables_of_seconds_and_rows_have_names(fitted):
    seconds = fitted.to_frame("seconds")
    assert list(seconds.columns) == ["phase", "seconds"]
    assert (seconds["seconds"] >= 0).all()
    rows = fitted.to_frame("rows").set_index("party")
    assert rows.loc["spread"].to_dict() == {"rows": 200, "labelled": 200, "shared": 200}


def test_a_table_that_does_not_exist_is_refused(fitted):
    with pytest.raises(ValueError, match="no table 'parties': subsets, messages"):
        fitted.to_frame("parties")


def test_predictions_after_the_fit_leave_its_report_alone():
    cancer = load_breast_cancer_parties()
    X, y = cancer.data.iloc[:100], cancer.target.iloc[:100]
    clf = FederatedTransferClassifier(cancer.parties, solver="moments", random_state=0).fit(X, y)
    before = clf.report_.n_messages
    clf.predict(X)
    assert clf.report_.n_messages == before < clf.ledger_.messages


# Metrics


@pytest.mark.parametrize(
    ("task", "metric"), [("binary", "roc_auc"), ("multiclass", "accuracy"), ("regression", "r2")]
)
def test_the_metric_is_that_of_the_task(task, metric):
    report = report_of(served((0, 1)), task=task)
    assert report.metric == metric
    assert metric in str(report)


def test_a_regression_is_reported_by_r_squared():
    diabetes = load_diabetes_parties()
    reg = FederatedTransferRegressor(diabetes.parties, solver="moments", random_state=0)
    report = reg.fit(diabetes.data, diabetes.target).report_
    frame = report.to_frame().set_index("parties")
    assert report.metric == "r2"
    assert 0.35 < frame.loc["practice + laboratory", "score"] < 0.6
    assert frame.loc["practice + laboratory", "gain"] > 0.05
    assert "r2" in str(report)
