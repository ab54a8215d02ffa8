"""What is known of a video, a moment or a model, as text."""

from __future__ import annotations

import json
import math
import os
import shlex
from pathlib import Path
from typing import Any

from mfer.card import Card, read_card
from mfer.errors import ConfigError, ModelError
from pipelines.errors import VideoError
from pipelines.remote import local_copy
from pipelines.scoring.lookup import find_model, known_models
from pipelines.video.containers import require_file
from pipelines.video.decode import open_video
from pipelines.video.decoders import DECODERS, refusal
from pipelines.video.scan import list_streams
from storage.delta.object_store import is_uri, place_of
from storage.delta.relations import rows_of
from storage.delta.tables import MARKER
from storage.errors import LakeError
from storage.identity import as_stored, content_of_video, path_shown, path_text, stream_of_video, video_id_of
from storage.lake import Lake
from storage.schema import EXPRESSIONS
from storage.sql.selection import several_videos
from storage.sql.views import connect
from storage.wording import counted

__all__ = ["inspect_video", "model_card", "models_table", "open_lake"]

#: Metrics of a card, and what they are called.
_FIGURES = {
    "accuracy": "accuracy",
    "mean_recall": "mean recall",
    "ece": "calibration error",
    "nll": "neg. log-likelihood",
}


def open_lake(location: str) -> Lake | None:
    """The lake there, or None where there is none yet; a damaged one raises LakeError."""
    try:
        return Lake.open(location)
    except LakeError as error:
        if error.code == "not_a_lake" and not (place_of(location) / MARKER).exists():
            return None
        raise


def inspect_video(name: str, lake_location: str, at_s: float | None = None) -> tuple[str, bool]:
    """Describe the file itself, then what the lake holds of it, then one moment.

    Args:
        name: the video: a path, or a file name or video_id that the lake knows.
        lake_location: a lake; there may be none.
        at_s: seconds into the video, as a player shows them.

    Returns:
        The text, and whether it answers: there is such a video, and the lake has the moment that was asked for.

    Raises:
        ConfigError: ``at_s`` is no finite number.
        LakeError: ``unknown_video`` where the name stands for several videos.
    """
    if at_s is not None and not math.isfinite(at_s):
        raise ConfigError(f"--at needs a moment in seconds, got {at_s}")
    lake = open_lake(lake_location)
    name = name if is_uri(name) else str(as_stored(name))
    known = _named(lake, name) if lake and not is_uri(name) and not os.path.lexists(name) else []
    path = known[0]["path"] if known else name
    stored_path, content = path_text(path if is_uri(path) else os.path.abspath(path)), None
    try:
        with local_copy(place_of(path)) as file:
            require_file(file)
            content = video_id_of(file)
            known = known or (_in_lake(lake, stored_path, content) if lake else [])
            analysed = [row["video_id"] for row in known if row["model_id"] is not None]
            about_file = _file_lines(file, content, stream_of_video(analysed[0]) if analysed else None)
    except VideoError as error:
        about_file = [f"  cannot be read: {error.code}: {error.message}"]
        known = known or (_in_lake(lake, stored_path, content) if lake else [])
        content = None
    lines = [path_shown(path), *about_file]
    if lake is None:
        command = f"mfer analyze {shlex.quote(path_shown(path))} --lake {shlex.quote(lake_location)}"
        lines.append(f"  no lake at {lake_location}: run `{command}`")
        return "\n".join(lines), content is not None and at_s is None
    if not known:
        lines.append(f"  lake      not analysed yet in {lake.location}")
        return "\n".join(lines), content is not None and at_s is None
    has_moment = at_s is None
    for row in known:
        lines.append(_lake_line(row))
        if at_s is not None:
            moment, found = _moment(lake, row["video_id"], at_s)
            lines, has_moment = [*lines, *moment], has_moment or found
    return "\n".join(lines), has_moment


def _file_lines(file: Path, content: str, stream: int | None) -> list[str]:
    """What the file itself says of a video stream, None for the one that players show, and which others it has."""
    video = open_video(file, content, stream=stream)
    info, (_, streams) = video.info, list_streams(file)
    turned = f", rotated {info.rotation_deg} degrees" if info.rotation_deg else ""
    turned += ", mirrored" if info.mirrored else ""
    decoders = [
        f"  {decoder:9} {f'not: {reason}' if (reason := refusal(decoder, video)) else 'may read it'}"
        for decoder in DECODERS
    ]
    of_stream = f", stream {info.stream}" if len(streams) > 1 else ""
    return [
        f"  file      {info.container}, {info.codec}, {info.width_px}x{info.height_px} px as shown{turned}{of_stream}",
        f"  time      {info.n_frames} frames, {info.duration_s:.3f} s, starts at {info.start_s:.3f} s",
        *(f"  stream    {text}" for text in streams if len(streams) > 1),
        f"  video_id  {content}",
        *(f"  note      {remark}" for remark in (*(video.defect or ())[1:], video.note) if remark),
        *decoders,
    ]


