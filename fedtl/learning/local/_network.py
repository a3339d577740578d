"""A torch network as vectors: what is shared, what is personal, what is frozen."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedtl.learning.local._model import Pull, Weights
from fedtl.learning.strategies import Layout

BATCH_NORM = "batch_norm"


class Network:
    """Reads and loads the trainable part of a module, which is laid out in one vector.

    Exchanged are the parameters that are trainable and not personal, and the floating-point
    buffers of modules that are neither personal nor frozen. Buffers of frozen modules, and those
    that count (``num_batches_tracked``), start every round from what they were.

    Parameters
    ----------
    module : nn.Module
        The network; its shared parameters are moved into one vector.
    personal : sequence of str
        Patterns of names; ``"batch_norm"`` stands for all batch norms.

    Raises
    ------
    ValueError
        If nothing is trainable or a pattern matches nothing.
    TypeError
        If trainable parameters are of several types.
    """

    def __init__(self, module: nn.Module, personal: Sequence[str]) -> None:
        self.module = module
        parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not parameters:
            raise ValueError("the module has no trainable parameter: all are frozen")
        own = _personal_names(module, personal, list(parameters))
        self._shared = {n: p for n, p in parameters.items() if n not in own}
        if not self._shared:
            raise ValueError(
                f"personal={tuple(personal)!r} leaves no trainable parameter to share; it has "
                f"{', '.join(parameters)}"
            )
        buffers, kept = _split_buffers(module, own)
        self._personal: dict[str, Tensor] = {n: p for n, p in parameters.items() if n in own}
        self._personal |= {n: b for n, b in buffers.items() if n in own}
        self._buffers = {n: b for n, b in buffers.items() if n not in own}
        self._kept = [(tensor, tensor.clone()) for tensor in kept.values()]
        # Looked for once: a simulation asks for each of many parties.
        self._norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        self._embeds = any(isinstance(m, nn.Embedding) for m in module.modules())
        self.flat = _one_vector(self._shared)
        # The same memory, where NumPy has it: for small networks torch takes longer to be asked.
        plain = self.flat.device.type == "cpu" and self.flat.dtype == torch.float32
        self._values = self.flat.numpy() if plain else None
        self.shared = _layout(self._shared)
        self.personal, self.buffers = _layout(self._personal), _layout(self._buffers)

    def input_type(self, X: np.ndarray) -> torch.dtype:
        """Return that of the parameters, or int64 where an embedding looks whole numbers up."""
        return torch.int64 if X.dtype.kind in "iu" and self._embeds else self.flat.dtype

    @property
    def needs_two_rows(self) -> bool:
        """Whether a mini-batch of one row cannot be trained on."""
        return any(norm.training for norm in self._norms)

    def read(self) -> Weights:
        """Return copies of everything that training changes."""
        shared = self.flat.float().cpu().numpy() if self._values is None else self._values
        return Weights(shared.copy(), _read(self._personal), _read(self._buffers))

    def load(self, weights: Weights) -> None:
        """Put other values in place."""
        if self._values is None:
            self.flat.copy_(as_tensor(weights.shared))
        else:
            self._values[...] = weights.shared
        with torch.no_grad():
            _load(self._personal, self.personal, weights.personal)
            _load(self._buffers, self.buffers, weights.buffers)
            for tensor, value in self._kept:
                tensor.copy_(value)

    def gradient(self) -> np.ndarray:
        """Return the gradients of the shared parameters in one vector."""
        parts = [
            torch.zeros_like(p).ravel() if p.grad is None else p.grad.ravel()
            for p in self._shared.values()
        ]
        return torch.cat(parts).cpu().numpy().astype(np.float32)

    def redraw(self, seed: int) -> None:
        """Let every layer that can draw its parameters do so."""
        with seeded(seed), torch.no_grad():
            for layer in self.module.modules():
                if any(p.requires_grad for p in layer.parameters(recurse=False)):
                    getattr(layer, "reset_parameters", lambda: None)()

    @contextmanager
    def pulled(self, pull: Pull | None) -> Iterator[None]:
        """Add to every gradient, as soon as it is there, for as long as the context lasts."""
        if pull is None:
            yield
            return
        hooks = []
        for parameter, add in self.pulls(pull):
            register: Any = parameter.register_post_accumulate_grad_hook
            hooks.append(register(add))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def pulls(self, pull: Pull) -> Iterator[tuple[nn.Parameter, Callable[[Tensor], None]]]:
        """Yield each shared parameter, and what adds the pull to its gradient."""
        towards = self._pieces(pull.towards)
        offsets = None if pull.offset is None else self._pieces(pull.offset)
        for i, parameter in enumerate(self._shared.values()):

            def add(p: Tensor, i: int = i) -> None:
                assert p.grad is not None
                if pull.proximal:
                    p.grad.add_(p.detach() - towards[i], alpha=pull.proximal)
                if offsets is not None:
                    p.grad.add_(offsets[i])

            yield parameter, add

    def _pieces(self, flat: np.ndarray) -> list[Tensor]:
        return [as_tensor(v).to(self.flat) for v in self.shared.views(flat).values()]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed, and leave torch's own generator as it was."""
    # Not torch.manual_seed, which also seeds devices and, where none is in use, remembers to do
    # so with a formatted traceback: slower than a training step.
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        generator.set_state(before)


