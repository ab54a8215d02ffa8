"""What the pages' scripts fetch and post: videos, pictures, curves, edits and judgements."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flask
import numpy as np
from werkzeug.exceptions import BadRequest, NotFound

from dashboards.web import data
from dashboards.web.clips import cut_clip
from dashboards.web.curves import FRAME_STATUSES, view_of
from dashboards.web.media import Pictures
from dashboards.web.source import LakeSource
from storage.annotations.edits import add_edit, add_label, undo_edit
from storage.annotations.labels import ORDERS, least_certain_faces, uncertain_seconds
from storage.annotations.people import accept_person
from storage.identity import composed, video_name
from storage.schema import EXPRESSIONS

__all__ = ["make_api"]

#: Draws where in the faces of a moment the model looked: (video, seconds, PNG to write).
Explain = Callable[[str, Path, float, Path], str]
_MAX_BUCKETS = 2000
_MAX_WINDOW_S = 60.0
#: Faces in one answer: a chunk of some seconds, of a crowd too.
_MAX_FACES = 20_000
_DAY_S = 86_400
#: Faces to judge in one queue.
_MAX_QUEUE = 100
#: Videos in the list beside the player.
_MAX_LISTED = 200
#: Numbers that a request names are no larger: frames, faces, tracks, seconds.
_MAX_WHOLE = 2**31 - 1
#: What a request may send, by name, and what its values are.
_EDIT: dict[str, type] = {
    **dict.fromkeys(("kind", "faces_id", "value", "undo", "accept"), str),
    "track_id": int,
    **dict.fromkeys(("start_s", "end_s"), float),
}
_LABEL: dict[str, type] = {"face": dict, **dict.fromkeys(("verdict", "expression", "rater", "shown_model_id"), str)}
_FACE: dict[str, type] = {"video_id": str, "faces_id": str, "frame_index": int, "face_index": int}
_KINDS = {str: "a text", int: "a whole number", float: "a number", dict: "a JSON object"}


def make_api(source: LakeSource, author: str) -> flask.Blueprint:
    """The routes below ``/api``, ``/media`` and ``/picture``; ``author`` signs edits."""
    api = flask.Blueprint("api", __name__)
    pictures = Pictures(source)

    @api.get("/media/<video_id>")
    def media(video_id: str) -> flask.Response:
        path = source.file_of(video_id)  # never a path from outside: only a content that the lake names
        if path is None or not path.is_file():  # a sequence of pictures is no file
            raise NotFound("the lake names no such video, or its file is gone or has changed")
        return flask.send_file(path, conditional=True, max_age=0)

    @api.get("/picture/thumbnail/<video_id>.jpg")
    def thumbnail(video_id: str) -> flask.Response:
        return _jpeg(pictures.thumbnail(video_id), _DAY_S)

    @api.get("/picture/still/<video_id>.jpg")
    def still(video_id: str) -> flask.Response:
        return _jpeg(pictures.still(video_id, _number("t", 0.0)))

    @api.get(f"/picture/face/<video_id>/<int(max={_MAX_WHOLE}):frame_index>/<int(max={_MAX_WHOLE}):face_index>.jpg")
    def face(video_id: str, frame_index: int, face_index: int) -> flask.Response:
        return _jpeg(pictures.face(video_id, frame_index, face_index))

    @api.get("/api/video/<video_id>/curves")
    def curves(video_id: str) -> dict[str, Any]:
        tracks = data.tracks_of(source, video_id, _analysis(source, video_id)).curves
        from_s, to_s = _number("from", 0.0), _number("to", 0.0)
        if not to_s > from_s:
            raise BadRequest("from must be before to")
        n_buckets = int(min(max(_number("buckets", 600), 10), _MAX_BUCKETS))
        window_s = min(max(_number("window", 0.5), 0.0), _MAX_WINDOW_S)
        wanted = [_whole("tracks", word) for word in flask.request.args.get("tracks", "").split(",") if word]
        return {
            "from_s": from_s,
            "to_s": to_s,
            "tracks": [view_of(tracks[k], from_s, to_s, n_buckets, window_s) for k in wanted if k in tracks],
            "baseline": {
                k: [None if math.isnan(p) else round(p, 4) for p in tracks[k].baseline().tolist()]
                for k in wanted
                if k in tracks
            },
        }

    @api.get("/api/video/<video_id>/faces")
    def faces(video_id: str) -> dict[str, Any]:
        tracks = data.tracks_of(source, video_id, _analysis(source, video_id))
        return _faces_between(tracks, _number("from", 0.0), _number("to", 0.0))

    @api.get("/api/video/<video_id>/scores.csv")
    def scores_csv(video_id: str) -> flask.Response:
        chosen = _known(source, video_id)[0]["analysis_id"] == _analysis(source, video_id)
        rows = source.rows(
            f"SELECT * FROM {'scores' if chosen else '(SELECT * EXCLUDE (chosen) FROM scores_all)'} WHERE video_id = ?"
            " AND analysis_id = ? AND time_s + duration_s > ? AND time_s < ? ORDER BY time_s, face_index",
            [video_id, _analysis(source, video_id), _number("from", 0.0), _number("to", 1e9)],
            video_id=video_id,
        )
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows.column_names)
        writer.writerows(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        return _download(flask.Response(text.getvalue(), mimetype="text/csv"), source, video_id, "scores.csv")

    @api.get("/api/video/<video_id>/clip.mp4")
    def clip(video_id: str) -> flask.Response:
        blur = flask.request.args.get("blur") == "1"
        content = cut_clip(source, video_id, _number("from", 0.0), _number("to", 0.0), blur=blur)
        return _download(flask.Response(content, mimetype="video/mp4"), source, video_id, "clip.mp4")

    @api.get("/api/videos")
    def videos() -> dict[str, Any]:
        words = composed(flask.request.args.get("text", "")).lower().split()
        near = flask.request.args.get("near", "")
        rows = [row for row in data.library(source) if row["analysis_id"]]
        rows = [row for row in rows if all(word in composed(row["path"]).lower() for word in words)]
        here = next((k for k, row in enumerate(rows) if row["video_id"] == near), 0)
        first = max(0, min(here - _MAX_LISTED // 2, len(rows) - _MAX_LISTED))
        shown = [
            {
                "video_id": row["video_id"],
                "path": row["path"],
                "folder": os.path.basename(row["folder"]),
                "file_name": row["file_name"],
                "title": row["title"],
            }
            for row in rows[first : first + _MAX_LISTED]
        ]
        return {"videos": shown, "n_videos": len(rows)}

    @api.get("/api/video/<video_id>/edits")
    def edits(video_id: str) -> dict[str, Any]:
        return data.video_edits(source, video_id)

    @api.post("/api/video/<video_id>/edits")
    def edit(video_id: str) -> dict[str, Any]:
        payload = _payload(_EDIT)
        _known(source, video_id)
        try:
            if "undo" in payload:
                undo_edit(source.lake, video_id, str(payload["undo"]), author)
            elif "accept" in payload:
                accept_person(source.lake, video_id, str(payload["accept"]), author)
            else:
                add_edit(source.lake, video_id, payload.pop("kind", None), author=author, **payload)
        except (TypeError, ValueError) as error:
            raise BadRequest(str(error)) from error
        return data.video_edits(source, video_id)

    @api.get("/api/labels/queue")
    def queue() -> dict[str, Any]:
        rater, order = flask.request.args.get("rater", "").strip(), flask.request.args.get("order", "entropy")
        if not rater or order not in ORDERS:
            raise BadRequest(f"who judges? and order must be one of {', '.join(ORDERS)}")
        done = source.dicts("SELECT count(*) AS n FROM labels WHERE rater = ?", [rater])[0]["n"]
        return {"faces": uncertain_seconds(source.dicts, _MAX_QUEUE, order, rater=rater), "n_done": done}

    @api.get("/api/labels/face")
    def face_to_judge() -> dict[str, Any]:
        place: dict[str, Any] = {name: flask.request.args.get(name, "") for name in ("video_id", "faces_id")}
        place |= {name: _whole(name, flask.request.args.get(name, "")) for name in ("track_id", "second")}
        order = flask.request.args.get("order", ORDERS[0])
        if order not in ORDERS:
            raise BadRequest(f"order must be one of {', '.join(ORDERS)}")
        found = least_certain_faces(source.dicts, [place], order)
        if not found:
            raise NotFound("the lake has no face of good quality there any more")
        return found[0] | {"title": video_name(found[0]["file_name"], found[0]["video_id"])}

    @api.post("/api/labels")
    def label() -> dict[str, Any]:
        payload = _payload(_LABEL)
        face = _checked({name: (payload.get("face") or {}).get(name) for name in _FACE}, _FACE)
        if None in face.values():
            raise BadRequest(f"a judgement names its face by {', '.join(_FACE)}")
        found = data.face_at(source, **face)
        if found is None:
            raise NotFound("the lake has no such face")
        try:
            label_id = add_label(
                source.lake,
                found,
                str(payload.get("verdict")),
                payload.get("expression"),
                str(payload.get("rater") or ""),
                shown_model_id=payload.get("shown_model_id"),
            )
        except (TypeError, ValueError) as error:
            raise BadRequest(str(error)) from error
        return {"label_id": label_id}

    return api


def add_explain(api: flask.Blueprint, source: LakeSource, explain: Explain) -> None:
    """The route that draws a Grad-CAM, where the program that started the dashboard can."""

    @api.get("/picture/explain/<video_id>.png")
    def explained(video_id: str) -> flask.Response:
        import tempfile

        path = source.file_of(video_id)
        if path is None:
            raise NotFound("the lake names no such video, or its file is gone or has changed")
        with tempfile.TemporaryDirectory() as folder:
            png = Path(folder) / "explained.png"
            try:
                explain(video_id, path, _number("t", 0.0), png)
            except (ValueError, RuntimeError) as error:  # ConfigError and ModelError: for people
                raise BadRequest(str(error)) from error
            return flask.Response(png.read_bytes(), mimetype="image/png")


def _download(answer: flask.Response, source: LakeSource, video_id: str, what: str) -> flask.Response:
    """The answer as a file that is called after the video."""
    names = source.dicts("SELECT file_name FROM videos WHERE video_id = ? LIMIT 1", [video_id], video_id=video_id)
    stem = video_name(Path(names[0]["file_name"]).stem, video_id) if names else video_id
    answer.headers.set("Content-Disposition", "attachment", filename=f"{stem}_{what}")
    return answer


def _jpeg(picture: bytes | None, max_age_s: int = 60) -> flask.Response:
    if picture is None:
        raise NotFound("the file is gone, has changed since it was analysed, or cannot be read there")
    headers = {"Cache-Control": f"private, max-age={max_age_s}"}
    return flask.Response(picture, mimetype="image/jpeg", headers=headers)


def _number(name: str, default: float) -> float:
    try:
        value = float(flask.request.args.get(name, default))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRequest(f"{name} must be a number")
    return value


def _whole(name: str, text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,18}", text):
        raise BadRequest(f"{name} must be a whole number")
    return int(text)


def _payload(kinds: Mapping[str, type]) -> dict[str, Any]:
    return _checked(flask.request.get_json(), kinds)


def _checked(payload: Any, kinds: Mapping[str, type]) -> dict[str, Any]:
    """A JSON object in which every value is null or of its kind, and numbers are ones that the lake can hold."""
    if not isinstance(payload, dict) or set(payload) - set(kinds):
        raise BadRequest(f"send a JSON object with {', '.join(sorted(kinds))}")
    for name, value in payload.items():
        kind = kinds[name]
        is_of_kind = type(value) in ((int, float) if kind is float else (kind,))
        if kind in (int, float) and is_of_kind:
            is_of_kind = -_MAX_WHOLE <= value <= _MAX_WHOLE  # not so for NaN and Infinity, which Python reads in JSON
        if value is not None and not is_of_kind:
            raise BadRequest(f"{name} must be {_KINDS[kind]}")
    return payload


def _known(source: LakeSource, video_id: str) -> list[dict[str, Any]]:
    def ask() -> list[dict[str, Any]]:
        query = "SELECT analysis_id, chosen FROM raw.finished WHERE video_id = ? ORDER BY chosen DESC"
        return source.dicts(query, [video_id], video_id=video_id)

    analyses = source.kept(("analyses", video_id), ask)
    if not analyses:
        raise NotFound("the lake has no finished analysis of such a video")
    return analyses


def _analysis(source: LakeSource, video_id: str) -> str:
    """The analysis that is asked for, or the chosen one."""
    known = [row["analysis_id"] for row in _known(source, video_id)]
    wanted = flask.request.args.get("analysis") or known[0]
    if wanted not in known:
        raise NotFound("the video has no such analysis")
    return str(wanted)


def _faces_between(tracks: data.VideoTracks, from_s: float, to_s: float) -> dict[str, Any]:
    """Frames and faces of a span, by column: what is drawn over the playing video."""
    frames = tracks.frames
    a, b = np.searchsorted(frames.time_s + frames.duration_s, from_s), np.searchsorted(frames.time_s, to_s)
    found: list[dict[str, Any]] = []
    for track in tracks.curves.values():
        first, last = np.searchsorted(track.time_s, [from_s - 1e-6, to_s])
        if last == first:
            continue
        last = min(int(last), int(first) + _MAX_FACES)
        shown = slice(max(int(first) - 1, 0), last)
        found.append(
            {
                "track_id": track.track_id,
                "frame": track.frame_index[shown].tolist(),
                "face": track.face_index[shown].tolist(),
                "ok": track.ok[shown].tolist(),
                "box": np.round(track.box_px[shown], 1).tolist(),
                "prob": [
                    [None if p != p else p for p in row]
                    for row in np.round(track.prob[shown].astype(np.float64), 3).tolist()
                ],
            }
        )
    return {
        "from_s": from_s,
        "to_s": to_s,
        "time_s": np.round(frames.time_s[a:b], 6).tolist(),
        "duration_s": np.round(frames.duration_s[a:b], 6).tolist(),
        "frame": frames.frame_index[a:b].tolist(),
        "status": [FRAME_STATUSES[k] for k in frames.status[a:b]],
        "classes": list(EXPRESSIONS),
        "tracks": found,
    }
