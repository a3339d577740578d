"""The party service over NVIDIA FLARE: a session job of classes that every site has installed.

One job is a session. At the passive parties' sites :class:`Answering` hands bytes to the party's
:class:`~fedtl.server.Endpoint`; at the active party's site :class:`Asking` listens on a socket for
an ordinary Python process of the same machine; at the FLARE server :class:`Session` holds the job
open and aborts it when a site is lost. None of them learns anything. :func:`write_job` writes the
job's folder.

FLARE's server only passes messages on: they are encrypted from site to site with the sites' own
certificates, and they are plain bytes, so that its serialiser has nothing to do with them.
"""

try:
    import nvflare  # noqa: F401
except ImportError as error:
    raise ImportError(
        "parties over NVIDIA FLARE need nvflare: pip install 'fedtl[nvflare]', in an environment "
        "of its own if its pins ask for it"
    ) from error

from fedtl.nvflare._answering import Answering
from fedtl.nvflare._asking import Asking
from fedtl.nvflare._job import write_job
from fedtl.nvflare._session import Session

__all__ = ["Answering", "Asking", "Session", "write_job"]
