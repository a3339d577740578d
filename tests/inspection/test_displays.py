"""Displays show what their numbers say, wherever they are asked to plot it."""

import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedtl import (
    Encoder,
    FederatedColumnTransformer,
    FederatedProjector,
    FederatedTransferClassifier,
    FederatedTransferRegressor,
)
from fedtl.datasets import make_federated_classification
from fedtl.inspection import LatentSpaceDisplay, PartyContributionDisplay

matplotlib = pytest.importorskip("matplotlib")
pd = pytest.importorskip("pandas")
FAST = {"max_iter": 5, "n_folds": 2, "random_state": 0}


@pytest.fixture(autouse=True)
def no_window():
    """Draw without a screen, and close every figure at the end of a test."""
    from matplotlib import pyplot

    pyplot.close("all")
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def data():
    """120 rows, 72 of them known to both parties; the active one has the labels of its rows."""
    return make_federated_classification(120, n_features=4, overlap=0.6, random_state=0)


@pytest.fixture(scope="module")
def clf(data):
    return FederatedTransferClassifier(data.parties, unlabeled=-1, **FAST).fit(
        data.data, data.target
    )


def legend(display):
    return [text.get_text() for text in display.ax_.get_legend().get_texts()]


def count(display):
    return sum(len(points.get_offsets()) for points in display.scatters_)


# The latent space


def test_without_labels_rows_are_coloured_by_the_parties_that_know_them(clf, data):
    display = LatentSpaceDisplay.from_estimator(clf, data.data)
    assert legend(display) == ["party0", "party1", "party0 + party1"]
    assert display.ax_.get_legend().get_title().get_text() == "known to"
    assert [len(points.get_offsets()) for points in display.scatters_] == [24, 24, 72]
    colors = {tuple(points.get_facecolor()[0]) for points in display.scatters_}
    assert len(colors) == 3


def test_with_labels_rows_are_coloured_by_class_and_unlabelled_ones_are_faint(clf, data):
    display = LatentSpaceDisplay.from_estimator(clf, data.data, data.target)
    assert legend(display) == ["0", "1", "unlabelled"]
    assert display.ax_.get_legend().get_title().get_text() == "class"
    assert count(display) == 120
    faint = matplotlib.colors.to_hex(display.scatters_[-1].get_facecolor()[0])
    assert faint == "#bbbbbb"


def test_names_of_classes_may_be_text(clf, data):
    names = np.where(data.target == 1, "pays", "defaults")
    assert legend(LatentSpaceDisplay.from_estimator(clf, data.data, names)) == ["defaults", "pays"]


def test_coordinates_are_the_leading_principal_components(clf, data):
    display = LatentSpaceDisplay.from_estimator(clf, data.data)
    pca = PCA(2, random_state=0)
    np.testing.assert_allclose(display.coordinates, pca.fit_transform(clf.transform(data.data)))
    share = f"({pca.explained_variance_ratio_[0]:.0%})"
    assert display.ax_.get_xlabel() == f"principal component 1 {share}"


def test_rows_that_no_party_knows_are_left_out(clf, data):
    X = data.data.copy()
    X.iloc[:10] = np.nan
    display = LatentSpaceDisplay.from_estimator(clf, X, data.target)
    assert count(display) == len(display.coordinates) == 110
    with pytest.raises(ValueError, match="1 of the rows of X are known to a party"):
        LatentSpaceDisplay.from_estimator(clf, X.iloc[:11])


def test_real_targets_get_a_colour_bar(data):
    rng = np.random.default_rng(0)
    reg = FederatedTransferRegressor(data.parties, n_components=1, **FAST)
    y = rng.integers(0, 100, 120)
    display = LatentSpaceDisplay.from_estimator(reg.fit(data.data, y), data.data, y)
    assert display.ax_.get_legend() is None
    np.testing.assert_array_equal(display.scatters_[0].get_array(), y)
    assert [ax.get_ylabel() for ax in display.figure_.axes] == ["principal component 2 (0%)", "y"]


