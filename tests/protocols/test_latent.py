"""Training over the border is training the same networks in one place."""

import math

import numpy as np
import pytest
import torch

from fedtl import Encoder
from fedtl.exceptions import PartyError
from fedtl.federation import InProcessChannel, Ledger
from fedtl.learning.network import Head, PartyEncoder, swap_noise
from fedtl.learning.training import RECONSTRUCTION, SWAP_SHARE, WEIGHT_DECAY
from fedtl.parties import LocalFeatures, PartyService, Table
from fedtl.protocols import ANSWERS, latent
from fedtl.protocols.latent import Plan
from fedtl.protocols.predict import ask_predictions
from fedtl.protocols.session import end_session, open_session, prepare_session

MEMBERS, COMPONENTS, STEPS, LOCAL, BATCH, LR = 3, 4, 12, 6, 16, 0.02
PLAN = Plan(members=MEMBERS, n_components=COMPONENTS, n_exchanges=STEPS, local_updates=1, lr=LR)
SEEDS = {"shop": 11, "post": 12}
RNG = np.random.default_rng(0)
BLOCKS = {name: RNG.normal(size=(50, width)) for name, width in [("shop", 3), ("post", 2)]}
BLOCKS["shop"][[3, 30]] = np.nan
BLOCKS["post"][[7, 30, 41]] = np.nan
TARGET = torch.from_numpy(RNG.normal(size=(50, 1)).astype(np.float32))
KNOWN = np.column_stack([~np.isnan(block).all(axis=1) for block in BLOCKS.values()])
BATCHES = [RNG.integers(0, 50, BATCH) for _ in range(STEPS)]


def channels(serialize=False):
    services = [PartyService(n, Table(b), Encoder(), ANSWERS) for n, b in BLOCKS.items()]
    ledger = Ledger()
    return [InProcessChannel(service, ledger, serialize) for service in services]


def opened(borders, local=LOCAL, plan=PLAN):
    for border in borders:
        open_session(border, "s", np.arange(50), resume=False)
        prepare_session(border, "s", 4, seed=0)
        latent.begin(
            border, "s", plan, n_local_rows=local, seed=SEEDS[border.name], keep_encoder=False
        )


def new_head():
    return Head((MEMBERS, COMPONENTS, 2, 1), torch.Generator().manual_seed(5))


def joint_loss(head, latents, batch):
    """Mean squared error on the batch, the latents in their rows."""
    rows = [torch.from_numpy(np.flatnonzero(KNOWN[batch, party])) for party in range(2)]
    placed = [
        torch.zeros(MEMBERS, BATCH, COMPONENTS).index_copy(1, where, z)
        for where, z in zip(rows, latents, strict=True)
    ]
    logits = head(torch.stack(placed, dim=2), torch.from_numpy(KNOWN[batch])[None])
    return ((logits[:, 0] - TARGET[torch.from_numpy(batch)]) ** 2).mean((1, 2)).sum()


def rate(step, peak=LR):
    done = step / STEPS
    return peak * min(1, 10 * done + 0.05) * (0.5 * (1 + math.cos(math.pi * done)) + 0.01)