def as_tensor(array: np.ndarray) -> Tensor:
    """Return an array as a tensor: the same memory, unless it is read-only, as what crossed is."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def copy_module(module: nn.Module) -> nn.Module:
    """Copy a network; parameters that are frozen are not copied but used by both."""
    frozen = {id(p): p for p in module.parameters() if not p.requires_grad}
    return copy.deepcopy(module, frozen)


def plain_lr(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the learning rate if the optimiser is plain gradient descent, else None."""
    extras = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
    rates = {float(group["lr"]) for group in optimizer.param_groups}
    plain = type(optimizer) is torch.optim.SGD and not any(
        group.get(extra) for group in optimizer.param_groups for extra in extras
    )
    return rates.pop() if plain and len(rates) == 1 else None


def _personal_names(module: nn.Module, personal: Sequence[str], names: list[str]) -> set[str]:
    """Return names of parameters and buffers that stay at the party."""
    if isinstance(personal, str):
        raise TypeError(f"personal is a sequence of patterns, write ({personal!r},)")
    buffers = [name for name, _ in module.named_buffers()]
    norms = [n for n, m in module.named_modules() if isinstance(m, _BatchNorm)]
    own: set[str] = set()
    for pattern in personal:
        if pattern == BATCH_NORM:
            found = [n for n in names + buffers if n.rpartition(".")[0] in norms]
        else:
            found = [n for n in names + buffers if matches(n, pattern)]
        if not found:
            raise ValueError(
                f"personal={pattern!r} matches no trainable parameter; they are {', '.join(names)}"
            )
        own.update(found)
    return own


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern means a parameter: itself, or the module that it is in."""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern + ".*")


def _split_buffers(module: nn.Module, own: set[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return buffers that training records, and those that are put back after it."""
    recorded: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}
    for prefix, layer in module.named_modules():
        parameters = list(layer.parameters(recurse=False))
        frozen = parameters and not any(p.requires_grad for p in parameters)
        for name, buffer in layer.named_buffers(recurse=False):
            if name in layer._non_persistent_buffers_set:
                continue  # tables that the module makes itself, such as positions
            full = f"{prefix}.{name}" if prefix else name
            counts = not buffer.is_floating_point()
            (kept if counts or (frozen and full not in own) else recorded)[full] = buffer
    return recorded, kept


def _one_vector(parameters: dict[str, nn.Parameter]) -> Tensor:
    first = next(iter(parameters.values()))
    others = {str(p.dtype) for p in parameters.values() if p.dtype != first.dtype}
    if others:
        raise TypeError(
            f"trainable parameters are of several types, {first.dtype} and {sorted(others)}; "
            "convert the module, as by module.float()"
        )
    flat = torch.cat([p.detach().ravel() for p in parameters.values()])
    offset = 0
    for p in parameters.values():
        p.data = flat[offset : offset + p.numel()].view(p.shape)
        offset += p.numel()
    return flat


def _layout(tensors: dict[str, Any]) -> Layout:
    return Layout(tuple(tensors), tuple(tuple(t.shape) for t in tensors.values()))


def _read(tensors: dict[str, Tensor]) -> np.ndarray:
    if not tensors:
        return np.empty(0, dtype=np.float32)
    flat = torch.cat([t.detach().ravel().float() for t in tensors.values()])
    return flat.cpu().numpy().copy()


def _load(tensors: dict[str, Tensor], layout: Layout, flat: np.ndarray) -> None:
    if tensors:
        for name, value in layout.views(flat).items():
            tensors[name].copy_(as_tensor(value))
