"""The lake's rows as the files that other programs read: tables, ELAN tiers and subtitles."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from storage.delta.relations import quote, read_errors
from storage.errors import LakeError
from storage.exports.subtitles import write_elan, write_srt
from storage.files import whole_file
from storage.lake import Lake
from storage.schema import EXPRESSIONS
from storage.sql.model_choice import mixture_note
from storage.sql.selection import ChosenVideo, choose_videos
from storage.sql.views import connect

__all__ = ["EXPORT_FORMATS", "FER_CLASSES", "export_videos"]

#: What file systems allow a name.
_MAX_NAME_BYTES = 255
#: Rows that are sorted in memory at a time; a longer video is sorted alone.
_ROWS_AT_A_TIME = 200_000

#: Faces with who they are: `person` is the track that stands for the person in the video, `name` may be NULL.
_NAMED = """
    SELECT s.* EXCLUDE (person, person_id), coalesce(p.person, s.track_id) AS person, p.person_id, p.name
    FROM scores s LEFT JOIN people p ON s.video_id = p.video_id AND s.track_id = p.track_id WHERE s.{videos}
"""
_FACES_OF_FRAMES = f"""
    frames f LEFT JOIN ({_NAMED}) s USING (video_id, frame_index) WHERE f.{{videos}}
"""


def _pose(formula: str) -> str:
    """SQL of a formula of sines and cosines of yaw, pitch and roll."""
    return re.sub(r"(sin|cos) (yaw|pitch|roll)", r"\1(radians(s.\2_deg))", formula)


#: The head's rotation as OpenFace writes it, in radians about axes right, down and away in the picture, in the order
#: Rx Ry Rz: that of a head which nods, turns and tilts by pitch_deg, yaw_deg and roll_deg, taken apart again.
_RX = _pose("atan2(sin roll * sin yaw * cos pitch - cos roll * sin pitch, cos yaw * cos pitch)")
_RY = _pose("asin(-(cos roll * sin yaw * cos pitch + sin roll * sin pitch))")
_RZ = _pose("atan2(sin roll * cos pitch - cos roll * sin yaw * sin pitch, cos roll * cos yaw)")
#: Py-Feat 2.1's columns in its order, and its clock of minutes and seconds; contempt is none of its classes.
_FEX = f"""
    SELECT s.box_x1_px AS "FaceRectX", s.box_y1_px AS "FaceRectY", s.box_x2_px - s.box_x1_px AS "FaceRectWidth",
           s.box_y2_px - s.box_y1_px AS "FaceRectHeight", s.det_prob AS "FaceScore",
           degrees(-{_RX}) AS "Pitch", degrees({_RZ}) AS "Roll", degrees({_RY}) AS "Yaw",
           s.p_anger AS anger, s.p_disgust AS disgust, s.p_fear AS fear, s.p_happiness AS happiness,
           s.p_sadness AS sadness, s.p_surprise AS surprise, s.p_neutral AS neutral, f.frame_index AS frame,
           printf('%02d:%02d', CAST(floor(f.time_s / 60) AS INTEGER), CAST(floor(f.time_s % 60) AS INTEGER))
               AS approx_time,
           f.path || CASE WHEN contains(f.video_id, '-v') THEN ', stream ' || f.stream ELSE '' END AS input,
           coalesce(s.name, 'Person_' || s.person) AS "Identity", f.video_id
    FROM {_FACES_OF_FRAMES} ORDER BY f.path, f.video_id, f.frame_index, s.face_index
"""
#: OpenFace counts frames from 1, and gives a frame without a face as one that did not succeed.
_OPENFACE = f"""
    SELECT f.frame_index + 1 AS frame, coalesce(s.person, 0) AS face_id, round(f.time_s, 6) AS timestamp,
           coalesce(s.det_prob, 0) AS confidence, CAST(s.face_index IS NOT NULL AS INTEGER) AS success,
           {_RX} AS "pose_Rx", {_RY} AS "pose_Ry", {_RZ} AS "pose_Rz",
           {", ".join(f"s.p_{name}" for name in EXPRESSIONS)},
           s.box_x1_px AS box_x, s.box_y1_px AS box_y, s.box_x2_px - s.box_x1_px AS box_width,
           s.box_y2_px - s.box_y1_px AS box_height, f.video_id
    FROM {_FACES_OF_FRAMES} ORDER BY f.path, f.video_id, f.frame_index, s.face_index
