"""Liu et al.'s transfer: the paper's loss is minimised, in the clear and protected alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fedtl import FederatedTransferClassifier, FederatedTransferRegressor
from fedtl.exceptions import PartyError
from fedtl.federation import Simulation
from fedtl.learning.liu import (
    Means,
    SourceRows,
    labels_about_zero,
    left_out_error,
    solve,
)
from fedtl.persistence import load, save
from fedtl.privacy import DifferentialPrivacy, Paillier
from fedtl.protocols.moments import ClearMoments

RNG = np.random.default_rng(0)
N_LABELED, N_SHARED, N_FEATURES, N_LATENTS = 40, 70, 8, 5
GAMMA, LAM = 0.03, 0.1


def fit(made, **parameters):
    settings = {"solver": "liu", "random_state": 0, "n_folds": 3, "n_components": 4} | parameters
    return FederatedTransferClassifier(made.parties, **settings).fit(made.X, made.y)


def pooled(n_classes):
    """Pooled shared rows: features with a constant, latents, codes of classes, and prototypes."""
    features = np.hstack([np.ones((N_SHARED, 1)), RNG.normal(size=(N_SHARED, N_FEATURES))])
    latents = features[:, 1 : 1 + N_LATENTS] + RNG.normal(size=(N_SHARED, N_LATENTS))
    codes = RNG.integers(n_classes, size=N_SHARED)
    prototypes = 0.7 * RNG.normal(size=(1 if n_classes == 2 else n_classes, N_LATENTS))
    if n_classes > 2:
        prototypes -= prototypes.mean(axis=0)
    return features, latents, codes, prototypes


def labels_for(codes, n_classes):
    target = codes[:, None] if n_classes == 2 else np.eye(n_classes)[codes]
    return labels_about_zero(target.astype(float))


def means(features, latents, labels):
    n = len(features)
    return Means(
        features.T @ features / n, features.T @ labels / n, features.T @ latents / n, float(n)
    )


def both_means(features, latents, labels):
    first = slice(N_LABELED)
    seen = np.where(np.arange(N_SHARED)[:, None] < N_LABELED, labels, 0.0)
    return means(features[first], latents[first], labels[first]), means(features, latents, seen)


def solver_and_newton(n_classes, entropy):
    """The solver's coefficients, and those of autograd and Newton on the pooled rows.

    `entropy` maps scores and codes to the label loss of rows.
    """
    features, latents, codes, prototypes = pooled(n_classes)
    sums = both_means(features, latents, labels_for(codes, n_classes))
    found = solve(prototypes, *sums, GAMMA, LAM).coefficients
    x, u, p = (torch.from_numpy(a) for a in (features, latents, prototypes))
    scale = np.trace(sums[0].gram[1:, 1:]) / N_FEATURES

    def loss(flat):
        weights = flat.reshape(1 + N_FEATURES, N_LATENTS)
        own = x @ weights
        label = entropy(own[:N_LABELED] @ p.T, torch.from_numpy(codes[:N_LABELED]))
        align = ((u - own) ** 2).sum(1).mean()
        penalty = LAM * scale * (weights[1:] ** 2).sum() + 1e-6 * (weights[0] ** 2).sum()
        return label.mean() + GAMMA * align + 0.5 * penalty

    # It is quadratic: one step of Newton's method with autograd's derivatives is its minimum.
    start = torch.zeros((1 + N_FEATURES) * N_LATENTS, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(loss, start)
    weights = torch.linalg.solve(torch.autograd.functional.hessian(loss, start), -slope)
    return found, (weights.reshape(-1, N_LATENTS) @ p.T).numpy()


def binary_taylor(score, codes):
    y = 2.0 * codes - 1.0
    return np.log(2.0) - 0.5 * y * score[:, 0] + 0.125 * score[:, 0] ** 2


def softmax_taylor(score, codes):
    """The second-order expansion of the cross-entropy about zero, by autograd's derivatives."""
    zero, expanded = torch.zeros(score.shape[1], dtype=score.dtype), torch.zeros(len(score))
    for code in range(score.shape[1]):

        def exact(at, code=code):
            return torch.nn.functional.cross_entropy(at[None], torch.tensor([code]))

        slope = torch.autograd.functional.jacobian(exact, zero)
        curvature = torch.autograd.functional.hessian(exact, zero)
        of_code = exact(zero) + score @ slope + 0.5 * ((score @ curvature) * score).sum(1)
        expanded = torch.where(codes == code, of_code, expanded)
    return expanded


