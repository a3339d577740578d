"""Fitted estimators to one file and back, without any code in it.

The file is in safetensors format. Every array and every torch tensor is a tensor of it, named
after its place in the estimator; what holds them together is one JSON document in its metadata.
Unlike a pickle the file says nothing but data: a class is named, never made, and only classes of
fedtl, scikit-learn and torch.nn, or of the caller's own list, are looked up by that name.
"""

from fedtl.persistence._file import load, save
from fedtl.persistence._names import PersistenceError

__all__ = ["PersistenceError", "load", "save"]
