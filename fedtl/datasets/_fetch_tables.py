"""Tables of people whose columns, or rows, belong to several organisations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from fedtl.datasets._bunch import as_bunch, require_pandas
from fedtl.datasets._sources import UCI, PathLike, local_or_remote, read_openml

_MONTHS = ("0", "2", "3", "4", "5", "6")  # PAY_1 does not exist in the original either
_CREDIT_PERSON = ["LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE"]
_CREDIT_CODES = ["SEX", "EDUCATION", "MARRIAGE"]
_CREDIT_PAY = [f"PAY_{month}" for month in _MONTHS]
_CREDIT_BILL = [f"BILL_AMT{month}" for month in range(1, 7)]
_CREDIT_PAID = [f"PAY_AMT{month}" for month in range(1, 7)]
_CREDIT_COLUMNS = _CREDIT_PERSON + _CREDIT_PAY + _CREDIT_BILL + _CREDIT_PAID
_CREDIT_TARGET = "default.payment.next.month"

_ADULT_COLUMNS = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
]
_ADULT_NUMBERS = ["age", "education-num", "capital-gain", "capital-loss", "hours-per-week"]
_ADULT_PARTIES = {
    "A": ["age", "sex", "race", "native-country", "marital-status", "relationship"],
    "B": [
        "workclass",
        "education",
        "education-num",
        "occupation",
        "capital-gain",
        "capital-loss",
        "hours-per-week",
    ],
}

_HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
_HEART_COLUMNS = [
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
]


def fetch_credit_default(*, data_home: PathLike | None = None) -> Bunch:
    """Fetch credit card clients of a bank and of a partner that saw their payments.

    Party "bank" (active) has the limit, the person and the bills; party "partner" has the
    repayment history and the amounts paid. The target says who failed to pay the next month.

    Parameters
    ----------
    data_home : path-like, default=None
        Directory that holds ``credit_default/UCI_Credit_Card.csv``. None stands for the
        environment variable ``FEDTL_DATA``. Where the file is not there, OpenML is asked for
        "default-of-credit-card-clients".

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        data : DataFrame of shape (30000, 23)
            float64; SEX, EDUCATION and MARRIAGE are categories.
        target : Series of shape (30000,), int64
            1 for a client who failed to pay (22.1 %).
        parties : dict of str to list of str
            "bank" (11 columns) and "partner" (12 columns).
        target_names : list of str
            "paid" and "default".
        task : str
            "binary".
        DESCR : str
            What the data are and where they come from.

    Raises
    ------
    FileNotFoundError
        If neither the local file nor OpenML can be read.
    ImportError
        If pandas is not installed.

    Examples
    --------
    >>> from fedtl.datasets import fetch_credit_default
    >>> fetch_credit_default().data.shape  # doctest: +SKIP
    (30000, 23)
    """
    pd = require_pandas("fetch_credit_default")

    def read_local(path: Path) -> tuple[Any, Any]:
        table = pd.read_csv(path)
        return table[_CREDIT_COLUMNS], table[_CREDIT_TARGET]

    def read_remote() -> tuple[Any, Any]:
        features, target = read_openml("default-of-credit-card-clients", 1, data_home)
        return features.set_axis(_CREDIT_COLUMNS, axis=1), target  # x1 to x23, same order

    data, target = local_or_remote(
        ["credit_default/UCI_Credit_Card.csv"],
        data_home,
        read_local,
        read_remote,
        "OpenML, default-of-credit-card-clients, version 1",
    )
    data = data.astype("float64")
    codes = data[_CREDIT_CODES].astype("int64").astype("str").astype("category")
    return as_bunch(
        data.assign(**{code: codes[code] for code in _CREDIT_CODES}),
        target.astype("int64").rename(_CREDIT_TARGET),
        {"bank": _CREDIT_PERSON + _CREDIT_BILL, "partner": _CREDIT_PAY + _CREDIT_PAID},
        task="binary",
        descr="UCI default of credit card clients (I-Cheng Yeh, 2009; CC BY 4.0): 30,000 clients "
        "in Taiwan, April to September 2005.",
        target_names=["paid", "default"],
    )


def fetch_adult(*, data_home: PathLike | None = None) -> Bunch:
    """Fetch census records of which one party knows the person and the other the work.

    Party "A" (active) has age, sex, race, country, marital status and relationship; party "B" has
    work, education, gains, losses and hours. The target says who earns more than 50,000 dollars.

    Parameters
    ----------
    data_home : path-like, default=None
        Directory that holds ``adult/adult.train`` and ``adult/adult.test``. None stands for the
        environment variable ``FEDTL_DATA``. Where a file is not there, OpenML is asked for
        "adult", version 2, whose rows may come in another order.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        data : DataFrame of shape (48842, 13)
            Numbers are float64, text is a category. A "?" of the original is missing. The
            sampling weight ``fnlwgt`` is left out.
        target : Series of shape (48842,), int64
            1 for an income above 50,000 dollars.
        parties : dict of str to list of str
            "A" (6 columns) and "B" (7 columns).
        target_names : list of str
            "<=50K" and ">50K".
        task : str
            "binary".
        DESCR : str
            What the data are and where they come from.

    Raises
    ------
    FileNotFoundError
        If neither the local files nor OpenML can be read.
    ImportError
        If pandas is not installed.

    Examples
    --------
    >>> from fedtl.datasets import fetch_adult
    >>> fetch_adult().data.shape  # doctest: +SKIP
    (48842, 13)
    """
    pd = require_pandas("fetch_adult")

    def read_local(*paths: Path) -> tuple[Any, Any]:
        names = [*_ADULT_COLUMNS, "income"]
        options = {"header": None, "names": names, "skipinitialspace": True, "comment": "|"}
        tables = [pd.read_csv(path, na_values="?", **options) for path in paths]
        table = pd.concat(tables, ignore_index=True)
        return table, table["income"].str.rstrip(".")  # adult.test writes ">50K."

    data, income = local_or_remote(
        ["adult/adult.train", "adult/adult.test"],
        data_home,
        read_local,
        lambda: read_openml("adult", 2, data_home),
        "OpenML, adult, version 2",
    )
    types = {name: "float64" if name in _ADULT_NUMBERS else "category" for name in _ADULT_COLUMNS}
    return as_bunch(
        data[_ADULT_COLUMNS].astype(types),
        (income == ">50K").astype("int64").rename("income"),
        _ADULT_PARTIES,
        task="binary",
        descr="UCI Adult (Becker and Kohavi, 1996; CC BY 4.0): the training and the test file of "
        "the census income data, one after the other.",
        target_names=["<=50K", ">50K"],
    )


def fetch_heart(*, data_home: PathLike | None = None) -> Bunch:
    """Fetch heart patients of four hospitals that fill the same form, each with its own holes.

    The rows belong to the hospitals, the columns to all of them: the federation is row-wise.
    Pass `sample_party` of the bunch to ``fit`` to say whose row is whose.

    Parameters
    ----------
    data_home : path-like, default=None
        Directory that holds ``heart/combined_4hospitals.csv``. None stands for the environment
        variable ``FEDTL_DATA``. Where the file is not there, the four files of the UCI repository
        are read.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        data : DataFrame of shape (920, 13), float64
            Missing values are NaN, and so are the zeros of `chol` and `trestbps`, which no living
            patient has.
        target : Series of shape (920,), int64
            1 for a patient with heart disease.
        parties : dict of str to list of str
            One entry, "hospital", with all columns.
        sample_party : ndarray of shape (920,), str
            The hospital of each row: "cleveland", "hungarian", "switzerland" or "va".
        target_names : list of str
            "healthy" and "disease".
        task : str
            "binary".
        DESCR : str
            What the data are and where they come from.

    Raises
    ------
    FileNotFoundError
        If neither the local file nor the UCI repository can be read.
    ImportError
        If pandas is not installed.

    Examples
    --------
    >>> from fedtl.datasets import fetch_heart
    >>> sorted(set(fetch_heart().sample_party))  # doctest: +SKIP
    ['cleveland', 'hungarian', 'switzerland', 'va']
    """
    pd = require_pandas("fetch_heart")

    def read_remote() -> Any:
        names = [*_HEART_COLUMNS, "num"]
        urls = {name: f"{UCI}/heart-disease/processed.{name}.data" for name in _HOSPITALS}
        tables = [
            pd.read_csv(url, header=None, names=names, na_values="?").assign(hospital=name)
            for name, url in urls.items()
        ]
        return pd.concat(tables, ignore_index=True)

    table = local_or_remote(
        ["heart/combined_4hospitals.csv"],
        data_home,
        pd.read_csv,
        read_remote,
        f"{UCI}/heart-disease",
    )
    data = table[_HEART_COLUMNS].astype("float64")
    measured = data[["chol", "trestbps"]].replace(0.0, np.nan)
    return as_bunch(
        data.assign(chol=measured["chol"], trestbps=measured["trestbps"]),
        (table["num"] > 0).astype("int64").rename("disease"),
        {"hospital": _HEART_COLUMNS},
        task="binary",
        descr="UCI Heart Disease (CC BY 4.0). Principal investigators: A. Janosi (Budapest), "
        "W. Steinbrunn (Zurich), M. Pfisterer (Basel), R. Detrano (Long Beach and Cleveland).",
        target_names=["healthy", "disease"],
        sample_party=table["hospital"].to_numpy(dtype=str),
    )
