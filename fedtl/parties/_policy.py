"""What a party answers, decided and checked at its own side."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedtl.exceptions import PolicyRefusal
from fedtl.privacy.accounting import (
    Mechanism,
    check_epsilon_delta,
    check_spending,
    epsilon_of,
)
from fedtl.wire import Limits

PRIVATE = frozenset(
    {"alignment", "cardinality", "session", "private_moments", "private_latent", "predict"}
    | {"row_session", "rounds", "private_rounds"}
)
"""Protocols that tell which rows there are, what has noise, and scores of rows after the fit."""

CLEAR = frozenset(
    {"session.prepared/1", "rounds.update/1", "rounds.evaluated/1", "rounds.compared/1"}
)
"""Their replies that tell of training rows without noise."""


@dataclass(frozen=True)
class Policy:
    """The bounds within which a party answers.

    Parameters
    ----------
    protocols : frozenset of str, optional
        Names of the protocols that are answered, ``"session"`` and ``"moments"`` for example: those
        of the files in ``fedtl/protocols``; all of them by default.
    min_rows : int, default=1
        A sum over fewer rows than this is refused, as it would say too much about one row.
    max_fits : int, optional
        How many fits may be begun; no bound by default.
    max_predicted_rows : int, optional
        How many rows may be scored in all; no bound by default.
    max_aligned_ids : int, optional
        How many ids may be asked about in all, which bounds what can be found out by guessing
        ids; no bound by default.
    min_intersection : int, default=0
        A fit on fewer different rows of the party than this is refused, and so is counting an
        intersection with a smaller set.
    max_table_rows, max_table_bytes : int, optional
        A table of the party's own that is larger is not read into memory, nor made by the steps of
        a fit; no bound by default.
    max_row_scores : int, optional
        How many numbers about one training row a fit may be told, each a linear combination of the
        row's encoded columns or a score of trees; no bound by default. As many combinations as
        there are encoded columns give the row away.
    dealers : frozenset of str, optional
        Names of those whose randomness is used under secret shares. A remote party that names
        nobody takes no part in it; by default, as in a simulation, anybody's is used.
    max_dealt_numbers : int, optional
        How many random numbers a dealer deals in all; no bound by default.
    members : frozenset of str, optional
        Names of those with whom a remote party adds up under secure aggregation, beside itself and
        one member of the caller; it then checks that they are who they are said to be. By default
        the caller is taken at its word.
    epsilon : float, optional
        What differentially private fits may spend on its rows' privacy, in all. With it, protocols
        that tell of training rows without noise are refused; no bound by default.
    delta : float, default=1e-5
        Probability with which epsilon may not hold.
    epsilon_days : int, optional
        A remote party renews epsilon after so many days (in UTC, counted from 1970); never by
        default.
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
    max_aligned_ids: int | None = None
    min_intersection: int = 0
    max_table_rows: int | None = None
    max_table_bytes: int | None = None
    max_row_scores: int | None = None
    dealers: frozenset[str] | None = None
    max_dealt_numbers: int | None = None
    members: frozenset[str] | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    epsilon_days: int | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.epsilon is not None:
            check_epsilon_delta(self.epsilon, self.delta)
        if self.epsilon_days is not None and self.epsilon_days < 1:
            raise ValueError(f"epsilon_days must be at least 1, got {self.epsilon_days!r}")

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
        if self.epsilon is not None and protocol not in PRIVATE:
            self._refuse_clear(party, f"the protocol {protocol!r}")

    def allow_reply(self, party: str, kind: str) -> None:
        """Refuse to send what tells of training rows without noise, if their privacy is counted.

        Parameters
        ----------
        party : str
            Name of the party.
        kind : str
            Kind of the reply.

        Raises
        ------
        PolicyRefusal
            If there is a bound of epsilon.
        """
        if self.epsilon is not None and kind in CLEAR:
            self._refuse_clear(party, f"the reply {kind!r}")

    def _refuse_clear(self, party: str, what: str) -> None:
        raise PolicyRefusal(
            party,
            f"its policy bounds epsilon, and {what} tells of rows without noise; fit with "
            "privacy=DifferentialPrivacy(...), transfer estimators with solver='moments' or "
            "'latent'",
        )

    def allow_row_scores(self, party: str, n_scores: int) -> None:
        """Refuse to say too much about one training row.

        Parameters
        ----------
        party : str
            Name of the party.
        n_scores : int
            Numbers about one row, those of earlier answers in the same fit included.

        Raises
        ------
        PolicyRefusal
            Naming both numbers.
        """
        if self.max_row_scores is not None and n_scores > self.max_row_scores:
            raise PolicyRefusal(
                party,
                f"{n_scores} scores of one training row were asked for in this fit, its policy "
                f"allows {self.max_row_scores}; fewer outputs or folds ask for fewer",
            )

    def allow_dealers(self, party: str) -> None:
        """Refuse secret shares if the policy trusts no dealer.

        Parameters
        ----------
        party : str
            Name of the party.

        Raises
        ------
        PolicyRefusal
            If there is a list of dealers, and nobody on it.
        """
        if self.dealers is not None and not self.dealers:
            raise PolicyRefusal(
                party,
                "its policy names no dealer, and secret shares need one whom it trusts not to "
                "collude; ask the party to pin a dealer and to name it in dealers",
            )

    def allow_dealer(self, party: str, dealer: str | None) -> None:
        """Refuse randomness of somebody who is not trusted with dealing it.

        Parameters
        ----------
        party : str
            Name of the party.
        dealer : str or None
            Who has signed for it; None if nobody has who is known.

        Raises
        ------
        PolicyRefusal
            Naming the dealer and those that are trusted.
        """
        if self.dealers is not None and dealer not in self.dealers:
            who = "nobody whom it has pinned" if dealer is None else repr(dealer)
            raise PolicyRefusal(
                party,
                f"randomness was signed by {who}, and its policy takes that of the dealers "
                f"{sorted(self.dealers)} only",
            )

    def allow_members(self, party: str, members: Sequence[str], threshold: int) -> None:
        """Refuse a secure sum with others than those that are named.

        Parameters
        ----------
        party : str
            Name of the party.
        members : sequence of str
            Who adds up, the party included.
        threshold : int
            How many must stay.

        Raises
        ------
        PolicyRefusal
            Naming who is missing or too many, or the threshold that is needed.
        """
        if not self.members:
            return
        missing = sorted(self.members - set(members))
        others = sorted(set(members) - self.members - {party})
        if missing or len(others) > 1:
            more = f"{others} are more than the one that the caller may have of its own"
            raise PolicyRefusal(
                party,
                f"its policy takes part in secure sums with all of {sorted(self.members)}; "
                + (f"{missing} are missing" if missing else more),
            )
        # Of each secret there is one share a member, and the caller's own member may tell both
        # those who believe that somebody stayed and those who do not.
        least = (len(members) + len(others)) // 2 + 1
        if threshold < least:
            raise PolicyRefusal(
                party,
                f"{threshold} of {len(members)} members of a secure sum are to stay, its policy "
                f"takes part with a threshold from {least} on, so that no two groups can be told "
                "different things",
            )

    def allow_member_keys(
        self, party: str, member: str, signer: str | None, *, caller: str | None
    ) -> None:
        """Refuse keys for a secure sum that were not signed by the member they are said to be of.

        Parameters
        ----------
        party : str
            Name of the party.
        member : str
            Whose keys they are said to be.
        signer : str or None
            Who has signed them for this sum; None if nobody has who is known.
        caller : str or None
            Who asks, and signs for a member that the policy does not name.

        Raises
        ------
        PolicyRefusal
            Naming the member and whose signature is wanted.
        """
        if not self.members:
            return
        expected = member if member in self.members else caller
        if signer is None or signer != expected:
            who = "nobody whom it has pinned" if signer is None else repr(signer)
            raise PolicyRefusal(
                party,
                f"the keys of {member!r} were signed for this secure sum by {who}, and not by "
                f"{expected!r}: if its certificate is not pinned at this party, pin it with 'fedtl "
                "identity pin'; if it is, they were made or changed by somebody else",
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

    def allow_intersection(self, party: str, n_rows: int) -> None:
        """Refuse a fit on too few rows of the party.

        Parameters
        ----------
        party : str
            Name of the party.
        n_rows : int
            Different rows of the party's table that a fit is about.

        Raises
        ------
        PolicyRefusal
            Naming the number of rows and the least that is answered.
        """
        if n_rows < self.min_intersection:
            raise PolicyRefusal(
                party,
                f"{n_rows} rows or fewer are shared, its policy takes part from "
                f"{self.min_intersection} on; share more rows or ask the party to lower its bound",
            )

    def allow_table(
        self, party: str, *, n_rows: int | None = None, n_bytes: int | None = None
    ) -> None:
        """Refuse to read a table that is too large.

        Parameters
        ----------
        party : str
            Name of the party.
        n_rows, n_bytes : int, optional
            Its size so far, or in all.

        Raises
        ------
        PolicyRefusal
            Naming the bound.
        """
        for size, bound, unit in (
            (n_rows, self.max_table_rows, "rows"),
            (n_bytes, self.max_table_bytes, "bytes in memory"),
        ):
            if size is not None and bound is not None and size > bound:
                raise PolicyRefusal(
                    party,
                    f"its table has {size:,} {unit} or more, its policy allows {bound:,}; select "
                    f"fewer rows or columns, or raise max_table_{unit.split()[0]}",
                )


# One for all, and not an attribute: usages are copied and pickled with simulated parties.
_COUNTING = threading.RLock()


@dataclass
class Usage:
    """What has been used of a policy's quotas, over all sessions of one service.

    Counts are exact with callers in several threads.
    """

    fits: int = 0
    predicted_rows: int = 0
    aligned_ids: int = 0
    dealt_numbers: int = 0
    spent: list[Mechanism] = field(default_factory=list)

    def current(self) -> Usage:
        """Return the counts that the bounds hold for at this moment."""
        return self

    def begin_fit(self, party: str, policy: Policy) -> None:
        """Count one more fit, or refuse it."""
        with _COUNTING:
            if policy.max_fits is not None and self.fits >= policy.max_fits:
                raise PolicyRefusal(
                    party, f"its policy allows {policy.max_fits} fits; all are used"
                )
            self.fits += 1

    def predict(self, party: str, policy: Policy, n_rows: int) -> None:
        """Count rows to be scored, or refuse them."""
        with _COUNTING:
            used = self.predicted_rows + n_rows
            if policy.max_predicted_rows is not None and used > policy.max_predicted_rows:
                raise PolicyRefusal(
                    party,
                    f"its policy allows {policy.max_predicted_rows} predicted rows; "
                    f"{self.predicted_rows} are used and {n_rows} more were asked for",
                )
            self.predicted_rows = used

    def align(self, party: str, policy: Policy, n_ids: int) -> None:
        """Count ids that are asked about, or refuse them."""
        with _COUNTING:
            self.allow_align(party, policy, n_ids)
            self.aligned_ids += n_ids

    def allow_align(self, party: str, policy: Policy, n_ids: int) -> None:
        """Refuse to be asked about more ids than are left, without counting them."""
        if policy.max_aligned_ids is not None and self.aligned_ids + n_ids > policy.max_aligned_ids:
            raise PolicyRefusal(
                party,
                f"its policy allows {policy.max_aligned_ids} ids to be asked about; "
                f"{self.aligned_ids} are used and {n_ids} more were asked for",
            )

    def allow_spending(self, party: str, policy: Policy, mechanism: Mechanism) -> None:
        """Refuse what :meth:`spend` would, and note nothing."""
        if policy.epsilon is not None:
            with _COUNTING:
                check_spending(party, self.spent, mechanism, policy.epsilon, policy.delta)

    def spend(self, party: str, policy: Policy, mechanism: Mechanism) -> None:
        """Note what is about to be told of rows with noise, or refuse it."""
        with _COUNTING:
            self.allow_spending(party, policy, mechanism)
            if policy.epsilon is not None:
                self.spent.append(mechanism)

    def epsilon(self, policy: Policy) -> float:
        """Return what was spent on rows' privacy."""
        with _COUNTING:
            return epsilon_of(self.spent, policy.delta)

    def renewed(self, policy: Policy) -> str | None:
        """Return the day on which epsilon is renewed, in ISO form; None if it is not."""
        return None

    def deal(self, party: str, policy: Policy, n_numbers: int) -> None:
        """Count random numbers to be dealt, or refuse them."""
        with _COUNTING:
            used = self.dealt_numbers + n_numbers
            if policy.max_dealt_numbers is not None and used > policy.max_dealt_numbers:
                raise PolicyRefusal(
                    party,
                    f"its policy allows {policy.max_dealt_numbers} numbers to be dealt; "
                    f"{self.dealt_numbers} are used and {n_numbers} more were asked for",
                )
            self.dealt_numbers = used
