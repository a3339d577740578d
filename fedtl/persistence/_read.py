"""From a JSON document and named tensors to an object graph; nothing in them is believed."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import sklearn

from fedtl.persistence._arrays import read_array, read_dtype, read_tensor, read_torch_dtype
from fedtl.persistence._checks import check_instance, check_tree, is_tree
from fedtl.persistence._modules import Templates
from fedtl.persistence._names import Names, PersistenceError
from fedtl.persistence._write import MAX_DEPTH, is_key

_CONTAINERS: dict[str, type] = {
    "list": list,
    "set": set,
    "dict": dict,
    "OrderedDict": OrderedDict,
    "defaultdict": defaultdict,
}
_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


class Reader:
    """Restores one object graph.

    Parameters
    ----------
    objects : list
        The table of objects, as :class:`~fedtl.persistence._write.Writer` makes it.
    tensors : mapping of str to ndarray
        The file's tensors.
    names : Names
        What a file may name.
    templates : Templates
        The networks that are not in the file.
    """

    def __init__(
        self,
        objects: list[Any],
        tensors: Mapping[str, np.ndarray],
        names: Names,
        templates: Templates,
    ) -> None:
        self._objects, self._tensors = objects, tensors
        self._names, self._templates = names, templates
        self._made: dict[int, Any] = {}
        self._open: list[int] = []

    def root(self, node: Any) -> Any:
        """Restore the object that all others are part of, and check what compiled code relies on.

        Parameters
        ----------
        node : object
            JSON.

        Returns
        -------
        object
            What was saved.

        Raises
        ------
        PersistenceError
            If the document is malformed or names what it may not name.
        """
        root = self.value(node)
        for made in self._made.values():
            check_instance(made)
        return root

    def value(self, node: Any) -> Any:
        """Restore one value."""
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if not isinstance(node, dict) or not node:
            raise PersistenceError(f"{str(node)[:80]!r} is no value")
        tag = next(iter(node))
        content = node[tag]
        match tag:
            case "ref":
                return self._object(content)
            case "float":
                return float(content)
            case "scalar":
                return np.frombuffer(bytes.fromhex(content), read_dtype(node["dtype"]))[0]
            case "dtype":
                return np.dtype(object) if content == "O" else read_dtype(content)
            case "torch_dtype":
                return read_torch_dtype(content)
            case "bytes":
                return bytes.fromhex(content)
            case "complex":
                return complex(*self._values(content))
            case "slice":
                return slice(*self._values(content))
            case "range":
                return range(*self._values(content))
            case "class":
                return self._names.class_value(content)
            case "own_class":
                return self._templates.cls(content)
            case "function":
                return self._names.function(content)
        raise PersistenceError(f"{str(tag)[:80]!r} is no kind of value")

    def _object(self, number: Any) -> Any:
        if type(number) is not int or not 0 <= number < len(self._objects):
            raise PersistenceError(f"there is no object {str(number)[:80]!r}")
        if number in self._made:
            return self._made[number]
        if number in self._open:
            raise PersistenceError(f"the object {number} is part of itself")
        if len(self._open) > MAX_DEPTH:
            raise PersistenceError(f"objects are nested more than {MAX_DEPTH} levels deep")
        self._open.append(number)
        made = self._made[number] = self._make(number, self._objects[number])
        self._open.pop()
        return made

    def _make(self, number: int, entry: Any) -> Any:
        """Make an object; containers and instances are known before what they contain is made."""
        tag = next(iter(entry))
        content = entry[tag]
        if tag in _CONTAINERS:
            made = self._made[number] = _CONTAINERS[tag]()
            self._fill(made, entry, content)
            return made
        match tag:
            case "tuple":
                return tuple(self._values(content))
            case "frozenset":
                return frozenset(self._keys(content))
            case "array":
                return read_array(content, self._tensors)
            case "tensor":
                return read_tensor(content, self._tensors)
            case "objects":
                array = np.empty(len(content), dtype=object)
                array[:] = self._values(content)
                return array.reshape(entry["shape"])
            case "index":
                return self._index(entry)
            case "random":
                return self._random_state(entry)
            case "own_module":
                state = {name: self.value(node) for name, node in entry["state"].items()}
                return self._templates.restore(content, state, entry["training"])
            case "call":
                return self._call(entry, content, self._values(entry["args"]))
            case "instance":
                return self._instance(number, entry)
        raise PersistenceError(f"{str(tag)[:80]!r} is no kind of object")

    def _values(self, nodes: Any) -> list[Any]:
        return [self.value(node) for node in nodes]

    def _keys(self, nodes: Any) -> list[Any]:
        keys = self._values(nodes)
        # A tuple of tuples of tuples takes exponential time to hash.
        if not all(is_key(key) for key in keys):
            raise PersistenceError("a key or the element of a set is no scalar or tuple of scalars")
        return keys

    def _fill(self, made: Any, entry: Any, content: Any) -> None:
        if isinstance(made, list):
            made.extend(self._values(content))
        elif isinstance(made, set):
            made.update(self._keys(content))
        else:
            self._fill_pairs(made, content)
        if isinstance(made, defaultdict):
            made.default_factory = self.value(entry["factory"])

    def _fill_pairs(self, made: Any, pairs: Any) -> None:
        keys = self._keys(key for key, _ in pairs)
        for key, (_, node) in zip(keys, pairs, strict=True):
            made[key] = self.value(node)

    def _index(self, entry: Any) -> Any:
        try:
            import pandas as pd
        except ImportError:
            raise PersistenceError("the file has a pandas Index: install pandas") from None
        values, dtype = self._values(entry["index"]), entry["dtype"]
        return pd.Index(values, dtype=str(dtype), name=self.value(entry["name"]))

    def _random_state(self, entry: Any) -> Any:
        state = self.value(entry["state"])
        kind = state["bit_generator"]
        if kind not in _BIT_GENERATORS:
            raise PersistenceError(f"{str(kind)[:80]!r} is no bit generator")
        # Their C code takes positions in these buffers at their word.
        if kind == "MT19937" and not 0 <= int(state["state"]["pos"]) <= 624:
            raise PersistenceError("a random state has a position outside of its key")
        if kind == "Philox" and not 0 <= int(state["buffer_pos"]) <= 4:
            raise PersistenceError("a random state has a position outside of its buffer")
        bits = getattr(np.random, kind)()
        if entry["random"] == "RandomState":
            legacy = np.random.RandomState(bits)
            legacy.set_state(state)
            return legacy
        bits.state = state
        return np.random.Generator(bits)

    def _call(self, entry: Any, name: str, arguments: list[Any]) -> Any:
        cls = self._names.instance_class(name)
        if not self._names.is_called(cls):
            raise PersistenceError(f"{name[:120]!r} is not made by a call")
        if not is_tree(cls):
            return cls(*arguments)
        state = {name: self.value(node) for name, node in entry.get("state", {}).items()}
        check_tree(arguments, state)
        made = cls(*arguments)
        made.__setstate__(state)
        return made

    def _instance(self, number: int, entry: Any) -> Any:
        cls = self._names.instance_class(entry["instance"])
        if self._names.is_called(cls) and not self._names.trusts(cls):
            raise PersistenceError(f"{entry['instance'][:120]!r} is made by a call only")
        made = self._made[number] = cls.__new__(cls, *self._values(entry.get("args", ())))
        for item in entry.get("items", ()):
            made.append(self.value(item))
        self._fill_pairs(made, entry.get("pairs", ()))
        for name, node in entry.get("slots", {}).items():
            object.__setattr__(made, name, self.value(node))
        if "state" not in entry:
            return made
        state = {name: self.value(node) for name, node in entry["state"].items()}
        if "_sklearn_version" in state:
            # One warning about another version is given for the whole file.
            state["_sklearn_version"] = sklearn.__version__
        if hasattr(made, "__setstate__"):
            made.__setstate__(state)
        else:
            made.__dict__.update(state)
        return made
