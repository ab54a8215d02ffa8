"""What is known of a video, a moment or a model, as text."""

from __future__ import annotations

import json
import os
import shlex
from typing import Any

from mfer.card import read_card
from mfer.errors import ModelError
from pipelines.errors import VideoError
from pipelines.remote import local_copy
from pipelines.scoring.lookup import find_model, known_models
from pipelines.video.containers import require_file
from pipelines.video.decode import open_video
from pipelines.video.decoders import DECODERS, refusal
from storage.delta.object_store import is_uri, place_of
from storage.delta.relations import rows_of
from storage.delta.tables import MARKER
from storage.errors import LakeError
from storage.identity import path_shown, path_text, video_id_of
from storage.lake import Lake
from storage.schema import EXPRESSIONS
from storage.sql.views import connect

__all__ = ["inspect_video", "model_card", "models_table", "open_lake"]


def open_lake(location: str) -> Lake | None:
    """The lake there, or None where there is none yet; a damaged one raises LakeError."""
    try:
        return Lake.open(location)
    except LakeError as error:
        if error.code == "not_a_lake" and not (place_of(location) / MARKER).exists():
            return None
        raise


def inspect_video(path: str, lake_location: str, at_s: float | None = None) -> str:
    """Describe the file itself, then what the lake holds of it, then one moment.

    Args:
        path: the video.
        lake_location: a lake; there may be none.
        at_s: seconds into the video, as a player shows them.
    """
    lines = [path_shown(path)]
    lake = open_lake(lake_location)
    video_id = None
    try:
        with local_copy(place_of(path)) as file:
            require_file(file)
            video_id = video_id_of(file)
            info = open_video(file, video_id)
        about = info.info
        turned = f", rotated {about.rotation_deg} degrees" if about.rotation_deg else ""
        turned += ", mirrored" if about.mirrored else ""
        lines += [
            f"  file      {about.container}, {about.codec}, {about.width_px}x{about.height_px} px as shown{turned}",
            f"  time      {about.n_frames} frames, {about.duration_s:.3f} s, starts at {about.start_s:.3f} s",
            f"  video_id  {video_id}",
            *(
                f"  {decoder:9} {f'not: {reason}' if (reason := refusal(decoder, info)) else 'may read it'}"
                for decoder in DECODERS
            ),
        ]
    except VideoError as error:
        lines.append(f"  cannot be read: {error.code}: {error.message}")
    if lake is None:
        command = f"mfer analyze {shlex.quote(path_shown(path))} --lake {shlex.quote(lake_location)}"
        return "\n".join([*lines, f"  no lake at {lake_location}: run `{command}`"])
    known = _in_lake(lake, path_text(path if is_uri(path) else os.path.abspath(path)), video_id)
    if known is None:
        return "\n".join([*lines, f"  lake      not analysed yet in {lake.location}"])
    lines.append(_lake_line(known))
    if at_s is not None:
        lines += _moment(lake, video_id or known["video_id"], at_s)
    return "\n".join(lines)


def _rows(lake: Lake, sql: str, values: list[Any]) -> list[dict[str, Any]]:
    with connect(lake) as con:
        rows: list[dict[str, Any]] = rows_of(con, sql, values).to_pylist()
        return rows


def _in_lake(lake: Lake, path: str, video_id: str | None) -> dict[str, Any] | None:
    """What the lake has of these bytes, also from another path, or of this path, also where the file is gone."""
    found = _rows(
        lake,
        "SELECT status, code, message, n_frames, n_frames_with_face, n_faces, n_tracks, model_id, video_id FROM videos"
        " WHERE video_id = $2 OR (path = $1 AND ($2 IS NULL OR video_id IS NULL)) ORDER BY path = $1 DESC LIMIT 1",
        [path, video_id],
    )
    return found[0] if found else None


def _lake_line(known: dict[str, Any]) -> str:
    why = f" ({known['code']}: {known['message']})" if known["code"] else ""
    if known["model_id"] is None:
        return f"  lake      {known['status']}{why}"
    return (
        f"  lake      {known['status']}{why}: {known['n_frames']} frames, {known['n_frames_with_face']} with a face,"
        f" {known['n_faces']} faces, {known['n_tracks']} tracks, model {known['model_id']}"
    )


def _moment(lake: Lake, video_id: str | None, at_s: float) -> list[str]:
    frame = _rows(
        lake,
        "SELECT frame_index, time_s, duration_s, frame_status, n_faces FROM frames WHERE video_id = ?"
        " AND time_s <= ? ORDER BY time_s DESC LIMIT 1",
        [video_id, at_s + 1e-6],
    )
    if not frame:
        return [f"  at {at_s:.3f} s: the lake has no frame of this video at or before that time"]
    row = frame[0]
    if at_s >= row["time_s"] + row["duration_s"]:
        return [f"  at {at_s:.3f} s: after the last frame, which ends at {row['time_s'] + row['duration_s']:.3f} s"]
    lines = [
        f"  at {at_s:.3f} s: frame {row['frame_index']}, shown {row['time_s']:.3f} s for {row['duration_s']:.3f} s"
    ]
    if row["frame_status"] == "no_face":
        lines.append("    no score: the detector found no face (too small, turned away, covered, or nobody there)")
    elif row["frame_status"] == "decode_error":
        lines.append("    no score: this frame of the file could not be read")
    faces = _rows(
        lake,
        "SELECT * FROM scores WHERE video_id = ? AND frame_index = ? ORDER BY face_index",
        [video_id, row["frame_index"]],
    )
    for face in faces:
        lines += _face_lines(face)
    return lines


def _face_lines(face: dict[str, Any]) -> list[str]:
    scores = sorted(((face[f"p_{name}"], name) for name in EXPRESSIONS if face[f"p_{name}"] is not None), reverse=True)
    shown = ", ".join(f"{name} {prob:.2f}" for prob, name in scores[:4])
    quality = "good" if face["quality_ok"] else "low: treat the score with care"
    return [
        f"    face {face['face_index']} (track {face['track_id']}): {shown}",
        f"      {face['face_px']:.0f} px, sharpness {face['sharpness']:.2f}, head turn {face['yaw_proxy']:+.2f},"
        f" roll {face['roll_deg']:+.0f} degrees, detector {face['det_prob']:.2f}; quality {quality}",
    ]


def models_table(lake_location: str) -> str:
    """One line per model that --model can name."""
    lake = open_lake(lake_location)
    default = _default_model_id(lake)
    lines = [f"{'model':46} {'from':10} {'classes':>7} {'side':>5} {'accuracy':>9}  (* default)"]
    for origin, card in known_models(lake):
        metrics = card.metrics
        accuracy = metrics.get("accuracy")
        figure = f"{accuracy['value'] if isinstance(accuracy, dict) else accuracy:.4f}" if accuracy is not None else ""
        mark = "*" if card.model_id == default else " "
        lines.append(
            f"{mark} {card.model_id:44} {origin:10} {len(card.class_names):7} {card.crop.side_px:5} {figure:>9}"
        )
    return "\n".join(lines)


def _default_model_id(lake: Lake | None) -> str | None:
    try:
        return read_card(find_model("default", lake)).model_id
    except ModelError:
        return None  # the list of what there is helps to choose another


def model_card(name: str, lake_location: str) -> str:
    """A model's card as JSON."""
    return json.dumps(read_card(find_model(name, open_lake(lake_location))).to_dict(), indent=2)
