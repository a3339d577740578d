"""The passive party's side."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from threadpoolctl import threadpool_limits

from fedtl.identity import Partner, fingerprint_of
from fedtl.nvflare._sealed import Sealed, SiteExecutor
from fedtl.server import AuditError, DealerFile, Endpoint, PartyFile

_WORKERS = 8
_SWEEP_SECONDS = 1.0


class Answering(SiteExecutor):
    """Hands bytes to the party's endpoint: policy, quotas, audit and sessions are those of gRPC.

    What the party is, it reads from ``local/party.toml`` of the site's own workspace, or from
    ``local/dealer.toml`` where the site deals randomness; nothing of it comes with the job, and
    the class takes no arguments. The file's ``callers`` are the sites that are answered.
    """

    def take_part(self, fl_ctx: FLContext, abort_signal: Signal) -> None:
        """Answer until the session ends."""
        local = Path(fl_ctx.get_engine().get_workspace().get_site_config_dir())
        dealer = local / "dealer.toml"
        party: PartyFile | DealerFile = (
            DealerFile.read(dealer) if dealer.exists() else PartyFile.read(local / "party.toml")
        )
        site = fl_ctx.get_identity_name()
        if party.name != site:
            raise ValueError(f"its TOML file is that of {party.name!r}, and this site is {site!r}")
        if not party.callers:
            raise ValueError("its TOML file names no callers: nobody would be answered")
        endpoint = party.endpoint()
        # The matrices are small, and an answer must not depend on how many cores there are.
        threads = threadpool_limits(limits=1, user_api="blas")
        pool = ThreadPoolExecutor(_WORKERS, initializer=torch.set_num_threads, initargs=(1,))
        try:
            endpoint.audit.append(event="started", address=f"nvflare://{site}")
            Sealed(fl_ctx).serve(_answers(endpoint, pool, frozenset(party.callers)))
            self.answers = True
            while not abort_signal.triggered:
                time.sleep(_SWEEP_SECONDS)
                try:
                    endpoint.sweep()
                except OSError as error:
                    self.log_error(fl_ctx, str(error))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            with contextlib.suppress(AuditError):
                endpoint.audit.append(event="stopped")
            endpoint.audit.close()
            threads.restore_original_limits()


def _answers(
    endpoint: Endpoint, pool: ThreadPoolExecutor, callers: frozenset[str]
) -> Callable[[str, bytes, bytes], bytes | None]:
    def answer(site: str, certificate: bytes, data: bytes) -> bytes | None:
        partner = Partner(site, fingerprint_of(certificate))
        if site not in callers:
            endpoint.refuse(partner, "a site that is not among the callers")
            return None
        return pool.submit(endpoint.answer, partner, data).result()

    return answer
