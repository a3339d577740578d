"""Every strategy against a calculation that does not use it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from fedtl.learning.strategies import (
    STRATEGIES,
    Ditto,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedBuff,
    FedMA,
    FedMeta,
    FedNova,
    FedProx,
    FedYogi,
    Layout,
    Median,
    MultiKrum,
    Reptile,
    Scaffold,
    Setting,
    Trained,
    TrimmedMean,
    Update,
)

LAYOUT = Layout(("weight", "bias"), ((2, 2), (2,)))
SETTING = Setting(LAYOUT, n_parties=4)


class Quadratic:
    """A party whose loss is half of ``curvature * (parameters - best)^2``, by gradient descent."""

    def __init__(self, best, curvature=1.0, lr=0.1, n_steps=3):
        self.best, self.curvature = np.asarray(best, dtype=float), curvature
        self.lr, self.n_steps = lr, n_steps

    def train(self, start, *, proximal=0.0, towards=None, offset=None, part="all"):
        towards = start if towards is None else towards
        offset = 0.0 if offset is None else offset
        at = np.array(start, dtype=float)
        for _ in range(self.n_steps):
            gradient = self.curvature * (at - self.best)
            at = at - self.lr * (gradient + proximal * (at - towards) + offset)
        return Trained(at, self.n_steps, 0.5)

    def own_start(self):
        return np.zeros(6)

    def gradient(self, at):
        return self.curvature * (at - self.best), 0.25


def updates(changes, n_rows=None, n_steps=None):
    """Updates of one vector each."""
    n_rows = n_rows or [1] * len(changes)
    n_steps = n_steps or [1] * len(changes)
    return [
        Update(np.asarray(change, dtype=float)[None], n, 0.0, rows)
        for change, n, rows in zip(changes, n_steps, n_rows, strict=True)
    ]


def one_round(strategy, parties, state, memories, setting=SETTING):
    """Send, train at every party, aggregate."""
    received = strategy.send(state)
    pairs = zip(parties, memories, strict=True)
    return strategy.at_coordinator(
        state, [strategy.at_party(local, received, memory) for local, memory in pairs], setting
    )


def test_fedavg_weighs_parties_by_their_rows():
    state = FedAvg().start(np.array([1.0, 1.0]))
    after = FedAvg().at_coordinator(state, updates([[1, 0], [0, 4]], n_rows=[3, 1]), SETTING)
    np.testing.assert_allclose(after["parameters"], [1.75, 2.0])


def test_fedavg_with_one_step_is_gradient_descent_on_the_pooled_loss():
    parties = [Quadratic([1.0], n_steps=1), Quadratic([3.0], 2.0, n_steps=1)]
    after = one_round(FedAvg(), parties, FedAvg().start(np.zeros(1)), [{}, {}])
    # the mean gradient at zero is (-1 - 6) / 2
    np.testing.assert_allclose(after["parameters"], [0.35])


def test_fedprox_steps_are_those_of_the_loss_with_its_proximal_term():
    strategy = FedProx(mu=0.5)
    change = strategy.at_party(Quadratic([1.0], n_steps=2), np.zeros((1, 1)), {}).change
    # w1 = .1; w2 = .1 - .1 (-.9 + .5 * .1)
    np.testing.assert_allclose(change, [0.185])
    assert type(strategy).with_strength(strategy.strength) == strategy


def test_scaffold_equals_a_hand_calculation_over_two_rounds():
    # Two of four parties, two steps of .1 each, losses (w - 1)^2 / 2 and (w + 2)^2.
    parties = [Quadratic([1.0], n_steps=2), Quadratic([-2.0], 2.0, n_steps=2)]
    memories = [{}, {}]
    state = one_round(Scaffold(), parties, Scaffold().start(np.zeros(1)), memories)
    # Round 1, c = c1 = c2 = 0. w: .1, .19 and -.4, -.72.
    # c1 = -.19 / .2 = -.95; c2 = .72 / .2 = 3.6. Mean change -.265; c = (-.95 + 3.6) / 4.
    np.testing.assert_allclose(state["parameters"], [-0.265])
    np.testing.assert_allclose(memories[0]["control"], [-0.95], rtol=1e-6)
    np.testing.assert_allclose(memories[1]["control"], [3.6], rtol=1e-6)
    np.testing.assert_allclose(state["control"], [0.6625], rtol=1e-6)
    state = one_round(Scaffold(), parties, state, memories)
    # Round 2, party 1: correction .6625 + .95 = 1.6125;
    #   w = -.265 - .1 (-1.265 + 1.6125) = -.29975; then -.29975 - .1 (-1.29975 + 1.6125) = -.331025
    # party 2: correction .6625 - 3.6 = -2.9375;
    #   w = -.265 - .1 (3.47 - 2.9375) = -.31825; then -.31825 - .1 (3.3635 - 2.9375) = -.36085
    np.testing.assert_allclose(state["parameters"], [(-0.331025 - 0.36085) / 2], rtol=1e-6)
    # c1 = -.95 - .6625 + .066025 / .2 = -1.282375; c2 = 3.6 - .6625 + .09585 / .2 = 3.41675
    np.testing.assert_allclose(memories[0]["control"], [-1.282375], rtol=1e-6)
    expected = 0.6625 + ((-1.282375 + 0.95) + (3.41675 - 3.6)) / 4
    np.testing.assert_allclose(state["control"], [expected], rtol=1e-5)


def test_scaffold_finds_the_optimum_where_averaging_drifts():
    # Different curvatures: averaging of 10 local steps settles elsewhere than at 5 / 3.
    parties = [Quadratic([0.0], 1.0, n_steps=10), Quadratic([2.5], 2.0, n_steps=10)]
    ends = {}
    for strategy in (FedAvg(), Scaffold()):
        state, memories = strategy.start(np.zeros(1)), [{}, {}]
        for _ in range(300):
            state = one_round(strategy, parties, state, memories, Setting(LAYOUT, 2))
        ends[strategy.name] = state["parameters"][0]
    assert ends["scaffold"] == pytest.approx(5 / 3, abs=1e-4)
    assert abs(ends["fedavg"] - 5 / 3) > 0.05


def test_scaffold_says_which_optimiser_it_needs():
    with pytest.raises(ValueError, match="without momentum"):
        Scaffold().at_party(Quadratic([1.0], lr=None), np.zeros((2, 1)), {})


def test_fednova_equals_a_hand_calculation():
    state = FedNova().start(np.zeros(1))
    came = updates([[2.0], [3.0]], n_rows=[1, 3], n_steps=[2, 6])
    # directions 1 and .5 with shares .25 and .75: .625, times .25 * 2 + .75 * 6 = 5
    np.testing.assert_allclose(
        FedNova().at_coordinator(state, came, SETTING)["parameters"], [3.125]
    )


def test_fednova_knows_what_momentum_does_to_the_weight_of_gradients():
    # A constant gradient of -1 with lr 1: the distance travelled is the sum of the weights.
    at, velocity, m = 0.0, 0.0, 0.6
    for _ in range(5):
        velocity = m * velocity + 1.0
        at += velocity
    strategy = FedNova(momentum=m)
    came = updates([[at], [1.0]], n_steps=[5, 1])
    after = strategy.at_coordinator(strategy.start(np.zeros(1)), came, SETTING)
    # both directions are 1, so that the mean is taken (at + 1) / 2 times
    np.testing.assert_allclose(after["parameters"], [(at + 1) / 2])


@pytest.mark.parametrize(
    ("strategy", "second"),
    [
        (FedAdam(), lambda v, d: 0.99 * v + 0.01 * d**2),
        (FedYogi(), lambda v, d: v - 0.01 * d**2 * (1 if v > d**2 else -1)),
        (FedAdagrad(), lambda v, d: v + d**2),
    ],
)
def test_the_fedopt_family_equals_its_recursions(strategy, second):
    state, w, m, v = strategy.start(np.zeros(1)), 0.0, 0.0, 1e-6
    for d in (0.5, -0.2, 0.4):
        state = strategy.at_coordinator(state, updates([[d]]), SETTING)
        m, v = 0.9 * m + 0.1 * d, second(v, d)
        w += 0.1 * m / (v**0.5 + 1e-3)
    np.testing.assert_allclose(state["parameters"], [w])


def test_fedadagrad_without_momentum_is_torchs_adagrad():
    strategy = FedAdagrad(lr=0.3, beta1=0.0, tau=1e-4)
    state = strategy.start(np.zeros(2))
    w = torch.zeros(2, requires_grad=True, dtype=torch.float64)
    optimizer = torch.optim.Adagrad([w], lr=0.3, initial_accumulator_value=1e-8, eps=1e-4)
    for d in ([0.5, 1.0], [-0.2, 0.1]):
        state = strategy.at_coordinator(state, updates([d]), SETTING)
        w.grad = -torch.tensor(d, dtype=torch.float64)
        optimizer.step()
    np.testing.assert_allclose(state["parameters"], w.detach().numpy())


def test_fedmeta_steps_along_the_gradient_after_adaptation():
    local = Quadratic([1.0], n_steps=1)
    update = FedMeta().at_party(local, np.zeros((1, 1)), {})
    np.testing.assert_allclose(update.change, [0.9])  # at .1 the gradient is -.9
    after = FedMeta(lr=0.5).at_coordinator({"parameters": np.zeros(1)}, [update], SETTING)
    np.testing.assert_allclose(after["parameters"], [0.45])


def test_reptile_goes_part_of_the_way_to_the_unweighted_mean():
    came = updates([[1.0], [3.0]], n_rows=[9, 1])
    after = Reptile(lr=0.25).at_coordinator({"parameters": np.zeros(1)}, came, SETTING)
    np.testing.assert_allclose(after["parameters"], [0.5])


def test_dittos_own_model_is_held_near_the_shared_one_and_stays_at_the_party():
    memory = {}
    strategy = Ditto(mu=1.0)
    update = strategy.at_party(Quadratic([1.0], n_steps=1), np.zeros((1, 1)), memory)
    np.testing.assert_allclose(update.change, [0.1])
    np.testing.assert_allclose(memory["model"], [0.1])
    update = strategy.at_party(Quadratic([1.0], n_steps=1), np.zeros((1, 1)), memory)
    # from .1: .1 - .1 (-.9 + 1 * .1)
    np.testing.assert_allclose(memory["model"], [0.18])
    assert update.vectors.shape == (1, 1)


def test_robust_rules_equal_those_of_other_libraries():
    changes = np.random.default_rng(0).normal(size=(10, 7))
    state = {"parameters": np.zeros(7)}
    median = Median(mixing=False).at_coordinator(state, updates(changes), SETTING)["parameters"]
    expected = torch.quantile(torch.tensor(changes), 0.5, dim=0).numpy()
    np.testing.assert_allclose(median, expected)
    trimming = TrimmedMean(0.2, mixing=False)
    mean = trimming.at_coordinator(state, updates(changes), SETTING)["parameters"]
    np.testing.assert_allclose(mean, stats.trim_mean(changes, 0.2, axis=0))


def test_mixing_replaces_each_update_by_the_mean_of_its_nearest_neighbours():
    changes = np.random.default_rng(0).normal(size=(10, 7))
    state = {"parameters": np.zeros(7)}
    neighbours = NearestNeighbors(n_neighbors=8).fit(changes)
    mixed = changes[neighbours.kneighbors(changes, return_distance=False)].mean(axis=1)
    median = Median().at_coordinator(state, updates(changes), SETTING)["parameters"]
    np.testing.assert_allclose(median, np.median(mixed, axis=0))
    mean = TrimmedMean().at_coordinator(state, updates(changes), SETTING)["parameters"]
    np.testing.assert_allclose(mean, stats.trim_mean(mixed, 0.2, axis=0))


@pytest.mark.parametrize("rule", [Median, TrimmedMean])
def test_what_one_party_alone_knows_is_learnt_only_with_mixing(rule):
    own = 10.0 * np.eye(10) + 1.0  # each party moves one weight that is idle at the others
    state = {"parameters": np.zeros(10)}
    alone = rule(mixing=False).at_coordinator(state, updates(own), SETTING)["parameters"]
    np.testing.assert_allclose(alone, 1.0)
    mixed = rule().at_coordinator(state, updates(own), SETTING)["parameters"]
    assert mixed.mean() > 1.5


def test_multi_krum_equals_the_papers_definition():
    changes = np.random.default_rng(1).normal(size=(10, 4))
    changes[[2, 7]] *= -10
    scores = []
    for i in range(10):
        distances = sorted(((changes[i] - changes[j]) ** 2).sum() for j in range(10) if j != i)
        scores.append(sum(distances[: 10 - 2 - 2]))
    best = sorted(sorted(range(10), key=scores.__getitem__)[:8])
    assert not {2, 7} & set(best)
    after = MultiKrum(0.2).at_coordinator({"parameters": np.zeros(4)}, updates(changes), SETTING)
    np.testing.assert_allclose(after["parameters"], changes[best].mean(axis=0))


@pytest.mark.parametrize("strategy", [Median(), TrimmedMean(0.4), MultiKrum(0.4)])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_robust_rules_serve_few_parties(strategy, m):
    state = {"parameters": np.zeros(2)}
    after = strategy.at_coordinator(state, updates([[1.0, 2.0]] * m), SETTING)
    np.testing.assert_allclose(after["parameters"], [1.0, 2.0])


def test_fedbuff_discounts_stale_updates():
    came = [
        Update(np.array([[1.0]]), 1, 0.0, staleness=0),
        Update(np.array([[1.0]]), 1, 0.0, staleness=3),
    ]
    after = FedBuff(lr=2.0).at_coordinator({"parameters": np.zeros(1)}, came, SETTING)
    np.testing.assert_allclose(after["parameters"], [2.0 * (1 + 0.5) / 2])


def mlp(rng):
    return {
        "0.weight": rng.normal(size=(6, 4)),
        "0.bias": rng.normal(size=6),
        "2.weight": rng.normal(size=(5, 6)),
        "2.bias": rng.normal(size=5),
        "4.weight": rng.normal(size=(3, 5)),
        "4.bias": rng.normal(size=3),
    }


def convolutional(rng):
    return {
        "conv.weight": rng.normal(size=(5, 1, 3, 3)),
        "conv.bias": rng.normal(size=5),
        "norm.weight": rng.normal(size=5),
        "norm.bias": rng.normal(size=5),
        "out.weight": rng.normal(size=(3, 5 * 4)),
        "out.bias": rng.normal(size=3),
    }


def permuted(tensors, rng):
    """The same function with every hidden layer's units in another order."""
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    weights = [name for name in tensors if tensors[name].ndim > 1]
    for weight, following in pairwise(weights):
        units = len(tensors[weight])
        order = rng.permutation(units)
        names = list(tensors)
        for name in names[names.index(weight) : names.index(following)]:
            tensors[name] = tensors[name][order]
        width = tensors[following].shape[1] // units
        columns = np.concatenate([np.arange(i * width, (i + 1) * width) for i in order])
        tensors[following] = tensors[following][:, columns]
    return tensors


