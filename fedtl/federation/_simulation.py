"""Parties simulated in this process, each behind its own service and policy."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedtl.federation._channel import Channel, InProcessChannel
from fedtl.federation._ledger import Ledger
from fedtl.federation._rowwise import RowParties
from fedtl.parties import Answer, PartyService, Policy, Recipe, Table, Usage
from fedtl.privacy import PrivacyBudget


class Simulation:
    """How the parties whose columns or rows are in X are simulated.

    ``federation=None`` means ``Simulation()``. A simulated party is the service object of a real
    one, and is reached by messages only.

    Parameters
    ----------
    serialize : bool, default=False
        Encode and decode every message, as between machines. The model is the same; it shows
        that nothing crosses but declared messages, and costs a little time.
    policies : mapping of str to Policy, optional
        The policy of a party by its name; parties that are not named answer everything. Quotas
        count over all fits that use this object in one process, clones of estimators included.
    budget : PrivacyBudget, optional
        What differentially private fits may spend in all, in whatever process; no bound by default.

    Examples
    --------
    >>> from fedtl.federation import Simulation
    >>> from fedtl.parties import Policy
    >>> Simulation(policies={"shop": Policy(min_rows=20)})
    Simulation(serialize=False, policies={'shop': Policy(min_rows=20, ...)})
    """

    def __init__(
        self,
        serialize: bool = False,
        policies: Mapping[str, Policy] | None = None,
        budget: PrivacyBudget | None = None,
    ) -> None:
        self.serialize = serialize
        self.policies = policies
        self.budget = budget
        self._usage: defaultdict[str, Usage] = defaultdict(Usage)

    def __sklearn_clone__(self) -> Simulation:
        # A federation is not a parameter to be copied: the quotas of its parties count over all
        # estimators that use it, over a cross-validation, say.
        return self

    def parties(
        self, recipes: Mapping[str, Recipe], answers: Mapping[str, tuple[str, Answer]]
    ) -> SimulatedParties:
        """Return services for these parties.

        Parameters
        ----------
        recipes : mapping of str to Recipe
            The encoder of each party that is not the active one, by its name.
        answers : mapping of str to (str, callable)
            The protocols' ends at the parties' side.

        Returns
        -------
        SimulatedParties
            One service for each party.

        Raises
        ------
        ValueError
            If there is a policy for a party that does not exist.
        """
        policies = dict(self.policies or {})
        unknown = sorted(set(policies) - set(recipes))
        if unknown:
            raise ValueError(
                f"policies for {unknown}, which are no parties beside the active one; "
                f"those are {sorted(recipes)}"
            )
        return SimulatedParties(
            [
                PartyService(
                    name,
                    Table(()),
                    recipe,
                    answers,
                    policy=policies.get(name),
                    usage=self._usage[name],
                    budget=self.budget,
                )
                for name, recipe in recipes.items()
            ],
            self.serialize,
        )

    def rows_elsewhere(self, ledger: Ledger) -> dict[str, Channel]:
        """Return channels to parties whose rows are not in X, of which a simulation has none."""
        return {}

    def row_parties(
        self, names: Iterable[str], answers: Mapping[str, tuple[str, Answer]]
    ) -> RowParties:
        """Return services for parties that hold rows of the same kind.

        Parameters
        ----------
        names : iterable of str
            Names of the parties.
        answers : mapping of str to (str, callable)
            The protocols' ends at the parties' side.

        Returns
        -------
        RowParties
            One service for each party.

        Warns
        -----
        UserWarning
            If there is a policy for a name that is no party.
        """
        return RowParties(
            names,
            answers,
            policies=self.policies or {},
            usage=self._usage,
            serialize=self.serialize,
            budget=self.budget,
        )

    def __repr__(self) -> str:
        policies = {
            name: f"Policy(min_rows={policy.min_rows}, ...)"
            for name, policy in (self.policies or {}).items()
        }
        shown = ", ".join(f"{name!r}: {policy}" for name, policy in policies.items())
        return f"Simulation(serialize={self.serialize}, policies={{{shown}}})"


class SimulatedParties:
    """The services of simulated parties, with what they learnt but without rows.

    Parameters
    ----------
    services : sequence of PartyService
        One for each party.
    serialize : bool
        Whether messages are encoded and decoded.
    """

    def __init__(self, services: Sequence[PartyService], serialize: bool) -> None:
        self.services, self.serialize = list(services), serialize

    @property
    def names(self) -> list[str]:
        """Names of the parties."""
        return [service.name for service in self.services]

    def resumed(self) -> SimulatedParties:
        """Return copies to train on: a fit that fails must leave nothing half-trained behind."""
        # Quotas are not copied: they count over all fits.
        return copy.deepcopy(self, {id(s.usage): s.usage for s in self.services})

    def channels(self, blocks: Sequence[Any], ledger: Ledger) -> list[InProcessChannel]:
        """Return a channel to each party, which knows these blocks for as long as it lives.

        Parameters
        ----------
        blocks : sequence of (ndarray or dataframe of shape (n_rows, n_columns))
            The parties' columns.
        ledger : Ledger
            Where messages are counted.

        Returns
        -------
        list of InProcessChannel
            In the order of the parties.
        """
        return [
            InProcessChannel(service.with_table(Table(block)), ledger, self.serialize)
            for service, block in zip(self.services, blocks, strict=True)
        ]
