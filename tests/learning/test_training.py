"""One party's encoder is trained on gradients from elsewhere and on its own rows."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.learning.network import PartyEncoder, swap_noise
from fedtl.learning.training import (
    RECONSTRUCTION,
    SWAP_SHARE,
    WEIGHT_DECAY,
    EncoderTraining,
    Schedule,
    encode,
    set_training_mode,
)

INPUTS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


def new_encoder(trunk=None):
    return PartyEncoder(2, 4, 3, torch.Generator().manual_seed(0), trunk)


def training(encoder, **changed):
    options = {"n_steps": 5, "n_local_rows": 0, "lr": 0.01, "trunk_lr": 0.001, "seed": 1}
    return EncoderTraining(encoder, INPUTS, **(options | changed))


def rates(n_steps, peaks=(1.0,)):
    parameters = [nn.Parameter(torch.ones(1)) for _ in peaks]
    schedule = Schedule([([p], peak) for p, peak in zip(parameters, peaks, strict=True)], n_steps)
    seen = []
    for _ in range(n_steps):
        schedule.step()
        seen.append([group["lr"] for group in schedule.optimizer.param_groups])
    return np.array(seen)


def test_the_learning_rate_warms_up_and_decays_to_a_hundredth():
    rate = rates(200)[:, 0]
    done = np.arange(200) / 200
    cosine = 0.5 * (1 + np.cos(np.pi * done)) + 0.01
    np.testing.assert_allclose(rate, np.minimum(1, 10 * done + 0.05) * cosine)
    np.testing.assert_allclose(rate[0], 0.05 * 1.01)
    assert rate.argmax() == 19  # a tenth of the way
    assert 0.95 < rate.max() <= 1.0
    assert (np.diff(rate[:20]) > 0).all()
    assert (np.diff(rate[20:]) < 0).all()
    assert 0.01 <= rate[-1] < 0.0101


def test_each_group_has_its_own_peak():
    rate = rates(20, (1.0, 0.1))
    np.testing.assert_allclose(rate[:, 1], 0.1 * rate[:, 0])


def test_steps_beyond_the_schedule_stay_at_the_last_rate():
    parameter = nn.Parameter(torch.ones(1))
    schedule = Schedule([([parameter], 1.0)], 2)
    for _ in range(5):
        schedule.step()
    assert schedule.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_what_is_frozen_is_not_even_decayed():
    free, frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3), requires_grad=False)
    schedule = Schedule([([free, frozen], 0.1)], 2)
    free.grad, frozen.grad = torch.zeros(3), torch.ones(3)
    schedule.step()
    assert torch.equal(frozen, torch.ones(3))
    assert (free < 1).all()
    schedule.zero_grad()
    assert free.grad is None


def test_nothing_to_train_is_allowed():
    Schedule([([], 0.1)], 2).step()


def test_a_step_is_adamw_on_the_gradient_given_and_on_the_reconstruction():
    encoder = new_encoder()
    reference = copy.deepcopy(encoder)
    rows, gradient = torch.tensor([3, 1, 4]), torch.full((2, 3, 3), 0.3)
    run = training(encoder, n_local_rows=5)
    run.learn(rows, run.latents(rows), gradient, n_updates=1)

    generator = torch.Generator().manual_seed(1)
    own = torch.randint(20, (5,), generator=generator)
    clean = torch.from_numpy(INPUTS)[torch.cat([rows, own])]
    z = reference(swap_noise(clean, SWAP_SHARE, generator), generator)
    rebuilt = RECONSTRUCTION * reference.reconstruction_loss(z, clean)
    optimizer = torch.optim.AdamW(
        reference.parameters(), lr=0.01 * 0.05 * 1.01, weight_decay=WEIGHT_DECAY
    )
    ((z[:, :3] * gradient).sum() + rebuilt).backward()
    optimizer.step()
    for (name, one), two in zip(encoder.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


def test_as_many_steps_are_taken_as_asked_for():
    run = training(new_encoder(), n_steps=6)
    for n_updates in (1, 3, 2):
        rows = torch.arange(4)
        run.learn(rows, run.latents(rows), torch.zeros(2, 4, 3), n_updates)
    assert run.schedule.done == 6


def test_training_is_reproducible_and_leaves_the_global_generator_alone():
    trunk = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    latents = []
    for seed in (1, 1, 2):
        for encoder in (new_encoder(), new_encoder(trunk)):
            run = training(encoder, seed=seed, n_local_rows=3)
            latents.append(run.latents(torch.arange(6)).detach())
            torch.rand(1)  # what others draw in between does not matter
            torch.manual_seed(7)
    assert torch.equal(latents[0], latents[2])
    assert torch.equal(latents[1], latents[3])
    assert not torch.equal(latents[0], latents[4])
    assert not torch.equal(latents[1], latents[5])
    assert torch.equal(torch.rand(1), expected)


def test_a_trunk_has_its_own_learning_rate():
    trunk = nn.Linear(4, 4)
    run = training(new_encoder(trunk), lr=0.01, trunk_lr=0.002)
    above, below = run.schedule.optimizer.param_groups
    assert (above["peak"], below["peak"]) == (0.01, 0.002)
    assert len(below["params"]) == 2 * 2
    assert len(above["params"]) == 6


def test_frozen_parts_of_a_network_are_evaluated_and_the_others_trained():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2))
    network[1].requires_grad_(False)
    set_training_mode(network)
    assert [part.training for part in network] == [True, False, True, True]
    network.eval()
    set_training_mode(network)
    assert [part.training for part in network] == [True, False, True, True]


def test_encoding_is_without_noise_and_does_not_depend_on_chunks():
    encoder = new_encoder().double()
    inputs = INPUTS.astype(np.float64)
    encoded = encode(encoder, inputs)
    assert encoded.shape == (2, 20, 3)
    assert encoded.dtype == np.float64
    expected = encoder(torch.from_numpy(inputs)).detach().numpy()
    np.testing.assert_allclose(encoded, expected, atol=1e-12)
    np.testing.assert_allclose(encode(encoder, inputs, chunk=7), encoded, atol=1e-12)
    assert encode(encoder, inputs[:0]).shape == (2, 0, 3)


def test_encoding_switches_dropout_of_a_trunk_off():
    encoder = new_encoder(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9)))
    set_training_mode(encoder)
    np.testing.assert_array_equal(encode(encoder, INPUTS), encode(encoder, INPUTS))