@pytest.mark.parametrize("network", [mlp, convolutional])
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_fedma_on_permuted_copies_of_one_network_recovers_it(network, noise, seed):
    rng = np.random.default_rng(seed)
    original = network(rng)
    layout = Layout(tuple(original), tuple(tensor.shape for tensor in original.values()))
    copies = [original] + [permuted(original, rng) for _ in range(4)]
    flat = [np.concatenate([tensor.ravel() for tensor in copy.values()]) for copy in copies]
    came = updates([each + noise * rng.normal(size=layout.size) for each in flat])
    state = {"parameters": np.zeros(layout.size)}
    after = FedMA().at_coordinator(state, came, Setting(layout, 5))["parameters"]
    np.testing.assert_allclose(after, flat[0], atol=1e-9 + 4 * noise / 5**0.5)
    plain = FedAvg().at_coordinator(state, came, Setting(layout, 5))["parameters"]
    assert np.abs(plain - flat[0]).max() > 0.5


@pytest.mark.parametrize(
    "shapes", [((4, 3), (5,)), ((4, 3), (4,), (2, 6)), ((3,), (4, 3)), ()], ids=str
)
def test_fedma_refuses_what_is_no_chain_of_layers(shapes):
    layout = Layout(tuple(f"t{i}" for i in range(len(shapes))), shapes)
    state = {"parameters": np.zeros(layout.size)}
    with pytest.raises(ValueError, match="fedma"):
        FedMA().at_coordinator(state, updates([np.zeros(layout.size)]), Setting(layout, 1))


def test_a_layout_is_the_same_for_both_sides_if_names_and_shapes_are():
    assert LAYOUT.digest == Layout(("weight", "bias"), ((2, 2), (2,))).digest
    assert LAYOUT.digest != Layout(("weight", "bias"), ((4,), (2,))).digest
    assert LAYOUT.digest != Layout(("weight", "b"), ((2, 2), (2,))).digest
    flat = np.arange(6.0)
    assert LAYOUT.views(flat)["weight"].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_moves_towards_what_its_parties_agree_on(name):
    strategy = STRATEGIES[name]()
    parties = [Quadratic(np.ones(6)) for _ in range(4)]
    state, memories = strategy.start(np.zeros(6)), [{} for _ in parties]
    for _ in range(150):
        state = one_round(strategy, parties, state, memories)
    np.testing.assert_allclose(state["parameters"], np.ones(6), atol=0.1)
