"""What a party is configured with: which model it trains, and how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from sklearn.base import is_classifier, is_regressor

from fedtl.learning.local._model import LocalModel, Shape


def kind_of(estimator: Any) -> str:
    """Return which library trains a model.

    Parameters
    ----------
    estimator : object
        The model.

    Returns
    -------
    {"module", "skorch", "coefficients"}
        The kind.

    Raises
    ------
    TypeError
        If it is none that can be trained in rounds.
    """
    from skorch import NeuralNet

    if isinstance(estimator, torch.nn.Module):
        return "module"
    if isinstance(estimator, NeuralNet):
        return "skorch"
    supervised = not isinstance(estimator, type) and hasattr(estimator, "get_params")
    if supervised and (is_classifier(estimator) or is_regressor(estimator)):
        if hasattr(estimator, "partial_fit") or "warm_start" in estimator.get_params():
            return "coefficients"
        raise TypeError(
            f"{type(estimator).__name__} cannot be trained in rounds: it has neither partial_fit "
            "nor warm_start"
        )
    raise TypeError(
        "estimator must be a torch module, a skorch net, or a scikit-learn classifier or regressor "
        f"with partial_fit or warm_start, got {estimator!r}"
    )


@dataclass(eq=False)
class LocalRecipe:
    """Which model a party trains, and how; it never crosses the border.

    A model that was built is used again by the next party and round in the same process, so that
    a thousand simulated parties need the memory of one, or of one for each worker.

    Parameters
    ----------
    estimator : nn.Module, skorch net, or scikit-learn estimator
        The model. It is copied, never trained itself.
    personal : sequence of str, default=()
        Patterns of names of parameters that stay at the party; ``"batch_norm"`` stands for all
        batch norms.
    criterion : callable or None, default=None
        Loss of a plain module; cross entropy by default.
    optimizer : callable, default=torch.optim.SGD
        Optimiser of a plain module: ``optimizer(parameters, lr=lr)``.
    lr : float, default=0.05
        Learning rate of a plain module.
    batch_size : int, default=32
        Rows of a mini-batch of a plain module.
    """

    estimator: Any
    personal: tuple[str, ...] = ()
    criterion: Any = None
    optimizer: Any = torch.optim.SGD
    lr: float = 0.05
    batch_size: int = 32
    _idle: dict[tuple[Shape, int], list[LocalModel]] = field(default_factory=dict, repr=False)

    def build(self, shape: Shape, seed: int) -> LocalModel:
        """Build a model.

        Parameters
        ----------
        shape : Shape
            Features and classes.
        seed : int
            Seed of initial parameters, where the estimator leaves them open.

        Returns
        -------
        LocalModel
            A new model; the estimator is not changed.
        """
        kind = kind_of(self.estimator)
        if kind == "coefficients":
            from fedtl.learning.local._coefficients import CoefficientModel

            return CoefficientModel(self, shape, seed)
        if kind == "skorch":
            from fedtl.learning.local._skorch import SkorchModel

            return SkorchModel(self, shape, seed)
        from fedtl.learning.local._module import ModuleModel

        return ModuleModel(self, shape, seed)

    @contextmanager
    def model(self, shape: Shape, seed: int) -> Iterator[LocalModel]:
        """Lend a model, to be loaded before it is used; arguments as of :meth:`build`."""
        idle = self._idle.setdefault((shape, seed), [])
        model = idle.pop() if idle else self.build(shape, seed)
        yield model
        idle.append(model)  # not if it raised: a failed training may leave anything behind

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": {}}
