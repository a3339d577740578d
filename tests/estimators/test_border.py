"""What crosses the border of a party, what it refuses, and what an estimator keeps."""

import copy
import dataclasses
import pickle
import struct

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from fedtl import Encoder, FederatedTransferClassifier, FederatedTransferRegressor
from fedtl.exceptions import PolicyRefusal
from fedtl.federation import Simulation
from fedtl.parties import PartyService, Policy
from fedtl.wire import Limits, encode

SOLVERS = ("moments", "latent", "auto")


def estimator(parties, solver="auto", kind=FederatedTransferClassifier, **parameters):
    settings = {"max_iter": 10, "lr": 0.03, "n_folds": 2, "random_state": 0, "n_components": 6}
    return kind(parties, solver=solver, **settings | parameters)


def with_policy(party="shop", **bounds):
    return Simulation(policies={party: Policy(**bounds)})


def is_unfitted(fitted, X):
    with pytest.raises(NotFittedError):
        fitted.predict(X)
    return not [name for name in vars(fitted) if name.endswith("_") and not name.startswith("__")]


# One border, whether messages are encoded or not


@pytest.mark.parametrize("n_parties", [2, 3])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_serializing_changes_neither_predictions_nor_counted_bytes(rows, solver, n_parties, task):
    made = rows(n_parties=n_parties, task=task)
    kind = FederatedTransferRegressor if task == "regression" else FederatedTransferClassifier
    fits = [
        estimator(made.parties, solver, kind, federation=federation).fit(made.X, made.y)
        for federation in (None, Simulation(serialize=True))
    ]
    say = [fit.predict if task == "regression" else fit.predict_proba for fit in fits]
    assert_array_equal(say[0](made.X), say[1](made.X))
    assert_array_equal(fits[0].transform(made.X), fits[1].transform(made.X))
    assert fits[0].ledger_.rows() == fits[1].ledger_.rows()
    assert fits[0].ledger_.n_bytes > 1000
    assert fits[0].report_.to_frame("messages").equals(fits[1].report_.to_frame("messages"))


def test_serializing_changes_nothing_for_modules_and_categories():
    pd = pytest.importorskip("pandas")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(150, 4)), columns=list("abcd"))
    X["e"] = rng.choice(["red", "green", "blue"], 150)
    X.loc[rng.random(150) < 0.2, ["c", "d"]] = np.nan
    y = (X["a"] + X["b"] + (X["e"] == "red") > 0).astype(int)
    torch.manual_seed(0)
    parties = [
        ("bank", Encoder(), ["a", "e"]),
        ("shop", Encoder(), ["b"]),
        ("post", Encoder(torch.nn.Linear(2, 3)), ["c", "d"]),
    ]
    fits = [
        estimator(parties, federation=federation).fit(X, y)
        for federation in (None, Simulation(serialize=True))
    ]
    assert_array_equal(fits[0].predict_proba(X), fits[1].predict_proba(X))
    assert fits[0].ledger_.rows() == fits[1].ledger_.rows()


def test_the_ledger_counts_what_was_encoded(rows, monkeypatch):
    sizes = []

    def spy(self, request):
        reply = answer(self, request)
        sizes.append(len(encode(request)) + len(encode(reply)))
        return reply

    answer = PartyService.answer
    monkeypatch.setattr(PartyService, "answer", spy)
    made = rows(n_parties=3)
    fitted = estimator(made.parties).fit(made.X, made.y)
    fitted.predict(made.X)
    assert fitted.ledger_.n_bytes == sum(sizes)
    assert fitted.ledger_.messages == 2 * len(sizes)
    assert {row["party"] for row in fitted.ledger_.rows()} == {"shop", "post"}


def test_predictions_go_on_in_the_ledger_of_the_fit(rows):
    made = rows()
    fitted = estimator(made.parties).fit(made.X, made.y)
    before = fitted.ledger_.messages
    fitted.predict(made.X)
    assert fitted.ledger_.messages == before + 2
    fitted.fit(made.X, made.y)
    assert fitted.ledger_.messages == before


def test_the_active_party_sends_itself_no_messages(rows):
    made = rows(overlap=1.0)
    fitted = estimator(made.parties[:1]).fit(made.X, made.y)
    fitted.predict(made.X)
    assert fitted.ledger_.messages == 0


# What a party refuses


