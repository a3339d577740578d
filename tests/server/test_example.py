"""The example with four processes runs to its end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(name):
    """Run an example to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "remote" / name)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout)
    return done.stdout


@pytest.mark.slow
def test_hospitals_as_processes_fit_one_model():
    printed = run("hospitals.py")
    scores = printed.split("area under the curve: alone ")[1].split("\n")[0].split(", federated ")
    assert float(scores[1]) > float(scores[0]) + 0.01
    assert printed.count("problems: []") == 2


@pytest.mark.slow
def test_four_processes_train_together():
    printed = run("run.py")
    encrypted, shared = (
        [float(score) for score in part.split("\n")[0].split(", federated ")]
        for part in printed.split("cross-validated: alone ")[1:]
    )
    assert encrypted[1] > encrypted[0] + 0.03
    # The same sums under another protection.
    assert abs(shared[1] - encrypted[1]) < 1e-3
    assert printed.count("problems: []") == 3
