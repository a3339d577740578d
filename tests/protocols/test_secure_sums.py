"""Members of a secure sum: a coordinator that makes some up, or their keys, is found out."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cryptography")

from fedtl.exceptions import PartyError, PolicyRefusal
from fedtl.federation import InProcessChannel, Ledger
from fedtl.identity import Identity
from fedtl.parties import PartyService, Policy, Rows
from fedtl.privacy.fixed_point import read_limbs
from fedtl.privacy.keys import KeyPair, uniform
from fedtl.privacy.secure_aggregation import Member
from fedtl.privacy.shamir import join
from fedtl.protocols import ROW_ANSWERS
from fedtl.protocols.secure_statistics import SecureColumns, read_columns
from fedtl.protocols.secure_sums import (
    MOST_PROOF_BYTES,
    Begin,
    Masked,
    PublicKeys,
    Reveal,
    RevealedShares,
    Share,
    Shares,
    asked,
    begin,
    group_of,
    pack_keys,
    pack_proofs,
    read_keys,
)
from fedtl.protocols.statistics import ask_products
from fedtl.solvers.secure_sums import Exchange, TooFew
from fedtl.solvers.statistics import SecureStatistics

NAMES = ("basel", "genf", "zurich")
X = np.random.default_rng(0).normal(size=(40, 3))


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    """Members and their caller, who know one another, and somebody whom nobody knows."""
    folder = tmp_path_factory.mktemp("identities")
    made = {name: Identity.create(folder / name, name) for name in (*NAMES, "bank", "stranger")}
    for one in NAMES:
        for other in {*NAMES, "bank"} - {one}:
            made[one].pin(made[other].certificate, made[other].fingerprint)
    return made


def service(identities, name, i, members=NAMES):
    """A party that names its members; the caller's own rows are the member 'own'."""
    own = name == "own"
    policy = Policy() if own or not members else Policy(members=frozenset(members) - {name})
    return PartyService(
        name,
        Rows(X[10 * i : 10 * i + 10]),
        None,
        ROW_ANSWERS,
        policy=policy,
        identity=identities["bank" if own else name],
        caller=None if own else "bank",
    )


def channels(identities, names=("basel", "genf", "own", "zurich"), kind=InProcessChannel, **named):
    services = {name: service(identities, name, i, **named) for i, name in enumerate(names)}
    return {name: kind(each, Ledger(), serialize=True) for name, each in services.items()}


@pytest.mark.parametrize("names", [("basel", "genf", "own", "zurich"), NAMES], ids=len)
def test_members_that_are_who_they_are_said_to_be_add_up_as_in_the_clear(identities, names):
    to = channels(identities, names)
    found = SecureStatistics(to, "f").products(3, targets=False)[0]
    plain = ask_products(to, "f", 3, targets=False).values()
    expected = np.cov(X[: 10 * len(plain)].T, ddof=0) * 10 * len(plain)
    np.testing.assert_allclose(found.products, expected, atol=1e-9)


# Who is a member


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("basel", "own", "zurich"), r"all of \['basel', 'genf'\]; \['genf'\] are missing"),
        (("basel", "genf", "own", "schwyz", "zurich"), r"\['own', 'schwyz'\] are more than the"),
        (("basel", "geneva", "own", "zurich"), r"\['genf'\] are missing"),
    ],
)
def test_a_party_adds_up_with_those_that_it_names_and_nobody_else(identities, names, said):
    group = group_of("f", 0, names, len(names))
    zurich = channels(identities)["zurich"]
    with pytest.raises(PolicyRefusal, match=f"'zurich': its policy .*{said}"):
        zurich.ask(begin("f", 0, group), PublicKeys)


@pytest.mark.parametrize("own", [[], ["own"]], ids=["no rows", "own rows"])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_a_threshold_is_refused_with_which_two_stories_could_be_told(n, own):
    # Shares of a member's secrets that could be had with one story and with another.
    members = [f"m{i}" for i in range(n)]
    policy = Policy(members=frozenset(members[1:]))
    for threshold in range(n + len(own) + 1):
        both_told = n + 2 * len(own) >= 2 * threshold
        refused = False
        try:
            policy.allow_members("m0", members + own, threshold)
        except PolicyRefusal:
            refused = True
        assert refused == both_told


# Whose keys they are


class Forging(InProcessChannel):
    """A coordinator's end that changes what the party is told of all members' keys."""

    forge = staticmethod(lambda request: request)

    def ask(self, request, expected):
        changed = self.forge(request) if isinstance(request, Share) else request
        return super().ask(changed, expected)


