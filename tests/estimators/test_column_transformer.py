"""Each party's columns are transformed by themselves, and it stays visible who knows which row."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.compose import make_column_selector
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.utils import estimator_html_repr
from sklearn.utils.estimator_checks import estimator_checks_generator

from fedtl import Encoder, FederatedColumnTransformer, FederatedTransferClassifier
from fedtl.exceptions import PartyError

NAN = np.nan
# The bank has columns 0 and 1 and does not know the third row; the shop has column 2 and does not
# know the first.
NUMBERS = np.array([[1.0, NAN, NAN], [3.0, 2.0, 5.0], [NAN, NAN, 7.0], [5.0, 4.0, 9.0]])
BANK_KNOWS = np.array([True, True, False, True])
SHOP_KNOWS = np.array([False, True, True, True])


def make_frame(library=pd):
    """Return a table of all kinds of columns; nobody at the bank knows the second row."""
    columns = {
        "age": [30.0, None, 50.0],
        "visits": [1, None, 3],
        "colour": ["red", None, "blue"],
        "basket": [7.5, 8.5, 9.5],
    }
    frame = library.DataFrame(columns)
    return frame.set_axis([10, 20, 20]) if library is pd else frame


def bank_and_shop(bank="passthrough", shop="passthrough"):
    return FederatedColumnTransformer([("bank", bank, [0, 1]), ("shop", shop, [2])])


INSTANCES = [
    FederatedColumnTransformer([("a", StandardScaler(), slice(0, None))]),
    FederatedColumnTransformer(
        [("a", SimpleImputer(), slice(0, 1)), ("b", StandardScaler(), slice(1, None))]
    ),
    FederatedColumnTransformer(
        [("a", "passthrough", slice(0, 1)), ("b", StandardScaler(), slice(1, None))]
    ),
]


# As parametrize_with_checks, whose generator pytest 9 does not take from scikit-learn 1.6.
@pytest.mark.parametrize(
    ("estimator", "check"),
    [pair for instance in INSTANCES for pair in estimator_checks_generator(instance)],
    ids=lambda value: getattr(getattr(value, "func", None), "__name__", None),
)
def test_scikit_learns_common_checks_pass(estimator, check):
    check(estimator)


def test_a_party_is_fitted_on_the_rows_it_knows_and_others_stay_missing():
    out = bank_and_shop(SimpleImputer(), StandardScaler()).fit_transform(NUMBERS)
    assert_array_equal(out[:, 0], [1.0, 3.0, NAN, 5.0])
    assert_array_equal(out[:, 1], [3.0, 2.0, NAN, 4.0])
    np.testing.assert_allclose(out[:, 2], [NAN, -(1.5**0.5), 0.0, 1.5**0.5])


def test_transform_uses_what_was_fitted_and_keeps_membership():
    transformer = bank_and_shop(SimpleImputer(), StandardScaler()).fit(NUMBERS)
    out = transformer.transform(np.array([[NAN, 1.0, 7.0], [NAN, NAN, 9.0], [NAN, NAN, NAN]]))
    assert_array_equal(out[0], [3.0, 1.0, 0.0])
    assert_array_equal(np.isnan(out), [[False] * 3, [True, True, False], [True] * 3])


def test_an_ordinary_imputer_erases_the_membership_that_ours_keeps():
    ours = bank_and_shop(SimpleImputer(), SimpleImputer()).fit_transform(NUMBERS)
    assert_array_equal(~np.isnan(ours[:, :2]).all(axis=1), BANK_KNOWS)
    assert_array_equal(~np.isnan(ours[:, 2]), SHOP_KNOWS)
    assert not np.isnan(SimpleImputer().fit_transform(NUMBERS)).any()


def test_a_batch_that_a_party_does_not_know_at_all_has_its_columns_missing():
    transformer = bank_and_shop(OneHotEncoder(), StandardScaler()).fit(NUMBERS)
    out = transformer.transform(NUMBERS[2:3])
    assert out.shape == (1, transformer.output_slices_["shop"].stop)
    assert np.isnan(out[:, transformer.output_slices_["bank"]]).all()


def test_output_is_ordered_by_party_and_slices_say_where():
    transformer = FederatedColumnTransformer(
        [("shop", OneHotEncoder(), [2]), ("bank", "passthrough", [1, 0])]
    )
    out = transformer.fit_transform(NUMBERS)
    assert transformer.output_slices_ == {"shop": slice(0, 3), "bank": slice(3, 5)}
    assert_array_equal(out[:, 3:], NUMBERS[:, [1, 0]])


def test_columns_of_no_party_are_left_out():
    transformer = FederatedColumnTransformer([("shop", "passthrough", [2])])
    assert_array_equal(transformer.fit_transform(NUMBERS), NUMBERS[:, [2]])


def test_sparse_output_becomes_dense():
    out = bank_and_shop(shop=OneHotEncoder(sparse_output=True)).fit_transform(NUMBERS)
    assert_array_equal(out[1, 2:], [1.0, 0.0, 0.0])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_keep_their_precision(kind):
    assert bank_and_shop().fit_transform(NUMBERS.astype(kind)).dtype == kind


def test_whole_numbers_become_floats_that_can_be_missing():
    assert bank_and_shop().fit_transform(np.ones((4, 3), dtype=int)).dtype == np.float64


def test_the_callers_transformers_and_data_stay_as_they_were():
    scaler, X = StandardScaler(copy=False), NUMBERS.copy()
    transformer = bank_and_shop(shop=scaler).fit(X)
    transformer.transform(X)
    assert not hasattr(scaler, "scale_")
    assert_array_equal(X, NUMBERS)


# Names and frames


def test_names_are_prefixed_by_the_party():
    transformer = FederatedColumnTransformer(
        [("bank", StandardScaler(), ["age", "visits"]), ("shop", OneHotEncoder(), ["colour"])]
    ).fit(make_frame())
    names = ["bank__age", "bank__visits", "shop__colour_blue", "shop__colour_red"]
    assert transformer.get_feature_names_out().tolist() == names


def test_without_names_in_x_columns_are_counted():
    transformer = bank_and_shop(shop=OneHotEncoder()).fit(NUMBERS)
    assert transformer.get_feature_names_out()[:3].tolist() == [
        "bank__x0",
        "bank__x1",
        "shop__x2_5.0",
    ]


def test_a_transformer_without_names_has_its_columns_called_after_its_class():
    pair = FunctionTransformer(lambda block: np.hstack([block, block**2]))
    transformer = bank_and_shop(shop=pair).fit(NUMBERS)
    assert transformer.get_feature_names_out()[2:].tolist() == [
        "shop__functiontransformer0",
        "shop__functiontransformer1",
    ]


@pytest.mark.parametrize("given", [pd, pl])
@pytest.mark.parametrize("asked", ["pandas", "polars"])
def test_frames_come_out_as_asked_with_each_columns_kind(given, asked):
    transformer = FederatedColumnTransformer(
        [
            ("bank", "passthrough", ["age", "visits", "colour"]),
            ("shop", StandardScaler(), ["basket"]),
        ]
    ).set_output(transform=asked)
    out = transformer.fit_transform(make_frame(given))
    assert type(out).__module__.split(".")[0] == asked
    assert list(out.columns) == ["bank__age", "bank__visits", "bank__colour", "shop__basket"]
    assert pd.isna(np.array(out["bank__colour"].to_list(), dtype=object)).tolist() == [0, 1, 0]
    assert_array_equal(out["bank__visits"].to_numpy().astype(float), [1.0, NAN, 3.0])
    assert_array_equal(out["bank__age"].to_numpy().astype(float), [30.0, NAN, 50.0])


def test_pandas_output_keeps_the_index_even_if_it_repeats():
    transformer = FederatedColumnTransformer([("bank", SimpleImputer(), ["age"])])
    out = transformer.set_output(transform="pandas").fit_transform(make_frame())
    assert out.index.tolist() == [10, 20, 20]
    assert_array_equal(out["bank__age"], [30.0, NAN, 50.0])


def test_text_of_an_array_becomes_text_columns_of_a_frame():
    X = np.array([["red", 1.0], [None, 2.0], ["blue", 3.0]], dtype=object)
    transformer = FederatedColumnTransformer([("a", "passthrough", [0]), ("b", "passthrough", [1])])
    out = transformer.set_output(transform="polars").fit_transform(X)
    assert out.schema == {"a__x0": pl.String, "b__x1": pl.Float64}
    assert out["a__x0"].to_list() == ["red", None, "blue"]


@pytest.mark.parametrize("library", [pd, pl])
def test_text_passes_through_to_an_array_of_objects(library):
    transformer = FederatedColumnTransformer(
        [("bank", "passthrough", ["colour"]), ("shop", "passthrough", ["basket"])]
    )
    out = transformer.fit_transform(make_frame(library))
    assert out.tolist()[0] == ["red", 7.5]
    assert np.isnan(out[1, 0])


@pytest.mark.parametrize("asked", ["pandas", "polars"])
def test_a_batch_unknown_to_a_party_is_missing_in_frames_too(asked):
    transformer = FederatedColumnTransformer(
        [("bank", "passthrough", ["age", "colour"]), ("shop", "passthrough", ["basket"])]
    ).set_output(transform=asked)
    out = transformer.fit(make_frame()).transform(make_frame().iloc[[1]])
    assert out.shape == (1, 3)
    assert_array_equal(pd.isna(out.to_numpy()[0]), [True, True, False])


def test_transformers_may_put_out_frames_by_themselves():
    with config_context(transform_output="pandas"):
        out = bank_and_shop(SimpleImputer()).fit_transform(NUMBERS)
    assert out.columns.tolist() == ["bank__x0", "bank__x1", "shop__x2"]
    inside = make_pipeline(SimpleImputer(), StandardScaler()).set_output(transform="polars")
    out = bank_and_shop(inside).fit_transform(NUMBERS)
    assert_array_equal(np.isnan(out[:, 0]), ~BANK_KNOWS)


def test_columns_in_another_order_are_refused_as_by_every_estimator():
    transformer = FederatedColumnTransformer([("bank", "passthrough", ["age"])]).fit(make_frame())
    with pytest.raises(ValueError, match="feature names"):
        transformer.transform(make_frame()[["visits", "age", "colour", "basket"]])


# Labels


class Remember(BaseEstimator):
    """Keeps the y it was fitted with; has no fit_transform."""

    def fit(self, X, y=None):
        self.y_ = y
        return self

    def transform(self, X):
        return X


def test_the_active_party_gets_the_labels_of_its_rows_and_the_others_get_none():
    transformer = bank_and_shop(Remember(), Remember()).fit(NUMBERS, [0, 1, 2, 3])
    assert list(transformer.named_transformers_.bank.y_) == [0, 1, 3]
    assert transformer.named_transformers_.shop.y_ is None


def test_a_supervised_transformer_of_another_party_is_refused_with_the_reason():
    with pytest.raises(PartyError, match=r"'shop'.*y goes to the first party only"):
        bank_and_shop(shop=SelectKBest(k=1)).fit(NUMBERS, [0, 1, 0, 1])


class CrossFitted(Remember):
    """Gives the rows it is fitted to other values than new rows, as TargetEncoder does."""

    def fit_transform(self, X, y=None):
        return self.fit(X, y).transform(X) + 100.0


def test_fit_transform_is_the_transformers_own():
    transformer = bank_and_shop(shop=CrossFitted())
    assert_array_equal(transformer.fit_transform(NUMBERS)[:, 2], NUMBERS[:, 2] + 100.0)
    assert_array_equal(transformer.transform(NUMBERS)[:, 2], NUMBERS[:, 2])


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        bank_and_shop().fit(NUMBERS, [0, 1])


# Composition


def test_nested_parameters_are_read_and_set():
    transformer = bank_and_shop(SimpleImputer())
    assert transformer.get_params()["bank__strategy"] == "mean"
    transformer.set_params(bank__strategy="median", shop=StandardScaler())
    assert transformer.transformers[0][1].strategy == "median"
    assert transformer.transformers[1] == ("shop", transformer.get_params()["shop"], [2])


def test_it_clones_and_pickles():
    transformer = bank_and_shop(SimpleImputer(strategy="median")).fit(NUMBERS)
    assert clone(transformer).get_params()["bank__strategy"] == "median"
    assert not hasattr(clone(transformer), "transformers_")
    again = pickle.loads(pickle.dumps(transformer))
    assert_array_equal(again.transform(NUMBERS), transformer.transform(NUMBERS))


def test_the_diagram_shows_the_parties_side_by_side():
    for transformer in [
        bank_and_shop(SimpleImputer()),
        bank_and_shop(SimpleImputer()).fit(NUMBERS),
    ]:
        drawn = estimator_html_repr(transformer)
        assert all(word in drawn for word in ["bank", "shop", "SimpleImputer", "passthrough"])
    assert "FederatedColumnTransformer" in estimator_html_repr(FederatedColumnTransformer([]))


@pytest.fixture(scope="module")
def problem():
    """Two parties that share half of the rows; some values of the bank are missing."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(160, 2))
    X = pd.DataFrame(
        np.hstack([latent + rng.normal(size=(160, 2)), latent[:, [1]] + rng.normal(size=(160, 1))]),
        columns=["income", "age", "basket"],
    )
    X.loc[rng.random(160) < 0.2, "age"] = np.nan
    X.loc[80:, "basket"] = np.nan
    return X, (latent.sum(axis=1) > 0).astype(int)


