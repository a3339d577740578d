"""FedAvg by Flower's simulation, as a script: prints seconds of rounds and whole, and accuracy."""

import json
import os
import sys
import time

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

STARTED = time.perf_counter()
JOB = dict(np.load(sys.argv[1]))
N_PARTIES = int(JOB["party"].max()) + 1
client, server = ClientApp(), ServerApp()


def network():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


@client.train()
def train(message, context):
    torch.set_num_threads(1)
    net = network()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    own = JOB["party"] == int(context.node_config["partition-id"])
    X, y = torch.from_numpy(JOB["X"][own]), torch.from_numpy(JOB["y"][own])
    optimizer = torch.optim.SGD(net.parameters(), lr=float(JOB["lr"]))
    criterion = nn.CrossEntropyLoss()
    for batch in torch.randperm(len(X)).split(int(JOB["batch_size"])):
        optimizer.zero_grad()
        criterion(net(X[batch]), y[batch]).backward()
        optimizer.step()
    content = {
        "arrays": ArrayRecord(net.state_dict()),
        "metrics": MetricRecord({"num-examples": len(X)}),
    }
    return Message(RecordDict(content), reply_to=message)


@server.main()
def main(grid, context):
    net = network()
    nn.utils.vector_to_parameters(torch.from_numpy(JOB["initial"]), net.parameters())
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=N_PARTIES)
    strategy.start(grid, ArrayRecord(net.state_dict()), num_rounds=1)  # actors start
    begun = time.perf_counter()
    result = strategy.start(grid, ArrayRecord(net.state_dict()), num_rounds=int(JOB["n_rounds"]))
    rounds, whole = time.perf_counter() - begun, time.perf_counter() - STARTED
    net.load_state_dict(result.arrays.to_torch_state_dict())
    predicted = net(torch.from_numpy(JOB["X"])).argmax(dim=1).numpy()
    print(json.dumps([rounds, whole, float(np.mean(predicted == JOB["y"]))]), flush=True)


if __name__ == "__main__":
    run_simulation(
        server,
        client,
        num_supernodes=N_PARTIES,
        backend_config={
            "init_args": {"include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
