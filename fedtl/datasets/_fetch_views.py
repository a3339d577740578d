"""Data sets in which each party has another view of the same objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from fedtl.datasets._bunch import as_bunch, require_pandas
from fedtl.datasets._sources import UCI, PathLike, local_or_remote

_MFEAT_VIEWS = {
    "fac": "216 profile correlations",
    "fou": "76 Fourier coefficients of the shape",
    "kar": "64 Karhunen-Loeve coefficients",
    "mor": "6 morphological features",
    "pix": "240 averages of 2x3 pixels",
    "zer": "47 Zernike moments",
}


def fetch_mfeat(
    views: Sequence[str] = ("fou", "zer"), *, data_home: PathLike | None = None
) -> Bunch:
    """Fetch 2,000 handwritten digits of which each party has its own set of features.

    Parameters
    ----------
    views : sequence of str, default=("fou", "zer")
        The parties, the active one first: "fac" (216 columns), "fou" (76), "kar" (64), "mor" (6),
        "pix" (240), "zer" (47).
    data_home : path-like, default=None
        Directory that holds ``mfeat/mfeat-fou.csv`` and so on. None stands for the environment
        variable ``FEDTL_DATA``. Where a file is not there, the UCI repository is read.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        data : DataFrame of shape (2000, n_columns), float64
            The columns are called by view and number: "fou_0", "fou_1", ...
        target : Series of shape (2000,), int64
            The digit; 200 of each, in order.
        parties : dict of str to list of str
            One entry per view.
        target_names : ndarray of shape (10,), int64
            The digits.
        task : str
            "multiclass".
        DESCR : str
            What the data are and where they come from.

    Raises
    ------
    FileNotFoundError
        If neither the local files nor the UCI repository can be read.
    ImportError
        If pandas is not installed.
    ValueError
        If a view is unknown, named twice, or none is named.

    Notes
    -----
    The network is asked for UCI's own files and not for the copies on OpenML ("mfeat-fourier" and
    so on): only the former promise that row i is the same digit in each view.

    Examples
    --------
    >>> from fedtl.datasets import fetch_mfeat
    >>> fetch_mfeat(("mor", "zer")).data.shape  # doctest: +SKIP
    (2000, 53)
    """
    pd = require_pandas("fetch_mfeat")
    views = _check_views(views)

    def read_local(*paths: Path) -> tuple[list[Any], Any]:
        tables = [pd.read_csv(path, header=None, skiprows=1) for path in paths]
        return [table.iloc[:, :-1] for table in tables], _common_labels(tables, paths)

    def read_remote() -> tuple[list[Any], Any]:
        tables = [
            pd.read_csv(f"{UCI}/mfeat/mfeat-{view}", header=None, sep=r"\s+") for view in views
        ]
        return tables, np.repeat(np.arange(10), len(tables[0]) // 10)  # the order UCI documents

    blocks, labels = local_or_remote(
        [f"mfeat/mfeat-{view}.csv" for view in views],
        data_home,
        read_local,
        read_remote,
        f"{UCI}/mfeat",
    )
    named = [_name_columns(block, view) for view, block in zip(views, blocks, strict=True)]
    return as_bunch(
        pd.concat(named, axis=1).astype("float64"),
        pd.Series(labels, name="digit", dtype="int64"),
        {view: block.columns for view, block in zip(views, named, strict=True)},
        task="multiclass",
        descr="UCI Multiple Features (R. P. W. Duin; CC BY 4.0): Dutch handwritten numerals. "
        + "; ".join(f"{view}: {_MFEAT_VIEWS[view]}" for view in views),
        target_names=np.arange(10),
    )


def fetch_wikipedia(*, data_home: PathLike | None = None) -> Bunch:
    """Fetch Wikipedia articles of which one party has the picture and the other the text.

    Party "image" (active) has a histogram of visual words, party "text" the shares of ten topics.

    Parameters
    ----------
    data_home : path-like, default=None
        Directory that holds ``wikipedia/Wikipedia.mat``. None stands for the environment variable
        ``FEDTL_DATA``. No registry offers this data set, so there is no fall-back to the network.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        The table and what belongs to it:

        data : DataFrame of shape (2866, 138), float64
            "image_0" to "image_127" and "text_0" to "text_9".
        target : Series of shape (2866,), int64
            The class of the article, 0 to 9.
        parties : dict of str to list of str
            "image" (128 columns) and "text" (10 columns).
        target_names : list of str
            The names of the classes.
        task : str
            "multiclass".
        DESCR : str
            What the data are and where they come from.

    Raises
    ------
    FileNotFoundError
        If the local file is not there.
    ImportError
        If pandas is not installed.

    Examples
    --------
    >>> from fedtl.datasets import fetch_wikipedia
    >>> fetch_wikipedia().data.shape  # doctest: +SKIP
    (2866, 138)
    """
    pd = require_pandas("fetch_wikipedia")
    matlab = local_or_remote(
        ["wikipedia/Wikipedia.mat"], data_home, _read_matlab, None, "no registry has this data set"
    )
    cells = zip(("image", "text"), matlab["X"].ravel(), strict=True)
    blocks = [_name_columns(pd.DataFrame(cell, dtype="float64"), view) for view, cell in cells]
    labels = np.ravel(matlab["y" if "y" in matlab else "gt"]).astype("int64")
    return as_bunch(
        pd.concat(blocks, axis=1),
        pd.Series(labels - labels.min(), name="class"),
        {"image": blocks[0].columns, "text": blocks[1].columns},
        task="multiclass",
        descr="Wikipedia image-text pairs (Rasiwasia et al., 2010, A new approach to cross-modal "
        "multimedia retrieval): SIFT histograms and LDA topics of featured articles.",
        target_names=[str(cell.item()) for cell in matlab["class_meaning"].ravel()],
    )


def _check_views(views: Sequence[str]) -> list[str]:
    """Return the views as a list of names that exist, each once."""
    chosen = [views] if isinstance(views, str) else list(views)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(_MFEAT_VIEWS):
        raise ValueError(
            f"views must name one or more of {', '.join(_MFEAT_VIEWS)}, each once; got {views!r}."
        )
    return chosen


def _common_labels(tables: Sequence[Any], paths: Sequence[Path]) -> Any:
    """Return the last column of the tables, which must be the same in all."""
    labels = tables[0].iloc[:, -1].to_numpy()
    for table, path in zip(tables, paths, strict=True):
        if not np.array_equal(labels, table.iloc[:, -1].to_numpy()):
            raise ValueError(f"{path} and {paths[0]} disagree on the digits: rows are not aligned.")
    return labels


def _name_columns(block: Any, view: str) -> Any:
    """Return the block with its columns called "view_0", "view_1", ..."""
    return block.set_axis([f"{view}_{number}" for number in range(block.shape[1])], axis=1)


def _read_matlab(path: Path) -> Any:
    """Read a MATLAB file; scipy.io decodes arrays only and runs nothing that it finds."""
    from scipy.io import loadmat

    return loadmat(path)
