"""What carries bytes to a party: gRPC with mutual TLS, and what any other transport must do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from fedtl.identity import Identity

_METHOD = "/fedtl.Party/Ask"
_FAILURES = 5
"""After so many one after the other, a connection is made from scratch."""


class Unreached(Exception):
    """Bytes were not answered.

    Parameters
    ----------
    problem : str
        What happened.
    final : bool
        Whether sending them again is of no use.
    too_large : bool, default=False
        Whether they are more than the other side takes.
    """

    def __init__(self, problem: str, final: bool, too_large: bool = False) -> None:
        super().__init__(problem)
        self.final, self.too_large = final, too_large


class Transport(Protocol):
    """Carries opaque bytes to one party and brings back its reply.

    Bytes that were sent may arrive twice or not at all: ids in them make that harmless.
    """

    def send(self, data: bytes, timeout: float) -> bytes:
        """Return the reply, or raise :class:`Unreached`; used by several threads at once."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class GrpcTransport:
    """One party over gRPC with mutual TLS.

    Parameters
    ----------
    name : str
        Name of the party, which its certificate must be for.
    address : str
        ``"host:port"``.
    identity : Identity
        Whose key is shown to the party, and the certificates it is recognised by.
    """

    def __init__(self, name: str, address: str, identity: Identity) -> None:
        self.name, self.address, self.identity = name, address, identity
        self._lock = threading.Lock()
        self._channel: Any = None
        self._call: Any = None
        self._version: tuple[int, ...] = ()
        self._failures = 0

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
            came = bytes(self._method()(data, timeout=timeout))
            self._failures = 0
            return came
        except grpc.RpcError as error:
            self._count(error)
            raise self._unreached(error) from None
        except ValueError as error:  # the channel was closed by another thread
            raise Unreached(str(error), final=False) from None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
            self._channel = self._call = None

    def _count(self, error: Any) -> None:
        """Note a failure; gRPC 1.68 never finds back by itself to a party that was started anew."""
        import grpc

        if error.code() == grpc.StatusCode.UNAVAILABLE:
            self._failures += 1
            if self._failures % _FAILURES == 0:
                self.close()

    def _method(self) -> Any:
        with self._lock:
            version = self.identity.version
            if self._channel is not None and version != self._version:
                # Pinned, revoked or rotated: the next handshake goes by the new certificates.
                self._channel.close()
                self._channel = None
            if self._channel is None:
                self._channel, self._version = self._connect(), version
                self._call = self._channel.unary_unary(_METHOD)
            return self._call

    def _connect(self) -> Any:
        import grpc

        trusted = self.identity.trust(self.name)
        if not trusted:
            raise Unreached(
                f"no certificate of {self.name!r} is pinned in {self.identity.directory}; get it "
                "from the party and run 'fedtl identity pin'",
                final=True,
            )
        credentials = grpc.ssl_channel_credentials(
            trusted, self.identity.key, self.identity.certificate
        )
        options = [
            ("grpc.ssl_target_name_override", self.name),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        return grpc.secure_channel(self.address, credentials, options=options)

    def _unreached(self, error: Any) -> Unreached:
        import grpc

        code, details = error.code(), str(error.details())
        if code == grpc.StatusCode.UNAUTHENTICATED:
            return Unreached(
                f"does not recognise this party's certificate {self.identity.fingerprint}; the "
                "other side has to pin it",
                final=True,
            )
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return Unreached(
                f"does not accept a message of this size: {details}", final=True, too_large=True
            )
        if "CERTIFICATE_VERIFY_FAILED" in details:
            return Unreached(
                f"what answers at {self.address} has not the certificate that is pinned for "
                f"{self.name!r}: {details}",
                final=True,
            )
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unreached(f"{self.address} did not answer in time", final=True)
        return Unreached(f"{self.address} cannot be reached: {details}", final=False)


def _grpc(name: str, address: str, credentials: str | Path) -> Transport:
    return GrpcTransport(name, address, Identity(credentials))


def _nvflare(name: str, address: str, credentials: str | Path) -> Transport:
    from fedtl.federation._nvflare import NvflareTransport

    return NvflareTransport(name, address, credentials)


# What stands behind the scheme, and what makes a transport of it.
_SCHEMES: dict[str, tuple[str, Callable[[str, str, str | Path], Transport]]] = {
    "grpc": (r".*:\d+", _grpc),
    "nvflare": (r"[\w.-]+", _nvflare),
}


def transport_for(name: str, address: str, credentials: str | Path) -> Transport:
    """Return the transport that an address asks for.

    Parameters
    ----------
    name : str
        Name of the party.
    address : str
        ``"host:port"``, or with a scheme in front: ``"grpc://host:port"``, ``"nvflare://site"``.
    credentials : str or Path
        Folder of whoever asks: its identity, or over NVIDIA FLARE the workspace of its site.

    Returns
    -------
    Transport
        Not connected yet.

    Raises
    ------
    FileNotFoundError
        If that folder does not hold what the transport needs.
    ValueError
        If the address has an unknown scheme, no port, or no site.
    """
    scheme, _, rest = address.rpartition("://")
    pattern, transport = _SCHEMES.get(scheme or "grpc", ("", _grpc))
    if not pattern or not re.fullmatch(pattern, rest):
        raise ValueError(
            f"party {name!r}: {address!r} is no address; write 'host:port', or a scheme in front "
            f"of it ({', '.join(_SCHEMES)}), as 'grpc://host:port' or 'nvflare://site'"
        )
    return transport(name, rest, credentials)
