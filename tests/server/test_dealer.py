"""Remote parties under secret shares: the local model, and a dealer that nobody has to believe."""

import contextlib
import gc
import json
import subprocess
import sys
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from fedtl import FederatedTransferClassifier
from fedtl.estimators import _privacy
from fedtl.exceptions import PartyError, PartyUnreachable, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger
from fedtl.identity import Identity
from fedtl.parties import Policy
from fedtl.privacy import SecretSharing
from fedtl.protocols import dealer as dealing
from fedtl.protocols.dealer import Deal, Dealer, Dealt
from fedtl.server import DealerFile, serve_dealer, verify
from fedtl.wire import WireError

SETTINGS = {"max_iter": 8, "lr": 0.03, "n_folds": 2, "random_state": 0, "n_components": 4}
TRUSTING = Policy(dealers=frozenset({"notary"}))


def pin_each_other(one, other):
    one.pin(other.certificate, other.fingerprint)
    other.pin(one.certificate, one.fingerprint)


def add_dealer(there, name="notary"):
    """An identity that bank and partners have pinned."""
    identity = Identity.create(there.folder / name, name)
    for each in there.identities.values():
        pin_each_other(identity, each)
    return identity


@pytest.fixture
def deal(world):
    """A function that sets up a world with a dealer; `answers` are what it answers by."""
    servers = []

    def make(data=None, answers=None, quota=None, **settings):
        there = world(data, **{"policy": TRUSTING, **settings})
        add_dealer(there)
        state = there.folder / "state-notary"
        policy = Policy(max_dealt_numbers=quota)
        server = serve_dealer(
            "notary", credentials=there.folder / "notary", state=state, policy=policy
        )
        if answers is not None:
            server.endpoint.service.answers = {Deal.kind: ("dealer", answers)}
        servers.append(server.start())
        there.dealer = {"notary": server.address}
        there.notary = server
        return there

    yield make
    for server in servers:
        server.stop(1.0)


def active(there, made, solver="moments", **changed):
    settings = {**SETTINGS, **changed}
    settings.setdefault("federation", there.connect())
    if "privacy" not in settings:
        settings["privacy"] = SecretSharing(dealer=there.dealer)
    return FederatedTransferClassifier([made.parties[0]], solver=solver, **settings)


def is_unfitted(clf):
    return not [name for name in vars(clf) if name.endswith("_") and name[0] != "_"]


@pytest.mark.parametrize("n_parties", [2, 3])
def test_remote_parties_under_shares_give_the_model_of_simulated_ones(deal, data, n_parties):
    made = data(n_parties=n_parties)
    there = deal(made)
    for solver in ("moments", "latent"):
        local = FederatedTransferClassifier(
            made.parties, solver=solver, **SETTINGS, privacy=SecretSharing()
        ).fit(made.X, made.y)
        remote = active(there, made, solver).fit(made.own, made.y)
        assert_allclose(
            remote.predict_proba(made.own), local.predict_proba(made.X), rtol=0, atol=1e-12
        )
        crossed = {(row["party"], row["kind"]) for row in remote.ledger_.rows()}
        assert ("notary", "dealer.deal/1") in crossed
        kinds = {kind for _, kind in crossed}
        told = {row["kind"] for row in local.ledger_.rows()}
        assert {kind for kind in kinds if not kind.startswith("alignment.")} == told
    for log in (there.audit_log(), there.folder / "state-notary" / "audit.jsonl"):
        assert verify(log).problems == []
    lines = [json.loads(line) for line in log.open()]
    asked = [line for line in lines if line.get("kind") == "dealer.deal/1"]
    assert {(line["caller"], line["party"]) for line in asked} == {
        ("bank", name) for name in made.blocks if name != "bank"
    }


# What a party believes, and what the dealer does


def dealt_by(monkeypatch, there, made, identity):
    """An estimator of an asking side that was changed to deal by itself."""
    monkeypatch.setattr(
        _privacy, "_dealer", lambda *_: InProcessChannel(Dealer(identity=identity), Ledger())
    )
    return active(there, made, privacy=SecretSharing())


@pytest.mark.parametrize(
    ("who", "said"),
    [
        (
            "nobody",
            r"signed by nobody whom it has pinned, .* takes that of the dealers \['notary'\]",
        ),
        ("bank", "signed by 'bank'"),
        ("other", "signed by 'other'"),
        ("stranger", "signed by nobody whom it has pinned"),
    ],
)
def test_a_party_uses_no_randomness_but_that_of_a_dealer_it_trusts(
    world, data, monkeypatch, who, said
):
    # Whoever deals and asks could take the masks off the party's columns.
    made = data()
    there = world(made, policy=TRUSTING)
    identity = None
    if who == "bank":
        identity = there.identities["bank"]
    elif who == "other":  # pinned, though not as a dealer
        identity = add_dealer(there, "other")
    elif who == "stranger":  # of the right name, and unknown
        identity = Identity.create(there.folder / "stranger", "notary")
        identity.pin(there.identities["shop"].certificate, there.identities["shop"].fingerprint)
    fitted = dealt_by(monkeypatch, there, made, identity)
    with pytest.raises(PolicyRefusal, match=f"'shop': randomness was {said}"):
        fitted.fit(made.own, made.y)


