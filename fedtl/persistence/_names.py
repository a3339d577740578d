"""What a file may name: classes and functions, looked up and never made."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from scipy import special


class PersistenceError(ValueError):
    """An estimator that cannot be saved, or a file that is not one, is damaged or is refused."""


_CLASSES = ("fedtl", "sklearn", "torch.nn.modules")
# Classes that are values themselves: factories, and optimisers, which are made when training.
_CLASS_VALUES = ("fedtl", "torch.nn.modules", "torch.optim")
_FUNCTIONS = ("fedtl.learning", "fedtl.protocols")
# Parts of these packages that hold nothing a fitted estimator is made of.
# Compiled code of these takes arrays at their word, and nobody checks them here.
_UNCHECKED = {"svm", "_gb", "_iforest"}
_NEVER = {"cli", "conftest", "datasets", "experimental", "externals", "persistence", "tests"}
# Made by calling them on arguments that they check: extension types, whose inner state is not
# ours to set, and classes that compiled code takes at their word.
_CALLED_MODULES = {"sklearn._loss._loss", "sklearn.linear_model._sgd_fast"}
_CALLED = {
    "scipy.interpolate._bsplines:BSpline": ("t", "c", "k", "extrapolate", "axis"),
    "sklearn.tree._tree:Tree": ("n_features", "n_classes", "n_outputs"),
}
_BUILTINS = (bool, int, float, complex, str, bytes, object, list, tuple, dict, set, frozenset)
_ACTIVATIONS = ("relu", "gelu", "silu", "elu", "leaky_relu", "softplus", "mish")
_STATIC_TYPES = ("builtins", "collections", "typing")


class Names:
    """The names that one call to save or load accepts.

    Parameters
    ----------
    trusted : iterable of (class or function)
        What the caller accepts beside what is always accepted.
    """

    def __init__(self, trusted: Iterable[Any]) -> None:
        self._trusted: dict[str, Any] = {}
        for item in trusted:
            if not isinstance(item, type | types.FunctionType):
                raise TypeError(f"trusted: expected classes or functions, got {item!r}")
            self._trusted[_name(item)] = item

    def trusts(self, item: Any) -> bool:
        """Return whether the caller named it."""
        return any(item is known for known in self._trusted.values())

    def of_class(self, cls: type) -> str | None:
        """Return the name of an instance's class; None if instances of it are not accepted."""
        return self._checked(_name(cls), cls, self.instance_class)

    def of_class_value(self, cls: type) -> str | None:
        """Return the name of a class that is a value itself; None if it is not accepted."""
        name = f"numpy:{cls.__name__}" if issubclass(cls, np.generic) else _name(cls)
        return self._checked(name, cls, self.class_value)

    def of_function(self, function: Any) -> str | None:
        """Return the name of a function; None if it is not accepted."""
        name = getattr(function, "__name__", "")
        elsewhere = [f"{m}:{name}" for m in ("numpy", "scipy.special", "torch.nn.functional")]
        for candidate in [_name(function), *elsewhere]:
            if self._checked(candidate, function, self.function):
                return candidate
        return None

    def instance_class(self, name: str) -> type:
        """Find the class of an instance.

        Parameters
        ----------
        name : str
            Module and qualified name, as ``"sklearn.preprocessing._data:StandardScaler"``.

        Returns
        -------
        type
            The class.

        Raises
        ------
        PersistenceError
            If it is not one that a file may name.
        """
        if isinstance(self._trusted.get(name), type):
            return self._trusted[name]
        if name in _CALLED:
            return _find_class(name)
        cls = _find_class(name, _CLASSES)
        if name.partition(":")[0] not in _CALLED_MODULES and not _is_plain(cls):
            raise _refused(name, "is not a class whose instances a file can hold")
        return cls

    def class_value(self, name: str) -> type:
        """Find a class that is a value; see :meth:`instance_class`."""
        if isinstance(self._trusted.get(name), type):
            return self._trusted[name]
        module, _, qualname = name.partition(":")
        if module == "builtins":
            for cls in _BUILTINS:
                if cls.__name__ == qualname:
                    return cls
        if module == "numpy":
            found = vars(np).get(qualname)
            if isinstance(found, type) and issubclass(found, np.generic):
                return found
        return _find_class(name, _CLASS_VALUES)

    def function(self, name: str) -> Callable[..., Any]:
        """Find a function: of fedtl's protocols and arithmetic, a ufunc, or an activation.

        Parameters
        ----------
        name : str
            Module and name.

        Returns
        -------
        callable
            The function.

        Raises
        ------
        PersistenceError
            If it is not one that a file may name.
        """
        trusted = self._trusted.get(name)
        if trusted is not None and not isinstance(trusted, type):
            return trusted
        module, _, qualname = name.partition(":")
        if module in ("numpy", "scipy.special"):
            found = getattr(np if module == "numpy" else special, qualname, None)
            if isinstance(found, np.ufunc):
                return found
        if module == "torch.nn.functional" and qualname in _ACTIVATIONS:
            return getattr(torch.nn.functional, qualname)
        if _inside(module, _FUNCTIONS):
            found = vars(_module(module)).get(qualname)
            if isinstance(found, types.FunctionType) and found.__module__ == module:
                return found
        raise _refused(name, "is not a function that a file may name")

    def is_called(self, cls: type) -> bool:
        """Return whether instances are made by a call, of an accepted class."""
        called = _name(cls) in _CALLED or _name(cls).partition(":")[0] in _CALLED_MODULES
        return called or self.trusts(cls)

    @staticmethod
    def arguments(called: type) -> tuple[str, ...] | None:
        """Return the attributes that an instance is made again from; None for its reduced form."""
        return _CALLED.get(_name(called))

    @staticmethod
    def _checked(name: str, item: Any, find: Callable[[str], Any]) -> str | None:
        try:
            return name if find(name) is item else None
        except PersistenceError:
            return None


