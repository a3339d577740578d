"""Plots of the space that parties share and of what each of them contributes."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import is_regressor
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.pipeline import Pipeline
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from fedtl.learning.columns import as_columns
from fedtl.learning.targets import is_unlabeled

_METHODS = ("pca", "tsne")
_UNLABELED = "unlabelled"
# Okabe and Ito's colours, which readers with any kind of colour vision tell apart; without yellow.
_COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#444444"]
_GAIN, _LOSS, _NEITHER, _FAINT = _COLORS[0], _COLORS[5], "#777777", "#BBBBBB"


class LatentSpaceDisplay:
    """Rows in the latent space that the parties share, in two dimensions.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    coordinates : ndarray of shape (n_rows, 2), dtype float64
        Where the rows stand.
    groups : ndarray of shape (n_rows,)
        What colours them: a label each, or real numbers if `continuous`.
    order : sequence or None, default=None
        The labels in the order of the legend; sorted by default.
    continuous : bool, default=False
        Whether `groups` are real numbers, shown by a colour bar.
    title : str or None, default=None
        Title of the legend or colour bar.
    axis_labels : tuple of str, default=("", "")
        What the axes show.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the plot.
    figure_ : matplotlib Figure
        Figure of the plot.
    scatters_ : list of matplotlib PathCollection
        The points, one collection for each label.

    See Also
    --------
    PartyContributionDisplay : What each party contributes to the predictions.

    Examples
    --------
    >>> from fedtl import FederatedTransferClassifier
    >>> from fedtl.datasets import load_wine_parties
    >>> from fedtl.inspection import LatentSpaceDisplay
    >>> wine = load_wine_parties()
    >>> clf = FederatedTransferClassifier(wine.parties, max_iter=20, n_folds=2, random_state=0)
    >>> clf = clf.fit(wine.data, wine.target)
    >>> display = LatentSpaceDisplay.from_estimator(clf, wine.data, wine.target)
    >>> display.coordinates.shape
    (178, 2)
    """

    def __init__(
        self,
        coordinates: np.ndarray,
        groups: np.ndarray,
        *,
        order: Any = None,
        continuous: bool = False,
        title: str | None = None,
        axis_labels: tuple[str, str] = ("", ""),
    ) -> None:
        self.coordinates = coordinates
        self.groups = groups
        self.order = order
        self.continuous = continuous
        self.title = title
        self.axis_labels = axis_labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        ax: Any = None,
        method: str = "pca",
        **kwargs: Any,
    ) -> LatentSpaceDisplay:
        """Project rows into the latent space and plot them.

        Parameters
        ----------
        estimator : estimator or Pipeline
            A fitted federated estimator with `transform`, or a pipeline that ends in one.
        X : array-like or dataframe of shape (n_rows, n_columns)
            Rows. Those that no party knows have no place in the latent space and are left out.
        y : array-like of shape (n_rows,), default=None
            What colours the rows: classes or real targets. By default the parties that know a
            row.
        ax : matplotlib Axes, default=None
            Where to plot; a new figure by default.
        method : {"pca", "tsne"}, default="pca"
            From the latent space to the plane: its two leading principal components, or t-SNE,
            which keeps neighbours together but no distances.
        **kwargs : dict
            Passed to matplotlib's `scatter`.

        Returns
        -------
        LatentSpaceDisplay
            The display, plotted.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        if method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}; got {method!r}")
        estimator, X = _last_step(estimator, X)
        names, known = _membership(estimator, X)
        latents = np.asarray(estimator.transform(X), dtype=np.float64)
        rows = np.flatnonzero(known.any(axis=1))
        if len(rows) < 2:
            raise ValueError(f"{len(rows)} of the rows of X are known to a party; 2 are needed")
        coordinates, axis_labels = _to_plane(latents[rows], method)
        if y is None:
            colors = _by_party(names, known[rows])
        else:
            check_consistent_length(latents, y)
            colors = _by_target(estimator, column_or_1d(y)[rows])
        return cls(coordinates, axis_labels=axis_labels, **colors).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> LatentSpaceDisplay:
        """Plot the rows.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to plot; a new figure by default.
        **kwargs : dict
            Passed to matplotlib's `scatter`.

        Returns
        -------
        LatentSpaceDisplay
            The same object, with the plot.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        beside = ax is None  # a figure of our own has room for the legend beside the axes
        self.ax_ = ax = _new_axes(6.4, 4.8) if ax is None else ax
        self.figure_ = ax.figure
        style = {"s": float(np.clip(8000 / len(self.groups), 9, 36)), "alpha": 0.8, **kwargs}
        if "marker" not in kwargs:  # some markers have no edge
            style = {"edgecolor": "white", "linewidth": 0.3, **style}
        if self.continuous:
            points = ax.scatter(*self.coordinates.T, c=self.groups, **{"cmap": "viridis", **style})
            self.scatters_ = [points]
            self.figure_.colorbar(points, ax=ax, label=self.title or "")
        else:
            self.scatters_ = self._scatter_groups(ax, style)
            place: dict[str, Any] = {"loc": "best"}
            if beside:
                place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}
            ax.legend(title=self.title, markerscale=6.0 / np.sqrt(style["s"]), **place)
        ax.set(xlabel=self.axis_labels[0], ylabel=self.axis_labels[1])
        ax.spines[["top", "right"]].set_visible(False)
        return self

    def _scatter_groups(self, ax: Any, style: dict[str, Any]) -> list[Any]:
        order = list(np.unique(self.groups) if self.order is None else self.order)
        colors = dict(zip(order, _palette(len(order) - (_UNLABELED in order)), strict=False))
        scatters = []
        for i, label in enumerate(order):
            inside = self.groups == label
            faint = isinstance(label, str) and label == _UNLABELED
            own = {"color": _FAINT if faint else colors[label], "zorder": 1 if faint else 2 + i}
            scatters.append(
                ax.scatter(*self.coordinates[inside].T, label=str(label), **{**own, **style})
            )
        return scatters


class PartyContributionDisplay:
    """What each subset of the parties gains over the active party alone, on held-out rows.

    Use :meth:`from_estimator` to make one.

    Parameters
    ----------
    labels : sequence of str
        Names of the subsets.
    gain, gain_low, gain_high : array-like of shape (n_subsets,)
        Relative reduction of squared error, and the bounds of its 95 % interval.
    n_rows : array-like of shape (n_subsets,)
        Labelled rows known to all of the subset.
    trust : array-like of shape (n_subsets,)
        How far the guard trusts the joint model, from 0 to 1; NaN where it has nothing to guard.
    active : str
        Name of the active party.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the plot.
    figure_ : matplotlib Figure
        Figure of the plot.
    points_ : list of matplotlib ErrorbarContainer
        Points and intervals, one for each subset.

    See Also
    --------
    FederationReport : The same numbers, and what was exchanged.
    LatentSpaceDisplay : The space that the parties share.

    Examples
    --------
    >>> from fedtl import FederatedTransferClassifier
    >>> from fedtl.datasets import load_wine_parties
    >>> from fedtl.inspection import PartyContributionDisplay
    >>> wine = load_wine_parties()
    >>> clf = FederatedTransferClassifier(wine.parties, solver="moments", random_state=0)
    >>> clf = clf.fit(wine.data, wine.target)
    >>> display = PartyContributionDisplay.from_estimator(clf)
    >>> display.labels
    ['colour', 'must + colour']
    """

    def __init__(
        self,
        labels: Any,
        gain: Any,
        gain_low: Any,
        gain_high: Any,
        *,
        n_rows: Any,
        trust: Any,
        active: str,
    ) -> None:
        self.labels = labels
        self.gain = gain
        self.gain_low = gain_low
        self.gain_high = gain_high
        self.n_rows = n_rows
        self.trust = trust
        self.active = active

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> PartyContributionDisplay:
        """Plot what the report of a fitted estimator says of each subset of the parties.

        Parameters
        ----------
        estimator : estimator or Pipeline
            A fitted federated estimator, or a pipeline that ends in one.
        ax : matplotlib Axes, default=None
            Where to plot; a new figure by default.

        Returns
        -------
        PartyContributionDisplay
            The display, plotted. Subsets without held-out evidence are left out.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        if isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        check_is_fitted(estimator)
        if not hasattr(estimator, "report_"):
            raise TypeError(f"{type(estimator).__name__} has no report_ of a federated fit")
        report = estimator.report_
        rows = [
            row
            for row in report.largest_subsets(16)
            if np.isfinite(row["gain_high"] - row["gain_low"])
        ]
        if not rows:
            raise ValueError(
                "no subset of the parties has held-out rows to compare it with the active party "
                f"{report.parties[0]!r} alone: another party must share labelled rows with it"
            )
        guarded = [row["parties"].startswith(f"{report.parties[0]} + ") for row in rows]
        return cls(
            [row["parties"] for row in rows],
            *(np.array([row[key] for row in rows]) for key in ("gain", "gain_low", "gain_high")),
            n_rows=np.array([row["n_rows"] for row in rows]),
            trust=np.where(guarded, [row["trust"] for row in rows], np.nan),
            active=report.parties[0],
        ).plot(ax=ax)

    def plot(self, ax: Any = None, **kwargs: Any) -> PartyContributionDisplay:
        """Plot points with their intervals.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to plot; a new figure by default.
        **kwargs : dict
            Passed to matplotlib's `errorbar`.

        Returns
        -------
        PartyContributionDisplay
            The same object, with the plot.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        from matplotlib.ticker import PercentFormatter

        if ax is None:
            ax = _new_axes(6.4, 1.3 + 0.5 * len(self.labels))
        self.ax_, self.figure_ = ax, ax.figure
        ax.axvline(0.0, color=_NEITHER, linewidth=1.0, zorder=1)
        beside = ax.get_yaxis_transform()  # x in parts of the axes, y in data
        self.points_ = []
        for i, (gain, low, high) in enumerate(
            zip(self.gain, self.gain_low, self.gain_high, strict=True)
        ):
            style = {"fmt": "o", "color": _color_of(low, high), "capsize": 3, "zorder": 2, **kwargs}
            self.points_.append(ax.errorbar(gain, i, xerr=[[gain - low], [high - gain]], **style))
            if not np.isnan(self.trust[i]):
                ax.text(1.02, i, f"trust {self.trust[i]:.2f}", transform=beside, va="center")
        labels = [f"{label}\n{n:,} rows" for label, n in zip(self.labels, self.n_rows, strict=True)]
        ax.set_yticks(range(len(labels)), labels)
        ax.set_ylim(len(labels) - 0.5, -0.5)
        ax.locator_params(axis="x", nbins=6)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set_xlabel(f"held-out reduction of squared error over {self.active} alone")
        ax.grid(axis="x", color="#E5E5E5", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
        return self


def _last_step(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Return the federated estimator of a pipeline, and X as it comes to it."""
    check_is_fitted(estimator)
    if isinstance(estimator, Pipeline):
        return estimator[-1], (estimator[:-1].transform(X) if len(estimator) > 1 else X)
    return estimator, X


