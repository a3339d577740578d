"""An attack finds what was planted, and stays at chance on noise."""

from typing import Annotated

import numpy as np
import pytest

from fedtl.federation import Opening, Transcript
from fedtl.inspection.attacks import (
    Estimate,
    Finding,
    Scene,
    averaged_attack,
    batch_inversion_attack,
    completion_attack,
    cosine_attack,
    direct_attack,
    equality_attack,
    latent_inversion_attack,
    norm_attack,
)
from fedtl.inspection.attacks._finding import auc
from fedtl.inspection.attacks._told import numbers_of_rows
from fedtl.protocols import assistance, latent, moments, shared_moments
from fedtl.wire import Message, Tensor, message

N, WIDTH = 300, 6


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def labels(rng):
    return (rng.random(N) < 0.2).astype(float)


def scene_of(transcript, labels, rng, **known):
    """A bank with labels and a shop, whose columns know nothing of them."""
    known.setdefault("columns", {"bank": rng.normal(size=(N, 2)), "shop": rng.normal(size=(N, 3))})
    return Scene(transcript, "bank", ("shop",), labels, **known)


def training(gradient, rng, n_batches=12, size=100):
    """The transcript of a joint training whose gradients are a function of rows."""
    transcript, last = Transcript(), None
    for _ in range(n_batches + 1):
        rows = rng.integers(0, N, size).astype(np.uint32)
        told = np.empty((1, 0, 4)) if last is None else gradient(last)[None]
        sent = latent.Exchange(session="s", rows=rows, gradient=told.astype(np.float32))
        transcript.add("shop", "sent", sent)
        last = rows
    return transcript


def residuals(labels, rng, noise=0.1):
    """Gradients along one direction, with the sign of the residual and as long."""
    direction = np.array([1.0, -2.0, 0.5, 1.0])

    def gradient(rows):
        residual = np.where(labels[rows] == 1, -0.8, 0.2)
        return residual[:, None] * direction + noise * rng.normal(size=(len(rows), 4))

    return gradient


ON_GRADIENTS = [norm_attack, cosine_attack, averaged_attack, direct_attack]


@pytest.mark.parametrize("attack", ON_GRADIENTS)
def test_gradients_of_residuals_give_labels_away(attack, labels, rng):
    findings = attack(scene_of(training(residuals(labels, rng), rng), labels, rng))
    assert findings
    for finding in findings:
        assert finding.source == "latent.exchange/1: gradient"
        assert finding.score.value > 0.97
        assert finding.verdict == "LEAKS"


@pytest.mark.parametrize("attack", ON_GRADIENTS)
def test_gradients_of_noise_give_nothing_away(attack, labels, rng):
    noise = training(lambda rows: rng.normal(size=(len(rows), 4)), rng)
    for finding in attack(scene_of(noise, labels, rng)):
        assert finding.withstood, finding


def test_noise_that_hides_one_batch_is_averaged_away(labels, rng):
    scene = scene_of(training(residuals(labels, rng, noise=4.0), rng, 200), labels, rng)
    (one_batch,) = cosine_attack(scene)
    averaged = averaged_attack(scene)
    assert one_batch.score.value < 0.6
    assert max(finding.score.value for finding in averaged) > 0.75


def test_own_columns_that_tell_labels_are_the_control(labels, rng):
    own = 3.0 * labels[:, None] + 0.1 * rng.normal(size=(N, 3))
    transcript = training(residuals(labels, rng), rng)
    scene = scene_of(transcript, labels, rng, columns={"shop": own})
    for attack in (norm_attack, cosine_attack, averaged_attack, direct_attack):
        assert all(finding.control.value > 0.99 for finding in attack(scene))


