"""From a partner's bytes to the reply's bytes: all of the service but the transport.

Whatever comes in is answered, with a declared message: the protocol's reply, or an error. It is
looked at in the order of cost: size, frame, number, header, schema, policy, and only then is
anything computed. One line of the audit log is written before the reply leaves.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.identity import Partner
from fedtl.parties import PartyService, Policy, Usage
from fedtl.server._audit import AuditLog
from fedtl.server._callers import Bounds, Caller, Conversation, checksum
from fedtl.server._usage import UsageFile
from fedtl.wire import (
    Close,
    Closed,
    Describe,
    Description,
    Failure,
    Frame,
    Message,
    Tensor,
    WireError,
    decode,
    encode,
    failure,
    pack,
    unpack,
)

_log = logging.getLogger("fedtl.server")
_NOBODY = Frame(bytes(8), bytes(8), 1, b"")
_OPENS = ("session.open/", "row_session.open/")


@dataclass
class Metrics:
    """Counts since the start.

    Parameters
    ----------
    requests : Counter
        By kind of the request and outcome: ``"answered"``, ``"repeated"``, or an error's code.
    received_bytes, sent_bytes : int
        Of frames.
    seconds : float
        Spent on answers, summed.
    """

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    received_bytes: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0


class Endpoint:
    """A party's service as a function from a partner's bytes to bytes.

    It is safe to be called from many threads. A transport calls it with the partner that it has
    recognised: gRPC, or any other that carries bytes.

    Parameters
    ----------
    service : PartyService
        The party: table, recipe, protocols and policy.
    audit : AuditLog
        Where every request is written down.
    usages : UsageFile
        What callers have used of their quotas.
    bounds : Bounds, optional
        What one caller may take.
    shows_columns : bool, default=False
        Whether a description names the columns of the table.
    """

    def __init__(
        self,
        service: PartyService,
        audit: AuditLog,
        usages: UsageFile,
        *,
        bounds: Bounds | None = None,
        shows_columns: bool = False,
    ) -> None:
        self.service, self.audit, self.usages = service, audit, usages
        self.bounds, self.shows_columns = bounds or Bounds(), shows_columns
        self.metrics = Metrics()
        self._callers: dict[str, Caller] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Name of the party."""
        return self.service.name

    @property
    def n_sessions(self) -> int:
        """How many sessions are open, of all callers."""
        return sum(caller.n_sessions for caller in list(self._callers.values()))

    def answer(self, partner: Partner, data: bytes) -> bytes:
        """Answer a frame with a frame, whatever it holds.

        Parameters
        ----------
        partner : Partner
            Who sent it.
        data : bytes
            What came.

        Returns
        -------
        bytes
            The reply.
        """
        start = time.perf_counter()
        entry: dict[str, Any] = {"caller": partner.name, "certificate": partner.fingerprint[:16]}
        entry |= {"kind": "?", "bytes": len(data)}
        caller, frame = self.caller(partner.name), _NOBODY
        try:
            frame = unpack(data, self.service.policy.limits)
            self._refuse_helper(partner.name)
            with caller.flight():
                conversation = caller.conversation(frame)
                with conversation.lock:
                    reply = self._converse(caller, conversation, frame, entry)
        except (WireError, PartyError) as error:
            # Before there is a conversation: nothing was done that could be done twice.
            reply = self._reply(frame, failure(self.name, error), entry)
        self._count(entry, len(data), len(reply), time.perf_counter() - start)
        return reply

    def refuse(self, partner: Partner | None, problem: str) -> None:
        """Write down that somebody was refused by the transport."""
        who = {} if partner is None else {"caller": partner.name}
        self.audit.append(**who, kind="?", outcome="refused", problem=problem)

    def caller(self, name: str) -> Caller:
        """Return what is kept for a partner."""
        with self._lock:
            if name not in self._callers:
                own = PartyService(
                    self.service.name,
                    self.service.table,
                    self.service.recipe,
                    self.service.answers,
                    policy=self.service.policy,
                    usage=self.usages.of(name),
                    identity=self.service.identity,
                    caller=name,
                )
                self._callers[name] = Caller(own, self.bounds)
            return self._callers[name]

    def sweep(self) -> None:
        """End sessions that nobody has asked about for long, and force the log to the disk."""
        for name, caller in list(self._callers.items()):
            ended = caller.sweep()
            if ended:
                self.audit.append(caller=name, event="sessions expired", sessions=ended)
        self.audit.sync()

    def _refuse_helper(self, caller: str) -> None:
        """Answer nobody who is pinned for what it signs.

        A dealer could read the answers with what it dealt; a member of sums adds up with this
        party, and is not let in by that to ask it.
        """
        policy = self.service.policy
        for role, named in (("dealer", policy.dealers), ("member", policy.members)):
            if caller in (named or ()):
                raise PolicyRefusal(
                    self.name, f"{caller!r} is one of its {role}s, and a {role} is not answered"
                )

    def _converse(
        self, caller: Caller, conversation: Conversation, frame: Frame, entry: dict[str, Any]
    ) -> bytes:
        """Answer a message of a conversation, or repeat the reply to the last one."""
        repeated = conversation.repeated(frame)
        if repeated is not None:
            entry["outcome"] = "repeated"
            return repeated if self._written(entry) else self._unlogged_reply(frame)
        conversation.number = frame.number
        conversation.checksum = checksum(frame.body)
        reply = self._reply(frame, self._carry_out(caller, frame, entry), entry)
        caller.remember(conversation, reply)
        return reply

    def _carry_out(self, caller: Caller, frame: Frame, entry: dict[str, Any]) -> Message:
        try:
            self._check_log()
            request = decode(frame.body, self.service.policy.limits)
            entry |= _facts(request)
            if isinstance(request, Describe):
                return self._describe(caller)
            if isinstance(request, Close):
                return Closed(sessions=caller.close(request.session, frame.group))
            session = _session_of(request)
            opens = request.kind.startswith(_OPENS)
            with caller.session(session, frame.group, opens):
                return caller.service.answer(request)
        except (WireError, PartyError) as error:
            return failure(self.name, error)
        except Exception as error:  # whatever came, the service goes on
            _log.exception("an error of this party's own while it answered %s", entry["kind"])
            entry["problem"] = type(error).__name__
            return failure(self.name, error)

    def _reply(self, frame: Frame, message: Message, entry: dict[str, Any]) -> bytes:
        """Encode a reply and write its request down; what cannot be written is not answered."""
        try:
            body = encode(message)
            self.service.policy.limits.allow(len(body))
        except WireError as error:
            message = failure(self.name, error)
            body = encode(message)
        entry["outcome"] = message.code if isinstance(message, Failure) else "answered"
        if isinstance(message, Failure):
            entry.setdefault("problem", message.text[:200])
        entry["reply_bytes"] = len(body)
        if not self._written(entry):
            return self._unlogged_reply(frame)
        return _answering(frame, body)

    def _unlogged_reply(self, frame: Frame) -> bytes:
        return _answering(frame, encode(failure(self.name, self._unlogged())))

    def _check_log(self) -> None:
        """Carry nothing out that could not be written down."""
        if not self.audit.writable:
            try:
                self.audit.append(event="log writable again")
            except OSError:
                raise self._unlogged() from None

    def _unlogged(self) -> PartyError:
        return PartyError(
            self.name,
            "cannot write down what it answers (audit log or quotas), and answers nothing "
            "otherwise; ask the party to make room on its disk, and fit the estimator again",
        )

    def _written(self, entry: dict[str, Any]) -> bool:
        """Write a request down, and what it used of the quotas."""
        try:
            self.usages.save()
            self.audit.append(**entry)
        except OSError as error:
            _log.error("no request is answered: %s", error)
            entry["outcome"] = "unlogged"
            return False
        return True

    def _describe(self, caller: Caller) -> Description:
        policy, usage = self.service.policy, caller.service.usage.current()
        protocols = sorted({protocol for protocol, _ in self.service.answers.values()})
        told: dict[str, Any] = {
            "protocols": [p for p in protocols if _allows(policy, p)],
            "min_rows": policy.min_rows,
            "fits": {"allowed": policy.max_fits, "used": usage.fits},
            "predicted_rows": {
                "allowed": policy.max_predicted_rows,
                "used": usage.predicted_rows,
            },
            "aligned_ids": {"allowed": policy.max_aligned_ids, "used": usage.aligned_ids},
            "dealt_numbers": {"allowed": policy.max_dealt_numbers, "used": usage.dealt_numbers},
            "epsilon": _budget(policy, usage),
            "dealers": sorted(policy.dealers or ()),
            "members": sorted(policy.members or ()),
            "message_bytes": policy.limits.message_bytes,
            "sessions": caller.n_sessions,
            "columns": _columns(self.service.table.block) if self.shows_columns else None,
        }
        text = np.frombuffer(json.dumps(told).encode(), dtype=np.uint8)
        return Description(name=self.name, text=text)

    def _count(self, entry: dict[str, Any], received: int, sent: int, seconds: float) -> None:
        with self._lock:
            self.metrics.requests[entry["kind"], entry["outcome"]] += 1
            self.metrics.received_bytes += received
            self.metrics.sent_bytes += sent
            self.metrics.seconds += seconds


