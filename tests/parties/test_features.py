"""A party prepares its own rows by itself, and leaves what it was given as it was."""

import copy

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

from fedtl import Encoder
from fedtl.exceptions import PartyError
from fedtl.parties import LocalFeatures, Table

N = 40
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=N)
WORDS = RNG.choice(["red", "green", "blue"], N).astype(object)


def known(block):
    return LocalFeatures("shop", Encoder()).known(Table(block), np.arange(len(block))).tolist()


def encoded(features, block, ids):
    columns, rows = features.read(Table(block), np.asarray(ids, dtype=np.int64))
    return np.vstack([part for _, part in features.chunks(columns, np.flatnonzero(rows))])


def object_array():
    block = np.empty((4, 3), dtype=object)
    block[0] = [1.0, "a", None]
    block[1] = [np.nan, None, pd.NA]
    block[2] = [None, "", np.float64("nan")]
    block[3] = [pd.NaT, None, False]
    return block


def pandas_frame():
    return pd.DataFrame(
        {
            "float": [1.5, np.nan, np.nan, np.nan],
            "category": pd.Categorical(["x", None, None, None]),
            "string": pd.array(["s", None, "", None], dtype="string"),
            "text": ["s", None, None, None],
            "Int64": pd.array([7, None, None, None], dtype="Int64"),
            "boolean": pd.array([True, None, None, False], dtype="boolean"),
            "date": pd.to_datetime(["2020-01-01", None, None, None]),
            "object": np.array([1, None, np.nan, None], dtype=object),
        },
        index=[9, 8, 7, 9],
    )


def polars_frame():
    return pl.DataFrame(
        {
            "float": [1.5, None, float("nan"), None],
            "int": [1, None, None, None],
            "flag": [True, None, None, False],
            "text": ["s", None, "", None],
            "category": pl.Series(["x", None, None, None], dtype=pl.Categorical),
            "date": pl.Series([18262, None, None, None], dtype=pl.Date),
        }
    )


@pytest.mark.parametrize("make", [object_array, pandas_frame, polars_frame])
def test_a_row_is_known_unless_every_value_is_missing(make):
    assert known(make()) == [True, False, True, True]


@pytest.mark.parametrize("make", [pandas_frame, polars_frame])
def test_each_kind_of_column_alone_tells_missing_from_present(make):
    frame = make()
    for name in frame.columns:
        one = frame[[name]]
        expected = [True, False, name in {"string"} or (name == "text" and make is polars_frame)]
        assert known(one) == [*expected, name in {"boolean", "flag"}], name


def test_in_an_array_of_numbers_only_nan_is_missing():
    assert known(np.array([[0.0, np.nan], [np.nan, np.nan], [-1.0, 2.0]])) == [True, False, True]
    assert known(np.array([[0], [1]])) == [True, True]
    assert known(np.array([[False], [True]])) == [True, True]


def test_an_id_beside_the_table_is_as_unknown_as_an_empty_row():
    features = LocalFeatures("shop", Encoder())
    block = np.array([[1.0], [np.nan], [2.0]])
    ids = np.array([2, 1, 7, -1, 0])
    assert features.known(Table(block), ids).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize(
    "block_of",
    [
        lambda v: np.array([[1.0, v], [v, 2.0], [3.0, 4.0]]),
        lambda v: np.array([["a", v], ["b", v], ["c", 4.0]], dtype=object),
        lambda v: pd.DataFrame({"a": ["x", "y", "z"], "b": [v, v, 1.0]}),
        lambda v: pl.DataFrame({"a": ["x", "y", "z"], "b": [v, v, 1.0]}),
    ],
    ids=["numpy", "object", "pandas", "polars"],
)
def test_infinity_is_refused_with_the_name_of_the_party_and_the_number_of_rows(block_of, value):
    with pytest.raises(PartyError, match=r"party 'shop': 2 rows hold infinity; replace"):
        LocalFeatures("shop", Encoder()).fit(block_of(value), 8, 0)
    with pytest.raises(PartyError, match=r"party 'shop'"):
        known(block_of(value))