def select_by_prefix():
    parties = [(name, Encoder(), make_column_selector(f"^{name}__")) for name in ["bank", "shop"]]
    return FederatedTransferClassifier(parties, solver="moments", random_state=0)


def test_a_federated_estimator_after_it_still_knows_who_knows_which_row(problem):
    X, y = problem
    transformer = FederatedColumnTransformer(
        [("bank", SimpleImputer(), ["income", "age"]), ("shop", StandardScaler(), ["basket"])]
    )
    pipeline = make_pipeline(transformer, select_by_prefix()).set_output(transform="pandas")
    pipeline.fit(X, y)
    assert pipeline[-1].report_.rows["shop"]["rows"] == 80
    assert pipeline[-1].report_.rows["bank"]["rows"] == 160
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.6
    search = GridSearchCV(
        pipeline, {"federatedcolumntransformer__bank__strategy": ["mean", "median"]}, cv=2
    )
    assert search.fit(X, y).best_score_ > 0.6


def test_slices_serve_where_columns_have_no_names(problem):
    X, y = problem
    transformer = FederatedColumnTransformer(
        [("bank", SimpleImputer(add_indicator=True), [0, 1]), ("shop", StandardScaler(), [2])]
    )
    out = transformer.fit_transform(X.to_numpy(), y)
    assert transformer.output_slices_["bank"] == slice(0, 3)
    clf = FederatedTransferClassifier(transformer.output_slices_, solver="moments", random_state=0)
    assert clf.fit(out, y).report_.rows["shop"]["rows"] == 80


