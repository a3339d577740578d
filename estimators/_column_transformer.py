"""Preprocessing before a federated estimator that leaves it visible who knows which row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import narwhals as nw
import numpy as np
from scipy.sparse import issparse
from sklearn.base import TransformerMixin, _fit_context, clone
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch, check_array, indexable
from sklearn.utils._indexing import _safe_indexing
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import (
    _check_feature_names,
    _check_feature_names_in,
    _check_n_features,
    check_is_fitted,
)

from fedtl.estimators._encoder import Encoder
from fedtl.estimators._parties import Party, as_table, resolve_parties
from fedtl.exceptions import PartyError
from fedtl.learning.columns import as_columns
from fedtl.learning.targets import is_missing
from fedtl.solvers.problem import ACTIVE

try:
    from sklearn.utils._repr_html.estimator import _VisualBlock
except ImportError:  # its place before scikit-learn 1.7
    from sklearn.utils._estimator_html_repr import _VisualBlock


class FederatedColumnTransformer(TransformerMixin, _BaseComposition):
    """Transform each party's columns by themselves, on the rows that the party knows.

    A step before a federated estimator that works like
    :class:`~sklearn.compose.ColumnTransformer` and keeps what the latter erases: a row that a
    party does not know (all its columns are missing) is not shown to the party's transformer
    and stays missing in all columns that the transformer puts out.

    Parameters
    ----------
    transformers : list of (str, transformer or "passthrough", columns)
        The parties, the active one first: name, what transforms its columns, and which columns
        of X these are, as positions, names, a slice, a mask or a callable. Columns of no party
        are left out.

    Attributes
    ----------
    transformers_ : list of (str, transformer, tuple of int)
        The fitted transformers, with the positions of their columns.
    named_transformers_ : :class:`~sklearn.utils.Bunch`
        The fitted transformers by party.
    output_slices_ : dict of str to slice
        Where each party's columns stand in the output: what a federated estimator takes as the
        party's columns where they have no names.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X had any.

    See Also
    --------
    Encoder : Its `preprocessor` does the same inside the federated estimator, and also for
        parties that are not in X.

    Notes
    -----
    Only the active party's transformer is fitted with `y`: the other parties have no labels.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.impute import SimpleImputer
    >>> from fedtl import FederatedColumnTransformer
    >>> X = np.array([[1.0, np.nan, 5.0], [3.0, 2.0, np.nan], [np.nan, np.nan, 7.0]])
    >>> imputer = FederatedColumnTransformer(
    ...     [("bank", SimpleImputer(), [0, 1]), ("shop", "passthrough", [2])]
    ... )
    >>> imputer.fit_transform(X)  # the bank does not know the last row, the shop the second
    array([[ 1.,  2.,  5.],
           [ 3.,  2., nan],
           [nan, nan,  7.]])
    >>> imputer.output_slices_
    {'bank': slice(0, 2, None), 'shop': slice(2, 3, None)}

    In a pipeline, the parties' columns are found again by their prefix:

    >>> from sklearn.compose import make_column_selector
    >>> from sklearn.pipeline import make_pipeline
    >>> from fedtl import Encoder, FederatedTransferClassifier
    >>> pipeline = make_pipeline(
    ...     imputer,
    ...     FederatedTransferClassifier([
    ...         ("bank", Encoder(), make_column_selector("^bank__")),
    ...         ("shop", Encoder(), make_column_selector("^shop__")),
    ...     ]),
    ... ).set_output(transform="pandas")
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {"transformers": [list, tuple]}

    def __init__(self, transformers: Any) -> None:
        self.transformers = transformers

    @property
    def _named_transformers(self) -> Any:
        """The parties as (name, transformer), for nested parameters."""
        try:
            return [(name, transformer) for name, transformer, _ in self.transformers]
        except (TypeError, ValueError):
            return []

    @_named_transformers.setter
    def _named_transformers(self, value: list[tuple[str, Any]]) -> None:
        self.transformers = [
            (name, transformer, columns)
            for (name, transformer), (_, _, columns) in zip(value, self.transformers, strict=True)
        ]

    @property
    def named_transformers_(self) -> Bunch:
        """The fitted transformers by party."""
        return Bunch(**{name: transformer for name, transformer, _ in self.transformers_})

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get parameters, those of the parties' transformers included.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include ``<party>`` and ``<party>__<parameter>``.

        Returns
        -------
        dict
            Values by name.
        """
        return dict(self._get_params("_named_transformers", deep=deep))

    def set_params(self, **params: Any) -> FederatedColumnTransformer:
        """Set parameters, those of the parties' transformers included.

        Parameters
        ----------
        **params : dict
            Values by name, as from :meth:`get_params`.

        Returns
        -------
        FederatedColumnTransformer
            The same object.
        """
        self._set_params("_named_transformers", **params)
        return self

    def fit(self, X: Any, y: Any = None) -> FederatedColumnTransformer:
        """Fit each party's transformer on the rows that the party knows.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Training rows. A row is unknown to a party if all its columns are missing.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs), default=None
            Targets, for the active party's transformer.

        Returns
        -------
        FederatedColumnTransformer
            The same object, fitted.

        Raises
        ------
        ValueError
            If X or the parties' columns cannot be used; a PartyError names the party.
        """
        self._fit_transform(X, y)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Fit each party's transformer and transform the same rows.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Training rows. A row is unknown to a party if all its columns are missing.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs), default=None
            Targets, for the active party's transformer.

        Returns
        -------
        ndarray or dataframe of shape (n_rows, n_columns_out)
            The parties' columns side by side, as :meth:`transform` returns them.
        """
        X, outputs = self._fit_transform(X, y)
        return self._side_by_side(X, outputs)

    def transform(self, X: Any) -> Any:
        """Transform each party's columns on the rows that the party knows.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows known to any subset of the parties.

        Returns
        -------
        ndarray or dataframe of shape (n_rows, n_columns_out)
            The parties' columns side by side, missing where a party does not know the row. An
            array of floats, or of objects if a party puts out anything but numbers; a dataframe
            after :meth:`set_output`.
        """
        check_is_fitted(self)
        _check_feature_names(self, X, reset=False)
        X = as_table(X)
        _check_n_features(self, X, reset=False)
        outputs = []
        for name, transformer, columns in self.transformers_:
            own, rows = _known_rows(_safe_indexing(X, list(columns), axis=1))
            output = None
            if len(rows):
                with _errors_of(name):
                    output = _checked(transformer.transform(own), len(rows))
            outputs.append((rows, output))
        return self._side_by_side(X, outputs)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Get the names of the output columns.

        Parameters
        ----------
        input_features : array-like of str of shape (n_features_in_,), default=None
            Names of the columns of X; by default those that X had when fitting.

        Returns
        -------
        ndarray of shape (n_columns_out,), dtype object
            ``<party>__<column>``. The columns of a transformer that does not name them are
            called after its class and counted.
        """
        check_is_fitted(self)
        given = _check_feature_names_in(self, input_features)
        names = []
        for party, transformer, columns in self.transformers_:
            place = self.output_slices_[party]
            own = _names_of(transformer, given[list(columns)], place.stop - place.start)
            names += [f"{party}__{name}" for name in own]
        return np.asarray(names, dtype=object)

    @_fit_context(prefer_skip_nested_validation=False)
    def _fit_transform(self, X: Any, y: Any) -> tuple[Any, list[tuple[np.ndarray, Any]]]:
        """Fit, and return X as it was read and each party's rows and output for them."""
        named = X
        X = as_table(X)
        _, y = indexable(X, y)
        fitted, outputs, slices, start = [], [], {}, 0
        for i, (party, transformer) in enumerate(self._resolve(X)):
            own, rows = _known_rows(party.block(X))
            if not len(rows):
                raise PartyError(
                    party.name,
                    "knows no row: every row of its block is missing. Pass at least one row that "
                    "has values in its columns, or leave the party out",
                )
            labels, hint = None, ""
            if y is not None and i == ACTIVE:
                labels = _safe_indexing(y, rows)
            elif y is not None:
                hint = " (y goes to the first party only: the others have no labels)"
            with _errors_of(party.name, hint):
                output = _checked(_fit_transform_one(transformer, own, labels), len(rows))
            stop = start + output.shape[1]
            slices[party.name] = slice(start, stop)
            fitted.append((party.name, transformer, party.columns))
            outputs.append((rows, output))
            start = stop
        # Only now that nothing can fail, so that a failed fit leaves the last one as it was.
        _check_feature_names(self, named, reset=True)
        _check_n_features(self, X, reset=True)
        self.transformers_, self.output_slices_ = fitted, slices
        return X, outputs

    def _resolve(self, X: Any) -> list[tuple[Party, Any]]:
        """Find each party's columns, and make its transformer anew."""
        if not self.transformers:
            raise ValueError("transformers is empty; name at least one party")
        for spec in self.transformers:
            if not (isinstance(spec, tuple) and len(spec) == 3 and isinstance(spec[0], str)):
                raise ValueError(f"a party is a tuple (name, transformer, columns), got {spec!r}")
        self._validate_names([name for name, _, _ in self.transformers])
        parties = resolve_parties([(name, Encoder(), c) for name, _, c in self.transformers], X)
        return [
            (party, _new(party.name, transformer))
            for party, (_, transformer, _) in zip(parties, self.transformers, strict=True)
        ]

    def _side_by_side(self, X: Any, outputs: list[tuple[np.ndarray, Any]]) -> Any:
        """Put the parties' outputs into one array, or into one frame as by set_output."""
        n_rows, container = X.shape[0], _get_output_config("transform", self)["dense"]
        places = list(self.output_slices_.values())
        if container == "default":
            return np.hstack(
                [
                    _spread_array(output, rows, n_rows, place.stop - place.start)
                    for (rows, output), place in zip(outputs, places, strict=True)
                ]
            )
        names = self.get_feature_names_out().tolist()
        frames = [
            _spread_frame(output, rows, n_rows, names[place], container)
            for (rows, output), place in zip(outputs, places, strict=True)
        ]
        joined = nw.concat(frames, how="horizontal").to_native()
        if container == "pandas" and hasattr(X, "iloc"):
            joined.index = X.index
        return joined

    def _sk_visual_block_(self) -> Any:
        if not self._named_transformers:
            return _VisualBlock("single", self, names=type(self).__name__, name_details=str(self))
        names, transformers, columns = zip(*self.transformers, strict=True)
        return _VisualBlock("parallel", transformers, names=names, name_details=columns)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags


