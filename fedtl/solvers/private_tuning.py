"""Differential privacy of a training in rounds: at each party, or at the coordinator."""

from __future__ import annotations

from collections.abc import Mapping

from fedtl.exceptions import PartyError
from fedtl.federation import Channel, RowParties, ask_all
from fedtl.learning.private_mean import PrivateMean
from fedtl.learning.strategies import Strategy
from fedtl.privacy import DifferentialPrivacy, SecureAggregation
from fedtl.privacy.accounting import calibrated
from fedtl.protocols.private_rounds import Planned, plan


def check_strategy(
    privacy: DifferentialPrivacy | SecureAggregation | None, strategy: Strategy
) -> None:
    """Refuse strategies that use rows in ways that are not accounted for.

    Parameters
    ----------
    privacy : DifferentialPrivacy, SecureAggregation or None
        What is to be protected.
    strategy : Strategy
        How local training becomes one model.

    Raises
    ------
    ValueError
        If both do not go together.
    """
    if not isinstance(privacy, DifferentialPrivacy):
        return
    if privacy.unit == "row" and not strategy.trains_once:
        raise ValueError(
            f"strategy {strategy.name!r} uses a party's rows for more than one training a round; "
            "under differential privacy use fedavg or another that does not"
        )
    if privacy.unit == "party" and not (strategy.averages and strategy.trains_once):
        raise ValueError(
            f"strategy {strategy.name!r} uses more than the parties' mean change; with "
            "unit='party' use fedavg, fedprox, reptile, fedadam, fedyogi or fedadagrad"
        )


def protect(
    privacy: DifferentialPrivacy | None,
    fit: str,
    n_rounds: int,
    services: RowParties,
    channels: Mapping[str, Channel],
) -> tuple[dict[str, float], PrivateMean | None]:
    """Agree with all parties on how their training will be private, or pay for it here.

    Parameters
    ----------
    privacy : DifferentialPrivacy or None
        What is to be protected.
    fit : str
        Name of the fit.
    n_rounds : int
        Rounds at most.
    services : RowParties
        The simulated parties, for their budget.
    channels : mapping of str to Channel
        The parties that train.

    Returns
    -------
    noise : dict of str to float
        Noise multiplier by party.
    release : PrivateMean or None
        What the coordinator makes of a round's updates, if whole parties are protected.

    Raises
    ------
    PartyError
        If a party cannot train privately; a BudgetSpent if its budget is spent.
    """
    if privacy is None:
        return {}, None
    if privacy.unit == "party":
        mechanism = calibrated(privacy.epsilon, privacy.delta, 1.0, n_rounds)
        if services.budget is not None:
            for name in channels:
                services.budget.allow(name, mechanism)
            for name in channels:
                services.budget.spend(name, mechanism)
        multiplier = mechanism.noise_multiplier
        return dict.fromkeys(channels, multiplier), PrivateMean(privacy.clip, multiplier)
    requests = [plan(privacy, fit, n_rounds)] * len(channels)
    noise = {}
    for name, reply in zip(
        channels, ask_all(list(channels.values()), requests, Planned), strict=True
    ):
        if isinstance(reply, PartyError):
            raise reply
        noise[name] = reply.noise_multiplier
    return noise, None
