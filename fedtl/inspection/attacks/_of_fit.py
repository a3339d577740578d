"""From a fitted estimator and its data to what attacks work on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import is_regressor

from fedtl.alignment import canonical_ids
from fedtl.federation import Federation, SimulatedParties, Transcript
from fedtl.inspection.attacks._scene import Scene
from fedtl.inspection.attacks._told import Batch
from fedtl.inspection.attacks._updates import RowwiseScene
from fedtl.learning.columns import as_columns, numeric_columns
from fedtl.learning.targets import is_unlabeled
from fedtl.parties import Table
from fedtl.solvers.shared_latent import SharedLatentModel

_MOST_LEVELS = 30


def scene_of_fit(
    estimator: Any,
    X: Any,
    y: Any,
    transcript: Transcript,
    *,
    seed: int,
    most_ids: Mapping[str, int | None],
) -> tuple[Scene, str]:
    """Return what attacks on a fit of parties with different columns work on.

    Parameters
    ----------
    estimator : estimator
        A fitted federated classifier or regressor.
    X : array-like or dataframe of shape (n_rows, n_columns)
        The rows that it was fitted on.
    y : array-like of shape (n_rows,)
        Their targets.
    transcript : Transcript
        What crossed.
    seed : int
        Seed of what attacks draw.
    most_ids : mapping of str to (int or None)
        How many ids each party's policy lets others ask about, where it is known.

    Returns
    -------
    scene : Scene
        What attacks work on.
    labels : str
        In words, which rows label attacks look for.
    """
    X = X if hasattr(X, "columns") else np.asarray(X)
    labels, words = _labels(estimator, np.asarray(y))
    services, blocks = estimator.services_, {p.name: p.block(X) for p in estimator.parties_}
    encoded = {}
    if isinstance(services, SimulatedParties):
        for service in services.services:
            features = service.session(estimator.model_.name).features
            table = Table(blocks[service.name])
            columns, known = features.read(table, np.arange(len(labels), dtype=np.int64))
            rows = np.flatnonzero(known)
            encoded[service.name] = np.full((len(labels), features.encoding_.width), np.nan)
            for piece, values in features.chunks(columns, rows):
                encoded[service.name][rows[piece]] = values
    active = estimator.parties_[0].name
    tables = {name: standardised(block) for name, block in blocks.items()}
    scene = Scene(
        transcript=transcript,
        active=active,
        passive=tuple(services.names),
        labels=labels,
        columns={name: values for name, (values, _) in tables.items()},
        names={name: names for name, (_, names) in tables.items()},
        encoded=encoded,
        predicted=_predicted(estimator, X),
        ids=_ids(estimator, X),
        most_ids=most_ids,
        seed=seed,
    )
    return scene, words


def rowwise_scene_of_fit(
    estimator: Any, X: Any, transcript: Transcript, sample_party: Any, seed: int
) -> tuple[RowwiseScene, np.ndarray]:
    """Return what attacks on a training in rounds work on.

    Parameters
    ----------
    estimator : FederatedFineTuner
        Fitted.
    X : array-like or dataframe of shape (n_rows, ...)
        The rows that it was fitted on.
    transcript : Transcript
        What crossed.
    sample_party : array-like of shape (n_rows,) or None
        Whose row is whose, unless a column of X says it.
    seed : int
        Seed of what attacks draw.

    Returns
    -------
    scene : RowwiseScene
        What attacks work on.
    owners : ndarray of shape (n_rows,)
        Whose row is whose.
    """
    owners, rows = estimator._read(X, sample_party, reset=False)
    model = estimator.model_
    with model.recipe.model(model.shape, model.seed) as local:
        layout = local.shared
    names = [name for name in transcript.parties if (owners == name).any()]
    return RowwiseScene(transcript, {n: rows[owners == n] for n in names}, layout, seed), owners


def _predicted(estimator: Any, X: Any) -> dict[str, Batch]:
    """Ask for scores of all rows by layers that no side can read, as a prediction does."""
    latent, services = estimator.model_.latent, estimator.services_
    if not isinstance(latent, SharedLatentModel) or not isinstance(services, SimulatedParties):
        return {}
    coalition, found = estimator._to_predict(X), {}
    ids = np.arange(len(coalition.table), dtype=np.int64)
    for party, serving in enumerate(latent.servings, start=1):
        reply = coalition.ask(party, ids, serving, scores=False, latents=True)
        rows = np.flatnonzero(reply.known)
        found[services.names[party - 1]] = rows, reply.scores[rows]
    return found


def _ids(estimator: Any, X: Any) -> list[bytes]:
    """Ids of the rows as they are compared, where the parties have tables of their own."""
    federation = estimator.federation
    if not isinstance(federation, Federation):
        return []
    keys = X.index if estimator.key == "index" else X[estimator.key]
    found = canonical_ids(keys, federation.matching.normalisation)
    return [i for i in found if i is not None]


def _labels(estimator: Any, y: np.ndarray) -> tuple[np.ndarray, str]:
    """Mark what label attacks look for by 1, other labelled rows by 0, the rest by NaN."""
    unlabeled = is_unlabeled(y, getattr(estimator, "unlabeled", None))
    marks = np.full(len(y), np.nan)
    if is_regressor(estimator):
        middle = float(np.median(y[~unlabeled].astype(np.float64)))
        marks[~unlabeled] = y[~unlabeled].astype(np.float64) > middle
        return marks, f"label attacks look for values above {middle:g}"
    classes, counts = np.unique(y[~unlabeled], return_counts=True)
    rarest = classes[counts.argmin()]
    marks[~unlabeled] = y[~unlabeled] == rarest
    share = counts.min() / counts.sum()
    return marks, f"label attacks look for the class {rarest!s} ({share:.1%} of the labelled rows)"


def standardised(block: Any) -> tuple[np.ndarray, list[str]]:
    """Return a party's columns as numbers of mean 0 and variance 1, NaN in rows it does not know.

    Parameters
    ----------
    block : ndarray or dataframe of shape (n_rows, n_columns)
        The party's columns.

    Returns
    -------
    values : ndarray of shape (n_rows, n_numbers + n_levels), dtype float64
        A missing number is the mean; a category is a column for each of its 30 commonest levels.
    names : list of str
        Their names, or positions in the block; those of levels with the level.
    """
    columns = as_columns(block)
    known, numeric = columns.known(), numeric_columns(block)
    given = [str(name) for name in getattr(block, "columns", range(len(numeric)))]
    names = [name for name, is_number in zip(given, numeric, strict=True) if is_number]
    categorical = [name for name, is_number in zip(given, numeric, strict=True) if not is_number]
    parts = [columns.numbers]
    for j, name in enumerate(categorical):
        values = columns.categories[:, j].astype(str)
        levels, counts = np.unique(values[known], return_counts=True)
        for level in levels[np.argsort(-counts)][:_MOST_LEVELS]:
            parts.append((values == level).astype(np.float64)[:, None])
            names.append(f"{name}={level}")
    whole = np.hstack(parts)
    inside = whole[known]
    missing = np.isnan(inside).all(axis=0)
    inside = np.where(missing, 0.0, inside)
    scale = np.nanstd(inside, axis=0)
    scaled = (whole - np.nanmean(inside, axis=0)) / np.where(scale > 0, scale, 1.0)
    return np.where(known[:, None], np.nan_to_num(scaled), np.nan), names
