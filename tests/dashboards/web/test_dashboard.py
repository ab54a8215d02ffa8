"""The dashboard without a browser: what it draws, whom it answers, and what it writes."""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import flask.testing
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image

from dashboards.web.app import create_app, is_loopback
from dashboards.web.curves import Curves, view_of
from dashboards.web.data import (
    health,
    library,
    mean_brightness,
    mean_expressions,
    rater_agreement,
    remedies,
    strips,
    trusted_shares,
    video_facts,
)
from dashboards.web.groups import by_condition, read_conditions, read_means
from dashboards.web.pages import compare, label, query, video
from dashboards.web.pages import health as health_page
from dashboards.web.pages import library as library_page
from dashboards.web.shell import plain_text
from dashboards.web.source import LakeSource
from flows.cli.main import main
from pipelines.video.decode import open_video
from storage.annotations.edits import add_label
from storage.annotations.labels import least_certain_faces, uncertain_seconds
from storage.annotations.people import FoundTrack, forget_found, propose
from storage.identity import video_id_of
from storage.lake import Lake
from storage.records import RunManifest, VideoOutcome
from storage.schema import EXPRESSIONS
from storage.sql.views import connect, run_sql
from tests.clips import write_clip
from tests.storage.lake_rows import (
    ANALYSIS_A,
    ANALYSIS_B,
    FACES,
    MODEL_A,
    MODEL_B,
    SETTINGS,
    add_video,
    face_rows,
    video_id,
)

