"""The leakage report says what attacks found, to people and to programs."""

import html
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.naive_bayes import GaussianNB
from sklearn.utils import Bunch

from fedtl import FederatedTransferClassifier, FederatedTransferRegressor
from fedtl.datasets import load_breast_cancer_parties, load_diabetes_parties
from fedtl.estimators import FederatedGaussianNB
from fedtl.federation import record_transcript
from fedtl.inspection import LeakageDisplay, LeakageReport, leakage_report
from fedtl.inspection.attacks import Estimate, Finding
from fedtl.inspection.attacks._of_fit import standardised

pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def cancer():
    whole = load_breast_cancer_parties()
    return Bunch(data=whole.data[:300], target=whole.target[:300], parties=whole.parties)


@pytest.fixture(scope="module")
def moments(cancer):
    """A classifier that has not been fitted, and the report of a fit of its own."""
    clf = FederatedTransferClassifier(cancer.parties, solver="moments", random_state=0)
    return clf, leakage_report(clf, cancer.data, cancer.target)


@pytest.fixture(scope="module")
def latent(cancer):
    """The report of a short joint training in the clear."""
    clf = FederatedTransferClassifier(
        cancer.parties, solver="latent", max_iter=40, n_folds=2, random_state=0
    )
    return leakage_report(clf, cancer.data, cancer.target)


def scores(report):
    """The best score of each attack."""
    tried = sorted((f for f in report.findings if f.applies), key=lambda f: f.score.value)
    return {(f.number, f.attack): f.score.value for f in tried}


def test_gradients_in_the_clear_leak_labels(latent):
    found = scores(latent)
    assert found["2", "cosine"] > 0.8
    assert found["2b", "averaged, 5 known rows"] > 0.97
    assert {f.number for f in latent.leaks} >= {"2", "3"}


def test_under_shares_no_attack_learns_more_than_its_bound(cancer, moments):
    clf, clear = moments
    shared = leakage_report(clone(clf).set_params(privacy="sharing"), cancer.data, cancer.target)
    assert [f.source for f in clear.leaks if f.number == "3"] == ["moments.request/1: targets"]
    assert "4" in {f.number for f in clear.leaks}
    assert shared.leaks == []
    (completed,) = (f for f in shared.findings if f.number == "4")
    assert completed.why == "the party is given no part of a model"
    # What predictions would tell is known all the same.
    assert all(f.in_use.value > 0.0 for f in shared.findings if f.number in ("5", "5b"))


def test_no_score_of_a_training_row_is_told_and_what_predictions_tell_is_said(moments):
    """Else the fit tells the active party what only predictions have to."""
    report = moments[1]
    solved = [f for f in report.findings if f.number == "5"]
    assert [f.why for f in solved] == ["no score of a row was told"] * 2
    shortest, likeliest = (f.in_use for f in solved)
    assert 0.0 < shortest.value < likeliest.value < 1.0
    assert f"in use, it scores {likeliest}" in str(report)
    (completed,) = (f for f in report.findings if f.number == "4")
    # What is told of rows that were trained on is what it is in use, and a little more.
    assert completed.in_use.value == pytest.approx(completed.score.value, abs=0.02)
    assert completed.in_use.value != completed.score.value


def test_what_is_opened_of_protected_joint_training_is_attacked(cancer):
    clf = FederatedTransferClassifier(
        cancer.parties,
        solver="latent",
        privacy="sharing",
        max_iter=20,
        n_folds=2,
        random_state=0,
    )
    report = leakage_report(clf, cancer.data, cancer.target)
    tried = {f.number: f for f in report.findings if f.applies}
    assert set(tried) == {"3", "5b"}  # the party has no part of the model to work on
    assert tried["5b"].in_use.value > 0.0
    # Masks come from the operating system: chance it is, and not the same chance in each run.
    assert all(f.score.value < 0.65 for f in report.findings if f.number == "3")


def test_every_attack_is_listed_whether_it_applies_or_not(latent):
    assert {f.number for f in latent.findings} == {"1", "2", "2b", "3", "3b", "4", "5", "5b", "8"}
    for finding in latent.findings:
        assert finding.applies or finding.why in str(latent)


def test_text_html_and_table_say_the_same(latent):
    text = str(latent)
    assert text == repr(latent)
    plain = html.unescape(re.sub("<[^>]+>", " ", latent._repr_html_()))
    frame = latent.to_frame()
    assert len(frame) == len(latent.findings)
    for row, finding in zip(frame.itertuples(), latent.findings, strict=True):
        assert row.verdict == finding.verdict
        if finding.applies:
            assert f"{finding.score}" in text
            assert f"{finding.score}" in plain
            assert row.withstood is (row.score <= row.bound)
        else:
            assert np.isnan(row.bound)
    assert f"{len(latent.leaks)} of {len(frame) - frame.bound.isna().sum()} attacks" in text


