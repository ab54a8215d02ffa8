"""Damaged bytes never crash, hang, or raise anything but a VideoError; a longer search is `python -m tests.fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import SEEDS, fuzz


def look(folder: Path, seed: int, count: int) -> None:
    ended, findings = fuzz(seed, count, folder)
    assert not findings, "\n".join(map(str, findings))
    assert sum(ended.values()) == count
    assert {"ok", "partial", "truncated", "decode_failed", "not_a_video"} <= {name.split(",")[0] for name in ended}


def test_three_hundred_damaged_files_end_as_promised(tmp_path: Path) -> None:
    look(tmp_path, seed=1, count=300)


@pytest.mark.soak
def test_three_thousand_damaged_files_end_as_promised(tmp_path: Path) -> None:
    look(tmp_path, seed=2, count=3000)


def test_every_family_of_files_is_among_the_seeds() -> None:
    assert {Path(name).suffix for name in SEEDS} >= {
        ".mp4",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".ts",
        ".mpg",
        ".gif",
        ".flv",
    }