"""
#: fer's seven classes, in its order.
FER_CLASSES = {
    "angry": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprise": "surprise",
    "neutral": "neutral",
}
_FER = f"""
    SELECT f.frame_index, s.face_index, s.box_x1_px, s.box_y1_px, s.box_x2_px, s.box_y2_px,
           {", ".join(f"s.p_{name}" for name in FER_CLASSES.values())}, f.video_id
    FROM {_FACES_OF_FRAMES} ORDER BY f.path, f.video_id, f.frame_index, s.face_index
"""
_SCORES = f"FROM ({_NAMED}) ORDER BY path, video_id, frame_index, face_index"
_OF_EPISODES = _NAMED.replace(" EXCLUDE (person, person_id)", "").replace("scores", "episodes")
_EPISODES = f"FROM ({_OF_EPISODES}) ORDER BY path, video_id, start_s, track_id"

Writer = Callable[[ChosenVideo, Iterable[pa.RecordBatch], Path], None]


@dataclass(frozen=True)
class _Format:
    """What is asked for, and how it is written: with ``writer`` None, all videos go into one table."""

    suffix: str
    sql: str
    writer: Writer | None = None


def export_videos(
    lake: Lake,
    form: str,
    output: str | Path,
    names: Sequence[str | Path] = (),
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    *,
    model: str | None = None,
    as_found: bool = False,
    tell: Callable[[str], None] = lambda note: None,
) -> list[Path]:
    """Write videos as files of another program. Memory grows with the longest video, not with the lake.

    Args:
        lake: where the rows are.
        form: one of EXPORT_FORMATS. ``csv``, ``parquet`` and ``fex`` are one table of all videos; ``openface``,
            ``fer``, ``elan`` and ``srt`` are a file per video.
        output: the file, or for a format with a file per video a folder, which is made.
        names: which videos, see ``choose_videos``; none: all.
        progress: called with (stage, videos done, videos in all).
        model: whose scores; None: see ``storage.sql.views.connect``.
        as_found: leave out what people said: names, merges, splits and exclusions.
        tell: called with a note if the files hold scores of more than one model.

    Returns:
        The files; each appears when it is complete.

    Raises:
        LakeError: ``unknown_video``; ``bad_output`` for an output that cannot be written or is a file where several
            files are to be; ``damaged``.
    """
    wanted, output = EXPORT_FORMATS[form], Path(output)
    with connect(lake, model=model, as_found=as_found) as con, read_errors(lake.location), _write_errors(output):
        con.execute("SET parquet_metadata_cache = true")
        videos = choose_videos(con, names)
        tell(mixture_note(con, [video.video_id for video in videos]))
        if wanted.writer is None:
            return [_write_one(con, wanted, videos, output, progress)]
        files = _files_of(videos, output, wanted.suffix)
        for done, (video, batches) in enumerate(_by_video(con, wanted.sql, videos)):
            progress(f"export: {video.title}", done, len(videos))
            with whole_file(files[video.video_id]) as partial:
                wanted.writer(video, batches, partial)
        progress("export", len(videos), len(videos))
        return [files[video.video_id] for video in videos]


def _write_one(
    con: duckdb.DuckDBPyConnection,
    wanted: _Format,
    videos: list[ChosenVideo],
    output: Path,
    progress: Callable[[str, int, int], None],
) -> Path:
    if output.is_dir():
        raise LakeError(f"{output} is a folder; name the file, such as {output}/scores{wanted.suffix}", "bad_output")
    writer: pacsv.CSVWriter | pq.ParquetWriter | None = None
    done = 0
    with whole_file(output) as partial:
        for group in _groups(videos):
            progress("export", done, len(videos))
            for batch in _ask(con, wanted.sql, group):
                if wanted.suffix == ".csv" and wanted.sql == _FEX:
                    batch = batch.drop_columns(["video_id"])
                if writer is None and wanted.suffix == ".parquet":
                    writer = pq.ParquetWriter(partial, batch.schema, compression="zstd")
                elif writer is None:
                    options = pacsv.WriteOptions(quoting_style="needed")
                    writer = pacsv.CSVWriter(partial, batch.schema, write_options=options)
                assert writer is not None
                writer.write_batch(batch)
            done += len(group)
        if writer is not None:
            writer.close()
    progress("export", len(videos), len(videos))
    return output


def _ask(con: duckdb.DuckDBPyConnection, sql: str, videos: Sequence[ChosenVideo]) -> Iterator[pa.RecordBatch]:
    """The batches of an answer; at least one, so that an empty table has its columns too."""
    listed = ", ".join(quote(video.video_id) for video in videos)
    reader = con.sql(sql.format(videos=f"video_id IN ({listed})")).to_arrow_reader(16_384)
    n_batches = 0
    for batch in reader:
        n_batches += 1
        yield batch
    if not n_batches:
        yield pa.RecordBatch.from_pylist([], schema=reader.schema)


def _groups(videos: Sequence[ChosenVideo]) -> Iterator[list[ChosenVideo]]:
    """Videos in order, as many at a time as have a bearable number of rows."""
    group: list[ChosenVideo] = []
    n_rows = 0
    for video in videos:
        rows_of_video = video.n_frames + video.n_faces
        if group and n_rows + rows_of_video > _ROWS_AT_A_TIME:
            yield group
            group, n_rows = [], 0
        group.append(video)
        n_rows += rows_of_video
    if group:
        yield group


def _by_video(
    con: duckdb.DuckDBPyConnection, sql: str, videos: Sequence[ChosenVideo]
) -> Iterator[tuple[ChosenVideo, list[pa.RecordBatch]]]:
    """Each video with its rows, in the order of the videos; a video without rows has batches of none."""
    for group in _groups(videos):
        rows = pa.Table.from_batches(list(_ask(con, sql, group)))
        ids, rows = rows["video_id"], rows.drop_columns(["video_id"])
        for video in group:
            own = rows.filter(pc.equal(ids, video.video_id))
            yield video, own.to_batches() or [pa.RecordBatch.from_pylist([], schema=own.schema)]


def _files_of(videos: Sequence[ChosenVideo], output: Path, suffix: str) -> dict[str, Path]:
    """video_id to file: ``output`` itself for one video where it has a suffix, else files in the folder ``output``."""
    if output.suffix and not output.is_dir():
        if len(videos) > 1:
            message = f"{len(videos)} videos are as many files; name a folder instead of {output}, or one video"
            raise LakeError(message, "bad_output")
        return {videos[0].video_id: output}
    output.mkdir(parents=True, exist_ok=True)
    longest = _MAX_NAME_BYTES - max(len(f".{video.video_id}{suffix}") for video in videos)
    stems = [_stem(video.file_name, longest) for video in videos]
    # some file systems tell neither cases nor forms of Unicode apart
    taken = [unicodedata.normalize("NFC", stem).casefold() for stem in stems]
    return {
        video.video_id: output / (f"{stem}{suffix}" if taken.count(key) == 1 else f"{stem}.{video.video_id}{suffix}")
        for video, stem, key in zip(videos, stems, taken, strict=True)
    }


def _stem(file_name: str, n_bytes: int) -> str:
    """A file's name without its suffix, as a file system takes it, cut to so many bytes."""
    stem = re.sub(r"[\x00-\x1f/\\:]", "_", os.path.splitext(file_name)[0]) or "video"
    return stem.encode()[:n_bytes].decode(errors="ignore")