def test_a_party_that_knows_no_row_is_told_so():
    with pytest.raises(PartyError, match="party 'shop': knows no row"):
        LocalFeatures("shop", Encoder()).fit(np.full((3, 2), np.nan), 8, 0)


class Recorder(TransformerMixin, BaseEstimator):
    """Keeps what it was fitted on and asked to transform."""

    def fit(self, X, y=None):
        assert y is None
        self.fitted_on_ = X.copy()
        self.transformed_ = []
        return self

    def transform(self, X):
        self.transformed_.append(X.copy())
        return X


def test_a_preprocessor_is_cloned_and_sees_known_rows_only():
    block = np.arange(12.0).reshape(6, 2)
    block[[1, 4]] = np.nan
    block[2, 0] = np.nan
    recorder = Recorder()
    features = LocalFeatures("shop", Encoder(preprocessor=recorder)).fit(block, 4, 0)
    own = block[[0, 2, 3, 5]]
    np.testing.assert_array_equal(features.preprocessor_.fitted_on_, own)
    assert not hasattr(recorder, "fitted_on_")
    encoded(features, block, [4, 3, 99, 2])
    np.testing.assert_array_equal(features.preprocessor_.transformed_[-1], block[[3, 2]])


def test_an_imputer_at_the_party_does_not_make_rows_known():
    block = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, 8.0]])
    features = LocalFeatures("shop", Encoder(preprocessor=SimpleImputer())).fit(block, 4, 0)
    columns, rows = features.read(Table(block), np.arange(3))
    assert rows.tolist() == [True, False, True]
    np.testing.assert_array_equal(columns.numbers[[0, 2]], [[1.0, 8.0], [3.0, 8.0]])
    assert np.isnan(columns.numbers[1]).all()


@pytest.mark.parametrize(
    "preprocessor",
    [
        OneHotEncoder(),
        OneHotEncoder(sparse_output=False),
        OneHotEncoder(sparse_output=False).set_output(transform="pandas"),
        OneHotEncoder(sparse_output=False).set_output(transform="polars"),
    ],
    ids=["sparse", "dense", "pandas", "polars"],
)
def test_whatever_container_a_preprocessor_puts_out_the_encoding_is_the_same(preprocessor):
    block = pd.DataFrame({"w": WORDS, "v": WORDS[::-1]})
    features = LocalFeatures("shop", Encoder(preprocessor=preprocessor)).fit(block, 4, 0)
    dense = OneHotEncoder(sparse_output=False)
    expected = LocalFeatures("shop", Encoder(preprocessor=dense)).fit(block, 4, 0)
    ids = [3, 1, 2]
    np.testing.assert_array_equal(encoded(features, block, ids), encoded(expected, block, ids))


def test_a_preprocessor_that_fails_is_reported_under_the_name_of_the_party():
    block = np.array([["a"], ["b"]], dtype=object)
    with pytest.raises(PartyError, match=r"party 'shop': its preprocessor failed .*could not") as e:
        LocalFeatures("shop", Encoder(preprocessor=StandardScaler())).fit(block, 4, 0)
    assert isinstance(e.value.__cause__, ValueError)


class Gives(TransformerMixin, BaseEstimator):
    """Puts out one value everywhere, in as many columns as asked for."""

    def __init__(self, value=0.0, columns=1):
        self.value = value
        self.columns = columns

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.full((len(X), self.columns), self.value)


def test_a_preprocessor_that_puts_out_nothing_usable_is_refused():
    block = np.ones((3, 1))
    with pytest.raises(PartyError, match="party 'shop': its preprocessor put out infinity"):
        LocalFeatures("shop", Encoder(preprocessor=Gives(np.inf))).fit(block, 4, 0)
    with pytest.raises(PartyError, match="party 'shop': has no columns left"):
        LocalFeatures("shop", Encoder(preprocessor=Gives(columns=0))).fit(block, 4, 0)


