"""A party on the network, from Python or from a file."""

from __future__ import annotations

import os
import secrets
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fedtl.identity import Identity
from fedtl.learning.local import LocalRecipe
from fedtl.parties import Answer, KeyedTable, PartyService, Policy, Recipe, RowTable
from fedtl.privacy.accounting import check_installed
from fedtl.protocols import ANSWERS, REMOTE_ROW_ANSWERS, tuning_answers
from fedtl.server._audit import AuditLog
from fedtl.server._callers import Bounds
from fedtl.server._endpoint import Endpoint
from fedtl.server._grpc import Server
from fedtl.server._usage import UsageFile
from fedtl.wire import Limits

AUDIT, USAGE, APPROVALS, SECRET = "audit.jsonl", "usage.json", "approvals", "alignment.key"


class Trainer(Protocol):
    """What knows a model and how it is trained, as :class:`fedtl.FederatedFineTuner` does."""

    def local_recipe(self) -> LocalRecipe:
        """Return the model and how it is trained at a party."""
        ...


@dataclass
class PlainRecipe:
    """The encoding of a party that gives no encoder."""

    preprocessor: Any = None
    module: Any = None
    frozen: Any = False
    lr: float | None = None


def serve(
    name: str,
    table: Any,
    encoder: Recipe | None = None,
    *,
    credentials: str | Path,
    state: str | Path,
    address: str = "127.0.0.1:0",
    trainer: Trainer | None = None,
    policy: Policy | None = None,
    approval: bool = False,
    shows_columns: bool = False,
    session_hours: float = 24.0,
    fsync: bool = False,
) -> Server:
    """Set up a party that answers partners over gRPC with mutual TLS.

    Parameters
    ----------
    name : str
        Name of the party; that of its identity.
    table : KeyedTable, RowTable, ndarray or dataframe of shape (n_rows, n_columns)
        Its rows. The index of a pandas frame holds their ids; row ``i`` of an array has the id
        ``i``. A :class:`~fedtl.parties.RowTable` is for training with parties that record the
        same columns of other rows.
    encoder : Encoder, optional
        How it encodes its columns.
    credentials : str or Path
        Folder of its identity; see :class:`fedtl.identity.Identity`.
    state : str or Path
        Folder for the audit log and what is used of the quotas, made if it is not there. One
        server at a time may use it.
    address : str, default="127.0.0.1:0"
        Where to listen, as ``"host:port"``. Port 0 takes any that is free.
    trainer : FederatedFineTuner, optional
        With a RowTable: the model that may be trained in rounds on its rows, and how, as the
        partners have it too. Which model it is does not cross. Exact models need none.
    policy : Policy, optional
        What it answers. Quotas are for each caller and day (in UTC).
    approval : bool, default=False
        Whether a person has to approve each fit, by ``fedtl approve``.
    shows_columns : bool, default=False
        Whether partners are told the names and types of the columns.
    session_hours : float, default=24.0
        How long a session, with the model fitted in it, is kept that nobody asks about.
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
        If the identity is another party's.
    OSError
        If the address is taken, or the state cannot be used.

    See Also
    --------
    fedtl.federation.Federation.connect : The other end.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from fedtl.identity import Identity
    >>> from fedtl.server import serve
    >>> folder = tempfile.TemporaryDirectory()
    >>> identity = Identity.create(f"{folder.name}/shop", "shop")
    >>> table = np.random.default_rng(0).normal(size=(100, 3))
    >>> with serve("shop", table, credentials=identity.directory, state=folder.name) as server:
    ...     server.address.startswith("127.0.0.1:")
    True
    >>> folder.cleanup()
    """
    identity = Identity(credentials)
    endpoint = open_endpoint(
        name,
        table,
        encoder,
        identity=identity,
        state=state,
        trainer=trainer,
        policy=policy,
        approval=approval,
        shows_columns=shows_columns,
        session_hours=session_hours,
        fsync=fsync,
    )
    try:
        return Server(endpoint, identity, address)
    except BaseException:
        endpoint.audit.close()
        raise