def forged(identities, member, keys, proof):
    """Members, of whom zurich is shown these keys of another one, and this proof."""
    to = channels(identities, kind=Forging)

    def forge(request):
        place = list(to).index(member)
        all_keys = request.keys.copy()
        if keys is not None:
            all_keys[place] = keys
        width = max(request.proofs.shape[1], len(proof or b""))
        proofs = np.zeros((len(all_keys), width), dtype=np.uint8)
        proofs[:, : request.proofs.shape[1]] = request.proofs
        if proof is not None:
            proofs[place] = 0
            proofs[place, : len(proof)] = np.frombuffer(proof, dtype=np.uint8)
        return replace(request, keys=all_keys, proofs=proofs)

    to["zurich"].forge = forge
    return to


def keys_of(name, fit="f", names=("basel", "genf", "own", "zurich"), threshold=4, index=0):
    """Keys that somebody makes in the name of a member, and the sum that they are for."""
    group = group_of(fit, index, names, threshold)
    shown = Member(name, group).advertise()
    return group, shown, pack_keys(group, {name: shown})[group.place(name) - 1]


def proof_of(identity, name, group, shown):
    """What the identity signs when it is asked to begin, in the name of a member."""
    party = PartyService(name, Rows(X), None, ROW_ANSWERS, identity=identity)
    fit, index = group.context.split(" sum ")
    asked = begin(fit, int(index), group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Member, "advertise", lambda _: shown)
        return party.answer(asked).proof.tobytes()


def test_the_keys_of_another_are_refused_by_name(identities):
    # Whoever has the private key to the keys that zurich is shown takes masks off its numbers.
    for member in ("basel", "own"):
        _, _, packed = keys_of(member)
        owner = "bank" if member == "own" else member
        said = f"'zurich': the keys of '{member}' were signed .* by nobody .* not by '{owner}'"
        with pytest.raises(PolicyRefusal, match=said):
            # In the middle: the member's own signature, of other keys.
            SecureStatistics(forged(identities, member, packed, None), "f").columns(3)


@pytest.mark.parametrize(
    ("member", "signs", "who"),
    [
        ("basel", "bank", "'bank', and not by 'basel'"),
        ("basel", "genf", "'genf', and not by 'basel'"),
        ("basel", "stranger", "nobody whom it has pinned, and not by 'basel'"),
        ("own", "genf", "'genf', and not by 'bank'"),
        ("own", "stranger", "nobody whom it has pinned, and not by 'bank'"),
    ],
)
def test_a_member_that_is_made_up_is_refused_by_name(identities, member, signs, who):
    group, shown, packed = keys_of(member)
    proof = proof_of(identities[signs], member, group, shown)
    with pytest.raises(
        PolicyRefusal, match=f"'zurich': the keys of '{member}' .* by {who}: if its"
    ):
        SecureStatistics(forged(identities, member, packed, proof), "f").columns(3)


@pytest.mark.parametrize(
    "other",
    [
        {"index": 1},
        {"fit": "g"},
        {"threshold": 3},
        {"names": ("basel", "genf", "zurich", "own")},
        {"names": NAMES, "threshold": 3},
    ],
    ids=str,
)
def test_keys_that_were_signed_for_another_sum_are_refused(identities, other):
    group, shown, packed = keys_of("basel", **other)
    proof = proof_of(identities["basel"], "basel", group, shown)
    with pytest.raises(PolicyRefusal, match=r"'zurich': the keys of 'basel' were .* by nobody"):
        SecureStatistics(forged(identities, "basel", packed, proof), "f").columns(3)
    # The check fails for what is signed, and for nothing else in what was forged.
    group, shown, packed = keys_of("basel")
    proof = proof_of(identities["basel"], "basel", group, shown)
    with pytest.raises(PartyError, match="secure aggregation: ") as raised:
        SecureStatistics(forged(identities, "basel", packed, proof), "f").columns(3)
    assert not isinstance(raised.value, PolicyRefusal)


def test_who_is_revoked_is_no_member_any_more(identities, tmp_path):
    basel = Identity.create(tmp_path / "basel", "basel")
    zurich = identities["zurich"]
    zurich.pin(basel.certificate, basel.fingerprint)
    to = channels({**identities, "basel": basel}, members=())
    to["zurich"]._service.policy = Policy(members=frozenset({"basel", "genf"}))
    statistics = SecureStatistics(to, "f")
    statistics.columns(3)
    zurich.revoke(basel.fingerprint)
    with pytest.raises(PolicyRefusal, match="'zurich': the keys of 'basel' .* pin it with"):
        statistics.columns(3)