@pytest.mark.parametrize("protected", [False, True])
def test_targets_are_read_in_the_clear_and_not_under_shares(protected, labels, rng):
    rows, folds = np.arange(N, dtype=np.uint32), rng.integers(0, 3, N).astype(np.uint8)
    targets = np.column_stack([rng.normal(size=N), labels])
    same = {"session": "s", "rows": rows, "folds": folds, "n_folds": 3}
    sent = moments.MomentsRequest(**same, weight=np.ones(N), targets=targets)
    if protected:
        masks = rng.integers(0, 2**64, size=targets.shape, dtype=np.uint64)
        masked = masks + (targets * 2**20).astype(np.int64).view(np.uint64)
        sealed = np.zeros(4, dtype=np.uint8)
        sent = shared_moments.Request(
            **same, context="c", fraction_bits=20, sealed=sealed, masked=masked
        )
    transcript = Transcript()
    transcript.add("shop", "sent", sent)
    found = {f.source.split(": ")[1]: f for f in direct_attack(scene_of(transcript, labels, rng))}
    assert found["folds"].withstood
    if protected:
        assert found["masked"].withstood
    else:
        assert found["targets"].score.value == 1.0
        assert "weight" not in found  # the same for all rows


@pytest.mark.parametrize("planted", [True, False])
def test_gradients_of_a_batch_are_solved_for_those_of_its_rows(planted, labels, rng):
    told = residuals(labels, rng)
    transcript = Transcript()
    for _ in range(20):
        rows = rng.choice(N, 40, replace=False)
        inputs = rng.normal(size=(40, 50))
        of_rows = told(rows) if planted else rng.normal(size=(40, 4))
        numbers = {"rows": rows, "inputs": inputs, "gradient": inputs.T @ of_rows}
        transcript.events.append(Opening("shop", "shop", "latent.layer_gradient", numbers))
    (finding,) = batch_inversion_attack(scene_of(transcript, labels, rng))
    assert finding.withstood is not planted
    assert not planted or finding.score.value > 0.95


@pytest.mark.parametrize("planted", [True, False])
def test_coefficients_that_were_learnt_from_labels_complete_the_model(planted, labels, rng):
    encoded = rng.normal(size=(N, WIDTH))
    if planted:
        encoded[:, 2] += 4.0 * labels
    coefficients = np.zeros((1 + WIDTH, 1))
    coefficients[3 if planted else 1] = 1.0
    sent = moments.Model(
        session="s",
        keep=True,
        rows=np.empty(0, dtype=np.uint32),
        folds=np.empty(0, dtype=np.uint8),
        held_out=np.zeros((2, 1 + WIDTH, 1)),
        coefficients=coefficients,
    )
    transcript = Transcript()
    transcript.add("shop", "sent", sent)
    scene = scene_of(transcript, labels, rng, encoded={"shop": encoded})
    (finding,) = completion_attack(scene)
    assert finding.source == "moments.model/1: coefficients"
    assert (finding.score.value > 0.95) is planted


@pytest.mark.parametrize("n_scores", [1, WIDTH])
def test_as_many_scores_as_columns_give_every_row_away(n_scores, labels, rng):
    encoded = rng.normal(size=(N, WIDTH)) @ rng.normal(size=(WIDTH, WIDTH))
    folds = rng.integers(0, 3, N)
    held_out = rng.normal(size=(3, 1 + WIDTH, n_scores))
    ones = np.hstack([np.ones((N, 1)), encoded])
    scores = np.einsum("nc,nco->no", ones, held_out[folds])
    scene = scene_of(Transcript(), labels, rng, encoded={"shop": encoded})
    told = {"rows": np.arange(N), "folds": folds, "held_out": held_out, "scores": scores}
    sums = {"gram": (ones.T @ ones)[None], "cross": np.zeros((1, 1 + WIDTH, 1))}
    scene.transcript.events += [
        Opening("", "shop", "moments.scores", told),
        Opening("", "shop", "moments.sums", sums),
    ]
    shortest, likeliest = equality_attack(scene)
    if n_scores == WIDTH:
        assert min(shortest.score.value, likeliest.score.value) > 0.999
        assert shortest.verdict == likeliest.verdict == "LEAKS"
    else:
        assert 0.0 < likeliest.score.value < 0.9
        assert likeliest.score.value >= shortest.score.value