def open_endpoint(
    name: str,
    table: Any,
    encoder: Recipe | None = None,
    *,
    identity: Identity | None = None,
    state: str | Path,
    trainer: Trainer | None = None,
    policy: Policy | None = None,
    approval: bool = False,
    shows_columns: bool = False,
    session_hours: float = 24.0,
    fsync: bool = False,
) -> Endpoint:
    """Set up a party that answers bytes with bytes, whatever carries them.

    Parameters
    ----------
    name : str
        See :func:`serve` for this and the others.
    table : KeyedTable, RowTable, ndarray or dataframe
        Its rows.
    encoder : Encoder, optional
        How it encodes its columns.
    identity : Identity, optional
        By which it signs, and recognises the dealers and members that its policy names.
    state : str or Path
        Folder for the audit log and what is used of the quotas.
    trainer : FederatedFineTuner, optional
        What may be trained in rounds.
    policy : Policy, optional
        What it answers. One that says nothing of dealers trusts none here.
    approval : bool, default=False
        Whether a person has to approve each fit.
    shows_columns : bool, default=False
        Whether partners are told the names and types of the columns.
    session_hours : float, default=24.0
        How long a session is kept that nobody asks about.
    fsync : bool, default=False
        Whether each line of the audit log is forced to the disk.

    Returns
    -------
    Endpoint
        With its audit log open.

    Raises
    ------
    ValueError
        If the identity is another party's, or the policy names dealers or members and there is
        none.
    ImportError
        If it bounds epsilon and accounting is not installed.
    OSError
        If the state cannot be used.
    """
    policy = policy or Policy()
    # Only a simulation may take anybody for a dealer.
    policy = replace(policy, dealers=policy.dealers or frozenset())
    if policy.epsilon is not None:
        check_installed()
    for role, named in (("dealers", policy.dealers), ("members", policy.members)):
        if named and identity is None:
            raise ValueError(f"{role} {sorted(named)} are recognised by an identity only")
    if identity is not None and identity.name != name:
        raise ValueError(
            f"the identity in {identity.directory} is that of {identity.name!r}, not of {name!r}; "
            "partners would refuse it"
        )
    state = Path(state)
    state.mkdir(parents=True, exist_ok=True)
    if isinstance(table, RowTable):
        if encoder is not None:
            raise ValueError("encoder is for a table whose rows have ids; a RowTable needs none")
        service = _service_of_rows(name, table, trainer, policy)
    else:
        if trainer is not None:
            raise ValueError("trainer is for rows with a target; give a fedtl.parties.RowTable")
        service = _service_of_ids(name, table, encoder, state, policy)
    service.identity = identity
    audit = AuditLog(state / AUDIT, every_line=fsync)
    try:
        return Endpoint(
            service,
            audit,
            UsageFile(state / USAGE, state / APPROVALS if approval else None),
            bounds=Bounds(session_seconds=3600.0 * session_hours),
            shows_columns=shows_columns,
        )
    except BaseException:
        audit.close()
        raise


@dataclass(frozen=True)
class PolicySettings:
    """The table ``[policy]`` of a party's file; quotas are for each caller and day."""

    protocols: list[str] | None = None
    min_rows: int = 20
    fits_per_day: int | None = None
    predicted_rows_per_day: int | None = None
    aligned_ids_per_day: int | None = None
    min_intersection: int = 0
    max_table_rows: int | None = None
    max_table_mib: int | None = None
    approval: bool = False
    shows_columns: bool = False
    message_mib: int = 256
    dealers: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    epsilon: float | None = None
    delta: float = 1e-5
    epsilon_days: int | None = None

    def policy(self) -> Policy:
        """Return the bounds that the service checks."""
        return Policy(
            protocols=None if self.protocols is None else frozenset(self.protocols),
            min_rows=self.min_rows,
            max_fits=self.fits_per_day,
            max_predicted_rows=self.predicted_rows_per_day,
            max_aligned_ids=self.aligned_ids_per_day,
            min_intersection=self.min_intersection,
            max_table_rows=self.max_table_rows,
            max_table_bytes=None if self.max_table_mib is None else self.max_table_mib * 2**20,
            dealers=frozenset(self.dealers),
            members=frozenset(self.members) or None,
            epsilon=self.epsilon,
            delta=self.delta,
            epsilon_days=self.epsilon_days,
            limits=Limits(message_bytes=self.message_mib * 2**20),
        )


