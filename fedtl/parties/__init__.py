"""The party's side: its table, its policy, its sessions. It answers messages and never asks."""

from fedtl.parties._features import LocalFeatures, Recipe
from fedtl.parties._keyed import KeyedTable
from fedtl.parties._policy import Policy, Usage
from fedtl.parties._row_table import Label, Reading, RowTable, as_label
from fedtl.parties._rows import Rows
from fedtl.parties._service import READING, Answer, PartyService, Session, Signing
from fedtl.parties._table import Table

__all__ = [
    "READING",
    "Answer",
    "KeyedTable",
    "Label",
    "LocalFeatures",
    "PartyService",
    "Policy",
    "Reading",
    "Recipe",
    "RowTable",
    "Rows",
    "Session",
    "Signing",
    "Table",
    "Usage",
    "as_label",
]
