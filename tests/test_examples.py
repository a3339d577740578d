"""Every example runs to its end, or says why it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
# Run with the slow tests: those that train networks for long, and those on data that do not ship
# with scikit-learn, which skip where the data are absent.
LONG = {"lora_transformer", "pretrained_encoder", "unet_hospitals"}


def is_long(path: Path) -> bool:
    """Whether an example takes more than half a minute."""
    return path.stem in LONG or "fetch_" in path.read_text()


EXAMPLES = [
    pytest.param(path, marks=[pytest.mark.slow] if is_long(path) else [])
    for path in sorted((ROOT / "examples").glob("*.py"))
    if path.name != "demo.py"
]


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


@pytest.mark.slow
def test_the_hospitals_segment_scans_of_a_nifti_folder(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel, fedtl[nifti]")
    rng = np.random.default_rng(0)
    for hospital in ("bern", "basel", "genf"):
        (tmp_path / hospital).mkdir()
        for case in range(8):
            mask = np.zeros((40, 36, 3), dtype=np.uint8)
            row, column = rng.integers(4, 24, 2)
            mask[row : row + 10, column : column + 10] = 1
            scan = (3 * mask + rng.normal(size=mask.shape)).astype(np.float32)
            for name, volume in ((f"{case}", scan), (f"{case}_mask", mask)):
                image = nibabel.Nifti1Image(volume, np.eye(4))
                nibabel.save(image, tmp_path / hospital / f"{name}.nii.gz")
    lines = run(ROOT / "examples" / "unet_hospitals.py", str(tmp_path)).splitlines()
    assert len(lines) == 3
    scores = [[float(score) for score in line.split(": ")[-1].split(", ")] for line in lines]
    assert np.shape(scores) == (3, 3)
    assert min(scores[0]) > 0.4
