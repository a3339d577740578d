"""Pipelines of federated steps with remote parties: the model of the simulation."""

import pickle
import threading

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import set_config
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer
from sklearn.feature_selection import SelectKBest
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import Bunch

from fedtl import (
    FederatedFineTuner,
    FederatedGaussianNB,
    FederatedLogisticRegression,
    FederatedPCA,
    FederatedRidge,
    FederatedSimpleImputer,
    FederatedStandardScaler,
)
from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.parties import Policy, RowTable
from fedtl.protocols.row_session import Open

X, Y = load_breast_cancer(return_X_y=True, as_frame=True)
X = X.iloc[:, :6]  # of scales from 0.1 to 1000
RNG = np.random.default_rng(0)
PARTY = RNG.choice(["own", "shop", "post"], len(X))
OWN = PARTY == "own"
GAPS = X.mask(RNG.random(X.shape) < 0.05)
GAPS.loc[PARTY == "post", "mean area"] = np.nan  # post does not record it
NET = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
TUNER = FederatedFineTuner(NET, n_rounds=2, privacy="none", random_state=0)


def hospitals(rows, **settings):
    """A world of the rows that are not the caller's; post's table lacks what it does not record."""
    blocks = {}
    for name in ("shop", "post"):
        frame = rows[name == PARTY].dropna(axis=1, how="all").assign(ill=Y)
        blocks[name] = RowTable(name, frame, target="ill")
    return Bunch(blocks=blocks, **settings)


@pytest.fixture
def routing():
    """Simulated steps ask for the parties of rows; remote ones have no need to."""
    set_config(enable_metadata_routing=True)
    yield
    set_config(enable_metadata_routing=False)


def simulated(*steps):
    made = [clone(step).set_fit_request(sample_party=True) for step in steps]
    if hasattr(made[-1], "set_transform_request"):  # a tuner's
        made[-1].set_transform_request(sample_party=False).set_score_request(sample_weight=False)
    return make_pipeline(*made).set_output(transform="pandas")


def remote(federation, *steps, privacy="none"):
    """The same, by one argument more."""
    made = [clone(step).set_params(federation=federation) for step in steps]
    for step in made:
        if "privacy" in step.get_params():
            step.set_params(privacy=privacy)
    return make_pipeline(*made).set_output(transform="pandas")


def predicted(model, rows):
    method = "predict_proba" if hasattr(model, "predict_proba") else "predict"
    return getattr(model, method)(rows)