def test_unlabelled_rows_of_a_regression_have_no_colour(data):
    y = np.where(np.arange(120) % 4, data.data.iloc[:, 0].fillna(0.0), np.nan)
    reg = FederatedTransferRegressor(data.parties, unlabeled=np.nan, **FAST).fit(data.data, y)
    display = LatentSpaceDisplay.from_estimator(reg, data.data, y)
    assert np.ma.count(np.ma.masked_invalid(display.scatters_[0].get_array())) == 90


def test_it_draws_into_the_axes_it_is_given(clf, data):
    figure, axes = matplotlib.pyplot.subplots(1, 2)
    display = LatentSpaceDisplay.from_estimator(clf, data.data, ax=axes[1], marker="x", alpha=0.5)
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert not axes[0].has_data()
    assert display.scatters_[0].get_alpha() == 0.5
    assert display.plot().ax_ is not axes[1]


def test_tsne_is_there_for_spaces_that_a_plane_does_not_hold(clf, data):
    display = LatentSpaceDisplay.from_estimator(clf, data.data.iloc[:30], method="tsne")
    assert display.coordinates.shape == (30, 2)
    assert display.ax_.get_xlabel() == "t-SNE 1"
    with pytest.raises(ValueError, match="one of pca, tsne; got 'umap'"):
        LatentSpaceDisplay.from_estimator(clf, data.data, method="umap")


@pytest.mark.parametrize("n_classes", [7, 9, 13])
def test_many_classes_have_a_colour_each(n_classes):
    coordinates = np.random.default_rng(0).normal(size=(26, 2))
    display = LatentSpaceDisplay(coordinates, np.arange(26) % n_classes).plot()
    assert len(legend(display)) == n_classes
    colors = {tuple(points.get_facecolor()[0]) for points in display.scatters_}
    assert len(colors) == n_classes


def test_the_last_step_of_a_pipeline_is_shown(data):
    transformer = FederatedColumnTransformer(
        [(name, StandardScaler(), columns) for name, columns in data.parties.items()]
    )
    parties = [("bank", Encoder(), slice(0, 4)), ("shop", Encoder(), slice(4, 8))]
    clf = FederatedTransferClassifier(parties, unlabeled=-1, **FAST)
    pipeline = make_pipeline(transformer, clf).fit(data.data, data.target)
    display = LatentSpaceDisplay.from_estimator(pipeline, data.data)
    assert legend(display) == ["bank", "shop", "bank + shop"]
    alone = make_pipeline(clf.fit(data.data, data.target))
    assert count(LatentSpaceDisplay.from_estimator(alone, data.data)) == 120
    assert PartyContributionDisplay.from_estimator(pipeline).active == "bank"


def test_arrays_and_lists_do_as_well_as_frames(data):
    parties = {"bank": slice(0, 4), "shop": slice(4, 8)}
    X = data.data.to_numpy()
    clf = FederatedTransferClassifier(parties, unlabeled=-1, **FAST).fit(X, data.target)
    frame = LatentSpaceDisplay.from_estimator(clf, X)
    listed = LatentSpaceDisplay.from_estimator(clf, X.tolist(), data.target.tolist())
    np.testing.assert_array_equal(frame.coordinates, listed.coordinates)


def test_the_scores_of_the_parties_stand_for_latents_where_there_are_none(data):
    moments = FederatedTransferClassifier(
        data.parties, solver="moments", unlabeled=-1, random_state=0
    )
    with pytest.raises(NotFittedError):
        LatentSpaceDisplay.from_estimator(moments, data.data)
    display = LatentSpaceDisplay.from_estimator(moments.fit(data.data, data.target), data.data)
    assert count(display) == 120


def test_a_projection_without_labels_is_shown_too(data):
    projector = FederatedProjector(data.parties, max_iter=5, random_state=0).fit(data.data)
    assert count(LatentSpaceDisplay.from_estimator(projector, data.data, data.target)) == 120