@pytest.mark.parametrize(
    ("solver", "forbidden"),
    [
        ("auto", "latent"),
        ("auto", "assistance"),
        ("latent", "latent"),
        ("auto", "moments"),
        ("moments", "session"),
    ],
)
def test_a_protocol_that_is_not_allowed_is_refused_by_name(rows, solver, forbidden):
    made = rows(n_parties=3)
    allowed = frozenset({"session", "moments", "assistance", "latent", "predict"} - {forbidden})
    fitted = estimator(made.parties, solver, federation=with_policy("post", protocols=allowed))
    with pytest.raises(PolicyRefusal, match=rf"'post'.*does not allow the protocol '{forbidden}'"):
        fitted.fit(made.X, made.y)
    assert is_unfitted(fitted, made.X)


def test_a_solver_that_needs_only_what_is_allowed_is_answered(rows):
    made = rows()
    allowed = with_policy(protocols=frozenset({"session", "moments", "predict"}))
    fitted = estimator(made.parties, "moments", federation=allowed).fit(made.X, made.y)
    plain = estimator(made.parties, "moments").fit(made.X, made.y)
    assert_array_equal(fitted.predict_proba(made.X), plain.predict_proba(made.X))


def test_predictions_may_be_refused_after_a_fit(rows):
    made = rows()
    allowed = with_policy(protocols=frozenset({"session", "moments"}))
    fitted = estimator(made.parties, "moments", federation=allowed).fit(made.X, made.y)
    with pytest.raises(PolicyRefusal, match="'shop'.*'predict'"):
        fitted.predict(made.X)


def test_a_sum_over_too_few_rows_is_refused(rows):
    made = rows()
    shared = int(made.known.all(axis=1).sum())
    fitted = estimator(made.parties, federation=with_policy(min_rows=shared + 1))
    with pytest.raises(PolicyRefusal, match=f"'shop'.*from {shared + 1} on"):
        fitted.fit(made.X, made.y)
    assert is_unfitted(fitted, made.X)