CHAINS = {
    "scaled": (X, [FederatedStandardScaler(), FederatedLogisticRegression()]),
    "not centred": (X, [FederatedStandardScaler(with_mean=False), FederatedRidge()]),
    "not divided": (X, [FederatedStandardScaler(with_std=False), FederatedRidge()]),
    "filled": (GAPS, [FederatedSimpleImputer(), FederatedLogisticRegression()]),
    "filled, scaled": (
        GAPS,
        [FederatedSimpleImputer(), FederatedStandardScaler(), FederatedLogisticRegression()],
    ),
    "scaled, filled": (
        GAPS,
        [FederatedStandardScaler(), FederatedSimpleImputer(), FederatedLogisticRegression()],
    ),
    "indicators": (
        GAPS,
        [
            FederatedSimpleImputer(add_indicator=True),
            FederatedStandardScaler(),
            FederatedSimpleImputer(add_indicator=True),
            FederatedRidge(),
        ],
    ),
    "missing values stay": (
        GAPS,
        [
            FederatedStandardScaler(),
            FederatedStandardScaler(with_std=False),
            FederatedSimpleImputer(),
            FederatedGaussianNB(),
        ],
    ),
    "tuned": (GAPS, [FederatedSimpleImputer(), FederatedStandardScaler(), TUNER]),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_remote_parties_give_the_model_of_simulated_ones(world, routing, chain):
    rows, steps = CHAINS[chain]
    federation = world(hospitals(rows), trainer=TUNER).connect()
    there = remote(federation, *steps).fit(rows[OWN], Y[OWN])
    here = simulated(*steps).fit(rows, Y, sample_party=PARTY)
    np.testing.assert_array_equal(predicted(there, rows), predicted(here, rows))
    assert there[-1].parties_ == here[-1].parties_ == ["own", "post", "shop"]


@pytest.mark.parametrize("whiten", [False, True])
def test_principal_components_are_a_step_as_others_are(world, routing, whiten):
    # Not to the bit: products of matrices are added up in an order that depends on their sizes.
    federation = world(hospitals(GAPS)).connect()
    steps = [
        FederatedSimpleImputer(),
        FederatedStandardScaler(),
        FederatedPCA(3, whiten=whiten),
        FederatedStandardScaler(),
        FederatedLogisticRegression(),
    ]
    there = remote(federation, *steps).fit(GAPS[OWN], Y[OWN])
    here = simulated(*steps).fit(GAPS, Y, sample_party=PARTY)
    np.testing.assert_allclose(predicted(there, GAPS), predicted(here, GAPS), rtol=1e-12)


def test_under_secure_aggregation_it_is_the_same_model_to_rounding(world, routing):
    federation = world(hospitals(GAPS)).connect()
    steps = [FederatedSimpleImputer(), FederatedStandardScaler(), FederatedLogisticRegression()]
    there = remote(federation, *steps, privacy="auto").fit(GAPS[OWN], Y[OWN])
    here = simulated(*steps).fit(GAPS, Y, sample_party=PARTY)
    np.testing.assert_allclose(predicted(there, GAPS), predicted(here, GAPS), atol=1e-9)
    for step in (there[0], there[1], there[2]):
        kinds = {row["kind"] for row in step.ledger_.rows()}
        assert "secure_sums.masked/1" in kinds
        assert not any(kind.startswith("statistics.") for kind in kinds)


def test_pipelines_are_cross_validated_and_searched_with_several_fits_at_a_time(world):
    there = world(hospitals(GAPS))
    federation = there.connect()
    steps = [FederatedSimpleImputer(), FederatedStandardScaler(), FederatedLogisticRegression()]
    model = remote(federation, *steps)
    alone = cross_val_score(model, GAPS[OWN], Y[OWN], cv=3)
    assert alone.mean() > 0.85
    grid = {"federatedlogisticregression__C": [0.01, 1.0]}
    search = GridSearchCV(model, grid, cv=3, n_jobs=2)
    with joblib.parallel_config("threading"):
        search.fit(GAPS[OWN], Y[OWN])
    np.testing.assert_array_equal(
        [search.cv_results_[f"split{k}_test_score"][1] for k in range(3)], alone
    )
    federation.close()
    assert there.n_sessions == {"shop": 0, "post": 0}


def test_fits_at_the_same_time_with_other_numbers_do_not_meet(world):
    federation = world(hospitals(X)).connect()
    parts = [X[OWN].iloc[k::4] for k in range(4)]
    steps = [FederatedStandardScaler(), FederatedRidge()]
    alone = [remote(federation, *steps).fit(p, Y[p.index])[-1].coef_ for p in parts]
    together = [None] * 4

    def fit(k):
        for _ in range(3):
            together[k] = remote(federation, *steps).fit(parts[k], Y[parts[k].index])[-1].coef_

    threads = [threading.Thread(target=fit, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(together, alone)
    assert len(np.unique(alone, axis=0)) == 4


def test_what_comes_out_keeps_rows_apart_and_says_what_was_done(world):
    federation = world(hospitals(GAPS)).connect()
    scaler, imputer = FederatedStandardScaler(), FederatedSimpleImputer(add_indicator=True)
    pipeline = remote(federation, scaler, imputer)
    out = pipeline.fit_transform(GAPS[OWN])
    assert list(out.index) == list(GAPS[OWN].index)
    assert list(out.columns[[0, -1]]) == [
        "filled scaled mean radius",
        "missingindicator_filled scaled mean compactness",
    ]
    here = [clone(step) for step in (scaler, imputer)]
    assert not make_pipeline(*here).set_output(transform="pandas").fit_transform(GAPS).attrs


def test_transformed_rows_can_be_selected_and_written(world, tmp_path):
    federation = world(hospitals(X)).connect()
    scaler = FederatedStandardScaler(federation=federation, privacy="none")
    scaled = scaler.set_output(transform="pandas").fit_transform(X[OWN])
    model = FederatedRidge(federation=federation, privacy="none")
    scores = cross_val_score(model, scaled, Y[OWN], cv=3)
    assert scores.min() > 0.3
    coef = clone(model).fit(scaled, Y[OWN]).coef_
    both = pd.concat([scaled.iloc[:40], scaled.iloc[40:]])
    np.testing.assert_allclose(clone(model).fit(both, Y[OWN]).coef_, coef)
    sent = pickle.loads(pickle.dumps(scaled))  # as to a worker
    np.testing.assert_array_equal(clone(model).fit(sent, Y[OWN]).coef_, coef)
    # No statistic is written to a file with the rows.
    scaled.to_parquet(tmp_path / "scaled.parquet")
    read = pd.read_parquet(tmp_path / "scaled.parquet")
    with pytest.raises(PartyError, match="lacks 6 of the 6"):
        clone(model).fit(read, Y[OWN])


def test_the_party_of_a_row_may_be_a_column_that_the_first_step_takes_out(world):
    federation = world(hospitals(X)).connect()
    steps = [FederatedStandardScaler(party="where"), FederatedRidge()]
    rows = X[OWN].assign(where="own")
    for party in ("where", 6):
        model = remote(federation, *steps).set_params(federatedstandardscaler__party=party)
        plain = remote(federation, FederatedStandardScaler(), FederatedRidge())
        coef = plain.fit(X[OWN], Y[OWN])[-1].coef_
        np.testing.assert_array_equal(model.fit(rows, Y[OWN])[-1].coef_, coef)
    # After it, X has no such column.
    model.set_params(federatedridge__party=0)
    with pytest.raises(ValueError, match="other columns than the federated transformers made"):
        model.fit(rows, Y[OWN])


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (StandardScaler(), "lacks 6 of the 6 columns.*no other transformer in between"),
        (FunctionTransformer(np.abs), "other values than"),
        (FunctionTransformer(lambda X: X.astype(np.float32)), "other values than"),
        (FunctionTransformer(lambda X: X.iloc[:, ::-1]), "other columns than"),
        (FunctionTransformer(lambda X: X.rename(columns=str.upper)), "other columns than"),
        (FunctionTransformer(lambda X: X.assign(more=0.0)), "other columns than"),
        (FunctionTransformer(lambda X: X.to_numpy()), r"set_output\(transform='pandas'\)"),
        (SelectKBest(k=3), "other columns than|lacks 3 of the 3 columns"),
        (FederatedStandardScaler(), "lacks 6 of the 6 columns"),
        (
            ColumnTransformer(
                [("a", "passthrough", [0, 1]), ("b", StandardScaler(), [2, 3, 4, 5])]
            ),
            "lacks 6 of the 6 columns",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:When `set_output` is configured:UserWarning")
def test_what_remote_parties_cannot_do_is_refused(world, between, said):
    federation = world(hospitals(X)).connect()
    last = FederatedRidge(federation=federation, privacy="none")
    scaler = FederatedStandardScaler(federation=federation, privacy="none")
    model = make_pipeline(scaler, between, last).set_output(transform="pandas")
    with pytest.raises(ValueError, match=said):
        model.fit(X[OWN], Y[OWN])
    third = FederatedSimpleImputer(federation=federation, privacy="none")
    with pytest.raises(ValueError, match=said):
        make_pipeline(scaler, between, third).set_output(transform="pandas").fit(X[OWN], Y[OWN])


@pytest.mark.parametrize("output", ["default", "polars"])
def test_output_that_cannot_say_what_was_done_is_refused(world, output):
    federation = world(hospitals(X)).connect()
    model = remote(federation, FederatedStandardScaler(), FederatedRidge())
    said = {"default": "no names of columns.*set_output", "polars": "lacks 6 of the 6"}[output]
    with pytest.raises(ValueError, match=said):
        model.set_output(transform=output).fit(X[OWN], Y[OWN])


def test_scaling_by_party_is_refused(world):
    federation = world(hospitals(X)).connect()
    scaler = FederatedStandardScaler(by_party=True, party="where", federation=federation)
    for privacy in ("none", "auto"):
        with pytest.raises(ValueError, match="rows of remote parties are not here"):
            scaler.set_params(privacy=privacy).fit(X[OWN].assign(where="own"))


def test_a_column_that_a_party_lacks_is_filled_only_if_a_step_fills(world):
    federation = world(hospitals(GAPS)).connect()
    nb = FederatedGaussianNB(federation=federation, privacy="none")
    scaler = FederatedStandardScaler(federation=federation, privacy="none")
    scaled = scaler.set_output(transform="pandas").fit_transform(GAPS[OWN].fillna(0.0))
    with pytest.raises(PartyError, match="party 'shop': has no value in|'post'.*lacks 1 of the 6"):
        nb.fit(scaled, Y[OWN])
    filled = FederatedSimpleImputer(federation=federation, privacy="none")
    nb.fit(filled.set_output(transform="pandas").fit_transform(scaled), Y[OWN])


def test_few_values_are_not_told_where_others_are_filled(world):
    """The policy withholds a column with few values; filling the gaps must not get around that."""
    rows = X.copy()
    shop = np.flatnonzero(PARTY == "shop")
    rows.iloc[shop[4:], 2] = np.nan  # four values
    steps = [FederatedSimpleImputer(), FederatedRidge()]

    def coef(rows, **policy):
        federation = world(hospitals(rows), policy=Policy(**policy)).connect()
        return remote(federation, *steps).fit(X[OWN], Y[OWN])[-1].coef_

    other = rows.copy()
    other.iloc[shop[:4], 2] *= 3.0
    np.testing.assert_array_equal(coef(rows, min_rows=10), coef(other, min_rows=10))
    assert not np.array_equal(coef(rows), coef(other))


def test_the_policy_bounds_what_steps_make(world):
    n_bytes = int((PARTY == "shop").sum()) * 8 * 7
    federation = world(hospitals(GAPS), policy=Policy(max_table_bytes=n_bytes)).connect()
    model = remote(federation, FederatedSimpleImputer(add_indicator=True), FederatedRidge())
    with pytest.raises(PolicyRefusal, match="bytes in memory"):
        model.fit(GAPS[OWN], Y[OWN])


def opening(kinds, numbers):
    text = [np.frombuffer(t.encode(), dtype=np.uint8) for t in ('["mean radius"]', "[]", kinds)]
    return Open(
        session="s",
        columns=text[0],
        target="none",
        classes=text[1],
        allow_missing=False,
        steps=text[2],
        numbers=np.array(numbers, dtype=np.float64),
    )


def test_steps_that_cannot_be_read_are_refused_and_leave_nothing(world):
    there = world(hospitals(X))
    service = there.servers["shop"].endpoint.caller("bank").service
    for kinds, numbers, said in (
        ("{", [], "cannot be read"),
        ("{}", [], "no list"),
        ('[["standardise", 1]]', [0.0], "too few numbers"),
        ('[["standardise", 1]]', [0.0, 0.0], "scales positive"),
        ("[]", [1.0], "belong to no step"),
        ('[["standardise", 1]]', [0.0, 5e-324], "has infinity"),
    ):
        with pytest.raises(PartyError, match=said):
            service.answer(opening(kinds, numbers))
    assert not service.fits
    assert service.answer(opening('[["standardise", 1]]', [1.0, 2.0])).n_rows
    made = service.rows("s").X
    np.testing.assert_array_equal(made[:, 0], (X["mean radius"][PARTY == "shop"] - 1.0) / 2.0)


@pytest.mark.parametrize("policy", [Policy(min_rows=9), Policy(min_rows=9, epsilon=1.0)])
def test_where_noise_protects_rows_none_decides_what_becomes_of_the_others(world, policy):
    rows = X.copy()
    rows.iloc[np.flatnonzero(PARTY == "shop")[8:], 0] = np.nan  # eight values
    there = world(hospitals(rows), policy=policy)
    service = there.servers["shop"].endpoint.caller("bank").service
    service.answer(opening('[["fill", 1]]', [-1.0, 0.0]))
    told = (service.rows("s").X != -1.0).sum()
    assert told == (0 if policy.epsilon is None else 8)