def test_the_estimator_is_left_as_it_was(moments):
    assert not hasattr(moments[0], "model_")


def test_a_fit_that_was_recorded_before_is_not_repeated(cancer, moments):
    clf = clone(moments[0])
    with record_transcript() as transcript:
        clf.fit(cancer.data, cancer.target)
    n_events, model = len(transcript.events), clf.model_
    report = leakage_report(clf, cancer.data, cancer.target, transcript=transcript)
    assert clf.model_ is model
    assert len(transcript.events) == n_events
    assert str(report) == str(moments[1])


def test_real_targets_and_unlabelled_rows_are_attacked_too(cancer):
    diabetes = load_diabetes_parties()
    regressor = FederatedTransferRegressor(diabetes.parties, solver="moments", random_state=0)
    report = leakage_report(regressor, diabetes.data, diabetes.target)
    assert report.labels == "label attacks look for values above 140.5"
    assert scores(report)["3", "direct"] > 0.9
    y = cancer.target.to_numpy().copy()
    y[::2] = -1
    some = FederatedTransferClassifier(
        cancer.parties, solver="moments", unlabeled=-1, random_state=0
    )
    X = cancer.data.copy()
    X.loc[::5, cancer.parties["spread"]] = np.nan
    report = leakage_report(some, X, y)
    assert report.labels.startswith("label attacks look for the class 0 (")
    assert {f.number for f in report.findings if f.applies} == {"3", "4"}
    assert {f.number for f in report.findings if f.in_use.value > 0} == {"4", "5", "5b"}


def test_the_column_about_which_most_is_learnt_is_named(cancer, latent):
    (worst,) = (f for f in latent.findings if f.attack == "latent inversion, worst column")
    assert worst.metric.split(", ")[1] in cancer.parties["spread"]


def test_columns_of_all_kinds_become_numbers_with_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "size": [1.0, np.nan, 3.0, np.nan],
            "colour": ["red", "blue", "red", None],
            "nothing": [np.nan] * 4,
        }
    )
    values, names = standardised(frame)
    assert names == ["size", "nothing", "colour=red", "colour=blue"]
    np.testing.assert_allclose(values[:3, 0], [-1.0, 0.0, 1.0])
    np.testing.assert_allclose(values[:3, 1], 0.0)
    assert values[0, 2] > 0 > values[1, 2]
    assert np.isnan(values[3]).all()
    values, names = standardised(np.arange(6.0).reshape(3, 2))
    assert names == ["0", "1"]
    np.testing.assert_allclose(values.std(axis=0), 1.0)


def test_estimators_that_no_attack_is_for_are_refused(cancer):
    with pytest.raises(TypeError, match="no attacks on a fit of FederatedGaussianNB"):
        leakage_report(FederatedGaussianNB(), cancer.data, cancer.target)
    with pytest.raises(TypeError, match="no attacks on a fit of GaussianNB"):
        leakage_report(GaussianNB(), cancer.data, cancer.target)


def test_the_plot_shows_every_attack_that_applies(latent):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    display = LeakageDisplay.from_report(latent)
    tried = [f for f in latent.findings if f.applies]
    assert len(display.points_) == len(tried)
    assert [t.get_text() for t in display.ax_.get_yticklabels()] == display.labels
    np.testing.assert_array_equal(display.scores[:, 0], [f.score.value for f in tried])
    _, axes = pyplot.subplots()
    assert display.plot(ax=axes).ax_ is axes
    pyplot.close("all")


def test_there_is_no_plot_of_nothing():
    pytest.importorskip("matplotlib")
    silent = Finding("1", "norm", "shop", "bank", "labels", why="nothing crossed")
    with pytest.raises(ValueError, match="no attack applies"):
        LeakageDisplay.from_report(LeakageReport(("bank", "shop"), "", [silent]))


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        (Estimate(0.9, 0.8, 0.95), "LEAKS"),
        (Estimate(0.6, 0.5, 0.7), "leaks, within the noise"),
        (Estimate(0.52, 0.45, 0.6), "withstood, within the noise"),
        (Estimate(0.5, 0.47, 0.53), "withstood"),
    ],
)
def test_verdicts_say_whether_they_are_within_the_noise(score, verdict):
    finding = Finding("2", "cosine", "shop", "bank", "labels", score=score, chance=0.5, margin=0.05)
    assert finding.verdict == verdict
