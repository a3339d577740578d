"""What each party's rows are worth to the joint model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils._indexing import _safe_indexing
from sklearn.utils.validation import check_consistent_length

_EXACT_UP_TO = 5


@dataclass(frozen=True, eq=False)
class Contributions:
    """What each party adds to the score on held-out rows.

    Parameters
    ----------
    parties : list of str
        Names.
    values : ndarray of shape (n_parties,), dtype float64
        What each party adds.
    standard_errors : ndarray of shape (n_parties,), dtype float64
        Of the sampling of orders; zero where nothing was sampled.
    score : float
        Score of the model of all parties.
    n_fits : int
        Models that were fitted.
    """

    parties: list[str]
    values: np.ndarray
    standard_errors: np.ndarray
    score: float
    n_fits: int

    def to_frame(self) -> Any:
        """Return a table with a row for each party, as a pandas.DataFrame."""
        import pandas as pd

        columns = {"party": self.parties, "value": self.values, "error": self.standard_errors}
        return pd.DataFrame(columns)


def party_contributions(
    estimator: Any,
    X: Any,
    y: Any,
    sample_party: Any,
    *,
    X_test: Any,
    y_test: Any,
    method: str = "leave_one_out",
    max_fits: int = 100,
    random_state: Any = None,
) -> Contributions:
    """Fit with and without parties, and say what each of them adds to the score.

    Parameters
    ----------
    estimator : estimator
        Any estimator whose ``fit`` takes `sample_party`, such as
        :class:`~fedtl.FederatedFineTuner`; it is cloned.
    X : array-like or dataframe of shape (n_rows, ...)
        Training rows.
    y : array-like of shape (n_rows, ...)
        Their targets.
    sample_party : array-like of shape (n_rows,)
        Whose row is whose.
    X_test : array-like or dataframe of shape (n_test, ...)
        Rows that no party trains on.
    y_test : array-like of shape (n_test, ...)
        Their targets.
    method : {"leave_one_out", "shapley"}, default="leave_one_out"
        How the score changes when a party leaves all the others; or its Shapley value, the mean
        change over all orders in which parties may join, where nobody scores like a constant.
        It is exact for up to five parties, beyond that over random orders, each with its reverse.
    max_fits : int, default=100
        How many models are fitted at most.
    random_state : int, RandomState or None, default=None
        Seed of the orders.

    Returns
    -------
    Contributions
        What each party adds. A coalition whose model cannot be fitted, as it has one class, say,
        scores like nobody.

    Raises
    ------
    ValueError
        If `max_fits` allows no result.

    Notes
    -----
    Ghorbani and Zou, "Data Shapley: equitable valuation of data for machine learning", ICML 2019,
    with parties in the place of rows. ``joblib.parallel_config`` spreads the fits.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import SGDClassifier
    >>> from fedtl import FederatedFineTuner
    >>> from fedtl.inspection import party_contributions
    >>> X, y = load_iris(return_X_y=True)
    >>> tuner = FederatedFineTuner(SGDClassifier(), random_state=0)
    >>> found = party_contributions(
    ...     tuner, X[::2], y[::2], np.arange(75) % 3, X_test=X[1::2], y_test=y[1::2]
    ... )
    >>> found.parties, found.n_fits
    (['0', '1', '2'], 4)
    """
    check_consistent_length(X, y, sample_party)
    owners = np.asarray(sample_party)
    names = np.unique(owners)
    game = _Game(estimator, X, y, owners, names=names, X_test=X_test, y_test=y_test)
    everyone = frozenset(range(len(names)))
    if method == "leave_one_out":
        wanted = [everyone, *(everyone - {i} for i in range(len(names)))]
        _check(max_fits, len(wanted))
        scores = game.scores(wanted)
        values, errors = scores[0] - np.array(scores[1:]), np.zeros(len(names))
    elif method == "shapley" and len(names) <= _EXACT_UP_TO:
        _check(max_fits, 2 ** len(names) - 1)
        values, errors = _exact(game, len(names)), np.zeros(len(names))
    elif method == "shapley":
        _check(max_fits, 2 * len(names))
        values, errors = _sampled(game, len(names), max_fits, check_random_state(random_state))
    else:
        raise ValueError(f"method={method!r} must be 'leave_one_out' or 'shapley'")
    shown = [str(name) for name in names]
    return Contributions(shown, values, errors, game.scores([everyone])[0], game.n_fits)


class _Game:
    """Scores of coalitions, each fitted once."""

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        owners: np.ndarray,
        *,
        names: np.ndarray,
        X_test: Any,
        y_test: Any,
    ) -> None:
        self.estimator, self.X, self.y, self.owners = estimator, X, np.asarray(y), owners
        self.names, self.X_test, self.y_test = names, X_test, np.asarray(y_test)
        self.known: dict[frozenset[int], float] = {frozenset(): self._nobody()}

    @property
    def n_fits(self) -> int:
        """Number of models fitted."""
        return len(self.known) - 1

    def scores(self, coalitions: list[frozenset[int]]) -> list[float]:
        """Return the score of each coalition."""
        new = [c for c in dict.fromkeys(coalitions) if c not in self.known]
        self.known |= zip(new, Parallel()(delayed(self._score)(c) for c in new), strict=True)
        return [self.known[coalition] for coalition in coalitions]

    def _score(self, coalition: frozenset[int]) -> float:
        rows = np.flatnonzero(np.isin(self.owners, self.names[sorted(coalition)]))
        model = clone(self.estimator)
        try:
            model.fit(_safe_indexing(self.X, rows), self.y[rows], sample_party=self.owners[rows])
        except ValueError:
            return self.known[frozenset()]
        return float(model.score(self.X_test, self.y_test))

    def _nobody(self) -> float:
        """Return the score of a constant."""
        from sklearn.base import is_classifier

        if not is_classifier(self.estimator):
            return 0.0
        classes, counts = np.unique(self.y, return_counts=True)
        return float(np.mean(self.y_test == classes[counts.argmax()]))


def _check(max_fits: int, needed: int) -> None:
    if max_fits < needed:
        raise ValueError(f"max_fits={max_fits} is too few: at least {needed} models are needed")


def _exact(game: _Game, n: int) -> np.ndarray:
    """Return the weighted sum over all coalitions of what a party adds to each."""
    everyone = range(n)
    subsets = [frozenset(s) for size in range(n + 1) for s in combinations(everyone, size)]
    score = dict(zip(subsets, game.scores(subsets), strict=True))
    values = np.zeros(n)
    for party in everyone:
        for subset in subsets:
            if party not in subset:
                weight = 1.0 / (n * math.comb(n - 1, len(subset)))
                values[party] += weight * (score[subset | {party}] - score[subset])
    return values


def _sampled(
    game: _Game, n: int, max_fits: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over random orders, each with its reverse, and its standard error."""
    added: list[np.ndarray] = []
    while game.n_fits + 2 * n <= max_fits + 1 and len(added) < max_fits:
        order = rng.permutation(n)
        added.append((_gains(game, order) + _gains(game, order[::-1])) / 2.0)
    spread = np.std(added, axis=0, ddof=1) if len(added) > 1 else np.full(n, np.inf)
    return np.mean(added, axis=0), spread / math.sqrt(len(added))


def _gains(game: _Game, order: np.ndarray) -> np.ndarray:
    """Return what each party adds to those before it."""
    joined = [frozenset(order[: i + 1].tolist()) for i in range(len(order))]
    gains = np.empty(len(order))
    gains[order] = np.diff([game.known[frozenset()], *game.scores(joined)])
    return gains
