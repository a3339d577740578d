"""scikit-learn's own tools work with federated estimators."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector
from sklearn.ensemble import StackingClassifier, VotingRegressor
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedtl import (
    Encoder,
    FederatedColumnTransformer,
    FederatedProjector,
    FederatedTransferClassifier,
    FederatedTransferRegressor,
)
from fedtl.model_selection import LabeledFold
from tests.estimators.test_data import (  # noqa: F401
    BY_NAME,
    as_pandas,
    classifier,
    made,
    mixed,
)

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

# scikit-learn's tools


@pytest.mark.parametrize(
    "unfitted",
    [
        classifier([("bank", Encoder(), [0]), ("my shop", Encoder(), [1])]),
        FederatedTransferRegressor([("bank", Encoder(), [0]), ("my shop", Encoder(), [1])]),
        FederatedProjector([("bank", Encoder(), [0]), ("my shop", Encoder(), [1])]),
    ],
    ids=lambda e: type(e).__name__,
)
def test_the_diagram_names_the_parties_and_the_active_one(unfitted):
    html = unfitted._repr_html_()
    assert "bank (active party)" in html
    assert "my shop" in html
    assert "my shop (active party)" not in html
    assert type(unfitted).__name__ in make_pipeline(unfitted)._repr_html_()


@pytest.mark.parametrize("parties", [None, {"bank": [0], "shop": [1]}, "nonsense", [1, 2]])
def test_the_diagram_of_parties_that_are_no_triples_is_plain(parties):
    assert "FederatedTransferClassifier" in classifier(parties)._repr_html_()


def test_a_fitted_estimator_has_a_diagram_too(made):
    fitted = classifier(made.parties, "moments").fit(made.X, made.y)
    assert "bank (active party)" in fitted._repr_html_()


def test_a_grid_over_preprocessors_and_solvers_is_searched_in_two_processes(made):
    search = GridSearchCV(
        classifier(
            [("bank", Encoder(), BY_NAME["bank"]), ("shop", Encoder(), BY_NAME["shop"])],
            max_iter=5,
        ),
        {"bank__preprocessor": [None, StandardScaler()], "solver": ["moments", "latent"]},
        cv=2,
        n_jobs=2,
        scoring="roc_auc",
        error_score="raise",
    ).fit(as_pandas(made.X), made.y)
    assert len(search.cv_results_["params"]) == 4
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ > 0.7
    assert search.predict(as_pandas(made.X)).shape == (160,)
    alone = cross_val_score(
        search.estimator.set_params(**search.best_params_),
        as_pandas(made.X),
        made.y,
        cv=2,
        scoring="roc_auc",
    )
    assert_allclose(alone.mean(), search.best_score_)


def test_a_whole_encoder_and_parameters_of_its_preprocessor_can_be_searched(made):
    search = GridSearchCV(
        classifier(
            [("bank", Encoder(), [0, 1]), ("shop", Encoder(preprocessor=SimpleImputer()), [2, 3])],
            "moments",
        ),
        {
            "bank": [Encoder(), Encoder(preprocessor=StandardScaler())],
            "shop__preprocessor__strategy": ["mean", "median"],
        },
        cv=2,
        error_score="raise",
    ).fit(made.X, made.y)
    assert len(search.cv_results_["params"]) == 4


def test_party_wise_preprocessing_in_a_pipeline_is_cross_validated(made):
    pipeline = make_pipeline(
        FederatedColumnTransformer(
            [
                ("bank", SimpleImputer(), BY_NAME["bank"]),
                ("shop", StandardScaler(), BY_NAME["shop"]),
            ]
        ),
        classifier(
            [
                ("bank", Encoder(), make_column_selector("^bank__")),
                ("shop", Encoder(), make_column_selector("^shop__")),
            ]
        ),
    ).set_output(transform="pandas")
    scores = cross_val_score(
        pipeline, as_pandas(made.X), made.y, cv=2, scoring="roc_auc", error_score="raise"
    )
    assert (scores > 0.7).all()


def test_unlabelled_rows_are_cross_validated_with_labelled_folds(made):
    y = np.where(made.known[:, 0], made.y, -1)
    scores = cross_val_score(
        classifier(made.parties, "moments", unlabeled=-1),
        made.X,
        y,
        cv=LabeledFold(3, unlabeled=-1),
        scoring="roc_auc",
        error_score="raise",
    )
    assert scores.shape == (3,)
    assert (scores > 0.65).all()


def test_out_of_fold_probabilities_are_made(made):
    said = cross_val_predict(
        classifier(made.parties, "moments"), made.X, made.y, cv=3, method="predict_proba"
    )
    assert_allclose(said.sum(axis=1), 1.0)


def test_probabilities_can_be_calibrated(made):
    fitted = CalibratedClassifierCV(classifier(made.parties, "moments"), cv=2).fit(made.X, made.y)
    assert fitted.score(made.X, made.y) > 0.7


def test_a_stack_of_estimators_takes_ours(made):
    X, y = made.X[made.known[:, 0]], made.y[made.known[:, 0]]
    stack = StackingClassifier(
        [
            ("both", classifier(made.parties, "moments")),
            ("bank", classifier(made.parties[:1], "moments")),
        ],
        LogisticRegression(),
        cv=2,
    ).fit(X, y)
    assert stack.score(X, y) > 0.7


def test_regressors_vote(rows):
    made = rows(160, task="regression")
    settings = {"solver": "moments", "n_folds": 2, "random_state": 0}
    vote = VotingRegressor(
        [
            ("both", FederatedTransferRegressor(made.parties, **settings)),
            ("bank", FederatedTransferRegressor(made.parties[:1], **settings)),
        ]
    )
    shared = made.known.all(axis=1)
    assert vote.fit(made.X[shared], made.y[shared]).score(made.X[shared], made.y[shared]) > 0.5


def test_columns_of_both_parties_have_a_permutation_importance(made):
    fitted = classifier(made.parties, "moments").fit(made.X, made.y)
    shared = made.known.all(axis=1)
    importance = permutation_importance(
        fitted, made.X[shared], made.y[shared], n_repeats=3, random_state=0, scoring="roc_auc"
    ).importances_mean
    assert importance[:2].max() > 0.02
    assert importance[2:].max() > 0.02


def test_latents_feed_another_estimator_in_a_pipeline(rows):
    made = rows(160, task="regression", overlap=1.0)
    pipeline = make_pipeline(
        FederatedTransferRegressor(made.parties, solver="moments", n_folds=2, random_state=0),
        LinearRegression(),
    ).fit(made.X, made.y)
    assert pipeline.score(made.X, made.y) > 0.8


# Callbacks


class Watch:
    """Counts the tasks of a fit, and stops it after some of them."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.calls, self.sizes, self.ended = [], [], 0

    def setup(self, estimator, context):
        self.calls.append("setup")
        self.sizes.append(context.max_subtasks)

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(("begin", context.task_name))

    def on_fit_task_end(self, estimator, context):
        self.calls.append(("end", context.task_name))
        self.ended += context.task_name == "exchange"
        return self.stop_after is not None and self.ended >= self.stop_after


