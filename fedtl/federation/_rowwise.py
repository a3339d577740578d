"""Simulated parties that hold rows of the same kind."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

from fedtl.exceptions import PartyError
from fedtl.federation._channel import InProcessChannel
from fedtl.federation._ledger import Ledger
from fedtl.parties import Answer, PartyService, Policy, Rows, Signing, Usage
from fedtl.privacy import PrivacyBudget


class RowParties:
    """The services of simulated row-wise parties, with what they learnt but without rows.

    All parties answer. Whoever asks holds no rows: its own, if it has any, are one more party's.

    Parameters
    ----------
    names : iterable of str
        Names of the parties.
    answers : mapping of str to (str, callable)
        The protocols' ends at the parties' side.
    policies : mapping of str to Policy
        The policies of those that have one.
    usage : mapping of str to Usage
        What has been used of each party's quotas; one is made where it is a defaultdict.
    serialize : bool
        Whether messages are encoded and decoded.
    budget : PrivacyBudget, optional
        What differentially private fits may spend.
    identity : Signing, optional
        By which they sign, where other parties are remote: that of whoever holds their rows.

    Warns
    -----
    UserWarning
        If there is a policy for a name that is no party: it protects nobody.
    """

    def __init__(
        self,
        names: Iterable[str],
        answers: Mapping[str, tuple[str, Answer]],
        *,
        policies: Mapping[str, Policy],
        usage: Mapping[str, Usage],
        serialize: bool,
        budget: PrivacyBudget | None = None,
        identity: Signing | None = None,
    ) -> None:
        self.serialize, self.budget = serialize, budget
        self.services = {
            name: PartyService(
                name,
                Rows(()),
                None,
                answers,
                policy=policies.get(name),
                usage=usage[name],
                budget=budget,
                identity=identity,
            )
            for name in names
        }
        # No error: in a cross-validation that leaves out one party, its policy has no party.
        idle = sorted(set(policies) - set(self.services))
        if idle:
            warnings.warn(
                f"policies for {idle}, which own no row here; the parties are "
                f"{sorted(self.services)}",
                UserWarning,
                stacklevel=3,
            )

    def channels(self, rows: Mapping[str, Rows], ledger: Ledger) -> dict[str, InProcessChannel]:
        """Return a channel to each party that has rows here, which knows them while it lives.

        Parameters
        ----------
        rows : mapping of str to Rows
            Rows by party.
        ledger : Ledger
            Where messages are counted.

        Returns
        -------
        dict of str to InProcessChannel
            In the order of `rows`.

        Raises
        ------
        PartyError
            If a party is not one of these services, or has no row.
        """
        for name, own in rows.items():
            if name not in self.services:
                raise PartyError(
                    name, f"took no part in the fit; the parties are {list(self.services)}"
                )
            if not len(own):
                raise PartyError(name, "has no row; leave it out, or give it one")
        return {
            name: InProcessChannel(self.services[name].with_table(own), ledger, self.serialize)
            for name, own in rows.items()
        }
