"""Made-up federations: parties that measure the same hidden factors, each in its own way."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import Bunch, check_random_state, check_scalar

from fedtl.datasets._bunch import as_bunch, require_pandas

if TYPE_CHECKING:
    from numpy.typing import NDArray


def make_federated_classification(
    n_samples: int = 1000,
    *,
    n_parties: int = 2,
    n_features: int = 10,
    n_latent: int = 5,
    n_classes: int = 2,
    overlap: float = 0.5,
    labeled: float = 1.0,
    missing_columns: float = 0.0,
    noise: float = 1.0,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Make a classification problem whose columns belong to parties that share only some rows.

    Each sample has `n_latent` independent standard normal factors. Each party sees them through a
    random linear map of its own, plus noise. Each class has a direction in the space of the
    factors, orthogonal to the others, and a sample belongs to the class along whose direction it
    lies farthest, so the classes are about equally frequent.

    Parameters
    ----------
    n_samples : int, default=1000
        Rows.
    n_parties : int, default=2
        Parties; the first is the active one.
    n_features : int, default=10
        Columns of each party.
    n_latent : int, default=5
        Hidden factors, not fewer than classes.
    n_classes : int, default=2
        Classes.
    overlap : float, default=0.5
        Share of the rows that all parties know. The others are known to one party each, evenly.
    labeled : float, default=1.0
        Share of the active party's rows that have a label, at least one row.
    missing_columns : float, default=0.0
        Share of each party's columns that one of two sites, which have half of the rows each, does
        not record. At least one column is left.
    noise : float, default=1.0
        Standard deviation of what is added to each column, whose own is about one.
    random_state : int, RandomState instance or None, default=None
        Draws everything.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        data : DataFrame of shape (n_samples, n_parties * n_features), float64
            The columns are called by party and number: "party0_0", "party0_1", ...
        target : Series of shape (n_samples,), int64
            The class, or -1 where there is no label.
        parties : dict of str to list of str
            "party0" (active), "party1", ...
        sample_party : ndarray of shape (n_samples,), str
            The site of each row: "site0", or "site1", which lacks columns.
        target_names : list of str
            The names of the classes.
        task : str
            "binary" or "multiclass".
        DESCR : str
            How the data were made.

    Raises
    ------
    ImportError
        If pandas is not installed.
    TypeError
        If a number is not of the type above.
    ValueError
        If a number is out of range, or there are more classes than factors.

    See Also
    --------
    make_federated_regression : The same with a number to predict.

    Examples
    --------
    >>> from fedtl.datasets import make_federated_classification
    >>> made = make_federated_classification(200, overlap=0.4, random_state=0)
    >>> made.data.shape, list(made.parties)
    ((200, 20), ['party0', 'party1'])
    >>> int((made.target == -1).sum())
    60
    """
    check_scalar(n_classes, "n_classes", Integral, min_val=2)
    check_scalar(n_latent, "n_latent", Integral, min_val=1)
    if n_latent < n_classes:
        raise ValueError(
            f"n_classes={n_classes} need as many factors, but n_latent={n_latent}: "
            f"pass n_latent={n_classes} or more."
        )
    rng = check_random_state(random_state)
    sizes = (n_samples, n_parties, n_features, n_latent)
    table = _observe(rng, sizes, overlap, missing_columns, noise)
    directions, _ = np.linalg.qr(rng.normal(size=(n_latent, n_classes)))
    classes = np.argmax(table.factors @ directions, axis=1)
    keep = _draw_labeled(rng, table.active, labeled)
    return _finish(
        table,
        np.where(keep, classes, -1).astype("int64"),
        "binary" if n_classes == 2 else "multiclass",
        target_names=[f"class{number}" for number in range(n_classes)],
    )