def test_a_party_without_an_identity_knows_no_member(identities):
    to = channels(identities, members=())
    to["zurich"]._service.policy = Policy(members=frozenset({"basel", "genf"}))
    to["zurich"]._service.identity = None
    with pytest.raises(PolicyRefusal, match="'zurich': the keys of 'basel' .* by nobody"):
        SecureStatistics(to, "f").columns(3)


def test_a_party_that_names_nobody_takes_the_coordinator_at_its_word(identities):
    _, _, packed = keys_of("basel")
    to = forged(identities, "basel", packed, None)
    to["zurich"]._service.policy = Policy()
    with pytest.raises(PartyError) as raised:  # of wrong shares, and only then
        SecureStatistics(to, "f").columns(3)
    assert not isinstance(raised.value, PolicyRefusal)


# Who drops out


class Leaving(InProcessChannel):
    """A member that has gone when it is asked this."""

    leaves_at = ()

    def ask(self, request, expected):
        if isinstance(request, self.leaves_at):
            raise PartyError(self.name, "has gone")
        return super().ask(request, expected)


def add_up(to, threshold=3):
    """One sum of columns, and the exchange that it came of."""
    exchange = Exchange("f", 0, group_of("f", 0, list(to), threshold), to)
    center = np.zeros((1, 3))

    def request(sealed):
        return SecureColumns(fit="f", index=0, n_classes=0, center=center, sealed=sealed)

    try:
        return read_columns(read_limbs(exchange.run(request, 39)), center), exchange
    except TooFew:
        return None, exchange


@pytest.mark.parametrize(("step", "n_rows"), [(Begin, 30), (SecureColumns, 30), (Reveal, 40)])
def test_a_named_member_may_drop_out(identities, step, n_rows):
    to = channels(identities, kind=Leaving)
    to["genf"].leaves_at = step
    found, _ = add_up(to)
    assert found.count.tolist() == [[n_rows] * 3]


def test_shares_cannot_be_withheld_from_a_party_that_names_its_members(identities):
    # With masks in common with few, it would be alone in the sum once these are said to be gone.
    to = channels(identities, kind=Leaving)
    to["genf"].leaves_at = Share
    found, exchange = add_up(to)
    assert found is None
    told = {error.party: error.problem for error in exchange.errors}
    assert "no shares came of ['genf']" in told["zurich"]
    assert "no shares came of ['genf']" in told["basel"]
    trusting = channels(identities, kind=Leaving, members=())
    trusting["genf"].leaves_at = Share
    assert add_up(trusting)[0].count.tolist() == [[30] * 3]


def attack(to):
    """Uncover zurich's numbers: it gets no shares of genf's, and basel is said to be gone."""
    group = group_of("f", 0, list(to), 3)
    shown = {name: to[name].ask(begin("f", 0, group), PublicKeys) for name in to}
    keys = {name: read_keys(reply.keys) for name, reply in shown.items()}
    proofs = pack_proofs(group, {name: reply.proof for name, reply in shown.items()})
    share = Share(fit="f", keys=pack_keys(group, keys), proofs=proofs)
    sealed = np.stack([to[name].ask(share, Shares).sealed for name in to])
    numbers = {}
    for place, name in enumerate(to):
        told = sealed[:, place].copy()
        if name == "zurich":
            told[group.place("genf") - 1] = 0
        request = SecureColumns(fit="f", index=0, n_classes=0, center=np.zeros((1, 3)), sealed=told)
        numbers[name] = to[name].ask(request, Masked).values.copy()
    stayed = Reveal(fit="f", stayed=np.array([name != "basel" for name in to]))
    shares = {n: to[n].ask(stayed, RevealedShares).shares for n in ("basel", "genf", "own")}

    def secret(name):
        place = group.place(name) - 1
        return join({group.place(n): s[place].tobytes() for n, s in shares.items()}, 3, 32)

    found = numbers["zurich"] - uniform(secret("zurich"), "own mask", (39,), np.uint64)
    own = to["own"]._service.fits["f"]["secure_sums"].member._masks
    for pair in (KeyPair(secret("basel")), own):
        mask = pair.agree(
            keys["zurich"].masks, f"fedtl masks/1|{group.context}|{asked(request).hex()}"
        )
        found += uniform(mask, "pair mask", (39,), np.uint64)
    return read_columns(read_limbs(found), np.zeros((1, 3)))


def test_a_coordinator_that_withholds_shares_uncovers_a_party_that_names_nobody(identities):
    found = attack(channels(identities, members=()))
    np.testing.assert_allclose(found.mean[0], X[30:].mean(axis=0))
    with pytest.raises(PartyError, match=r"'zurich': no shares came of \['genf'\]"):
        attack(channels(identities))