def test_an_estimator_that_is_not_federated_is_refused():
    with pytest.raises(TypeError, match="PCA has no parties_"):
        LatentSpaceDisplay.from_estimator(PCA(2).fit(np.eye(4)), np.eye(4))


def test_labels_of_another_length_are_refused(clf, data):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LatentSpaceDisplay.from_estimator(clf, data.data, data.target[:-1])


# Contributions


def contributions(**changes):
    values = {
        "labels": ["shop", "bank + shop", "bank + post"],
        "gain": np.array([-0.4, 0.3, 0.02]),
        "gain_low": np.array([-0.6, 0.1, -0.04]),
        "gain_high": np.array([-0.2, 0.5, 0.08]),
        "n_rows": np.array([1500, 1000, 30]),
        "trust": np.array([np.nan, 1.0, 0.25]),
        "active": "bank",
    }
    return PartyContributionDisplay(**{**values, **changes})


def test_contributions_are_those_of_the_report(clf):
    display = PartyContributionDisplay.from_estimator(clf)
    frame = clf.report_.to_frame().set_index("parties").loc[display.labels]
    assert display.labels == ["party1", "party0 + party1"]
    np.testing.assert_array_equal(display.gain, frame["gain"])
    np.testing.assert_array_equal(display.trust, [np.nan, frame["trust"].iloc[1]])
    assert display.ax_.get_xlabel().endswith("over party0 alone")


def test_every_subset_has_a_point_with_its_interval():
    display = contributions().plot()
    for i, points in enumerate(display.points_):
        line, _, (bar,) = points
        assert (line.get_xdata()[0], line.get_ydata()[0]) == (display.gain[i], i)
        ends = bar.get_segments()[0][:, 0]
        np.testing.assert_allclose(ends, [display.gain_low[i], display.gain_high[i]])
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert labels == ["shop\n1,500 rows", "bank + shop\n1,000 rows", "bank + post\n30 rows"]
    assert display.ax_.yaxis_inverted()


def test_gain_loss_and_neither_have_their_own_colours():
    colors = [points[0].get_color() for points in contributions().plot().points_]
    assert len(set(colors)) == 3


def test_trust_stands_beside_what_the_guard_judged():
    texts = [text.get_text() for text in contributions().plot().ax_.texts]
    assert texts == ["trust 1.00", "trust 0.25"]


def test_there_is_a_line_at_zero():
    assert any(list(line.get_xdata()) == [0.0, 0.0] for line in contributions().plot().ax_.lines)


def test_contributions_go_into_the_axes_they_are_given(clf):
    figure, ax = matplotlib.pyplot.subplots()
    display = PartyContributionDisplay.from_estimator(clf, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is figure


def test_without_another_party_there_is_nothing_to_compare():
    X = np.random.default_rng(0).normal(size=(60, 2))
    clf = FederatedTransferClassifier(solver="moments", random_state=0)
    with pytest.raises(NotFittedError):
        PartyContributionDisplay.from_estimator(clf)
    with pytest.raises(ValueError, match="no subset of the parties has held-out rows"):
        PartyContributionDisplay.from_estimator(clf.fit(X, X[:, 0] > 0))
    with pytest.raises(TypeError, match="PCA has no report_"):
        PartyContributionDisplay.from_estimator(PCA(2).fit(X))


def test_displays_can_be_saved(clf, data, tmp_path):
    for i, display in enumerate(
        [LatentSpaceDisplay.from_estimator(clf, data.data), contributions().plot()]
    ):
        path = tmp_path / f"{i}.png"
        display.figure_.savefig(path)
        assert path.stat().st_size > 5000


def test_without_matplotlib_the_error_says_what_to_install(clf, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"LatentSpaceDisplay\.from_estimator requires"):
        LatentSpaceDisplay.from_estimator(clf, data.data)
    with pytest.raises(ImportError, match=r"PartyContributionDisplay\.plot requires"):
        contributions().plot()
