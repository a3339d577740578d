"""
A pretrained network as a party's encoder
=========================================

The owner of the right camera has a small convolutional network, trained on the digits 0 to 4 that
it saw earlier. Now both cameras work together on the digits 5 to 9, which the network has never
seen. It is handed over as the party's encoder in three ways: frozen, with its first layer frozen,
and fine-tuned. The network stays with its party: no weight of it crosses the border, and the
caller's own module is never changed.

The data ship with scikit-learn.
"""

import copy

import numpy as np
import torch
from torch import nn

from fedtl import Encoder, FederatedTransferClassifier
from fedtl.datasets import hide_party, load_digits_halves, split_parties

digits = load_digits_halves()
left, right = digits.parties["left"], digits.parties["right"]
data = digits.data / 16.0
earlier = digits.target < 5

# %%
# The network
# -----------
#
# A module takes the party's numeric columns, one row each, and may return features of any shape.
# The right half of an image is 8 by 4 pixels.


def new_network():
    """Two convolutions over half an image: (rows, 32) to (rows, 128)."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 4)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )


def pretrain(network, X, y, n_epochs=20):
    """Train the network with a linear classifier on top, which is thrown away."""
    model = nn.Sequential(network, nn.Dropout(0.3), nn.LazyLinear(5))
    X, y = torch.tensor(X.to_numpy(), dtype=torch.float32), torch.tensor(y.to_numpy())
    model(X[:1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for _ in range(n_epochs):
        for rows in torch.randperm(len(X)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()
            optimizer.step()
    model.eval()
    return float((model(X).argmax(1) == y).float().mean())


torch.manual_seed(0)
untrained = new_network()
network = copy.deepcopy(untrained)
accuracy = pretrain(network, data.loc[earlier, right], digits.target[earlier])
print(f"pretrained on {earlier.sum()} right halves of 0 to 4: training accuracy {accuracy:.3f}")
before = copy.deepcopy(network.state_dict())

# %%
# Frozen, partly frozen, fine-tuned
# ---------------------------------
#
# ``frozen`` takes True, False or patterns of parameter names. Fine-tuning is the latent solver's
# task, so ``solver="latent"`` is used for all. Two controls belong beside them: the default
# encoding without a network, and the same network untrained. Only where the pretrained one beats
# both was it the pretraining that helped; on images as small as these, look at whether it did.

encoders = {
    "no network": Encoder(),
    "untrained, frozen": Encoder(untrained, frozen=True),
    "pretrained, frozen": Encoder(network, frozen=True),
    "first layer frozen": Encoder(network, frozen=["1.*"]),
    "fine-tuned": Encoder(network, lr=1e-3),
}
print([name for name, _ in network.named_parameters()])

scores = {name: [] for name in encoders}
for seed in range(2):
    split = split_parties(
        data[~earlier],
        digits.target[~earlier],
        digits.parties,
        n_shared=60,
        n_per_party=200,
        random_state=seed,
    )
    X_right_only = hide_party(split.X_test, digits.parties, "left")
    for name, encoder in encoders.items():
        clf = FederatedTransferClassifier(
            [("left", Encoder(), left), ("right", encoder, right)],
            solver="latent",
            max_iter=100,
            unlabeled=-1,
            random_state=seed,
        )
        clf.fit(split.X_train, split.y_train)
        scores[name].append(
            [clf.score(split.X_test, split.y_test), clf.score(X_right_only, split.y_test)]
        )

print(f"{'right camera':20}{'known to both':>15}{'right only':>12}")
for name, values in scores.items():
    both, alone = np.mean(values, axis=0)
    print(f"{name:20}{both:>15.3f}{alone:>12.3f}")

# %%
# The caller's module is unchanged
# --------------------------------
#
# The party works on a copy, also where it fine-tunes.

unchanged = all(torch.equal(before[name], value) for name, value in network.state_dict().items())
print(f"the module that was handed over is unchanged: {unchanged}")
