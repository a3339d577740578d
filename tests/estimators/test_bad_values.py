"""Labels, values and tables that cannot be used are refused, and nothing learnt is lost."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from fedtl import (
    Encoder,
)
from fedtl.exceptions import PartyError
from tests.estimators.test_bad_input import (  # noqa: F401
    BY_NAME,
    NAN,
    SOLVERS,
    Fits,
    classifier,
    frame,
    made,
    named,
    numbers,
    projector,
    regressor,
)

pd = pytest.importorskip("pandas")

# Labels


@pytest.mark.parametrize("make", [classifier, regressor])
def test_rows_that_are_all_unlabelled_are_refused(made, make):
    with pytest.raises(ValueError, match="no row is labelled"):
        make(made.parties, unlabeled=-1).fit(made.X, np.full(len(made.y), -1))


def test_labels_of_one_class_are_refused(numbers, made):
    numbers.refuses(ValueError, r"at least 2 classes.*\[1\]", made.X, np.ones(120, dtype=int))


@pytest.mark.parametrize("marker", [None, -1])
def test_nan_in_y_that_marks_nothing_is_refused(numbers, made, marker):
    y = made.y.astype(float)
    y[3] = NAN
    numbers.refuses(ValueError, "Input y contains NaN", made.X, y, unlabeled=marker)


@pytest.mark.parametrize("make", [classifier, regressor])
def test_nan_among_floats_in_y_is_refused_with_the_way_out(made, make):
    y = made.y.astype(float)
    y[3] = NAN
    with pytest.raises(ValueError, match="Input y contains NaN.*by the parameter unlabeled"):
        make(made.parties).fit(made.X, y)


@pytest.mark.parametrize("missing", [None, NAN, pd.NA])
def test_missing_labels_among_objects_are_refused(numbers, made, missing):
    y = np.array(["no", "yes"], dtype=object)[made.y]
    y[3] = missing
    match = "Input y contains NaN.*by the parameter unlabeled"
    numbers.refuses(ValueError, match, made.X, y)


def test_nan_in_a_regressors_y_is_refused_unless_it_is_the_marker(rows):
    made = rows(120, task="regression")
    made.y[3] = NAN
    with pytest.raises(ValueError, match="Input y contains NaN"):
        regressor(made.parties).fit(made.X, made.y)
    fitted = regressor(made.parties, unlabeled=NAN).fit(made.X, made.y)
    assert np.isfinite(fitted.predict(made.X)).all()


@pytest.mark.parametrize("marker", [np.float32("nan"), pd.NA])
def test_any_nan_marks_unlabelled_rows(made, marker):
    y = made.y.astype(float)
    y[3] = NAN
    fitted = classifier(made.parties, unlabeled=marker).fit(made.X, y)
    assert fitted.classes_.tolist() == [0, 1]


def test_infinity_in_y_is_refused(rows):
    made = rows(120, task="regression")
    made.y[3] = np.inf
    with pytest.raises(ValueError, match="Input y contains infinity"):
        regressor(made.parties).fit(made.X, made.y)


def test_text_as_a_regressors_y_is_refused(made):
    with pytest.raises(ValueError, match="convert"):
        regressor(made.parties).fit(made.X, np.array(["no", "yes"])[made.y])


def test_y_of_another_length_is_refused(numbers, made):
    numbers.refuses(ValueError, r"inconsistent.*\[120, 119\]", made.X, made.y[:-1])


def test_y_of_two_columns_is_refused(numbers, made):
    numbers.refuses(ValueError, "y should be a 1d array", made.X, np.column_stack([made.y] * 2))


def test_y_of_one_column_is_taken_with_a_warning(numbers, made):
    with pytest.warns(UserWarning, match="column-vector y was passed"):
        fitted = classifier(made.parties).fit(made.X, made.y[:, None])
    assert_array_equal(fitted.predict_proba(made.X), numbers.said)


def test_y_that_is_missing_is_refused(numbers, made):
    numbers.refuses(ValueError, "requires y to be passed, but the target y is None", made.X, None)


def test_continuous_y_is_refused_by_the_classifier(numbers, made):
    y = np.random.default_rng(0).normal(size=120)
    numbers.refuses(ValueError, "Unknown label type: continuous", made.X, y)


def test_weights_that_are_negative_or_of_another_length_are_refused(numbers, made):
    for weight, match in ((np.ones(119), "sample_weight"), (np.full(120, -1.0), "Negative")):
        with pytest.raises(ValueError, match=match):
            numbers.fitted.fit(made.X, made.y, sample_weight=weight)
    assert_array_equal(numbers.fitted.predict_proba(made.X), numbers.said)


def test_weights_that_are_all_zero_are_refused(made):
    with pytest.raises(ValueError, match="at least one non-zero"):
        classifier(made.parties).fit(made.X, made.y, sample_weight=np.zeros(120))


def test_weights_that_leave_one_class_are_refused(made):
    with pytest.raises(ValueError, match="2 classes"):
        classifier(made.parties).fit(made.X, made.y, sample_weight=made.y.astype(float))


# Values


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("party", "column"), [("bank", 1), ("shop", 2)])
def test_infinity_is_refused_with_the_party_that_holds_it(made, solver, party, column):
    fits = Fits(classifier(made.parties, solver).fit(made.X, made.y), made.X)
    broken = made.X.copy()
    broken[np.flatnonzero(made.known.all(axis=1))[:3], column] = [np.inf, -np.inf, np.inf]
    match = f"party '{party}': 3 rows hold infinity; replace it"
    fits.refuses(PartyError, match, broken, made.y)
    with pytest.raises(PartyError, match=match):
        fits.fitted.predict(broken)
    with pytest.raises(PartyError, match=match):
        fits.fitted.transform(broken)


def test_infinity_in_a_column_of_no_party_is_not_looked_at(made):
    parties = {"bank": [0, 1], "shop": [2]}
    made.X[:, 3] = np.inf
    assert classifier(parties).fit(made.X, made.y).predict(made.X).shape == made.y.shape


def test_infinity_of_a_preprocessor_is_refused_with_the_party(made):
    inverse = Encoder(preprocessor=FunctionTransformer(lambda block: 1.0 / (0.0 * block)))
    parties = [("bank", Encoder(), [0, 1]), ("shop", inverse, [2, 3])]
    with (
        np.errstate(divide="ignore"),
        pytest.raises(PartyError, match="'shop': its preprocessor put out infinity"),
    ):
        classifier(parties).fit(made.X, made.y)


def test_a_preprocessor_that_fails_is_reported_with_the_party(made):
    def fail(block):
        raise RuntimeError("no such currency")

    broken = Encoder(preprocessor=FunctionTransformer(fail))
    parties = [("bank", Encoder(), [0, 1]), ("shop", broken, [2, 3])]
    with pytest.raises(PartyError, match="'shop': its preprocessor failed.*no such currency"):
        classifier(parties).fit(made.X, made.y)


def test_numbers_at_the_edge_of_float_are_taken(made):
    made.X[np.flatnonzero(made.known.all(axis=1))[:4], 2] = [1e300, -1e300, 1e-300, 5e-324]
    assert np.isfinite(classifier(made.parties).fit(made.X, made.y).predict_proba(made.X)).all()


def test_numbers_as_objects_are_numbers(numbers, made):
    fitted = classifier(made.parties).fit(made.X.astype(object), made.y)
    assert_array_equal(fitted.predict_proba(made.X.astype(object)), numbers.said)
    none = np.where(np.isnan(made.X), None, made.X.astype(object))
    assert_array_equal(fitted.predict_proba(none), numbers.said)


def test_a_mixture_of_text_and_numbers_is_taken(made):
    X = made.X.astype(object)
    words = np.array(["low", "high"], dtype=object)[(made.X[:, 2] > 0).astype(int)]
    X[:, 2] = np.where(made.known[:, 1], words, None)
    X[5:10, 3] = np.where(made.known[5:10, 1], "unknown", None)  # numbers and a word
    fitted = classifier(made.parties).fit(X, made.y)
    assert np.isfinite(fitted.predict_proba(X)).all()
    assert np.isfinite(fitted.transform(X[:1])).all()


def test_text_where_a_number_was_is_refused_with_the_party(made, frame):
    fitted = classifier(BY_NAME).fit(frame, made.y)
    expected = fitted.predict_proba(frame)
    text = frame.astype({"basket": object})
    text.loc[made.known[:, 1], "basket"] = "many"
    with pytest.raises(PartyError, match=r"'shop'"):
        fitted.predict(text)
    assert_array_equal(fitted.predict_proba(frame), expected)


def test_an_array_of_text_is_taken_as_categories(made):
    X = np.array([["a", "u"], ["b", "v"]])[(made.X[:, [0, 2]] > 0).astype(int), [0, 1]]
    fitted = classifier({"bank": [0], "shop": [1]}).fit(X, made.y)
    assert np.isfinite(fitted.predict_proba(X)).all()


# Tables


@pytest.mark.parametrize("make", [classifier, projector])
def test_sparse_x_is_refused_with_the_way_out(made, make):
    with pytest.raises(TypeError, match=r"toarray\(\)"):
        make(made.parties).fit(csr_array(np.nan_to_num(made.X)), made.y)


def test_sparse_x_is_refused_for_predictions_too(numbers, made):
    with pytest.raises(TypeError, match=r"toarray\(\)"):
        numbers.fitted.predict(csr_array(np.nan_to_num(made.X)))


@pytest.mark.parametrize("make", [classifier, projector])
def test_complex_x_is_refused(made, make):
    with pytest.raises(ValueError, match="Complex data not supported"):
        make(made.parties).fit(made.X * 1j, made.y)


def test_x_of_one_or_three_dimensions_is_refused(numbers, made):
    numbers.refuses(
        ValueError, "(?s)Expected 2D array, got 1D.*Reshape your data", made.X[:, 0], made.y
    )
    numbers.refuses(ValueError, "dim 3", made.X[:, :, None], made.y)
    with pytest.raises(ValueError, match="2D array"):
        numbers.fitted.predict(made.X[0])


def test_a_series_is_refused(numbers, made, frame):
    numbers.refuses(ValueError, "2-dimensional container", frame["age"], made.y)


def test_x_without_columns_is_refused(numbers, made):
    numbers.refuses(ValueError, r"0 feature\(s\)", made.X[:, :0], made.y)


def test_no_rows_are_refused_for_predictions(numbers, named, made, frame):
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        numbers.fitted.predict(made.X[:0])
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        named.fitted.predict(frame[:0])


@pytest.mark.parametrize("columns", [slice(0, 3), [0, 1, 2, 3, 3]])
def test_another_number_of_columns_is_refused_for_predictions(numbers, made, columns):
    with pytest.raises(ValueError, match="features, but FederatedTransferClassifier is expecting"):
        numbers.fitted.predict(made.X[:, columns])


def test_columns_of_other_names_or_in_another_order_are_refused(named, frame):
    for other in (
        frame[["income", "age", "basket", "visits"]],
        frame.rename(columns={"visits": "clicks"}),
        frame.drop(columns="visits"),
    ):
        with pytest.raises(ValueError, match="feature names should match"):
            named.fitted.predict(other)
        with pytest.raises(ValueError, match="feature names should match"):
            named.fitted.transform(other)


def test_names_of_two_kinds_are_refused(made, frame):
    with pytest.raises(TypeError, match="string"):
        classifier({"bank": [0, 1], "shop": [2, 3]}).fit(frame.rename(columns={"age": 0}), made.y)


def test_a_frame_that_lost_its_names_is_served_by_position_with_a_warning(named, frame):
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        said = named.fitted.predict_proba(frame.to_numpy())
    assert_array_equal(said, named.said)


def test_names_that_come_later_are_noticed(numbers, frame):
    with pytest.warns(UserWarning, match="was fitted without feature names"):
        said = numbers.fitted.predict_proba(frame)
    assert_array_equal(said, numbers.said)


def test_names_for_an_array_are_refused_with_the_step_to_change(made):
    with pytest.raises(ValueError, match=r"party 'bank'.*set_output\(transform='pandas'\)"):
        classifier(BY_NAME).fit(made.X, made.y)


def test_a_pipeline_whose_step_drops_the_names_is_told_what_to_do(made, frame):
    pipeline = make_pipeline(StandardScaler(), classifier(BY_NAME))
    with pytest.raises(ValueError, match=r"'bank'.*set_output\(transform='pandas'\)"):
        pipeline.fit(frame, made.y)
    pipeline.set_output(transform="pandas")
    assert pipeline.fit(frame, made.y).predict(frame).shape == made.y.shape


@pytest.mark.parametrize("method", ["predict", "predict_proba", "transform"])
def test_an_unfitted_estimator_says_so(made, method):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        getattr(classifier(made.parties), method)(made.X)


def test_a_failed_first_fit_leaves_no_attribute(made):
    broken = made.X.copy()
    broken[0] = np.inf
    fitted = classifier(made.parties)
    with pytest.raises(PartyError):
        fitted.fit(broken, made.y)
    assert not [name for name in vars(fitted) if name.endswith("_")]
    assert not hasattr(fitted, "n_features_in_")


def test_a_failed_refit_keeps_names_and_classes(named, made, frame):
    broken = frame.rename(columns={"age": "years"}).copy()
    broken.iloc[0, 2] = np.inf
    y = np.array(["no", "yes"])[made.y]
    renamed = {"bank": ["years", "income"], "shop": ["basket", "visits"]}
    named.refuses(PartyError, "'shop'", broken, y, parties=renamed)
    assert named.fitted.feature_names_in_.tolist() == ["age", "income", "basket", "visits"]
    assert named.fitted.classes_.tolist() == [0, 1]