def make_federated_regression(
    n_samples: int = 1000,
    *,
    n_parties: int = 2,
    n_features: int = 10,
    n_latent: int = 5,
    overlap: float = 0.5,
    labeled: float = 1.0,
    missing_columns: float = 0.0,
    noise: float = 1.0,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Make a regression problem whose columns belong to parties that share only some rows.

    Each sample has `n_latent` independent standard normal factors. Each party sees them through a
    random linear map of its own, plus noise. The target is the sample's position along one random
    direction in the space of the factors; it is standard normal.

    Parameters
    ----------
    n_samples : int, default=1000
        Rows.
    n_parties : int, default=2
        Parties; the first is the active one.
    n_features : int, default=10
        Columns of each party.
    n_latent : int, default=5
        Hidden factors.
    overlap : float, default=0.5
        Share of the rows that all parties know. The others are known to one party each, evenly.
    labeled : float, default=1.0
        Share of the active party's rows that have a target, at least one row.
    missing_columns : float, default=0.0
        Share of each party's columns that one of two sites, which have half of the rows each, does
        not record. At least one column is left.
    noise : float, default=1.0
        Standard deviation of what is added to each column, whose own is about one.
    random_state : int, RandomState instance or None, default=None
        Draws everything.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        data : DataFrame of shape (n_samples, n_parties * n_features), float64
            The columns are called by party and number: "party0_0", "party0_1", ...
        target : Series of shape (n_samples,), float64
            The target, or NaN where it is not known.
        parties : dict of str to list of str
            "party0" (active), "party1", ...
        sample_party : ndarray of shape (n_samples,), str
            The site of each row: "site0", or "site1", which lacks columns.
        task : str
            "regression".
        DESCR : str
            How the data were made.

    Raises
    ------
    ImportError
        If pandas is not installed.
    TypeError
        If a number is not of the type above.
    ValueError
        If a number is out of range.

    See Also
    --------
    make_federated_classification : The same with classes to predict.

    Examples
    --------
    >>> from fedtl.datasets import make_federated_regression
    >>> made = make_federated_regression(200, overlap=0.4, random_state=0)
    >>> int(made.target.isna().sum())
    60
    """
    rng = check_random_state(random_state)
    sizes = (n_samples, n_parties, n_features, n_latent)
    table = _observe(rng, sizes, overlap, missing_columns, noise)
    direction = rng.normal(size=n_latent)
    values = table.factors @ (direction / np.linalg.norm(direction))
    keep = _draw_labeled(rng, table.active, labeled)
    return _finish(table, np.where(keep, values, np.nan), "regression")


def _observe(
    rng: np.random.RandomState,
    sizes: tuple[int, int, int, int],
    overlap: float,
    missing_columns: float,
    noise: float,
) -> Bunch:
    """Draw the factors and what each party sees of them."""
    names = ("n_samples", "n_parties", "n_features", "n_latent")
    for name, size in zip(names, sizes, strict=True):
        check_scalar(size, name, Integral, min_val=1)
    n_samples, n_parties, n_features, n_latent = sizes
    check_scalar(overlap, "overlap", Real, min_val=0, max_val=1)
    check_scalar(
        missing_columns,
        "missing_columns",
        Real,
        min_val=0,
        max_val=1,
        include_boundaries="left",
    )
    check_scalar(noise, "noise", Real, min_val=0)

    factors = rng.normal(size=(n_samples, n_latent))
    known = _draw_membership(rng, n_samples, n_parties, overlap)
    second_site = rng.permutation(n_samples) >= n_samples / 2
    n_lost = min(round(missing_columns * n_features), n_features - 1)
    blocks = []
    for party in range(n_parties):
        weights = rng.normal(size=(n_latent, n_features)) / np.sqrt(n_latent)
        block = factors @ weights + noise * rng.normal(size=(n_samples, n_features))
        lost = rng.choice(n_features, n_lost, replace=False)
        block[np.ix_(second_site, lost)] = np.nan
        block[~known[:, party]] = np.nan
        blocks.append(block)
    return Bunch(factors=factors, blocks=blocks, active=known[:, 0], second_site=second_site)


def _draw_membership(
    rng: np.random.RandomState, n_samples: int, n_parties: int, overlap: float
) -> NDArray[np.bool_]:
    """Draw which party knows which row, shape (n_samples, n_parties)."""
    n_shared = round(overlap * n_samples)
    owner = np.arange(n_samples - n_shared) % n_parties
    alone = owner[:, np.newaxis] == np.arange(n_parties)
    known = np.concatenate([np.ones((n_shared, n_parties), dtype=bool), alone])
    return known[rng.permutation(n_samples)]


def _draw_labeled(
    rng: np.random.RandomState, active: NDArray[np.bool_], labeled: float
) -> NDArray[np.bool_]:
    """Draw which rows of the active party keep their label."""
    check_scalar(labeled, "labeled", Real, min_val=0, max_val=1, include_boundaries="right")
    rows = rng.permutation(np.flatnonzero(active))
    keep = np.zeros(len(active), dtype=bool)
    keep[rows[: max(round(labeled * len(rows)), 1)]] = True
    return keep


def _finish(table: Any, target: NDArray[Any], task: str, **extra: Any) -> Bunch:
    """Name the columns and put everything into a bunch."""
    pd = require_pandas("make_federated_classification and make_federated_regression")
    parties = {
        f"party{party}": [f"party{party}_{number}" for number in range(block.shape[1])]
        for party, block in enumerate(table.blocks)
    }
    columns = [column for names in parties.values() for column in names]
    return as_bunch(
        pd.DataFrame(np.hstack(table.blocks), columns=columns),
        pd.Series(target, name="target"),
        parties,
        task=task,
        descr=f"Made up: {len(parties)} parties see {table.factors.shape[1]} hidden factors, each "
        "through its own random linear map plus noise.",
        sample_party=np.where(table.second_site, "site1", "site0"),
        **extra,
    )