class Singling(InProcessChannel):
    """Asks genf something else than the others."""

    def ask(self, request, expected):
        if isinstance(request, SecureColumns) and self.name == "genf":
            request = replace(request, center=request.center + 1e-9)
        return super().ask(request, expected)


def test_who_is_asked_something_else_than_the_others_stays_masked(identities):
    # Else all others could be asked for next to nothing, and the sum would be that of one.
    to = channels(identities, kind=Singling)
    exchange = Exchange("f", 0, group_of("f", 0, list(to), 4), to)

    def request(sealed):
        return SecureColumns(fit="f", index=0, n_classes=0, center=np.zeros((1, 3)), sealed=sealed)

    came = exchange.run(request, 39)
    assert exchange.stayed == list(to)
    assert (came > 2**50).sum() > 20  # the limbs of a sum are small numbers, or small negative ones
    assert (came < 2**64 - 2**50).sum() > 20


class Long(InProcessChannel):
    """A member whose proof is too long to be handed on to all others."""

    def ask(self, request, expected):
        reply = super().ask(request, expected)
        if isinstance(reply, PublicKeys) and self.name == "genf":
            return replace(reply, proof=np.ones(MOST_PROOF_BYTES + 1, dtype=np.uint8))
        return reply


def test_a_proof_of_any_length_is_not_handed_on(identities):
    to = channels(identities, kind=Long)
    with pytest.raises(PartyError, match="'genf': sent a proof of 16,385 bytes"):
        SecureStatistics(to, "f").columns(3)


@settings(max_examples=100, deadline=None)
@given(
    members=st.binary(max_size=40)
    | st.just(b'["basel", "genf", "zurich", "own"]')
    | st.just(b'["basel", "genf", "zurich", "\\ud800"]')
    | st.lists(st.sampled_from([*NAMES, "own", "", 0, None])).map(lambda n: json.dumps(n).encode()),
    index=st.integers(-(2**63), 2**63 - 1),
    threshold=st.integers(2, 5) | st.integers(-(2**63), 2**63 - 1),
)
def test_whatever_sum_is_begun_keys_are_made_for_the_named_members_alone(
    identities, *, members, index, threshold
):
    zurich = channels(identities)["zurich"]
    asked = np.frombuffer(members, dtype=np.uint8)
    with contextlib.suppress(PartyError):
        zurich.ask(Begin(fit="f", index=index, members=asked, threshold=threshold), PublicKeys)
        told = json.loads(members)
        assert {*NAMES} <= {*told} <= {*NAMES, "own"}
        assert len(told) < 2 * threshold - ("own" in told)


@settings(max_examples=60, deadline=None)
@given(
    names=st.permutations(["basel", "genf", "own", "zurich"]),
    gone=st.sets(st.integers(0, 3), max_size=2),
    keys=st.dictionaries(st.integers(0, 3), st.binary(min_size=96, max_size=96), max_size=1),
    proofs=st.dictionaries(st.integers(0, 3), st.binary(max_size=900), max_size=1),
    flipped=st.none() | st.integers(0, 3000),
    width=st.none() | st.integers(0, 2000),
)
def test_a_party_shares_its_secrets_for_keys_that_each_member_has_signed_alone(
    identities, *, names, gone, keys, proofs, flipped, width
):
    to = channels(identities)
    group = group_of("f", 0, names, 3)
    shown = {n: to[n].ask(begin("f", 0, group), PublicKeys) for n in names}
    packed = pack_keys(group, {n: read_keys(r.keys) for n, r in shown.items()})
    proven = pack_proofs(group, {n: r.proof for n, r in shown.items()})
    told = packed.copy()
    for place in gone:
        told[place] = 0
    for place, raw in keys.items():
        told[place] = np.frombuffer(raw, dtype=np.uint8).reshape(3, 32)
    for place, raw in proofs.items():
        proven[place, : len(raw)] = np.frombuffer(raw, dtype=np.uint8)[: proven.shape[1]]
    if flipped is not None:
        proven.flat[flipped % proven.size] ^= 1
    if width is not None:
        proven = np.pad(proven, ((0, 0), (0, 2000)))[:, :width]
    try:
        reply = to["zurich"].ask(Share(fit="f", keys=told, proofs=proven), Shares)
    except PartyError:
        assert gone or keys or proofs or flipped is not None or width is not None
        return
    for name, keys_told, keys_made, sealed in zip(names, told, packed, reply.sealed, strict=True):
        left = keys_told.any()
        assert sealed.any() == (left and name != "zurich")
        assert not left or (keys_told == keys_made).all()
