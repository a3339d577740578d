"""The example with four processes runs to its end."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_four_processes_train_together():
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "remote" / "run.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout)
    encrypted, shared = (
        [float(score) for score in part.split("\n")[0].split(", federated ")]
        for part in done.stdout.split("cross-validated: alone ")[1:]
    )
    assert encrypted[1] > encrypted[0] + 0.03
    # The same sums under another protection.
    assert abs(shared[1] - encrypted[1]) < 1e-3
    assert done.stdout.count("problems: []") == 3
