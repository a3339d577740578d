"""The party's side: its table, its policy, its sessions. It answers messages and never asks."""

from fedtl.parties._features import LocalFeatures, Recipe
from fedtl.parties._keyed import KeyedTable
from fedtl.parties._policy import Policy, Usage
from fedtl.parties._rows import Rows
from fedtl.parties._service import Answer, PartyService, Session, Signing
from fedtl.parties._table import Table

__all__ = [
    "Answer",
    "KeyedTable",
    "LocalFeatures",
    "PartyService",
    "Policy",
    "Recipe",
    "Rows",
    "Session",
    "Signing",
    "Table",
    "Usage",
]
