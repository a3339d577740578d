"""Turn one complete table into what the parties of a federation would know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.utils import Bunch, check_consistent_length, check_random_state, check_scalar

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def split_parties(
    data: pd.DataFrame,
    target: Any,
    parties: Mapping[str, Sequence[Any]],
    *,
    n_shared: int | Literal["all"] = "all",
    n_per_party: int = 4000,
    n_labeled: int | None = None,
    test_size: float = 0.3,
    max_test: int = 6000,
    unlabeled: Any = -1,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Split a table into training rows that parties share in part and a test set that all know.

    The test set is drawn first. Of the rows that remain, `n_shared` are known to all parties; then
    each party, the active one first, takes rows of its own until it knows `n_per_party` or none
    are left. A row that a party does not know is missing in the party's whole block of columns,
    and a row that the active party does not know has no label.

    Parameters
    ----------
    data : DataFrame of shape (n_samples, n_columns)
        The complete table. Columns that belong to no party (a key, say) are never hidden.
    target : array-like of shape (n_samples,)
        The complete target.
    parties : dict of str to list
        The columns of each party; the first party is the active one.
    n_shared : int or "all", default="all"
        Training rows that all parties know. With "all" they know every training row, and there
        are `n_per_party` of them, or as many as there are.
    n_per_party : int, default=4000
        Training rows that a party knows at most, the shared ones included.
    n_labeled : int, default=None
        Rows of the active party that keep their label, drawn at random; None for all.
    test_size : float, default=0.3
        Share of the rows that become the test set.
    max_test : int, default=6000
        Rows in the test set at most.
    unlabeled : int or str, default=-1
        The label of a row without a label. A floating target uses NaN instead.
    random_state : int, RandomState instance or None, default=None
        Draws the test set, the rows of each party, and the labels that are kept.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        X_train : DataFrame of shape (n_train, n_columns)
            In random order. Integer and boolean columns of the parties have become float64, here
            and in `X_test`, so that they can be missing; other types stay as they are.
        y_train : Series or ndarray of shape (n_train,)
            A Series if `target` is one. float64 if `target` is floating, int64 if it holds
            integers or booleans.
        X_test : DataFrame of shape (n_test, n_columns)
            Known to all parties.
        y_test : Series or ndarray of shape (n_test,)
            Like `y_train`.
        parties : dict of str to list
            As given.

    Raises
    ------
    TypeError
        If `data` is not a DataFrame, or a number is not of the type above.
    ValueError
        If more rows or labels are asked for than there are, if a party's column is not in `data`
        or belongs to another party too, or if `target` has unlabelled rows already.

    See Also
    --------
    hide_party : Hide a party from rows that are known to all, to ask what the others can say.

    Examples
    --------
    >>> from fedtl.datasets import load_digits_halves, split_parties
    >>> digits = load_digits_halves()
    >>> split = split_parties(digits.data, digits.target, digits.parties, n_shared=100,
    ...                       n_per_party=500, random_state=0)
    >>> split.X_train.shape, split.X_test.shape
    ((900, 64), (539, 64))
    >>> int(split.X_train[digits.parties["right"]].notna().all(axis=1).sum())
    500
    >>> int((split.y_train == -1).sum())
    400
    """
    blocks = _check_parties(data, parties)
    check_consistent_length(data, target)
    labels, unlabeled = _check_target(target, unlabeled)
    check_scalar(test_size, "test_size", Real, min_val=0, max_val=1, include_boundaries="neither")
    check_scalar(max_test, "max_test", Integral, min_val=1)
    rng = check_random_state(random_state)

    order = rng.permutation(len(data))
    n_test = min(int(len(data) * test_size), max_test)
    if n_test < 1:
        raise ValueError(f"test_size={test_size} of {len(data)} rows leaves no row to test on.")
    known = _membership(len(data) - n_test, len(blocks), n_shared, n_per_party)
    known = known[rng.permutation(len(known))]
    labeled = _keep_labels(known[:, 0], n_labeled, rng)

    train, test = order[n_test : n_test + len(known)], order[:n_test]
    X_train, X_test = _holdable(data.iloc[train], blocks), _holdable(data.iloc[test], blocks)
    for knows, columns in zip(known.T, blocks.values(), strict=True):
        X_train.loc[~knows, columns] = np.nan
    y_train = np.where(labeled, labels[train], unlabeled)
    return Bunch(
        X_train=X_train,
        y_train=_like(target, y_train, X_train),
        X_test=X_test,
        y_test=_like(target, labels[test], X_test),
        parties=blocks,
    )


