"""A built wheel holds all that the program needs: the demo runs from it, away from the source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.full
def test_the_demo_runs_from_a_wheel(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    subprocess.run([*pip, "install", "--no-deps", "--target", installed, wheel], check=True)
    elsewhere.mkdir()
    where = "import mfer, flows.cli.main as m, sys; print(mfer.__file__, m.__file__); sys.argv[1:] = ['demo']; m.main()"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    ran = subprocess.run(
        [sys.executable, "-c", where], cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    assert all(Path(file).is_relative_to(installed) for file in ran.stdout.splitlines()[0].split())
    assert (elsewhere / "demo_out" / "timeline.png").is_file()
