"""
Two parties, one model: the demo
================================

Two cameras photograph handwritten digits. One sees the left half of each image and has the
labels, the other sees the right half. They have a few hundred digits in common; every other digit
is known to one camera only. The same is done for two groups of measurements of tumours.

For rows known to both parties, and for rows known to one of them, the table compares

alone
    the active party's columns only, by the better of logistic regression and a random forest on
    the test rows (the choice is made in its favour);
federated
    :class:`fedtl.FederatedTransferClassifier` with default parameters;
centralised
    what the better of the same two plain models makes of the columns that are known, with all
    labelled rows in one table.

Run it as ``make demo``, or as ``python examples/demo.py demo.png``. All data ship with
scikit-learn; nothing is downloaded.
"""

import sys
import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedtl import FederatedTransferClassifier
from fedtl.datasets import (
    hide_party,
    load_breast_cancer_parties,
    load_digits_halves,
    split_parties,
)

N_SPLITS = 3
MODELS = ("alone", "federated", "centralised")
COLORS = {"alone": "#8a8f98", "federated": "#1668b8", "centralised": "#d98c1f"}
SETS = {
    "digits": {
        "title": "Handwritten digits, two half-blind cameras",
        "load": load_digits_halves,
        "scoring": "accuracy",
        "split": {"n_shared": 250, "n_per_party": 600},
    },
    "cancer": {
        "title": "Breast cancer, two groups of measurements",
        "load": load_breast_cancer_parties,
        "scoring": "roc_auc",
        "split": {"n_shared": 100, "n_per_party": 200},
    },
}


# %%
# What is compared
# ----------------


def plain_score(X_train, y_train, X_test, y_test, scorer):
    """Score the better of two plain models; rows without any value do not train."""
    rows = X_train.notna().any(axis=1)
    linear = make_pipeline(StandardScaler(), SimpleImputer(), LogisticRegression(max_iter=1000))
    trees = RandomForestClassifier(random_state=0)
    fitted = [model.fit(X_train[rows], y_train[rows]) for model in (linear, trees)]
    return max(scorer(model, X_test, y_test) for model in fitted)


def run_split(bunch, scoring, split, seed):
    """Fit all models on one random division of the rows; return scores and the report."""
    data = split_parties(bunch.data, bunch.target, bunch.parties, random_state=seed, **split)
    scorer, (active, passive) = get_scorer(scoring), bunch.parties
    labeled = data.y_train != -1
    clf = FederatedTransferClassifier(bunch.parties, unlabeled=-1, random_state=seed)
    clf.fit(data.X_train, data.y_train)

    scores = {}
    for known in ((active, passive), (active,), (passive,)):
        hidden = [name for name in bunch.parties if name not in known]
        columns = [column for name in known for column in bunch.parties[name]]
        own = bunch.parties[active]
        X_train, y_train = data.X_train[labeled], data.y_train[labeled]
        scores[known] = {
            "federated": scorer(clf, hide_party(data.X_test, bunch.parties, *hidden), data.y_test),
            "centralised": plain_score(
                X_train[columns], y_train, data.X_test[columns], data.y_test, scorer
            ),
            "alone": np.nan,  # the active party cannot say anything of rows that it does not know
        }
        if active in known:
            scores[known]["alone"] = plain_score(
                X_train[own], y_train, data.X_test[own], data.y_test, scorer
            )
    return scores, clf.report_


def run_set(name):
    """Return the scores of all splits of one data set, and the report of the last fit."""
    spec = SETS[name]
    bunch = spec["load"]()
    runs = [run_split(bunch, spec["scoring"], spec["split"], seed) for seed in range(N_SPLITS)]
    scores = {
        known: {model: np.array([run[0][known][model] for run in runs]) for model in MODELS}
        for known in runs[0][0]
    }
    return bunch, scores, runs[-1][1]


# %%
# The picture
# -----------