def test_a_sum_over_enough_rows_in_each_fold_is_answered(rows):
    made = rows(overlap=1.0)
    bound = with_policy(min_rows=len(made.X) // 2)
    fitted = estimator(made.parties, "moments", federation=bound).fit(made.X, made.y)
    assert fitted.predict(made.X).shape == made.y.shape


def test_a_fold_of_too_few_rows_is_refused_for_it_is_a_sum_of_its_own(rows):
    made = rows(overlap=1.0)
    bound = with_policy(min_rows=len(made.X) // 2)
    fitted = estimator(made.parties, "moments", federation=bound, n_folds=10)
    with pytest.raises(PolicyRefusal, match="'shop'"):
        fitted.fit(made.X, made.y)


def test_fits_beyond_the_quota_are_refused_and_the_last_one_stays(rows):
    made = rows()
    fitted = estimator(made.parties, "latent", federation=with_policy(max_fits=2))
    fitted.partial_fit(made.X, made.y).partial_fit(made.X, made.y)
    expected = fitted.predict_proba(made.X)
    with pytest.raises(PolicyRefusal, match="'shop'.*allows 2 fits; all are used"):
        fitted.partial_fit(made.X, made.y)
    assert_array_equal(fitted.predict_proba(made.X), expected)


def test_a_quota_of_fits_holds_over_fits_from_the_start(rows):
    made = rows()
    fitted = estimator(made.parties, "moments", federation=with_policy(max_fits=1))
    fitted.fit(made.X, made.y)
    with pytest.raises(PolicyRefusal, match="'shop'"):
        fitted.fit(made.X, made.y)


def test_predictions_beyond_the_quota_are_refused(rows):
    made = rows()
    quota = with_policy(max_predicted_rows=len(made.X) + 5)
    fitted = estimator(made.parties, "moments", federation=quota).fit(made.X, made.y)
    fitted.predict(made.X)
    with pytest.raises(PolicyRefusal, match="'shop'.*predicted rows"):
        fitted.predict(made.X[:6])
    assert fitted.predict(made.X[:5]).shape == (5,)


def test_a_message_beyond_the_limits_is_refused_with_and_without_serializing(rows):
    made = rows()
    small = {f.name: f.default for f in dataclasses.fields(Limits)}
    name = next(name for name in small if "bytes" in name)
    policy = Policy(limits=Limits(**{name: 2000}))
    for serialize in (False, True):
        federation = Simulation(serialize=serialize, policies={"shop": policy})
        fitted = estimator(made.parties, "moments", federation=federation)
        with pytest.raises(ValueError, match="2,?000"):
            fitted.fit(made.X, made.y)
        assert is_unfitted(fitted, made.X)


@pytest.mark.parametrize("name", ["bank", "nobody"])
def test_a_policy_for_a_party_that_has_no_service_is_an_error(rows, name):
    made = rows()
    with pytest.raises(ValueError, match=rf"\['{name}'\].*\['shop'\]"):
        estimator(made.parties, federation=with_policy(name)).fit(made.X, made.y)


@pytest.mark.parametrize("when", ["first fit", "refit", "partial fit"])
def test_a_refusal_changes_no_attribute(rows, when):
    made = rows()
    fitted = estimator(made.parties, "latent")
    if when != "first fit":
        fitted.fit(made.X, made.y)
    before = {k: v for k, v in vars(fitted).items() if k.endswith("_")}
    fitted.federation = with_policy(protocols=frozenset({"session"}))
    if when == "partial fit":
        for service in fitted.services_.services:
            service.policy = fitted.federation.policies["shop"]
    with pytest.raises(PolicyRefusal):
        (fitted.partial_fit if when == "partial fit" else fitted.fit)(made.X, made.y)
    after = {k: v for k, v in vars(fitted).items() if k.endswith("_")}
    assert before.keys() == after.keys()
    assert all(before[k] is after[k] for k in before)


# What leaves a party


def tensors(message):
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            yield np.unique(value.astype(np.float64))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("width", [1, 3])
def test_no_reply_holds_a_value_of_the_partys_rows(rows, monkeypatch, solver, width):
    replies, answer = [], PartyService.answer

    def spy(self, request):
        reply = answer(self, request)
        replies.append((self.name, reply))
        return reply

    monkeypatch.setattr(PartyService, "answer", spy)
    made = rows(n_parties=3, width=width)
    fitted = estimator(made.parties, solver).fit(made.X, made.y)
    fitted.predict(made.X)
    fitted.transform(made.X)
    assert {name for name, _ in replies} == {"shop", "post"}
    for name, reply in replies:
        secrets = made.X[:, made.columns[name]]
        secrets = secrets[~np.isnan(secrets)]
        for values in tensors(reply):
            assert not np.isin(secrets, values).any(), reply.kind
            assert not np.isin(secrets.astype(np.float32), values).any(), reply.kind


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_request_holds_a_value_of_the_active_partys_rows(rows, monkeypatch, solver):
    requests, answer = [], PartyService.answer

    def spy(self, request):
        requests.append(request)
        return answer(self, request)

    monkeypatch.setattr(PartyService, "answer", spy)
    made = rows()
    estimator(made.parties, solver).fit(made.X, made.y).predict(made.X)
    secrets = made.X[:, made.columns["bank"]]
    secrets = secrets[~np.isnan(secrets)]
    for request in requests:
        for values in tensors(request):
            assert not np.isin(secrets, values).any(), request.kind


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("party", ["bank", "shop"])
def test_a_fitted_estimator_holds_no_value_of_a_training_row(rows, solver, party):
    made = rows()
    secret = 0.1234567875  # in the middle of the column, an ordinary value
    column = made.columns[party][0]
    row = np.flatnonzero(made.known.all(axis=1))[7]
    made.X[row, column] = secret
    fitted = estimator(made.parties, solver).fit(made.X, made.y)
    held = pickle.dumps(fitted)
    for form in ("<d", ">d", "<f", ">f"):
        assert struct.pack(form, secret) not in held
    assert str(secret).encode() not in held
    # The test would see it: the same row inside an array is found.
    assert struct.pack("<d", secret) in pickle.dumps(made.X)


@pytest.mark.parametrize("solver", ["moments"])
def test_a_fitted_estimator_holds_no_text_that_one_row_alone_has(solver):
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=400), "b": rng.choice(["red", "blue"], 400)})
    X.loc[7, "b"] = "jane.doe@example.org"
    y = (X["a"] + (X["b"] == "red") > 0.5).astype(int)
    fitted = estimator({"bank": ["a"], "shop": ["b"]}, solver).fit(X, y)
    assert b"jane.doe" not in pickle.dumps(fitted)


def test_the_size_of_a_fitted_estimator_does_not_grow_with_its_rows(rows, monkeypatch):
    # How many trees there are depends on the labels; a tree holds eleven nodes and no row.
    monkeypatch.setattr("fedtl.solvers.anchor.trees_can_learn", lambda *data: False)

    def size(n):
        made = rows(n, overlap=1.0)
        return len(pickle.dumps(estimator(made.parties, "latent").fit(made.X, made.y)))

    # Encodings keep up to 500 quantiles of 8 bytes a column; rows would add 64 times that.
    assert size(3600) - size(2400) < 2500


