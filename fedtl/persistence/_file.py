"""Save and load."""

from __future__ import annotations

import json
import os
import secrets
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import sklearn
import torch
from safetensors.numpy import save_file
from sklearn.base import BaseEstimator
from sklearn.exceptions import InconsistentVersionWarning

from fedtl.persistence._modules import Templates
from fedtl.persistence._names import Names, PersistenceError
from fedtl.persistence._read import Reader
from fedtl.persistence._write import Writer

_FORMAT = 1
_KEY = "fedtl"
_MAX_DOCUMENT = 90_000_000  # safetensors accepts headers of up to 100 MB


def save(estimator: Any, path: str | os.PathLike[str], *, trusted: Iterable[Any] = ()) -> None:
    """Save an estimator, fitted or not, to one safetensors file without any code in it.

    Parameters and everything that was fitted is saved, at all simulated parties; training rows
    are not part of a fitted estimator. Of a party's network whose class is neither of torch.nn
    nor trusted, the state alone is saved; :func:`load` has to be given the network.

    Parameters
    ----------
    estimator : estimator
        An estimator of fedtl, or one of scikit-learn that holds such an estimator.
    path : str or path-like
        The file. It is replaced only once the new one is complete.
    trusted : iterable of (class or function), default=()
        Classes of your own, as a preprocessor's, that the file may name. Their instances are
        saved attribute by attribute; :func:`load` has to be given the same classes.

    Raises
    ------
    PersistenceError
        If something in the estimator cannot be saved: where it is, and what to do.

    See Also
    --------
    load : The way back.

    Notes
    -----
    The file says how an estimator is put together from arrays, scalars and the names of classes
    that this library knows. Its tensors are named by the place they have in the estimator, so
    that any reader of safetensors files shows what is in it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from fedtl import FederatedTransferRegressor
    >>> from fedtl.datasets import load_diabetes_parties
    >>> from fedtl.persistence import load, save
    >>> X, y, parties = (load_diabetes_parties()[k] for k in ("data", "target", "parties"))
    >>> model = FederatedTransferRegressor(parties, solver="moments", random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, Path(folder) / "model.safetensors")
    ...     loaded = load(Path(folder) / "model.safetensors")
    >>> bool((loaded.predict(X) == model.predict(X)).all())
    True
    """
    if not isinstance(estimator, BaseEstimator):
        raise TypeError(f"expected an estimator, got {estimator!r}")
    writer = Writer(Names(trusted))
    root = writer.value(estimator, "")
    document = {
        "format": _FORMAT,
        "versions": _versions(),
        "modules": writer.modules,
        "root": root,
        "objects": writer.objects,
    }
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    if len(json.dumps(text)) > _MAX_DOCUMENT:
        raise PersistenceError(
            f"the estimator has {len(text):,} bytes of text, such as categories; at most about "
            f"{_MAX_DOCUMENT:,} can be saved. Leave out columns whose values are all different"
        )
    path = Path(path)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        save_file(writer.tensors, part, metadata={_KEY: text})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load(
    path: str | os.PathLike[str],
    *,
    modules: Mapping[str, Any] | None = None,
    trusted: Sequence[Any] = (),
) -> Any:
    """Load an estimator that was saved with :func:`save`.

    No code of the file is run, since there is none in it: classes and functions are looked up by
    name, in fedtl, scikit-learn and torch.nn or among `trusted`, and everything else is refused.
    What the loaded model predicts is still only as good as whoever wrote the file.

    Parameters
    ----------
    path : str or path-like
        The file.
    modules : dict of str to (nn.Module or class), default=None
        For each party whose network is of a class of your own: such a network, or its class if
        it takes no arguments. It is copied, and given the saved state.
    trusted : sequence of (class or function), default=()
        What was passed to :func:`save` as `trusted`.

    Returns
    -------
    estimator
        What was saved, on the CPU.

    Raises
    ------
    PersistenceError
        If the file is damaged, is of another format, names what it may not name, or needs
        `modules`.

    Warns
    -----
    InconsistentVersionWarning
        If it was saved with another version of scikit-learn.

    See Also
    --------
    save : The way there, with an example.
    """
    names = Names(trusted)
    try:
        document, tensors = _read_file(Path(path))
        templates = Templates(modules or {}, document["modules"])
        root = Reader(document["objects"], tensors, names, templates).root(document["root"])
        version = document["versions"]["scikit-learn"]
    except (PersistenceError, OSError):
        raise
    except Exception as error:  # whatever a forged document can provoke
        raise PersistenceError(
            f"{path}: not a model file of fedtl, or a damaged one: "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error
    if not isinstance(root, BaseEstimator):
        raise PersistenceError(f"{path}: holds no estimator")
    if version != sklearn.__version__:
        warnings.warn(
            InconsistentVersionWarning(
                estimator_name=type(root).__name__,
                current_sklearn_version=sklearn.__version__,
                original_sklearn_version=str(version)[:80],
            ),
            stacklevel=2,
        )
    return root


def _versions() -> dict[str, str]:
    from fedtl import __version__

    return {
        "fedtl": __version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "torch": str(torch.__version__),
    }


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    with safetensors.safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get(_KEY)
        if text is None:
            raise PersistenceError(f"{path}: a safetensors file, but not of fedtl")
        document = json.loads(text)
        found = document["format"]
        if type(found) is not int or found != _FORMAT:
            saved = str(document.get("versions", {}).get("fedtl"))[:80]
            raise PersistenceError(
                f"{path}: format {str(found)[:80]}, saved with fedtl {saved}; this version of "
                f"fedtl reads format {_FORMAT}"
            )
        return document, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
