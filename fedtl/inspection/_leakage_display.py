"""Plot of what attacks on a fit found."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from fedtl.inspection._displays import _GAIN, _LOSS, _NEITHER, _new_axes
from fedtl.inspection._leakage import LeakageReport, leakage_report


class LeakageDisplay:
    """Score of each attack with its interval, beside its control and its bound.

    Use :meth:`from_report` or :meth:`from_estimator` to make one.

    Parameters
    ----------
    labels : list of str
        What each attack is and who is attacked.
    scores : ndarray of shape (n_attacks, 3), dtype float64
        Score of each attack, and the bounds of its 95 % interval.
    controls : ndarray of shape (n_attacks,), dtype float64
        What the attacker's own columns tell; NaN where that has no meaning.
    bounds : ndarray of shape (n_attacks,), dtype float64
        What is not to be exceeded.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the plot.
    figure_ : matplotlib Figure
        Figure of the plot.
    points_ : list of matplotlib ErrorbarContainer
        Scores and intervals, one for each attack.

    See Also
    --------
    leakage_report : Makes the report.

    Examples
    --------
    >>> from fedtl import FederatedTransferClassifier
    >>> from fedtl.datasets import load_breast_cancer_parties
    >>> from fedtl.inspection import LeakageDisplay
    >>> cancer = load_breast_cancer_parties()
    >>> clf = FederatedTransferClassifier(cancer.parties, solver="moments", random_state=0)
    >>> display = LeakageDisplay.from_estimator(clf, cancer.data, cancer.target)
    >>> display.labels[-1]
    '4 model completion: labels of mean'
    """

    def __init__(self, labels: Any, scores: Any, controls: Any, bounds: Any) -> None:
        self.labels = labels
        self.scores = scores
        self.controls = controls
        self.bounds = bounds

    @classmethod
    def from_report(cls, report: LeakageReport, *, ax: Any = None) -> LeakageDisplay:
        """Plot the attacks of a report that apply.

        Parameters
        ----------
        report : LeakageReport
            What attacks found.
        ax : matplotlib Axes, default=None
            Where to plot; a new figure by default.

        Returns
        -------
        LeakageDisplay
            The display, plotted.

        Raises
        ------
        ValueError
            If no attack applies.
        """
        check_matplotlib_support(f"{cls.__name__}.from_report")
        tried = [f for f in report.findings if f.applies]
        if not tried:
            raise ValueError("no attack applies to what crossed, so there is nothing to plot")
        return cls(
            [f"{f.number} {f.attack}: {f.target} of {f.victim}" for f in tried],
            np.array([[f.score.value, f.score.low, f.score.high] for f in tried]),
            np.array([f.control.value for f in tried]),
            np.array([f.bound for f in tried]),
        ).plot(ax=ax)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, ax: Any = None, **options: Any
    ) -> LeakageDisplay:
        """Fit, attack and plot.

        Parameters
        ----------
        estimator : estimator
            As of :func:`leakage_report`.
        X : array-like or dataframe of shape (n_rows, n_columns)
            Training rows.
        y : array-like of shape (n_rows,)
            Their targets.
        ax : matplotlib Axes, default=None
            Where to plot; a new figure by default.
        **options : dict
            Further arguments of :func:`leakage_report`.

        Returns
        -------
        LeakageDisplay
            The display, plotted.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        return cls.from_report(leakage_report(estimator, X, y, **options), ax=ax)

    def plot(self, ax: Any = None, **kwargs: Any) -> LeakageDisplay:
        """Plot scores with their intervals, controls and bounds.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to plot; a new figure by default.
        **kwargs : dict
            Passed to matplotlib's `errorbar`.

        Returns
        -------
        LeakageDisplay
            The same object, with the plot.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        if ax is None:
            ax = _new_axes(7.6, 1.6 + 0.35 * len(self.labels))
        self.ax_, self.figure_ = ax, ax.figure
        self.points_ = []
        for i, (score, low, high) in enumerate(self.scores):
            color = _LOSS if score > self.bounds[i] else _GAIN
            below, above = (max(d, 0.0) for d in (score - low, high - score))
            spread = np.nan_to_num([[below], [above]])
            style = {"fmt": "o", "color": color, "capsize": 3, "zorder": 3, **kwargs}
            self.points_.append(ax.errorbar(score, i, xerr=spread, **style))
        places = np.arange(len(self.labels))
        ax.scatter(self.controls, places, marker="D", color=_NEITHER, s=22, zorder=2)
        ax.scatter(self.bounds, places, marker="|", color="black", s=160, zorder=2)
        ax.set_yticks(places, self.labels)
        ax.set_ylim(len(self.labels) - 0.5, -0.5)
        ax.set_xlabel("score of the attack (diamond: own columns alone; bar: bound)")
        ax.grid(axis="x", color="#E5E5E5", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
        return self