@pytest.mark.parametrize("planted", [True, False])
def test_columns_are_learnt_back_from_latents(planted, labels, rng):
    hidden = rng.normal(size=(N, 3))
    mixed = np.tanh(hidden @ rng.normal(size=(3, 8)))
    latents = mixed if planted else rng.normal(size=(N, 8))
    transcript = Transcript()
    rows = np.arange(N, dtype=np.uint32)
    transcript.add("shop", "sent", latent.Encode(session="s", rows=rows))
    reply = latent.Encoded(latents=latents[None].astype(np.float32))
    transcript.add("shop", "received", reply)
    columns = {"bank": rng.normal(size=(N, 2)), "shop": hidden}
    findings = latent_inversion_attack(scene_of(transcript, labels, rng, columns=columns))
    assert [f.attack for f in findings] == ["latent inversion", "latent inversion, worst column"]
    for finding in findings:
        assert finding.withstood is not planted
        assert (finding.score.value > 0.6) is planted


def test_what_the_active_party_knew_before_is_not_counted_as_learnt(labels, rng):
    hidden = rng.normal(size=(N, 3))
    transcript = Transcript()
    rows = np.arange(N, dtype=np.uint32)
    transcript.add("shop", "sent", latent.Encode(session="s", rows=rows))
    transcript.add("shop", "received", latent.Encoded(latents=hidden[None].astype(np.float32)))
    columns = {"bank": hidden + 0.01 * rng.normal(size=(N, 3)), "shop": hidden}
    for finding in latent_inversion_attack(scene_of(transcript, labels, rng, columns=columns)):
        assert finding.control.value > 0.99
        assert finding.bound > 0.99


def test_a_number_that_is_the_same_in_most_rows_spoils_nothing(labels, rng):
    hidden = rng.normal(size=(N, 3))
    rare = np.where(np.arange(N) == 7, 5.0, -1.0 / 3.0)[:, None]
    transcript = Transcript()
    rows = np.arange(N, dtype=np.uint32)
    transcript.add("shop", "sent", latent.Encode(session="s", rows=rows))
    latents = np.hstack([hidden, rare])[None].astype(np.float32)
    transcript.add("shop", "received", latent.Encoded(latents=latents))
    columns = {"bank": np.hstack([rng.normal(size=(N, 1)), rare]), "shop": hidden}
    whole, _ = latent_inversion_attack(scene_of(transcript, labels, rng, columns=columns))
    assert whole.score.value > 0.99
    assert -0.2 < whole.control.value < 0.1


def test_attacks_without_a_message_say_why_they_do_not_apply(labels, rng):
    scene = scene_of(Transcript(), labels, rng)
    attacks = [*ON_GRADIENTS, batch_inversion_attack, completion_attack, equality_attack]
    for attack in [*attacks, latent_inversion_attack]:
        (finding,) = attack(scene)
        assert not finding.applies
        assert finding.withstood
        assert finding.verdict.startswith("not applicable: ")


def test_rows_without_a_label_and_columns_that_are_not_at_hand_are_left_out(labels, rng):
    labels[::3] = np.nan
    scene = scene_of(training(residuals(labels, rng), rng), labels, rng, columns={})
    for attack in ON_GRADIENTS:
        for finding in attack(scene):
            assert finding.score.value > 0.97
            assert np.isnan(finding.control.value)
    (finding,) = completion_attack(scene)
    assert finding.why == "the party's columns are not at hand"


def test_numbers_are_assigned_to_the_rows_that_messages_name():
    transcript = Transcript()
    batches = [np.array([5, 2], dtype=np.uint32), np.array([7], dtype=np.uint32)]
    gradients = [np.empty((2, 0, 1)), np.array([[[50.0], [20.0]], [[51.0], [21.0]]])]
    for rows, gradient in zip(batches, gradients, strict=True):
        sent = latent.Exchange(session="s", rows=rows, gradient=gradient.astype(np.float32))
        transcript.add("shop", "sent", sent)
        latents = np.arange(2 * len(rows)).reshape(2, len(rows), 1).astype(np.float32)
        transcript.add("shop", "received", latent.Latents(latents=latents))
    crossings = transcript.with_party("shop")
    (told,) = numbers_of_rows(crossings, "sent")
    assert told.source == "latent.exchange/1: gradient"
    rows, values = told.averaged()
    np.testing.assert_array_equal(rows, [2, 5])
    np.testing.assert_array_equal(values, [[20.0, 21.0], [50.0, 51.0]])
    (told,) = numbers_of_rows(crossings, "received")
    np.testing.assert_array_equal(told.averaged()[0], [2, 5, 7])
    np.testing.assert_array_equal(told.averaged()[1], [[1.0, 3.0], [0.0, 2.0], [0.0, 1.0]])


