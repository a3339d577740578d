"""A party's own network, of a class that a file may not name: only its state is in the file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fedtl.persistence._names import Names, PersistenceError


class OwnModules:
    """Which party a network of a class of the user's own belongs to.

    The fitted estimator holds copies of the network that a party's Encoder was given; they are
    recognised by their class and the shapes of their state.

    Parameters
    ----------
    names : Names
        What a file may name.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._known: dict[str, Any] = {}

    def register(self, party: str, module: Any) -> None:
        """Remember what the Encoder of a party was given, if it is not made of known classes."""
        if isinstance(module, type):
            own = issubclass(module, nn.Module) and self._names.of_class(module) is None
        else:
            own = isinstance(module, nn.Module) and not self._all_named(module)
        if own:
            self._known.setdefault(party, module)

    def owner(self, module: Any, party: str | None) -> str | None:
        """Return the party that a network, or its class, belongs to.

        Parameters
        ----------
        module : nn.Module or class
            From anywhere in the estimator.
        party : str or None
            The party that it was found at, if that is known.

        Returns
        -------
        str or None
            None if a file can hold all of it, or if no Encoder was given the like of it.
        """
        if isinstance(module, nn.Module) and self._all_named(module):
            return None
        owners = [name for name, given in self._known.items() if _alike(module, given)]
        return party if party in owners else next(iter(owners), None)

    def _all_named(self, module: nn.Module) -> bool:
        return all(self._names.of_class(type(part)) is not None for part in module.modules())


def _alike(module: Any, given: Any) -> bool:
    if isinstance(module, type) or isinstance(given, type):
        cls = module if isinstance(module, type) else type(module)
        return cls is (given if isinstance(given, type) else type(given))
    return type(module) is type(given) and _shapes(module) == _shapes(given)


def _shapes(module: nn.Module) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in module.state_dict().items()}


class Templates:
    """The networks that the caller of load passes for those that are not in the file.

    Parameters
    ----------
    modules : mapping of str to (nn.Module, class or fitted skorch net)
        By name of the party.
    needed : dict of str to str
        For each party that needs one, the name of its class.

    Raises
    ------
    PersistenceError
        If one is missing, or is for a party that needs none.
    """

    def __init__(self, modules: Mapping[str, Any], needed: dict[str, str]) -> None:
        missing = {party: cls for party, cls in needed.items() if party not in modules}
        if missing:
            wanted = ", ".join(f"{party!r}: {cls}()" for party, cls in missing.items())
            raise PersistenceError(
                f"the file holds the weights, but not the code, of the networks of the parties "
                f"{list(missing)}: pass load(path, modules={{{wanted}}}), with the arguments "
                "that the network was made with"
            )
        unknown = sorted(set(modules) - set(needed))
        if unknown:
            raise PersistenceError(
                f"modules names the parties {unknown}; the parties of this file whose network "
                f"has to be passed are {sorted(needed)}"
            )
        self._modules = modules

    def cls(self, party: str) -> type:
        """Return the class of a party's network."""
        given = self._modules[party]
        return given if isinstance(given, type) else type(getattr(given, "module_", given))

    def restore(self, party: str, state: dict[str, Any], training: list[str]) -> nn.Module:
        """Return a copy of a party's network with another state.

        Parameters
        ----------
        party : str
            Name of the party.
        state : dict
            Parameters, buffers and extra state by name.
        training : list of str
            Names of the submodules that are in training mode.

        Returns
        -------
        nn.Module
            The network; what was passed is not changed.

        Raises
        ------
        PersistenceError
            If the state is not that of such a network.
        """
        module = self._copy(party)
        floats = {v.dtype for v in state.values() if _is_float(v)}
        if len(floats) == 1:  # also converts what is in no state, as non-persistent buffers
            module = module.to(floats.pop())
        for name, own in [*module.named_parameters(), *module.named_buffers()]:
            saved = state.get(name)
            if isinstance(saved, torch.Tensor):
                own.data = own.data.to(saved.dtype)
                if isinstance(own, nn.Parameter):
                    own.requires_grad_(saved.requires_grad)
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise PersistenceError(
                f"party {party!r}: the network passed in modules is not like the one that was "
                f"saved: {error}"
            ) from None
        for name, part in module.named_modules():
            part.training = name in training
        return module

    def _copy(self, party: str) -> nn.Module:
        given = self._modules[party]
        if isinstance(given, type):
            with torch.random.fork_rng(devices=[]):
                module = given()
        else:
            module = copy.deepcopy(getattr(given, "module_", given))
        if not isinstance(module, nn.Module):
            raise PersistenceError(
                f"party {party!r}: expected a torch module in modules, got {type(module).__name__}"
            )
        return module


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
