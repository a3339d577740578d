"""One party's recipe for its own columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sklearn.base import BaseEstimator


class Encoder(BaseEstimator):
    """How one party encodes its own columns.

    An encoder is a recipe, not a fitted object: it is carried out by the party, on the party's
    own rows, and never crosses its border.

    Parameters
    ----------
    module : nn.Module, class of nn.Module, fitted skorch net or None, default=None
        A pretrained network that maps the party's numeric columns, of shape
        (n_rows, n_columns), to features of shape (n_rows, ...). It is copied, never changed.
        With None, the columns are encoded by quantile scaling, one-hot and piecewise-linear
        encoding. A class is called without arguments.
    preprocessor : transformer or None, default=None
        A scikit-learn transformer, fitted on the rows that the party knows. Preprocessing that
        fills missing values belongs here: before the federated estimator it would erase which
        rows a party knows.
    frozen : bool or sequence of str, default=False
        Whether the module's parameters are kept: True for all of them, or patterns of their
        names, as ``("layers.0.*",)``. The others are fine-tuned by the latent solver.
    lr : float or None, default=None
        Highest learning rate of a fine-tuned module; a tenth of the estimator's by default.

    See Also
    --------
    FederatedTransferClassifier : Where encoders are used.

    Examples
    --------
    >>> from sklearn.impute import SimpleImputer
    >>> from fedtl import Encoder
    >>> Encoder(preprocessor=SimpleImputer())
    Encoder(preprocessor=SimpleImputer())
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        module: Any = None,
        *,
        preprocessor: Any = None,
        frozen: bool | Sequence[str] = False,
        lr: float | None = None,
    ) -> None:
        self.module = module
        self.preprocessor = preprocessor
        self.frozen = frozen
        self.lr = lr
