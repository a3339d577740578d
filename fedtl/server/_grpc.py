"""The service over gRPC with mutual TLS: one method, opaque bytes.

There is one generic method, ``/fedtl.Party/Ask``; what is asked is in the bytes. The handshake
is checked against exactly the certificates that are pinned (and the common authority's, if there
is one); every call again, so that whoever is revoked is not answered on an open connection.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from fedtl.identity import Identity
from fedtl.server._audit import AuditError
from fedtl.server._endpoint import Endpoint
from fedtl.wire import FRAME_BYTES

SERVICE, METHOD = "fedtl.Party", "Ask"
_WORKERS = 8
_WAITING = 64
_SWEEP_SECONDS = 1.0
_log = logging.getLogger("fedtl.server")


def import_grpc() -> Any:
    """Return the grpc module, or say which extra installs it."""
    try:
        import grpc
    except ImportError as error:
        raise ImportError("remote parties need gRPC: pip install 'fedtl[remote]'") from error
    return grpc


class Server:
    """A party that answers on the network; see :func:`serve`.

    Parameters
    ----------
    endpoint : Endpoint
        What answers.
    identity : Identity
        Whose key proves who this party is, and whom it recognises.
    address : str
        ``"host:port"``; port 0 takes any that is free.

    Attributes
    ----------
    address : str
        Where it listens, with the port that was taken.
    """

    def __init__(self, endpoint: Endpoint, identity: Identity, address: str) -> None:
        grpc = import_grpc()
        self.endpoint, self.identity = endpoint, identity
        # The matrices are small, and an answer must not depend on how many cores there are.
        self._threads = threadpool_limits(limits=1, user_api="blas")
        self._pool = ThreadPoolExecutor(_WORKERS, initializer=torch.set_num_threads, initargs=(1,))
        limit = endpoint.service.policy.limits.message_bytes + FRAME_BYTES
        self._server = grpc.server(
            self._pool,
            maximum_concurrent_rpcs=_WORKERS + _WAITING,
            options=[
                ("grpc.max_receive_message_length", min(limit, 2**31 - 1)),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", 4096),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.max_ping_strikes", 0),
            ],
        )
        handler = grpc.unary_unary_rpc_method_handler(self._ask)
        generic = grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})
        self._server.add_generic_rpc_handlers((generic,))
        self._seen = identity.version
        credentials = grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._changed, require_client_authentication=True
        )
        host = address.rpartition(":")[0]
        try:
            port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from None
        self.address = f"{host}:{port}"
        self._stopped = threading.Event()

    def start(self) -> Server:
        """Begin to answer, in threads of this process."""
        self.endpoint.audit.append(event="started", address=self.address)
        self._server.start()
        threading.Thread(target=self._sweep, name="fedtl sweep", daemon=True).start()
        return self

    def stop(self, grace: float = 30.0) -> None:
        """Take no more requests, finish those under way, close the audit log.

        Parameters
        ----------
        grace : float, default=30.0
            Seconds for requests that are under way; they are broken off afterwards.
        """
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._server.stop(grace).wait()
        self._pool.shutdown(wait=True)
        self._threads.restore_original_limits()
        try:
            self.endpoint.audit.append(event="stopped")
        except AuditError as error:
            _log.error("%s", error)
        self.endpoint.audit.close()

    def wait(self) -> None:
        """Wait until the server is stopped."""
        self._stopped.wait()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _ask(self, data: bytes, context: Any) -> bytes:
        grpc = import_grpc()
        shown = context.auth_context().get("x509_pem_cert", [b""])[0]
        partner = self.identity.recognise(shown)
        if partner is None:
            self.endpoint.refuse(None, "a certificate that is not pinned, or revoked")
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate is not recognised")
        assert partner is not None
        return self.endpoint.answer(partner, data)

    def _configuration(self) -> Any:
        identity = self.identity
        # Without a partner nobody is let in: nobody else has the key of this certificate.
        trusted = identity.trust() or identity.certificate
        return import_grpc().ssl_server_certificate_configuration(
            [(identity.key, identity.certificate)], trusted
        )

    def _changed(self) -> Any:
        """Return the certificates anew for a handshake if the identity's folder has changed."""
        try:
            version = self.identity.version
            if version == self._seen:
                return None
            configuration = self._configuration()
            self._seen = version
            return configuration
        except (OSError, ValueError):  # it is being changed at this moment
            return None

    def _sweep(self) -> None:
        while not self._stopped.wait(_SWEEP_SECONDS):
            try:
                self.endpoint.sweep()
            except OSError as error:
                _log.error("%s", error)