def draw(ax, scores, spec):
    """Draw each split's score as a dot and their mean as a bar of the same colour."""
    ax.set_title(spec["title"], loc="left", fontsize=11, fontweight="bold", pad=26)
    for place, values in enumerate(scores.values()):
        for lane, model in enumerate(MODELS):
            y = place + 0.24 * (lane - 1)
            color, runs = COLORS[model], values[model]
            if np.isnan(runs).any():
                ax.text(
                    0.02,
                    y,
                    "alone: has no such row",
                    color=color,
                    fontsize=8.5,
                    va="center",
                    transform=ax.get_yaxis_transform(),
                )
                continue
            mean = runs.mean()
            ax.plot(
                [runs.min(), runs.max()],
                [y, y],
                color=color,
                lw=7,
                alpha=0.22,
                solid_capstyle="round",
            )
            ax.scatter(runs, np.full(len(runs), y), s=15, color=color, alpha=0.65, lw=0)
            ax.plot([mean, mean], [y - 0.1, y + 0.1], color=color, lw=3)
            ax.annotate(
                f"{mean:.3f}",
                (runs.max(), y),
                xytext=(8, 0),
                fontsize=8.5,
                color=color,
                textcoords="offset points",
                va="center",
            )
    low = min(np.nanmin(list(values.values())) for values in scores.values())
    high = max(np.nanmax(list(values.values())) for values in scores.values())
    margin = 0.12 * (high - low)
    ax.set_xlim(low - margin, high + 2.2 * margin)
    ax.set_ylim(len(scores) - 0.45, -0.55)
    names = [" and ".join(known) if len(known) > 1 else f"{known[0]} only" for known in scores]
    ax.set_yticks(range(len(scores)), names, fontsize=9.5)
    metric = {"accuracy": "accuracy", "roc_auc": "area under the ROC curve"}[spec["scoring"]]
    ax.set_xlabel(f"{metric} on test rows", fontsize=9)
    ax.tick_params(length=0, labelsize=9)
    ax.grid(axis="x", color="#e6e8eb", lw=0.8)
    ax.set_axisbelow(True)
    for side in ax.spines.values():
        side.set_visible(False)
    for place in range(1, len(scores)):
        ax.axhline(place - 0.5, color="#d5d8dc", lw=0.8)


def draw_digits(ax, bunch, scores):
    """Show beside each line one digit as the parties that know it see it."""
    image = bunch.data.iloc[[0]]
    pixels = [f"pixel_{i}_{j}" for i in range(8) for j in range(8)]
    cmap = plt.colormaps["gray_r"].with_extremes(bad="#cfe0f1")
    for place, known in enumerate(scores):
        hidden = [name for name in bunch.parties if name not in known]
        seen = hide_party(image, bunch.parties, *hidden)[pixels].to_numpy().reshape(8, 8)
        inset = ax.inset_axes((-0.36, place - 0.3, 0.14, 0.6), transform=ax.get_yaxis_transform())
        inset.imshow(np.ma.masked_invalid(seen), cmap=cmap, vmin=0, vmax=16)
        inset.set(xticks=[], yticks=[])
        for side in inset.spines.values():
            side.set_color("#b9bec5")


def save_picture(results, path):
    """Save both panels side by side; no display is needed."""
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(
        1,
        2,
        figsize=(12, 4.4),
        gridspec_kw={"wspace": 0.42, "left": 0.15, "right": 0.985, "top": 0.79, "bottom": 0.12},
    )
    for ax, (name, (_, scores, _)) in zip(axes, results.items(), strict=True):
        draw(ax, scores, SETS[name])
        shared = SETS[name]["split"]["n_shared"]
        ax.text(
            0,
            1.04,
            f"{shared} rows shared; a dot is a random split, a bar their mean",
            transform=ax.transAxes,
            fontsize=8.5,
            color="#5c636b",
        )
    draw_digits(axes[0], results["digits"][0], results["digits"][1])
    handles = [plt.Line2D([], [], color=COLORS[model], lw=4, label=model) for model in MODELS]
    labels = ["active party alone", "federated", "centralised"]
    figure.legend(handles, labels, loc="upper right", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=160)
    plt.close(figure)


# %%
# The run
# -------


def print_table(results):
    """Print the means over the splits, by data set and by who knows the row."""
    print(f"{'':11}{'rows known to':17}{'alone':>9}{'federated':>12}{'centralised':>14}")
    for name, (_, scores, _) in results.items():
        for known, values in scores.items():
            who = " and ".join(known) if len(known) > 1 else f"{known[0]} only"
            means = [values[model].mean() for model in MODELS]
            cells = ["-" if np.isnan(mean) else f"{mean:.3f}" for mean in means]
            print(f"{name:11}{who:17}{cells[0]:>9}{cells[1]:>12}{cells[2]:>14}")


def main(path):
    """Run the demo and save its picture."""
    start, results = time.perf_counter(), {}
    for name, spec in SETS.items():
        print(f"{spec['title']}: {N_SPLITS} random splits ...", flush=True)
        results[name] = run_set(name)
    report = results["digits"][2]
    print(f"\nThe report of the last fit on the digits:\n\n{report}\n")
    save_picture(results, path)
    seconds = time.perf_counter() - start
    print(f"Means over {N_SPLITS} splits; digits: accuracy, cancer: ROC AUC ({seconds:.0f} s)\n")
    print_table(results)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo.png")
