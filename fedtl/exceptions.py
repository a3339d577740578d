"""Errors that name the party and the way out."""

from __future__ import annotations

__all__ = [
    "DivergenceError",
    "DroppedPartyWarning",
    "PartyError",
    "PolicyRefusal",
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


class DivergenceError(PartyError):
    """Training came to NaN or infinity."""


class DroppedPartyWarning(UserWarning):
    """A party could not take part in a round, or at all; the others went on without it."""


class UnknownRowsWarning(UserWarning):
    """Rows were passed that no party knows; they are served by the training mean."""
