"""Arrays, pandas and polars frames, categories, and scikit-learn's tools around the estimators."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.compose import make_column_selector
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fedtl import (
    Encoder,
    FederatedTransferClassifier,
)
from fedtl.exceptions import UnknownRowsWarning

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

SOLVERS = ("moments", "latent", "auto")
NAMES = ["age", "income", "basket", "visits"]
BY_NAME = {"bank": ["age", "income"], "shop": ["basket", "visits"]}


def classifier(parties, solver="auto", **parameters):
    settings = {"max_iter": 10, "lr": 0.03, "n_folds": 2, "random_state": 0, "n_components": 4}
    return FederatedTransferClassifier(parties, solver=solver, **settings | parameters)


@pytest.fixture(scope="module")
def made(rows):
    """Rows of a bank (columns 0 and 1) and a shop (columns 2 and 3)."""
    return rows(160)


def as_pandas(X):
    return pd.DataFrame(X, columns=NAMES)


def as_polars(X):
    """Missing values are null in the first two columns and NaN in the others."""
    null = pl.from_pandas(as_pandas(X), nan_to_null=True)
    nan = pl.DataFrame(dict(zip(NAMES, X.T, strict=True)))
    return null.select(NAMES[:2]).with_columns(nan.select(NAMES[2:]).get_columns())


# One table in many forms


@pytest.mark.parametrize("solver", SOLVERS)
def test_frames_say_the_same_as_arrays(made, solver):
    expected = classifier(made.parties, solver).fit(made.X, made.y)
    for form in (as_pandas, as_polars):
        X = form(made.X)
        fitted = classifier(BY_NAME, solver).fit(X, made.y)
        assert_array_equal(fitted.predict_proba(X), expected.predict_proba(made.X))
        assert_array_equal(np.asarray(fitted.transform(X)), expected.transform(made.X))


def test_a_frame_of_one_library_serves_an_estimator_that_was_fitted_to_another(made):
    fitted = classifier(BY_NAME).fit(as_pandas(made.X), made.y)
    expected = fitted.predict_proba(as_pandas(made.X))
    assert_array_equal(fitted.predict_proba(as_polars(made.X)), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, bool])
def test_numbers_of_any_type_say_the_same(made, dtype):
    whole = np.abs(np.nan_to_num(made.X) * 5).astype(dtype)
    fitted = classifier(made.parties).fit(whole, made.y)
    same = classifier(made.parties).fit(whole.astype(np.float64), made.y)
    expected = same.predict_proba(whole.astype(np.float64))
    assert_array_equal(fitted.predict_proba(whole), expected)
    assert fitted.predict_proba(whole).dtype == np.float64
    frame = as_pandas(whole)
    assert_array_equal(classifier(BY_NAME).fit(frame, made.y).predict_proba(frame), expected)


def test_lists_are_tables_too(made):
    fitted = classifier(made.parties).fit(made.X.tolist(), made.y.tolist())
    expected = classifier(made.parties).fit(made.X, made.y).predict_proba(made.X)
    assert_array_equal(fitted.predict_proba(made.X.tolist()), expected)


def test_memory_order_and_views_do_not_matter(made):
    expected = classifier(made.parties).fit(made.X, made.y).predict_proba(made.X)
    wide = np.full((2 * len(made.X), 8), 9.0)
    wide[::2, ::2] = made.X
    for X in (np.asfortranarray(made.X), wide[::2, ::2]):
        assert_array_equal(classifier(made.parties).fit(X, made.y).predict_proba(X), expected)


def test_the_index_of_a_frame_does_not_matter(made):
    frame, y = as_pandas(made.X), pd.Series(made.y)
    expected = classifier(BY_NAME).fit(frame, y).predict_proba(frame)
    for index in (np.arange(160)[::-1], np.zeros(160, dtype=int), [f"c{i}" for i in range(160)]):
        other = frame.set_axis(index)
        fitted = classifier(BY_NAME).fit(other, y.set_axis(index[::-1]))
        assert_array_equal(fitted.predict_proba(other), expected)


@pytest.mark.parametrize(
    "kind",
    [
        pd.Series,
        lambda y: pd.Series(y, dtype="Int64"),
        lambda y: pd.Series(y, dtype="category"),
        pl.Series,
        list,
        lambda y: y.astype(np.float32),
        lambda y: y.astype(object).tolist(),
    ],
    ids=["pandas", "nullable", "category", "polars", "list", "float32", "objects"],
)
def test_labels_come_in_any_form(made, kind):
    expected = classifier(made.parties, "moments").fit(made.X, made.y)
    fitted = classifier(made.parties, "moments").fit(made.X, kind(made.y))
    assert_array_equal(fitted.predict_proba(made.X), expected.predict_proba(made.X))
    assert_array_equal(fitted.predict(made.X), expected.predict(made.X))


@pytest.mark.parametrize("kind", [pd.Series, pl.Series, list, lambda w: w.astype(np.float32)])
def test_weights_come_in_any_form(made, kind):
    weight = np.where(np.arange(160) % 3 == 0, 0.0, 2.0)
    expected = classifier(made.parties, "moments")
    expected.fit(made.X, made.y, sample_weight=weight)
    for X, parties in ((as_pandas(made.X), BY_NAME), (as_polars(made.X), BY_NAME)):
        fitted = classifier(parties, "moments").fit(X, made.y, sample_weight=kind(weight))
        assert_array_equal(fitted.predict_proba(X), expected.predict_proba(made.X))


# Which columns belong to whom


@pytest.mark.parametrize(
    "parties",
    [
        {"bank": [0, 1], "shop": [2, 3]},
        {"bank": (0, 1), "shop": np.array([2, 3])},
        {"bank": slice(0, 2), "shop": slice(2, None)},
        {"bank": slice("age", "income"), "shop": slice("basket", "visits")},
        {"bank": [True, True, False, False], "shop": np.array([False, False, True, True])},
        {"bank": [-4, -3], "shop": slice(-2, None)},
        {"bank": pd.Index(["age", "income"]), "shop": ("basket", "visits")},
        {"bank": make_column_selector("age|income"), "shop": make_column_selector("a?s")},
        {"bank": lambda X: [0, 1], "shop": lambda X: list(X.columns[2:])},
        [("bank", Encoder(), [0, 1]), ("shop", Encoder(), BY_NAME["shop"])],
        (("bank", Encoder(), [0, 1]), ("shop", Encoder(), slice(2, 4))),
    ],
    ids=range(11),
)
def test_columns_are_told_in_the_grammar_of_column_transformer(made, parties):
    X = as_pandas(made.X)
    fitted = classifier(parties, "moments").fit(X, made.y)
    expected = classifier(BY_NAME, "moments").fit(X, made.y).predict_proba(X)
    assert_array_equal(fitted.predict_proba(X), expected)
    assert [party.columns for party in fitted.parties_] == [(0, 1), (2, 3)]
    assert fitted.n_parties_ == 2


@pytest.mark.parametrize("column", ["basket", 2])
def test_a_single_column_may_stand_without_brackets(made, column):
    X = as_pandas(made.X)
    fitted = classifier({"bank": "age", "shop": column}, "moments").fit(X, made.y)
    expected = classifier({"bank": ["age"], "shop": ["basket"]}, "moments").fit(X, made.y)
    assert_array_equal(fitted.predict_proba(X), expected.predict_proba(X))


def test_columns_are_chosen_when_fitting_and_stay(made):
    X = as_pandas(made.X)
    selector = make_column_selector("s")
    fitted = classifier({"bank": ["age"], "shop": selector}, "moments").fit(X, made.y)
    assert fitted.parties_[1].columns == (2, 3)
    expected = fitted.predict_proba(X)
    fitted.parties["shop"] = ["income"]  # a parameter: for the next fit
    assert_array_equal(fitted.predict_proba(X), expected)


def test_selectors_by_type_find_columns(made):
    X = as_pandas(made.X)
    X["colour"] = np.where(made.known[:, 1], np.where(made.X[:, 2] > 0, "red", "blue"), None)
    parties = {
        "bank": ["age", "income"],
        "shop": make_column_selector(dtype_exclude=np.number),
    }
    fitted = classifier(parties, "moments").fit(X, made.y)
    assert fitted.parties_[1].columns == (4,)


def test_the_order_of_a_partys_columns_is_the_partys(made):
    X = as_pandas(made.X)
    turned = {"bank": ["income", "age"], "shop": ["basket", "visits"]}
    fitted = classifier(turned, "moments").fit(X, made.y)
    assert fitted.parties_[0].columns == (1, 0)
    expected = classifier(BY_NAME, "moments").fit(X, made.y).predict_proba(X)
    assert_allclose(fitted.predict_proba(X), expected, atol=1e-6)


# Names that come out


def test_names_of_columns_are_remembered(made):
    for form in (as_pandas, as_polars):
        fitted = classifier(BY_NAME, "moments").fit(form(made.X), made.y)
        assert fitted.feature_names_in_.tolist() == NAMES
        assert fitted.n_features_in_ == 4
    numbers = classifier(made.parties, "moments").fit(as_pandas(made.X), made.y)
    assert not hasattr(numbers.fit(made.X, made.y), "feature_names_in_")


@pytest.mark.parametrize(("solver", "width"), [("moments", 2), ("latent", 4), ("auto", 4)])
def test_names_of_the_latent_columns_are_as_many_as_columns(made, solver, width):
    fitted = classifier(made.parties, solver).fit(made.X, made.y)
    names = [f"federatedtransferclassifier{i}" for i in range(width)]
    assert fitted.get_feature_names_out().tolist() == names
    assert fitted.transform(made.X).shape == (160, width)


def test_a_score_for_each_class_and_party_is_what_moments_transform_to(rows):
    three = rows(160, task="multiclass")
    fitted = classifier(three.parties, "moments").fit(three.X, three.y)
    assert fitted.transform(three.X).shape == (160, 6)
    assert len(fitted.get_feature_names_out()) == 6
    unknown = ~three.known
    assert_array_equal(fitted.transform(three.X)[unknown[:, 0], :3], 0.0)
    assert_array_equal(fitted.transform(three.X)[unknown[:, 1], 3:], 0.0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_transform_gives_the_frame_that_is_asked_for(made, solver):
    X = as_pandas(made.X).set_axis(np.arange(160) + 7)
    fitted = classifier(BY_NAME, solver).fit(X, made.y)
    plain = fitted.transform(X)
    assert isinstance(plain, np.ndarray)
    frame = fitted.set_output(transform="pandas").transform(X)
    assert frame.columns.tolist() == fitted.get_feature_names_out().tolist()
    assert frame.index.tolist() == X.index.tolist()
    assert_array_equal(frame.to_numpy(), plain)
    frame = fitted.set_output(transform="polars").transform(as_polars(made.X))
    assert isinstance(frame, pl.DataFrame)
    assert frame.columns == fitted.get_feature_names_out().tolist()
    assert_array_equal(frame.to_numpy(), plain)
    assert isinstance(fitted.predict_proba(X), np.ndarray)


def test_fit_transform_is_fit_and_transform(made):
    fitted = classifier(made.parties)
    assert_array_equal(fitted.fit_transform(made.X, made.y), fitted.transform(made.X))


# Categories and missing values


@pytest.fixture(scope="module")
def mixed(rows):
    """A frame with numbers, text, categories, booleans and holes, and its labels."""
    made = rows(240, seed=2)
    X = as_pandas(made.X)
    rng = np.random.default_rng(0)
    X["sex"] = np.where(made.X[:, 0] > 0, "f", "m")
    X["member"] = rng.choice([True, False], 240)
    X["colour"] = np.where(made.X[:, 2] > 0, "red", rng.choice(["blue", "green"], 240))
    X.loc[rng.random(240) < 0.1, "age"] = np.nan
    X.loc[rng.random(240) < 0.1, "colour"] = None
    X["sex"], X["member"] = X["sex"].astype(object), X["member"].astype(object)
    X.loc[~made.known[:, 0], ["age", "income", "sex", "member"]] = None
    X.loc[~made.known[:, 1], ["basket", "visits", "colour"]] = None
    X["colour"] = X["colour"].astype("category")
    X["sex"] = X["sex"].astype("string")
    X["member"] = X["member"].astype("boolean")
    return X, made


MIXED = {"bank": ["age", "income", "sex", "member"], "shop": ["basket", "visits", "colour"]}


@pytest.fixture(scope="module", params=SOLVERS)
def on_mixed(request, mixed):
    """An estimator that was fitted to the mixed frame."""
    X, made = mixed
    return classifier(MIXED, request.param).fit(X, made.y)


def test_categories_and_booleans_are_learnt_from(mixed):
    X, made = mixed
    only = {"bank": ["member"], "shop": ["colour"]}
    fitted = classifier(only, "moments").fit(X, made.y)
    red, blue = (X["colour"] == "red").fillna(False), (X["colour"] == "blue").fillna(False)
    with pytest.warns(UnknownRowsWarning):  # some rows have neither value
        said = fitted.predict_proba(X)[:, 1]
    assert said[red].mean() > said[blue].mean() + 0.1


def test_membership_is_found_in_mixed_columns(on_mixed, mixed):
    _, made = mixed
    for name, knows in zip(("bank", "shop"), made.known.T, strict=True):
        assert on_mixed.report_.rows[name]["rows"] == knows.sum()


def test_the_same_mixed_table_in_other_forms_is_served_alike(on_mixed, mixed):
    X, _ = mixed
    expected = on_mixed.predict_proba(X)
    objects = X.astype(object)
    assert_array_equal(on_mixed.predict_proba(objects), expected)
    assert_array_equal(on_mixed.predict_proba(objects.where(X.notna(), None)), expected)
    assert_array_equal(on_mixed.predict_proba(pl.from_pandas(X)), expected)
    assert_array_equal(on_mixed.predict_proba(X.convert_dtypes()), expected)


def test_a_category_that_was_never_seen_is_served(on_mixed, mixed):
    X, _ = mixed
    new = X.astype({"colour": object})
    new.loc[new["colour"].notna(), "colour"] = "violet"
    said = on_mixed.predict_proba(new)
    assert np.isfinite(said).all()
    assert_array_equal(said, on_mixed.predict_proba(new.astype({"colour": "category"})))


@pytest.mark.parametrize("column", ["sex", "colour", "age", "member"])
def test_a_batch_in_which_a_column_is_all_missing_is_served(on_mixed, mixed, column):
    X, _ = mixed
    rest = on_mixed.predict_proba(X)
    for hole in (
        X.assign(**{column: None}),
        X.assign(**{column: np.nan}),
        X.assign(**{column: X[column].mask(np.ones(len(X), dtype=bool))}),
        pl.from_pandas(X).with_columns(pl.lit(None).alias(column)),
    ):
        said = on_mixed.predict_proba(hole)
        assert np.isfinite(said).all()
        assert_array_equal(said, on_mixed.predict_proba(X.assign(**{column: None})))
    without = X[column].isna().to_numpy(dtype=bool)
    assert_array_equal(said[without], rest[without])


def test_single_rows_are_served_as_in_the_table(on_mixed, mixed):
    X, _ = mixed
    expected = on_mixed.predict_proba(X)
    for i in range(0, 240, 16):
        assert_allclose(on_mixed.predict_proba(X.iloc[[i]]), expected[[i]], rtol=1e-9)
        assert_allclose(on_mixed.predict_proba(pl.from_pandas(X)[i]), expected[[i]], rtol=1e-9)


def test_a_batch_that_a_party_does_not_know_is_served_whatever_its_types(on_mixed, mixed):
    X, made = mixed
    expected = on_mixed.predict_proba(X)
    alone = made.known[:, 0] & ~made.known[:, 1]
    batch = X[alone].drop(columns=MIXED["shop"])
    batch = batch.assign(**dict.fromkeys(MIXED["shop"], None))[X.columns]
    assert_allclose(on_mixed.predict_proba(batch), expected[alone], rtol=1e-9)


@pytest.mark.parametrize("dtype", ["Float64", "Float32", "Int64", "boolean"])
def test_pandas_nullable_types_are_numbers_with_holes(made, dtype):
    whole = (
        np.sign(made.X) if dtype != "boolean" else np.where(np.isnan(made.X), np.nan, made.X > 0)
    )
    frame = as_pandas(whole)
    nullable = frame.astype(object).where(frame.notna(), pd.NA).astype(dtype)
    fitted = classifier(BY_NAME).fit(nullable, made.y)
    expected = classifier(BY_NAME).fit(frame, made.y).predict_proba(frame)
    assert_array_equal(fitted.predict_proba(nullable), expected)
    assert_array_equal(fitted.predict_proba(frame), expected)


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["a", "b"])])
def test_polars_text_and_categories_are_categories(made, dtype):
    words = np.where(np.isnan(made.X), None, np.where(made.X > 0, "a", "b"))
    plain = pd.DataFrame(words, columns=NAMES)
    frame = pl.DataFrame(words.tolist(), schema=NAMES, orient="row").cast(dtype)
    expected = classifier(BY_NAME, "moments").fit(plain, made.y).predict_proba(plain)
    fitted = classifier(BY_NAME, "moments").fit(frame, made.y)
    assert_array_equal(fitted.predict_proba(frame), expected)


def test_text_in_an_array_of_objects_is_a_category(made):
    words = np.where(np.isnan(made.X), None, np.where(made.X > 0, "a", "b"))
    frame = pd.DataFrame(words, columns=NAMES)
    expected = classifier(BY_NAME, "moments").fit(frame, made.y).predict_proba(frame)
    fitted = classifier(made.parties, "moments").fit(words, made.y)
    assert_array_equal(fitted.predict_proba(words), expected)


def test_a_missing_value_inside_a_known_row_does_not_change_who_knows_it(made):
    X = made.X.copy()
    X[:, 1] = np.nan
    fitted = classifier(made.parties, "moments").fit(X, made.y)
    knows = made.known[:, 0].sum()
    assert fitted.report_.rows["bank"]["rows"] == knows


# Preprocessing that belongs to a party


def test_a_preprocessor_is_fitted_to_the_rows_of_its_party_alone(made):
    class Remember(StandardScaler):
        seen = []

        def fit(self, X, y=None, sample_weight=None):
            self.seen.append((np.array(X), y))
            return super().fit(X, y)

    parties = [
        ("bank", Encoder(), [0, 1]),
        ("shop", Encoder(preprocessor=Remember()), [2, 3]),
    ]
    classifier(parties, "moments").fit(made.X, made.y)
    [(seen, y)] = Remember.seen
    assert_array_equal(seen, made.X[made.known[:, 1], 2:])
    assert y is None


def test_an_imputer_inside_a_party_leaves_membership_alone(made):
    X = made.X.copy()
    X[np.flatnonzero(made.known[:, 1])[::4], 2] = np.nan
    parties = [
        ("bank", Encoder(), [0, 1]),
        ("shop", Encoder(preprocessor=SimpleImputer(strategy="median")), [2, 3]),
    ]
    fitted = classifier(parties).fit(X, made.y)
    assert fitted.report_.rows["shop"]["rows"] == made.known[:, 1].sum()
    assert fitted.predict_proba(X).shape == (160, 2)


def test_a_preprocessor_may_put_out_sparse_tables_and_frames(mixed):
    X, made = mixed
    text = {"bank": ["age", "income"], "shop": ["colour"]}
    for preprocessor in (
        make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()),
        make_pipeline(
            SimpleImputer(strategy="most_frequent"), OneHotEncoder(sparse_output=False)
        ).set_output(transform="pandas"),
    ):
        parties = [
            ("bank", Encoder(), text["bank"]),
            ("shop", Encoder(preprocessor=preprocessor), text["shop"]),
        ]
        colour = X["colour"].astype(object)
        table = X.assign(colour=colour.where(X["colour"].notna(), np.nan))
        fitted = classifier(parties, "moments").fit(table, made.y)
        assert np.isfinite(fitted.predict_proba(table[made.known[:, 0]])).all()