@contextmanager
def _write_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LakeError(
            f"cannot write {output}: {error.strerror or error}; name another place", "bad_output"
        ) from error


def _write_openface(video: ChosenVideo, batches: Iterable[pa.RecordBatch], path: Path) -> None:
    batches = list(batches)
    with pacsv.CSVWriter(path, batches[0].schema, write_options=pacsv.WriteOptions(quoting_style="needed")) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _write_fer(video: ChosenVideo, batches: Iterable[pa.RecordBatch], path: Path) -> None:
    """A row a frame, with columns for as many faces as the fullest frame has; faces by falling area."""
    batches = list(batches)
    last_face = pc.max(pa.Table.from_batches(batches)["face_index"]).as_py() or 0
    columns = [f"{name}{k}" for k in range(last_face + 1) for name in ("box", *FER_CLASSES)]
    faces = (row for batch in batches for row in batch.to_pylist())
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for _, of_frame in groupby(faces, key=lambda row: row["frame_index"]):
            frame: dict[str, Any] = {}
            for row in of_frame:
                if (k := row["face_index"]) is not None:
                    x1, y1, x2, y2 = (round(row[f"box_{side}_px"]) for side in ("x1", "y1", "x2", "y2"))
                    frame[f"box{k}"] = [x1, y1, x2 - x1, y2 - y1]
                    frame |= {f"{name}{k}": row[f"p_{ours}"] for name, ours in FER_CLASSES.items()}
            writer.writerow(frame)


#: What ``mfer export --format`` names.
EXPORT_FORMATS = {
    "csv": _Format(".csv", _SCORES),
    "parquet": _Format(".parquet", _SCORES),
    "fex": _Format(".csv", _FEX),
    "openface": _Format(".csv", _OPENFACE, _write_openface),
    "fer": _Format(".csv", _FER, _write_fer),
    "elan": _Format(".eaf", _EPISODES, write_elan),
    "srt": _Format(".srt", _EPISODES, write_srt),
}
