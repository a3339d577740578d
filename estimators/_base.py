"""What all federated estimators share: parties as parameters, one fit at all of them."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import _check_feature_names, _check_n_features

from fedtl.estimators._encoder import Encoder
from fedtl.estimators._parties import Party, as_table, resolve_parties
from fedtl.exceptions import DroppedPartyWarning, PartyError
from fedtl.federation import (
    Channel,
    Federation,
    Ledger,
    RemoteParties,
    SimulatedParties,
    Simulation,
)
from fedtl.parties import Table
from fedtl.protocols import ANSWERS
from fedtl.protocols.alignment import KeyedChannel
from fedtl.solvers.coalition import Coalition

try:
    from sklearn.utils._repr_html.estimator import _VisualBlock
except ImportError:  # its place before scikit-learn 1.7
    from sklearn.utils._estimator_html_repr import _VisualBlock

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9 has no callbacks: training is silent there

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""


OtherParties = SimulatedParties | RemoteParties
"""What gives channels to all parties but the active one."""


class FederatedEstimator(CallbackSupportMixin, _BaseComposition):
    """Base of the federated estimators.

    Lifecycle of a fit: the parties' columns are found in X; each party but the first gets a
    service that holds its block; the solver talks to them through channels that count every
    byte; what was fitted stays at the services, without rows. A prediction gives the same
    services the blocks of the new X. Attributes are set once a fit has succeeded, so that a
    failed one changes nothing.
    """

    parties: Any
    federation: Simulation | Federation | None
    key: str
    random_state: Any
    model_: Any
    parties_: list[Party]
    services_: OtherParties
    ledger_: Ledger

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "parties": [list, tuple, dict, None],
        "federation": [Simulation, Federation, None],
        "key": [str],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "local_updates": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "lr": [Interval(Real, 0.0, None, closed="neither")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
    }

    @property
    def _named_encoders(self) -> list[tuple[str, Encoder]]:
        """The parties as (name, encoder), for nested parameters such as ``bank__lr``."""
        if not isinstance(self.parties, list | tuple):
            return []
        try:
            return [(name, encoder) for name, encoder, _ in self.parties]
        except (TypeError, ValueError):
            return []

    @_named_encoders.setter
    def _named_encoders(self, value: list[tuple[str, Encoder]]) -> None:
        self.parties = [
            (name, encoder, columns)
            for (name, encoder), (_, _, columns) in zip(value, self.parties, strict=True)
        ]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get parameters, those of the parties' encoders included.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include ``<party>`` and ``<party>__<parameter>``.

        Returns
        -------
        dict
            Values by name.
        """
        return dict(self._get_params("_named_encoders", deep=deep))

    def set_params(self, **params: Any) -> FederatedEstimator:
        """Set parameters, those of the parties' encoders included.

        Parameters
        ----------
        **params : dict
            Values by name, as from :meth:`get_params`.

        Returns
        -------
        FederatedEstimator
            The object itself.
        """
        self._set_params("_named_encoders", **params)
        return self

    def _sk_visual_block_(self) -> Any:
        if not self._named_encoders:
            return _VisualBlock("single", self, names=type(self).__name__, name_details=str(self))
        return _VisualBlock(
            "parallel",
            [encoder for _, encoder in self._named_encoders],
            names=[
                f"{name} (active party)" if i == 0 else name
                for i, (name, _) in enumerate(self._named_encoders)
            ],
            name_details=[str(columns) for _, _, columns in self.parties],
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags

    @contextmanager
    def _unchanged_on_failure(self) -> Iterator[None]:
        """Put every fitted attribute back if the block raises."""

        def fitted(name: str) -> bool:
            return name.endswith("_") or name == "_n_features_out"

        before = {k: v for k, v in self.__dict__.items() if fitted(k)}
        try:
            yield
        except BaseException:
            for name in [k for k in self.__dict__ if fitted(k) and k not in before]:
                del self.__dict__[name]
            self.__dict__.update(before)
            raise

    def _read(self, X: Any, *, reset: bool) -> Any:
        """Check X against what was fitted, or remember what it is."""
        _check_feature_names(self, X, reset=reset)
        X = as_table(X)
        _check_n_features(self, X, reset=reset)
        return X

    def _open(self, X: Any) -> tuple[list[Party], OtherParties]:
        """Find the parties in X, and reach all others through the federation."""
        reserved = frozenset(self.get_params(deep=False))
        parties = resolve_parties(self.parties, X, reserved, without=self._key_column(X))
        recipes = {party.name: party.encoder for party in parties[1:]}
        others = (self.federation or Simulation()).parties(recipes, ANSWERS)
        if parties[0].name in others.names:
            raise ValueError(
                f"the active party {parties[0].name!r} is also one of the federation's parties; "
                "give it another name"
            )
        return parties, others

    def _key_column(self, X: Any) -> int | None:
        """Position of the column of ids, which belongs to no party."""
        if self.key == "index":
            return None
        row_keys(X, self.key)
        return int(list(X.columns).index(self.key))

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _to_predict(self, X: Any) -> Coalition:
        """Return the parties of the fitted model, with new rows."""
        table, channels = channels_to(self.parties_, self.services_, X, self.ledger_, self.key)
        model = self.model_
        return Coalition(model.name, table, model.session, channels, on_missing=self._serve_without)

    def _serve_without(self, error: PartyError, n_rows: int) -> None:
        """Go on without a party that cannot be reached, and say so, if the federation allows it."""
        federation = getattr(self.services_, "federation", None)
        if federation is None or federation.patience.on_missing == "raise":
            raise error
        for ledger in (self.ledger_, federation.ledger):
            ledger.miss(error.party, n_rows)
        warnings.warn(
            f"{error}. {n_rows} rows are served as unknown to it (on_missing='local')",
            DroppedPartyWarning,
            stacklevel=2,
        )

    @staticmethod
    def _session_name() -> str:
        return secrets.token_hex(16)

    def _progress(self, X: Any, y: Any, max_iter: int) -> tuple[Callable[[int, float], bool], Any]:
        """Return a hook for the latent solver's steps, and one for the end of the fit.

        Where scikit-learn has callbacks, each step is a task of theirs; one of them may stop the
        training.
        """
        if not hasattr(self, "_init_callback_context"):
            return (lambda step, loss: False), (lambda: None)
        root = self._init_callback_context(max_subtasks=max_iter)
        root.call_on_fit_task_begin(estimator=self, X=X, y=y)

        def on_step(step: int, loss: float) -> bool:
            context = root.subcontext(task_name="exchange")
            context.call_on_fit_task_begin(estimator=self, X=X, y=y)
            return bool(context.call_on_fit_task_end(estimator=self, X=X, y=y))

        return on_step, lambda: root.call_on_fit_task_end(estimator=self, X=X, y=y)


def channels_to(
    parties: list[Party], others: OtherParties, X: Any, ledger: Ledger, key: str
) -> tuple[Table, Sequence[Channel]]:
    """Return the active party's rows of X, and channels to the parties that hold the rest."""
    blocks = [party.block(X) for party in parties]
    channels: Sequence[Channel] = others.channels(blocks[1:], ledger)
    if isinstance(others, RemoteParties):
        keys, federation = row_keys(X, key), others.federation
        channels = [
            KeyedChannel(
                channel,
                keys,
                cache=federation.alignment_cache,
                normalisation=federation.matching.normalisation,
                min_intersection=federation.matching.min_intersection,
            )
            for channel in channels
        ]
    return Table(blocks[0]), channels


def row_keys(X: Any, key: str) -> Any:
    """Return the ids of rows: the index of a pandas frame, or a column.

    Parameters
    ----------
    X : dataframe of shape (n_rows, n_columns)
        Rows.
    key : str
        ``"index"`` or the name of a column.

    Returns
    -------
    array-like of shape (n_rows,)
        Ids.

    Raises
    ------
    ValueError
        If X has no index or no such column. Positions would do for one X, but a part of it, as
        in cross-validation, would silently be matched to other rows.
    """
    if key == "index":
        if hasattr(X, "iloc"):
            return X.index
        way_out = "In a pipeline, .set_output(transform='pandas') keeps the index"
        raise ValueError(
            "with remote parties X must be a pandas DataFrame whose index holds the rows' ids, or "
            f"key= name a column of ids; got {type(X).__name__}, which has no index. {way_out}"
        )
    if not hasattr(X, "columns") or key not in list(X.columns):
        columns = list(getattr(X, "columns", []))[:20]
        raise ValueError(f"key={key!r} is no column of X, which has {columns}")
    return X[key]


def batch_rows(batch_size: int | str, n_rows: int) -> int:
    """Return the rows of a mini-batch: 256, or 512 from 2,000 rows on, if it is "auto"."""
    if batch_size != "auto":
        return int(batch_size)
    return 256 if n_rows < 2000 else 512
