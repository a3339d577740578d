"""Local training: any model as vectors of shared and personal parameters, trained on own rows."""

from fedtl.learning.local._model import (
    LocalModel,
    PrivateSteps,
    Pull,
    Shape,
    Weights,
    evidence,
    hold_out,
)
from fedtl.learning.local._problem import RowsProblem
from fedtl.learning.local._recipe import LocalRecipe, kind_of

__all__ = [
    "LocalModel",
    "LocalRecipe",
    "PrivateSteps",
    "Pull",
    "RowsProblem",
    "Shape",
    "Weights",
    "evidence",
    "hold_out",
    "kind_of",
]
