"""Hostile messages are refused; none makes the service crash, hang or grow."""

import contextlib
import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from fedtl.server import verify
from fedtl.wire import Frame, Limits, WireError, pack, unpack

LIMITS = Limits(message_bytes=5000)
NAMES = st.binary(min_size=8, max_size=8)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_message_meets_an_error_that_was_not_foreseen(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fedtl.server"), "disabled", True)
    with np.errstate(all="ignore"):
        findings, endpoint = fuzz.run(3000, 7, tmp_path)
    assert findings.own_errors == {}
    assert sum(findings.outcomes.values()) == 3000
    # They reach every part: the frame, the order, sessions, handlers, and some are answered.
    expected = {"wire", "conversation", "session", "party", "answered"}
    assert expected <= set(findings.outcomes)
    assert endpoint.n_sessions <= 8
    assert verify(tmp_path / "audit.jsonl").problems == []


@given(
    NAMES,
    NAMES,
    st.integers(1, 2**64 - 1),
    st.binary(max_size=5000) | st.integers(0, 5000).map(bytes),
    st.booleans(),
)
def test_a_frame_comes_back_as_it_was(group, conversation, number, body, compressed):
    frame = Frame(group, conversation, number, body, compressed)
    data = pack(frame)
    assert unpack(data, LIMITS) == frame
    assert len(data) <= len(body) + 40


def test_only_what_becomes_half_as_long_is_compressed():
    noise = np.random.default_rng(0).bytes(100_000)
    for body, smaller in ((noise, False), (bytes(100_000), True), (bytes(100), False)):
        plain, packed = (
            len(pack(Frame(b"g" * 8, b"c" * 8, 1, body, compressed)))
            for compressed in (False, True)
        )
        assert (packed < plain // 2) == smaller
        assert packed <= plain


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=100), st.integers(0, 60), st.binary(max_size=40), st.booleans())
def test_any_bytes_are_a_frame_or_refused(noise, at, inserted, compressed):
    frame = pack(Frame(b"g" * 8, b"c" * 8, 1, bytes(4200), compressed))
    for data in (
        noise,
        frame[:at] + inserted + frame[at:],
        frame[:at],
        frame[:at] + frame[at + 1 :],
    ):
        with contextlib.suppress(WireError):
            assert len(unpack(data, LIMITS).body) <= LIMITS.message_bytes
