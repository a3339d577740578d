"""The coordinator's side of secure rounds: four exchanges, one mean, no single update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fedtl.exceptions import PartyError
from fedtl.federation import Channel, ask_all
from fedtl.learning.strategies import Strategy, Update
from fedtl.privacy import CryptoError
from fedtl.privacy.secure_aggregation import Group, plan_sum, read_sum, total
from fedtl.protocols.rounds import Round
from fedtl.protocols.secure_rounds import (
    DTYPE,
    LEAST_MEMBERS,
    MAGNITUDE_BITS,
    SEALED_BYTES,
    Masked,
    PublicKeys,
    Reveal,
    RevealedShares,
    SecureRound,
    Share,
    Shares,
    begin,
    group_of,
    pack_keys,
    read_keys,
    revealed_by,
)
from fedtl.wire import Message

R = TypeVar("R", bound=Message)
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
    if n_parties < LEAST_MEMBERS:
        raise ValueError(
            f"secure aggregation needs {LEAST_MEMBERS} parties a round, there are {n_parties}: of "
            "two, each would know the other's update from the sum; say privacy='none' if it may"
        )


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
        names = list(channels)
        threshold = max(len(names) // 2 + 1, LEAST_MEMBERS, self.min_replies)
        group = group_of(sent.fit, sent.index, names, threshold)
        exchange = _Exchange(group, channels)
        rows = {name: self.n_rows[name] for name in names}
        weights = {name: n / sum(rows.values()) for name, n in rows.items()}
        try:
            mean = exchange.run(sent, weights)
        except _TooFew:
            return [], len(exchange.left), exchange.errors
        except CryptoError as error:
            raise PartyError(_COORDINATOR, f"secure aggregation: {error}") from error
        change, buffers, (loss, steps, share) = np.split(
            mean, [sent.vectors.shape[1], len(mean) - 3]
        )
        n_rows = sum(rows[name] for name in exchange.stayed)
        update = Update(
            (change / share)[None], max(1, round(steps / share)), float(loss / share), n_rows
        )
        return [(update, buffers / share)], len(exchange.stayed), exchange.errors


class _TooFew(Exception):
    pass


class _Exchange:
    """One sum: who is left after each exchange, and what went wrong with the others."""

    def __init__(self, group: Group, channels: Mapping[str, Channel]) -> None:
        self.group, self.left = group, dict(channels)
        self.errors: list[PartyError] = []
        self.stayed: list[str] = []

    def run(self, sent: Round, weights: Mapping[str, float]) -> np.ndarray:
        fit, members = sent.fit, self.group.members
        first = [begin(fit, sent.index, self.group, weights[name]) for name in self.left]
        keys = {n: read_keys(r.keys) for n, r in self._ask(first, PublicKeys).items()}
        packed = pack_keys(self.group, keys)
        shares = self._ask([Share(fit=fit, keys=packed)] * len(self.left), Shares)
        sealed = np.zeros((len(members), len(members), SEALED_BYTES), dtype=np.uint8)
        for name, reply in shares.items():
            if reply.sealed.shape != sealed.shape[1:]:
                raise PartyError(name, "sent shares for another number of members")
            sealed[self.group.place(name) - 1] = reply.sealed
        training = [
            SecureRound(
                fit=fit,
                index=sent.index,
                vectors=sent.vectors,
                buffers=sent.buffers,
                sealed=sealed[:, self.group.place(name) - 1],
            )
            for name in self.left
        ]
        masked = {n: r.values for n, r in self._ask(training, Masked).items()}
        length = sent.vectors.shape[1] + len(sent.buffers) + 3
        wrong = [name for name, values in masked.items() if len(values) != length]
        if wrong:
            raise PartyError(wrong[0], f"sent {len(masked[wrong[0]])} masked numbers, not {length}")
        self.stayed = list(masked)
        stayed = np.array([name in masked for name in members])
        asked = Reveal(fit=fit, stayed=stayed)
        revealed = {
            name: revealed_by(self.group, set(masked), set(shares), reply)
            for name, reply in self._ask([asked] * len(self.left), RevealedShares).items()
        }
        summed = total(self.group, keys, set(shares), masked, revealed)
        return read_sum(plan_sum(MAGNITUDE_BITS, len(members), DTYPE), summed)

    def _ask(self, requests: Sequence[Message], expected: type[R]) -> dict[str, R]:
        """Ask those that are left; who fails is left no more, and too few end the round."""
        answers = ask_all(list(self.left.values()), requests, expected)
        replies = dict(zip(self.left, answers, strict=True))
        came = {n: r for n, r in replies.items() if not isinstance(r, PartyError)}
        self.errors += [r for r in replies.values() if isinstance(r, PartyError)]
        self.left = {name: self.left[name] for name in came}
        if len(came) < self.group.threshold:
            raise _TooFew
        return came
