"""Attacks on local training find rows and members where there is something to find."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, SGDClassifier

from fedtl import FederatedFineTuner
from fedtl.federation import Transcript, record_transcript
from fedtl.inspection import leakage_report
from fedtl.inspection.attacks import RowwiseScene, membership_attack, update_inversion_attack
from fedtl.inspection.attacks._finding import true_positives
from fedtl.inspection.attacks._membership import _likelihood_ratio
from fedtl.learning.strategies import Layout
from fedtl.protocols.rounds import Reply

N, WIDTH, UNITS = 40, 6, 16


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(N, WIDTH))


def reply(weights, biases):
    """The update of a party whose first layer changed by so much."""
    flat = np.concatenate([weights.ravel(), biases]).astype(np.float32)
    return Reply(
        indices=np.empty((1, 0), dtype=np.uint32),
        values=flat[None],
        codes=np.empty((1, 0), dtype=np.uint8),
        ranges=np.empty((1, 0, 2), dtype=np.float32),
        buffers=np.empty(0, dtype=np.float32),
        n_rows=N,
        n_steps=1,
        loss=0.0,
    )


def scene(rows, weights, biases):
    transcript = Transcript()
    transcript.add("va", "received", reply(weights, biases))
    layout = Layout(("0.weight", "0.bias"), ((UNITS, WIDTH), (UNITS,)))
    return RowwiseScene(transcript, {"va": rows}, layout)


def test_units_that_saw_one_row_each_give_it_away(rows):
    factors = np.linspace(0.1, 1.0, UNITS)
    seen = scene(rows, -factors[:, None] * rows[:UNITS], -factors)
    (finding,) = update_inversion_attack(seen)
    assert finding.score.value == UNITS / N
    assert finding.verdict == "LEAKS"


def test_units_that_saw_all_rows_give_none_away(rows):
    factors = np.random.default_rng(1).normal(size=(UNITS, N))
    seen = scene(rows, factors @ rows, factors.sum(axis=1))
    (finding,) = update_inversion_attack(seen)
    assert finding.score.value == 0.0
    assert finding.withstood


def test_noise_on_the_update_hides_the_rows(rows):
    rng = np.random.default_rng(2)
    factors = np.linspace(0.1, 1.0, UNITS)
    weights = factors[:, None] * rows[:UNITS] + rng.normal(size=(UNITS, WIDTH))
    (finding,) = update_inversion_attack(scene(rows, weights, factors + rng.normal(size=UNITS)))
    assert finding.withstood


@pytest.mark.parametrize("compression", [None, "eight_bits"])
def test_a_real_step_on_few_rows_is_inverted(rows, compression):
    network = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, 256), torch.nn.ReLU(), torch.nn.Linear(256, 2)
    )
    tuner = FederatedFineTuner(
        network, n_rounds=1, batch_size=4, compression=compression, random_state=0
    )
    y, party = np.arange(8) % 2, np.repeat(["va", "sf"], 4)
    report = leakage_report(tuner, rows[:8], y, sample_party=party, n_shadows=0)
    found = {f.victim: f.score.value for f in report.findings if f.number == "6"}
    assert set(found) == {"va", "sf"}
    if compression is None:
        assert min(found.values()) >= 0.5
    (membership,) = (f for f in report.findings if f.number == "7")
    assert membership.why == "n_shadows=0 models are too few; use 16 or more"


def test_coefficients_of_linear_models_are_read_too(rows):
    y, party = (rows[:, 0] > 0).astype(int), np.arange(N) % 2
    tuner = FederatedFineTuner(SGDClassifier(random_state=0), n_rounds=1, random_state=0)
    report = leakage_report(tuner, rows, y, sample_party=party, n_shadows=0)
    assert [f.applies for f in report.findings] == [True, True, False]


def test_layers_that_do_not_see_rows_are_left_alone():
    images = np.random.default_rng(0).normal(size=(12, 1, 6, 6)).astype(np.float32)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(32, 2)
    )
    tuner = FederatedFineTuner(network, n_rounds=1, random_state=0)
    report = leakage_report(tuner, images, np.arange(12) % 2, n_shadows=0)
    assert report.leaks == []
    assert "only dense layers are attacked" in str(report)


def member_finding(C):
    """Attack a model of rows that it can only remember: labels are coin tosses."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 60)), rng.integers(0, 2, 120)
    tuner = FederatedFineTuner(
        LogisticRegression(C=C, warm_start=True, max_iter=200), n_rounds=2, random_state=0
    )
    (finding,) = membership_attack(tuner, X, y, np.arange(120) % 2, n_shadows=12, seed=0)
    return finding


def test_members_of_a_model_that_remembers_are_found():
    finding = member_finding(C=100.0)
    assert finding.score.value > 0.06
    assert finding.control.value < 0.03
    assert not finding.withstood


def test_members_of_a_model_that_learns_next_to_nothing_are_not():
    finding = member_finding(C=1e-6)
    assert finding.score.value < 0.05


def test_the_likelihood_ratio_is_that_of_the_textbook():
    rng = np.random.default_rng(0)
    inside = rng.random((40, 30)) < 0.5
    shadows = np.where(inside, 2.0, -1.0) + 0.3 * rng.normal(size=inside.shape)
    member = rng.random(30) < 0.5
    target = np.where(member, 2.0, -1.0)
    ratio = _likelihood_ratio(target, shadows, inside)
    assert (ratio[member] > 0).all()
    assert (ratio[~member] < 0).all()
    assert true_positives(member, ratio, 0.01) == 1.0
    assert true_positives(member, rng.normal(size=30), 0.01) < 0.5


def test_a_party_in_a_column_says_whose_row_is_whose(rows):
    frame = np.column_stack([rows, np.arange(N) % 2])
    y = (rows[:, 0] > 0).astype(int)
    tuner = FederatedFineTuner(
        SGDClassifier(loss="log_loss"), party=WIDTH, n_rounds=1, random_state=0
    )
    report = leakage_report(tuner, frame, y, n_shadows=4)
    assert report.parties == ("the coordinator", "0", "1")
    assert all(finding.applies for finding in report.findings)
    with record_transcript() as transcript:
        tuner.fit(frame, y)
    again = leakage_report(tuner, frame, y, transcript=transcript, n_shadows=0)
    assert [str(f.score) for f in again.findings[:2]] == [str(f.score) for f in report.findings[:2]]