TOKEN = "correct horse battery staple"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Six videos in two folders, one of them scored by two models, and a file that could not be read; do not change."""
    lake = Lake.open(tmp_path_factory.mktemp("dashboard") / "lake", create=True)
    for number in range(6):
        rows = face_rows(100, n_faces=1 + number % 2, seed=number, without_face=tuple(range(40, 60)))
        add_video(lake, number, rows, path=f"/films/{'ab'[number % 2]}/clip {number}.mp4", duration_s=4.0, width_px=640)
    second = face_rows(100, seed=9, model_id=MODEL_B, without_face=tuple(range(40, 60)))
    add_video(lake, 0, second, analysis_id=ANALYSIS_B, model_id=MODEL_B, path="/films/a/clip 0.mp4", duration_s=4.0)
    times = {"started_utc": datetime(2026, 1, 1, tzinfo=UTC), "finished_utc": datetime(2026, 1, 2, tzinfo=UTC)}
    failed = VideoOutcome(None, "/films/<b>broken</b>.mp4", "failed", "empty_file", "open", "no bytes")
    lake.append_run(RunManifest("run", config={}, model_id=MODEL_A, **times), [failed])
    return lake


@pytest.fixture(scope="module")
def source(shared: Lake) -> LakeSource:
    return LakeSource(shared)


@pytest.fixture
def film(tmp_path: Path, talk: Path) -> tuple[Lake, Path, str]:
    """A lake of one real file, which a test may change."""
    path = Path(shutil.copyfile(talk, tmp_path / "talk.mp4"))
    lake, name = Lake.open(tmp_path / "lake", create=True), video_id_of(path)
    status = path.stat()
    changes = {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "duration_s": 0.4, "path": str(path)}
    add_video(lake, 0, face_rows(10, fps=25), video_id=name, **changes)
    return lake, path, name


def client(lake: Lake, token: str | None = None) -> flask.testing.FlaskClient:
    return create_app(lake, token=token).server.test_client()


def curves(time_s: np.ndarray, prob: np.ndarray, duration_s: float = 0.04) -> Curves:
    n = len(time_s)
    whole = np.zeros(n, dtype=np.int64)
    unknown, box = np.full(n, np.nan, np.float32), np.zeros((n, 4), np.float32)
    return Curves(0, time_s, np.full(n, duration_s), prob, np.ones(n, bool), unknown, whole, whole, box)


# -- what is drawn --------------------------------------------------------------------------------------------------


def test_many_faces_are_drawn_as_few_points_that_keep_every_peak_and_gap() -> None:
    time_s = np.arange(90_000) / 25
    there = (time_s < 1000) | (time_s > 1200)
    prob = np.full((90_000, 8), 0.1, np.float32)
    prob[50_000, 3] = 0.95
    seen = view_of(curves(time_s[there], prob[there]), 0, 3600, 300, 0.5)
    assert not seen["exact"]
    assert len(seen["smooth_s"]) <= 301
    assert max(p for p in seen["raw"]["sadness"] if p is not None) == 0.95
    gaps = [s for s, p in zip(seen["raw_s"], seen["raw"]["neutral"], strict=True) if p is None]
    assert len(gaps) == 1
    assert 1000 < gaps[0] < 1200


def test_few_faces_are_drawn_exactly_with_gaps_where_no_face_was(source: LakeSource) -> None:
    with create_app(source.lake).server.test_client() as asking:
        seen = asking.get(f"/api/video/{video_id(1)}/curves?from=0&to=4&tracks=0,1").json
    assert [track["track_id"] for track in seen["tracks"]] == [0, 1]
    for track in seen["tracks"]:
        assert track["exact"]
        gaps = [s for s, p in zip(track["raw_s"], track["raw"]["fear"], strict=True) if p is None]
        assert len(gaps) == 1
        assert 1.6 < gaps[0] < 2.4
        assert len(track["raw_s"]) == 81


def test_baseline_is_the_median_of_good_frames_and_uncertain_spans_are_told() -> None:
    made = curves(np.arange(10) / 10, np.linspace(0, 1, 80).reshape(10, 8).astype(np.float32), 0.1)
    made.ok[5:] = False
    assert made.baseline() == pytest.approx(np.median(made.prob[:5], axis=0))
    assert view_of(made, 0, 1, 100, 0)["uncertain"] == [pytest.approx((0.5, 1.0))]
    assert view_of(made, 0, 1, 100, 0)["speaking"] == []


def test_library_filters_and_orders(source: LakeSource) -> None:
    rows = library(source)
    assert len(rows) == 7
    numbers = [row["file_name"] for row in library_page.choose(rows, folder="/films/a")]
    assert numbers == ["clip 0.mp4", "clip 2.mp4", "clip 4.mp4"]
    assert len(library_page.choose(rows, folder="/films")) == 7
    assert [row["code"] for row in library_page.choose(rows, status="failed")] == ["empty_file"]
    assert [row["file_name"] for row in library_page.choose(rows, text="CLIP 3")] == ["clip 3.mp4"]
    assert len(library_page.choose(rows, quality="0.5")) == 6
    assert library_page.choose(rows, quality="0.9") == []
    trusted = {video_id(0): 0.95, video_id(1): 0.3}
    assert [row["video_id"] for row in library_page.choose(rows, quality="ok0.9", trusted=trusted)] == [video_id(0)]
    assert [row["video_id"] for row in library_page.choose(rows, quality="poor", trusted=trusted)] == [video_id(1)]
    light = {video_id(0): 0.1, video_id(1): 0.5}
    assert [row["video_id"] for row in library_page.choose(rows, quality="dark", brightness=light)] == [video_id(0)]
    assert all(0 < mean < 1 for mean in mean_brightness(source).values())
    shares = trusted_shares(source)
    found = run_sql(source.lake, "SELECT video_id, avg(quality_ok::INT) AS share FROM scores GROUP BY ALL").to_pylist()
    assert shares == {row["video_id"]: row["share"] for row in found}
    means = mean_expressions(source)
    leading = {row["video_id"]: max(means[row["video_id"]], key=means[row["video_id"]].get) for row in rows[1:]}
    for name in EXPRESSIONS:
        found = [row["video_id"] for row in library_page.choose(rows, expression=name, means=means)]
        assert sorted(found) == sorted(video for video, first in leading.items() if first == name)
    most = library_page.choose(rows, sort="happiness", means=means)
    happy = [means[row["video_id"]]["happiness"] for row in most if row["video_id"]]
    assert happy == sorted(happy, reverse=True)
    assert [r["path"] for r in library_page.choose(rows, since="2026-01-02")] == ["/films/<b>broken</b>.mp4"]


def test_a_video_is_as_new_as_its_analysis_and_not_as_the_last_run_that_skipped_it(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    for number in (1, 2):
        add_video(lake, number)
    days = {"ok": (1, "ok"), "again": (2, "skipped"), "once more": (3, "skipped")}
    for run, (day, status) in days.items():
        when = datetime(2026, 1, day, tzinfo=UTC)
        outcomes = [VideoOutcome(video_id(1), "/films/clip 1.mp4", status)]
        if day > 1:  # the run that scored this one was killed, and left no row
            outcomes.append(VideoOutcome(video_id(2), "/films/clip 2.mp4", status))
        if day == 3:
            outcomes.append(VideoOutcome(video_id(3), "/films/clip 3.mp4", "skipped", "interrupted"))
        lake.append_run(RunManifest(run, when, when, {}, MODEL_A), outcomes)
    rows = library(LakeSource(lake))
    days_of = {row["file_name"]: row["analysed_utc"] and row["analysed_utc"].day for row in rows}
    assert days_of == {"clip 1.mp4": 1, "clip 2.mp4": 2, "clip 3.mp4": None}
    assert [row["file_name"] for row in library_page.choose(rows, since="2026-01-02")] == ["clip 2.mp4"]
    assert [row["file_name"] for row in library_page.choose(rows, sort="newest")][:2] == ["clip 2.mp4", "clip 1.mp4"]


def test_frames_that_could_not_be_read_do_not_lower_the_share_with_a_face(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    add_video(lake, 1, face_rows(100, undecodable=tuple(range(20, 100))))
    add_video(lake, 2, face_rows(10, undecodable=tuple(range(10))))
    source = LakeSource(lake)
    assert [row["share"] for row in library(source)] == [1.0, None]
    assert "face in 100% of 20 readable frames" in str(library_page.found(source, {}, 0))


def test_strip_follows_the_leading_expression_and_is_empty_where_no_face_was(
    source: LakeSource, tmp_path: Path
) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    add_video(lake, 0, face_rows(500, without_face=tuple(range(100, 200))), duration_s=20.0)
    own = LakeSource(lake)
    found = strips(own, library(own), 20)[video_id(0)]
    assert found.means == pytest.approx(mean_expressions(own)[video_id(0)])
    strip = found.parts
    assert [name is None for name in strip] == [4 <= second < 8 for second in range(20)]
    means = run_sql(lake, "SELECT * FROM seconds WHERE second = 12").to_pylist()[0]
    assert strip[12] == max(EXPRESSIONS, key=lambda name: means[f"mean_p_{name}"])
    assert library_page.gradient(["neutral", "neutral", None, "fear"]).count("%") == 6


def test_groups_are_of_videos_and_not_frames(source: LakeSource) -> None:
    videos = read_means(source)
    groups = by_condition(videos, {path: path.split("/")[2] for paths in videos.paths for path in paths})
    assert {name: len(rows) for name, rows in groups.items()} == {"a": 3, "b": 3}
    assert compare.bars(videos, groups)["data"][0]["name"] == "a (n = 3)"
    assert len(compare.curves(videos, groups, "fear")["data"]) == 6


def test_reweighted_groups_are_means_of_the_sql_function(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    shares = dict(zip(EXPRESSIONS, (0.35, 0.25, 0.12, 0.12, 0.08, 0.01, 0.06, 0.01), strict=True))
    for number in (1, 2):
        settings = SETTINGS | {"class_shares": shares}
        add_video(
            lake, number, face_rows(100, seed=number), path=f"/films/{number}.mp4", duration_s=4.0, settings=settings
        )
    source = LakeSource(lake)
    videos = read_means(source, reweighted=True)
    names = ", ".join(f"sum(p_{name} * duration_s) / sum(duration_s) AS {name}" for name in EXPRESSIONS)
    rows = run_sql(lake, f"SELECT path, {names} FROM reweighted() GROUP BY path ORDER BY path").to_pylist()
    assert [(row["path"],) for row in rows] == list(videos.paths)
    expected = np.array([[row[name] for name in EXPRESSIONS] for row in rows], dtype=float)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(videos.mean, expected, atol=1e-9)
    assert (np.abs(videos.mean - read_means(source).mean) > 0.001).any()


def test_eight_groups_can_be_told_apart_without_colour(source: LakeSource) -> None:
    videos = read_means(source)
    groups = {f"/films/{name}": np.arange(k % 3, 6, 3) for k, name in enumerate("abcdefgh")}
    bars, curves = (found["data"] for found in (compare.bars(videos, groups), compare.curves(videos, groups, "fear")))
    assert len({bar["marker"]["pattern"]["shape"] for bar in bars}) == 8
    lines = [(curve["line"]["color"], curve["line"]["dash"]) for curve in curves if "name" in curve]
    assert len({*lines}) == 8
    assert [bar["name"] for bar in bars] == [f"{name} (n = 2)" for name in "abcdefgh"]
    assert compare.short_names(["/a/b", "/a/b/c", "stress"]) == {"/a/b": "b", "/a/b/c": "b/c", "stress": "stress"}


def test_conditions_come_from_a_csv_whatever_its_separator() -> None:
    paths = ["/a/one.mp4", "/b/one.mp4", "/b/two.mp4"]
    found, unknown = read_conditions("file_name;condition\none.mp4;calm\nthree.mp4;calm\n", paths)
    assert found == {"/a/one.mp4": "calm", "/b/one.mp4": "calm"}
    assert unknown == ["three.mp4"]
    found, _ = read_conditions("condition,path\nstress,/b/two.mp4\n", paths)
    assert found == {"/b/two.mp4": "stress"}
    with pytest.raises(ValueError, match="it has name, group"):
        read_conditions("name,group\na,b\n", paths)


def test_least_certain_seconds_come_first_and_each_once(shared: Lake, source: LakeSource) -> None:
    for order in ("entropy", "margin", "random"):
        seconds = uncertain_seconds(source.dicts, 100, order, rater="ann")
        unsure = [row["unsure"] for row in seconds]
        assert unsure == sorted(unsure, reverse=True)
        assert len({(row["video_id"], row["track_id"], row["second"]) for row in seconds}) == len(seconds) > 10
        faces = least_certain_faces(source.dicts, seconds, order)
        assert [(f["video_id"], f["track_id"], int(f["time_s"])) for f in faces] == [
            (row["video_id"], row["track_id"], row["second"]) for row in seconds
        ]
    most = run_sql(shared, "SELECT max(entropy) AS m FROM scores WHERE quality_ok")["m"][0].as_py()
    assert uncertain_seconds(source.dicts, 100, rater="ann")[0]["unsure"] == most


@pytest.mark.parametrize("title", query.EXAMPLES)
def test_example_queries_run(shared: Lake, title: str) -> None:
    assert run_sql(shared, query.EXAMPLES[title]).num_columns >= 3


def test_queries_of_the_document_run_and_its_keys_are_the_page_s(shared: Lake) -> None:
    document = (Path(__file__).parents[3] / "docs" / "dashboard.md").read_text(encoding="utf-8")
    queries = re.findall(r"```sql\n(.*?)```", document, re.DOTALL)
    assert [run_sql(shared, text).column_names for text in queries] == [["name", "expression", "seconds"]]
    keys = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", document.split("## Keys")[1].split("##")[0], re.MULTILINE)
    shown = str(video.layout(LakeSource(shared), video_id(0)))
    assert len(keys) > 8
    assert not [key for key in keys[2:] if f"Dt({key!r})" not in shown]


def test_chart_of_an_answer_has_a_series_per_colour() -> None:
    rows = {"file": ["a<b>", "a<b>", "c"], "expression": ["fear", "anger", "fear"], "seconds": [1.0, 2.0, None]}
    drawn = query.draw(rows, "bars", "file", ["seconds"], "expression")
    assert [(t["name"], t["x"], t["y"]) for t in drawn["data"]] == [
        ("anger", ["a&lt;b&gt;"], [2.0]),
        ("fear", ["a&lt;b&gt;", "c"], [1.0, None]),
    ]


def test_every_page_has_a_layout_and_shows_failures_with_their_remedy(shared: Lake, source: LakeSource) -> None:
    text = str(library_page.layout(source))
    assert "Copy or record it again" in text
    for page in (compare.layout(source), query.layout(), label.layout(source, "ann"), health_page.layout(source)):
        assert page
    shown = str(video.layout(source, video_id(0)))
    assert "clip 0.mp4" in shown
    assert MODEL_B in shown
    assert "Unknown video" in str(video.layout(source, "../../etc/passwd"))
    facts = video_facts(source, video_id(0))
    assert facts is not None
    assert [row["analysis_id"] for row in facts["analyses"]] == [facts["analysis_id"], ANALYSIS_A]
    assert health(source)["failures"][0]["code"] == "empty_file"


def test_every_code_has_cause_and_remedy() -> None:
    codes = {code for code, _ in remedies()}
    assert {"missing", "truncated", "frames_undecodable", "crashed", "internal"} <= codes
    assert all(cause and remedy for cause, remedy in remedies().values())


def test_names_stay_text_in_charts() -> None:
    assert plain_text('<a href="x">&</a>') == '&lt;a href="x"&gt;&amp;&lt;/a&gt;'


# -- whom it answers ------------------------------------------------------------------------------------------------


def test_only_loopback_names_are_answered_without_a_token(shared: Lake) -> None:
    asking = client(shared)
    for host in ("localhost", "127.0.0.1:8050", "[::1]:8050"):
        assert asking.get("/", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "192.168.1.2", "127.0.0.1.evil.example"):
        answer = asking.get("/", headers={"Host": host})
        assert answer.status_code == 403
        assert b"_dash" not in answer.data
    assert [is_loopback(name) for name in ("localhost", "127.8.8.8", "::1", "0.0.0.0", "example.org")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "path", ["/", "/assets/video.js", "/media/x", "/api/labels/queue?rater=a", "/_dash-layout", "/picture/still/x.jpg"]
)
def test_token_is_checked_on_every_request(shared: Lake, path: str) -> None:
    asking = client(shared, TOKEN)
    assert asking.get(path).status_code == 401
    assert asking.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert asking.get("/?token=wrong").status_code == 401
    assert asking.get(path, headers={"Authorization": f"Bearer {TOKEN}", "Host": "lab:80"}).status_code in (200, 404)


def test_token_in_the_address_becomes_a_cookie_and_leaves_the_address(shared: Lake) -> None:
    asking = client(shared, TOKEN)
    answer = asking.get("/video", query_string={"id": "x&y", "token": TOKEN})
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/video?id=x%26y"
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert "SameSite=Strict" in answer.headers["Set-Cookie"]
    assert asking.get("/").status_code == 200
    elsewhere = {"PATH_INFO": "//evil.example/"}
    answer = client(shared, TOKEN).get("/", query_string={"token": TOKEN}, environ_overrides=elsewhere)
    assert answer.headers["Location"] == "/evil.example/"


def test_other_sites_can_change_nothing(film: tuple[Lake, Path, str]) -> None:
    lake, _, name = film
    asking = client(lake)
    payload = {"kind": "exclude"}
    place = f"/api/video/{name}/edits"
    assert asking.post(place, json=payload, headers={"Origin": "http://evil.example"}).status_code == 403
    assert asking.post(place, data='{"kind": "exclude"}', content_type="text/plain").status_code == 415
    assert run_sql(lake, "SELECT * FROM edits").num_rows == 0
    assert asking.post(place, json=payload, headers={"Origin": "http://localhost"}).status_code == 200
    assert run_sql(lake, "SELECT * FROM edits").num_rows == 1


def test_pages_allow_nothing_from_other_hosts(shared: Lake) -> None:
    answer = client(shared).get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert b'src="http' not in answer.data
    assert b'href="http' not in answer.data


# -- files ----------------------------------------------------------------------------------------------------------


def test_only_files_that_the_lake_names_are_served_in_parts(film: tuple[Lake, Path, str]) -> None:
    lake, path, name = film
    asking = client(lake)
    part = asking.get(f"/media/{name}", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.data == path.read_bytes()[10:20]
    assert asking.get(f"/media/{name}").data == path.read_bytes()
    for other in ("0" * 16, "..%2f..%2fetc%2fpasswd", str(path).replace("/", "%2f")):
        assert b"ftyp" not in asking.get(f"/media/{other}").data
    assert asking.get(f"/media/{'0' * 16}").status_code == 404


def test_a_file_that_has_changed_is_not_shown_beside_old_scores(film: tuple[Lake, Path, str]) -> None:
    lake, path, name = film
    os.utime(path, ns=(1, 1))  # copied: other times, the same bytes
    assert client(lake).get(f"/media/{name}").status_code == 200
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(data)
    asking = client(lake)
    places = (f"/media/{name}", f"/picture/thumbnail/{name}.jpg", f"/picture/face/{name}/0/0.jpg")
    assert [asking.get(place).status_code for place in places] == [404, 404, 404]


def test_pictures_are_cut_from_the_file(film: tuple[Lake, Path, str]) -> None:
    lake, _, name = film
    asking = client(lake)
    for place in (f"thumbnail/{name}.jpg", f"still/{name}.jpg?t=0.2", f"face/{name}/3/0.jpg"):
        answer = asking.get(f"/picture/{place}")
        assert answer.status_code == 200
        assert answer.data[:2] == b"\xff\xd8"
    for place in ("3/7", f"{9 * 10**30}/0"):
        assert asking.get(f"/picture/face/{name}/{place}.jpg").status_code == 404
    assert {p.suffix for p in lake.location.rglob("*") if p.is_file()} <= {".parquet", ".json"}


# -- what it writes -------------------------------------------------------------------------------------------------


def test_edits_come_back_and_can_be_undone(film: tuple[Lake, Path, str]) -> None:
    lake, _, name = film
    asking = client(lake)
    place = f"/api/video/{name}/edits"
    payload = asking.post(place, json={"kind": "name", "track_id": 0, "faces_id": FACES, "value": "<i>Ann</i>"}).json
    assert payload["people"] == [{"track_id": 0, "person": 0, "name": "<i>Ann</i>"}]
    assert payload["edits"][0]["author"]
    payload = asking.post(place, json={"undo": payload["edits"][0]["edit_id"]}).json
    assert payload == {"edits": [], "people": []}
    event = {"kind": "event", "value": "here", "start_s": 0.1}
    for wrong in (
        {"kind": "paint"},
        {"kind": "event"},
        {"kind": "name", "where": 1},
        [1],
        {},
        *({**event, name: value} for name in ("start_s", "end_s") for value in (math.nan, math.inf, -math.inf, "1")),
        {**event, "faces_id": 5, "track_id": 0},
        {**event, "faces_id": FACES, "track_id": 0.5},
        {**event, "faces_id": FACES, "track_id": 10**30},
    ):
        assert asking.post(place, json=wrong).status_code == 400
    assert asking.get(place).json == {"edits": [], "people": []}
    assert asking.post(f"/api/video/{'0' * 16}/edits", json={"kind": "exclude"}).status_code == 404


def test_who_was_found_is_listed_and_accepted_or_refused(tmp_path: Path) -> None:
    lake, name = Lake.open(tmp_path / "lake", create=True), video_id(1)
    for number in (1, 2):
        add_video(lake, number, face_rows(10, n_faces=4, seed=number))
    found = {(1, 0): "a" * 16, (1, 1): "a" * 16, (1, 2): "b" * 16, (1, 3): "c" * 16, (2, 0): "c" * 16}
    tracks = [FoundTrack((video_id(n), FACES, k), who, 0.9 - k / 10) for (n, k), who in found.items()]
    assert propose(lake, tracks, {video_id(1), video_id(2)}) == (5, 0)
    asking, place = client(lake), f"/api/video/{name}/edits"

    def payload(**edit: object) -> list[tuple[object, ...]]:
        answer = (asking.post(place, json=edit) if edit else asking.get(place)).json["edits"]
        return [(e["kind"], e["value"], [s["track_id"] for s in e["shown"]], e.get("n_videos")) for e in answer]

    one, other = ("found", "a" * 16, [0, 1], 1), ("found", "c" * 16, [3], 2)
    assert payload() == [one, other]  # the person of a single track is not worth a line
    (of_one, _) = asking.get(place).json["edits"]
    assert of_one["confidence"] == pytest.approx(0.8)
    accepted = [("person", "a" * 16, [track], None) for track in (0, 1)]
    assert sorted(payload(accept="a" * 16)) == sorted([other, *accepted])
    assert asking.post(place, json={"accept": "a" * 16}).status_code == 400
    payload(kind="person", track_id=3, faces_id=FACES)
    people = {p["track_id"]: p["person"] for p in asking.get(place).json["people"]}
    assert people == {0: 0, 1: 0, 2: 2, 3: 3}
    assert forget_found(lake, None, "ann") == 5
    with connect(lake) as con:
        kept = con.execute("SELECT track_id, person_id FROM people ORDER BY ALL").fetchall()
    assert kept == [(0, "a" * 16), (1, "a" * 16), (3, f"{name}/3")]


def test_a_split_face_is_two_in_the_page_and_its_curves_until_it_is_taken_back(
    film: tuple[Lake, Path, str],
) -> None:
    lake, _, name = film
    web = client(lake)
    tracks = "&tracks=0,1"
    payload = {"kind": "split", "track_id": 0, "faces_id": FACES, "start_s": 0.2}
    reply = web.post(f"/api/video/{name}/edits", json=payload).get_json()
    assert [(edit["kind"], edit["value"]) for edit in reply["edits"]] == [("split", "1")]
    assert [track["track_id"] for track in video_facts(LakeSource(lake), name)["tracks"]] == [0, 1]
    curves = web.get(f"/api/video/{name}/curves?from=0&to=1{tracks}").get_json()["tracks"]
    assert {curve["track_id"]: len(curve["raw_s"]) for curve in curves} == {0: 5, 1: 5}
    faces = web.get(f"/api/video/{name}/faces?from=0&to=1").get_json()["tracks"]
    assert {face["track_id"]: len(face["frame"]) for face in faces} == {0: 5, 1: 5}
    refused = web.post(f"/api/video/{name}/edits", json=payload | {"start_s": 9.0})
    assert (refused.status_code, "in between" in refused.text) == (400, True)
    web.post(f"/api/video/{name}/edits", json={"undo": reply["edits"][0]["edit_id"]})
    curves = web.get(f"/api/video/{name}/curves?from=0&to=1{tracks}").get_json()["tracks"]
    assert {curve["track_id"]: len(curve["raw_s"]) for curve in curves} == {0: 10}


def test_edits_come_with_the_faces_that_they_belong_to(film: tuple[Lake, Path, str]) -> None:
    lake, _, name = film
    web = client(lake)

    def say(kind: str, faces_id: str = FACES, **parts: object) -> list[dict[str, object]]:
        payload = {"kind": kind, "track_id": 0, "faces_id": faces_id, **parts}
        answer = web.post(f"/api/video/{name}/edits", json=payload)
        assert answer.status_code == 200, answer.text
        return answer.get_json()["edits"][-1]["shown"]

    assert say("split", start_s=0.2) == [{"track_id": 0, "start_s": 0.2, "end_s": None}]
    whole = say("exclude", track_id=1)
    assert whole == [{"track_id": 1, "start_s": 0.2, "end_s": None}]
    assert say("exclude", track_id=1, start_s=0.24, end_s=0.3) == [{"track_id": 1, "start_s": 0.24, "end_s": 0.3}]
    assert say("exclude", start_s=0.04, end_s=0.3) == [{"track_id": 0, "start_s": 0.04, "end_s": 0.2}]
    assert say("split", track_id=1, start_s=0.32) == [{"track_id": 1, "start_s": 0.32, "end_s": None}]
    later = web.get(f"/api/video/{name}/edits").get_json()["edits"][1]["shown"]
    assert later == [{"track_id": 1, "start_s": 0.2, "end_s": 0.32}, {"track_id": 2, "start_s": 0.32, "end_s": None}]
    assert say("event", track_id=2, value="smile", start_s=0.1) == [{"track_id": 2, "start_s": 0.1, "end_s": None}]
    other = face_rows(5, fps=25)
    add_video(lake, 0, other, video_id=name, analysis_id=ANALYSIS_B, faces_id="f" * 16, model_id=MODEL_B)
    assert say("exclude", "f" * 16) == []
    refused = web.post(
        f"/api/video/{name}/edits", json={"kind": "merge", "track_id": 0, "faces_id": FACES, "value": "7"}
    )
    assert (refused.status_code, "no face 7" in refused.text) == (400, True)


def test_a_viewer_chooses_whose_scores_every_page_shows(shared: Lake) -> None:
    web = client(shared)

    def shown(path: str, model: str | None = None) -> str:
        if model is not None:
            web.set_cookie("mfer_model", quote(model))
        search = f"?id={video_id(0)}" if path == "/video" else ""
        payload = {
            "output": "..head.children...page.children..",
            "outputs": [{"id": "head", "property": "children"}, {"id": "page", "property": "children"}],
            "inputs": [
                {"id": "url", "property": "pathname", "value": path},
                {"id": "url", "property": "search", "value": search},
            ],
            "changedPropIds": [],
        }
        answer = web.post("/_dash-update-component", json=payload)
        assert answer.status_code == 200, answer.text
        return str(answer.text)

    note = "scores of 2 models are mixed here"
    assert note in shown("/")
    assert f"model {MODEL_B}" in shown("/video")  # the later analysis
    page = shown("/video", MODEL_A)
    assert f"model {MODEL_A}" in page
    assert note not in page
    (chosen,) = re.findall(r'\{"children":"([^"]*)","selected":true', page.replace(", ", ",").replace(": ", ":"))
    assert chosen == MODEL_A
    library_of_b = shown("/", MODEL_B)
    assert note not in library_of_b
    assert library_of_b.count("no scores of the model that is chosen") == 5
    assert f"{MODEL_B} has no scores of this video" in str(
        video.layout(LakeSource(shared, lambda: MODEL_B), video_id(1))
    )
    assert note in shown("/", "a model of another lake")


def test_two_raters_who_judged_the_same_faces_are_compared(lake_of_raters: Lake) -> None:
    (pair,) = rater_agreement(LakeSource(lake_of_raters))
    assert (pair.raters, pair.n, pair.share) == (("ann", "bob"), 4, 0.75)
    assert pair.kappa == pytest.approx((0.75 - 0.25) / (1 - 0.25))
    text = str(label.layout(LakeSource(lake_of_raters), "ann"))
    assert "Agreement between raters" in text
    assert "'75%'" in text


@pytest.fixture
def lake_of_raters(tmp_path: Path) -> Lake:
    """Four faces that two raters judged, three of them alike, one that left both undecided, one judged by one."""
    lake = Lake.open(tmp_path / "raters", create=True)
    add_video(lake, 1, face_rows(10))
    judged = {
        "ann": ["fear", "fear", "neutral", "not_a_face", "undecided", "anger"],
        "bob": ["fear", "surprise", "neutral", "not_a_face", "undecided"],
    }
    for rater, verdicts in judged.items():
        for k, verdict in enumerate(verdicts):
            face = {"video_id": video_id(1), "faces_id": FACES, "frame_index": k, "time_s": k / 25, "face_index": 0}
            of_class = verdict in EXPRESSIONS
            kind = "expression" if of_class else verdict
            add_label(lake, face | {"track_id": 0}, kind, verdict if of_class else None, rater)
    return lake


def test_downloads_are_called_after_the_video(film: tuple[Lake, Path, str]) -> None:
    lake, _, name = film
    answer = client(lake).get(f"/api/video/{name}/scores.csv?from=0&to=1")
    assert answer.headers["Content-Disposition"] == "attachment; filename=talk_scores.csv"


def test_the_thumbnail_is_the_frame_with_the_best_face(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "numbers.mp4", n_frames=50)
    lake, name, status = Lake.open(tmp_path / "lake", create=True), video_id_of(path), path.stat()
    rows = face_rows(50, without_face=tuple(range(10)))
    width = rows.column("box_x1_px").to_numpy() + 20
    width[40] += 60
    rows = rows.set_column(rows.column_names.index("box_x2_px"), "box_x2_px", pa.array(width, pa.float32()))
    changes = {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "duration_s": 2.0, "path": str(path)}
    add_video(lake, 0, rows, video_id=name, **changes)
    picture = client(lake).get(f"/picture/thumbnail/{name}.jpg").data
    still = client(lake).get(f"/picture/still/{name}.jpg?t=1.6").data
    small, large = (np.asarray(Image.open(io.BytesIO(data)).convert("L"), float) for data in (picture, still))
    again = np.asarray(Image.fromarray(large.astype(np.uint8)).resize(small.shape[::-1]), float)
    assert np.abs(small - again).mean() < 6


def test_a_clip_of_the_view_is_a_video_of_that_length(film: tuple[Lake, Path, str], tmp_path: Path) -> None:
    lake, path, name = film
    web = client(lake)
    answer = web.get(f"/api/video/{name}/clip.mp4?from=0.1&to=0.3")
    assert answer.mimetype == "video/mp4"
    (tmp_path / "clip.mp4").write_bytes(answer.data)
    assert open_video(tmp_path / "clip.mp4").info.n_frames == 6  # those shown from 0.08 to 0.28 s
    assert web.get(f"/api/video/{name}/clip.mp4?from=0&to=1000").status_code == 400
    assert web.get(f"/api/video/{name}/clip.mp4?from=2&to=1").status_code == 400
    path.unlink()
    assert web.get(f"/api/video/{name}/clip.mp4?from=0&to=1").status_code == 404


def test_the_list_of_videos_is_around_the_one_that_is_open_and_is_searched_by_path(shared: Lake) -> None:
    payload = client(shared).get(f"/api/videos?near={video_id(3)}").get_json()
    assert payload["n_videos"] == len(payload["videos"]) == 6
    found = client(shared).get("/api/videos?text=FILMS/a%20clip").get_json()["videos"]
    assert [row["title"] for row in found] == ["clip 0.mp4", "clip 2.mp4", "clip 4.mp4"]


def test_judgements_arrive_with_who_when_and_which_face(film: tuple[Lake, Path, str]) -> None:
    lake, _, name = film
    asking = client(lake)
    queue = asking.get("/api/labels/queue?rater=ann").json
    place = queue["faces"][0]
    face = asking.get("/api/labels/face", query_string={**place, "order": "entropy"}).json
    assert (face["track_id"], int(face["time_s"])) == (place["track_id"], place["second"])
    payload = {"face": face, "verdict": "expression", "expression": "fear", "rater": "ann"}
    assert asking.post("/api/labels", json=payload).status_code == 200
    row = run_sql(lake, "SELECT * FROM labels").to_pylist()[0]
    assert (row["video_id"], row["frame_index"], row["face_index"]) == (name, face["frame_index"], face["face_index"])
    assert (row["expression"], row["rater"], row["shown_model_id"]) == ("fear", "ann", None)
    assert abs((datetime.now(UTC) - row["created_utc"]).total_seconds()) < 600
    again = asking.get("/api/labels/queue?rater=ann").json
    assert again["n_done"] == 1
    assert (face["track_id"], place["second"]) not in [(r["track_id"], r["second"]) for r in again["faces"]]
    assert asking.get("/api/labels/face?video_id=x&faces_id=y&track_id=0&second=0").status_code == 404
    assert asking.get("/api/labels/face?video_id=x&faces_id=y&track_id=0.5&second=0").status_code == 400
    for nowhere in ({"frame_index": 99_999}, {"face_index": 7}, {"faces_id": "f" * 16}, {"video_id": "0" * 16}):
        assert asking.post("/api/labels", json=payload | {"face": face | nowhere}).status_code == 404
    for no_number in (face["frame_index"] + 0.5, str(face["frame_index"]), True, 10**30, None):
        assert asking.post("/api/labels", json=payload | {"face": face | {"frame_index": no_number}}).status_code == 400
    assert len(run_sql(lake, "FROM labels")) == 1
    for wrong in (
        {**payload, "expression": "joy"},
        {**payload, "rater": " "},
        {**payload, "face": {"video_id": name}},
        {},
    ):
        assert asking.post("/api/labels", json=wrong).status_code in (400, 404)


def test_what_two_requests_need_at_once_is_made_once(shared: Lake) -> None:
    source, made = LakeSource(shared), []
    begun = threading.Barrier(2)

    def make() -> int:
        made.append(1)
        time.sleep(0.2)
        return 7

    def ask() -> int:
        begun.wait()
        return source.kept(("answer",), make)

    with ThreadPoolExecutor(2) as pool:
        assert [each.result() for each in [pool.submit(ask), pool.submit(ask)]] == [7, 7]
    assert len(made) == 1


def test_scores_of_a_view_can_be_downloaded(shared: Lake) -> None:
    answer = client(shared).get(f"/api/video/{video_id(0)}/scores.csv?from=1&to=1.2")
    lines = answer.get_data(as_text=True).splitlines()
    assert lines[0].startswith("file_name,time_s,track_id,expression,confidence,p_neutral")
    assert len(lines) == 1 + 5


@pytest.mark.parametrize(
    "question",
    [
        "curves?from=2&to=1",
        "curves?from=x&to=1",
        "curves?from=0&to=inf",
        "faces?from=nan",
        *(f"curves?from=0&to=3&tracks={tracks}" for tracks in ("--1", "²", "0,x", "1.5", "9" * 40)),
    ],
)
def test_questions_that_make_no_sense_are_refused(shared: Lake, question: str) -> None:
    assert client(shared).get(f"/api/video/{video_id(0)}/{question}").status_code == 400


def test_new_commits_show_without_a_restart(film: tuple[Lake, Path, str]) -> None:
    lake, _, _ = film
    source = LakeSource(lake)
    assert len(library(source)) == 1
    add_video(lake, 5)
    assert len(library(source)) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--host", "0.0.0.0"], "--token"),
        (["--host", "0.0.0.0", "--token", "short"], "16 or more"),
        (["--lake", "nowhere"], "is not a lake"),
    ],
)
def test_command_refuses_what_would_be_open_to_others(shared: Lake, words: list[str], reason: str) -> None:
    done = CliRunner().invoke(main, ["dashboard", "--lake", str(shared.location), *words])
    assert done.exit_code == 2
    assert reason in done.output


def test_command_says_when_a_port_is_taken(shared: Lake) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(main, ["dashboard", "--lake", str(shared.location), "--port", port])
    assert done.exit_code == 2
    assert f"port {port}" in done.output
