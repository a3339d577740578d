"""Sums come out whoever drops out, summands never do, and no sum is ever wrong."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedtl.privacy import CryptoError, FixedPointError
from fedtl.privacy.secure_aggregation import Group, Member, plan_sum, read_sum, total

NAMES = tuple("abcdef")


class Run:
    """All members of one sum, up to where the summands are masked."""

    def __init__(self, names=NAMES, threshold=4, absent=(), unshared=(), dtype="uint32"):
        self.group = Group(tuple(names), threshold, "test", dtype)
        self.members = {name: Member(name, self.group) for name in names if name not in absent}
        self.keys = {name: member.advertise() for name, member in self.members.items()}
        self.sent = {
            name: member.share(self.keys)
            for name, member in self.members.items()
            if name not in unshared
        }
        for name in self.sent:
            self.members[name].receive(
                {sender: sent[name] for sender, sent in self.sent.items() if sender != name}
            )

    def mask(self, values):
        return {name: self.members[name].mask(value) for name, value in values.items()}

    def reveal(self, masked, silent=()):
        return {
            name: self.members[name].reveal(set(masked)) for name in masked if name not in silent
        }

    def total(self, masked, revealed):
        return total(self.group, self.keys, set(self.sent), masked, revealed)


def summands(names=NAMES, dtype="uint32", shape=(3, 2)):
    rng = np.random.default_rng(0)
    most = np.iinfo(dtype).max
    return {name: rng.integers(0, most, shape, dtype=dtype, endpoint=True) for name in names}


def add(values, names):
    return np.sum([values[name] for name in names], axis=0, dtype=next(iter(values.values())).dtype)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, 3, 4]), min_size=6, max_size=6), st.booleans())
def test_the_sum_is_that_of_who_stayed_wherever_others_dropped_out(when, wide):
    dtype = "uint64" if wide else "uint32"
    # Each member drops out before advertising, sharing, masking or revealing, or not at all.
    drop = dict(zip(NAMES, when, strict=True))
    values = summands(dtype=dtype)
    present = [[n for n in NAMES if drop[n] > step] for step in range(4)]
    present = [names if len(names) >= 4 else None for names in present]
    if None in present:
        with pytest.raises(CryptoError, match="threshold"):
            play(values, drop, dtype)
    else:
        np.testing.assert_array_equal(play(values, drop, dtype), add(values, present[2]))


def play(values, drop, dtype):
    absent = [n for n in NAMES if drop[n] == 0]
    run = Run(absent=absent, unshared=[n for n in NAMES if drop[n] <= 1], dtype=dtype)
    masked = run.mask({n: values[n] for n in NAMES if drop[n] > 2})
    return run.total(masked, run.reveal(masked, silent=[n for n in NAMES if drop[n] == 3]))


def test_two_members_can_add_up():
    run = Run(names=("a", "b"), threshold=2)
    masked = run.mask(summands(("a", "b")))
    revealed = run.reveal(masked)
    np.testing.assert_array_equal(run.total(masked, revealed), add(summands(("a", "b")), "ab"))


def test_real_numbers_add_up_to_the_fixed_point_error():
    values = {n: np.random.default_rng(ord(n)).uniform(-4, 4, 50) for n in NAMES}
    for dtype, error in (("uint32", 1e-6), ("uint64", 1e-11)):
        fixed = plan_sum(2, len(NAMES), dtype)
        run = Run(dtype=dtype)
        masked = run.mask({n: fixed.encode(v).astype(dtype) for n, v in values.items()})
        result = read_sum(fixed, run.total(masked, run.reveal(masked)))
        np.testing.assert_allclose(result, sum(values.values()), atol=error)


@given(st.integers(0, 12), st.integers(2, 500))
def test_the_largest_possible_sum_does_not_wrap_around(magnitude, n):
    fixed = plan_sum(magnitude, n)
    assert n * int(fixed.encode(np.array([2.0**magnitude]))[0]) < 2**31


def test_sums_that_do_not_fit_are_refused():
    with pytest.raises(FixedPointError, match="use uint64"):
        plan_sum(20, 100)


@pytest.mark.parametrize("value", [0, 1, 2**31])
def test_bytes_of_a_masked_summand_are_uniform_whatever_it_is(value):
    run = Run()
    masked = run.mask({"a": np.full(20_000, value, dtype=np.uint32)})["a"]
    assert chisquare(np.bincount(masked.view(np.uint8), minlength=256)).pvalue > 1e-6


def test_neither_pairwise_masks_nor_the_own_mask_alone_uncover_a_summand():
    values = {name: np.zeros(8, dtype=np.uint32) for name in NAMES}
    run = Run()
    masked = run.mask(values)
    # All summands are zero, so that what is left after pairwise masks cancel are own masks.
    assert add(masked, NAMES).any()
    assert all(m.any() for m in masked.values())


def test_never_both_kinds_of_share_are_revealed_for_one_member():
    run = Run()
    masked = run.mask({n: v for n, v in summands().items() if n != "c"})
    revealed = run.reveal(masked)
    for part in revealed.values():
        assert set(part.own_masks) == set(NAMES) - {"c"}
        assert set(part.mask_keys) == {"c"}
    with pytest.raises(CryptoError, match="masks serve one sum"):
        run.members["a"].reveal(set(NAMES))


def test_a_member_masks_once_and_in_order():
    run = Run()
    values = summands()
    with pytest.raises(CryptoError, match="follows 'masked'"):
        run.members["a"].reveal(set(NAMES))
    run.members["a"].mask(values["a"])
    for again in (lambda m: m.mask(values["a"]), lambda m: m.share(run.keys)):
        with pytest.raises(CryptoError, match="'a': masks serve one sum"):
            again(run.members["a"])


def test_too_few_members_are_refused_at_every_step():
    run = Run()
    masked = run.mask({n: summands()[n] for n in "abc"})
    with pytest.raises(
        CryptoError, match="after masking: 3 of 6 members are left, the threshold is 4"
    ):
        run.members["a"].reveal(set(masked))
    with pytest.raises(CryptoError, match="for a sum"):
        run.total(masked, {})
    with pytest.raises(CryptoError, match="before sharing"):
        Run(absent="abc")
    with pytest.raises(CryptoError, match="after sharing"):
        Run(unshared="abc")


def test_the_aggregator_needs_the_threshold_of_revealing_members():
    run = Run()
    masked = run.mask(summands())
    revealed = run.reveal(masked, silent="abc")
    with pytest.raises(CryptoError, match="for taking masks off: 3 of 6"):
        run.total(masked, revealed)


@pytest.mark.parametrize("kind", ["own_masks", "mask_keys"])
def test_a_wrong_share_gives_an_error_and_no_wrong_sum(kind):
    run = Run()
    masked = run.mask({n: v for n, v in summands().items() if n != "f"})
    revealed = run.reveal(masked)
    shares = dict(getattr(revealed["a"], kind))
    name = next(iter(shares))
    shares[name] = shares[name][:-1] + bytes([shares[name][-1] ^ 1])
    revealed["a"] = dataclasses.replace(revealed["a"], **{kind: shares})
    with pytest.raises(CryptoError, match=f"{name!r}"):
        run.total(masked, revealed)


def test_shares_for_another_set_of_members_are_refused():
    run = Run()
    masked = run.mask(summands())
    revealed = run.reveal(masked)
    del masked["f"]
    with pytest.raises(CryptoError, match="for other members than are added up"):
        run.total(masked, revealed)


def test_changed_swapped_and_uncalled_for_shares_are_refused():
    group = Group(tuple("abc"), 2, "test")
    members = {name: Member(name, group) for name in "abc"}
    keys = {name: member.advertise() for name, member in members.items()}
    sent = {name: member.share(keys) for name, member in members.items()}
    changed = sent["b"]["a"][:-1] + bytes([sent["b"]["a"][-1] ^ 1])
    for data in (changed, sent["b"]["c"], sent["c"]["a"]):
        member = Member.__new__(Member)
        member.__dict__ = dict(members["a"].__dict__)
        with pytest.raises(CryptoError, match="changed, sealed to another key"):
            member.receive({"b": data})
    with pytest.raises(CryptoError, match="came unasked for"):
        members["a"].receive({"a": sent["b"]["a"], "b": sent["b"]["a"]})


def test_shares_open_only_for_those_who_were_told_the_same_keys():
    # Else a member that is made to begin twice could be gone in one sum and be there in another.
    group = Group(tuple("abc"), 2, "test")
    members = {name: Member(name, group) for name in "abc"}
    keys = {name: member.advertise() for name, member in members.items()}
    begun_anew = {**keys, "c": Member("c", group).advertise()}
    sent = {name: members[name].share(begun_anew if name == "b" else keys) for name in "abc"}
    with pytest.raises(CryptoError, match="another context"):
        members["a"].receive({"b": sent["b"]["a"]})
    members["c"].receive({"a": sent["a"]["c"]})


def test_keys_that_came_back_changed_or_twice_are_refused():
    group = Group(tuple("abc"), 2, "test")
    members = {name: Member(name, group) for name in "abc"}
    keys = {name: member.advertise() for name, member in members.items()}
    with pytest.raises(CryptoError, match="its own keys came back changed"):
        Member("a", group).share(keys)
    with pytest.raises(CryptoError, match="two members have the same key"):
        members["a"].share(keys | {"b": keys["c"]})


@pytest.mark.parametrize(
    ("members", "threshold", "dtype", "said"),
    [
        (("a",), 1, "uint32", "two members or more"),
        (("a", "a"), 2, "uint32", "named once"),
        (("a", "b"), 1, "uint32", "more than half"),
        (("a", "b", "c"), 4, "uint32", "at most all"),
        (("a", "b"), 2, "float32", "uint32 or uint64"),
    ],
)
def test_a_group_that_protects_nobody_is_refused(members, threshold, dtype, said):
    with pytest.raises(CryptoError, match=said):
        Group(members, threshold, "test", dtype)


def test_strangers_and_other_types_are_refused():
    run = Run()
    with pytest.raises(CryptoError, match="'z' is no member"):
        Member("z", run.group)
    with pytest.raises(CryptoError, match="summands are uint32, got float64"):
        run.members["a"].mask(np.ones(3))
    masked = run.mask(summands())
    masked["b"] = masked["b"][:1]
    with pytest.raises(CryptoError, match="one shape"):
        run.total(masked, run.reveal(masked))


def test_a_member_shows_no_secret():
    member = Run().members["a"]
    assert repr(member) == "Member('a', received)"
