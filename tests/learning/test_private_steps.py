"""Private steps do what is accounted for: clip each row, add the noise, keep rows apart."""

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.learning.local import LocalRecipe, PrivateSteps, Shape
from fedtl.learning.private_mean import PrivateMean
from fedtl.learning.strategies import Update

pytest.importorskip("opacus")

LR = 0.5


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def rows(n=12):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 3)).astype(np.float32), rng.integers(0, 2, n)


def trained(module, steps, **recipe):
    model = LocalRecipe(module, lr=LR, **recipe).build(Shape(3, 2), 0)
    before = model.read().shared
    model.train_privately(*rows(), steps, seed=0)
    return model.read().shared - before


def row_gradients(module):
    """Gradient of each row, one backward pass a row."""
    X, y = rows()
    found = []
    for x, target in zip(X, y, strict=True):
        module.zero_grad()
        output = module(torch.from_numpy(x[None]))
        nn.functional.cross_entropy(output, torch.tensor([target])).backward()
        found.append(torch.cat([p.grad.ravel() for p in module.parameters()]).numpy())
    return np.stack(found)


@pytest.mark.parametrize("clip", [0.3, 1e6])
def test_a_step_without_noise_takes_the_mean_of_clipped_gradients(clip):
    gradients = row_gradients(network())
    norms = np.linalg.norm(gradients, axis=1)
    clipped = gradients * np.minimum(1.0, clip / norms)[:, None]
    assert (norms > 0.3).any()
    step = trained(network(), PrivateSteps(1, 1.0, clip, 0.0))
    np.testing.assert_allclose(step, -LR * clipped.mean(axis=0), atol=1e-5)


def test_noise_has_the_scale_that_is_accounted_for():
    module = nn.Sequential(nn.Linear(3, 4000, bias=False), nn.Linear(4000, 2, bias=False))
    noise = trained(module, PrivateSteps(1, 1.0, 1e-6, 5e6))
    # The clipped gradients are next to nothing: what is left is 5e6 * 1e-6 / 12 rows.
    assert noise.std() == pytest.approx(LR * 5.0 / 12, rel=0.03)
    assert abs(noise.mean()) < 0.01


def test_steps_that_draw_no_row_add_noise_all_the_same():
    step = trained(network(), PrivateSteps(1, 1e-12, 1.0, 1.0))
    assert (step != 0).all()


def test_no_row_is_drawn_as_the_seed_says():
    steps = PrivateSteps(1, 0.5, 1.0, 0.0)
    assert len({trained(network(), steps).tobytes() for _ in range(8)}) > 1


def test_the_network_is_left_as_it_was_but_for_its_parameters():
    recipe = LocalRecipe(network(), lr=LR)
    model = recipe.build(Shape(3, 2), 0)
    model.train_privately(*rows(), PrivateSteps(2, 0.5, 1.0, 1.0), seed=0)
    assert not any(m._forward_hooks or m._backward_hooks for m in model.module.modules())
    model.train(*rows(), epochs=1, seed=0)
    model.fitted()


class MixesRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x - x.mean(dim=0))


@pytest.mark.parametrize(
    ("module", "recipe", "problem"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), {}, "batch norms"),
        (MixesRows(), {}, "treats each row by itself"),
        (nn.Linear(3, 2), {"criterion": lambda a, b: a.sum()}, "no attribute reduction"),
    ],
)
def test_what_mixes_rows_is_refused(module, recipe, problem):
    with pytest.raises(ValueError, match=problem):
        trained(module, PrivateSteps(1, 1.0, 1.0, 1.0), **recipe)


def test_a_party_matters_by_its_clip_at_most_and_parties_count_alike():
    changes = [np.array([3.0, 4.0]), np.array([0.3, 0.0])]
    updates = [Update(c[None], 1, 0.0, n_rows=n) for c, n in zip(changes, (1, 999), strict=True)]
    [released] = PrivateMean(clip=1.0, noise_multiplier=0.0)(updates, n_asked=4)
    np.testing.assert_allclose(released.change, (np.array([0.6, 0.8]) + [0.3, 0.0]) / 4)


def test_noise_of_the_mean_is_that_of_the_sum_by_the_parties_asked():
    [released] = PrivateMean(2.0, 3.0)([Update(np.zeros((1, 20_000)), 1, 0.0)], n_asked=5)
    assert released.change.std() == pytest.approx(2.0 * 3.0 / 5, rel=0.03)
