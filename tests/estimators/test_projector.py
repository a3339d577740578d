"""The latent space that parties share without labels."""

import copy
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from fedtl import Encoder, FederatedProjector
from fedtl.exceptions import PolicyRefusal, UnknownRowsWarning
from fedtl.federation import Simulation
from fedtl.parties import Policy


def projector(parties, **parameters):
    settings = {"max_iter": 15, "n_components": 4, "random_state": 0, "lr": 0.02}
    return FederatedProjector(parties, **settings | parameters)


@pytest.fixture(scope="module")
def views():
    """Two parties that see the same two factors, each in three columns of its own."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(300, 2))
    blocks = [factors @ rng.normal(size=(2, 3)) + 0.2 * rng.normal(size=(300, 3)) for _ in range(2)]
    return np.hstack(blocks), (factors[:, 0] > 0).astype(int)


PARTIES = [("bank", Encoder(), [0, 1, 2]), ("shop", Encoder(), [3, 4, 5])]
COLUMNS = {"bank": [0, 1, 2], "shop": [3, 4, 5]}


def agreement(fitted, X, without):
    """Mean correlation of the components that one party and the other see of the same rows."""
    ours = fitted.transform(without(X, COLUMNS, "shop"))
    theirs = fitted.transform(without(X, COLUMNS, "bank"))
    return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, theirs.T, strict=True)])


def test_parties_come_to_agree_on_rows_that_they_share(views, without):
    X, _ = views
    aligned = projector(PARTIES, max_iter=30, n_components=2).fit(X[:200])
    alone = projector(PARTIES, max_iter=30, n_components=2, alignment=0.0).fit(X[:200])
    assert agreement(aligned, X[200:], without) > 0.6
    assert agreement(aligned, X[200:], without) > agreement(alone, X[200:], without) + 0.3


def test_a_model_of_one_partys_rows_serves_the_others_rows(views, without):
    X, y = views
    model = make_pipeline(
        projector(PARTIES, max_iter=30, n_components=2).fit(X[:150]), LogisticRegression()
    )
    model[-1].fit(model[0].transform(without(X[:150], COLUMNS, "shop")), y[:150])
    theirs = without(X[150:], COLUMNS, "bank")
    assert model[-1].score(model[0].transform(theirs), y[150:]) > 0.75


def test_every_subset_of_three_parties_is_projected(rows, without):
    made = rows(n_parties=3)
    fitted = projector(made.parties).fit(made.X)
    full = rows(20, n_parties=3, overlap=1.0, seed=1).X
    seen = []
    for mask in product([True, False], repeat=3):
        if any(mask):
            hidden = [name for name, knows in zip(made.columns, mask, strict=True) if not knows]
            seen.append(fitted.transform(without(full, made.columns, *hidden)))
            assert seen[-1].shape == (20, 4)
            assert np.isfinite(seen[-1]).all()
    assert len({tuple(np.round(z.ravel(), 9)) for z in seen}) == 7


def test_a_row_is_the_mean_of_what_the_parties_say_of_it(rows, without):
    made = rows()
    fitted = projector(made.parties).fit(made.X)
    full = rows(20, overlap=1.0, seed=1).X
    parts = [fitted.transform(without(full, made.columns, name)) for name in ("bank", "shop")]
    assert_allclose(fitted.transform(full), np.mean(parts, axis=0), rtol=1e-9, atol=1e-12)


def test_order_and_batches_of_rows_do_not_matter(rows):
    made = rows()
    fitted = projector(made.parties).fit(made.X)
    expected = fitted.transform(made.X)
    order = np.random.default_rng(0).permutation(len(made.X))
    assert_allclose(fitted.transform(made.X[order]), expected[order], rtol=1e-9, atol=1e-12)
    one_by_one = np.vstack([fitted.transform(made.X[i : i + 1]) for i in range(20)])
    assert_allclose(one_by_one, expected[:20], rtol=1e-9, atol=1e-12)


def test_rows_that_nobody_knows_are_projected_to_zero_with_a_warning(rows):
    made = rows()
    fitted = projector(made.parties).fit(made.X)
    new = np.vstack([np.full((2, made.X.shape[1]), np.nan), made.X[:1]])
    with pytest.warns(UnknownRowsWarning, match="2 rows are known to no party"):
        latents = fitted.transform(new)
    assert_array_equal(latents[:2], 0.0)
    assert (latents[2] != 0).any()


def test_labels_are_not_looked_at(rows):
    made = rows()
    with_labels = projector(made.parties).fit_transform(made.X, made.y)
    assert_array_equal(projector(made.parties).fit_transform(made.X), with_labels)


def test_parties_that_share_no_row_are_refused_by_name(rows):
    made = rows(overlap=0.0)
    with pytest.raises(ValueError, match="'shop': shares no row with the active party 'bank'"):
        projector(made.parties).fit(made.X)


def test_fewer_shared_rows_than_the_loss_needs_still_give_a_projection(rows):
    made = rows(overlap=0.02)
    assert made.known.all(axis=1).sum() < 8
    fitted = projector(made.parties).fit(made.X)
    assert np.isfinite(fitted.transform(made.X)).all()


def test_several_local_updates_send_fewer_messages(rows):
    made = rows()
    for local_updates, exchanges in ((1, 20), (4, 5)):
        fitted = projector(made.parties, max_iter=20, local_updates=local_updates).fit(made.X)
        sent = [row for row in fitted.ledger_.rows() if row["kind"] == "latent.exchange/1"]
        assert sent[0]["messages"] == exchanges + 1
        assert len(fitted.history_) == exchanges
        assert fitted.n_iter_ == 20


@pytest.mark.parametrize("n_parties", [2, 3])
def test_serializing_changes_neither_latents_nor_counted_bytes(rows, n_parties):
    made = rows(n_parties=n_parties)
    fits = [
        projector(made.parties, federation=Simulation(serialize=serialize)).fit(made.X)
        for serialize in (False, True)
    ]
    assert_array_equal(fits[0].transform(made.X), fits[1].transform(made.X))
    assert fits[0].ledger_.rows() == fits[1].ledger_.rows()


def test_a_policy_without_joint_training_refuses(rows):
    made = rows()
    policy = Policy(protocols=frozenset({"session", "predict"}))
    fitted = projector(made.parties, federation=Simulation(policies={"shop": policy}))
    with pytest.raises(PolicyRefusal, match=r"'shop'.*'latent'"):
        fitted.fit(made.X)
    with pytest.raises(NotFittedError):
        fitted.transform(made.X)


def test_copies_project_alike_and_clones_are_unfitted(rows):
    made = rows()
    fitted = projector(made.parties).fit(made.X)
    expected = fitted.transform(made.X)
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(made.X), expected)
    assert_array_equal(copy.deepcopy(fitted).transform(made.X), expected)
    again = clone(fitted)
    with pytest.raises(NotFittedError):
        again.transform(made.X)
    assert_array_equal(again.fit(made.X).transform(made.X), expected)


def test_a_failed_fit_leaves_the_last_one(rows):
    made = rows()
    fitted = projector(made.parties).fit(made.X)
    expected, n_messages = fitted.transform(made.X), fitted.ledger_.messages
    broken = made.X.copy()
    broken[0, 3] = np.inf
    with pytest.raises(ValueError, match="'shop'"):
        fitted.fit(broken)
    assert fitted.ledger_.messages == n_messages
    assert_array_equal(fitted.transform(made.X), expected)


def test_random_generators_of_the_process_stay_where_they_are(rows):
    made = rows()
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    projector(made.parties).fit(made.X).transform(made.X)
    assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_output_columns_have_names_and_frames_on_request(rows):
    pd = pytest.importorskip("pandas")
    made = rows()
    fitted = projector(made.parties).set_output(transform="pandas").fit(made.X)
    names = [f"federatedprojector{i}" for i in range(4)]
    assert fitted.get_feature_names_out().tolist() == names
    frame = fitted.transform(pd.DataFrame(made.X).to_numpy())
    assert frame.columns.tolist() == names


def test_a_module_is_fine_tuned_below_the_latent_space(rows):
    made = rows(overlap=1.0)
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 3)
    before = module.weight.detach().clone()
    parties = [("bank", Encoder(), [0, 1]), ("shop", Encoder(module, lr=0.05), [2, 3])]
    fitted = projector(parties).fit(made.X)
    assert torch.equal(module.weight, before)
    [session] = fitted.services_.services[0].sessions.values()
    trunk = session.state["fitted.encoder"].trunks[0]
    assert not torch.equal(trunk.weight, before)
    assert np.isfinite(fitted.transform(made.X)).all()
