"""What cannot be used is refused by an error that names the party and the way out."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.preprocessing import StandardScaler

from fedtl import (
    Encoder,
    FederatedProjector,
    FederatedTransferClassifier,
    FederatedTransferRegressor,
)
from fedtl.exceptions import PartyError

pd = pytest.importorskip("pandas")
NAN = np.nan
SOLVERS = ("moments", "latent", "auto")


def classifier(parties, solver="auto", **parameters):
    settings = {"max_iter": 5, "n_folds": 2, "random_state": 0, "n_components": 4}
    return FederatedTransferClassifier(parties, solver=solver, **settings | parameters)


def regressor(parties, solver="auto", **parameters):
    settings = {"max_iter": 5, "n_folds": 2, "random_state": 0, "n_components": 4}
    return FederatedTransferRegressor(parties, solver=solver, **settings | parameters)


def projector(parties):
    return FederatedProjector(parties, max_iter=5, n_components=4, random_state=0)


@pytest.fixture
def made(rows):
    """Rows of a bank (columns 0 and 1) and a shop (columns 2 and 3)."""
    return rows(120)


@pytest.fixture
def frame(made):
    """The same rows with names."""
    return pd.DataFrame(made.X, columns=["age", "income", "basket", "visits"])


BY_NAME = {"bank": ["age", "income"], "shop": ["basket", "visits"]}


class Fits:
    """A fitted estimator, to check that whatever fails later changes nothing."""

    def __init__(self, fitted, X):
        self.fitted, self.X = fitted, X
        self.before = {k: v for k, v in vars(fitted).items() if k.endswith("_")}
        self.said = fitted.predict_proba(X)

    def refuses(self, error, match, X, y, **parameters):
        """Check that a refit raises and that the earlier fit goes on serving."""
        old = self.fitted.get_params(deep=False)
        with pytest.raises(error, match=match) as raised:
            self.fitted.set_params(**parameters).fit(X, y)
        after = {k: v for k, v in vars(self.fitted).items() if k.endswith("_")}
        assert after.keys() == self.before.keys()
        assert all(after[k] is self.before[k] for k in after)
        self.fitted.set_params(**{k: old[k] for k in parameters})
        assert_array_equal(self.fitted.predict_proba(self.X), self.said)
        return raised.value


@pytest.fixture
def numbers(made):
    """An estimator that was fitted to an array."""
    return Fits(classifier(made.parties).fit(made.X, made.y), made.X)


@pytest.fixture
def named(made, frame):
    """An estimator that was fitted to a frame."""
    return Fits(classifier(BY_NAME).fit(frame, made.y), frame)


# Which columns belong to whom


def test_an_unknown_name_of_a_column_is_refused(named, made, frame):
    parties = {"bank": ["age", "income"], "shop": ["basket", "colour"]}
    named.refuses(ValueError, r"party 'shop'.*colour", frame, made.y, parties=parties)


def test_an_unknown_name_is_not_blamed_on_a_step_that_dropped_names(made, frame):
    with pytest.raises(ValueError, match="colour") as raised:
        classifier({"bank": ["age"], "shop": ["colour"]}).fit(frame, made.y)
    assert "no column names" not in str(raised.value)


@pytest.mark.parametrize("columns", [[2, 4], [-5], slice(7, 9), [False] * 3 + [True] * 2])
def test_a_position_outside_x_is_refused(numbers, made, columns):
    parties = {"bank": [0, 1], "shop": columns}
    numbers.refuses(ValueError, "party 'shop'", made.X, made.y, parties=parties)


@pytest.mark.parametrize("columns", [[], slice(2, 2), [False] * 4, lambda X: []])
def test_columns_that_select_nothing_are_refused(numbers, made, columns):
    parties = {"bank": [0, 1], "shop": columns}
    numbers.refuses(PartyError, "'shop'.*select none of X", made.X, made.y, parties=parties)


def test_a_column_that_a_party_names_twice_is_refused(named, numbers, made, frame):
    twice = {"bank": ["age", "income", "age"], "shop": ["basket"]}
    named.refuses(PartyError, r"'bank'.*\['age'\] more than once", frame, made.y, parties=twice)
    twice = {"bank": [0], "shop": [2, 3, -1]}  # -1 is column 3
    numbers.refuses(PartyError, r"'shop'.*\[3\] more than once", made.X, made.y, parties=twice)


def test_a_column_of_two_parties_is_refused(named, numbers, made, frame):
    both = {"bank": ["age", "income"], "post": ["visits"], "shop": ["income", "basket"]}
    match = r"\['bank', 'shop'\].*\['income'\].*belongs to one party"
    named.refuses(ValueError, match, frame, made.y, parties=both)
    both = {"bank": slice(0, 3), "shop": slice(2, 4)}
    numbers.refuses(ValueError, r"\['bank', 'shop'\].*\[2\]", made.X, made.y, parties=both)


def test_a_name_that_stands_twice_in_x_is_refused(made, frame):
    frame.columns = ["age", "income", "basket", "basket"]
    with pytest.raises(ValueError, match="basket"):
        classifier({"bank": ["age", "income"], "shop": ["basket"]}).fit(frame, made.y)


# Parties


def test_two_parties_of_one_name_are_refused(numbers, made):
    parties = [("bank", Encoder(), [0, 1]), ("bank", Encoder(), [2, 3])]
    match = r"same name: \['bank'\]"
    numbers.refuses(ValueError, match, made.X, made.y, parties=parties)


@pytest.mark.parametrize("name", ["my__bank", ""])
def test_a_name_that_parameters_could_not_tell_apart_is_refused(numbers, made, name):
    parties = [(name, Encoder(), [0, 1]), ("shop", Encoder(), [2, 3])]
    match = f"party name '{name}' must not be empty or contain '__'"
    numbers.refuses(ValueError, match, made.X, made.y, parties=parties)


def test_a_name_that_is_a_parameter_of_the_estimator_is_refused(numbers, made):
    numbers.refuses(
        ValueError, "'lr' is a parameter", made.X, made.y, parties={"lr": [0, 1], "shop": [2, 3]}
    )


@pytest.mark.parametrize("parties", [[], (), {}])
def test_no_parties_at_all_are_refused(numbers, made, parties):
    numbers.refuses(
        ValueError, "name at least one party, or pass None", made.X, made.y, parties=parties
    )


@pytest.mark.parametrize("given", [StandardScaler(), "passthrough", None, [2, 3]])
def test_what_is_no_encoder_is_refused_with_the_way_to_make_it_one(numbers, made, given):
    parties = [("bank", Encoder(), [0, 1]), ("shop", given, [2, 3])]
    match = rf"party 'shop'.*{type(given).__name__}.*Encoder\(preprocessor=\.\.\.\)"
    numbers.refuses(TypeError, match, made.X, made.y, parties=parties)


def test_an_encoder_class_is_not_an_encoder(made):
    with pytest.raises(TypeError, match="party 'bank': expected an Encoder"):
        classifier([("bank", Encoder, [0, 1])]).fit(made.X, made.y)


@pytest.mark.parametrize(
    "spec",
    [("shop", [2, 3]), "shop", ["shop", Encoder(), [2, 3]], (1, Encoder(), [2, 3]), None],
    ids=str,
)
def test_what_is_no_party_is_refused_with_the_grammar(numbers, made, spec):
    parties = [("bank", Encoder(), [0, 1]), spec]
    match = r"a party is a tuple \(name, Encoder, columns\), got "
    with pytest.raises(ValueError, match=match):
        classifier(parties).fit(made.X, made.y)


def test_parties_of_another_kind_are_refused(made):
    with pytest.raises(ValueError, match="'parties' parameter"):
        classifier("bank").fit(made.X, made.y)


def test_a_parameter_out_of_range_is_refused_by_name(numbers, made):
    for name, value in [
        ("solver", "sgd"),
        ("max_iter", 0),
        ("n_folds", 1),
        ("local_updates", 0),
        ("batch_size", "all"),
        ("lr", 0.0),
        ("n_components", 0),
        ("federation", "shop.example:9443"),
    ]:
        numbers.refuses(ValueError, f"'{name}' parameter", made.X, made.y, **{name: value})


# Which rows parties know


@pytest.mark.parametrize("make", [classifier, projector])
def test_a_party_without_rows_is_refused(made, make):
    made.X[:, 2:] = NAN
    with pytest.raises(PartyError, match="party 'shop': knows no row.*leave the party out"):
        make(made.parties).fit(made.X, made.y)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_party_without_rows_is_refused_by_each_solver_and_changes_nothing(made, solver):
    fits = Fits(classifier(made.parties, solver).fit(made.X, made.y), made.X)
    empty = made.X.copy()
    empty[:, 2:] = NAN
    error = fits.refuses(PartyError, "'shop': knows no row", empty, made.y)
    assert error.party == "shop"


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_active_party_without_rows_is_refused(made, solver):
    made.X[:, :2] = NAN
    with pytest.raises(ValueError, match="active party 'bank' knows 0 labelled row.*at least 2"):
        classifier(made.parties, solver).fit(made.X, made.y)


def test_an_active_party_without_labelled_rows_is_refused(made):
    y = np.where(made.known[:, 0], -1, made.y)
    with pytest.raises(ValueError, match="'bank' knows 0 labelled row.*where y has a label"):
        classifier(made.parties, unlabeled=-1).fit(made.X, y)


def test_one_row_is_refused(made):
    row = np.flatnonzero(made.known.all(axis=1))[:1]
    with pytest.raises(ValueError, match=r"at least 2 classes.*got 1 class"):
        classifier(made.parties).fit(made.X[row], made.y[row])
    with pytest.raises(ValueError, match=r"'bank' knows 1 labelled row.*at least 2 are needed"):
        regressor(made.parties).fit(made.X[row], made.y[row])


@pytest.mark.parametrize("solver", SOLVERS)
def test_two_rows_are_enough(made, solver):
    shared = made.known.all(axis=1)
    two = [np.flatnonzero(shared & (made.y == label))[0] for label in (0, 1)]
    fitted = classifier(made.parties, solver).fit(made.X[two], made.y[two])
    assert np.isfinite(fitted.predict_proba(made.X)).all()
    assert np.isfinite(
        regressor(made.parties, solver).fit(made.X[two], made.y[two]).predict(made.X)
    ).all()


def test_no_rows_are_refused(numbers, made):
    numbers.refuses(ValueError, r"0 sample\(s\)", made.X[:0], made.y[:0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_party_of_one_row_is_served(made, solver):
    shared = np.flatnonzero(made.known.all(axis=1))
    made.X[np.delete(np.arange(120), shared[0]), 2:] = NAN
    fitted = classifier(made.parties, solver).fit(made.X, made.y)
    assert np.isfinite(fitted.predict_proba(made.X[made.known[:, 0]])).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_parties_that_share_no_row_are_refused(rows, made, solver):
    fits = Fits(classifier(made.parties, solver).fit(made.X, made.y), made.X)
    apart = rows(120, overlap=0.0)
    match = (
        r"party 'shop': shares no row with the active party 'bank': it knows 60 of the 120 rows"
        r".*check how missing values mark"
    )
    fits.refuses(PartyError, match, apart.X, apart.y)


@pytest.mark.parametrize("solver", ["moments", "auto"])
def test_a_party_without_labelled_rows_is_refused(made, solver):
    y = np.where(made.known[:, 1], -1, made.y)
    match = r"party 'shop': knows \d+ rows but none of them is labelled.*leave the party out"
    with pytest.raises(PartyError, match=match):
        classifier(made.parties, solver, unlabeled=-1).fit(made.X, y)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_overlap_without_labels_serves_both_parties_alone(made, solver):
    y = np.where(made.known.all(axis=1), -1, made.y)
    fitted = classifier(made.parties, solver, unlabeled=-1).fit(made.X, y)
    assert np.isfinite(fitted.predict_proba(made.X)).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_constant_columns_and_parties_are_of_no_use_and_no_harm(made, solver):
    made.X[made.known[:, 1], 2:] = 7.0
    made.X[made.known[:, 0], 1] = 0.0
    fitted = classifier(made.parties, solver).fit(made.X, made.y)
    assert np.isfinite(fitted.predict_proba(made.X)).all()
    assert np.isfinite(fitted.transform(made.X)).all()
    both, own = made.known.all(axis=1), made.X.copy()
    own[:, 2:] = NAN
    assert_allclose(fitted.predict_proba(made.X[both]), fitted.predict_proba(own[both]), atol=0.1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_active_party_of_constants_is_served(made, solver):
    made.X[made.known[:, 0], :2] = 1.0
    fitted = classifier(made.parties, solver).fit(made.X, made.y)
    assert np.isfinite(fitted.predict_proba(made.X)).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_column_that_is_missing_everywhere_is_of_no_harm(made, solver):
    made.X[:, 3] = NAN
    made.X[:, 1] = NAN
    fitted = classifier(made.parties, solver).fit(made.X, made.y)
    assert np.isfinite(fitted.predict_proba(made.X)).all()