def _session_of(request: Message) -> str:
    """The session that a request belongs to; row-wise protocols call it by their fit."""
    return str(getattr(request, "session", "") or getattr(request, "fit", ""))


def _allows(policy: Policy, protocol: str) -> bool:
    try:
        policy.allow_protocol("", protocol)
    except PolicyRefusal:
        return False
    return True


def _budget(policy: Policy, usage: Usage) -> dict[str, Any] | None:
    """What fits with noise may spend and have spent, rounded up."""
    if policy.epsilon is None:
        return None
    return {
        "allowed": policy.epsilon,
        "used": math.ceil(1e4 * usage.epsilon(policy)) / 1e4,
        "delta": policy.delta,
        "renewed": usage.renewed(policy),
    }


def _answering(frame: Frame, body: bytes) -> bytes:
    return pack(Frame(frame.group, frame.conversation, frame.number, body, frame.compressed))


def _facts(request: Message) -> dict[str, Any]:
    """What of a request is written down: its kind, session, and how many rows it is about."""
    facts: dict[str, Any] = {"kind": request.kind}
    if session := _session_of(request):
        facts["session"] = session[:64]
    for name in ("context", "party"):
        if hasattr(request, name):
            facts[name] = getattr(request, name)[:64]
    for name, declared in request.schema.items():
        if isinstance(declared, Tensor) and declared.shape[0] in ("rows", "ids"):
            facts["rows"] = len(getattr(request, name))
    return facts


def _columns(block: Any) -> dict[str, str] | None:
    if not hasattr(block, "columns"):
        return None
    return {str(name): str(block[name].dtype) for name in block.columns}