def test_services_forget_their_rows_when_a_fit_ends(rows):
    made = rows()
    fitted = estimator(made.parties).fit(made.X, made.y)
    fitted.predict(made.X)
    for service in fitted.services_.services:
        assert len(service.table) == 0
        for session in service.sessions.values():
            assert session.columns is None
            assert len(session.ids) == len(session.known) == 0


def test_a_service_keeps_one_session_for_each_model_it_serves(rows):
    made = rows()
    fitted = estimator(made.parties, "latent").partial_fit(made.X, made.y)
    fitted.partial_fit(made.X, made.y).fit(made.X, made.y)
    assert [len(service.sessions) for service in fitted.services_.services] == [1]


def test_the_callers_data_stay_as_they_were(rows):
    made = rows()
    X, y, weight = made.X.copy(), made.y.copy(), np.full(len(made.y), 2.0)
    fitted = estimator(made.parties).fit(X, y, sample_weight=weight)
    fitted.predict(X)
    assert_array_equal(X, made.X)
    assert_array_equal(y, made.y)
    assert_array_equal(weight, 2.0)


def test_read_only_data_are_enough(rows):
    made = rows()
    for array in (made.X, made.y):
        array.flags.writeable = False
    assert estimator(made.parties).fit(made.X, made.y).predict(made.X).shape == made.y.shape


# Copies


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_a_copy_predicts_alike_and_is_independent(rows, solver, copied):
    made = rows(n_parties=3)
    fitted = estimator(made.parties, solver).fit(made.X, made.y)
    expected, latents = fitted.predict_proba(made.X), fitted.transform(made.X)
    twin = copied(fitted)
    assert_array_equal(twin.predict_proba(made.X), expected)
    assert_array_equal(twin.transform(made.X), latents)
    assert str(twin.report_) == str(fitted.report_)
    twin.fit(made.X[:100], made.y[:100])
    assert_array_equal(fitted.predict_proba(made.X), expected)


def test_a_copy_goes_on_training_alike(rows):
    made = rows()
    fitted = estimator(made.parties, "latent").partial_fit(made.X, made.y)
    twin = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(
        twin.partial_fit(made.X, made.y).predict_proba(made.X),
        fitted.partial_fit(made.X, made.y).predict_proba(made.X),
    )


def test_a_clone_is_unfitted_and_has_equal_parameters(rows):
    made = rows()
    federation = Simulation(serialize=True, policies={"shop": Policy(min_rows=5)})
    fitted = estimator(made.parties, federation=federation, unlabeled=-1).fit(made.X, made.y)
    twin = clone(fitted)
    assert is_unfitted(twin, made.X)
    assert repr(twin) == repr(fitted)
    assert twin.get_params(deep=True).keys() == fitted.get_params(deep=True).keys()
    assert twin.federation.serialize
    assert twin.federation.policies == federation.policies
    assert_array_equal(twin.fit(made.X, made.y).predict_proba(made.X), fitted.predict_proba(made.X))


def test_parameters_of_a_partys_encoder_are_reached_by_its_name(rows):
    made = rows()
    unfitted = estimator(made.parties)
    assert unfitted.get_params()["shop__lr"] is None
    unfitted.set_params(shop__lr=0.5, bank=Encoder(lr=0.25))
    assert unfitted.get_params()["shop__lr"] == 0.5
    assert unfitted.get_params()["bank__lr"] == 0.25
    assert [columns for _, _, columns in unfitted.parties] == list(made.columns.values())
    with pytest.raises(ValueError, match="nobody"):
        unfitted.set_params(nobody__lr=0.5)


def test_fitting_leaves_the_recipes_as_they_were(rows):
    from sklearn.preprocessing import StandardScaler

    made = rows()
    scaler = StandardScaler()
    parties = [
        ("bank", Encoder(), made.columns["bank"]),
        ("shop", Encoder(preprocessor=scaler), made.columns["shop"]),
    ]
    fitted = estimator(parties).fit(made.X, made.y)
    assert fitted.parties is parties
    assert not hasattr(scaler, "mean_")
    plain = estimator(made.parties).fit(made.X, made.y)
    assert_allclose(fitted.predict_proba(made.X), plain.predict_proba(made.X), atol=0.05)


def test_two_estimators_with_one_federation_do_not_disturb_each_other(rows):
    made = rows()
    federation = Simulation()
    one = estimator(made.parties, federation=federation).fit(made.X, made.y)
    expected = one.predict_proba(made.X)
    estimator(made.parties, federation=federation, random_state=1).fit(made.X[:99], made.y[:99])
    assert_array_equal(one.predict_proba(made.X), expected)
