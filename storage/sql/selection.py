"""Which finished videos of a lake a person means: by path, folder, file name, content or video_id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from storage.delta.object_store import is_uri
from storage.delta.relations import rows_of
from storage.errors import LakeError
from storage.identity import composed, content_of_video, path_text, stream_of_video, video_id_of, video_name
from storage.sequences import is_file

__all__ = ["ChosenVideo", "choose_video", "choose_videos", "several_videos"]

_COLUMNS = (
    "video_id, path, file_name, faces_id, analysis_id, model_id, status, code, n_frames, n_frames_with_face,"
    " n_frames_undecodable, n_faces, n_tracks, width_px, height_px, duration_s, codec, container, decoder, settings"
)


@dataclass(frozen=True)
class ChosenVideo:
    """A finished video and the analysis that the views show of it; the fields are columns of ``raw.videos``."""

    video_id: str
    path: str
    file_name: str
    faces_id: str
    analysis_id: str
    model_id: str | None
    status: str
    code: str | None
    n_frames: int
    n_frames_with_face: int
    n_frames_undecodable: int
    n_faces: int
    n_tracks: int
    width_px: int | None
    height_px: int | None
    duration_s: float | None
    codec: str | None
    container: str | None
    decoder: str | None
    settings: str

    @property
    def title(self) -> str:
        """The file's name for people, with the stream where it is not the one that players show."""
        return video_name(self.file_name, self.video_id)


def choose_videos(con: duckdb.DuckDBPyConnection, names: Sequence[str | Path] = ()) -> list[ChosenVideo]:
    """The finished videos that names stand for, each once, by path.

    Args:
        con: from ``storage.sql.views.connect``.
        names: paths, folders (all videos below them), file names or video_ids; none: every finished video.

    Raises:
        LakeError: ``unknown_video`` where a name stands for no finished video, or the lake has none.
    """
    rows = rows_of(con, f"SELECT {_COLUMNS} FROM raw.finished WHERE chosen ORDER BY path, video_id").to_pylist()
    videos = [ChosenVideo(**row) for row in rows]
    if not videos:
        raise LakeError("the lake has no finished video yet; run `mfer analyze VIDEOS` first", "unknown_video")
    if not names:
        return videos
    copies = con.execute("SELECT path, video_id FROM videos WHERE video_id IS NOT NULL").fetchall()
    wanted: set[str] = set()
    for name in names:
        found = _find(str(name), videos, copies)
        if not found:
            known = ", ".join(video.file_name for video in videos[:5]) + (", ..." if len(videos) > 5 else "")
            raise LakeError(
                f"{path_text(name)} is no finished video of this lake, nor a folder with one; it has {known}."
                ' `mfer sql "SELECT path, status, code FROM videos"` lists all; analyse the missing ones first',
                "unknown_video",
            )
        wanted |= found
    return [video for video in videos if video.video_id in wanted]


def choose_video(con: duckdb.DuckDBPyConnection, name: str | Path) -> ChosenVideo:
    """The one finished video that a name stands for; LakeError ``unknown_video`` also where it stands for several."""
    videos = choose_videos(con, [name])
    if len(videos) > 1:
        raise several_videos(str(name), [(video.video_id, video.path) for video in videos])
    return videos[0]


def several_videos(name: str, videos: Sequence[tuple[str, str]]) -> LakeError:
    """What to raise where a name stands for several videos, each a video_id and its path."""
    listed = ", ".join(
        f"{video_id} (stream {stream_of_video(video_id)} of {path})"
        if stream_of_video(video_id) is not None
        else f"{video_id} ({path})"
        for video_id, path in videos[:5]
    )
    what = "path or video_id" if len({path for _, path in videos}) == len(videos) else "video_id"
    message = f"{path_text(name)} stands for {len(videos)} videos; name one by its {what}: {listed}"
    return LakeError(message + (", ..." if len(videos) > 5 else ""), "unknown_video")


def _find(name: str, videos: list[ChosenVideo], copies: Sequence[tuple[str, str]]) -> set[str]:
    finished = {video.video_id for video in videos}
    path = path_text(name if is_uri(name) else os.path.abspath(name))
    below = path.rstrip("/") + "/"
    text = path_text(name)
    paths = [*copies, *((video.path, video.video_id) for video in videos)]
    for form in (str, composed):  # a name as it is stored comes before one that only looks the same
        same, start = form(path), form(below)
        same_path = {video_id for known, video_id in paths if form(known) == same or form(known).startswith(start)}
        if found := same_path & finished:
            return found
        same_name = {video_id for known, video_id in paths if form(text) in (video_id, form(known).rpartition("/")[2])}
        if found := same_name & finished:
            return found
    try:
        content = video_id_of(name) if is_file(Path(name)) else None
        return {video_id for video_id in finished if content_of_video(video_id) == content}
    except OSError:
        return set()
