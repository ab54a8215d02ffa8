"""Rows as a pipeline would write them: faces that drift and jitter, scores of a softmax, frames without faces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.lake import Lake, Segment
from storage.records import FinishedVideo
from storage.schema import EXPRESSIONS, LANDMARKS
from storage.sql.views import VIEWS, connect

MODEL_A = "mfer_atto.ferplus_v1@0123456789ab"
MODEL_B = "mfer_atto.ferplus_v2@ba9876543210"
FACES = "00000000000000fa"
ANALYSIS_A = "1111111111111111"  # digits alone: must stay text as a partition value
ANALYSIS_B = "bbbbbbbbbbbbbbbb"


def video_id(number: int) -> str:
    return f"{number:016x}"


def face_rows(
    n_frames: int,
    *,
    n_faces: int = 1,
    first_frame: int = 0,
    every: int = 1,
    fps: float = 25.0,
    without_face: tuple[int, ...] = (),
    undecodable: tuple[int, ...] = (),
    seed: int = 0,
    model_id: str = MODEL_A,
    lacks: tuple[str, ...] = (),
    first_track: int = 0,
) -> pa.Table:
    """Observations of ``n_frames`` sampled frames with ``n_faces`` faces that stay where they are, but for a jitter.

    Face k is around x = 200 k + 100 px, whichever the segment, so that tracks can be joined across seams.
    """
    rng = np.random.default_rng(seed)
    frame_number = np.arange(first_frame, first_frame + n_frames * every, every)
    faces_in = np.full(n_frames, n_faces)
    faces_in[np.isin(frame_number, (*without_face, *undecodable))] = 0
    rows_in = np.maximum(faces_in, 1)
    frame_index = np.repeat(frame_number, rows_in)
    face_index = np.concatenate([np.zeros(0, int), *(np.arange(n) for n in rows_in)])
    no_face = np.repeat(faces_in == 0, rows_in)
    n = len(frame_index)
    status = np.where(no_face, "no_face", "ok").astype(object)
    status[np.isin(frame_index, undecodable)] = "decode_error"

    def values(kind: pa.DataType, numbers: np.ndarray) -> pa.Array:
        return pa.array(numbers, kind, mask=no_face)

    def jitter(scale: float) -> np.ndarray:
        return rng.normal(0, scale, n).cumsum() * 0.02 + rng.normal(0, scale, n)

    left, top, side = 100 + 200 * face_index + jitter(0.6), 80 + jitter(0.6), 96 + jitter(0.8)
    logits = 2.5 * np.stack([jitter(0.3) + rng.normal(0, 0.1) for _ in EXPRESSIONS], axis=1)
    logits += 3 * (np.arange(8)[None] == (frame_index[:, None] // 60 + face_index[:, None]) % 8)
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    columns: dict[str, pa.Array] = {
        "frame_index": pa.array(frame_index, pa.int64()),
        "pts_s": pa.array(frame_index / fps, pa.float64()),
        "time_s": pa.array(frame_index / fps, pa.float64()),
        "duration_s": pa.array(np.full(n, every / fps), pa.float64()),
        "frame_status": pa.array(status, pa.string()),
        "n_faces": pa.array(np.repeat(faces_in, rows_in), pa.int16()),
        "face_index": values(pa.int16(), face_index),
        "track": values(pa.int32(), face_index + first_track),
        "box_x1_px": values(pa.float32(), left),
        "box_y1_px": values(pa.float32(), top),
        "box_x2_px": values(pa.float32(), left + side),
        "box_y2_px": values(pa.float32(), top + 1.2 * side),
        "det_prob": values(pa.float32(), 1 - np.abs(rng.normal(0, 0.002, n))),
        "face_px": values(pa.float32(), side * 1.095),
        "sharpness": values(pa.float32(), 40 * np.exp(jitter(0.1))),
        "brightness": values(pa.float32(), 0.5 + jitter(0.02)),
        "yaw_deg": values(pa.float32(), jitter(3.0)),
        "pitch_deg": values(pa.float32(), jitter(3.0)),
        "roll_deg": values(pa.float32(), jitter(1.0)),
        "mouth_motion": values(pa.float32(), np.where(frame_index // 75 % 2 == face_index % 2, 1.0, 3.0)),
        "expression": values(pa.string(), np.array(EXPRESSIONS, dtype=object)[prob.argmax(1)]),
        "confidence": values(pa.float32(), prob.max(1)),
        "entropy": values(pa.float32(), -(prob * np.log(prob)).sum(1)),
        "quality_ok": values(pa.bool_(), side > 40),
        "model_id": values(pa.string(), np.full(n, model_id, dtype=object)),
    }
    for k, name in enumerate(EXPRESSIONS):
        if name not in lacks:
            columns[f"p_{name}"] = values(pa.float32(), prob[:, k])
    for k, point in enumerate(LANDMARKS):
        columns[f"{point}_x_px"] = values(pa.float32(), left + side * (0.2 + 0.15 * k) + jitter(0.5))
        columns[f"{point}_y_px"] = values(pa.float32(), top + side * (0.3 + 0.15 * k) + jitter(0.5))
    return pa.table(columns)


SETTINGS = {"every": 1, "tracker": {"min_iou": 0.2, "max_gap_s": 1.0}}


def finished(number: int, **changes: object) -> FinishedVideo:
    fields: dict[str, object] = {
        "video_id": video_id(number),
        "analysis_id": ANALYSIS_A,
        "faces_id": FACES,
        "model_id": MODEL_A,
        "path": f"/films/clip {number}.mp4",
        "size_bytes": 1000 + number,
        "mtime_ns": 5_000_000_000 + number,
        "settings": SETTINGS,
    }
    return FinishedVideo(**(fields | changes))


def commit_segment(lake: Lake, rows: pa.Table, *, analysis_id: str, video_id: str, segment: int = 0) -> bool:
    """Commit one segment; whether this call did it."""
    return bool(lake.commit_segments([Segment(analysis_id, video_id, segment, rows)]))


def add_video(lake: Lake, number: int, rows: pa.Table | None = None, **changes: object) -> FinishedVideo:
    """Commit one video of one segment, from rows to the last write."""
    video = finished(number, **changes)
    rows = face_rows(50, seed=number, model_id=video.model_id) if rows is None else rows
    commit_segment(lake, rows, analysis_id=video.analysis_id, video_id=video.video_id)
    lake.commit_video(video)
    return video


def everything(lake: Lake) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every view, in an order of its own."""
    with connect(lake) as con:
        return {name: con.execute(f"SELECT * FROM {name} ORDER BY ALL").fetchall() for name in VIEWS}


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def race(racers: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Let processes that each say ``ready`` and wait for a line go on at once; what each says until its end."""
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("\n")
        racer.stdin.flush()
    output = []
    for racer in racers:
        out, err = racer.communicate()
        assert racer.returncode == 0, err
        output.append(out)
    return output
