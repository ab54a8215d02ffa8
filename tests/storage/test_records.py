"""Ids that follow from content, records that refuse nonsense, rows that pack well."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.settings import AnalysisSettings, TrackerSettings
from storage.delta.tables import data_files, open_table
from storage.errors import LakeError
from storage.identity import analysis_id, faces_id, path_text, video_id_of
from storage.lake import Lake
from storage.records import FinishedVideo, RunManifest, VideoOutcome
from storage.rounding import round_for_storage
from storage.schema import EXPRESSIONS, OBSERVATIONS, TABLES, conform, meaning_of, unit_of
from storage.stitch import STITCH_VERSION, SeamLimits, TrackPiece, join_segments
from tests.storage import lake_rows as rows


def test_video_id_is_the_content(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"film" * 1000)
    assert video_id_of(tmp_path / "a.mp4") == video_id_of(str(tmp_path / "b.mp4"))
    assert video_id_of(tmp_path / "a.mp4") == hashlib.sha256(b"film" * 1000).hexdigest()[:16]


def test_ids_do_not_depend_on_order_and_stay_from_version_to_version() -> None:
    assert faces_id({"every": 1, "min_face_px": 20}) == faces_id({"min_face_px": 20, "every": 1})
    assert faces_id({"every": 1}) == hashlib.sha256(b'{"faces":{"every":1}}').hexdigest()[:16]
    text = b'{"crop":{"side_px":112},"faces_id":"00000000000000fa","model_id":"m@0"}'
    assert analysis_id(rows.FACES, "m@0", {"side_px": 112}) == hashlib.sha256(text).hexdigest()[:16]
    assert faces_id({"every": 2}) != faces_id({"every": 1})
    assert analysis_id(rows.FACES, rows.MODEL_B, {}) != analysis_id(rows.FACES, rows.MODEL_A, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1}])
def test_settings_that_have_no_stable_text_are_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        faces_id({"x": value})


def test_any_path_has_a_text() -> None:
    assert path_text("/a/ü.mp4") == "/a/ü.mp4"
    assert path_text(b"/a/\xff.mp4".decode("utf-8", "surrogateescape")).encode() == rb"/a/\xff.mp4"


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "fine"},
        {"status": "failed"},
        {"status": "partial", "code": None},
        {"video_id": None},
        {"video_id": "12"},
        {"video_id": "G" * 16},
        {"n_frames": -1},
        {"n_frames": 1, "n_frames_with_face": 1, "n_frames_undecodable": 1},
        {"elapsed_s": float("nan")},
    ],
)
def test_an_outcome_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    fields: dict[str, object] = {"video_id": rows.video_id(1), "path": "/a.mp4", "status": "ok"}
    with pytest.raises(ValueError, match=r"must be|needs|has a|more frames"):
        VideoOutcome(**(fields | changes))


def test_a_manifest_has_utc_times_in_order() -> None:
    now = datetime.now(UTC)
    RunManifest("r", now, now, {}, rows.MODEL_A)
    for start, end in (
        (now, now - timedelta(1)),
        (now.replace(tzinfo=None), now),
        (now.astimezone(timezone(timedelta(hours=2))), now),
    ):
        with pytest.raises(ValueError, match=r"UTC|ended"):
            RunManifest("r", start, end, {}, rows.MODEL_A)


@pytest.mark.parametrize("changes", [{"video_id": "x"}, {"model_id": ""}, {"n_segments": 0}, {"duration_s": -1.0}])
def test_a_finished_video_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    assert dataclasses.is_dataclass(FinishedVideo)
    with pytest.raises(ValueError, match=r"must be|needs"):
        rows.finished(1, **changes)


def test_errors_cross_a_process_border() -> None:
    error = pickle.loads(pickle.dumps(LakeError("full", "disk_full")))
    assert (str(error), error.code) == ("full", "disk_full")


def test_every_column_states_its_meaning_and_every_number_of_pixels_or_seconds_its_unit() -> None:
    for table in TABLES.values():
        assert table.meaning.endswith(".")
        for field in table.schema:
            assert meaning_of(field), field
            suffix = field.name.rsplit("_", 1)[-1]
            expected = {"px": "px", "s": "s", "ns": "ns", "deg": "degrees", "bytes": "bytes", "utc": "UTC"}.get(suffix)
            assert expected in (None, unit_of(field)), field


def test_meanings_are_in_the_tables_themselves(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    table = open_table(lake.location, "observations")
    fields = {field.name: field.metadata for field in table.schema().fields}
    assert fields["box_x1_px"]["unit"] == "px"
    assert table.metadata().description == OBSERVATIONS.meaning


def test_observations_take_about_thirty_bytes_a_row(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    rows.add_video(lake, 1, rows.face_rows(50_000, n_faces=2))
    (file,) = data_files(lake.location, "observations")
    assert Path(file).stat().st_size / 100_000 < 45
    parquet = pq.ParquetFile(file).metadata
    group = parquet.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(parquet.num_columns)}
    assert all(column.compression == "ZSTD" for column in columns.values())
    for name in ("p_fear", "box_x1_px", "nose_y_px", "sharpness", "pts_s"):
        assert "BYTE_STREAM_SPLIT" in columns[name].encodings
        assert "RLE_DICTIONARY" not in columns[name].encodings
    assert "DELTA_BINARY_PACKED" in columns["frame_index"].encodings


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rounding_is_within_half_a_step_and_happens_once(seed: int) -> None:
    table = conform(rows.face_rows(20, without_face=(3,), seed=seed), OBSERVATIONS.schema)
    rounded = round_for_storage(table)
    assert round_for_storage(rounded).equals(rounded)
    for name in table.column_names:
        assert rounded[name].is_null().equals(table[name].is_null()), name
        assert rounded[name].type == table[name].type
    for name, step in (("p_fear", 2**-12), ("confidence", 2**-12), ("box_y2_px", 1 / 8), ("nose_x_px", 1 / 8)):
        before, after = (t[name].drop_null().to_numpy().astype(float) for t in (table, rounded))
        assert np.abs(after - before).max() <= step / 2 * (1 + 1e-6)
        assert (after / step == np.round(after / step)).all()
    for name in ("frame_index", "pts_s", "time_s", "duration_s", "expression"):
        assert rounded[name].equals(table[name])
    top = np.stack([rounded[f"p_{e}"].drop_null().to_numpy() for e in EXPRESSIONS]).max(0)
    assert (top == rounded["confidence"].drop_null().to_numpy()).all()


def test_missing_columns_become_null_and_unknown_ones_are_refused() -> None:
    schema = pa.schema([pa.field("a", pa.int16()), pa.field("b", pa.string())])
    assert conform(pa.table({"a": [1]}), schema).to_pylist() == [{"a": 1, "b": None}]
    with pytest.raises(ValueError, match="unknown columns c"):
        conform(pa.table({"c": [1]}), schema)


LIMITS = SeamLimits(min_iou=0.2, max_gap_s=1.0)


def boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    x, y = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    return (float(x), float(y), float(x + draw(st.integers(1, 20))), float(y + draw(st.integers(1, 20))))


@st.composite
def track_pieces(draw: st.DrawFn) -> list[TrackPiece]:
    starts = st.sampled_from([0.0, 1.0])
    return [
        TrackPiece(
            segment, track, 2 * segment + draw(starts), 2 * segment + 1.96, 2 * segment + 2.0, boxes(draw), boxes(draw)
        )
        for segment in range(draw(st.integers(1, 4)))
        for track in range(draw(st.integers(0, 5)))
    ]


@settings(max_examples=80, deadline=None)
@given(track_pieces(), st.randoms())
def test_joined_tracks_do_not_depend_on_order_and_keep_segments_apart(pieces: list[TrackPiece], random: object) -> None:
    joined = join_segments(pieces, LIMITS)
    shuffled = pieces[:]
    random.shuffle(shuffled)
    assert join_segments(shuffled, LIMITS) == joined
    assert set(joined) == {(piece.segment, piece.track) for piece in pieces}
    assert len({(segment, track_id) for (segment, _), track_id in joined.items()}) == len(pieces)
    first = min((piece.segment for piece in pieces), default=0)
    assert all(track_id == track for (segment, track), track_id in joined.items() if segment == first)
    segments_of: dict[int, list[int]] = {}
    for (segment, _), track_id in sorted(joined.items()):
        segments_of.setdefault(track_id, []).append(segment)
    assert all(s == list(range(s[0], s[-1] + 1)) for s in segments_of.values())


def test_a_track_that_ended_before_the_seam_or_lies_elsewhere_is_not_continued() -> None:
    here, there = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)
    ended = TrackPiece(0, 0, 0.0, 4.96, 5.0, here, here)
    lasting = TrackPiece(0, 1, 0.0, 9.96, 10.0, here, there)
    later = [TrackPiece(1, 0, 10.0, 19.96, 20.0, here, here), TrackPiece(1, 1, 10.0, 19.96, 20.0, there, there)]
    assert join_segments([ended, lasting, *later], LIMITS) == {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 1}


@pytest.mark.parametrize(("gap_s", "sample_s", "joined"), [(0.9, 0.04, True), (1.1, 0.04, False), (3.0, 3.0, True)])
def test_a_face_is_followed_over_a_seam_for_as_long_as_the_tracker_follows_it(
    gap_s: float, sample_s: float, joined: bool
) -> None:
    here = (0.0, 0.0, 10.0, 10.0)
    last_s = 10.0 - sample_s if gap_s == sample_s else 9.5
    before = TrackPiece(0, 0, 0.0, last_s, last_s + sample_s, here, here)
    after = TrackPiece(1, 4, last_s + gap_s, 20.0, 20.0 + sample_s, here, here)
    assert join_segments([before, after], LIMITS)[1, 4] == (0 if joined else 1)


def test_the_limits_of_the_seam_are_the_trackers_and_part_of_the_id() -> None:
    chosen = AnalysisSettings(tracker=TrackerSettings(max_gap_s=2.0, min_iou=0.4))
    assert SeamLimits.of(chosen.hashed()) == SeamLimits(min_iou=0.4, max_gap_s=2.0)
    assert faces_id(chosen.hashed()) != faces_id(AnalysisSettings().hashed())
    assert chosen.hashed()["algorithm_versions"]["stitch"] == STITCH_VERSION
    with pytest.raises(ValueError, match=r"lack tracker\.min_iou"):
        SeamLimits.of({"every": 1})
