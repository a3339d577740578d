"""Errors that name the party and the way out."""

from __future__ import annotations

__all__ = [
    "BudgetSpent",
    "DivergenceError",
    "DroppedPartyWarning",
    "PartyBusy",
    "PartyError",
    "PartyUnreachable",
    "PolicyRefusal",
    "SessionExpired",
    "StaleAlignment",
    "UnknownRowsWarning",
]


class PartyError(ValueError):
    """A party's block, table or answer cannot be used.

    Parameters
    ----------
    party : str
        Name of the party.
    problem : str
        What is wrong and what to do about it.
    """

    def __init__(self, party: str, problem: str) -> None:
        super().__init__(f"party {party!r}: {problem}")
        self.party = party
        self.problem = problem

    def __reduce__(self) -> tuple[type[PartyError], tuple[str, str]]:
        return type(self), (self.party, self.problem)


class PolicyRefusal(PartyError):
    """A party refuses a request because its own policy does not allow it."""


class BudgetSpent(PartyError):
    """A fit would spend more of an owner's privacy budget than is left."""


class StaleAlignment(PartyError):
    """Rows were named by positions of a table that a party does not have any more; align again."""


class SessionExpired(PartyError):
    """A party no longer has the session of a fit; the estimator must be fitted again."""


class PartyBusy(PartyError):
    """A party has no room for one more request at the moment; it may be repeated."""


class PartyUnreachable(PartyError):
    """A party did not answer in time, or could not be reached."""


class DivergenceError(PartyError):
    """Training came to NaN or infinity."""


class DroppedPartyWarning(UserWarning):
    """A party could not take part in a round, a prediction or at all; the others went on."""


class UnknownRowsWarning(UserWarning):
    """Rows were passed that no party knows; they are served by the training mean."""