def _rows(lake: Lake, sql: str, values: list[Any]) -> list[dict[str, Any]]:
    with connect(lake) as con:
        rows: list[dict[str, Any]] = rows_of(con, sql, values).to_pylist()
        return rows


_COLUMNS = (
    "status, code, message, n_frames, n_frames_with_face, n_faces, n_tracks, model_id, video_id, path, stream,"
    " n_streams"
)
_KNOWN = f"SELECT {_COLUMNS} FROM videos"


def _named(lake: Lake, name: str) -> list[dict[str, Any]]:
    """The streams of the file that the lake knows by this path (also of one that is gone), video_id or file name."""
    values = [path_text(os.path.abspath(name)), path_text(name)]
    found = _rows(
        lake,
        f"{_KNOWN} WHERE path = $1 OR $2 IN (video_id, file_name) ORDER BY path = $1 DESC, video_id",
        values,
    )
    found = [row for row in found if row["path"] == values[0]] or found
    if len({content_of_video(row["video_id"]) if row["video_id"] else row["path"] for row in found}) > 1:
        raise several_videos(values[1], [(row["video_id"] or "", row["path"]) for row in found])
    return [row for row in found if row["path"] == found[0]["path"]]


def _in_lake(lake: Lake, path: str, content: str | None) -> list[dict[str, Any]]:
    """What the lake has of these bytes, also from another path, or of this path, also where the file is gone: a row
    for each stream."""
    return _rows(
        lake,
        f"{_KNOWN} WHERE split_part(video_id, '-v', 1) = $2 OR (path = $1 AND ($2 IS NULL OR video_id IS NULL))"
        " QUALIFY row_number() OVER (PARTITION BY video_id ORDER BY path = $1 DESC) = 1 ORDER BY video_id",
        [path, content],
    )


def _lake_line(known: dict[str, Any]) -> str:
    why = f" ({known['code']}: {known['message']})" if known["code"] else ""
    stream = known["stream"] if known["n_streams"] and known["n_streams"] > 1 else None
    of_stream = "" if stream is None else f"stream {stream} ({known['video_id']}) "
    if known["model_id"] is None:
        return f"  lake      {of_stream}{known['status']}{why}"
    return (
        f"  lake      {of_stream}{known['status']}{why}: {known['n_frames']} frames, {known['n_frames_with_face']} with"
        f" a face, {counted(known['n_faces'], 'face')}, {counted(known['n_tracks'], 'track')},"
        f" model {known['model_id']}"
    )


def _moment(lake: Lake, video_id: str | None, at_s: float) -> tuple[list[str], bool]:
    """What the lake holds of a moment, and whether it has the moment at all."""
    frame = _rows(
        lake,
        "SELECT frame_index, time_s, duration_s, frame_status, n_faces FROM frames WHERE video_id = ?"
        " AND time_s <= ? ORDER BY time_s DESC LIMIT 1",
        [video_id, at_s + 1e-6],
    )
    if not frame:
        return [f"  at {at_s:.3f} s: the lake has no frame of this video at or before that time"], False
    row = frame[0]
    if at_s >= row["time_s"] + row["duration_s"]:
        end_s = row["time_s"] + row["duration_s"]
        return [f"  at {at_s:.3f} s: after the last frame, which ends at {end_s:.3f} s"], False
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
    lines += [_excluded_line(face) for face in _rows(lake, _EXCLUDED, [video_id, row["frame_index"]])]
    return lines, True


#: The faces of a frame that the views leave out, and the first edit that says so.
_EXCLUDED = """
    SELECT DISTINCT ON (s.face_index) s.face_index, e.track_id, e.start_s, e.end_s, e.author, e.value
    FROM (FROM scores_all WHERE video_id = $1 AND frame_index = $2 AND chosen) s
         JOIN analyses a ON s.analysis_id = a.analysis_id
         ANTI JOIN scores k ON s.video_id = k.video_id AND s.frame_index = k.frame_index AND s.face_index = k.face_index
         LEFT JOIN edits e ON s.video_id = e.video_id AND e.kind = 'exclude'
              AND (e.track_id IS NULL OR (e.track_id = s.track_id AND e.faces_id = a.faces_id))
              AND s.time_s >= coalesce(e.start_s, '-inf'::DOUBLE) AND s.time_s < coalesce(e.end_s, 'inf'::DOUBLE)
    ORDER BY s.face_index, e.created_utc
"""


