"""How rounds of local training become one model: one short class a strategy, in one registry.

:class:`Strategy` is the contract and tells what happens at which side. The registry:

>>> from fedtl.learning.strategies import STRATEGIES
>>> print(*sorted(STRATEGIES))
ditto fedadagrad fedadam fedavg fedbuff fedma fedmeta fednova fedprox fedyogi median multi_krum
reptile scaffold trimmed_mean
"""

from __future__ import annotations

from collections.abc import Mapping

from fedtl.learning.strategies._averaging import FedAvg, FedNova, FedProx, Scaffold
from fedtl.learning.strategies._buffered import FedBuff
from fedtl.learning.strategies._contract import (
    Layout,
    LocalProblem,
    Memory,
    Setting,
    State,
    Strategy,
    Trained,
    Update,
    weighted_mean,
)
from fedtl.learning.strategies._matched import FedMA
from fedtl.learning.strategies._meta import FedMeta, Reptile
from fedtl.learning.strategies._personal import Ditto
from fedtl.learning.strategies._robust import Median, MultiKrum, TrimmedMean
from fedtl.learning.strategies._server import FedAdagrad, FedAdam, FedYogi

STRATEGIES: Mapping[str, type[Strategy]] = {
    strategy.name: strategy
    for strategy in (
        FedAvg,
        FedProx,
        Scaffold,
        FedNova,
        FedAdam,
        FedYogi,
        FedAdagrad,
        FedMeta,
        Reptile,
        FedMA,
        Ditto,
        Median,
        TrimmedMean,
        MultiKrum,
        FedBuff,
    )
}
"""Every strategy by its name."""

__all__ = [
    "STRATEGIES",
    "Ditto",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedBuff",
    "FedMA",
    "FedMeta",
    "FedNova",
    "FedProx",
    "FedYogi",
    "Layout",
    "LocalProblem",
    "Median",
    "Memory",
    "MultiKrum",
    "Reptile",
    "Scaffold",
    "Setting",
    "State",
    "Strategy",
    "Trained",
    "TrimmedMean",
    "Update",
    "weighted_mean",
]
