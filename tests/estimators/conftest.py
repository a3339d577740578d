"""Small federations that tests of the estimators share."""

import numpy as np
import pytest
from sklearn.utils import Bunch

from fedtl import Encoder

NAMES = ("bank", "shop", "post")


def make_rows(
    n=240, *, n_parties=2, overlap=0.6, task="binary", width=2, noise=0.4, names=NAMES, seed=0
):
    """Rows whose target depends on one hidden factor for each party, all of them labelled.

    A share `overlap` of the rows is known to all parties, the others to one party each. Columns
    are positions, party after party, `width` for each.
    """
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, n_parties))
    blocks = [
        factors[:, [p]] * np.linspace(1.0, 0.6, width) + noise * rng.normal(size=(n, width))
        for p in range(n_parties)
    ]
    known = np.ones((n, n_parties), dtype=bool)
    alone = np.arange(round(overlap * n), n)
    known[alone] = np.eye(n_parties, dtype=bool)[alone % n_parties]
    for block, knows in zip(blocks, known.T, strict=True):
        block[~knows] = np.nan
    signal = factors.sum(axis=1) + 0.2 * rng.normal(size=n)
    if task == "binary":
        y = (signal > 0).astype(int)
    elif task == "multiclass":
        y = np.digitize(signal, np.quantile(signal, [0.33, 0.67]))
    else:
        y = 5.0 + 3.0 * signal
    columns = {names[p]: list(range(p * width, (p + 1) * width)) for p in range(n_parties)}
    order = rng.permutation(n)
    return Bunch(
        X=np.hstack(blocks)[order],
        y=y[order],
        known=known[order],
        columns=columns,
        parties=[(name, Encoder(), own) for name, own in columns.items()],
    )


def hide(X, columns, *names):
    """Return a copy of an array in which some parties know no row."""
    X = X.copy()
    for name in names:
        X[:, columns[name]] = np.nan
    return X


@pytest.fixture(scope="session")
def rows():
    """The function that makes rows."""
    return make_rows


@pytest.fixture(scope="session")
def without():
    """The function that hides parties."""
    return hide
