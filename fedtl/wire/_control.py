"""What every remote party answers beside the protocols: who is there, the end, an error.

Who learns what:

- ``party.describe/1`` and ``party.description/1`` give the active party what the party's policy
  says of itself: protocols, bounds, what is used of the quotas, and column names if the policy
  shows them. Nothing of any row.
- ``party.close/1`` and ``party.closed/1`` end sessions: the party forgets fitted models too.
- ``party.error/1`` says why a request was not answered. Its text is the party's own error, as it
  would be raised in a simulation; unforeseen errors are not told, only that there was one.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from fedtl.exceptions import (
    BudgetSpent,
    PartyBusy,
    PartyError,
    PolicyRefusal,
    SessionExpired,
    StaleAlignment,
)
from fedtl.wire._message import Message, Tensor, WireError, message

_MAX_TEXT = 2000


@message("party.describe/1")
class Describe(Message):
    """Ask a party to describe itself."""


@message("party.description/1")
class Description(Message):
    """What a party says of itself, as JSON."""

    name: str
    text: Annotated[np.ndarray, Tensor("uint8", ("bytes",))]


@message("party.close/1")
class Close(Message):
    """End a session, or all sessions of the handle that asks if `session` is empty."""

    session: str


@message("party.closed/1")
class Closed(Message):
    """How many sessions have ended."""

    sessions: int


@message("party.error/1")
class Failure(Message):
    """Why a request was not answered."""

    code: str
    party: str
    text: str


class ConversationLost(PartyError):
    """The party does not know the conversation: it was started anew, or forgot it."""


_CODES: dict[str, type[PartyError]] = {
    "policy": PolicyRefusal,
    "budget": BudgetSpent,
    "session": SessionExpired,
    "busy": PartyBusy,
    "alignment": StaleAlignment,
    "conversation": ConversationLost,
    "party": PartyError,
}


def failure(party: str, error: Exception) -> Failure:
    """Return the message that tells an error.

    Parameters
    ----------
    party : str
        Name of the party that could not answer.
    error : Exception
        What was raised there.

    Returns
    -------
    Failure
        With the code of the first class that fits. An error that is neither a party's nor the
        wire's is not told.
    """
    if isinstance(error, WireError):
        return Failure(code="wire", party=party, text=_short(str(error)))
    for code, cls in _CODES.items():
        if isinstance(error, cls):
            return Failure(code=code, party=error.party, text=_short(error.problem))
    text = "could not answer because of an error of its own; its log says which"
    return Failure(code="party", party=party, text=text)


def raised(told: Failure, party: str) -> Exception:
    """Return the error that a message tells, of the type that was raised at the other side.

    Parameters
    ----------
    told : Failure
        What came.
    party : str
        Name under which the party is known here.

    Returns
    -------
    Exception
        To be raised.
    """
    if told.code == "wire":
        return WireError(f"party {party!r}: {_short(told.text)}")
    return _CODES.get(told.code, PartyError)(party, _short(told.text))


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."
