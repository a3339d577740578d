"""Parties on other machines: a handle that can be cloned, pickled and shared."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedtl.alignment import NORMALISATIONS, AlignmentCache, SharedCache
from fedtl.exceptions import PartyError
from fedtl.federation._channel import Channel
from fedtl.federation._ledger import Ledger
from fedtl.federation._lines import Lines, Patience
from fedtl.federation._remote_channel import RemoteChannel, RemoteParties
from fedtl.federation._rowwise import RowParties
from fedtl.federation._transport import transport_for
from fedtl.identity import Identity
from fedtl.parties import Answer, Usage
from fedtl.privacy import PrivacyBudget
from fedtl.wire import Describe, Description

# By handle and not in it: a handle is an address, and its pickle must not hold hashes of ids.
_CACHES: dict[tuple[int, bytes], AlignmentCache] = {}
_CACHES_LOCK = threading.Lock()


@dataclass(frozen=True)
class Matching:
    """How rows are matched by their ids.

    Parameters
    ----------
    normalisation : str
        How ids are compared.
    min_intersection : int
        How many different ids must be shared with a party.
    """

    normalisation: str = "exact"
    min_intersection: int = 0


class Federation:
    """A handle on parties whose columns are not in X; made by :meth:`connect`.

    It is an address, not a connection: it can be cloned, pickled and sent to the workers of a
    grid search, and connects where it is used. Sessions that estimators open through it end when
    the estimators are deleted, when the handle is closed, or at the latest when the parties'
    leases run out.

    Parameters
    ----------
    addresses : mapping of str to str
        Address of each party.
    credentials : str or Path
        Folder of this party's identity.
    patience : Patience
        How long is waited.
    matching : Matching
        How rows are matched by their ids.
    group : bytes of length 8, optional
        What copies of one handle have in common; drawn anew by default.
    budget : PrivacyBudget, optional
        What this party's own labels may be told with.

    Attributes
    ----------
    names : list of str
        The parties.
    ledger : Ledger
        What crossed through this object in this process, over all estimators.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        credentials: str | Path,
        patience: Patience,
        matching: Matching | None = None,
        group: bytes | None = None,
        *,
        budget: PrivacyBudget | None = None,
    ) -> None:
        self.addresses = dict(addresses)
        self.credentials = str(credentials)
        self.patience = patience
        self.matching = matching or Matching()
        self.group = group or secrets.token_bytes(8)
        self.budget = budget
        self.ledger = Ledger()
        self._lock = threading.Lock()
        self._live: tuple[int, Lines] | None = None

    @classmethod
    def connect(
        cls,
        *,
        credentials: str | Path,
        deadline: float = 300.0,
        reconnect: float = 30.0,
        compress: bool = False,
        normalisation: str = "exact",
        min_intersection: int = 0,
        on_missing: str = "raise",
        budget: PrivacyBudget | None = None,
        **addresses: str,
    ) -> Federation:
        """Make a handle on remote parties; nothing is sent yet.

        Parameters
        ----------
        credentials : str or Path
            Folder of this party's identity, in which the others' certificates are pinned; with
            addresses of NVIDIA FLARE, the workspace of this party's site.
        deadline : float, default=300.0
            Seconds that one answer may take, attempts and waiting included.
        reconnect : float, default=30.0
            Seconds for which a party that cannot be reached is tried again, in the middle of a
            fit as well. One that was away at the last request is tried for a second only, until
            it answers again.
        compress : bool, default=False
            Whether messages that become half as long at least are sent compressed. It pays on
            slow lines and where ids are sent; the ledger counts what there was to be sent.
        normalisation : {"exact", "casefold", "digits"}, default="exact"
            How ids are compared, as the parties declare it too; see
            :func:`fedtl.alignment.canonical_ids`.
        min_intersection : int, default=0
            How many different ids must be shared with each party for a fit.
        on_missing : {"raise", "local"}, default="raise"
            What a prediction does where a party cannot be reached, or has lost its part of the
            model in a restart. "raise" raises what says so. "local" takes its rows for unknown to
            it: the other parties serve them, with a
            :class:`~fedtl.exceptions.DroppedPartyWarning`, and the ledgers count them in
            ``missed_rows``. A fit needs all parties in any case.
        budget : PrivacyBudget, optional
            What fits may spend in all on the privacy of this party's own labels
            (``DifferentialPrivacy(unit="label")``); no bound by default. The other parties' rows
            have budgets of their own, at their sides.
        **addresses : str
            Address of each party by its name, as ``shop="shop.example:9443"``, or
            ``shop="nvflare://shop"`` for a site of NVIDIA FLARE. The name must be that of the
            party's certificate.

        Returns
        -------
        Federation
            The handle; also a context manager that closes it.

        Raises
        ------
        FileNotFoundError
            If there is no identity in that folder.
        ValueError
            If there is no address, or one that is none.

        See Also
        --------
        fedtl.server.serve : The other end.

        Examples
        --------
        >>> import tempfile, numpy as np
        >>> from fedtl.federation import Federation
        >>> from fedtl.identity import Identity
        >>> from fedtl.server import serve
        >>> folder = tempfile.TemporaryDirectory()
        >>> shop = Identity.create(f"{folder.name}/shop", "shop")
        >>> bank = Identity.create(f"{folder.name}/bank", "bank")
        >>> _ = shop.pin(bank.certificate, bank.fingerprint)
        >>> _ = bank.pin(shop.certificate, shop.fingerprint)
        >>> server = serve(
        ...     "shop", np.ones((9, 2)), credentials=shop.directory, state=folder.name
        ... ).start()
        >>> with Federation.connect(credentials=bank.directory, shop=server.address) as federation:
        ...     federation.describe()["shop"]["min_rows"]
        1
        >>> server.stop()
        >>> folder.cleanup()
        """
        if not addresses:
            raise ValueError("no party is named; write connect(shop='host:port', ...)")
        for name, address in addresses.items():
            transport_for(name, address, credentials)
        if not 0 < reconnect <= deadline <= 600:
            raise ValueError(
                f"reconnect={reconnect} and deadline={deadline} are seconds with "
                "0 < reconnect <= deadline <= 600: parties know repeated messages for 15 minutes"
            )
        if normalisation not in NORMALISATIONS:
            raise ValueError(
                f"normalisation must be one of {list(NORMALISATIONS)}, got {normalisation!r}"
            )
        if on_missing not in ("raise", "local"):
            raise ValueError(f"on_missing must be 'raise' or 'local', got {on_missing!r}")
        matching = Matching(normalisation, min_intersection)
        patience = Patience(deadline, reconnect, compress, on_missing)
        return cls(addresses, credentials, patience, matching, budget=budget)

    @property
    def names(self) -> list[str]:
        """The parties, in the order in which they were given."""
        return list(self.addresses)

    def channels(self, ledger: Ledger) -> list[RemoteChannel]:
        """Return a channel to each party.

        Parameters
        ----------
        ledger : Ledger
            Where messages are counted, beside the handle's own.

        Returns
        -------
        list of RemoteChannel
            In the order of the names.
        """
        return [RemoteChannel(name, self, ledger) for name in self.addresses]

    def channel_to_helper(self, name: str, address: str, ledger: Ledger) -> RemoteChannel:
        """Return a channel to somebody who is none of the parties: a dealer.

        Parameters
        ----------
        name : str
            Its name, that of its certificate.
        address : str
            Where it answers, as :meth:`connect` takes it.
        ledger : Ledger
            Where messages are counted, beside the handle's own.

        Returns
        -------
        RemoteChannel
            The channel; nothing is sent yet.

        Raises
        ------
        ValueError
            If a party has that name, or the address is none.
        """
        if name in self.addresses:
            raise ValueError(f"{name!r} is a party of this federation, and cannot be its dealer")
        self.lines.reach(name, address, lambda: transport_for(name, address, self.credentials))
        return RemoteChannel(name, self, ledger)

    def parties(self, recipes: Mapping[str, Any], answers: object = None) -> RemoteParties:
        """Return what an estimator holds on to: the parties, and a lease of its sessions.

        Parameters
        ----------
        recipes : mapping
            Of parties beside the active one whose columns are in X; there must be none.
        answers : object, optional
            Not used: remote parties have their own.

        Returns
        -------
        RemoteParties
            The parties.

        Raises
        ------
        ValueError
            If there are other parties in X.
        """
        if recipes:
            raise ValueError(
                f"the parties {sorted(recipes)} have columns in X, and the federation connects to "
                f"{self.names}; beside remote parties, name only the active party in parties"
            )
        return RemoteParties(self)

    def row_parties(
        self, names: Iterable[str], answers: Mapping[str, tuple[str, Answer]]
    ) -> RowParties:
        """Return services for the parties whose rows are in X: the caller's own.

        Parameters
        ----------
        names : iterable of str
            Their names.
        answers : mapping of str to (str, callable)
            The protocols' ends at their side.

        Returns
        -------
        RowParties
            One service for each.

        Raises
        ------
        ValueError
            If one has the name of a remote party.
        """
        names = list(names)
        twice = sorted(set(names) & set(self.addresses))
        if twice:
            raise ValueError(
                f"the parties {twice} have rows in X and an address as well; rows of remote "
                "parties stay with them"
            )
        usage: defaultdict[str, Usage] = defaultdict(Usage)
        return RowParties(
            names,
            answers,
            policies={},
            usage=usage,
            serialize=False,
            budget=self.budget,
            identity=self._identity(),
        )

    def rows_elsewhere(self, ledger: Ledger) -> dict[str, Channel]:
        """Return channels to the parties whose rows are not in X.

        Parameters
        ----------
        ledger : Ledger
            Where messages are counted, beside the handle's own.

        Returns
        -------
        dict of str to RemoteChannel
            By name. Sessions that are opened through them end when they are deleted.
        """
        return dict(zip(self.names, RemoteParties(self).channels([], ledger), strict=True))

    def describe(self) -> dict[str, dict[str, Any]]:
        """Ask every party for its policy, and its columns if it shows them.

        Returns
        -------
        dict of str to dict
            By party: ``protocols``, ``min_rows``, ``fits``, ``predicted_rows``, ``aligned_ids`` and
            ``dealt_numbers`` (allowed and used today), ``epsilon`` (allowed, used, delta and when
            it is renewed; None without a bound), ``dealers``, ``members``, ``message_bytes``,
            ``sessions`` (of this caller) and ``columns``, or ``error`` where a party could not be
            asked.
        """
        described: dict[str, dict[str, Any]] = {}
        for channel in self.channels(Ledger()):
            try:
                text = channel.ask(Describe(), Description).text
                described[channel.name] = json.loads(text.tobytes())
            except PartyError as error:
                described[channel.name] = {"error": str(error)}
        return described

    def _identity(self) -> Identity | None:
        """By which keys of the caller's own rows are signed, for parties that check members."""
        try:
            return Identity(self.credentials)
        except FileNotFoundError:  # NVIDIA FLARE's workspace need not hold one
            return None

    @property
    def alignment_cache(self) -> AlignmentCache:
        """What was found out about ids by any copy of this handle, on this machine."""
        with _CACHES_LOCK:
            key = os.getpid(), self.group
            if key not in _CACHES:
                shared = self._alignments.exists()
                _CACHES[key] = SharedCache(self._alignments) if shared else AlignmentCache()
            return _CACHES[key]

    @property
    def _alignments(self) -> Path:
        """Where processes with copies of this handle share what they find out about ids."""
        return Path(self.credentials) / "alignments" / self.group.hex()

    def _share_alignment(self) -> None:
        """Have copies in other processes of this machine ask about no id a second time."""
        cache = self.alignment_cache
        if isinstance(cache, SharedCache):
            return
        with contextlib.suppress(OSError):  # they then ask for themselves
            shared = SharedCache.share(cache, self._alignments)
            with _CACHES_LOCK:
                _CACHES[os.getpid(), self.group] = shared
            atexit.register(shared.remove)

    def close(self) -> None:
        """End all sessions that were opened through this handle or its copies, and disconnect."""
        with self._lock:
            live, self._live = self._live, None
        if live is not None and live[0] == os.getpid():
            live[1].close()
        with _CACHES_LOCK:
            cache = _CACHES.pop((os.getpid(), self.group), None)
        if isinstance(cache, SharedCache):
            cache.remove()

    @property
    def lines(self) -> Lines:
        """The connections of this process."""
        with self._lock:
            # A forked process must not use its parent's connections.
            if self._live is None or self._live[0] != os.getpid():
                transports = {
                    name: transport_for(name, address, self.credentials)
                    for name, address in self.addresses.items()
                }
                self._live = os.getpid(), Lines(self.group, transports, self.patience)
            return self._live[1]

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __sklearn_clone__(self) -> Federation:
        return self

    def __copy__(self) -> Federation:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Federation:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        self._share_alignment()
        parts = self.addresses, self.credentials, self.patience, self.matching, self.group
        return partial(Federation, budget=self.budget), parts

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={address!r}" for name, address in self.addresses.items())
        return f"Federation({shown})"