def train_split(borders):
    """Train with one exchange a step, as the active party of the protocol does."""
    head, losses = new_head(), []
    optimizer = torch.optim.AdamW(head.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    gradients = [np.empty((MEMBERS, 0, COMPONENTS), np.float32)] * 2
    for step, batch in enumerate(BATCHES):
        received = [
            torch.tensor(
                latent.exchange(border, "s", batch[KNOWN[batch, party]], gradients[party]),
                requires_grad=True,
            )
            for party, border in enumerate(borders)
        ]
        optimizer.zero_grad()
        loss = joint_loss(head, received, batch)
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.step()
        gradients = [z.grad.numpy() for z in received]
        losses.append(loss.item())
    nothing = np.empty(0, dtype=np.int64)
    for party, border in enumerate(borders):
        latent.exchange(border, "s", nothing, gradients[party])
    return head, losses


def train_central():
    """Train the same networks on the same draws in one graph with one optimiser."""
    head, encoders, inputs, generators = new_head(), [], [], []
    for name, block in BLOCKS.items():
        features = LocalFeatures(name, Encoder()).fit(block, 4, 0)
        columns, known = features.read(Table(block), np.arange(50))
        encoded = np.zeros((50, features.encoding_.width), np.float32)
        encoded[known] = features.encoding_.transform(columns[known])
        inputs.append(torch.from_numpy(encoded))
        generators.append(torch.Generator().manual_seed(SEEDS[name]))
        weights = torch.Generator().manual_seed(SEEDS[name])
        encoders.append(PartyEncoder(MEMBERS, encoded.shape[1], COMPONENTS, weights))
    parameters = [p for module in [*encoders, head] for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=WEIGHT_DECAY)
    losses = []
    for step, batch in enumerate(BATCHES):
        latents, rebuilt = [], 0.0
        for party, generator in enumerate(generators):
            own = torch.from_numpy(np.flatnonzero(KNOWN[:, party]))
            drawn = own[torch.randint(len(own), (LOCAL,), generator=generator)]
            rows = torch.from_numpy(batch[KNOWN[batch, party]])
            clean = inputs[party][torch.cat([rows, drawn])]
            noisy = swap_noise(clean, SWAP_SHARE, generator)
            z = encoders[party](noisy, generator)
            rebuilt = rebuilt + encoders[party].reconstruction_loss(z, clean)
            latents.append(z[:, : len(rows)])
        optimizer.zero_grad()
        loss = joint_loss(head, latents, batch)
        (loss + RECONSTRUCTION * rebuilt).backward()
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.step()
        losses.append(loss.item())
    return head, encoders, losses


def kept_encoder(border, key="fitted.encoder"):
    return border._service.sessions["s"].state[key]


@pytest.mark.parametrize("serialize", [False, True])
def test_split_training_is_central_training(serialize):
    borders = channels(serialize)
    opened(borders)
    head, losses = train_split(borders)
    expected_head, encoders, expected_losses = train_central()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)
    assert losses[-1] < 0.9 * losses[0]
    for one, two in zip(head.parameters(), expected_head.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)
    for border, expected in zip(borders, encoders, strict=True):
        latent.final_latents(border, "s", np.arange(2))
        trained = kept_encoder(border).float()
        for (name, one), two in zip(trained.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6, msg=name)


def test_serialized_or_not_training_is_the_same_to_the_last_bit():
    results = []
    for serialize in (False, True):
        borders = channels(serialize)
        opened(borders)
        head, losses = train_split(borders)
        finals = [latent.final_latents(b, "s", np.array([0, 9, 20])) for b in borders]
        for border in borders:
            end_session(border, "s")
        ids = np.array([30, 9, 77])
        replies = [ask_predictions(b, "s", ids, scores=True, latents=True) for b in borders]
        arrays = [*finals, *[reply.latents for reply in replies]]
        parameters = [p.detach().numpy().tobytes() for p in head.parameters()]
        ledger = borders[0]._ledger.rows()
        results.append((losses, [a.tobytes() for a in arrays], parameters, ledger))
    assert results[0] == results[1]


def test_n_steps_cost_n_and_one_exchanges_and_every_byte_is_counted(crossed):
    borders = channels()
    opened(borders)
    train_split(borders)
    ledger = borders[0]._ledger
    entry = ledger.entries["shop", "sent", "latent.exchange/1"]
    assert entry.messages == STEPS + 1
    assert ledger.messages == len(crossed)
    assert ledger.n_bytes == sum(len(data) for _, _, data in crossed)


def test_latents_of_predictions_are_those_of_training_rows_and_zero_where_unknown():
    border = channels()[0]
    opened([border])
    latent.exchange(border, "s", np.arange(3), np.empty((MEMBERS, 0, COMPONENTS), np.float32))
    rows = np.array([0, 9, 20])
    final = latent.final_latents(border, "s", rows)
    end_session(border, "s")
    ids = np.array([0, 3, 9, 99, 20])
    reply = ask_predictions(border, "s", ids, scores=False, latents=True)
    assert reply.known.tolist() == [True, False, True, False, True]
    assert reply.latents.dtype == np.float64
    np.testing.assert_allclose(reply.latents[:, [0, 2, 4]], final, atol=1e-6)
    assert not reply.latents[:, [1, 3]].any()
    reply = ask_predictions(border, "s", ids, scores=False, latents=False)
    assert reply.latents.size == 0
    none_known = ask_predictions(border, "s", np.array([3, 99]), scores=True, latents=True)
    assert none_known.latents.shape == (MEMBERS, 2, COMPONENTS)
    assert not none_known.latents.any()


