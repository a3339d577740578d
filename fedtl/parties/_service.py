"""The service object of a party: the same for simulated and for remote parties."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fedtl.exceptions import PartyError, SessionExpired
from fedtl.learning.columns import Columns
from fedtl.parties._features import LocalFeatures, Recipe
from fedtl.parties._policy import Policy, Usage
from fedtl.parties._rows import Rows
from fedtl.parties._table import Table
from fedtl.privacy import PrivacyBudget
from fedtl.wire import Message


@dataclass(eq=False)
class Session:
    """What a party keeps for one federated model.

    Parameters
    ----------
    features : LocalFeatures
        Its own preprocessing and encoding.
    ids : ndarray of shape (n_ids,), dtype int64
        The ids that the fit under way is about.
    columns : Columns or None
        Its rows in the order of these ids; only while a fit runs.
    known : ndarray of shape (n_ids,), dtype bool
        Which of those ids it knows.
    state : dict
        What each protocol keeps between its messages, by the protocol's own keys.
    """

    features: LocalFeatures
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    columns: Columns | None = None
    known: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=bool))
    state: dict[str, Any] = field(default_factory=dict)

    def read(self, table: Table) -> None:
        """Read the rows of the fit that is under way."""
        self.columns, self.known = self.features.read(table, self.ids)

    def encoded(self, rows: np.ndarray, rotated: bool = True) -> Iterator[tuple[slice, np.ndarray]]:
        """Encode training rows piece by piece; see :meth:`LocalFeatures.chunks`."""
        if self.columns is None:
            raise RuntimeError("no fit is under way")
        return self.features.chunks(self.columns, rows, rotated)

    def end_fit(self) -> None:
        """Forget the training rows and whatever only training needs."""
        self.columns = None
        self.ids, self.known = np.empty(0, dtype=np.int64), np.empty(0, dtype=bool)
        self.state = {key: value for key, value in self.state.items() if key.startswith("fitted")}


READING = "reading"
"""Where a party keeps how it reads its table for a row-wise fit."""

Answer = Callable[["PartyService", Any], Message]
"""One end of a protocol: from a request to its reply, at the party's side."""


class Signing(Protocol):
    """What a remote party states by signature; a :class:`fedtl.identity.Identity`."""

    def sign(self, statement: bytes) -> bytes:
        """Return a proof of a statement."""
        ...

    def signer(self, statement: bytes, proof: bytes) -> str | None:
        """Return who has stated it, None for whoever is not recognised."""
        ...


class PartyService:
    """A party: its table, its policy, its sessions.

    It is reached by messages only. Which messages it understands is given by the protocols that
    it was built with; which of them it answers is decided by its policy.

    Parameters
    ----------
    name : str
        Name of the party.
    table : Table, Rows or RowTable
        Its rows, in whatever form its protocols read them.
    recipe : Recipe or None
        How it encodes its columns; None where its protocols encode none.
    answers : mapping of str to (str, callable)
        For each kind of request, the name of its protocol and the function that answers it.
    policy : Policy, optional
        The bounds within which it answers.
    usage : Usage, optional
        What has been used of its quotas.
    budget : PrivacyBudget, optional
        What differentially private fits may spend of its rows' privacy; no bound by default.
    identity : Signing, optional
        By which it states what others hand on, and recognises what others state; simulated
        parties have none.
    caller : str, optional
        Who asks, as recognised by the transport; nobody in a simulation.
    """

    def __init__(
        self,
        name: str,
        table: Any,
        recipe: Recipe | None,
        answers: Mapping[str, tuple[str, Answer]],
        *,
        policy: Policy | None = None,
        usage: Usage | None = None,
        budget: PrivacyBudget | None = None,
        identity: Signing | None = None,
        caller: str | None = None,
    ) -> None:
        self.name, self.table, self.recipe = name, table, recipe
        self.answers = answers
        self.policy = policy or Policy()
        self.usage = usage or Usage()
        self.budget = budget
        self.identity, self.caller = identity, caller
        self.sessions: dict[str, Session] = {}
        self.fits: dict[str, dict[str, Any]] = {}

    def answer(self, request: Message) -> Message:
        """Answer one request.

        Parameters
        ----------
        request : Message
            A declared message that one of this party's protocols answers.

        Returns
        -------
        Message
            The reply that the protocol declares.

        Raises
        ------
        PolicyRefusal
            If the policy does not allow it.
        PartyError
            If the request cannot be answered.
        """
        if request.kind not in self.answers:
            raise PartyError(self.name, f"does not understand the message {request.kind!r}")
        protocol, answer = self.answers[request.kind]
        self.policy.allow_protocol(self.name, protocol)
        reply = answer(self, request)
        self.policy.allow_reply(self.name, reply.kind)
        return reply

    def session(self, name: str) -> Session:
        """Return an open session.

        Parameters
        ----------
        name : str
            Name of the session.

        Returns
        -------
        Session
            What the party keeps for it.

        Raises
        ------
        SessionExpired
            If there is none of that name.
        """
        try:
            return self.sessions[name]
        except KeyError:
            raise SessionExpired(
                self.name, "the session has ended; fit the estimator again"
            ) from None

    def row_fit(self, name: str) -> dict[str, Any]:
        """Return what row-wise protocols keep for one fit; the first call begins it.

        Parameters
        ----------
        name : str
            Name of the fit, the same for all parties.

        Returns
        -------
        dict of str to object
            What each protocol keeps between its messages, by the protocol's own keys.

        Raises
        ------
        PolicyRefusal
            If it is a new fit and the quota of fits is used up.
        """
        if name not in self.fits:
            self.usage.begin_fit(self.name, self.policy)
            self.fits[name] = {}
        return self.fits[name]

    def rows(self, fit: str) -> Rows:
        """Return the rows that a row-wise fit is about.

        Parameters
        ----------
        fit : str
            Name of the fit.

        Returns
        -------
        Rows
            All that the party has for it.

        Raises
        ------
        SessionExpired
            If the party was not told, or does not know any more, how to read its table for it.
        """
        if isinstance(self.table, Rows):
            return self.table
        reading = self.fits.get(fit, {}).get(READING)
        if reading is None:
            raise SessionExpired(self.name, "the fit has ended; fit the estimator again")
        found: Rows = self.table.rows(reading)
        return found

    def training_rows(self, session: Session, rows: np.ndarray) -> np.ndarray:
        """Return positions of known training rows as an index array, refusing any others.

        Parameters
        ----------
        session : Session
            The session of the fit.
        rows : ndarray of shape (n_rows,), dtype uint32
            Positions among the ids of the fit.

        Returns
        -------
        ndarray of shape (n_rows,), dtype int64
            The same positions.

        Raises
        ------
        PartyError
            If a position is out of range or the party does not know the row.
        """
        if session.columns is None:
            raise PartyError(self.name, "no fit is under way in this session")
        if len(rows) and (rows.max() >= len(session.known) or not session.known[rows].all()):
            raise PartyError(self.name, "a row was asked for that it does not know")
        return rows.astype(np.int64)

    def with_table(self, table: Any) -> PartyService:
        """Return a service over another table that shares this one's sessions and quotas.

        Parameters
        ----------
        table : Table or Rows
            The rows that a simulated party is asked about in one call.

        Returns
        -------
        PartyService
            A new service.
        """
        view = PartyService(
            self.name,
            table,
            self.recipe,
            self.answers,
            policy=self.policy,
            usage=self.usage,
            budget=self.budget,
            identity=self.identity,
            caller=self.caller,
        )
        view.sessions, view.fits = self.sessions, self.fits
        return view
