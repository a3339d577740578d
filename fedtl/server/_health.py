"""Health and metrics over plain HTTP on the loopback interface.

They are for this machine only: a process supervisor, a container's health check, Prometheus. All
of these speak HTTP and hold no client certificate, and none of them is a partner; so they do not
go through the partners' port, and partners cannot reach them.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fedtl.server._endpoint import Endpoint


class HealthServer:
    """Answers ``/health`` and ``/metrics``.

    Parameters
    ----------
    endpoint : Endpoint
        What is asked about.
    address : str
        ``"127.0.0.1:port"``; another interface is refused.

    Raises
    ------
    ValueError
        If the address is not a loopback one.
    """

    def __init__(self, endpoint: Endpoint, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not ipaddress.ip_address(host.strip("[]")).is_loopback:
            raise ValueError(f"health and metrics are for this machine only, not for {address}")

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                answer = {"/health": _health, "/metrics": _metrics}.get(self.path)
                status, kind, text = answer(endpoint) if answer else (404, "text/plain", "")
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *arguments: Any) -> None:
                pass

        self._http = ThreadingHTTPServer((host.strip("[]"), int(port)), Handler)
        self.address = f"{host}:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, name="fedtl health", daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self._http.shutdown()
        self._http.server_close()


def _health(endpoint: Endpoint) -> tuple[int, str, str]:
    writable = endpoint.audit.writable
    told = {"party": endpoint.name, "answers": writable, "sessions": endpoint.n_sessions}
    return (200 if writable else 503), "application/json", json.dumps(told) + "\n"


def _metrics(endpoint: Endpoint) -> tuple[int, str, str]:
    metrics = endpoint.metrics
    lines = [
        f'fedtl_requests_total{{kind="{kind}",outcome="{outcome}"}} {count}'
        for (kind, outcome), count in sorted(metrics.requests.copy().items())
    ]
    lines += [
        f"fedtl_received_bytes_total {metrics.received_bytes}",
        f"fedtl_sent_bytes_total {metrics.sent_bytes}",
        f"fedtl_answer_seconds_total {metrics.seconds:.6f}",
        f"fedtl_sessions {endpoint.n_sessions}",
        f"fedtl_audit_lines {endpoint.audit.head.n}",
    ]
    return 200, "text/plain; version=0.0.4", "\n".join(lines) + "\n"
