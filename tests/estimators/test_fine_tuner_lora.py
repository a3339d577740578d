"""Adapters only: LoRA through peft on a plain torch encoder."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from fedtl import FederatedFineTuner

peft = pytest.importorskip("peft")


def test_only_adapters_and_head_are_trained_and_exchanged():
    X, y = load_digits(return_X_y=True)
    X, y, party = (X[:600] / 16).astype(np.float32), y[:600], np.arange(600) % 3
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    lora = peft.get_peft_model(
        encoder, peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["2"])
    )
    trainable = {name for name, p in lora.named_parameters() if p.requires_grad}
    before = {name: value.clone() for name, value in lora.state_dict().items()}
    tuner = FederatedFineTuner(lora, n_rounds=20, lr=0.05, random_state=0).fit(X, y, party)
    assert tuner.score(X, y) > 0.6
    assert tuner.model_.shared.size == 2 * (64 + 128) + 128 * 10 + 10
    after = tuner.estimator_.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == trainable
    assert all(torch.equal(before[name], value) for name, value in lora.state_dict().items())
