"""FedAvg by pfl-research's simulation, as a script: prints seconds, and the accuracy."""

import json
import sys
import time

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn

JOB = dict(np.load(sys.argv[1]))


class Network(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def loss(self, X, y, **_):
        self.train()
        return nn.functional.cross_entropy(self(X), y)

    @torch.no_grad()
    def metrics(self, X, y, **_):
        self.eval()
        total = nn.functional.cross_entropy(self(X), y, reduction="sum").item()
        return {"loss": Weighted(total, len(y))}


def dataset(user):
    own = JOB["party"] == user
    return Dataset([torch.from_numpy(JOB["X"][own]), torch.from_numpy(JOB["y"][own])], user)


def main():
    started = time.perf_counter()
    torch.set_num_threads(1)
    users = list(range(int(JOB["party"].max()) + 1))
    rows = {user: dataset(user) for user in users}
    net = Network()
    net.loss(*rows[0].raw_data).backward()  # torch's own start
    net.zero_grad()
    nn.utils.vector_to_parameters(torch.from_numpy(JOB["initial"]), net.parameters())
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    data = FederatedDataset(rows.__getitem__, get_user_sampler("minimize_reuse", users))
    backend = SimulatedBackend(data, data, [WeightByDatapoints()])
    n_rounds = int(JOB["n_rounds"])
    params = NNAlgorithmParams(n_rounds, n_rounds + 1, len(users), None)
    training = NNTrainHyperParams(
        local_num_epochs=1,
        local_learning_rate=float(JOB["lr"]),
        local_batch_size=int(JOB["batch_size"]),
    )
    begun = time.perf_counter()
    FederatedAveraging().run(
        params, backend, model, training, NNEvalHyperParams(None), send_metrics_to_platform=False
    )
    rounds, whole = time.perf_counter() - begun, time.perf_counter() - started
    predicted = net(torch.from_numpy(JOB["X"])).argmax(dim=1).numpy()
    print(json.dumps([rounds, whole, float(np.mean(predicted == JOB["y"]))]), flush=True)


if __name__ == "__main__":
    main()