def hide_party(X: pd.DataFrame, parties: Mapping[str, Sequence[Any]], *names: str) -> pd.DataFrame:
    """Return a copy of a table in which some parties know no row.

    Parameters
    ----------
    X : DataFrame of shape (n_samples, n_columns)
        The table.
    parties : dict of str to list
        The columns of each party.
    *names : str
        The parties to hide.

    Returns
    -------
    X_hidden : DataFrame of shape (n_samples, n_columns)
        All columns of the named parties are missing. Integer and boolean columns of all parties
        have become float64; other types stay as they are.

    Raises
    ------
    TypeError
        If `X` is not a DataFrame.
    ValueError
        If a name is not among the parties, or a party's column is not in `X` or belongs to
        another party too.

    Examples
    --------
    >>> from fedtl.datasets import hide_party, load_wine_parties
    >>> wine = load_wine_parties()
    >>> alone = hide_party(wine.data, wine.parties, "colour")
    >>> int(alone.isna().all(axis=0).sum())
    8
    """
    blocks = _check_parties(X, parties)
    unknown = [name for name in names if name not in blocks]
    if unknown:
        raise ValueError(f"No party is called {unknown}; the parties are {list(blocks)}.")
    hidden = _holdable(X, blocks)
    for name in names:
        hidden.loc[:, blocks[name]] = np.nan
    return hidden


def _check_parties(data: Any, parties: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the parties as lists of columns that are in the data, each in one party."""
    if not hasattr(data, "iloc"):
        raise TypeError(
            f"Expected a pandas DataFrame, got {type(data).__name__}; "
            "wrap an array as pd.DataFrame(X)."
        )
    blocks = {name: list(columns) for name, columns in parties.items()}
    if not blocks or not all(blocks.values()):
        raise ValueError(f"parties must name one or more columns of each party; got {parties!r}.")
    columns = [column for block in blocks.values() for column in block]
    absent = [column for column in columns if column not in data.columns]
    if absent:
        raise ValueError(f"Columns {absent} of the parties are not in the data.")
    twice = sorted({str(column) for column in columns if columns.count(column) > 1})
    if twice or not data.columns.is_unique:
        raise ValueError(
            f"Each column must occur once and have one party; more than once: {twice}."
        )
    return blocks


def _check_target(target: Any, unlabeled: Any) -> tuple[NDArray[Any], Any]:
    """Return the labels as an array that can hold the unlabelled value, and that value."""
    labels = np.asarray(target)
    if labels.ndim != 1:
        raise ValueError(f"target must have one dimension, got shape {labels.shape}.")
    if labels.dtype.kind == "f":
        labels, unlabeled = labels.astype("float64"), np.nan
        taken = np.isnan(labels)
    elif labels.dtype.kind in "biu":
        labels = labels.astype("int64")
        taken = labels == unlabeled
    else:
        if not isinstance(unlabeled, str):
            raise ValueError(
                f"A target of text cannot hold unlabeled={unlabeled!r}: pass a text, such as "
                "unlabeled='', or encode the target with LabelEncoder."
            )
        labels = labels.astype(object)
        taken = labels == unlabeled
    if np.any(taken):
        raise ValueError(
            f"{int(np.sum(taken))} rows of target hold the unlabelled value {unlabeled!r} already; "
            "split_parties needs a label for each row."
        )
    return labels, unlabeled


def _membership(
    n_pool: int, n_parties: int, n_shared: int | Literal["all"], n_per_party: int
) -> NDArray[np.bool_]:
    """Return which party knows which training row, shape (n_train, n_parties)."""
    check_scalar(n_per_party, "n_per_party", Integral, min_val=1)
    if n_shared == "all":
        return np.ones((min(n_pool, n_per_party), n_parties), dtype=bool)
    check_scalar(n_shared, "n_shared", Integral, min_val=0)
    if n_shared > min(n_pool, n_per_party):
        raise ValueError(
            f"n_shared={n_shared} rows known to all parties were asked for, but there are "
            f"{n_pool} training rows and a party knows at most n_per_party={n_per_party}."
        )
    owners = [np.ones((n_shared, n_parties), dtype=bool)]
    free = n_pool - n_shared
    for party in range(n_parties):
        own = min(n_per_party - n_shared, free)
        owners.append(np.tile(np.arange(n_parties) == party, (own, 1)))
        free -= own
    return np.concatenate(owners)


def _keep_labels(
    active: NDArray[np.bool_], n_labeled: int | None, rng: np.random.RandomState
) -> NDArray[np.bool_]:
    """Return which rows keep their label, out of those that the active party knows."""
    if n_labeled is None:
        return active
    check_scalar(n_labeled, "n_labeled", Integral, min_val=0)
    rows = np.flatnonzero(active)
    if n_labeled > len(rows):
        raise ValueError(
            f"n_labeled={n_labeled} labelled rows were asked for, but the active party knows "
            f"{len(rows)} training rows."
        )
    labeled = np.zeros(len(active), dtype=bool)
    labeled[rng.choice(rows, n_labeled, replace=False)] = True
    return labeled


def _holdable(data: Any, blocks: Mapping[str, Sequence[Any]]) -> Any:
    """Return a copy whose columns can all be missing: integers and booleans become floats."""
    columns = [column for block in blocks.values() for column in block]
    types = {column: data.dtypes[column] for column in columns}
    whole = [name for name, kind in types.items() if getattr(kind, "kind", "") in tuple("biu")]
    whole = [name for name in whole if isinstance(types[name], np.dtype)]
    return data.astype({name: "float64" for name in whole}).copy()


def _like(target: Any, labels: NDArray[Any], X: Any) -> Any:
    """Return the labels as a Series on the rows of X if the target was a Series."""
    if not hasattr(target, "iloc"):
        return labels
    return type(target)(labels, index=X.index, name=target.name)
