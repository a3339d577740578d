"""A dealer on the network: somebody without data, who deals randomness to partners."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from fedtl.identity import Identity
from fedtl.parties import Policy
from fedtl.protocols.dealer import Dealer
from fedtl.server._audit import AuditLog
from fedtl.server._endpoint import Endpoint
from fedtl.server._grpc import Server
from fedtl.server._serve import AUDIT, USAGE, checked_settings
from fedtl.server._usage import UsageFile
from fedtl.wire import Limits


def serve_dealer(
    name: str,
    *,
    credentials: str | Path,
    state: str | Path,
    address: str = "127.0.0.1:0",
    policy: Policy | None = None,
    fsync: bool = False,
) -> Server:
    """Set up a dealer of secret shares that answers partners over gRPC with mutual TLS.

    Whoever runs it must have no interest in what either party knows, and collude with neither.

    Parameters
    ----------
    name : str
        Name of the dealer; that of its identity.
    credentials : str or Path
        Folder of its identity, in which the asking parties are pinned, and those that they ask.
    state : str or Path
        Folder for the audit log and what is used of the quota, made if it is not there. One
        server at a time may use it.
    address : str, default="127.0.0.1:0"
        Where to listen, as ``"host:port"``. Port 0 takes any that is free.
    policy : Policy, optional
        Its ``max_dealt_numbers``, for each caller and day (in UTC), and its ``limits``.
    fsync : bool, default=False
        Whether each line of the audit log is forced to the disk before the answer leaves;
        otherwise that is done once a second.

    Returns
    -------
    Server
        To be started with ``start()``, or by a ``with`` block that stops it.

    Raises
    ------
    ValueError
        If the identity is another's.
    OSError
        If the address is taken, or the state cannot be used.

    See Also
    --------
    fedtl.privacy.SecretSharing : How the asking side names it.
    fedtl.parties.Policy : ``dealers``, by which a party says whose randomness it uses.

    Examples
    --------
    >>> import tempfile
    >>> from fedtl.identity import Identity
    >>> from fedtl.server import serve_dealer
    >>> folder = tempfile.TemporaryDirectory()
    >>> notary = Identity.create(f"{folder.name}/notary", "notary")
    >>> with serve_dealer("notary", credentials=notary.directory, state=folder.name) as server:
    ...     server.address.startswith("127.0.0.1:")
    True
    >>> folder.cleanup()
    """
    identity = Identity(credentials)
    endpoint = open_dealer(name, identity, state=state, policy=policy, fsync=fsync)
    try:
        return Server(endpoint, identity, address)
    except BaseException:
        endpoint.audit.close()
        raise


def open_dealer(
    name: str,
    identity: Identity,
    *,
    state: str | Path,
    policy: Policy | None = None,
    fsync: bool = False,
) -> Endpoint:
    """Set up a dealer that answers bytes with bytes, whatever carries them.

    Parameters
    ----------
    name : str
        See :func:`serve_dealer` for this and the others.
    identity : Identity
        By which it signs, and recognises parties' keys.
    state : str or Path
        Folder for the audit log and what is used of the quota.
    policy : Policy, optional
        Quota and limits.
    fsync : bool, default=False
        Whether each line of the audit log is forced to the disk.

    Returns
    -------
    Endpoint
        With its audit log open.

    Raises
    ------
    ValueError
        If the identity is another's.
    OSError
        If the state cannot be used.
    """
    if identity.name != name:
        raise ValueError(
            f"the identity in {identity.directory} is that of {identity.name!r}, not of {name!r}; "
            "partners would refuse it"
        )
    state = Path(state)
    state.mkdir(parents=True, exist_ok=True)
    audit = AuditLog(state / AUDIT, every_line=fsync)
    try:
        service = Dealer(name, policy=policy, identity=identity)
        return Endpoint(service, audit, UsageFile(state / USAGE))
    except BaseException:
        audit.close()
        raise


@dataclass(frozen=True)
class DealerFile:
    """What a dealer's TOML file says. Paths are relative to the file.

    Parameters
    ----------
    name : str
        Name of the dealer.
    credentials : str
        Folder of the identity.
    state : str
        Folder of audit log and quota.
    listen : str
        Address for partners.
    health : str, optional
        Loopback address for health and metrics.
    fsync : bool
        See :func:`serve_dealer`.
    numbers_per_day : int, optional
        How many random numbers are dealt to each caller a day; no bound by default.
    message_mib : int
        Largest message, in MiB.
    callers : list of str, optional
        Sites that are answered over NVIDIA FLARE; nobody by default.
    folder : Path
        Where the file is.
    """

    name: str
    credentials: str = "identity"
    state: str = "state"
    listen: str = "0.0.0.0:9445"
    health: str | None = None
    fsync: bool = False
    numbers_per_day: int | None = None
    message_mib: int = 256
    callers: list[str] = field(default_factory=list)
    folder: Path = Path()

    @classmethod
    def read(cls, path: str | Path) -> DealerFile:
        """Read and check a file.

        Parameters
        ----------
        path : str or Path
            The TOML file.

        Returns
        -------
        DealerFile
            What it says.

        Raises
        ------
        ValueError
            Naming the entry that is missing, unknown or of the wrong type.
        """
        path = Path(path)
        said = tomllib.loads(path.read_text()) | {"folder": path.resolve().parent}
        read: DealerFile = checked_settings(cls, said, str(path))
        return read

    def server(self) -> Server:
        """Return the server that the file describes, not started yet."""
        return serve_dealer(
            self.name,
            credentials=self.folder / self.credentials,
            state=self.folder / self.state,
            address=self.listen,
            policy=self._policy(),
            fsync=self.fsync,
        )

    def endpoint(self) -> Endpoint:
        """Return what answers, for another transport."""
        return open_dealer(
            self.name,
            Identity(self.folder / self.credentials),
            state=self.folder / self.state,
            policy=self._policy(),
            fsync=self.fsync,
        )

    def _policy(self) -> Policy:
        limits = Limits(message_bytes=self.message_mib * 2**20)
        return Policy(max_dealt_numbers=self.numbers_per_day, limits=limits)
