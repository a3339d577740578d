"""From an object graph to a JSON document and named tensors.

A value is a JSON scalar or ``{tag: content}``. What has an identity (containers, arrays, tensors,
instances) stands once in the table of objects and is referred to by ``{"ref": number}``, so that
an object that occurs twice is one object again after loading.
"""

from __future__ import annotations

import copyreg
import json
import math
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator

from fedtl.estimators import Encoder
from fedtl.persistence._arrays import describe_array, describe_dtype, describe_tensor
from fedtl.persistence._checks import check_instance, is_tree
from fedtl.persistence._modules import OwnModules
from fedtl.persistence._names import Names, PersistenceError

MAX_DEPTH = 100
_NEW_OBJECT = copyreg.__newobj__  # type: ignore[attr-defined]


class Writer:
    """Describes one object graph.

    What it makes is in its attributes: ``objects``, the table; ``tensors`` by name; ``modules``,
    for each party whose network is not in the file, the name of its class.

    Parameters
    ----------
    names : Names
        What a file may name.
    """

    def __init__(self, names: Names) -> None:
        self.objects: list[Any] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.modules: dict[str, str] = {}
        self._names, self._own = names, OwnModules(names)
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is only one as long as its object lives
        self._open: set[int] = set()
        self._depth = 0

    def value(self, obj: Any, path: str, party: str | None = None) -> Any:
        """Describe an object.

        Parameters
        ----------
        obj : object
            Anything that a fitted estimator is made of.
        path : str
            Where it was found.
        party : str or None, default=None
            Whose part of the estimator it belongs to, if that is known.

        Returns
        -------
        object
            JSON.

        Raises
        ------
        PersistenceError
            Naming party and path of what cannot be described, and the way out.
        """
        if obj is None or type(obj) in (bool, int, str):
            return obj
        if type(obj) is float:
            return obj if math.isfinite(obj) else {"float": repr(obj)}
        inline = self._inline(obj, path, party)
        if inline is not None:
            return inline
        number = self._numbers.get(id(obj))
        if number is None:
            number = self._add(obj, path, party)
        elif number in self._open:
            raise _error(path, party, "is a tuple or set that contains itself")
        return {"ref": number}

    def _add(self, obj: Any, path: str, party: str | None) -> int:
        number = len(self.objects)
        if self._depth >= MAX_DEPTH:
            raise _error(path, party, f"is nested more than {MAX_DEPTH} levels deep")
        self.objects.append(None)
        self._numbers[id(obj)] = number
        self._kept.append(obj)
        self._depth += 1
        if isinstance(obj, tuple | frozenset):
            self._open.add(number)
        describe = self._table().get(type(obj), self._other)
        self.objects[number] = describe(obj, path, _party_of(obj) or party)
        self._open.discard(number)
        self._depth -= 1
        return number

    def _inline(self, obj: Any, path: str, party: str | None) -> Any:
        """Describe what is compared by its value; None for anything else."""
        if isinstance(obj, np.generic):
            dtype = _at(path, party, lambda: describe_dtype(obj.dtype))
            return {"scalar": obj.tobytes().hex(), "dtype": dtype}
        if isinstance(obj, np.dtype):
            objects = obj == np.dtype(object)
            return {"dtype": "O" if objects else _at(path, party, lambda: describe_dtype(obj))}
        if isinstance(obj, torch.dtype):
            return {"torch_dtype": str(obj).removeprefix("torch.")}
        if type(obj) is bytes:
            return {"bytes": obj.hex()}
        if type(obj) is complex:
            return {"complex": [self.value(part, path) for part in (obj.real, obj.imag)]}
        if type(obj) in (slice, range):
            ends = [self.value(end, path, party) for end in (obj.start, obj.stop, obj.step)]
            return {type(obj).__name__: ends}
        if isinstance(obj, type):
            return self._class_value(obj, path, party)
        if isinstance(obj, types.FunctionType | types.BuiltinFunctionType | np.ufunc):
            name = self._names.of_function(obj)
            if name is None:
                raise _error(path, party, f"is the function {obj.__name__}, {_WAY_OUT}", obj)
            return {"function": name}
        return None

    def _class_value(self, cls: type, path: str, party: str | None) -> Any:
        name = self._names.of_class_value(cls)
        if name is not None:
            return {"class": name}
        owner = self._own.owner(cls, party)
        if owner is None:
            raise _error(path, party, f"is the class {cls.__qualname__}, {_WAY_OUT}", cls)
        self.modules[owner] = cls.__qualname__
        return {"own_class": owner}

    def _table(self) -> dict[type, Callable[[Any, str, str | None], Any]]:
        return {
            list: self._sequence,
            tuple: self._sequence,
            set: self._set,
            frozenset: self._set,
            dict: self._dict,
            OrderedDict: self._dict,
            defaultdict: self._dict,
            np.ndarray: self._array,
            np.memmap: self._array,
            torch.Tensor: self._tensor,
            torch.nn.Parameter: self._tensor,
            np.random.RandomState: self._random_state,
            np.random.Generator: self._random_state,
        }

    def _values(self, values: Iterable[Any], path: str, party: str | None) -> list[Any]:
        return [self.value(v, f"{path}[{i}]", party) for i, v in enumerate(values)]

    def _sequence(self, obj: Any, path: str, party: str | None) -> Any:
        return {type(obj).__name__: self._values(obj, path, party)}

    def _set(self, obj: Any, path: str, party: str | None) -> Any:
        for element in obj:
            _check_key(element, path, party)
        values = [self.value(element, path, party) for element in obj]
        return {type(obj).__name__: sorted(values, key=json.dumps)}

    def _dict(self, obj: Any, path: str, party: str | None) -> Any:
        entry = {type(obj).__name__: self._pairs(obj.items(), path, party)}
        if isinstance(obj, defaultdict):
            entry["factory"] = self.value(obj.default_factory, f"{path}.default_factory", party)
        return entry

    def _pairs(self, pairs: Iterable[tuple[Any, Any]], path: str, party: str | None) -> Any:
        described = []
        for key, value in pairs:
            _check_key(key, path, party)
            owner, _, last = path.rpartition(".")
            of_module = last in ("_parameters", "_buffers", "_modules")
            where = f"{owner}.{key}" if of_module else f"{path}[{str(key)[:60]!r}]"
            described.append([self.value(key, where, party), self.value(value, where, party)])
        return described

    def _array(self, obj: np.ndarray, path: str, party: str | None) -> Any:
        if obj.dtype == object:
            values = self._values(obj.ravel().tolist(), path, party)
            return {"objects": values, "shape": list(obj.shape)}
        name = self._tensor_name(path)
        return {"array": _at(path, party, lambda: describe_array(obj, name, self.tensors))}

    def _tensor(self, obj: torch.Tensor, path: str, party: str | None) -> Any:
        name = self._tensor_name(path)
        return {"tensor": _at(path, party, lambda: describe_tensor(obj, name, self.tensors))}

    def _tensor_name(self, path: str) -> str:
        name = path.removeprefix(".")
        return name if name not in self.tensors else f"{name}#{len(self.objects)}"

    def _random_state(self, obj: Any, path: str, party: str | None) -> Any:
        legacy = isinstance(obj, np.random.RandomState)
        state = obj.get_state(legacy=False) if legacy else obj.bit_generator.state
        self._kept.append(state)
        return {"random": type(obj).__name__, "state": self.value(state, path, party)}

    def _other(self, obj: Any, path: str, party: str | None) -> Any:
        pandas = sys.modules.get("pandas")
        if pandas is not None and type(obj) in (pandas.Index, pandas.RangeIndex):
            values = self._values(obj.tolist(), path, party)
            return {"index": values, "dtype": str(obj.dtype), "name": self.value(obj.name, path)}
        if isinstance(obj, torch.nn.Module):
            owner = self._own.owner(obj, party)
            if owner is not None:
                return self._own_module(obj, path, owner)
        return self._instance(obj, path, party)

    def _own_module(self, module: torch.nn.Module, path: str, party: str) -> Any:
        state = module.state_dict(keep_vars=True)
        self._kept.append(state)
        self.modules[party] = type(module).__qualname__
        return {
            "own_module": party,
            "state": {k: self.value(v, f"{path}.{k}", party) for k, v in state.items()},
            "training": [name for name, part in module.named_modules() if part.training],
        }

    def _instance(self, obj: Any, path: str, party: str | None) -> Any:
        cls = type(obj)
        name = self._names.of_class(cls)
        if name is None:
            raise _error(path, party, f"is of the class {cls.__qualname__}, {_WAY_OUT}", cls)
        _at(path, party, lambda: check_instance(obj))
        if self._names.is_called(cls):
            arguments = self._arguments(obj)
            if arguments is not None:
                entry = {"call": name, "args": self._values(arguments, path, party)}
                if is_tree(cls):
                    entry |= self._state(obj, obj.__getstate__(), path, party)
                return entry
        reduced = obj.__reduce_ex__(4)
        if reduced[0] is not _NEW_OBJECT or reduced[1][0] is not cls:
            raise _error(
                path, party, f"is of the class {cls.__qualname__}, which pickles by a call"
            )
        _, new, state, items, pairs = (*reduced, None, None, None)[:5]
        self._kept.extend([state, reduced])
        entry = {"instance": name, **self._state(obj, state, path, party)}
        if len(new) > 1:
            entry["args"] = self._values(new[1:], path, party)
        if items is not None:
            entry["items"] = self._values(items, path, party)
        if pairs is not None:
            entry["pairs"] = self._pairs(pairs, path, party)
        return entry

    def _state(self, obj: Any, state: Any, path: str, party: str | None) -> dict[str, Any]:
        """Describe attributes, or whatever else the class's own ``__setstate__`` takes."""
        if isinstance(obj, Encoder) and state is not None:
            # A fitted skorch net stands for its network.
            module = state.get("module")
            module = getattr(module, "module_", module)
            state = {**state, "module": module}
            if party is not None:
                self._own.register(party, module)
        slots = None
        if isinstance(state, tuple) and len(state) == 2 and not hasattr(obj, "__setstate__"):
            state, slots = state
        described: dict[str, Any] = {}
        for key, attributes in (("state", state), ("slots", slots)):
            if attributes is None:
                continue
            if not isinstance(attributes, dict) or not all(type(k) is str for k in attributes):
                raise _error(path, party, "has a state that is no dict of attributes")
            described[key] = {k: self.value(v, f"{path}.{k}", party) for k, v in attributes.items()}
        return described

    def _arguments(self, obj: Any) -> tuple[Any, ...] | None:
        """Return what an instance is made again from by a call; None if it needs no call."""
        attributes = self._names.arguments(type(obj))
        if attributes is not None:
            return tuple(getattr(obj, a) for a in attributes)
        function, arguments = obj.__reduce_ex__(4)[:2]
        if function is type(obj):
            return tuple(arguments)
        # Cython's reduced form: class, checksum, state; an empty state is no argument.
        made_by_cython = getattr(function, "__name__", "").startswith("__pyx_unpickle")
        if made_by_cython and arguments[0] is type(obj) and not any(arguments[2:]):
            return ()
        return None


