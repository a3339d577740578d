"""Folds of labelled rows; unlabelled rows always train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.model_selection import check_cv
from sklearn.utils import indexable
from sklearn.utils.multiclass import type_of_target

from fedtl.learning.targets import is_unlabeled


class LabeledFold:
    """Cross-validation folds of the labelled rows; every training set has all unlabelled rows.

    An unlabelled row in a test fold cannot be scored, and its marker would count as a class.

    Parameters
    ----------
    cv : int, cross-validation generator or iterable, default=5
        How the labelled rows are split, as for :func:`sklearn.model_selection.cross_val_score`;
        an int is stratified for classes. An iterable gives positions among the labelled rows,
        and is kept as a list where it can be gone through only once.
    unlabeled : object, default=-1
        The value of `y` that marks an unlabelled row; NaN marks NaN.

    See Also
    --------
    FederatedTransferClassifier : Its parameter `unlabeled` marks the same rows.

    Examples
    --------
    >>> import numpy as np
    >>> from fedtl import LabeledFold
    >>> y = np.array([0, 1, -1, 0, 1, -1])
    >>> for train, test in LabeledFold(2).split(np.zeros((6, 1)), y):
    ...     print(train, test)
    [2 3 4 5] [0 1]
    [0 1 2 5] [3 4]
    """

    def __init__(self, cv: Any = 5, *, unlabeled: Any = -1) -> None:
        self.cv = list(cv) if isinstance(cv, Iterator) else cv
        self.unlabeled = unlabeled

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield training and test positions.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_columns)
            Only its length is looked at.
        y : array-like of shape (n_rows,)
            Targets with unlabelled rows.
        groups : array-like of shape (n_rows,), optional
            Passed on for the labelled rows.

        Yields
        ------
        train : ndarray of int
            Labelled rows of the other folds and all unlabelled rows, in order.
        test : ndarray of int
            Labelled rows of this fold.

        Raises
        ------
        ValueError
            If there is no labelled row.
        """
        X, y, groups = indexable(X, y, groups)
        labeled, unlabeled = self._divide(y)
        own_groups = None if groups is None else np.asarray(groups)[labeled]
        for train, test in self._cv(y, labeled).split(
            np.zeros((len(labeled), 1)), np.asarray(y)[labeled], own_groups
        ):
            yield np.sort(np.concatenate([labeled[train], unlabeled])), labeled[test]

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds.

        Parameters
        ----------
        X, y, groups : array-like, optional
            As for :meth:`split`; needed where `cv` needs them.

        Returns
        -------
        int
            Number of folds.
        """
        if y is None:
            return int(check_cv(self.cv).get_n_splits(X, y, groups))
        labeled, _ = self._divide(y)
        own_groups = None if groups is None else np.asarray(groups)[labeled]
        placeholder = np.zeros((len(labeled), 1))
        target = np.asarray(y)[labeled]
        return int(self._cv(y, labeled).get_n_splits(placeholder, target, own_groups))

    def _divide(self, y: Any) -> tuple[np.ndarray, np.ndarray]:
        if y is None:
            raise ValueError("LabeledFold needs y, to see which rows are labelled")
        unlabeled = is_unlabeled(np.asarray(y), self.unlabeled)
        if unlabeled.all():
            raise ValueError(f"no row is labelled: every y is {self.unlabeled!r}")
        return np.flatnonzero(~unlabeled), np.flatnonzero(unlabeled)

    def _cv(self, y: Any, labeled: np.ndarray) -> Any:
        target = np.asarray(y)[labeled]
        return check_cv(self.cv, target, classifier=type_of_target(target) != "continuous")

    def __repr__(self) -> str:
        return f"LabeledFold(cv={self.cv!r}, unlabeled={self.unlabeled!r})"
