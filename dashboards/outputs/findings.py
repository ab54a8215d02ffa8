"""What a report tells of one video: its tracks over time, its key moments and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dashboards.outputs.faces import names_of
from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.outputs.pictures import crop_face, hide_faces
from dashboards.outputs.svg import Track
from pipelines.errors import VideoError
from pipelines.video.stills import read_still
from storage.delta.relations import Connection, rows_of
from storage.identity import stream_of_video
from storage.sql.selection import ChosenVideo

__all__ = ["TURNED_DEG", "Findings", "Moment", "find"]

_MAX_TRACKS = 8
_MAX_BINS = 480
_MAX_MOMENTS_OF_A_KIND = 2
_PICTURE_PX = 240
#: A face counts as turned away from this yaw on, and where its yaw is unknown.
TURNED_DEG = 20


@dataclass(frozen=True)
class Moment:
    """The apex of an event: which face, when, how long, and how it looks; picture is None where none can be cut out."""

    track_id: int
    who: str
    expression: str
    apex_s: float
    onset_s: float
    offset_s: float
    apex_p: float
    picture: Image.Image | None


@dataclass(frozen=True)
class Findings:
    """One video's part of a report.

    ``shares`` are of the time that faces were seen; ``quality`` has the column names of the question behind it;
    ``no_pictures`` says why there is none.
    """

    video: ChosenVideo
    shares: dict[str, float]
    seen_s: float
    tracks: list[Track]
    track_ids: list[int]
    n_more_tracks: int
    bin_s: float
    moments: list[Moment]
    quality: dict[str, Any]
    no_pictures: str = ""


def find(con: Connection, video: ChosenVideo, n_moments: int, blur: bool) -> Findings:
    """Ask everything that a report says of one video.

    Args:
        con: from ``storage.sql.views.connect``.
        video: which.
        n_moments: pictures to cut out, at most.
        blur: hide the faces in them.
    """
    spoken = rows_of(
        con,
        "SELECT expression, share, screen_time_s FROM video_shares() WHERE video_id = ? ORDER BY share DESC",
        [video.video_id],
    ).to_pylist()
    shares = {row["expression"]: row["share"] for row in spoken if row["share"] is not None}
    tracks = rows_of(
        con,
        "SELECT track_id, start_s FROM tracks WHERE video_id = ? AND track_id IN (SELECT track_id FROM seconds WHERE"
        " video_id = ?) ORDER BY end_s - start_s DESC, track_id",
        [video.video_id, video.video_id],
    ).to_pylist()
    shown = sorted(tracks[:_MAX_TRACKS], key=lambda row: (row["start_s"], row["track_id"]))
    quality = _quality(con, video)
    bin_s = max((video.duration_s or 0) / _MAX_BINS, 1.01 * (quality["step_s"] or 0), 1e-3)
    names = names_of(con, video.video_id)
    moments, why = _moments(con, video, n_moments, blur, names)
    return Findings(
        video,
        shares,
        spoken[0]["screen_time_s"] if spoken else 0.0,
        [_track(con, video, row["track_id"], bin_s, names) for row in shown],
        [row["track_id"] for row in shown],
        len(tracks) - len(shown),
        bin_s,
        moments,
        quality,
        why,
    )


def _track(con: Connection, video: ChosenVideo, track_id: int, bin_s: float, names: dict[int, str]) -> Track:
    weight = "greatest(duration_s, 1e-9)"
    means = ", ".join(f"coalesce(sum(p_{n} * {weight}) / sum({weight}), 0) AS {n}" for n in EXPRESSION_COLOURS)
    rows = rows_of(
        con,
        f"SELECT CAST(floor(time_s / ?) AS BIGINT) AS bin, {means}, avg(CAST(quality_ok AS INTEGER)) < 0.5 AS doubtful"
        " FROM scores WHERE video_id = ? AND track_id = ? GROUP BY bin ORDER BY bin",
        [bin_s, video.video_id, track_id],
    )
    prob = np.stack([rows[name].to_numpy() for name in EXPRESSION_COLOURS], axis=1)
    means_of_track = prob.mean(0) if len(prob) else np.zeros(len(EXPRESSION_COLOURS))
    leading = [list(EXPRESSION_COLOURS)[k] for k in np.argsort(-means_of_track)[:2] if means_of_track[k] >= 0.1]
    label = names.get(track_id, f"face {track_id}") + (f" · mostly {' and '.join(leading)}" if leading else "")
    return Track(label, rows["bin"].to_numpy(), prob, np.asarray(rows["doubtful"].fill_null(False)))


def _quality(con: Connection, video: ChosenVideo) -> dict[str, Any]:
    (faces,) = rows_of(
        con,
        "SELECT avg(CAST(quality_ok AS DOUBLE)) AS quality_ok, median(face_px) AS face_px, median(sharpness) AS"
        f" sharpness, avg(CAST(coalesce(abs(yaw_deg) > {TURNED_DEG}, true) AS DOUBLE)) AS turned,"
        " avg(det_prob) AS det_prob, avg(confidence) AS confidence FROM scores WHERE video_id = ?",
        [video.video_id],
    ).to_pylist()
    (frames,) = rows_of(
        con,
        "SELECT count(*) AS n_frames, count(*) FILTER (WHERE frame_status = 'no_face') AS n_without_face,"
        " count(*) FILTER (WHERE frame_status = 'decode_error') AS n_undecodable, max(n_faces) AS most_faces,"
        " quantile_cont(duration_s, 0.99) AS step_s, count(DISTINCT round(duration_s, 3)) > 1 AS uneven"
        " FROM frames WHERE video_id = ?",
        [video.video_id],
    ).to_pylist()
    return faces | frames


def _moments(
    con: Connection, video: ChosenVideo, n_moments: int, blur: bool, names: dict[int, str]
) -> tuple[list[Moment], str]:
    if n_moments == 0:
        return [], ""
    events = rows_of(
        con,
        "SELECT track_id, expression, onset_s, apex_s, offset_s, apex_p FROM expression_events() WHERE video_id = ?"
        " AND expression <> 'neutral' ORDER BY apex_p * least(offset_s - onset_s, 2) DESC, apex_s, track_id",
        [video.video_id],
    ).to_pylist()
    chosen: list[dict[str, Any]] = []
    for event in events:
        alike = [other for other in chosen if other["expression"] == event["expression"]]
        if len(chosen) < n_moments and len(alike) < _MAX_MOMENTS_OF_A_KIND:
            chosen.append(event)
    chosen.sort(key=lambda event: (event["apex_s"], event["track_id"]))
    why, moments = "", []
    for event in chosen:
        picture = None
        if not why:
            try:
                picture = _picture(con, video, event, blur)
            except VideoError as error:
                why = f"no pictures: {error.message}"
        moments.append(Moment(**event, who=names.get(event["track_id"], f"face {event['track_id']}"), picture=picture))
    return moments, why


def _picture(con: Connection, video: ChosenVideo, event: dict[str, Any], blur: bool) -> Image.Image | None:
    sides = "pts_s, box_x1_px, box_y1_px, box_x2_px, box_y2_px"
    values = [video.video_id, event["apex_s"], event["track_id"]]
    shown = f"SELECT {sides} FROM scores WHERE video_id = ? AND time_s = ? AND track_id = ?"
    pts_s, *box = rows_of(con, shown, values).to_pylist()[0].values()
    rgb = np.ascontiguousarray(read_still(Path(video.path), pts_s, stream=stream_of_video(video.video_id)))
    if blur:  # every face that was found, also one that a person excluded
        found = f"SELECT {sides} FROM scores_all WHERE video_id = ? AND time_s = ? AND chosen"
        rgb = hide_faces(rgb, [list(row.values())[1:] for row in rows_of(con, found, values[:2]).to_pylist()])
    return crop_face(rgb, box, _PICTURE_PX)
