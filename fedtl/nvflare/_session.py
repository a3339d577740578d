"""The FLARE server's side."""

from __future__ import annotations

import time

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from fedtl.nvflare._sealed import ALIVE, TASK

_EVERY, _PATIENCE = 2.0, 5.0
_LOST_AFTER = 15.0
_STARTING = 60.0


class Session(Controller):
    """Holds the job open, and aborts it when a site ends its part or is not heard of any more.

    It sees none of the messages.
    """

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Do nothing: all is in `control_flow`."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Do nothing: the sites are told by FLARE."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Give every site its task, and watch them until the job is aborted."""
        engine = fl_ctx.get_engine()
        sites = [client.name for client in engine.get_clients()]
        self._ended: list[str] = []
        task = Task(name=TASK, data=Shareable(), result_received_cb=self._part_ended)
        self.broadcast(task, fl_ctx, targets=sites, min_responses=len(sites))
        until = time.monotonic() + _STARTING
        while len(task.client_tasks) < len(sites) and time.monotonic() < until:
            time.sleep(0.1)
            if abort_signal.triggered:
                return
        heard = dict.fromkeys(sites, time.monotonic())
        while not abort_signal.triggered:
            replies = engine.send_aux_request(sites, ALIVE, Shareable(), _PATIENCE, fl_ctx)
            now = time.monotonic()
            for site, reply in replies.items():
                if reply.get_return_code() == ReturnCode.OK:
                    heard[site] = now
            lost = [site for site, at in heard.items() if now - at > _LOST_AFTER]
            if self._ended or lost:
                told = self._ended + [f"site {site!r} is not heard of any more" for site in lost]
                self.system_panic("the session is aborted: " + "; ".join(told), fl_ctx)
                return
            time.sleep(_EVERY)

    def process_result_of_unknown_task(
        self,
        client: Client,
        task_name: str,
        client_task_id: str,
        result: Shareable,
        fl_ctx: FLContext,
    ) -> None:
        """Take no notice: it is that of a session which has ended."""

    def _part_ended(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        code = client_task.result.get_return_code()
        self._ended.append(f"site {client_task.client.name!r} ended its part ({code}); see its log")