@dataclass(frozen=True)
class PartyFile:
    """What a party's TOML file says. Paths are relative to the file.

    Parameters
    ----------
    name : str
        Name of the party.
    table : dict
        ``path`` of a Parquet, CSV or DuckDB file, or ``url`` of a database; ``key``, the column of
        the ids, or ``target``, that of what is learnt from rows of several parties; ``query`` for
        databases, ``normalisation`` of ids, and ``columns``, if not all of them take part. See
        :class:`fedtl.parties.KeyedTable` and :class:`fedtl.parties.RowTable`.
    credentials : str
        Folder of the identity; over NVIDIA FLARE needed only for dealers and members.
    state : str
        Folder of audit log and quotas.
    listen : str
        Address for partners.
    health : str, optional
        Loopback address for health and metrics.
    session_hours : float
        See :func:`serve`.
    fsync : bool
        See :func:`serve`.
    policy : PolicySettings
        What is answered.
    callers : list of str, optional
        Sites that are answered over NVIDIA FLARE; nobody by default. Over gRPC it is the pinned
        certificates that say who is.
    folder : Path
        Where the file is.
    """

    name: str
    table: dict[str, Any]
    credentials: str = "identity"
    state: str = "state"
    listen: str = "0.0.0.0:9443"
    health: str | None = None
    session_hours: float = 24.0
    fsync: bool = False
    policy: PolicySettings = field(default_factory=PolicySettings)
    callers: list[str] = field(default_factory=list)
    folder: Path = Path()

    @classmethod
    def read(cls, path: str | Path) -> PartyFile:
        """Read and check a file.

        Parameters
        ----------
        path : str or Path
            The TOML file.

        Returns
        -------
        PartyFile
            What it says.

        Raises
        ------
        ValueError
            Naming the entry that is missing, unknown or of the wrong type.
        """
        path = Path(path)
        said = tomllib.loads(path.read_text())
        said["policy"] = checked_settings(
            PolicySettings, said.get("policy", {}), f"{path}: [policy]"
        )
        return checked_settings(cls, said | {"folder": path.resolve().parent}, str(path))

    def inside(self, entry: str) -> Path:
        """Return a path of the file's folder."""
        return self.folder / entry

    def server(self) -> Server:
        """Return the server that the file describes, not started yet."""
        credentials = self.inside(self.credentials)
        return serve(**self._party(), credentials=credentials, address=self.listen)

    def endpoint(self) -> Endpoint:
        """Return what answers, for another transport."""
        # NVIDIA FLARE says who asks; who deals or is a member is told by a signature.
        folder = self.inside(self.credentials)
        needed = self.policy.dealers or self.policy.members or folder.exists()
        identity = Identity(folder) if needed else None
        return open_endpoint(**self._party(), identity=identity)

    def _party(self) -> dict[str, Any]:
        policy, state = self.policy.policy(), self.inside(self.state)
        return {
            "name": self.name,
            "table": read_table(self.name, self.folder, state, policy, self.table),
            "state": state,
            "policy": policy,
            "approval": self.policy.approval,
            "shows_columns": self.policy.shows_columns,
            "session_hours": self.session_hours,
            "fsync": self.fsync,
        }


def read_table(
    name: str, folder: Path, state: Path, policy: Policy, said: dict[str, Any]
) -> KeyedTable | RowTable:
    """Read a party's table as its file says.

    Parameters
    ----------
    name : str
        Name of the party.
    folder : Path
        Where relative paths begin.
    state : Path
        Folder that keeps the secret of the alignment.
    policy : Policy
        Its bounds of the table's size.
    said : dict
        The table ``[table]``.

    Returns
    -------
    KeyedTable or RowTable
        The table; the latter if ``target`` is given instead of ``key``.

    Raises
    ------
    ValueError
        If an entry is missing or unknown.
    """
    known = {"path", "url", "key", "target", "query", "normalisation", "columns"}
    unknown = sorted(set(said) - known)
    if unknown:
        raise ValueError(f"[table]: unknown entries {unknown}; known are {sorted(known)}")
    if ("path" in said) == ("url" in said) or ("key" in said) == ("target" in said):
        raise ValueError(
            "[table]: give either path or url, and either key, the column of the ids, or target, "
            "that of what is learnt with others who record the same columns"
        )
    source = said.get("url") or str(folder / said["path"])
    options = {k: said[k] for k in known - {"path", "url"} if k in said}
    if "target" in said:
        if "normalisation" in said:
            raise ValueError("[table]: normalisation is for ids, and there is no key")
        return RowTable(name, source, policy=policy, **options)
    return KeyedTable(name, source, policy=policy, secret=_secret(state), **options)


def _service_of_rows(
    name: str, table: RowTable, trainer: Trainer | None, policy: Policy | None
) -> PartyService:
    answers: dict[str, tuple[str, Answer]] = dict(REMOTE_ROW_ANSWERS)
    if trainer is not None:
        answers |= tuning_answers(trainer.local_recipe())
    return PartyService(name, table, None, answers, policy=policy)


def _service_of_ids(
    name: str, table: Any, encoder: Recipe | None, state: Path, policy: Policy | None
) -> PartyService:
    if not isinstance(table, KeyedTable):
        table = KeyedTable(name, _framed(table), policy=policy, secret=_secret(state))
    # Tags of all ids now, not when the first partner waits for them.
    assert table.key_list is not None
    return PartyService(name, table, encoder or PlainRecipe(), ANSWERS, policy=policy)


def _framed(table: Any) -> Any:
    """An array as a frame, whose index numbers the rows."""
    if not isinstance(table, np.ndarray):
        return table
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("an array as a table needs pandas: pip install 'fedtl[data]'") from error
    return pd.DataFrame(table, columns=[str(i) for i in range(table.shape[1])])


def _secret(state: Path) -> bytes:
    """The secret of the alignment, kept so that positions outlive a restart."""
    state.mkdir(parents=True, exist_ok=True)
    file = state / SECRET
    if not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secrets.token_bytes(32))
    return file.read_bytes()


def checked_settings(cls: Any, said: dict[str, Any], where: str) -> Any:
    """Build a dataclass from a table of TOML, naming what does not belong there."""
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(said) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown entries {unknown}; known are {sorted(known)}")
    for name, value in said.items():
        wanted = str(known[name].type).removesuffix(" | None").split("[")[0]
        if type(value) not in _TYPES.get(wanted, (type(value),)):
            raise ValueError(f"{where}: {name} must be of type {wanted}, got {value!r}")
    try:
        return cls(**said)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
}