@pytest.mark.parametrize("solver", ["moments", "latent"])
def test_a_party_without_a_dealer_takes_no_part(world, data, monkeypatch, solver):
    made = data()
    there = world(made)
    fitted = dealt_by(monkeypatch, there, made, None).set_params(solver=solver)
    with pytest.raises(PolicyRefusal, match="'shop': its policy names no dealer"):
        fitted.fit(made.own, made.y)
    assert there.connect().describe()["shop"]["dealers"] == []


def test_a_dealer_deals_only_to_keys_that_their_party_has_signed(deal, data):
    made = data()
    there = deal(made)
    federation = there.connect()
    notary = federation.channel_to_helper(*next(iter(there.dealer.items())), Ledger())
    bank, shop = there.identities["bank"], there.identities["shop"]
    key = bytes(range(32))
    stated = dealing._key_statement("shop", "s", key)
    for proof in (b"", bank.sign(stated), shop.sign(stated + b"!"), shop.sign(stated)[:-40]):
        request = Deal(
            context="s 1",
            party="shop",
            party_key=np.frombuffer(key, dtype=np.uint8),
            proof=np.frombuffer(proof, dtype=np.uint8),
            shapes=np.array([[1, 1, 1]]),
        )
        with pytest.raises(PartyError, match="'notary': the key is not signed by 'shop'"):
            notary.ask(request, Dealt)
    there.identities["notary"] = Identity(there.folder / "notary")
    there.identities["notary"].revoke("shop")
    fitted = active(there, made, federation=federation)
    with pytest.raises(PartyError, match="have the dealer pin it; nothing was dealt"):
        fitted.fit(made.own, made.y)
    assert is_unfitted(fitted)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    context=st.text(max_size=8),
    party=st.sampled_from(["shop", "", "x"]) | st.text(max_size=4),
    key=st.binary(min_size=32, max_size=32) | st.just(bytes(32)),
    proof=st.binary(max_size=200),
    signed=st.booleans(),
    shapes=st.lists(st.tuples(*[st.integers(-1, 4) | st.integers()] * 3), max_size=3),
)
def test_whatever_a_dealer_is_asked_it_deals_or_says_why_not(
    notary_and_shop, *, context, party, key, proof, signed, shapes
):
    notary, shop = notary_and_shop
    if signed:
        with contextlib.suppress(UnicodeEncodeError):  # what no wire carries
            proof = shop.sign(dealing._key_statement(party, context.rpartition(" ")[0], key))
    border = InProcessChannel(Dealer("notary", identity=notary), Ledger(), serialize=True)
    with contextlib.suppress(PartyError, WireError, OverflowError):  # no int64 to begin with
        dealt = border.ask(
            Deal(
                context=context,
                party=party,
                party_key=np.frombuffer(key, dtype=np.uint8),
                proof=np.frombuffer(proof, dtype=np.uint8),
                shapes=np.array(shapes, dtype=np.int64).reshape(-1, 3),
            ),
            Dealt,
        )
        assert signed
        assert party == "shop"
        assert len(dealt.corrections) == sum(m * n for m, _, n in shapes)


@pytest.fixture(scope="module")
def notary_and_shop(tmp_path_factory):
    """A notary that has pinned a shop."""
    folder = tmp_path_factory.mktemp("identities")
    notary, shop = (Identity.create(folder / name, name) for name in ("notary", "shop"))
    pin_each_other(notary, shop)
    return notary, shop


def test_a_dealer_is_not_answered_by_those_who_trust_it(deal, data):
    there = deal(data())
    there.connect().describe()
    told = there.connect("notary").describe()["shop"]
    assert "'notary' is one of its dealers, and a dealer is not answered" in told["error"]


def faulty(fault, seen):
    """A dealer's answer that repeats an earlier one, or deals a wrong number."""

    def answer(service, request):
        dealt = dealing.answer_deal(service, request)
        seen.append(dealt)
        if fault == "wrong":
            corrections = dealt.corrections.copy()
            corrections[-1] += np.uint64(1 << 20)
            return Dealt(seed=dealt.seed, sealed=dealt.sealed, corrections=corrections)
        if fault == "repeats":
            return seen[0]
        return Dealt(seed=dealt.seed, sealed=seen[0].sealed, corrections=dealt.corrections)

    return answer


