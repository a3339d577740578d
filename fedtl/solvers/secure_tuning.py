"""The coordinator's side of secure rounds: one mean, and no single update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel
from fedtl.learning.strategies import Strategy, Update
from fedtl.privacy import CryptoError
from fedtl.privacy.secure_aggregation import plan_sum, read_sum
from fedtl.protocols.rounds import Round
from fedtl.protocols.secure_rounds import MAGNITUDE_BITS, SecureRound
from fedtl.protocols.secure_sums import DTYPE, LEAST_MEMBERS, group_of
from fedtl.solvers.secure_sums import Exchange, TooFew, check_members

_COORDINATOR = "the coordinator"


def check_secure(strategy: Strategy, compresses: bool, n_parties: int) -> None:
    """Refuse what needs more than a mean.

    Parameters
    ----------
    strategy : Strategy
        How local training becomes one model.
    compresses : bool
        Whether updates are made smaller.
    n_parties : int
        Parties of a round.

    Raises
    ------
    ValueError
        Saying what does not go together with secure aggregation.
    """
    waits = strategy.updates_per_version is None
    mean = strategy.averages and strategy.weighs_rows and strategy.trains_once and waits
    if not mean:
        raise ValueError(
            f"strategy {strategy.name!r} uses more than the parties' mean change, weighed by rows; "
            "with secure aggregation use fedavg, fedprox, fedadam, fedyogi or fedadagrad, or say "
            "privacy='none'"
        )
    if compresses:
        raise ValueError("compression does not go together with secure aggregation: sums are exact")
    check_members(n_parties)


@dataclass(eq=False)
class SecureMean:
    """Asks for one round, and returns the mean of the updates.

    Parameters
    ----------
    n_rows : mapping of str to int
        Rows that each party trains on: its weight.
    min_replies : int
        Parties that must stay at least.
    """

    n_rows: Mapping[str, int]
    min_replies: int

    def __call__(
        self, channels: Mapping[str, Channel], sent: Round
    ) -> tuple[list[tuple[Update, np.ndarray]], int, list[PartyError]]:
        """Carry a round out.

        Parameters
        ----------
        channels : mapping of str to Channel
            The parties of the round.
        sent : Round
            What they train from.

        Returns
        -------
        came : list of (Update, ndarray of shape (n_buffers,))
            The mean of changes and of recorded statistics, weighed by rows; empty if too few
            parties stayed.
        n_replies : int
            Parties that are in the mean.
        errors : list of PartyError
            Why others are not.
        """
        names, rows = list(channels), {name: self.n_rows[name] for name in channels}
        # One more than half would do, were it not for rows of the coordinator's own: that member
        # could help two halves of the others, who are told different things of who stayed.
        threshold = max((len(names) + 1) // 2 + 1, LEAST_MEMBERS, self.min_replies)
        group = group_of(sent.fit, sent.index, names, threshold)
        exchange = Exchange(sent.fit, sent.index, group, channels)

        def request(sealed: np.ndarray) -> SecureRound:
            return SecureRound(
                fit=sent.fit,
                index=sent.index,
                n_rows=sum(rows.values()),
                vectors=sent.vectors,
                buffers=sent.buffers,
                sealed=sealed,
            )

        n = sent.vectors.shape[1]
        try:
            summed = exchange.run(request, n + len(sent.buffers) + 3)
        except TooFew:
            return [], len(exchange.left), exchange.errors
        except CryptoError as error:
            raise PartyError(_COORDINATOR, f"secure aggregation: {error}") from error
        mean = read_sum(plan_sum(MAGNITUDE_BITS, len(names), DTYPE), summed)
        change, buffers, (loss, steps, share) = np.split(mean, [n, len(mean) - 3])
        n_rows = sum(rows[name] for name in exchange.stayed)
        n_steps = max(1, round(steps / share))
        update = Update((change / share)[None], n_steps, float(loss / share), n_rows)
        return [(update, buffers / share)], len(exchange.stayed), exchange.errors