def test_predictions_do_not_depend_on_how_rows_are_batched():
    border = channels()[0]
    opened([border])
    latent.final_latents(border, "s", np.arange(2))
    end_session(border, "s")
    together = ask_predictions(border, "s", np.arange(50), scores=False, latents=True).latents
    for row in (0, 21, 49):
        alone = ask_predictions(border, "s", np.array([row]), scores=False, latents=True).latents
        np.testing.assert_allclose(alone[:, 0], together[:, row], atol=1e-12)


def test_local_updates_take_steps_at_the_party_without_more_messages():
    plan = Plan(members=MEMBERS, n_components=COMPONENTS, n_exchanges=STEPS, local_updates=3, lr=LR)
    border = channels()[0]
    opened([border], plan=plan)
    rows = np.arange(3)
    z = latent.exchange(border, "s", rows, np.empty((MEMBERS, 0, COMPONENTS), np.float32))
    latent.exchange(border, "s", np.empty(0, np.int64), np.ones_like(z))
    schedule = kept_encoder(border, "latent.training").training.schedule
    assert (schedule.n_steps, schedule.done) == (3 * STEPS, 3)


def test_a_batch_without_a_row_of_the_party_teaches_it_nothing():
    border = channels()[0]
    opened([border])
    nothing = np.empty((MEMBERS, 0, COMPONENTS), np.float32)
    empty = latent.exchange(border, "s", np.empty(0, np.int64), nothing)
    assert empty.shape == (MEMBERS, 0, COMPONENTS)
    latent.exchange(border, "s", np.arange(3), empty)
    assert kept_encoder(border, "latent.training").training.schedule.done == 0


def test_a_refused_exchange_teaches_nothing_and_a_batch_is_learnt_from_once():
    border = channels()[0]
    opened([border])
    nothing = np.empty((MEMBERS, 0, COMPONENTS), np.float32)
    z = latent.exchange(border, "s", np.arange(3), nothing)
    schedule = kept_encoder(border, "latent.training").training.schedule
    with pytest.raises(PartyError, match="a row was asked for that it does not know"):
        latent.exchange(border, "s", np.array([3]), np.ones_like(z))
    assert schedule.done == 0
    latent.exchange(border, "s", np.empty(0, np.int64), np.ones_like(z))
    with pytest.raises(PartyError, match="a gradient came that belongs to no batch"):
        latent.exchange(border, "s", np.arange(3), np.ones_like(z))
    assert schedule.done == 1


@pytest.mark.parametrize("lr", [0.0, -1.0, 1e300])
def test_a_learning_rate_that_no_step_can_take_is_refused_at_the_start(lr):
    border = channels()[0]
    plan = Plan(members=MEMBERS, n_components=COMPONENTS, n_exchanges=STEPS, local_updates=1, lr=lr)
    with pytest.raises(PartyError, match="a learning rate must be in"):
        opened([border], plan=plan)


def test_a_training_goes_on_from_the_encoder_that_was_kept():
    border = channels()[0]
    opened([border])
    nothing = np.empty((MEMBERS, 0, COMPONENTS), np.float32)
    z = latent.exchange(border, "s", np.arange(3), nothing)
    latent.exchange(border, "s", np.empty(0, np.int64), np.ones_like(z))
    before = latent.final_latents(border, "s", np.arange(3))
    options = {"n_local_rows": 0, "seed": 99}
    latent.begin(border, "s", PLAN, **options, keep_encoder=True)
    np.testing.assert_allclose(latent.final_latents(border, "s", np.arange(3)), before, atol=1e-6)
    latent.begin(border, "s", PLAN, **options, keep_encoder=False)
    assert not np.allclose(latent.final_latents(border, "s", np.arange(3)), before, atol=1e-2)
