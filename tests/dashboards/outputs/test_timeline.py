from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.outputs.timeline import write_timeline
from mfer.classes import EXPRESSIONS


def track(
    expression: str,
    time_s: Sequence[float] | np.ndarray,
    duration_s: float = 0.04,
    path: str = "/videos/one.mp4",
    track_id: int = 0,
    lacking: str | None = None,
) -> pa.Table:
    """A face that shows one expression and nothing else."""
    n = len(time_s)
    columns: dict[str, pa.Array] = {
        "path": pa.array([path] * n),
        "track_id": pa.array([track_id] * n, pa.int64()),
        "time_s": pa.array(time_s, pa.float64()),
        "duration_s": pa.array([duration_s] * n, pa.float64()),
    }
    for name in EXPRESSIONS:
        value = None if name == lacking else float(name == expression)
        columns[f"p_{name}"] = pa.array([value] * n, pa.float32())
    return pa.table(columns)


def read(png: Path) -> np.ndarray:
    with Image.open(png) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def where(pixels: np.ndarray, expression: str) -> np.ndarray:
    colour = EXPRESSION_COLOURS[expression].lstrip("#")
    rgb = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
    return np.all(np.abs(pixels.astype(int) - rgb) <= 2, axis=2)


def columns_drawn(pixels: np.ndarray, expression: str) -> np.ndarray:
    """Which columns of the picture show an area of the expression, bool [W]; the legend's patch is too low to count."""
    return where(pixels, expression).sum(0) > 40


def test_palette_has_one_colour_for_each_expression_in_the_canonical_order() -> None:
    assert tuple(EXPRESSION_COLOURS) == EXPRESSIONS
    assert len(set(EXPRESSION_COLOURS.values())) == len(EXPRESSIONS)


def test_each_expression_is_drawn_in_its_own_colour(tmp_path: Path) -> None:
    tables = [track(name, np.arange(25) / 25 + k) for k, name in enumerate(EXPRESSIONS)]
    pixels = read(write_timeline(pa.concat_tables(tables), tmp_path / "all.png"))
    seen = [columns_drawn(pixels, name).nonzero()[0] for name in EXPRESSIONS]
    for before, after in pairwise(seen):
        assert len(before) > 100
        assert before.mean() < after.mean()


def test_panel_is_empty_where_there_is_no_face(tmp_path: Path) -> None:
    time_s = np.arange(250) / 25
    away = (time_s > 4) & (time_s < 6)
    drawn = columns_drawn(read(write_timeline(track("sadness", time_s[~away]), tmp_path / "gap.png")), "sadness")
    first, last = drawn.nonzero()[0][[0, -1]]
    assert 0.18 < 1 - drawn[first : last + 1].mean() < 0.22
    assert not drawn[(first + last) // 2]


@pytest.mark.parametrize(
    ("step_s", "duration_s"), [(1.0, 1.0), (1.0, 0.04), (1 / 30, 1 / 30)], ids=["1 fps", "1 fps short frames", "30 fps"]
)
def test_sparse_sampling_is_no_gap(tmp_path: Path, step_s: float, duration_s: float) -> None:
    table = track("fear", np.arange(40) * step_s, duration_s)
    drawn = columns_drawn(read(write_timeline(table, tmp_path / "sparse.png")), "fear").nonzero()[0]
    assert (np.diff(drawn) == 1).all()


def test_an_hour_at_full_rate_has_no_false_gaps_and_keeps_a_true_one(tmp_path: Path) -> None:
    time_s = np.arange(90_000) / 25 + np.random.default_rng(0).uniform(0, 0.002, 90_000)
    for name, kept in (("whole", time_s >= 0), ("broken", (time_s < 1200) | (time_s > 2400))):
        pixels = read(write_timeline(track("anger", time_s[kept]), tmp_path / f"{name}.png"))
        drawn = columns_drawn(pixels, "anger").nonzero()[0]
        assert ((np.diff(drawn) > 1).sum()) == (name == "broken")


def test_a_face_seen_in_one_frame_only_is_drawn(tmp_path: Path) -> None:
    pixels = read(write_timeline(track("surprise", [0.2], duration_s=0.5), tmp_path / "one.png"))
    assert columns_drawn(pixels, "surprise").sum() > 100


def test_a_class_that_the_model_lacks_is_neither_drawn_nor_named(tmp_path: Path) -> None:
    time_s = np.arange(25) / 25
    lacking = read(write_timeline(track("neutral", time_s, lacking="contempt"), tmp_path / "seven.png"))
    assert not where(lacking, "contempt").any()
    without = track("neutral", time_s).drop_columns(["p_contempt"])
    assert (read(write_timeline(without, tmp_path / "dropped.png")) == lacking).all()


def test_one_panel_per_video_and_track_and_only_the_longest_when_there_are_many(tmp_path: Path) -> None:
    time_s = np.arange(50) / 25
    tables = [track("happiness", time_s[: 50 - k], path=f"/videos/{k // 3}.mp4", track_id=k % 3) for k in range(9)]
    heights = []
    for most in (1, 3, 12):
        pixels = read(write_timeline(pa.concat_tables(tables), tmp_path / f"{most}.png", max_panels=most))
        heights.append(pixels.shape[0])
        blocks = where(pixels, "happiness").sum(1) > pixels.shape[1] / 2
        assert (np.diff(blocks.astype(int)) == 1).sum() == min(most, 9)
    assert heights[0] < heights[1] < heights[2]


def test_no_face_at_all_still_gives_a_picture(tmp_path: Path) -> None:
    pixels = read(write_timeline(track("neutral", []), tmp_path / "none.png"))
    assert (pixels < 200).any()


def test_same_table_gives_the_same_picture_whatever_the_order_of_rows(tmp_path: Path) -> None:
    table = pa.concat_tables([track("anger", np.arange(50) / 25), track("fear", np.arange(60) / 25, track_id=4)])
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    first, second = (read(write_timeline(t, tmp_path / f"{i}.png")) for i, t in enumerate((table, shuffled)))
    assert (first == second).all()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing: duration_s"):
        write_timeline(track("fear", [0.0]).drop_columns(["duration_s"]), tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"missing: p_\*"):
        write_timeline(track("fear", [0.0]).select(["path", "track_id", "time_s", "duration_s"]), tmp_path / "x.png")