@message("test_attacks.begin/1")
class Begin(Message):
    """Names rows, as protocols do that exchange more than once about the same ones."""

    rows: Annotated[np.ndarray, Tensor("uint32", ("rows",))]


@message("test_attacks.more/1")
class More(Message):
    """Numbers of the rows that were named before."""

    masked: Annotated[np.ndarray, Tensor("uint64", ("rows", "outputs"))]


def test_a_message_that_names_no_rows_is_about_those_its_protocol_named_last():
    transcript = Transcript()
    transcript.add("shop", "sent", More(masked=np.array([[9], [8]], dtype=np.uint64)))
    transcript.add("shop", "sent", Begin(rows=np.array([5, 3], dtype=np.uint32)))
    masked = np.array([[1], [2**64 - 2]], dtype=np.uint64)
    transcript.add("shop", "sent", More(masked=masked))
    (told,) = numbers_of_rows(transcript.with_party("shop"), "sent")
    np.testing.assert_array_equal(told.averaged()[0], [3, 5])
    np.testing.assert_array_equal(told.averaged()[1], [[-2.0], [1.0]])


@pytest.mark.parametrize("holder", ["", "shop"])
def test_what_either_side_opened_is_attacked_whatever_protocol_it_is_of(holder, labels, rng):
    hidden = rng.normal(size=(N, 3)) + 3.0 * labels[:, None]
    numbers = {"rows": np.arange(N), "scores": hidden}
    transcript = Transcript([Opening(holder, "shop", "some.scores", numbers)])
    columns = {"bank": rng.normal(size=(N, 2)), "shop": rng.normal(size=(N, 3))}
    if not holder:
        columns["shop"] = hidden
    attack = completion_attack if holder else latent_inversion_attack
    finding = attack(scene_of(transcript, labels, rng, columns=columns))[0]
    assert "some.scores, opened 1" in finding.source
    assert finding.score.value > 0.9
    assert not finding.withstood


def test_a_reply_is_about_the_rows_of_its_request(labels, rng):
    transcript = Transcript()
    rows = np.arange(N, dtype=np.uint32)[::-1]
    request = assistance.Request(
        session="s",
        task="binary",
        n_folds=2,
        seed=0,
        rows=rows,
        folds=(rows % 2).astype(np.uint8),
        weight=np.ones(N),
        target=labels[rows, None],
    )
    transcript.add("shop", "sent", request)
    transcript.add("shop", "received", assistance.Scores(scores=rows[:, None].astype(float)))
    (told,) = numbers_of_rows(transcript.with_party("shop"), "received")
    np.testing.assert_array_equal(told.averaged()[1][:, 0], np.arange(N))


def test_attacks_repeat_themselves(labels, rng):
    scene = scene_of(training(residuals(labels, rng, noise=2.0), rng), labels, rng)
    for attack in ON_GRADIENTS:
        assert [str(f) for f in attack(scene)] == [str(f) for f in attack(scene)]


def test_areas_are_those_of_scikit_learn(rng):
    metrics = pytest.importorskip("sklearn.metrics")
    positive, scores = rng.random(60) < 0.3, rng.integers(0, 5, (60, 3)).astype(float)
    expected = [metrics.roc_auc_score(positive, column) for column in scores.T]
    np.testing.assert_allclose(auc(positive, scores), expected)
    assert np.isnan(auc(np.ones(60, dtype=bool), scores)).all()


@pytest.mark.parametrize(
    ("control", "bound"), [(0.5, 0.55), (np.nan, 0.55), (0.3, 0.55), (0.97, 0.985), (0.7, 0.75)]
)
def test_the_bound_lies_above_control_and_chance_and_below_certainty(control, bound):
    finding = Finding(
        "2b",
        "averaged",
        "shop",
        "bank",
        "labels",
        score=Estimate(0.9, 0.8, 0.99),
        control=Estimate(control),
        chance=0.5,
        margin=0.05,
        against="control",
    )
    assert finding.bound == pytest.approx(bound)
    assert finding.withstood is (bound > 0.9)
