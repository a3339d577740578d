"""Remote parties that know whom they add up with: the same model, and no sum with anybody else."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.utils import Bunch

from fedtl import (
    FederatedFineTuner,
    FederatedGaussianNB,
    FederatedLogisticRegression,
    FederatedRidge,
    FederatedStandardScaler,
)
from fedtl.exceptions import PolicyRefusal
from fedtl.federation import Federation
from fedtl.identity import Identity
from fedtl.parties import Policy, RowTable
from fedtl.server._serve import PartyFile, open_endpoint

X, Y = load_breast_cancer(return_X_y=True, as_frame=True)
X = ((X - X.mean()) / X.std()).iloc[:, :6]
PARTY = np.random.default_rng(0).choice(["own", "shop", "post", "mill"], len(X))
OWN = PARTY == "own"
NAMES = ("shop", "post", "mill")
NAMING = Policy(members=frozenset(NAMES))
NET = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
TUNER = FederatedFineTuner(NET, n_rounds=2, random_state=0)


def table(name):
    frame = X[name == PARTY].assign(ill=np.asarray(Y)[name == PARTY])
    return RowTable(name, frame, target="ill")


def pin_each_other(there, *names):
    for one in names:
        for other in set(names) - {one}:
            identity = there.identities[other]
            there.identities[one].pin(identity.certificate, identity.fingerprint)


@pytest.fixture
def hospitals(world):
    """A function that sets up a bank and three parties, of whom those named know one another."""

    def make(*know_one_another, names=NAMES, policy=NAMING):
        data = Bunch(blocks={name: table(name) for name in names})
        there = world(data, policy=policy, trainer=TUNER)
        pin_each_other(there, *know_one_another)
        return there

    return make


def told(model):
    """What a fitted model says of all rows, or of a new one."""
    method = next(m for m in ("predict_proba", "predict", "transform") if hasattr(model, m))
    return getattr(model, method)(X)


def test_parties_that_name_their_members_give_the_model_of_those_that_do_not(hospitals):
    federation = hospitals(*NAMES).connect()
    trusting = hospitals(policy=None).connect()
    models = [
        FederatedRidge(),
        FederatedLogisticRegression(),
        FederatedGaussianNB(),
        FederatedStandardScaler(),
        TUNER,
    ]
    for model in models:
        y = None if hasattr(model, "transform") else Y[OWN]
        named, plain = (
            clone(model).set_params(federation=each).fit(X[OWN], y)
            for each in (federation, trusting)
        )
        np.testing.assert_array_equal(told(named), told(plain))
        assert "secure_sums.masked/1" in {row["kind"] for row in named.ledger_.rows()}
    assert federation.describe()["shop"]["members"] == sorted(NAMES)
    assert trusting.describe()["shop"]["members"] == []


@pytest.mark.parametrize("model", [FederatedRidge(), TUNER], ids=lambda m: type(m).__name__)
def test_a_party_adds_up_with_nobody_whom_it_has_not_pinned(hospitals, model):
    there = hospitals("shop", "post")
    fitted = clone(model).set_params(federation=there.connect())
    with pytest.raises(PolicyRefusal, match="'mill': the keys of 'post' .* pin it with"):
        fitted.fit(X[OWN], Y[OWN])
    assert not [name for name in vars(fitted) if name.endswith("_")]
    pin_each_other(there, *NAMES)  # at once, without a restart
    fitted.fit(X[OWN], Y[OWN])


def test_a_coordinator_cannot_make_up_a_member(hospitals):
    # It would know both its own, and the sum of two parties is then that of one.
    federation = hospitals(*NAMES).connect()
    made_up = np.where(np.arange(OWN.sum()) % 2, "own", "ghost")
    for model in (FederatedRidge(federation=federation), clone(TUNER)):
        model.set_params(federation=federation)
        with pytest.raises(PolicyRefusal, match=r"\['ghost', 'own'\] are more than the one"):
            model.fit(X[OWN], Y[OWN], sample_party=made_up)
    there = hospitals("shop", "post", names=("shop", "post"))
    for named in ("own", "mill"):
        model = FederatedRidge(federation=there.connect())
        said = (
            "'mill'\\] are missing"
            if named == "own"
            else "keys of 'mill' .* by 'bank', and not by 'mill'"
        )
        with pytest.raises(PolicyRefusal, match=said):
            model.fit(X[OWN], Y[OWN], sample_party=np.full(OWN.sum(), named))


def test_a_sum_over_some_of_the_members_is_refused(hospitals):
    # The difference of it and the whole sum would be the missing member's numbers.
    federation = hospitals(*NAMES).connect()
    tuner = clone(TUNER).set_params(federation=federation, cohort=3, n_rounds=4)
    with pytest.raises(PolicyRefusal, match=r"secure sums with all of .* are missing"):
        tuner.fit(X[OWN], Y[OWN])


def test_a_member_is_not_let_in_by_being_one(hospitals):
    there = hospitals(*NAMES)
    error = there.connect("post").describe()["shop"]["error"]
    assert "'post' is one of its members, and a member is not answered" in error


def test_a_file_names_the_members(tmp_path):
    X.assign(ill=Y).to_csv(tmp_path / "rows.csv", index=False)
    file = tmp_path / "party.toml"
    file.write_text(
        'name = "shop"\n[table]\npath = "rows.csv"\ntarget = "ill"\n'
        '[policy]\nmembers = ["post", "mill"]\n'
    )
    read = PartyFile.read(file)
    assert read.policy.policy().members == {"post", "mill"}
    with pytest.raises(FileNotFoundError, match="make an identity"):
        read.endpoint()
    with pytest.raises(ValueError, match=r"members \['mill', 'post', 'shop'\] are recognised by"):
        open_endpoint("shop", table("shop"), state=tmp_path / "state", policy=NAMING)
    Identity.create(tmp_path / "identity", "post")
    with pytest.raises(ValueError, match="is that of 'post', not of 'shop'"):
        read.endpoint()
    assert PartyFile("shop", {}).policy.policy().members is None


def test_keys_of_own_rows_are_signed_by_the_identity_in_the_workspace_of_a_site(tmp_path):
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "fed_client.json").write_text("{}")
    federation = Federation.connect(credentials=tmp_path, shop="nvflare://shop")
    assert federation.row_parties(["own"], {}).services["own"].identity is None
    Identity.create(tmp_path, "bank")
    assert federation.row_parties(["own"], {}).services["own"].identity.name == "bank"
