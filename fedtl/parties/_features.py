"""How a party turns its own rows into what its models see, by itself and without labels."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.base import clone

from fedtl.exceptions import PartyError
from fedtl.learning.columns import Columns, as_columns, numeric_columns
from fedtl.learning.encoding import Encoding
from fedtl.learning.private_marginals import histograms, made_up_rows
from fedtl.parties._table import Table, take_rows

MAX_WIDTH = 256
_CHUNK = 4096


class Recipe(Protocol):
    """What a party's encoder estimator says; see :class:`fedtl.Encoder`."""

    preprocessor: Any
    module: Any
    frozen: Any
    lr: float | None


class LocalFeatures:
    """A party's preprocessing, pretrained network and encoding, fitted on its own rows.

    Parameters
    ----------
    party : str
        Name of the party, for errors.
    recipe : Recipe
        Preprocessor and network.
    """

    def __init__(self, party: str, recipe: Recipe) -> None:
        self.party, self.recipe = party, recipe
        self.fitted = False

    def fit(self, block: Any, n_bins: int, seed: int, n_components: int = 0) -> LocalFeatures:
        """Fit on the rows of `block` that have any value.

        Parameters
        ----------
        block : ndarray or dataframe of shape (n_rows, n_columns)
            The party's columns.
        n_bins : int
            Bins of the piecewise-linear encoding.
        seed : int
            Seed of whatever is drawn.
        n_components : int, default=0
            If positive, the encoding is so many of its principal components at most.

        Returns
        -------
        LocalFeatures
            The object itself.

        Raises
        ------
        PartyError
            If no row has a value, a value is infinite, or the preprocessor or the network
            cannot take the block.
        """
        known = _known(self.party, block)
        if not known.any():
            raise PartyError(
                self.party,
                "knows no row: every row of its block is missing. Pass at least one row that has "
                "values in its columns, or leave the party out",
            )
        own = take_rows(block, np.flatnonzero(known))
        self.preprocessor_: Any = clone(self.recipe.preprocessor, safe=False)
        if self.preprocessor_ is not None:
            self._preprocess(lambda: self.preprocessor_.fit(own))
        try:
            self.module_ = instantiate(self.recipe.module, seed)
            self.trainable_ = freeze(self.module_, self.recipe.frozen)
        except Exception as error:
            raise PartyError(
                self.party, f"its encoder's module or frozen cannot be used: {error}"
            ) from error
        self.numeric_: tuple[bool, ...] | None = None
        columns = self._columns(own)
        if not columns.width:
            raise PartyError(self.party, "has no columns left after preprocessing")
        self.encoding_ = Encoding(
            n_bins,
            min(n_components or MAX_WIDTH, MAX_WIDTH),
            scaled=self.module_ is None,
            rotated=n_components > 0,
            random_state=seed,
        ).fit(self.features(columns))
        self.fitted = True
        return self

    def plain_numbers(self, block: Any) -> np.ndarray:
        """Return the numbers of known rows, refusing what noise cannot be fitted to.

        Parameters
        ----------
        block : ndarray or dataframe of shape (n_rows, n_columns)
            The party's columns.

        Returns
        -------
        ndarray of shape (n_known, n_columns), dtype float64
            NaN where a value is missing.

        Raises
        ------
        PartyError
            If there is a preprocessor, a network or a column of categories.
        """
        known = _known(self.party, block)
        columns = as_columns(take_rows(block, np.flatnonzero(known)))
        fitted = self.recipe.preprocessor is not None or self.recipe.module is not None
        if fitted or columns.categories.shape[1] or not len(columns):
            raise PartyError(
                self.party,
                "under differential privacy its block must be numbers, and its encoder have no "
                "preprocessor or module: what is fitted to rows would tell of them without noise. "
                "Encode categories as numbers by a fixed rule, or leave them out",
            )
        return columns.numbers

    def fit_privately(self, block: Any, noise: float, *, n_bins: int, seed: int) -> LocalFeatures:
        """Fit the encoding to histograms with noise.

        Parameters
        ----------
        block : ndarray or dataframe of shape (n_rows, n_columns)
            The party's columns, all of them numbers.
        noise : float
            Standard deviation of the noise of a count.
        n_bins : int
            Bins of the piecewise-linear encoding.
        seed : int
            Seed of what is drawn from the histograms.

        Returns
        -------
        LocalFeatures
            The object itself.
        """
        numbers = self.plain_numbers(block)
        self.preprocessor_, self.module_, self.trainable_ = None, None, False
        self.numeric_ = (True,) * numbers.shape[1]
        rows = made_up_rows(histograms(numbers, noise), noise, seed)
        self.encoding_ = Encoding(n_bins, MAX_WIDTH, random_state=seed).fit(rows)
        self.fitted = True
        return self

    def known(self, table: Table, ids: np.ndarray) -> np.ndarray:
        """Return which ids are in the table with a value in some column: (n_ids,), bool."""
        block, known = table.select(ids)
        known[known] = _known(self.party, block)
        return known

    def read(self, table: Table, ids: np.ndarray) -> tuple[Columns, np.ndarray]:
        """Find rows and preprocess them.

        Parameters
        ----------
        table : Table
            The party's rows.
        ids : ndarray of shape (n_ids,), dtype int64
            Which of them are wanted.

        Returns
        -------
        columns : Columns
            One row for each id; all missing where the party does not know it.
        known : ndarray of shape (n_ids,), dtype bool
            Which ids it knows: those in its table with a value in some column.
        """
        block, known = table.select(ids)
        with_values = _known(self.party, block)
        known[known] = with_values
        rows = np.flatnonzero(known)
        if not len(rows):
            return Columns(np.empty((len(known), 0)), np.empty((len(known), 0), object)), known
        own = block if with_values.all() else take_rows(block, np.flatnonzero(with_values))
        columns = self._columns(own)
        if len(rows) == len(known):
            return columns, known
        numbers = np.full((len(known), columns.numbers.shape[1]), np.nan)
        categories = np.full((len(known), columns.categories.shape[1]), None, dtype=object)
        numbers[rows], categories[rows] = columns.numbers, columns.categories
        return Columns(numbers, categories), known

    def features(self, columns: Columns) -> Columns:
        """Return what the encoding takes: the columns, or the pretrained network's output."""
        return columns if self.module_ is None else self._module_features(columns.numbers)

    def chunks(
        self, columns: Columns, rows: np.ndarray, rotated: bool = True
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Encode rows piece by piece, so that a large table is never held encoded.

        Parameters
        ----------
        columns : Columns
            From :meth:`read`.
        rows : ndarray of shape (n,), dtype int
            Rows that the party knows.
        rotated : bool, default=True
            Whether a wide encoding is rotated, as it is for everything that crosses.

        Yields
        ------
        tuple of (slice, ndarray)
            Positions in `rows`, and the encoding of those rows, in float64.
        """
        for start in range(0, len(rows), _CHUNK):
            piece = slice(start, min(start + _CHUNK, len(rows)))
            encode = self.encoding_.transform if rotated else self.encoding_.expand
            yield piece, encode(self.features(columns[rows[piece]]))

    def plain(self, columns: Columns, rows: np.ndarray) -> np.ndarray:
        """Return what trees are given of some rows: numbers in proportion and one-hots.

        Parameters
        ----------
        columns : Columns
            From :meth:`read`.
        rows : ndarray of shape (n,), dtype int
            Rows that the party knows; one at least.

        Returns
        -------
        ndarray of shape (n, n_plain), dtype float64
            NaN where a number is missing. Not encoded piecewise, as trees find their own
            thresholds; more than 256 columns are rotated as for linear models.
        """
        pieces = []
        for start in range(0, len(rows), _CHUNK):
            features = self.features(columns[rows[start : start + _CHUNK]])
            piece = self.encoding_.plain(features)
            wide = piece.shape[1] > MAX_WIDTH
            pieces.append(self.encoding_.transform(features) if wide else piece)
        return np.concatenate(pieces)

    def latent_input(self, columns: Columns, rows: np.ndarray) -> np.ndarray:
        """Return what the latent encoder is trained on for some rows.

        Parameters
        ----------
        columns : Columns
            From :meth:`read`.
        rows : ndarray of shape (n,), dtype int
            Rows that the party knows.

        Returns
        -------
        ndarray of shape (n, width), dtype float32
            The encoding, or the raw numbers where a network is fine-tuned below the encoder.
        """
        if not len(rows):
            return np.empty((0, 0), dtype=np.float32)
        part = columns[rows]
        if self.trainable_:
            return np.nan_to_num(part.numbers).astype(np.float32)
        return self.encoding_.transform(self.features(part)).astype(np.float32)

    @property
    def trunk(self) -> torch.nn.Module | None:
        """The network that is fine-tuned, if there is one; to be copied before training."""
        return self.module_ if self.trainable_ else None

    @property
    def trunk_width(self) -> int:
        """Number of features that the network puts out."""
        return len(self.encoding_.mean_)

    def _columns(self, own: Any) -> Columns:
        if self.preprocessor_ is not None:
            own = self._preprocess(lambda: self.preprocessor_.transform(own))
            own = own.toarray() if hasattr(own, "toarray") else own
            own = np.asarray(own) if not hasattr(own, "columns") else own
        if self.numeric_ is None:
            self.numeric_ = numeric_columns(own)
        try:
            columns = as_columns(own, self.numeric_)
        except ValueError as error:
            raise PartyError(self.party, f"its columns changed since the fit: {error}") from error
        if np.isinf(columns.numbers).any():
            raise PartyError(self.party, "its preprocessor put out infinity")
        return columns

    def _preprocess(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:
            raise PartyError(
                self.party, f"its preprocessor failed on the party's own rows: {error}"
            ) from error

    def _module_features(self, numbers: np.ndarray) -> Columns:
        module, parts = self.module_, []
        assert module is not None
        module.eval()
        with torch.no_grad():
            for start in range(0, len(numbers), _CHUNK):
                x = torch.as_tensor(np.nan_to_num(numbers[start : start + _CHUNK]))
                try:
                    out = module(x.to(_dtype(module)))
                except Exception as error:
                    raise PartyError(
                        self.party,
                        f"its encoder module cannot take a batch of shape "
                        f"{tuple(x.shape)}: {error}",
                    ) from error
                if not isinstance(out, torch.Tensor) or len(out) != len(x) or out.ndim < 2:
                    raise PartyError(
                        self.party,
                        "its encoder module must map (n_rows, n_columns) to a tensor of shape "
                        f"(n_rows, ...), got {getattr(out, 'shape', type(out).__name__)}",
                    )
                parts.append(out.flatten(1).double().numpy())
        features = np.concatenate(parts)
        if not np.isfinite(features).all():
            raise PartyError(self.party, "its encoder module put out NaN or infinity")
        return Columns(features, np.empty((len(features), 0), dtype=object))


def instantiate(module: Any, seed: int) -> torch.nn.Module | None:
    """Return a network of our own: the caller's is never trained or changed.

    Parameters
    ----------
    module : nn.Module, class, fitted skorch net or None
        A class is called without arguments; of a skorch net its ``module_`` is taken.
    seed : int
        Seed of a class's initialisation.

    Returns
    -------
    nn.Module or None
        A copy.
    """
    if module is None:
        return None
    if isinstance(module, type):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return module()
    network = copy.deepcopy(getattr(module, "module_", module))
    if not isinstance(network, torch.nn.Module):
        raise TypeError(
            f"module must be a torch module, its class or a fitted skorch net, got {module!r}"
        )
    return network


def freeze(module: torch.nn.Module | None, frozen: Any) -> bool:
    """Freeze parameters by name and say whether any are left to train.

    Parameters
    ----------
    module : nn.Module or None
        Changed in place.
    frozen : bool or sequence of str
        All, none, or patterns of parameter names as in :mod:`fnmatch`.

    Returns
    -------
    bool
        Whether a parameter is left to train.

    Raises
    ------
    ValueError
        If a pattern matches no parameter.
    """
    if module is None:
        return False
    names = [name for name, _ in module.named_parameters()]
    if isinstance(frozen, str):
        raise TypeError(f"frozen is a list of patterns, write ({frozen!r},)")
    patterns = ["*"] if frozen is True else [] if frozen is False else list(frozen)
    for pattern in patterns:
        if frozen is not True and not fnmatch.filter(names, pattern):
            raise ValueError(
                f"frozen={pattern!r} matches no parameter of the module; it has {', '.join(names)}"
            )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not any(fnmatch.fnmatchcase(name, p) for p in patterns))
    return any(parameter.requires_grad for parameter in module.parameters())


def _known(party: str, block: Any) -> np.ndarray:
    try:
        columns = as_columns(block)
    except Exception as error:
        raise PartyError(party, f"its columns cannot be read: {error}") from error
    if np.isinf(columns.numbers).any():
        rows = int(np.isinf(columns.numbers).any(axis=1).sum())
        raise PartyError(
            party, f"{rows} rows hold infinity; replace it by a number or by NaN (missing)"
        )
    return columns.known()


def _dtype(module: torch.nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters()), torch.float32)