def _new(party: str, transformer: Any) -> Any:
    if isinstance(transformer, str) and transformer == "passthrough":
        return FunctionTransformer(feature_names_out="one-to-one")
    if isinstance(transformer, type):
        raise TypeError(
            f"party {party!r}: got the class {transformer.__name__}; pass an instance, "
            f"{transformer.__name__}()"
        )
    fits = hasattr(transformer, "fit") or hasattr(transformer, "fit_transform")
    if not (fits and hasattr(transformer, "transform")):
        raise TypeError(
            f"party {party!r}: expected a transformer, with fit and transform, or 'passthrough'; "
            f"got {transformer!r}"
        )
    return clone(transformer)


def _known_rows(block: Any) -> tuple[Any, np.ndarray]:
    """Return the rows of a block that have any value, and their positions."""
    known = as_columns(block).known()
    rows = np.flatnonzero(known)
    return (block if known.all() else _safe_indexing(block, rows)), rows


@contextmanager
def _errors_of(party: str, hint: str = "") -> Iterator[None]:
    try:
        yield
    except Exception as error:
        problem = f"its transformer failed on the party's own rows: {error}{hint}"
        raise PartyError(party, problem) from error


def _fit_transform_one(transformer: Any, own: Any, y: Any) -> Any:
    if hasattr(transformer, "fit_transform"):
        return transformer.fit_transform(own, y)
    return transformer.fit(own, y).transform(own)


