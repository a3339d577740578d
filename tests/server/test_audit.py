"""The audit log shows what was done to it, as far as that can be found."""

import json
import os
import re
import resource
import subprocess
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedtl.cli import main
from fedtl.server import AuditError, AuditLog, Head, read_head, verify


@pytest.fixture
def log(tmp_path):
    """The path of a log of ten lines."""
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path)
    for i in range(10):
        audit.append(caller="bank", i=i, text='a "quoted" é')
    audit.close()
    return path


def write(path, lines, head=None):
    path.write_bytes(b"".join(lines))
    if head is not None:
        (path.parent / "audit.jsonl.head").write_text(str(head))


def test_a_log_as_it_was_written_verifies_and_goes_on(log):
    assert verify(log).problems == []
    assert verify(log).head == read_head(log)
    audit = AuditLog(log)
    audit.append(more=True)
    audit.close()
    assert verify(log).head.n == 11
    assert oct(log.stat().st_mode & 0o777) == "0o600"


CHANGES = {
    "changed": lambda lines: [*lines[:4], lines[4].replace(b'"i":4', b'"i":5'), *lines[5:]],
    "changed in its blanks": lambda lines: [lines[0].replace(b',"i"', b', "i"'), *lines[1:]],
    "hash recomputed": lambda lines: [*lines[:4], rehashed(lines[4]), *lines[5:]],
    "removed": lambda lines: [*lines[:4], *lines[5:]],
    "first removed": lambda lines: lines[1:],
    "reordered": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "repeated": lambda lines: [*lines[:5], lines[4], *lines[5:]],
    "no JSON": lambda lines: [*lines[:4], b"hello\n", *lines[5:]],
    "a line between": lambda lines: [*lines[:4], b"\n", *lines[4:]],
    "end cut off": lambda lines: lines[:-1],
    "all cut off": lambda lines: [],
}


def rehashed(line):
    """A changed line with the right hash of its own: its successor does not fit."""
    import hashlib

    told = json.loads(line)
    told.pop("hash")
    told["i"] = 99
    text = json.dumps(told, separators=(",", ":")).encode()
    return text[:-1] + f',"hash":"{hashlib.sha256(text).hexdigest()}"}}\n'.encode()


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_done_to_lines_is_found(log, change):
    write(log, CHANGES[change](log.read_bytes().splitlines(keepends=True)))
    assert verify(log).problems
    assert main(["audit", "verify", str(log)]) == 1


def test_an_end_that_was_cut_off_with_its_head_is_found_by_a_line_noted_down(log, capsys):
    lines = log.read_bytes().splitlines(keepends=True)
    noted = verify(log).head
    last = json.loads(lines[7])
    write(log, lines[:8], Head(last["n"], last["hash"]))
    assert verify(log).problems == []  # so far it cannot be found
    assert verify(log, noted).problems == ["the log ends with line 8, but line 10 was written"]
    assert main(["audit", "verify", str(log), "--head", str(noted)]) == 1
    assert main(["audit", "verify", str(log)]) == 0
    assert f"head: 8:{last['hash']}" in capsys.readouterr().out


def test_a_history_written_anew_is_found_by_a_line_noted_down(log):
    noted = verify(log).head
    log.unlink()
    log.with_name("audit.jsonl.head").unlink()
    audit = AuditLog(log)
    for i in range(12):
        audit.append(i=i)
    audit.close()
    assert verify(log).problems == []
    assert "not the line 10 noted before" in verify(log, noted).problems[0]


def test_a_service_does_not_go_on_with_a_log_that_was_cut_off(log):
    write(log, log.read_bytes().splitlines(keepends=True)[:5])
    with pytest.raises(AuditError, match="ends with line 5, but its last line was 10"):
        AuditLog(log)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 200))
def test_a_torn_last_line_is_told_of_and_kept(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    audit = AuditLog(path)
    for i in range(3):
        audit.append(i=i)
    audit.close()
    whole = path.read_bytes()
    # The head is written after its line: a torn line has none yet.
    told = json.loads(whole.splitlines()[1])
    (path.parent / "audit.jsonl.head").write_text(str(Head(2, told["hash"])))
    start = whole.rindex(b"\n", 0, -1) + 1
    torn = whole[start : start + min(cut, len(whole) - start - 1)]
    path.write_bytes(whole[:start] + torn)
    verdict = verify(path)
    assert verdict.problems == []
    assert "torn" in verdict.notes[0]
    audit = AuditLog(path)
    audit.append(again=True)
    audit.close()
    verdict = verify(path)
    assert verdict.problems == []
    assert re.match("line 3: torn when the service died", verdict.notes[0])
    assert torn in path.read_bytes()
    assert verdict.head.n == 4


def test_two_services_cannot_write_one_log(log):
    audit = AuditLog(log)
    with pytest.raises(AuditError, match="another process writes"):
        AuditLog(log)
    audit.close()
    with pytest.raises(AuditError, match="closed"):
        audit.append(x=1)


def test_lines_of_many_threads_are_one_chain(tmp_path):
    audit = AuditLog(tmp_path / "audit.jsonl", every_line=True)

    def run(i):
        for j in range(20):
            audit.append(i=i, j=j)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.close()
    assert verify(tmp_path / "audit.jsonl").head.n == 80
    assert verify(tmp_path / "audit.jsonl").problems == []


def test_a_clock_that_jumps_does_not_matter(log, monkeypatch):
    import datetime

    class Jumped(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(1970, 1, 1, tzinfo=tz)

    monkeypatch.setattr("fedtl.server._audit.datetime.datetime", Jumped)
    audit = AuditLog(log)
    audit.append(late=True)
    audit.close()
    assert b"1970-01-01" in log.read_bytes()
    assert verify(log).problems == []


FULL = """
import sys
from fedtl.server import AuditError, AuditLog
audit = AuditLog(sys.argv[1])
n = 0
try:
    while True:
        audit.append(n_written=n, filler="x" * 100)
        n += 1
except AuditError as error:
    print(n, error)
audit.close()
"""


def test_a_file_that_may_not_grow_ends_with_a_whole_line(tmp_path):
    path = tmp_path / "audit.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
    )
    n = int(done.stdout.split()[0])
    assert 5 < n < 20
    assert "cannot be written" in done.stdout
    assert verify(path).problems == []
    assert verify(path).notes == []
    assert verify(path).head.n == n
    assert os.path.getsize(path) <= 4000
