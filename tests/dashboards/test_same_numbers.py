"""The same question has one answer: SQL, the report and the dashboard give the same numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dashboards.outputs.report import write_report
from dashboards.web.curves import read_curves, speaking_spans
from dashboards.web.groups import by_condition, read_means
from dashboards.web.source import LakeSource
from storage.lake import Lake
from storage.schema import EXPRESSIONS
from storage.sql import statistics
from storage.sql.views import run_sql
from tests.storage import lake_rows as rows

PATTERN = "([^/]*)/[^/]*$"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Six videos in two folders whose paths and video_ids have different orders; some faces are of poor quality."""
    lake = Lake.open(tmp_path_factory.mktemp("numbers") / "lake", create=True)
    for number in range(6):
        table = rows.face_rows(180, seed=number, n_faces=2, without_face=tuple(range(60, 80)))
        ok = table["quality_ok"].to_numpy(zero_copy_only=False).copy()
        ok[::3] = np.where(ok[::3] == None, None, False)  # noqa: E711
        table = table.set_column(table.column_names.index("quality_ok"), "quality_ok", pa.array(ok, pa.bool_()))
        rows.add_video(lake, number, table, path=f"/films/{'ab'[number % 2]}/{9 - number}.mp4")
    return lake


def values(table: pa.Table, prefix: str) -> np.ndarray:
    return np.stack([table[f"{prefix}{name}"].to_numpy().astype(float) for name in EXPRESSIONS], axis=1)


def test_the_dashboards_curve_is_that_of_sql(lake: Lake) -> None:
    of_video = f"video_id = '{rows.video_id(3)}'"
    faces = run_sql(lake, f"SELECT * FROM scores_all WHERE {of_video} ORDER BY track_id, time_s")
    for track_id, curves in read_curves(faces).items():
        of_track = f"{of_video} AND track_id = {track_id}"
        found = run_sql(lake, f"FROM smoothed(width_s := 0.7) WHERE {of_track} ORDER BY frame_index")
        spoken = run_sql(lake, f"SELECT second FROM seconds WHERE {of_track} AND speaking >= 0.3 ORDER BY second")
        seconds = [s for a, b in speaking_spans(curves, 0, 99) for s in range(round(a), round(b))]
        assert seconds == spoken["second"].to_pylist()
        assert seconds
        assert curves.smoothed(0.7) == pytest.approx(values(found, "p_"), abs=1e-6)
        usual = run_sql(lake, f"FROM baselines() WHERE {of_track}")
        assert usual["n_faces"][0].as_py() < len(curves)
        assert curves.baseline() == pytest.approx(values(usual, "median_p_")[0], abs=1e-9)


def test_the_reports_shares_and_intervals_are_those_of_sql(lake: Lake, tmp_path: Path) -> None:
    page = write_report(lake, tmp_path / "report.html", n_moments=0).read_text()
    found = re.findall(
        r"<td class=\"\">(\w+)</td><td class=\"n\">([\d.]+) %</td><td class=\"n\">(\d+) to (\d+) %", page
    )
    sql = run_sql(lake, "SELECT expression, share, low, high FROM expression_shares() ORDER BY share DESC")
    query = [
        (row["expression"], f"{100 * row['share']:.1f}", f"{100 * row['low']:.0f}", f"{100 * row['high']:.0f}")
        for row in sql.to_pylist()
    ]
    assert sorted(found) == sorted(query)


def test_compares_intervals_are_those_of_sql(lake: Lake) -> None:
    videos = read_means(LakeSource(lake))
    groups = by_condition(videos, {path: path.split("/")[2] for paths in videos.paths for path in paths})
    sql = f"SELECT * FROM expression_shares(group_pattern := '{PATTERN}')"
    query = {(row["group_name"], row["expression"]): row for row in run_sql(lake, sql).to_pylist()}
    shares = run_sql(lake, f"FROM video_shares(group_pattern := '{PATTERN}')").to_pylist()
    share_of = {(row["video_id"], row["expression"]): row["share"] for row in shares}
    for name, chosen in groups.items():
        ids = [videos.video_ids[k] for k in chosen]
        found = statistics.bootstrap_means(np.array([[share_of[v, e] for e in EXPRESSIONS] for v in ids]), name)
        for k, expression in enumerate(EXPRESSIONS):
            row = query[name, expression]
            assert (found.mean[k], found.low[k], found.high[k]) == pytest.approx(
                (row["share"], row["low"], row["high"]), abs=1e-12
            )


def test_differences_are_those_of_sql(lake: Lake) -> None:
    shares = run_sql(lake, f"FROM video_shares(group_pattern := '{PATTERN}') ORDER BY video_id").to_pylist()
    values: dict[str, dict[str, list[float]]] = {}
    for row in shares:
        values.setdefault(row["group_name"], {e: [] for e in EXPRESSIONS})[row["expression"]].append(row["share"])
    arrays = {name: np.array([of_group[e] for e in EXPRESSIONS]).T for name, of_group in values.items()}
    sql = run_sql(lake, f"FROM share_differences(group_pattern := '{PATTERN}')").to_pylist()
    assert sql
    for row in sql:
        names = row["group_name"], row["other_group"]
        found = statistics.bootstrap_difference(arrays[names[0]], arrays[names[1]], names)
        k = EXPRESSIONS.index(row["expression"])
        assert (found.mean[k], found.low[k], found.high[k]) == pytest.approx(
            (row["difference"], row["low"], row["high"]), abs=1e-12
        )
