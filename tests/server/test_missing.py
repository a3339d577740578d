"""A party that is away when rows are predicted: an error, or on request the others serve them."""

import pickle
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fedtl import FederatedProjector, FederatedTransferClassifier, FederatedTransferRegressor
from fedtl.exceptions import (
    DroppedPartyWarning,
    PartyUnreachable,
    PolicyRefusal,
    SessionExpired,
)
from fedtl.federation import Federation
from fedtl.parties import Policy

SETTINGS = {"max_iter": 8, "lr": 0.03, "random_state": 0, "n_components": 4}
AWAY = r"'post': .* cannot be reached.*200 rows are served as unknown to it"


@pytest.fixture
def three(world, data):
    """A bank with a shop and a post office, and how a federation of them is made and left."""

    class Three:
        made = data(n_parties=3)
        there = world(made)

        def fitted(
            self, kind=FederatedTransferClassifier, on_missing="local", reconnect=0.3, **changed
        ):
            federation = self.there.connect(reconnect=reconnect, on_missing=on_missing)
            if kind is not FederatedProjector:
                changed.setdefault("privacy", "none")
            clf = kind([self.made.parties[0]], federation=federation, **SETTINGS | changed)
            return clf.fit(self.made.own, self.made.y)

        def leave(self, name="post"):
            self.there.servers[name].stop(0)

        def without_post(self):
            return self.made.X.assign(post1=np.nan, post2=np.nan)

    return Three()


@pytest.mark.parametrize("solver", ["moments", "latent", "auto"])
def test_rows_are_served_as_if_they_were_unknown_to_who_is_away(three, solver):
    made = three.made
    here = FederatedTransferClassifier(made.parties, solver=solver, **SETTINGS).fit(made.X, made.y)
    clf = three.fitted(solver=solver)
    before = clf.predict_proba(made.own), clf.transform(made.own)
    assert clf.ledger_.missed_rows == {}
    three.leave()
    with pytest.warns(DroppedPartyWarning, match=AWAY):
        came = clf.predict_proba(made.own)
    assert_array_equal(came, here.predict_proba(three.without_post()))
    assert not np.array_equal(came, before[0])
    with pytest.warns(DroppedPartyWarning, match=AWAY):
        projected = clf.transform(made.own)
    assert_array_equal(projected, here.transform(three.without_post()))
    assert projected.shape == before[1].shape
    assert clf.ledger_.missed_rows == clf.federation.ledger.missed_rows == {"post": 400}
    assert "400 rows missed" in repr(clf.ledger_)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_with_all_partners_away_the_active_party_serves_what_it_knows(three):
    made = three.made
    here = FederatedTransferRegressor(made.parties, solver="moments", **SETTINGS)
    alone = here.fit(made.X, made.y).predict(
        made.X.assign(**dict.fromkeys(["post1", "post2", "shop1", "shop2"], np.nan))[made.X.columns]
    )
    reg = three.fitted(FederatedTransferRegressor, solver="moments")
    three.leave("post")
    three.leave("shop")
    assert_allclose(reg.predict(made.own), alone, atol=1e-12)
    assert reg.ledger_.missed_rows == {"shop": 200, "post": 200}


def test_the_projector_goes_on_too(three):
    made = three.made
    here = FederatedProjector(made.parties, **SETTINGS).fit(made.X)
    clf = three.fitted(FederatedProjector)
    three.leave()
    with pytest.warns(DroppedPartyWarning, match=AWAY):
        assert_array_equal(clf.transform(made.own), here.transform(three.without_post()))


def test_by_default_a_party_that_is_away_is_an_error(three):
    clf = three.fitted(solver="moments", on_missing="raise")
    three.leave()
    with pytest.raises(PartyUnreachable, match="'post'"):
        clf.predict(three.made.own)
    assert clf.ledger_.missed_rows == {}


def test_a_party_that_lost_its_model_in_a_restart_counts_as_away(three):
    clf = {mode: three.fitted(solver="moments", on_missing=mode) for mode in ("raise", "local")}
    three.there.servers["post"].endpoint.caller("bank").service.sessions.clear()
    with pytest.raises(SessionExpired, match="'post': the session has ended"):
        clf["raise"].predict(three.made.own)
    with pytest.warns(DroppedPartyWarning, match="'post': the session has ended; fit the estim"):
        clf["local"].predict(three.made.own)


def test_a_fit_and_a_refusal_are_errors_all_the_same(three, world):
    clf = three.fitted(solver="moments")
    bound = world(three.made, policy=Policy(max_predicted_rows=10))
    other = FederatedTransferClassifier(
        [three.made.parties[0]],
        solver="moments",
        federation=bound.connect(on_missing="local"),
        privacy="none",
        **SETTINGS,
    )
    with pytest.raises(PolicyRefusal):
        other.fit(three.made.own, three.made.y).predict(three.made.own)
    three.leave()
    with pytest.raises(PartyUnreachable, match="'post'"):
        clf.fit(three.made.own, three.made.y)


@pytest.mark.filterwarnings("ignore::fedtl.exceptions.DroppedPartyWarning")
def test_who_was_away_at_the_last_question_is_not_waited_for_again(three):
    clf = three.fitted(solver="moments", reconnect=4.0)
    three.leave()
    took = []
    for _ in range(2):
        start = time.monotonic()
        clf.predict(three.made.own)
        took.append(time.monotonic() - start)
    assert took[0] > 1.8
    assert took[1] < 1.7


def test_a_handle_says_what_it_does_and_keeps_it_in_a_copy(three):
    handle = three.there.connect(on_missing="local")
    assert pickle.loads(pickle.dumps(handle)).patience.on_missing == "local"
    with pytest.raises(ValueError, match="'raise' or 'local', got 'ignore'"):
        Federation.connect(credentials=three.there.folder / "bank", shop="h:1", on_missing="ignore")
