"""Make the lake's rows, an Arrow batch per frame batch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipelines.batches import Detections, ExpressionScores, FrameBatch
from pipelines.faces.quality import FaceQuality
from storage.schema import LANDMARKS, OBSERVATIONS

__all__ = ["ROW_SCHEMA", "FrameTimes", "observation_rows"]

_KEYS = ("analysis_id", "video_id", "segment")
#: Columns of observations that one video's rows bring along; the commit adds the keys.
ROW_SCHEMA = pa.schema([f for f in OBSERVATIONS.schema if f.name not in _KEYS])
_BOX = ("box_x1_px", "box_y1_px", "box_x2_px", "box_y2_px")


class FrameTimes:
    """When each sampled frame is shown and for how long it stands, by frame_index."""

    def __init__(self, frame_index: np.ndarray, pts_s: np.ndarray, duration_s: np.ndarray, start_s: float) -> None:
        """frame_index int64 [S] are the sampled ones; pts_s and duration_s float64 [N] are of all frames."""
        self._sampled = frame_index
        self.pts_s = pts_s[frame_index]
        end_s = pts_s[frame_index[-1]] + duration_s[frame_index[-1]] if len(frame_index) else 0.0
        last_s = max(end_s, pts_s[-1] + duration_s[-1]) if len(frame_index) else 0.0
        self.duration_s = np.maximum(np.diff(self.pts_s, append=last_s), 0.0)
        self.time_s = np.round(self.pts_s - start_s, 9)  # 4 s must not become 3.9999999999999996, of another second

    def rows_of(self, frame_index: np.ndarray) -> np.ndarray:
        """Positions int64 [T] of frames among the sampled ones."""
        return np.searchsorted(self._sampled, frame_index)


def observation_rows(
    frames: FrameBatch,
    times: FrameTimes,
    faces: Detections,
    track: np.ndarray,
    quality: FaceQuality,
    mouth_motion: np.ndarray,
    scores: ExpressionScores,
) -> pa.RecordBatch:
    """Make one row per face, per frame without a face and per frame that could not be read, in frame order.

    Args:
        frames, times: the batch and its clock.
        faces, track, quality, mouth_motion, scores: F faces of the batch; track int64 [F], mouth_motion float32 [F].
    """
    n_per_frame = np.bincount(faces.frame_row, minlength=len(frames))
    empty = frames.frame_index[n_per_frame == 0]
    index = np.concatenate([frames.frame_index[faces.frame_row], empty, frames.undecodable_index])
    n_faces = np.concatenate(
        [n_per_frame[faces.frame_row], np.zeros(len(empty) + len(frames.undecodable_index), np.int64)]
    )
    first = np.searchsorted(faces.frame_row, np.arange(len(frames)))
    face_index = np.arange(len(faces)) - first[faces.frame_row]
    status = ["ok"] * len(faces) + ["no_face"] * len(empty) + ["decode_error"] * len(frames.undecodable_index)
    at = times.rows_of(index)
    columns = {
        "frame_index": index,
        "pts_s": times.pts_s[at],
        "time_s": times.time_s[at],
        "duration_s": times.duration_s[at],
        "frame_status": np.array(status, dtype=object),
        "n_faces": n_faces,
    }
    n_rows = len(index)
    of_faces = {
        "face_index": face_index,
        "track": track,
        **{name: faces.box_xyxy_px[:, i] for i, name in enumerate(_BOX)},
        **{
            f"{point}_{axis}_px": faces.landmarks_px[:, p, a]
            for p, point in enumerate(LANDMARKS)
            for a, axis in enumerate("xy")
        },
        "det_prob": faces.prob,
        "face_px": quality.face_px,
        "sharpness": quality.sharpness,
        "brightness": quality.brightness,
        "yaw_deg": quality.yaw_deg,
        "pitch_deg": quality.pitch_deg,
        "roll_deg": quality.roll_deg,
        "mouth_motion": mouth_motion,
        "quality_ok": quality.quality_ok,
        **_score_columns(scores),
    }
    order = np.lexsort((np.concatenate([face_index, np.zeros(n_rows - len(faces), np.int64)]), index))
    arrays = []
    for field in ROW_SCHEMA:
        if field.name in columns:
            column = pa.array(columns[field.name][order], field.type)
        elif field.name in of_faces:
            column = _pad(of_faces[field.name], n_rows).take(pa.array(order)).cast(field.type)
        elif field.name == "model_id":
            column = pa.array([scores.model_id] * n_rows, field.type)
        else:
            column = pa.nulls(n_rows, field.type)  # a class that the model lacks
        arrays.append(column)
    return pa.RecordBatch.from_arrays(arrays, schema=ROW_SCHEMA)


def _pad(values: np.ndarray, n_rows: int) -> pa.Array:
    """Values of the faces, NULL for NaN, then NULL for the rows without a face."""
    known = pa.array(values, from_pandas=True)
    return pa.concat_arrays([known, pa.nulls(n_rows - len(values), known.type)])


def _score_columns(scores: ExpressionScores) -> dict[str, np.ndarray]:
    prob = scores.prob
    top = prob.argmax(1) if len(prob) else np.zeros(0, np.int64)
    safe = np.clip(prob, 1e-12, None)
    return {
        **{f"p_{name}": prob[:, i] for i, name in enumerate(scores.class_names)},
        "expression": np.array(scores.class_names, dtype=object)[top],
        "confidence": prob.max(1, initial=0.0),
        "entropy": -(safe * np.log(safe)).sum(1),
    }