def frames():
    words = WORDS.copy()
    words[5] = None
    mixed = np.empty((N, 2), dtype=object)
    mixed[:, 0], mixed[:, 1] = NUMBERS, words
    return {
        "object": mixed,
        "pandas": pd.DataFrame({"a": NUMBERS, "b": words}),
        "category": pd.DataFrame({"a": NUMBERS, "b": pd.Categorical(words)}),
        "polars": pl.DataFrame({"a": NUMBERS, "b": words.tolist()}),
    }


@pytest.mark.parametrize("kind", ["pandas", "category", "polars"])
def test_one_table_is_encoded_alike_in_every_container(kind):
    blocks, ids = frames(), [0, 7, 3, 6]
    features = LocalFeatures("shop", Encoder()).fit(blocks[kind], 8, 0)
    reference = LocalFeatures("shop", Encoder()).fit(blocks["object"], 8, 0)
    np.testing.assert_allclose(
        encoded(features, blocks[kind], ids), encoded(reference, blocks["object"], ids)
    )


@pytest.mark.parametrize("kind", ["object", "pandas", "category", "polars"])
def test_a_row_is_encoded_alike_alone_and_among_others(kind):
    block = frames()[kind]
    features = LocalFeatures("shop", Encoder()).fit(block, 8, 0)
    together = encoded(features, block, [4, 7])
    np.testing.assert_allclose(encoded(features, block, [7]), together[1:])


@pytest.mark.parametrize("kind", ["object", "pandas", "category", "polars"])
def test_a_row_whose_text_is_missing_is_encoded_alike_alone_and_among_others(kind):
    block = frames()[kind]
    features = LocalFeatures("shop", Encoder()).fit(block, 8, 0)
    together = encoded(features, block, [4, 5])
    np.testing.assert_allclose(encoded(features, block, [5]), together[1:])


def test_unknown_rows_are_all_missing_in_what_is_read():
    features = LocalFeatures("shop", Encoder()).fit(frames()["pandas"], 8, 0)
    columns, rows = features.read(Table(frames()["pandas"]), np.array([99, 0, -1]))
    assert rows.tolist() == [False, True, False]
    assert columns.known().tolist() == rows.tolist()
    nothing, rows = features.read(Table(frames()["pandas"]), np.array([99, 98]))
    assert len(nothing) == 2
    assert not rows.any()
    assert features.latent_input(nothing, np.flatnonzero(rows)).shape[0] == 0


def test_encoding_piece_by_piece_changes_nothing(monkeypatch):
    block = frames()["pandas"]
    features = LocalFeatures("shop", Encoder()).fit(block, 8, 0)
    rows = RNG.permutation(N)
    at_once = encoded(features, block, rows)
    columns, _ = features.read(Table(block), np.arange(N))
    monkeypatch.setattr("fedtl.parties._features._CHUNK", 7)
    pieces = list(features.chunks(columns, rows))
    assert [piece.stop - piece.start for piece, _ in pieces] == [7] * 5 + [5]
    np.testing.assert_array_equal(np.vstack([part for _, part in pieces]), at_once)


def test_an_encoding_is_never_wider_than_the_bound():
    block = RNG.normal(size=(300, 60))
    features = LocalFeatures("shop", Encoder()).fit(block, 8, 0)
    assert features.encoding_.width == 256
    assert encoded(features, block, [0, 1]).shape == (2, 256)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


BLOCK = RNG.normal(size=(N, 3))


