"""scikit-learn's common checks on the federated fine-tuner, around models of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.utils.estimator_checks import estimator_checks_generator
from skorch import NeuralNetClassifier, NeuralNetRegressor

from fedtl import FederatedFineTuner

WIDTH, CLASSES = 12, 6


class SmallNet(torch.nn.Module):
    """A network for whatever number of columns the checks come with, in double precision."""

    def __init__(self, n_out: int = CLASSES) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(WIDTH, 16, dtype=torch.float64)
        self.out = torch.nn.Linear(16, n_out, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map rows to scores."""
        x = torch.nn.functional.pad(x, (0, max(WIDTH - x.shape[1], 0)))[:, :WIDTH]
        return self.out(self.hidden(x).relu())


class Probabilities(SmallNet):
    """The same with probabilities, as skorch's classifiers want them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map rows to probabilities."""
        return super().forward(x).softmax(dim=1)


SHUFFLED = {"batch_size": 16, "iterator_train__shuffle": True}
INSTANCES = [
    FederatedFineTuner(SGDClassifier(), random_state=0),
    FederatedFineTuner(SGDRegressor(), n_rounds=30, random_state=0),
    FederatedFineTuner(
        NeuralNetClassifier(Probabilities, lr=0.3, **SHUFFLED),
        n_rounds=4,
        local_epochs=5,
        random_state=0,
    ),
    FederatedFineTuner(
        NeuralNetRegressor(
            SmallNet, module__n_out=1, optimizer=torch.optim.Adam, lr=0.02, **SHUFFLED
        ),
        local_epochs=5,
        n_rounds=4,
        random_state=0,
    ),
]

# As parametrize_with_checks, whose generator pytest 9 does not take from scikit-learn 1.6.
CHECKS = [pair for instance in INSTANCES for pair in estimator_checks_generator(instance)]


@pytest.mark.parametrize(
    ("estimator", "check"),
    CHECKS,
    ids=lambda value: getattr(getattr(value, "func", None), "__name__", None),
)
def test_scikit_learns_common_checks_pass(estimator: Any, check: Any) -> None:
    check(estimator)
