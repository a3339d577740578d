"""What all ends share: sealed bytes between the job's cells, and a sign of life for the server.

FLARE's documented messages go through its serialiser and a streaming layer that takes tens of
milliseconds a message. So the bytes travel on a channel of their own between the *core cells* of
the job's processes, which are underneath; this is not a documented interface, and the only file
that uses it is this one.
"""

from __future__ import annotations

from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode as TaskCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.defs import Encoding, MessageHeaderKey, MessageType, ReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.identity import get_cert_common_name_from_pem
from nvflare.fuel.f3.cellnet.utils import make_reply as make_cell_reply
from nvflare.fuel.f3.message import Message

TASK, ALIVE, ANSWERS = "fedtl.session", "fedtl.alive", "fedtl.answers"
CHANNEL, TOPIC = "fedtl", "ask"
_SEALED = "fedtl_sealed"


class Sealed:
    """The channel of a job's process: bytes that are encrypted and signed from site to site.

    Parameters
    ----------
    fl_ctx : FLContext
        Of the job.
    """

    def __init__(self, fl_ctx: FLContext) -> None:
        self.engine, self.job = fl_ctx.get_engine(), fl_ctx.get_job_id()
        self.core = self.engine.get_cell().core_cell
        if not self.core.credential_manager.enforce_identity:
            raise ValueError("this site was not provisioned for mutual TLS: nobody could be told")
        self.core.add_incoming_filter(CHANNEL, TOPIC, _sealed_only)

    def send(self, site: str, data: bytes, timeout: float) -> tuple[str, bytes]:
        """Send bytes to a site; return FLARE's code and the reply, or what went wrong."""
        target = FQCN.join([self.engine.get_client_from_name(site).get_fqcn(), self.job])
        reply = self.core.send_request(
            CHANNEL, TOPIC, target, Message(payload=data), timeout=timeout, secure=True
        )
        code = reply.get_header(MessageHeaderKey.RETURN_CODE, ReturnCode.OK)
        if code != ReturnCode.OK:
            return code, str(reply.get_header(MessageHeaderKey.ERROR, "")).encode()
        if not getattr(reply, _SEALED, False):
            return ReturnCode.AUTHENTICATION_ERROR, b"the reply was not sealed"
        return code, bytes(reply.payload)

    def serve(self, answer: Any) -> None:
        """Answer by a function.

        Parameters
        ----------
        answer : callable
            Called with the asking site's name, its certificate as PEM, and bytes; it returns
            bytes, or None for a site that is not answered.
        """

        def reply(request: Message) -> Message:
            origin = request.get_header(MessageHeaderKey.ORIGIN)
            if not getattr(request, _SEALED, False):
                return make_cell_reply(ReturnCode.UNAUTHENTICATED, "not sealed", b"")
            # The signature was checked against this certificate, and its name against the origin.
            certificate = self.core.credential_manager.get_certificate(origin)
            site = get_cert_common_name_from_pem(certificate)
            try:
                said = answer(site, certificate, bytes(request.payload))
            except Exception as error:
                return make_cell_reply(ReturnCode.PROCESS_EXCEPTION, type(error).__name__, b"")
            if said is None:
                return make_cell_reply(ReturnCode.UNAUTHENTICATED, "", b"")
            return make_cell_reply(ReturnCode.OK, "", said)

        self.core.register_request_cb(CHANNEL, TOPIC, reply)


class SiteExecutor(Executor):
    """A site's part in a session: it lasts as long as the session's one task.

    Attributes
    ----------
    answers : bool
        Whether it has begun to answer, which it tells with its sign of life.
    """

    answers = False

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Answer the server's question whether this process lives."""
        if event_type == EventType.START_RUN:
            fl_ctx.get_engine().register_aux_message_handler(ALIVE, self._alive)

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Take part until the session ends."""
        if task_name != TASK:
            return make_reply(TaskCode.TASK_UNKNOWN)
        try:
            self.take_part(fl_ctx, abort_signal)
        except Exception as error:
            self.log_exception(fl_ctx, f"this site's part in the session ended: {error}")
            return make_reply(TaskCode.EXECUTION_EXCEPTION)
        return make_reply(TaskCode.OK)

    def take_part(self, fl_ctx: FLContext, abort_signal: Signal) -> None:
        """Do what the site is there for, until the signal is given."""
        raise NotImplementedError

    def _alive(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        reply = make_reply(TaskCode.OK)
        reply.set_header(ANSWERS, self.answers)
        return reply


def _sealed_only(message: Message) -> Message | None:
    """Mark what is sealed; drop requests that are not, and whatever FLARE's serialiser would read.

    This comes before anything is decoded. That a message claims to be secure is not enough: FLARE
    takes one that is not encrypted for one that it has decrypted already. Replies that are not
    sealed are let through, because FLARE itself sends errors so.
    """
    encoding = message.get_header(MessageHeaderKey.PAYLOAD_ENCODING)
    sealed = (
        message.get_header(MessageHeaderKey.SECURE, False)
        and message.get_header(MessageHeaderKey.ENCRYPTED, False)
        and encoding == Encoding.BYTES
    )
    message.set_prop(_SEALED, sealed)
    is_reply = message.get_header(MessageHeaderKey.MSG_TYPE) == MessageType.REPLY
    if sealed or (is_reply and encoding in (Encoding.BYTES, Encoding.NONE)):
        return None
    return make_cell_reply(ReturnCode.UNAUTHENTICATED, "not sealed", b"")
