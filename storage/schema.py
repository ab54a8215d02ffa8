"""What every column of the lake means, in which unit, and how exactly it is kept.

Each field's metadata carries ``meaning``, ``unit`` and, where values are rounded before they are written,
``step`` (absolute) or ``bits`` (of the mantissa). docs/tables.md is made from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

__all__ = [
    "EXPRESSIONS",
    "FACE_COLUMNS",
    "OBSERVATIONS",
    "PICTURE_KINDS",
    "SCHEMA_VERSION",
    "STILL",
    "TABLES",
    "LakeTable",
    "conform",
    "meaning_of",
    "unit_of",
]

#: Bump when the meaning or layout of a table changes; a lake of another version is refused.
SCHEMA_VERSION = 7
#: The classes that have a column. storage imports nothing of ours, so they are named here; a column is NULL where a
#: model lacks the class.
EXPRESSIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
#: What the column ``container`` says of pictures, which have none.
STILL = "picture"
PICTURE_KINDS = (STILL, "animation", "picture sequence")
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")

#: A quarter of a percent of a probability is far below what a model can mean; 2^-12 costs about a byte.
_PROBABILITY_STEP = 2.0**-12
#: Landmarks of MTCNN differ by whole pixels from setting to setting.
_PIXEL_STEP = 2.0**-3


@dataclass(frozen=True)
class LakeTable:
    """One Delta table: its folder inside the lake, what a row is, its columns and its partition columns."""

    name: str
    meaning: str
    schema: pa.Schema
    folder: str = ""
    partition_by: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return self.folder or self.name


def _field(name: str, kind: pa.DataType, unit: str, meaning: str, *, step: float = 0.0, bits: int = 0) -> pa.Field:
    metadata = {"unit": unit, "meaning": meaning}
    if step:
        metadata["step"] = repr(step)
    if bits:
        metadata["bits"] = str(bits)
    return pa.field(name, kind, metadata=metadata)


def meaning_of(field: pa.Field) -> str:
    return field.metadata[b"meaning"].decode()


def unit_of(field: pa.Field) -> str:
    return field.metadata[b"unit"].decode()


_TEXT, _BOOL = pa.string(), pa.bool_()
_F32, _F64, _I16, _I32, _I64 = pa.float32(), pa.float64(), pa.int16(), pa.int32(), pa.int64()
_TIME = pa.timestamp("us", tz="UTC")

_VIDEO_ID = _field(
    "video_id",
    _TEXT,
    "",
    "content of the video: 16 hex digits of the sha256 of its bytes, and -vN where video stream N was read that is not "
    "the one that players show",
)
_ANALYSIS_ID = _field("analysis_id", _TEXT, "", "hash of faces_id, model_id and crop contract")
_FACES_ID = _field("faces_id", _TEXT, "", "hash of all settings of the analysis but the decoder")
_MODEL_ID = _field("model_id", _TEXT, "", "model that gave the probabilities: name@12 hex of its weights' sha256")
_SEGMENT = _field(
    "segment", _I32, "", "number of the segment, from 0: a part of the video that is analysed and committed as a unit"
)
_TRACK = _field("track", _I32, "", "the segment's own number for a face followed through time; NULL without a face")
_TRACK_ID = _field("track_id", _I32, "", "number of a face followed through the whole video, across segments")
_PATH = _field("path", _TEXT, "", "path of the file as it was given to the run")
_SIZE = _field("size_bytes", _I64, "bytes", "size of the file")
_MTIME = _field("mtime_ns", _I64, "ns", "modification time of the file since 1970")
_CREATED = _field("created_utc", _TIME, "UTC", "when the row was written")
_LAKE_VERSION = "version of the {} table that the writer saw: orders rows without a clock"


def _per_class(
    prefix: str, suffix: str, kind: pa.DataType, unit: str, meaning: str, step: float = 0.0
) -> list[pa.Field]:
    return [
        _field(
            f"{prefix}{name}{suffix}",
            kind,
            unit,
            meaning.format(name) + "; NULL where the model lacks the class",
            step=step,
        )
        for name in EXPRESSIONS
    ]


def _box() -> list[pa.Field]:
    sides = {"x1": "left", "y1": "top", "x2": "right", "y2": "bottom"}
    return [
        _field(f"box_{c}_px", _F32, "px", f"{side} edge of the face box", step=_PIXEL_STEP) for c, side in sides.items()
    ]


def _landmarks() -> list[pa.Field]:
    return [
        _field(
            f"{point}_{axis}_px",
            _F32,
            "px",
            f"{point.replace('_', ' ')}, {axis}, left and right as in the picture",
            step=_PIXEL_STEP,
        )
        for point in LANDMARKS
        for axis in "xy"
    ]


OBSERVATIONS = LakeTable(
    "observations",
    "One row per face per sampled frame; a sampled frame without a face, or one that could not be read, has one row "
    "with face_index NULL.",
    pa.schema(
        [
            _VIDEO_ID,
            _field("frame_index", _I64, "", "number of the frame in the file, from 0, in order of presentation"),
            _field("pts_s", _F64, "s", "presentation time as the file states it"),
            _field("time_s", _F64, "s", "when a player shows the frame: pts_s minus the video's start_s"),
            _field("duration_s", _F64, "s", "time that the sampled frame stands for: until the next sampled frame"),
            _field("frame_status", _TEXT, "", "ok (has faces), no_face or decode_error"),
            _field("n_faces", _I16, "", "faces in the frame"),
            _field(
                "face_index",
                _I16,
                "",
                "number of the face in its frame, from 0, by falling area; NULL: no face",
            ),
            _SEGMENT,
            _TRACK,
            *_box(),
            *_landmarks(),
            _field("det_prob", _F32, "0..1", "the detector's probability that this is a face", step=_PROBABILITY_STEP),
            _field("face_px", _F32, "px", "size of the face: square root of the box's area", step=_PIXEL_STEP),
            _field("sharpness", _F32, "", "sharpness of the face; higher is sharper", bits=8),
            _field("brightness", _F32, "0..1", "mean luma of the aligned face: 0 is black", step=2.0**-8),
            _field(
                "yaw_deg",
                _F32,
                "degrees",
                "turn of the head, positive to the right of the picture; NULL where it cannot be trusted",
                step=2.0**-3,
            ),
            _field("pitch_deg", _F32, "degrees", "nod of the head, positive upwards; NULL with yaw_deg", step=2.0**-3),
            _field(
                "roll_deg",
                _F32,
                "degrees",
                "tilt of the line between the eyes, positive clockwise in the picture",
                step=2.0**-3,
            ),
            _field(
                "mouth_motion",
                _F32,
                "",
                "motion of the mouth over that of the upper face since 0.2 s before: above 2 in speech; NULL where the "
                "track was not seen then",
                bits=8,
            ),
            *_per_class("p_", "", _F32, "0..1", "calibrated probability of {}", _PROBABILITY_STEP),
            _field("expression", _TEXT, "", "class with the highest probability"),
            _field("confidence", _F32, "0..1", "probability of that class", step=_PROBABILITY_STEP),
            _field("entropy", _F32, "nats", "entropy of the probabilities: 0 is certain", step=2.0**-8),
            _field(
                "quality_ok", _BOOL, "", "whether size, sharpness, turn and tilt are good enough to trust the scores"
            ),
            _MODEL_ID,
            _ANALYSIS_ID,
        ]
    ),
    partition_by=("analysis_id",),
)
_SCORE_COLUMNS = {
    *(f"p_{name}" for name in EXPRESSIONS),
    "expression",
    "confidence",
    "entropy",
    "model_id",
    "analysis_id",
}
#: What a second model can reuse: every column of observations that does not depend on the model.
FACE_COLUMNS = tuple(name for name in OBSERVATIONS.schema.names if name not in _SCORE_COLUMNS)

TRACKS = LakeTable(
    "tracks",
    "One row per segment's track: which track of the video it belongs to, and what its faces add up to.",
    pa.schema(
        [
            _VIDEO_ID,
            _ANALYSIS_ID,
            _FACES_ID,
            _SEGMENT,
            _TRACK,
            _TRACK_ID,
            _field("first_frame", _I64, "", "frame_index of its first face"),
            _field("last_frame", _I64, "", "frame_index of its last face"),
            _field("start_s", _F64, "s", "time_s of its first face"),
            _field("end_s", _F64, "s", "time_s of its last face plus that frame's duration"),
            _field("n_faces", _I64, "", "faces (rows) in it"),
            _field("mean_box_width_px", _F64, "px", "mean width of the face box"),
            _field("mean_box_height_px", _F64, "px", "mean height of the face box"),
            *_per_class("mean_p_", "", _F64, "0..1", "mean probability of {} over its faces"),
        ]
    ),
)
SECONDS = LakeTable(
    "seconds",
    "One row per track and second in which it was seen.",
    pa.schema(
        [
            _VIDEO_ID,
            _ANALYSIS_ID,
            _TRACK_ID,
            _field("second", _I32, "s", "whole second of time_s"),
            _field("n_faces", _I32, "", "faces (rows) in it"),
            _field("screen_time_s", _F64, "s", "sum of duration_s: how long the face was seen"),
            *_per_class("sum_p_", "_s", _F64, "s", "sum of p_{} times duration_s; over screen_time_s: the mean"),
            *_per_class("max_p_", "", _F32, "0..1", "highest probability of {}"),
            _field("n_faces_ok", _I32, "", "faces in it with quality_ok"),
            _field("max_entropy", _F32, "nats", "entropy of the least certain of those; NULL without any"),
            _field("min_margin", _F32, "0..1", "smallest difference between their two highest probabilities"),
            _field("mean_brightness", _F32, "0..1", "mean brightness of its faces"),
            _field(
                "speaking",
                _F32,
                "0..1",
                "share of its time with the mouth_motion of speech; NULL where none is known",
            ),
        ]
    ),
)
SPANS = LakeTable(
    "spans",
    "One row per unbroken span in which a track keeps one leading expression.",
    pa.schema(
        [
            _VIDEO_ID,
            _ANALYSIS_ID,
            _TRACK_ID,
            _field("expression", _TEXT, "", "class with the highest probability throughout"),
            _field("start_s", _F64, "s", "time_s of its first face"),
            _field("end_s", _F64, "s", "time_s of its last face plus that frame's duration"),
            _field("screen_time_s", _F64, "s", "sum of duration_s: how long the face was seen"),
            _field("sum_confidence_s", _F64, "s", "sum of confidence times duration_s; over screen_time_s: the mean"),
            _field("n_faces", _I32, "", "faces (rows) in it"),
        ]
    ),
)
VIDEOS = LakeTable(
    "videos",
    "One row per finished video and analysis, written last: without it no view shows the others' rows.",
    pa.schema(
        [
            _VIDEO_ID,
            _ANALYSIS_ID,
            _FACES_ID,
            _MODEL_ID,
            _PATH,
            _SIZE,
            _MTIME,
            _field("status", _TEXT, "", "ok, or partial: some frames could not be read"),
            _field("code", _TEXT, "", "why it is partial, if no row shows it (docs/errors.md)"),
            _field("message", _TEXT, "", "the reason as text"),
            _field("n_segments", _I32, "", "segments of the analysis"),
            _field("n_frames", _I64, "", "sampled frames"),
            _field("n_frames_with_face", _I64, "", "sampled frames with at least one face"),
            _field("n_frames_undecodable", _I64, "", "sampled frames that could not be read"),
            _field("n_faces", _I64, "", "faces over all frames (rows of scores)"),
            _field("n_tracks", _I32, "", "faces followed through time"),
            _field("width_px", _I32, "px", "width as shown"),
            _field("height_px", _I32, "px", "height as shown"),
            _field("duration_s", _F64, "s", "length of the video"),
            _field("start_s", _F64, "s", "pts_s of the first picture or sound: a player counts from there"),
            _field("codec", _TEXT, "", "codec of the video stream"),
            _field("container", _TEXT, "", "container format; picture, animation or picture sequence of pictures"),
            _field("decoder", _TEXT, "", "library that read the frames"),
            _field("stream", _I32, "", "number of the video stream that was read, from 0, without cover pictures"),
            _field("n_streams", _I32, "", "video streams in the file"),
            _field("settings", _TEXT, "JSON", "settings that the ids were hashed from"),
            _field("lake_version", _I64, "", _LAKE_VERSION.format("observations")),
        ]
    ),
)
RUNS = LakeTable(
    "runs",
    "One row per path of every run, with its outcome.",
    pa.schema(
        [
            _field("run_id", _TEXT, "", "id of the run"),
            _PATH,
            _SIZE,
            _MTIME,
            _field("video_id", _TEXT, "", "content of the file; NULL where no bytes could be read"),
            _field("status", _TEXT, "", "ok, partial, failed or skipped (finished before, or the run was stopped)"),
            _field("code", _TEXT, "", "what went wrong (docs/errors.md)"),
            _field("stage", _TEXT, "", "stage of the pipeline that failed"),
            _field("message", _TEXT, "", "what went wrong, as text"),
            _field("log", _TEXT, "", "beginning and end of what libraries wrote to standard error"),
            _field("n_frames", _I64, "", "sampled frames"),
            _field("n_frames_with_face", _I64, "", "sampled frames with at least one face"),
            _field("n_frames_undecodable", _I64, "", "sampled frames that could not be read"),
            _field("n_faces", _I64, "", "faces over all frames"),
            _field("elapsed_s", _F64, "s", "time spent on the path"),
            _MODEL_ID,
            _field("started_utc", _TIME, "UTC", "start of the run"),
            _field("finished_utc", _TIME, "UTC", "end of the run"),
            _field("device", _TEXT, "", "device that the networks ran on"),
            _field("program_version", _TEXT, "", "version of this program"),
            _field("code_revision", _TEXT, "", "revision of its code, if it runs from a checkout"),
            _field("manifest", _TEXT, "JSON", "configuration and library versions of the run"),
            _field("lake_version", _I64, "", _LAKE_VERSION.format("runs")),
        ]
    ),
)
LABELS = LakeTable(
    "labels",
    "One row per judgement by a person on one face.",
    pa.schema(
        [
            _field("label_id", _TEXT, "", "id of the label"),
            _VIDEO_ID,
            _FACES_ID,
            _field("frame_index", _I64, "", "frame of the face"),
            _field("time_s", _F64, "s", "time of the frame"),
            _field("face_index", _I16, "", "number of the face in its frame"),
            _TRACK_ID,
            _field("expression", _TEXT, "", "apparent expression that the person chose; NULL for none"),
            _field("verdict", _TEXT, "", "expression, not_a_face or undecided"),
            _field("rater", _TEXT, "", "who gave the label"),
            _field("shown_model_id", _TEXT, "", "model whose scores the rater saw; NULL for none"),
            _field("note", _TEXT, "", "free text"),
            _CREATED,
        ]
    ),
)
EDITS = LakeTable(
    "edits",
    "One row per change by a person: names, merges, splits, events, excluded spans; and one per track whose person "
    "`mfer people find` proposes. A new model keeps them.",
    pa.schema(
        [
            _field("edit_id", _TEXT, "", "id of the edit"),
            _VIDEO_ID,
            _FACES_ID,
            _TRACK_ID,
            _field("kind", _TEXT, "", "name, merge, split, person, event, exclude or undo"),
            _field(
                "value",
                _TEXT,
                "",
                "the name, the other or new track_id, the id of a person, the event's text or the undone edit_id",
            ),
            _field("start_s", _F64, "s", "start of the span in time_s; NULL for the whole track or video"),
            _field("end_s", _F64, "s", "end of the span in time_s"),
            _field("author", _TEXT, "", "who made the edit"),
            _field(
                "confidence",
                _F64,
                "0..1",
                "how sure `mfer people find` is of a person; NULL for what people said, which comes before it",
            ),
            _CREATED,
        ]
    ),
)
EMBEDDINGS = LakeTable(
    "embeddings",
    "One row per face that `mfer people find --keep-embeddings` embedded: biometric data. Empty unless that was asked "
    "for; not open to SQL.",
    pa.schema(
        [
            _VIDEO_ID,
            _FACES_ID,
            _TRACK_ID,
            _field("frame_index", _I64, "", "frame of the face"),
            _field("face_index", _I16, "", "number of the face in its frame"),
            _field("network", _TEXT, "", "what embedded it"),
            _field("embedding", pa.list_(_F32), "", "128 numbers: faces that look alike have similar ones"),
            _CREATED,
        ]
    ),
)
MODELS = LakeTable(
    "models",
    "One row per event in the life of a model; the last promotion or rollback says which is in production.",
    pa.schema(
        [
            _field("sequence", _I64, "", "number of the event, from 1; gives the order without a clock"),
            _field("event", _TEXT, "", "publish, promote or rollback"),
            _field("model_id", _TEXT, "", "model published, or in production from here on (NULL: the package's own)"),
            _field("name", _TEXT, "", "folder of the model under models/"),
            _field("card", _TEXT, "JSON", "the model card, with a publish event"),
            _CREATED,
        ]
    ),
    folder="models/_events",  # out of the way of a vacuum, which deletes what a table's log does not name
)
DRIFT = LakeTable(
    "drift",
    "One row per comparison of recent scores with a reference.",
    pa.schema(
        [
            _field("drift_id", _TEXT, "", "id of the comparison"),
            _MODEL_ID,
            _field("reference", _TEXT, "", "what recent scores are compared with"),
            _field("window_start_utc", _TIME, "UTC", "start of the recent window"),
            _field("window_end_utc", _TIME, "UTC", "end of the recent window"),
            _field("measure", _TEXT, "", "name of the measure, such as ks"),
            _field("column_name", _TEXT, "", "column that was compared"),
            _field("value", _F64, "", "the measure"),
            _field("threshold", _F64, "", "value from which it counts as drift"),
            _field("n_rows", _I64, "", "rows in the recent window"),
            _CREATED,
        ]
    ),
)

TABLES = {
    t.name: t for t in (OBSERVATIONS, SECONDS, SPANS, TRACKS, VIDEOS, RUNS, LABELS, EDITS, EMBEDDINGS, MODELS, DRIFT)
}


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Put columns in the schema's order and types; a column that is missing becomes NULL, an unknown one is refused.

    Raises ValueError for an unknown column and ArrowInvalid where a value does not fit the type.
    """
    known = dict(zip(rows.column_names, rows.columns, strict=True))
    unknown = known.keys() - set(schema.names)
    if unknown:
        raise ValueError(f"unknown columns {', '.join(sorted(unknown))}; the table has {', '.join(schema.names)}")
    columns = []
    for field in schema:
        column = known[field.name] if field.name in known else pa.nulls(len(rows), field.type)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.table(columns, schema=schema)