@pytest.mark.parametrize(("n_classes", "entropy"), [(2, binary_taylor), (3, softmax_taylor)])
def test_the_solver_minimises_the_papers_loss_of_pooled_rows(n_classes, entropy):
    found, expected = solver_and_newton(n_classes, entropy)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_the_binary_loss_is_that_of_two_classes():
    """For two classes the form for many is the paper's: s/2 for one class, -s/2 for the other."""
    score = torch.from_numpy(RNG.normal(size=(9, 1)))
    codes = torch.from_numpy(RNG.integers(2, size=9))
    split = softmax_taylor(torch.hstack([-score, score]) / 2, codes)
    torch.testing.assert_close(split, binary_taylor(score, codes))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_held_out_error_is_about_that_of_leaving_each_row_out(n_classes):
    features, latents, codes, prototypes = pooled(n_classes)
    labels = labels_for(codes, n_classes)
    every = slice(N_LABELED)
    f, u, y = features[every], latents[every], labels[every]
    sums = means(f, u, y)
    errors = []
    for i in range(N_LABELED):
        kept = np.arange(N_LABELED) != i
        # Sums over the other rows, on the scale of all of them, and so the penalty.
        rest = means(f[kept], u[kept], y[kept])
        share = (N_LABELED - 1) / N_LABELED
        rest = replace(
            rest, gram=rest.gram * share, labels=rest.labels * share, latents=rest.latents * share
        )
        scale = np.trace(sums.gram[1:, 1:]) / np.trace(rest.gram[1:, 1:])
        one = solve(prototypes, rest, rest, GAMMA, LAM * scale)
        predicted = f[i] @ one.coefficients * (0.5 if n_classes == 2 else 1.0 / n_classes)
        errors.append(((y[i] - predicted) ** 2).sum())
    whole = solve(prototypes, sums, sums, GAMMA, LAM)
    found = left_out_error(whole, sums, SourceRows(y, u, np.ones(N_LABELED)))
    assert found == pytest.approx(np.mean(errors), rel=0.05)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("privacy", ["sharing", Paillier(key_bits=2048)])
def test_protected_forms_predict_what_the_clear_form_does(rows, task, privacy):
    if isinstance(privacy, Paillier):
        pytest.importorskip("gmpy2", reason="Paillier encryption needs the extra paillier")
    made = rows(n=120, task=task)
    clear = fit(made).predict_proba(made.X)
    np.testing.assert_allclose(fit(made, privacy=privacy).predict_proba(made.X), clear, atol=1e-3)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_rows_of_the_other_party_are_served_without_labels_of_its_own(rows, without, task):
    made, new = rows(n=200, task=task), rows(n=300, overlap=1.0, task=task, seed=1)
    made.y[made.known[:, 0] == 0] = -1
    model = fit(made, unlabeled=-1)
    chance = 0.5 if task == "binary" else 0.34
    assert model.score(without(new.X, made.columns, "bank"), new.y) > chance + 0.15
    assert model.score(new.X, new.y) >= model.score(without(new.X, made.columns, "shop"), new.y)


def test_unlabelled_shared_rows_count_for_the_alignment(rows):
    made = rows(n=400, overlap=1.0)
    made.y[60:] = -1
    parts = [fit(made, unlabeled=-1), fit(replace_rows(made, 60), unlabeled=-1)]
    new = rows(n=300, overlap=1.0, seed=1)
    first, second = (m.transform(new.X)[:, 1] for m in parts)
    assert not np.allclose(first, second)
    assert roc_auc_score(new.y, first) > roc_auc_score(new.y, second) - 0.02


