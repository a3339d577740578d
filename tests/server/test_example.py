"""The example with three processes runs to its end."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_three_processes_train_together():
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
    alone, federated = done.stdout.split("alone ")[1].split("\n")[0].split(", federated ")
    assert float(federated) > float(alone) + 0.03
    assert done.stdout.count("problems: []") == 2