needs_callbacks = pytest.mark.skipif(
    not hasattr(FederatedTransferClassifier, "set_callbacks"),
    reason="scikit-learn has callbacks from 1.9 on",
)


@needs_callbacks
@pytest.mark.parametrize("local_updates", [1, 5])
@pytest.mark.parametrize("kind", ["latent", "auto", "projector"])
def test_a_callback_sees_each_exchange(made, kind, local_updates):
    watch = Watch()
    if kind == "projector":
        unfitted = FederatedProjector(made.parties, max_iter=10, local_updates=local_updates)
    else:
        unfitted = classifier(made.parties, kind, local_updates=local_updates)
    unfitted.set_callbacks(watch).fit(made.X, made.y)
    exchanges = 10 // local_updates
    assert watch.sizes == [exchanges]
    assert watch.calls == [
        "setup",
        ("begin", "fit"),
        *[("begin", "exchange"), ("end", "exchange")] * exchanges,
        ("end", "fit"),
        "teardown",
    ]


@needs_callbacks
@pytest.mark.parametrize("kind", ["latent", "auto", "projector"])
def test_a_callback_stops_the_training(made, kind):
    if kind == "projector":
        unfitted = FederatedProjector(made.parties, max_iter=10)
    else:
        unfitted = classifier(made.parties, kind)
    fitted = unfitted.set_callbacks(Watch(stop_after=3)).fit(made.X, made.y)
    assert len(fitted.history_) == fitted.n_iter_ == 3
    assert np.isfinite(fitted.transform(made.X)).all()


@needs_callbacks
def test_moments_have_no_exchanges_to_watch(made):
    watch = Watch()
    classifier(made.parties, "moments").set_callbacks(watch).fit(made.X, made.y)
    assert watch.ended == 0
    assert watch.calls[0] == "setup"
    assert watch.calls[-1] == "teardown"


@needs_callbacks
def test_a_callback_is_torn_down_and_nothing_kept_if_a_fit_fails(made):
    class Fail(Watch):
        def on_fit_task_end(self, estimator, context):
            raise RuntimeError("the disk is full")

    watch = Fail()
    unfitted = classifier(made.parties, "latent").set_callbacks(watch)
    with pytest.raises(RuntimeError, match="the disk is full"):
        unfitted.fit(made.X, made.y)
    assert watch.calls[-1] == "teardown"
    assert not hasattr(unfitted, "model_")


@needs_callbacks
def test_watching_changes_no_model(made):
    plain = classifier(made.parties, "latent").fit(made.X, made.y)
    watched = classifier(made.parties, "latent").set_callbacks(Watch()).fit(made.X, made.y)
    assert_array_equal(watched.predict_proba(made.X), plain.predict_proba(made.X))
