"""What a party answers, decided and checked at its own side."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedtl.exceptions import PolicyRefusal
from fedtl.wire import Limits


@dataclass(frozen=True)
class Policy:
    """The bounds within which a party answers.

    Parameters
    ----------
    protocols : frozenset of str, optional
        Names of the protocols that are answered (``"session"``, ``"moments"``, ``"latent"``,
        ``"predict"``, ``"statistics"``, ``"shared"``, ``"personal"``, ``"rounds"``); all of them
        by default.
    min_rows : int, default=1
        A sum over fewer rows than this is refused, as it would say too much about one row.
    max_fits : int, optional
        How many fits may be begun; no bound by default.
    max_predicted_rows : int, optional
        How many rows may be scored in all; no bound by default.
    limits : Limits
        Sizes of messages that are accepted.

    Examples
    --------
    >>> from fedtl.parties import Policy
    >>> Policy(protocols=frozenset({"session", "moments", "predict"}), min_rows=50).min_rows
    50
    """

    protocols: frozenset[str] | None = None
    min_rows: int = 1
    max_fits: int | None = None
    max_predicted_rows: int | None = None
    limits: Limits = field(default_factory=Limits)

    def allow_protocol(self, party: str, protocol: str) -> None:
        """Refuse a protocol that is not on the list.

        Parameters
        ----------
        party : str
            Name of the party.
        protocol : str
            Name of the protocol.

        Raises
        ------
        PolicyRefusal
            Naming the protocol and those that are allowed.
        """
        if self.protocols is not None and protocol not in self.protocols:
            raise PolicyRefusal(
                party,
                f"its policy does not allow the protocol {protocol!r} "
                f"(allowed: {', '.join(sorted(self.protocols)) or 'none'})",
            )

    def allow_aggregate(self, party: str, n_rows: int) -> None:
        """Refuse a sum over too few rows.

        Parameters
        ----------
        party : str
            Name of the party.
        n_rows : int
            Rows that are summed over.

        Raises
        ------
        PolicyRefusal
            Naming the number of rows and the least that is answered.
        """
        if n_rows < self.min_rows:
            raise PolicyRefusal(
                party,
                f"a sum over {n_rows} rows was asked for, its policy answers from {self.min_rows}"
                " on; share more rows or ask the party to lower its bound",
            )


@dataclass
class Usage:
    """What has been used of a policy's quotas, over all sessions of one service."""

    fits: int = 0
    predicted_rows: int = 0

    def begin_fit(self, party: str, policy: Policy) -> None:
        """Count one more fit, or refuse it."""
        if policy.max_fits is not None and self.fits >= policy.max_fits:
            raise PolicyRefusal(party, f"its policy allows {policy.max_fits} fits; all are used")
        self.fits += 1

    def predict(self, party: str, policy: Policy, n_rows: int) -> None:
        """Count rows to be scored, or refuse them."""
        used = self.predicted_rows + n_rows
        if policy.max_predicted_rows is not None and used > policy.max_predicted_rows:
            raise PolicyRefusal(
                party,
                f"its policy allows {policy.max_predicted_rows} predicted rows; "
                f"{self.predicted_rows} are used and {n_rows} more were asked for",
            )
        self.predicted_rows = used
