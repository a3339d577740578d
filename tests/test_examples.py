"""Every example runs to its end, or says why it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "demo.py")


def run(script: Path, *arguments: str) -> str:
    """Run a script from the repository's root and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(script):
    printed = run(script)
    if printed.lower().startswith("skipped"):
        pytest.skip(printed.strip())
    assert printed.strip()


def test_the_demo_ends_with_a_table_and_saves_its_picture(tmp_path):
    printed = run(ROOT / "examples" / "demo.py", str(tmp_path / "demo.png"))
    assert "centralised" in printed
    assert (tmp_path / "demo.png").stat().st_size > 10_000
