"""Data sets that ship with scikit-learn, their columns divided between parties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sklearn.datasets
from sklearn.utils import Bunch

from fedtl.datasets._bunch import as_bunch, require_pandas


def load_digits_halves() -> Bunch:
    """Load handwritten digits of which each of two parties sees one half of the image.

    Party "left" (active) has columns 0 to 3 of each 8x8 image, party "right" columns 4 to 7.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        data : DataFrame of shape (1797, 64), float64
            The pixels, 0 to 16.
        target : Series of shape (1797,), int64
            The digit.
        parties : dict of str to list of str
            "left" and "right", 32 columns each.
        target_names : ndarray of shape (10,)
            The digits.
        task : str
            "multiclass".
        DESCR : str
            What the data are and who has which columns.

    Raises
    ------
    ImportError
        If pandas is not installed.

    See Also
    --------
    split_parties : Hide from each party the rows that it does not know.

    Examples
    --------
    >>> from fedtl.datasets import load_digits_halves
    >>> digits = load_digits_halves()
    >>> digits.data[digits.parties["right"]].shape
    (1797, 32)
    """
    bunch = _load("load_digits", "load_digits_halves")
    columns = list(bunch.data.columns)
    parties = {
        "left": [column for column in columns if int(column.rsplit("_", 1)[1]) < 4],
        "right": [column for column in columns if int(column.rsplit("_", 1)[1]) >= 4],
    }
    return _divide(bunch, parties, "multiclass")


def load_breast_cancer_parties() -> Bunch:
    """Load the Wisconsin breast cancer data as two parties with views of the same cell nuclei.

    Party "mean" (active) has the mean of ten measurements; party "spread" has their standard
    errors and their worst values.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        data : DataFrame of shape (569, 30), float64
            The measurements.
        target : Series of shape (569,), int64
            0 is malignant, 1 is benign.
        parties : dict of str to list of str
            "mean" (10 columns) and "spread" (20 columns).
        target_names : ndarray of shape (2,)
            "malignant" and "benign".
        task : str
            "binary".
        DESCR : str
            What the data are and who has which columns.

    Raises
    ------
    ImportError
        If pandas is not installed.

    Examples
    --------
    >>> from fedtl.datasets import load_breast_cancer_parties
    >>> cancer = load_breast_cancer_parties()
    >>> {name: len(columns) for name, columns in cancer.parties.items()}
    {'mean': 10, 'spread': 20}
    """
    bunch = _load("load_breast_cancer", "load_breast_cancer_parties")
    columns = list(bunch.data.columns)
    return _divide(bunch, {"mean": columns[:10], "spread": columns[10:]}, "binary")


def load_diabetes_parties() -> Bunch:
    """Load the diabetes regression data as a doctor's practice and a laboratory.

    Party "practice" (active) has age, sex, body mass index and blood pressure; party "laboratory"
    has six blood serum values.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        data : DataFrame of shape (442, 10), float64
            The values, centred and scaled as scikit-learn ships them.
        target : Series of shape (442,), float64
            Progression of the disease after one year.
        parties : dict of str to list of str
            "practice" (4 columns) and "laboratory" (6 columns).
        task : str
            "regression".
        DESCR : str
            What the data are and who has which columns.

    Raises
    ------
    ImportError
        If pandas is not installed.

    Examples
    --------
    >>> from fedtl.datasets import load_diabetes_parties
    >>> load_diabetes_parties().parties["practice"]
    ['age', 'sex', 'bmi', 'bp']
    """
    bunch = _load("load_diabetes", "load_diabetes_parties")
    columns = list(bunch.data.columns)
    return _divide(bunch, {"practice": columns[:4], "laboratory": columns[4:]}, "regression")


def load_wine_parties() -> Bunch:
    """Load the wine recognition data as two laboratories that analysed the same wines.

    Party "must" (active) has alcohol, acids, ash and magnesium; party "colour" has the phenols,
    the colour, the dilution and the proline.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        data : DataFrame of shape (178, 13), float64
            The measurements.
        target : Series of shape (178,), int64
            The cultivar, 0 to 2.
        parties : dict of str to list of str
            "must" (5 columns) and "colour" (8 columns).
        target_names : ndarray of shape (3,)
            The names of the cultivars.
        task : str
            "multiclass".
        DESCR : str
            What the data are and who has which columns.

    Raises
    ------
    ImportError
        If pandas is not installed.

    Examples
    --------
    >>> from fedtl.datasets import load_wine_parties
    >>> load_wine_parties().parties["must"]
    ['alcohol', 'malic_acid', 'ash', 'alcalinity_of_ash', 'magnesium']
    """
    bunch = _load("load_wine", "load_wine_parties")
    columns = list(bunch.data.columns)
    return _divide(bunch, {"must": columns[:5], "colour": columns[5:]}, "multiclass")


def _load(loader: str, caller: str) -> Any:
    """Load one of scikit-learn's own data sets as a frame."""
    require_pandas(caller)
    return getattr(sklearn.datasets, loader)(as_frame=True)


def _divide(bunch: Any, parties: Mapping[str, Iterable[str]], task: str) -> Bunch:
    """Turn one of scikit-learn's bunches into one of ours."""
    target = bunch.target.astype("float64" if task == "regression" else "int64")
    names = {} if task == "regression" else {"target_names": bunch.target_names}
    owned = "\n".join(f"    {name}: {', '.join(columns)}" for name, columns in parties.items())
    descr = f"{bunch.DESCR}\n\n**Parties (the first is active)**\n\n{owned}\n"
    return as_bunch(bunch.data, target, parties, task=task, descr=descr, **names)
