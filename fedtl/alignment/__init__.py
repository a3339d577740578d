"""Entity alignment by private set intersection: which rows of two parties are about one entity.

Knows ids and group elements; knows no parties, no messages and no columns.
"""

from fedtl.alignment._cache import AlignmentCache, KnownList
from fedtl.alignment._group import (
    InvalidPoint,
    hash_to_group,
    invert,
    multiply,
    random_scalar,
)
from fedtl.alignment._ids import NORMALISATIONS, as_list, canonical_ids
from fedtl.alignment._psi import KeyList, Matcher, is_sorted, label
from fedtl.alignment._shared import SharedCache

__all__ = [
    "NORMALISATIONS",
    "AlignmentCache",
    "InvalidPoint",
    "KeyList",
    "KnownList",
    "Matcher",
    "SharedCache",
    "as_list",
    "canonical_ids",
    "hash_to_group",
    "invert",
    "is_sorted",
    "label",
    "multiply",
    "random_scalar",
]