def test_a_module_puts_out_what_is_encoded_without_quantiles():
    module = network().eval()
    features = LocalFeatures("shop", Encoder(module, frozen=True)).fit(BLOCK, 8, 0)
    with torch.no_grad():
        out = module(torch.as_tensor(BLOCK, dtype=torch.float32)).double().numpy()
    expected = (out - out.mean(0)) / (out.std(0) + 1e-2)
    np.testing.assert_allclose(encoded(features, BLOCK, np.arange(N)), expected, rtol=1e-5)


def test_missing_values_reach_a_module_as_zero():
    module = nn.Linear(3, 2)
    block = BLOCK.copy()
    block[0, 1] = np.nan
    filled = np.nan_to_num(block)
    features = LocalFeatures("shop", Encoder(module, frozen=True)).fit(block, 8, 0)
    np.testing.assert_array_equal(encoded(features, block, [0]), encoded(features, filled, [0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_is_given_its_own_precision(dtype):
    LocalFeatures("shop", Encoder(nn.Linear(3, 2).to(dtype), frozen=True)).fit(BLOCK, 8, 0)


def test_a_module_that_cannot_take_the_columns_is_reported_under_the_name_of_the_party():
    with pytest.raises(PartyError, match=r"party 'shop': its encoder module .*shape \(40, 3\)"):
        LocalFeatures("shop", Encoder(nn.Linear(5, 2))).fit(BLOCK, 8, 0)


class Divides(nn.Module):
    def forward(self, x):
        return x / 0.0


def test_a_module_that_puts_out_infinity_is_reported_under_the_name_of_the_party():
    with pytest.raises(PartyError, match="party 'shop': its encoder module put out NaN"):
        LocalFeatures("shop", Encoder(Divides())).fit(BLOCK, 8, 0)


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [
        (True, []),
        (False, ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]),
        (["0.*", "1.*"], ["3.weight", "3.bias"]),
        (("*.bias",), ["0.weight", "1.weight", "3.weight"]),
        (["*"], []),
        ([], ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]),
    ],
)
def test_patterns_say_which_parameters_are_frozen_in_the_copy_and_none_in_the_original(
    frozen, trained
):
    module = network().train()
    module[0].bias.requires_grad_(False)
    state, grads = (
        copy.deepcopy(module.state_dict()),
        [p.requires_grad for p in module.parameters()],
    )
    features = LocalFeatures("shop", Encoder(module, frozen=frozen)).fit(BLOCK, 8, 0)
    left = [name for name, p in features.module_.named_parameters() if p.requires_grad]
    assert left == trained
    assert features.trainable_ == bool(trained)
    assert (features.trunk is None) == (not trained)
    assert module.training
    assert [p.requires_grad for p in module.parameters()] == grads
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_pattern_that_freezes_nothing_is_refused_beside_the_names_there_are():
    with pytest.raises(ValueError, match=r"frozen='layer\.\*' matches no parameter.*0\.weight"):
        LocalFeatures("shop", Encoder(network(), frozen=["0.*", "layer.*"])).fit(BLOCK, 8, 0)


class Small(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)


def test_a_class_is_called_with_the_seed_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    weights = [
        LocalFeatures("shop", Encoder(Small)).fit(BLOCK, 8, seed).module_.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.rand(1), expected)


def test_of_a_fitted_skorch_net_the_network_is_taken():
    skorch = pytest.importorskip("skorch")
    net = skorch.NeuralNetRegressor(Small, verbose=0, max_epochs=1).fit(
        BLOCK.astype(np.float32), np.zeros((N, 2), np.float32)
    )
    features = LocalFeatures("shop", Encoder(net, frozen=True)).fit(BLOCK, 8, 0)
    assert features.module_ is not net.module_
    assert torch.equal(features.module_.weight, net.module_.weight)


def test_a_fit_is_the_same_for_the_same_seed():
    block = RNG.normal(size=(N, 3))
    one, two = (LocalFeatures("shop", Encoder()).fit(block, 8, 3) for _ in range(2))
    np.testing.assert_array_equal(encoded(one, block, [1, 2]), encoded(two, block, [1, 2]))