def _checked(output: Any, n_rows: int) -> nw.DataFrame[Any] | np.ndarray:
    """Check what a transformer put out and make its numbers floats, which can be missing.

    A frame stays a frame; anything else becomes a dense array of floats or objects.
    """
    if issparse(output):
        output = output.toarray()
    frame = nw.from_native(output, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        exact = [name for name, kind in frame.schema.items() if _is_exact(kind)]
        output = frame.with_columns(nw.col(exact).cast(nw.Float64)) if exact else frame
    else:
        output = check_array(output, dtype=None, ensure_all_finite=False, ensure_min_features=0)
        numeric = output.dtype.kind in "fiub"
        dtype = np.result_type(output.dtype, np.float32) if numeric else np.dtype(object)
        output = output.astype(dtype, copy=False)
    if output.shape[0] != n_rows:
        raise ValueError(f"it made {output.shape[0]} rows of {n_rows}")
    if not output.shape[1]:
        raise ValueError("it put out no column")
    return output


def _is_exact(kind: Any) -> bool:
    return bool(kind.is_integer() or kind == nw.Boolean)


def _spread_array(output: Any, rows: np.ndarray, n_rows: int, width: int) -> np.ndarray:
    """Put rows at their positions among rows that are missing."""
    if output is None:
        return np.full((n_rows, width), np.nan)
    if isinstance(output, nw.DataFrame):
        output = np.column_stack([_as_values(column) for column in output.iter_columns()])
    everyone = np.full((n_rows, width), np.nan, dtype=output.dtype)
    everyone[rows] = output
    return everyone


def _as_values(column: nw.Series[Any]) -> np.ndarray:
    if column.dtype.is_numeric():
        return column.to_numpy()
    values = np.asarray(column.to_list(), dtype=object)
    values[is_missing(values)] = np.nan
    return values


def _spread_frame(
    output: Any, rows: np.ndarray, n_rows: int, names: list[str], library: Any
) -> nw.DataFrame[Any]:
    """Put rows at their positions among rows that are missing, in a frame of the library asked for.

    Names are prefixed, so that no column can be called "row".
    """
    everyone = nw.from_dict({"row": np.arange(n_rows)}, backend=library)
    if output is None:
        return everyone.select(nw.lit(None, dtype=nw.Float64).alias(name) for name in names)
    if isinstance(output, np.ndarray):
        columns = {name: _as_column(output[:, j]) for j, name in enumerate(names)}
        frame = nw.from_dict(columns, backend=library)
    else:
        native = output.to_pandas() if library == "pandas" else output.to_polars()
        frame = nw.maybe_reset_index(nw.from_native(native, eager_only=True))
        frame = frame.rename(dict(zip(frame.columns, names, strict=True)))
    placed = frame.with_columns(nw.new_series("row", rows, backend=library))
    return everyone.join(placed, on="row", how="left").sort("row").select(names)


def _as_column(values: np.ndarray) -> Any:
    if values.dtype != object:
        return values
    columns = as_columns(values[:, None])
    return columns.numbers[:, 0] if columns.numbers.shape[1] else columns.categories[:, 0].tolist()


def _names_of(transformer: Any, given: np.ndarray, width: int) -> list[str]:
    try:
        return [str(name) for name in transformer.get_feature_names_out(given)]
    except AttributeError:  # it does not name its columns, or one of its steps does not
        return [f"{type(transformer).__name__.lower()}{i}" for i in range(width)]
