"""Bytes to a party through NVIDIA FLARE, by the socket of a session at this party's own site."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from fedtl.federation._transport import Unreached

SERVICE, METHOD = "fedtl.Session", "Ask"
SITE = "site"  # the metadata that says which site is meant
_STARTUP = "startup/fed_client.json"
_LONGEST = 100  # what sockets take as a name on all systems


def socket_of(workspace: str | Path) -> Path:
    """Return where the session of a site listens for programs of the same machine and user."""
    path = Path(workspace).resolve() / "fedtl" / "socket"
    if len(str(path)) > _LONGEST:
        raise ValueError(
            f"{path} is too long for the name of a socket ({_LONGEST} characters): move the "
            "workspace of the site, or link to it, where its path is shorter"
        )
    return path


class NvflareTransport:
    """One party over NVIDIA FLARE.

    Parameters
    ----------
    name : str
        Name of the party.
    site : str
        Name of its site.
    workspace : str or Path
        Workspace of this party's own site, with its startup kit.

    Raises
    ------
    FileNotFoundError
        If there is no startup kit in that folder.
    """

    def __init__(self, name: str, site: str, workspace: str | Path) -> None:
        self.name, self.site = name, site
        if not (Path(workspace) / _STARTUP).is_file():
            raise FileNotFoundError(
                f"{workspace} holds no {_STARTUP}: with nvflare:// addresses, credentials is the "
                "workspace of this party's own site, which 'nvflare provision' has made"
            )
        self.socket = socket_of(workspace)
        self._lock = threading.Lock()
        self._channel: Any = None

    def send(self, data: bytes, timeout: float) -> bytes:
        """Send bytes and return the reply.

        Parameters
        ----------
        data : bytes
            What is sent.
        timeout : float
            Seconds.

        Returns
        -------
        bytes
            What came back.

        Raises
        ------
        Unreached
            If nothing did.
        """
        import grpc

        try:
            call = self._connected().unary_unary(f"/{SERVICE}/{METHOD}")
            return bytes(call(data, timeout=timeout, metadata=[(SITE, self.site)]))
        except grpc.RpcError as error:
            raise self._unreached(error) from None
        except ValueError as error:  # the channel was closed by another thread
            raise Unreached(str(error), final=False) from None

    def close(self) -> None:
        """Close the connection to the session."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
            self._channel = None

    def _connected(self) -> Any:
        import grpc

        with self._lock:
            if self._channel is None:
                options = [
                    ("grpc.max_send_message_length", -1),
                    ("grpc.max_receive_message_length", -1),
                    ("grpc.enable_retries", 0),
                    ("grpc.initial_reconnect_backoff_ms", 100),
                    ("grpc.min_reconnect_backoff_ms", 100),
                    ("grpc.max_reconnect_backoff_ms", 1_000),
                    ("grpc.use_local_subchannel_pool", 1),
                ]
                # A socket of this machine, which only this user may open.
                self._channel = grpc.insecure_channel(f"unix:{self.socket}", options=options)
            return self._channel

    def _unreached(self, error: Any) -> Unreached:
        import grpc

        code, details = error.code(), str(error.details())
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND):
            return Unreached(details, final=True)
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Unreached(details, final=True, too_large=True)
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unreached(f"site {self.site!r} did not answer in time", final=True)
        if code == grpc.StatusCode.ABORTED:  # the session itself says what happened
            return Unreached(details, final=False)
        why = details.rpartition("error: ")[2]
        return Unreached(
            f"no session answers at {self.socket} ({why}); see whether its job is running "
            "('nvflare job list'), and start one",
            final=False,
        )