def _excluded_line(face: dict[str, Any]) -> str:
    what = "the whole picture" if face["track_id"] is None else "this face"
    ends = (("from", face["start_s"]), ("until", face["end_s"]))
    span = "".join(f" {word} {at_s:.3f} s" for word, at_s in ends if at_s is not None)
    why = f": {face['value']}" if face["value"] else ""
    return f"    face {face['face_index']}: no score: {face['author'] or 'somebody'} excluded {what}{span}{why}"


def _face_lines(face: dict[str, Any]) -> list[str]:
    scores = sorted(((face[f"p_{name}"], name) for name in EXPRESSIONS if face[f"p_{name}"] is not None), reverse=True)
    shown = ", ".join(f"{name} {prob:.2f}" for prob, name in scores[:4])
    quality = "good" if face["quality_ok"] else "low: treat the score with care"
    return [
        f"    face {face['face_index']} (track {face['track_id']}): {shown}",
        f"      {face['face_px']:.0f} px, sharpness {face['sharpness']:.2f}, brightness {face['brightness']:.2f},"
        f" {_pose(face)}, detector {face['det_prob']:.2f}; quality {quality}",
    ]


def _pose(face: dict[str, Any]) -> str:
    roll = f"roll {face['roll_deg']:+.0f} degrees"
    if face["yaw_deg"] is None:
        return f"turn and nod unsure, {roll}"
    return f"yaw {face['yaw_deg']:+.0f}, pitch {face['pitch_deg']:+.0f}, {roll}"


def models_table(lake_location: str) -> str:
    """One line per model that --model can name."""
    lake = open_lake(lake_location)
    default = _default_model_id(lake)
    lines = [f"{'model':46} {'from':10} {'classes':>7} {'side':>5} {'accuracy':>9} {'n':>6}  (* default)"]
    for origin, card in known_models(lake):
        metrics = card.metrics
        accuracy = metrics.get("accuracy")
        metric = f"{accuracy['value'] if isinstance(accuracy, dict) else accuracy:.4f}" if accuracy is not None else ""
        mark = "*" if card.model_id == default else " "
        lines.append(
            f"{mark} {card.model_id:44} {origin:10} {len(card.class_names):7} {card.crop.side_px:5} {metric:>9}"
            f" {metrics.get('n', ''):>6}"
        )
    return "\n".join(lines)


def _default_model_id(lake: Lake | None) -> str | None:
    try:
        return read_card(find_model("default", lake)).model_id
    except ModelError:
        return None  # the list of what there is helps to choose another


def model_card(name: str, lake_location: str, *, as_json: bool = False) -> str:
    """A model's card to read; as JSON, all that it holds."""
    card = read_card(find_model(name, open_lake(lake_location)))
    return json.dumps(card.to_dict(), indent=2) if as_json else _card_text(card)


def _card_text(card: Card) -> str:
    data, metrics, crop = card.training.get("data"), card.metrics, card.crop
    mirror = ", each face and its mirror image averaged" if card.architecture.mirror else ""
    lines = [
        card.model_id,
        f"  classes   {', '.join(card.class_names)}",
        f"  network   {card.architecture.name}, {crop.colour} crops of {crop.side_px} px{mirror}",
        f"  parent    {card.parent or 'none'}",
        f"  licence   {card.licence or 'not recorded'}",
    ]
    if data:
        lines.append(f"  data      {data['source']}: {data['n_train']:,} faces to learn from; {data['parts']}")
    if "n" in metrics:
        lines.append(f"  measured  on {metrics['n']:,} faces of the split {metrics.get('split', 'unknown')}:")
    for key, label in _FIGURES.items():
        if key in metrics:
            low, high = metrics.get("intervals", {}).get(key, (None, None))
            interval = "" if low is None else f"  (95 % interval {low:.4f} to {high:.4f})"
            lines.append(f"    {label:20}{metrics[key]:.4f}{interval}")
    if recall := metrics.get("per_class_recall"):
        shown = (f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in recall.items())
        lines.append(f"    {'recall':20}{', '.join(shown)}")
    if "protocol" in metrics:
        lines.append(f"    {metrics['protocol']}")
    return "\n".join([*lines, "  --json prints all that the card holds"])
