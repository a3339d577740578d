"""A party on the network: its service behind mutual TLS, its quotas, its audit log."""

from fedtl.server._audit import AuditError, AuditLog, Head, Verdict, read_head, verify
from fedtl.server._callers import Bounds
from fedtl.server._dealer import DealerFile, serve_dealer
from fedtl.server._endpoint import Endpoint, Metrics
from fedtl.server._grpc import Server
from fedtl.server._health import HealthServer
from fedtl.server._serve import (
    APPROVALS,
    AUDIT,
    USAGE,
    PartyFile,
    PolicySettings,
    read_table,
    serve,
)
from fedtl.server._usage import DailyUsage, UsageFile, approve, approved_fits

__all__ = [
    "APPROVALS",
    "AUDIT",
    "USAGE",
    "AuditError",
    "AuditLog",
    "Bounds",
    "DailyUsage",
    "DealerFile",
    "Endpoint",
    "Head",
    "HealthServer",
    "Metrics",
    "PartyFile",
    "PolicySettings",
    "Server",
    "UsageFile",
    "Verdict",
    "approve",
    "approved_fits",
    "read_head",
    "read_table",
    "serve",
    "serve_dealer",
    "verify",
]
