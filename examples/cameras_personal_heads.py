"""Ten cameras that see different digits: one model, personal heads, or each its own?

Labels are skewed: most cameras see few of the digits often and the others never. The rows of a
camera are served by the model named in each line; half of them are held back as test rows.

    python examples/cameras_personal_heads.py
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import nn

from fedtl import FederatedFineTuner

VARIANTS = {
    "one model for all (FedAvg)": {},
    "each camera alone": {"deploy": "local"},
    "shared layers, personal head": {"personal": ("4",)},
    "FedAvg, then fine-tuned": {"deploy": "fine-tuned"},
    "a model of its own near the shared one (Ditto)": {"strategy": "ditto"},
}


def main() -> None:
    """Compare five ways to serve ten cameras."""
    rng = np.random.default_rng(0)
    X, y = load_digits(return_X_y=True)
    camera = np.empty(len(y), dtype=int)
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(y == digit))
        camera[rows] = rng.choice(10, size=len(rows), p=rng.dirichlet(np.full(10, 0.3)))
    frame = pd.DataFrame((X / 16).astype(np.float32)).rename(columns=str).assign(camera=camera)
    test = rng.random(len(y)) < 0.5

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    for name, params in VARIANTS.items():
        tuner = FederatedFineTuner(
            network,
            party="camera",
            n_rounds=20,
            local_epochs=2,
            lr=0.1,
            batch_size=16,
            random_state=0,
            **params,
        ).fit(frame[~test], y[~test])
        accuracy = tuner.score(frame[test], y[test])
        print(f"{name:48} accuracy {accuracy:.3f}, {tuner.report_.n_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
