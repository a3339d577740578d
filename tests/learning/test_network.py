"""Members lie side by side in one batched product and know nothing of each other."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedtl.learning.network import (
    DROPOUT,
    HIDDEN,
    Head,
    MemberLinear,
    MemberMLP,
    PartyEncoder,
    on_target_scale,
    supervised_loss,
    swap_noise,
)
from fedtl.solvers.latent import SupervisedObjective
from fedtl.solvers.problem import Problem

MEMBERS = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def single(layer, member):
    """Return one member of a layer as a linear layer of torch."""
    linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[2])
    linear.weight.data = layer.weight[member].detach().T.clone()
    linear.bias.data = layer.bias[member, 0].detach().clone()
    return linear


def randomized(module):
    """Give biases, which start at zero, something to be seen by."""
    for parameter in module.parameters():
        parameter.data.uniform_(-1, 1, generator=generator(9))
    return module


def test_a_member_layer_is_as_many_linear_layers_in_values_and_gradients():
    layer = randomized(MemberLinear(MEMBERS, 4, 2, generator()))
    x = torch.randn(MEMBERS, 7, 4, generator=generator(1))
    out = layer(x)
    (out**2).sum().backward()
    for member in range(MEMBERS):
        linear = single(layer, member)
        expected = linear(x[member])
        torch.testing.assert_close(out[member], expected)
        (expected**2).sum().backward()
        torch.testing.assert_close(layer.weight.grad[member], linear.weight.grad.T)
        torch.testing.assert_close(layer.bias.grad[member, 0], linear.bias.grad)


def test_members_start_differently_and_within_the_usual_bound():
    weight = MemberLinear(MEMBERS, 16, 5, generator()).weight.detach()
    assert weight.abs().max() <= 0.25
    assert weight.std() > 0.1
    assert not torch.equal(weight[0], weight[1])
    assert not MemberLinear(MEMBERS, 16, 5, generator(), zero=True).weight.any()


def test_a_member_mlp_is_a_hidden_layer_beside_a_linear_one():
    mlp = randomized(MemberMLP(MEMBERS, 4, 2, generator()))
    x = torch.randn(MEMBERS, 7, 4, generator=generator(1))
    out = mlp(x)
    for member in range(MEMBERS):
        skip, hidden, last = (single(part, member) for part in (mlp.skip, mlp.hidden, mlp.out))
        expected = skip(x[member]) + last(functional.relu(hidden(x[member])))
        torch.testing.assert_close(out[member], expected)


def test_dropout_is_drawn_from_the_generator_given_and_keeps_the_mean():
    mlp = randomized(MemberMLP(1, 4, 2, generator()))
    x = torch.randn(1, 1, 4, generator=generator(1)).expand(1, 20_000, 4)
    dropped = mlp(x, generator(2))
    torch.testing.assert_close(dropped, mlp(x, generator(2)))
    assert not torch.equal(dropped, mlp(x, generator(3)))
    assert not torch.equal(dropped, mlp(x))
    torch.testing.assert_close(dropped.mean(1), mlp(x)[:, 0], atol=0.05, rtol=0.05)
    assert DROPOUT < 1 < HIDDEN


def test_a_zero_mlp_is_zero_and_can_still_learn():
    mlp = MemberMLP(MEMBERS, 4, 2, generator(), zero=True)
    out = mlp(torch.ones(MEMBERS, 5, 4))
    assert not out.any()
    out.sum().backward()
    assert mlp.skip.weight.grad.abs().sum() > 0
    assert mlp.out.weight.grad.abs().sum() > 0


def test_every_member_of_an_encoder_sees_all_rows():
    encoder = PartyEncoder(MEMBERS, 4, 2, generator())
    x = torch.randn(6, 4, generator=generator(1))
    torch.testing.assert_close(encoder(x), encoder.encoder(torch.stack([x] * MEMBERS)))


def test_every_member_has_its_own_copy_of_a_trunk_and_the_original_stays_outside():
    trunk = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)))
    encoder = PartyEncoder(MEMBERS, 6, 2, generator(), trunk)
    x = torch.randn(5, 4, generator=generator(1))
    torch.testing.assert_close(
        encoder(x), encoder.encoder(torch.stack([trunk(x).flatten(1)] * MEMBERS))
    )
    pointers = {p.data_ptr() for t in [trunk, *encoder.trunks] for p in t.parameters()}
    assert len(pointers) == 2 * (MEMBERS + 1)
    # Raw inputs of a network are not rebuilt.
    assert encoder.reconstruction_loss(encoder(x), x) == 0.0


def test_the_reconstruction_loss_is_the_sum_of_the_members_mean_squared_errors():
    encoder = randomized(PartyEncoder(MEMBERS, 4, 2, generator()))
    clean = torch.randn(6, 4, generator=generator(1))
    latents = encoder(clean)
    expected = sum(
        functional.mse_loss(single(encoder.decoder, m)(latents[m]), clean) for m in range(MEMBERS)
    )
    torch.testing.assert_close(encoder.reconstruction_loss(latents, clean), expected)


def test_swapped_cells_come_from_the_same_column():
    x = torch.arange(3.0) * 1000 + torch.arange(2000.0)[:, None] / 10
    swapped = swap_noise(x, 0.2, generator())
    assert torch.equal(swapped.div(1000, rounding_mode="floor"), x.div(1000, rounding_mode="floor"))
    share = (swapped != x).float().mean()
    assert 0.17 < share < 0.23
    assert torch.equal(swap_noise(x, 0.0, generator()), x)
    assert torch.equal(swap_noise(x, 0.2, generator()), swapped)


def test_a_head_adds_up_the_latents_of_the_parties_that_are_looked_at():
    head = randomized(Head((MEMBERS, 4, 2, 1), generator()))
    latents = torch.randn(MEMBERS, 5, 2, 4, generator=generator(1))
    mask = torch.tensor([[[True, True]] * 5, [[True, False]] * 5, [[False, True]] * 5])
    logits = head(latents, mask)
    assert logits.shape == (MEMBERS, 3, 5, 1)
    for view, (own, other) in enumerate([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)]):
        fused = own * latents[:, :, 0] + other * latents[:, :, 1]
        flags = torch.tensor([own, other]).expand(MEMBERS, 5, 2)
        torch.testing.assert_close(logits[:, view], head.mlp(torch.cat([fused, flags], -1)))


def test_what_a_party_says_does_not_count_where_it_is_not_looked_at():
    head = randomized(Head((MEMBERS, 4, 2, 1), generator()))
    latents = torch.randn(MEMBERS, 5, 2, 4, generator=generator(1))
    mask = torch.tensor([[[True, False]] * 5])
    before = head(latents, mask)
    latents[:, :, 1] = 99.0
    torch.testing.assert_close(head(latents, mask), before)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_supervised_loss_is_the_weighted_loss_of_each_row(task):
    n_outputs = {"binary": 1, "multiclass": 3, "regression": 2}[task]
    logits = torch.randn(MEMBERS, 2, 5, n_outputs, generator=generator())
    weight = torch.rand(MEMBERS, 2, 5, generator=generator(1))
    index = torch.tensor([0, 2, 1, 1, 0])
    target = {
        "binary": (index > 0).float()[:, None],
        "multiclass": functional.one_hot(index, 3).float(),
        "regression": torch.randn(5, 2, generator=generator(2)),
    }[task]
    expected = 0.0
    for member in range(MEMBERS):
        for view in range(2):
            z = logits[member, view]
            rows = {
                "binary": lambda z: functional.binary_cross_entropy_with_logits(
                    z, target, reduction="none"
                )[:, 0],
                "multiclass": lambda z: functional.cross_entropy(z, index, reduction="none"),
                "regression": lambda z: ((z - target) ** 2).sum(1) / 2,
            }[task](z)
            expected = expected + (rows * weight[member, view]).sum()
    torch.testing.assert_close(supervised_loss(logits, target, weight, task), expected)


def test_logits_are_put_on_the_scale_of_the_target():
    logits = torch.tensor([[0.0, 2.0]])
    np.testing.assert_allclose(on_target_scale(logits, "binary"), [[0.5, 0.8807971]], rtol=1e-6)
    assert on_target_scale(logits, "multiclass").sum() == pytest.approx(1.0)
    scores = on_target_scale(logits.requires_grad_(), "regression")
    assert scores.tolist() == [[0.0, 2.0]]
    assert scores.dtype == np.float64


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("fold", range(MEMBERS))
def test_a_member_learns_nothing_from_the_labels_of_its_own_fold(task, fold):
    rng = np.random.default_rng(0)
    n_outputs = {"binary": 1, "multiclass": 3, "regression": 2}[task]
    target = rng.normal(size=(60, n_outputs))
    if task == "binary":
        target = (target > 0).astype(float)
    elif task == "multiclass":
        target = np.eye(3)[target.argmax(axis=1)]
    known = np.ones((60, 2), bool)
    known[40:50, 1] = known[50:, 0] = False
    problem = Problem(
        task=task,
        target=target,
        labeled=np.ones(60, bool),
        weight=rng.uniform(0.5, 2.0, 60),
        known=known,
        n_folds=MEMBERS,
        seed=0,
    )
    head = Head((MEMBERS, 4, 2, n_outputs), generator())
    objective = SupervisedObjective(problem, head, MEMBERS)
    batch = np.flatnonzero(problem.folds == fold)
    latents = torch.randn(MEMBERS, len(batch), 2, 4, generator=generator(1), requires_grad=True)
    objective(latents, batch).backward()
    others = [member for member in range(MEMBERS) if member != fold]
    assert not latents.grad[fold].any()
    assert all(latents.grad[member].abs().sum() > 0 for member in others)
    for name, parameter in head.named_parameters():
        assert not parameter.grad[fold].any(), name
        assert all(parameter.grad[member].abs().sum() > 0 for member in others), name


def test_the_loss_of_a_member_does_not_change_with_the_labels_of_its_own_fold():
    rng = np.random.default_rng(0)
    known = np.ones((40, 2), bool)

    def gradients(target, folds=None):
        problem = Problem("regression", target, known[:, 0], np.ones(40), known, MEMBERS, 0)
        if folds is not None:
            object.__setattr__(problem, "folds", folds)
        head = Head((MEMBERS, 4, 2, 1), generator())
        latents = torch.randn(MEMBERS, 40, 2, 4, generator=generator(1), requires_grad=True)
        SupervisedObjective(problem, head, MEMBERS)(latents, np.arange(40)).backward()
        return latents.grad, problem.folds

    target = rng.normal(size=(40, 1))
    before, folds = gradients(target)
    changed = np.where((folds == 1)[:, None], target + 5.0, target)
    after, _ = gradients(changed, folds)
    torch.testing.assert_close(before[1], after[1])
    assert not torch.allclose(before[0], after[0])
