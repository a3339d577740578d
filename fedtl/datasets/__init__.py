"""Data whose columns belong to several parties: shipped, fetched, and made to measure.

Every loader, fetcher and generator returns a :class:`sklearn.utils.Bunch` with the same fields:
`data` (one row per sample), `target`, `parties` (a dict from a party's name to the names of its
columns; the first party is the active one, the one that has the target), `task` and `DESCR`.
"""

from fedtl.datasets._fetch_tables import fetch_adult, fetch_credit_default, fetch_heart
from fedtl.datasets._fetch_views import fetch_mfeat, fetch_wikipedia
from fedtl.datasets._shipped import (
    load_breast_cancer_parties,
    load_diabetes_parties,
    load_digits_halves,
    load_wine_parties,
)
from fedtl.datasets._split import hide_party, split_parties
from fedtl.datasets._synthetic import make_federated_classification, make_federated_regression

__all__ = [
    "fetch_adult",
    "fetch_credit_default",
    "fetch_heart",
    "fetch_mfeat",
    "fetch_wikipedia",
    "hide_party",
    "load_breast_cancer_parties",
    "load_diabetes_parties",
    "load_digits_halves",
    "load_wine_parties",
    "make_federated_classification",
    "make_federated_regression",
    "split_parties",
]