_WAY_OUT = (
    "which is not of fedtl, scikit-learn or torch.nn, so that a file cannot say what it is. Pass "
    "trusted=[{name}] to save and to load, or pickle the estimator (pickle or joblib) if everyone "
    "who reads the file trusts everyone who can write it"
)


def _error(path: str, party: str | None, why: str, item: Any = None) -> PersistenceError:
    where = path.removeprefix(".") or "the estimator"
    prefix = f"party {party!r}: " if party is not None else ""
    name = getattr(item, "__qualname__", "")
    return PersistenceError(f"{prefix}{where} {why.replace('{name}', name)}")


def _at(path: str, party: str | None, describe: Callable[[], Any]) -> Any:
    try:
        return describe()
    except PersistenceError as error:
        raise _error(path, party, f"cannot be saved: {error}") from None


def _check_key(key: Any, path: str, party: str | None) -> None:
    if not is_key(key):
        raise _error(path, party, f"has a key or element of the type {type(key).__name__}")


def is_key(key: Any, depth: int = 2) -> bool:
    """Return whether a dict or set of a file may hold it: scalars, classes, tuples of these."""
    if isinstance(key, tuple | frozenset):
        return depth > 0 and all(is_key(part, depth - 1) for part in key)
    scalars = bool | int | float | complex | str | bytes | type | np.generic | np.dtype
    return key is None or isinstance(key, scalars | torch.dtype)


def _party_of(obj: Any) -> str | None:
    """Return the name of the party whose part begins here: where a name and an Encoder meet."""
    if type(obj) is tuple:
        named = len(obj) == 3 and isinstance(obj[0], str) and isinstance(obj[1], Encoder)
        return obj[0] if named else None
    if not type(obj).__module__.startswith("fedtl.") or isinstance(obj, BaseEstimator):
        return None
    attributes = getattr(obj, "__dict__", {})
    if not any(isinstance(value, Encoder) for value in attributes.values()):
        return None
    name = attributes.get("party", attributes.get("name"))
    return name if isinstance(name, str) else None