def _name(item: Any) -> str:
    module = getattr(item, "__module__", None)
    # Before scikit-learn 1.7 the compiled losses did not know the package that they are in.
    module = {"_loss": "sklearn._loss._loss"}.get(str(module), module)
    return f"{module}:{getattr(item, '__qualname__', None)}"


def _find_class(name: str, packages: tuple[str, ...] | None = None) -> type:
    """Find a class where it is defined: no function, no module, nothing imported from elsewhere."""
    module, _, qualname = name.partition(":")
    if packages is not None and not _inside(module, packages):
        raise _refused(name, f"is of no package that a file may name ({', '.join(packages)})")
    found: Any = _module(module)
    for part in qualname.split("."):
        found = vars(found).get(part)
        if not isinstance(found, type):
            raise _refused(name, "is no class of this version")
    if _name(found) != name or issubclass(found, type):
        raise _refused(name, "is no class that is defined there")
    return found


def _inside(module: str, packages: tuple[str, ...]) -> bool:
    parts = module.split(".")
    known = any(module == p or module.startswith(p + ".") for p in packages)
    # Dunder modules run programs, test helpers are no part of an estimator.
    odd = [p for p in parts if p in _NEVER | _UNCHECKED or p.startswith(("__", "_test", "test"))]
    return known and not odd and all(p.isidentifier() for p in parts)


def _module(module: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PersistenceError(f"the file names the module {module!r}: {error}") from None


def _is_plain(cls: type) -> bool:
    """Whether a class is written in Python: its instances are what their attributes say."""
    heap_type = 1 << 9
    return all(
        base.__flags__ & heap_type or base.__module__ in _STATIC_TYPES for base in cls.__mro__
    )


def _refused(name: str, why: str) -> PersistenceError:
    return PersistenceError(
        f"the file names {name[:120]!r}, which {why}. If it is yours and you trust it, pass it in "
        "trusted=[...]"
    )