def replace_rows(made, n):
    kept = type(made)(**made)
    kept.X, kept.y = made.X[:n], made.y[:n]
    return kept


def test_few_shared_labels_are_refused_with_the_bound(rows):
    made = rows(n=200)
    both = made.known.all(axis=1).nonzero()[0]
    made.y[both[7:]] = -1
    with pytest.raises(PartyError, match=r"'shop': shares 7 labelled rows .* needs at least 8:"):
        fit(made, unlabeled=-1)
    made.y[both[7]] = 1
    fit(made, unlabeled=-1)


@pytest.mark.parametrize(("n_targets", "share"), [(60, 1.0), (60 // 2 - 2, 0.5)])
def test_sums_give_features_away_where_targets_are_as_many_as_rows(n_targets, share):
    """The known leak, by least squares; at the bound half of each feature stays open."""
    features, targets = RNG.normal(size=(60, 30)), RNG.normal(size=(60, n_targets))
    solved, *_ = np.linalg.lstsq(targets.T, targets.T @ features)
    explained = 1.0 - ((features - solved) ** 2).sum() / (features**2).sum()
    assert explained == pytest.approx(share, abs=0.08)


def test_fewer_labels_and_latents_than_half_the_rows_meet_rotated_features(rows, monkeypatch):
    """The bound of the docstring, on what crosses."""
    asked, ask = [], ClearMoments.ask_moments

    def spy(channel, session, rows, **parts):
        gram, cross = ask(channel, session, rows, **parts)
        asked.append((len(rows), gram.shape[1] - 1, parts["targets"].shape[1]))
        return gram, cross

    monkeypatch.setattr(ClearMoments, "ask_moments", staticmethod(spy))
    made = rows(n=40, overlap=0.5, width=4)
    model = fit(made, n_components=16)
    ((n_rows, n_features, n_targets),) = asked
    assert n_rows == 20
    assert n_features == 10
    assert n_targets == 8 == n_rows // 2 - 2
    encoding = model.services_.services[0].sessions[model.model_.name].features.encoding_
    assert encoding.rotation_ is not None


def test_serialising_changes_neither_predictions_nor_counted_bytes(rows):
    made = rows()
    for privacy in ("none", "sharing"):
        fits = [
            fit(made, privacy=privacy, federation=Simulation(serialize=serialize))
            for serialize in (False, True)
        ]
        np.testing.assert_array_equal(*[m.predict_proba(made.X) for m in fits])
        assert fits[0].ledger_.rows() == fits[1].ledger_.rows()


def test_a_fit_takes_one_exchange_of_sums_and_one_of_scores(rows):
    model = fit(rows(), privacy="sharing")
    kinds = {row["kind"] for row in model.ledger_.rows() if row["direction"] == "sent"}
    assert kinds == {
        "session.open/1", "session.prepare/1", "session.end/1", "dealer.deal/1",
        "shared_moments.key/1", "shared_moments.request/1",
        "shared_predict.key/1", "shared_predict.request/1",
    }  # fmt: skip
    assert all(row["messages"] <= 2 for row in model.ledger_.rows())


def test_a_saved_model_predicts_the_same(rows, tmp_path):
    made = rows()
    model = fit(made)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(made.X), model.predict_proba(made.X))


@pytest.mark.parametrize("n_parties", [1, 3])
def test_other_numbers_of_parties_are_refused(rows, n_parties):
    with pytest.raises(ValueError, match=f"exactly 2 parties, got {n_parties}: bank"):
        fit(rows(n_parties=n_parties))


def test_real_targets_and_noise_are_refused(rows):
    made = rows(task="regression")
    with pytest.raises(ValueError, match="solver='liu' transfers classes"):
        FederatedTransferRegressor(made.parties, solver="liu").fit(made.X, made.y)
    with pytest.raises(ValueError, match="adds noise to the sums of solver='moments' only"):
        fit(rows(), privacy=DifferentialPrivacy(epsilon=1.0, delta=1e-5, unit="row"))