# Errors


def test_a_party_that_knows_no_row_is_named():
    with pytest.raises(PartyError, match=r"'shop'.*knows no row"):
        bank_and_shop().fit(np.where([True, True, False], NUMBERS, NAN))


def test_columns_that_two_parties_claim_are_named():
    transformer = FederatedColumnTransformer(
        [("bank", "passthrough", ["age", "colour"]), ("shop", "passthrough", ["colour"])]
    )
    with pytest.raises(ValueError, match=r"\['bank', 'shop'\] all claim the columns \['colour'\]"):
        transformer.fit(make_frame())


@pytest.mark.parametrize(
    ("transformers", "error", "message"),
    [
        ([], ValueError, "transformers is empty"),
        ("bank", ValueError, "must be an instance of"),
        ([("bank", "passthrough")], ValueError, "a party is a tuple"),
        ([("bank", "passthrough", [0]), ("bank", "passthrough", [1])], ValueError, "not unique"),
        ([("a__b", "passthrough", [0])], ValueError, "__"),
        ([("transformers", "passthrough", [0])], ValueError, "conflict"),
        ([("", "passthrough", [0])], ValueError, "must not be empty"),
        ([("bank", "drop", [0])], TypeError, "'bank'.*or 'passthrough'; got 'drop'"),
        ([("bank", SimpleImputer, [0])], TypeError, r"pass an instance, SimpleImputer\(\)"),
        ([("bank", Encoder(), [0])], TypeError, "expected a transformer"),
        ([("bank", "passthrough", [9])], ValueError, "party 'bank'"),
        ([("bank", "passthrough", ["age"])], ValueError, "X has no column names"),
        ([("bank", "passthrough", [])], PartyError, "select none of X"),
    ],
)
def test_a_wrong_specification_says_what_is_wrong(transformers, error, message):
    with pytest.raises(error, match=message):
        FederatedColumnTransformer(transformers).fit(NUMBERS)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda block: block[:1], "1 rows of 3"),
        (lambda block: block[:, :0], "put out no column"),
        (lambda block: 1 / 0, "division by zero"),
    ],
)
def test_a_transformer_that_fails_is_named_by_its_party(function, message):
    with pytest.raises(PartyError, match=f"'shop': its transformer failed.*{message}"):
        bank_and_shop(shop=FunctionTransformer(function)).fit(NUMBERS)


def test_a_failed_fit_leaves_the_last_one_as_it_was():
    transformer = bank_and_shop(SimpleImputer()).fit(NUMBERS)
    before, out = dict(transformer.__dict__), transformer.transform(NUMBERS)
    X = pd.DataFrame(
        np.where([True, True, False, True], np.ones((4, 4)), NAN), columns=list("abcd")
    )
    with pytest.raises(PartyError):
        transformer.fit(X)
    assert transformer.__dict__ == before
    assert_array_equal(transformer.transform(NUMBERS), out)


def test_before_fit_it_says_so():
    with pytest.raises(NotFittedError):
        bank_and_shop().transform(NUMBERS)
    with pytest.raises(NotFittedError):
        bank_and_shop().get_feature_names_out()
