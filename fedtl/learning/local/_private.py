"""Differentially private gradient descent: gradients of single rows, clipped, and noise.

Norms of the rows' gradients come from opacus ("ghost" clipping, which does not hold the gradients
themselves). Which rows take part, and the noise, are drawn here and from the operating system's
randomness: opacus draws from torch's generator, which is not made for secrets.

References
----------
M. Abadi et al. Deep learning with differential privacy. CCS 2016.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedtl.learning.local._model import PrivateSteps
from fedtl.privacy.noise import gaussian, poisson_sample

Losses = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a module, rows and their positions to the loss of each row."""


def take_private_steps(
    module: nn.Module,
    losses: Losses,
    rows: Tensor,
    steps: PrivateSteps,
    optimizer: Any,
    *,
    pulls: Sequence[tuple[nn.Parameter, Callable[[Tensor], None]]],
) -> None:
    """Train a module.

    Parameters
    ----------
    module : nn.Module
        In training mode; changed in place.
    losses : callable
        From the module, rows and their positions to the loss of each row.
    rows : Tensor of shape (n_rows, ...)
        The rows.
    steps : PrivateSteps
        How many steps, on how many rows, with how much noise.
    optimizer : torch optimiser
        Of the module's trainable parameters.
    pulls : sequence of (parameter, callable)
        What is added to gradients after the noise.

    Raises
    ------
    ImportError
        If opacus is not installed.
    ValueError
        If the module mixes rows, as batch norms do, or the loss is not one of single rows.
    """
    _check_layers(module)
    _check_rows_apart(module, losses, rows)
    expected = max(steps.sampling_rate * len(rows), 1.0)
    with _row_norms(module, steps.clip) as wrapped:
        trainable = [p for p in module.parameters() if p.requires_grad]
        for _ in range(steps.n_steps):
            optimizer.zero_grad(set_to_none=True)
            batch = torch.from_numpy(poisson_sample(len(rows), steps.sampling_rate))
            if len(batch):
                _clipped_sum(wrapped, losses, rows[batch], batch)
            for parameter in trainable:
                noise = torch.from_numpy(gaussian(tuple(parameter.shape))).to(parameter)
                noise *= steps.clip * steps.noise_multiplier
                total = noise if parameter.grad is None else parameter.grad + noise
                parameter.grad = total / expected
            for parameter, add in pulls:
                add(parameter)
            optimizer.step()


def _clipped_sum(wrapped: Any, losses: Losses, rows: Tensor, batch: Tensor) -> None:
    """Leave the sum of the rows' clipped gradients in the parameters."""
    if rows.is_floating_point():
        rows.requires_grad_()  # or torch warns of hooks on a first layer
    each = losses(wrapped, rows, batch)
    each = each.reshape(len(batch), -1).mean(dim=1)
    each.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
    coefficients = wrapped.get_clipping_coef().detach()
    for parameter in wrapped.parameters():
        parameter.grad = None
    wrapped.disable_hooks()
    (coefficients * each).sum().backward()
    wrapped.enable_hooks()


@contextmanager
def _row_norms(module: nn.Module, clip: float) -> Iterator[Any]:
    """Have opacus observe the norms of the rows' gradients, for as long as the context lasts."""
    wrapped = _opacus()[0](module, loss_reduction="sum", max_grad_norm=clip, strict=False)
    try:
        yield wrapped
    finally:
        wrapped.to_standard_module()
        for parameter in module.parameters():
            for name in ("_norm_sample", "grad_sample", "_forward_counter", "_current_grad_sample"):
                if hasattr(parameter, name):
                    delattr(parameter, name)


def _check_layers(module: nn.Module) -> None:
    """Refuse layers whose rows have no gradients of their own."""
    norms = [name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
    if norms:
        raise ValueError(
            f"differentially private training cannot take batch norms, which mix rows: {norms}. "
            "Use group or layer norms"
        )
    problems = _opacus()[1].validate(module, strict=False)
    if problems:
        raise ValueError(
            "differentially private training cannot take this network: "
            f"{'; '.join(str(problem) for problem in problems)}"
        )


def _check_rows_apart(module: nn.Module, losses: Losses, rows: Tensor) -> None:
    """Refuse what lets one row change another row's loss: its gradient could not be bounded."""
    training = {layer: layer.training for layer in module.modules()}
    both = torch.arange(min(2, len(rows)))
    with torch.no_grad():
        module.eval()
        together = losses(module, rows[both], both)
        if together.shape[:1] != both.shape:
            raise ValueError(
                "differentially private training needs the loss of each row; this criterion "
                f"returns {tuple(together.shape)} for {len(both)} rows"
            )
        apart = torch.cat(
            [losses(module, rows[i : i + 1], both[i : i + 1]) for i in range(len(both))]
        )
    for layer, mode in training.items():
        layer.training = mode
    if not torch.allclose(together, apart, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ValueError(
            "differentially private training needs a network that treats each row by itself; in "
            "this one, what other rows are in the batch changes a row's loss"
        )


def row_losses(criterion: Any) -> Any:
    """Return a copy of a criterion that returns the loss of each row.

    Parameters
    ----------
    criterion : callable
        A loss with torch's attribute ``reduction``.

    Returns
    -------
    callable
        The copy.

    Raises
    ------
    ValueError
        If it has no such attribute.
    """
    if getattr(criterion, "reduction", None) not in ("mean", "sum", "none"):
        raise ValueError(
            f"differentially private training needs the loss of each row, and {criterion!r} has no "
            "attribute reduction to ask for it; use a loss of torch.nn"
        )
    criterion = copy.copy(criterion)
    criterion.reduction = "none"
    return criterion


def _opacus() -> tuple[Any, Any]:
    try:
        from opacus.grad_sample import GradSampleModuleFastGradientClipping
        from opacus.validators import ModuleValidator
    except ImportError as error:
        raise ImportError(
            "differentially private training needs opacus: pip install 'fedtl[dp]'"
        ) from error
    return GradSampleModuleFastGradientClipping, ModuleValidator
