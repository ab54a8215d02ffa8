"""docs/operations.md is run as it stands: a model's whole life, one block after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.scoring.lookup import DEFAULT_MODEL
from tests.labelled import made_faces, write_parquet

ROOT = Path(__file__).resolve().parents[3]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, write_talk: Callable[..., Path]) -> Path:
    """What the page asks for: clips, clips that come later, and a base set of 224 small faces."""
    for place in ("videos", "more", "faces"):
        (tmp_path / place).mkdir()
    for k, name in enumerate(("one", "two", "three")):
        write_talk(tmp_path / "videos" / f"{name}.mp4", list(range(40 * k, 40 * k + 4)))
    write_talk(tmp_path / "more" / "four.mp4", [20, 21, 22])
    write_parquet(tmp_path / "faces" / "train.parquet", made_faces(96, prefix="t"))
    write_parquet(tmp_path / "faces" / "valid.parquet", made_faces(128, seed=1, prefix="v"))
    return tmp_path


@pytest.mark.full
def test_the_walk_of_the_documentation_goes_the_whole_way(folder: Path) -> None:
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "COLUMNS": "200",
    }
    output = []
    for block in BLOCKS:
        done = subprocess.run(["bash", "-ec", block], cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        output.append(done.stdout)
    analysed, suggested, judged, promoted, refused, later, rolled, drift = output
    assert "3 videos: 3 ok" in analysed
    assert re.search(r"todo\.csv: [1-9]\d* faces of 3 videos", suggested)
    assert "3 labels written" in judged
    default = re.escape(DEFAULT_MODEL)
    candidate = re.search(rf"({default}_r1@[0-9a-f]{{12}}) is in production; the gate passes", promoted)
    assert candidate, promoted
    assert f"{DEFAULT_MODEL}_r2" in refused
    assert re.search(r"is published; the gate fails: .* on base set", refused)
    assert re.search(rf"publish +{default}_r2@.*the gate fails", refused)
    assert re.search(rf"four\.mp4.*{candidate[1]}", later)
    assert re.search(rf"one\.mp4.*{default}@", later)
    assert f"in production: the model of the package, before: {candidate[1]}" in rolled
    assert re.search(rf"^\* {default}@", rolled, re.MULTILINE)
    assert drift == "nothing to compare: all sources: 3 recent and 0 reference videos, 8 are needed\n"
