"""The active party's side."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.defs import ReturnCode

from fedtl.federation._nvflare import METHOD, SERVICE, SITE, socket_of
from fedtl.nvflare._sealed import ALIVE, ANSWERS, Sealed, SiteExecutor

_WORKERS = 32
_PATIENCE = 5.0


class Asking(SiteExecutor):
    """Passes bytes on for programs of this machine that use ``nvflare://`` addresses.

    It listens on a socket in the site's workspace, in a folder that only the site's user may
    enter.
    """

    def take_part(self, fl_ctx: FLContext, abort_signal: Signal) -> None:
        """Pass bytes on until the session ends."""
        import grpc

        sealed = Sealed(fl_ctx)
        path = socket_of(fl_ctx.get_engine().get_workspace().get_root_dir())
        path.parent.mkdir(mode=0o700, exist_ok=True)
        os.chmod(path.parent, 0o700)
        if _somebody_listens(path):
            raise ValueError(f"another session of this site is open: {path}")
        path.unlink(missing_ok=True)  # of one that was killed
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        server = grpc.server(ThreadPoolExecutor(_WORKERS), options=options)
        handler = grpc.unary_unary_rpc_method_handler(_passes_on(sealed))
        generic = grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})
        server.add_generic_rpc_handlers((generic,))
        self._wait_for_answers(fl_ctx, abort_signal)
        server.add_insecure_port(f"unix:{path}")
        server.start()
        try:
            while not abort_signal.triggered:
                time.sleep(0.2)
        finally:
            server.stop(0).wait()
            path.unlink(missing_ok=True)

    def _wait_for_answers(self, fl_ctx: FLContext, abort_signal: Signal) -> None:
        """Wait until the others have begun: nothing is sealed for who is not there yet."""
        engine = fl_ctx.get_engine()
        sites = [client.name for client in engine.get_clients()]
        sites.remove(fl_ctx.get_identity_name())
        while sites and not abort_signal.triggered:
            replies = engine.send_aux_request(sites, ALIVE, Shareable(), _PATIENCE, fl_ctx)
            begun = {site for site, reply in replies.items() if reply.get_header(ANSWERS, False)}
            sites = [site for site in sites if site not in begun]
            time.sleep(0.2)


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as knock:
        return knock.connect_ex(str(path)) == 0


def _passes_on(sealed: Sealed) -> Any:
    import grpc

    aborts = {
        ReturnCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
        ReturnCode.AUTHENTICATION_ERROR: grpc.StatusCode.UNAUTHENTICATED,
        ReturnCode.MSG_TOO_BIG: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ReturnCode.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    }
    says = {
        ReturnCode.UNAUTHENTICATED: "does not answer this site: its party.toml has to name it "
        "among the callers",
        ReturnCode.MSG_TOO_BIG: "cannot be sent a message of this size by NVIDIA FLARE",
        ReturnCode.PROCESS_EXCEPTION: "has not begun to answer",
    }

    def ask(data: bytes, context: Any) -> bytes:
        site = dict(context.invocation_metadata()).get(SITE, "")
        if sealed.engine.get_client_from_name(site) is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"site {site!r} is not of this session")
        try:
            code, came = sealed.send(site, data, context.time_remaining())
        except RuntimeError as error:  # there was nobody to exchange certificates with
            code, came = ReturnCode.COMM_ERROR, str(error).encode()
        if code != ReturnCode.OK:
            said = says.get(code, "cannot be reached through the FLARE server")
            detail = f" ({code}: {came.decode(errors='replace')})"
            context.abort(
                aborts.get(code, grpc.StatusCode.ABORTED), f"site {site!r} {said}{detail}"
            )
        return came

    return ask