def _membership(estimator: Any, X: Any) -> tuple[list[str], np.ndarray]:
    """Return the parties' names and who knows which row: bool of shape (n_rows, n_parties)."""
    if not hasattr(estimator, "parties_"):
        raise TypeError(f"{type(estimator).__name__} has no parties_: it is no federated estimator")
    X = X if hasattr(X, "columns") else np.asarray(X)
    known = [as_columns(party.block(X)).known() for party in estimator.parties_]
    return [party.name for party in estimator.parties_], np.column_stack(known)


def _to_plane(latents: np.ndarray, method: str) -> tuple[np.ndarray, tuple[str, str]]:
    if method == "tsne":
        perplexity = min(30.0, (len(latents) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=0)
        return np.asarray(tsne.fit_transform(latents), dtype=np.float64), ("t-SNE 1", "t-SNE 2")
    pca = PCA(min(2, *latents.shape), random_state=0)
    coordinates = np.zeros((len(latents), 2))
    coordinates[:, : pca.n_components] = pca.fit_transform(latents)
    shares = [*pca.explained_variance_ratio_, 0.0][:2]
    first, second = (f"principal component {i + 1} ({s:.0%})" for i, s in enumerate(shares))
    return coordinates, (first, second)


def _by_party(names: list[str], known: np.ndarray) -> dict[str, Any]:
    patterns = np.unique(known, axis=0)
    patterns = patterns[np.lexsort([*~patterns.T[::-1], patterns.sum(axis=1)])]
    labels = [" + ".join(np.array(names)[pattern]) for pattern in patterns]
    place = (known[:, None, :] == patterns).all(axis=2).argmax(axis=1)
    return {"groups": np.array(labels)[place], "order": labels, "title": "known to"}


def _by_target(estimator: Any, y: np.ndarray) -> dict[str, Any]:
    unlabeled = is_unlabeled(y, getattr(estimator, "unlabeled", None))
    labels = y[~unlabeled]
    real = is_regressor(estimator) or (
        len(labels) > 0 and type_of_target(labels, input_name="y") == "continuous"
    )
    if real:
        values = np.full(len(y), np.nan)
        values[~unlabeled] = labels
        return {"groups": values, "continuous": True, "title": "y"}
    groups = y.astype(object)
    order = list(np.unique(labels))
    if unlabeled.any():
        groups[unlabeled] = _UNLABELED
        order.append(_UNLABELED)
    return {"groups": groups, "order": order, "title": "class"}


def _palette(n: int) -> list[Any]:
    """Return at least n colours that are told apart as well as so many can be."""
    from matplotlib import colormaps

    if n <= len(_COLORS):
        return _COLORS
    if n <= 10:
        return list(colormaps["tab10"](range(10)))
    return list(colormaps["turbo"](np.linspace(0.05, 0.95, n)))


def _color_of(low: float, high: float) -> str:
    if low > 0:
        return _GAIN
    return _LOSS if high < 0 else _NEITHER


def _new_axes(width: float, height: float) -> Any:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]