@pytest.mark.parametrize(
    ("fault", "solver", "said"),
    [
        ("wrong", "moments", "'shop': its shares and the dealer's do not add up"),
        ("wrong", "latent", "'shop': its shares and the dealer's do not add up"),
        ("repeats", "moments", "'notary': dealt the same randomness twice"),
        ("reseals", "latent", "'shop': the dealer's seed cannot be opened"),
    ],
)
def test_a_dealer_that_is_wrong_or_repeats_itself_ends_the_fit(deal, data, fault, solver, said):
    made = data()
    there = deal(made, answers=faulty(fault, []))
    fitted = active(there, made, solver)
    with pytest.raises(PartyError, match=said):
        fitted.fit(made.own, made.y)
    assert is_unfitted(fitted)
    if fault == "reseals":  # the seal of an earlier fit, for another session's key
        with pytest.raises(PartyError, match=said):
            fitted.fit(made.own, made.y)
    gc.collect()


def test_a_dealer_keeps_to_its_quota_over_a_restart(deal, data):
    made = data()
    there = deal(made, quota=20_000)
    fitted = active(there, made).fit(made.own, made.y)
    usage = there.folder / "state-notary" / "usage.json"
    dealt = json.loads(usage.read_text())["bank"]["dealt_numbers"]
    assert 0 < dealt <= 20_000
    there.notary.stop(1.0)
    file = there.folder / "dealer.toml"
    address = there.notary.address
    file.write_text(
        f'name = "notary"\ncredentials = "notary"\nstate = "state-notary"\n'
        f'listen = "{address}"\nnumbers_per_day = {dealt + 1}\n'
    )
    with (
        DealerFile.read(file).server(),
        pytest.raises(PolicyRefusal, match=rf"'notary': .* {dealt} are used and .* more were"),
    ):
        fitted.fit(made.own, made.y)


class DealerProcess:
    """``fedtl dealer`` as a process."""

    def __init__(self, folder):
        self.log, self.file = folder / "dealer.log", folder / "dealer.toml"
        self.write(0)

    def write(self, port):
        self.file.write_text(
            f'name = "notary"\ncredentials = "notary"\nlisten = "127.0.0.1:{port}"\n'
        )

    def start(self):
        command = [sys.executable, "-m", "fedtl.cli", "dealer", str(self.file), "--grace", "1"]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        until = time.monotonic() + 60
        while "answers on" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        address = self.log.read_text().split("answers on ")[1].split()[0]
        self.write(address.rpartition(":")[2])
        return address

    def kill(self):
        self.process.kill()
        self.process.wait()


def test_a_dealer_killed_in_the_middle_of_a_fit_ends_it_and_the_next_one_succeeds(
    world, data, monkeypatch
):
    made = data()
    there = world(made, policy=TRUSTING)
    add_dealer(there)
    notary = DealerProcess(there.folder)
    try:
        there.dealer = {"notary": notary.start()}
        federation = there.connect(reconnect=1.0)
        fitted = active(there, made, "latent", federation=federation)
        asked, whole = [], dealing.Deals.ask

        def ask_and_kill(self, *arguments):
            asked.append(whole(self, *arguments))
            if len(asked) == 1:
                notary.kill()
            return asked[-1]

        monkeypatch.setattr(dealing.Deals, "ask", ask_and_kill)
        with pytest.raises(PartyUnreachable, match="'notary': .*begun again once the party is"):
            fitted.fit(made.own, made.y)
        assert len(asked) == 1  # what was dealt before its death was used for no sum
        assert is_unfitted(fitted)
    finally:
        notary.kill()
    file = DealerFile.read(notary.file)  # the same log, the same port
    with file.server():
        fitted.fit(made.own, made.y)
    assert len(asked) == 4
    for log in (there.audit_log(), there.folder / "state" / "audit.jsonl"):
        assert verify(log).problems == []


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("notary.example:9445", r"give one name and its address"),
        ({}, "give one name and its address"),
        ({"notary": "notary.example"}, "'notary.example' is no address"),
        ({"shop": "127.0.0.1:1"}, "'shop' is a party of this federation"),
        ({"bank": "127.0.0.1:1"}, "party name 'bank' is that of the dealer"),
    ],
)
def test_a_dealer_is_named_with_one_address_and_is_no_party(world, data, named, said):
    made = data()
    there = world(made, policy=TRUSTING)
    with pytest.raises(ValueError, match=said):
        active(there, made, privacy=SecretSharing(dealer=named)).fit(made.own, made.y)


def test_a_remote_dealer_does_not_deal_to_simulated_parties(data):
    made = data()
    with pytest.raises(ValueError, match="those here are simulated"):
        FederatedTransferClassifier(
            made.parties, solver="moments", privacy=SecretSharing(dealer={"notary": "h:1"})
        ).fit(made.X, made.y)


def test_a_file_of_a_dealer_is_read_as_strictly_as_a_party_s(tmp_path):
    (tmp_path / "dealer.toml").write_text('name = "notary"\nmin_rows = 5\n')
    with pytest.raises(ValueError, match=r"dealer.toml: unknown entries \['min_rows'\]"):
        DealerFile.read(tmp_path / "dealer.toml")
