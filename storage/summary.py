"""What the committed rows of a video add up to: tracks joined across segments, sums per second, counts."""

from __future__ import annotations

from itertools import groupby

import duckdb
import pyarrow as pa

from storage.delta.relations import rows_of
from storage.schema import EXPRESSIONS
from storage.stitch import SPAN_MAX_GAP_S, TIME_DIGITS, SeamLimits, TrackPiece, join_segments

__all__ = [
    "MARGIN_SQL",
    "SECONDS_SUMS",
    "SPEAKING_MOTION",
    "SPEAKING_SHARE",
    "count_rows",
    "spans_sql",
    "sum_seconds",
    "sum_spans",
    "sum_track_pieces",
]

#: How far a face's highest probability is above the next one, of columns of ``observations``.
MARGIN_SQL = "(confidence - list_reverse_sort([coalesce(p, 0) FOR p IN [{}]])[2])".format(
    ", ".join(f"p_{name}" for name in EXPRESSIONS)
)
#: mouth_motion above which a mouth moves as in speech: where speakers and moved still faces part best
#: (benchmarks/speaking.py).
SPEAKING_MOTION = 2.0
#: ``speaking`` from which a second counts as speech in the dashboard: between the two, by the same benchmark.
SPEAKING_SHARE = 0.3
#: Columns of ``seconds`` over the faces of one track and second.
SECONDS_SUMS = ", ".join(
    [
        "CAST(count(*) AS INTEGER) AS n_faces",
        "sum(duration_s) AS screen_time_s",
        *(f"sum(p_{name} * duration_s) AS sum_p_{name}_s" for name in EXPRESSIONS),
        *(f"max(p_{name}) AS max_p_{name}" for name in EXPRESSIONS),
        "CAST(count(*) FILTER (quality_ok) AS INTEGER) AS n_faces_ok",
        "max(entropy) FILTER (quality_ok) AS max_entropy",
        f"min({MARGIN_SQL}) FILTER (quality_ok) AS min_margin",
        "CAST(avg(brightness) AS FLOAT) AS mean_brightness",
        f"CAST(coalesce(sum(duration_s) FILTER (mouth_motion > {SPEAKING_MOTION}), 0)"
        " / nullif(sum(duration_s) FILTER (mouth_motion IS NOT NULL), 0) AS FLOAT) AS speaking",
    ]
)


def sum_track_pieces(con: duckdb.DuckDBPyConnection, limits: SeamLimits) -> pa.Table:
    """Rows of ``tracks`` (without faces_id) for every video in the relation ``observations`` of the connection."""
    means = ", ".join(f"avg(p_{name}) AS mean_p_{name}" for name in EXPRESSIONS)
    box = "[box_x1_px, box_y1_px, box_x2_px, box_y2_px]"
    rows = rows_of(
        con,
        f"""
        SELECT video_id, analysis_id, segment, track,
               min(frame_index) AS first_frame, max(frame_index) AS last_frame,
               min(time_s) AS start_s, max(time_s + duration_s) AS end_s, count(*) AS n_faces,
               avg(box_x2_px - box_x1_px) AS mean_box_width_px,
               avg(box_y2_px - box_y1_px) AS mean_box_height_px, {means},
               max(time_s) AS last_s, arg_min({box}, frame_index) AS first_box, arg_max({box}, frame_index) AS last_box
        FROM observations WHERE face_index IS NOT NULL
        GROUP BY ALL ORDER BY video_id, analysis_id, segment, track
        """,
    )
    track_ids: list[int] = []
    found = rows.select(
        ["video_id", "analysis_id", "segment", "track", "start_s", "last_s", "end_s", "first_box", "last_box"]
    ).to_pylist()
    for _, of_video in groupby(found, key=lambda row: (row["video_id"], row["analysis_id"])):
        pieces = [
            TrackPiece(
                row["segment"],
                row["track"],
                row["start_s"],
                row["last_s"],
                row["end_s"],
                tuple(row["first_box"]),
                tuple(row["last_box"]),
            )
            for row in of_video
        ]
        joined = join_segments(pieces, limits)
        track_ids += [joined[piece.segment, piece.track] for piece in pieces]
    kept = rows.drop_columns(["last_s", "first_box", "last_box"])
    return kept.append_column("track_id", pa.array(track_ids, pa.int32()))


def sum_seconds(con: duckdb.DuckDBPyConnection, pieces: pa.Table) -> pa.Table:
    """Rows of ``seconds`` for every video in the relation ``observations``; ``pieces`` from sum_track_pieces."""
    return rows_of(
        con,
        f"""
        SELECT video_id, analysis_id, track_id, CAST(floor(time_s) AS INTEGER) AS second, {SECONDS_SUMS}
        FROM {_tracked(con, pieces)} GROUP BY ALL ORDER BY video_id, analysis_id, track_id, second
        """,
    )


def sum_spans(con: duckdb.DuckDBPyConnection, pieces: pa.Table) -> pa.Table:
    """Rows of ``spans`` for every video in the relation ``observations``; ``pieces`` from sum_track_pieces."""
    found = spans_sql(_tracked(con, pieces))
    return rows_of(con, f"FROM ({found}) ORDER BY video_id, analysis_id, track_id, start_s")


def _tracked(con: duckdb.DuckDBPyConnection, pieces: pa.Table) -> str:
    con.register("pieces", pieces.select(["video_id", "analysis_id", "segment", "track", "track_id"]))
    return "(FROM observations JOIN pieces USING (video_id, analysis_id, segment, track))"


def spans_sql(faces: str) -> str:
    """A SELECT of the rows of ``spans`` from a relation of faces with their ``track_id``."""
    return f"""
        WITH before AS (
            SELECT video_id, analysis_id, track_id, frame_index, time_s, duration_s, expression, confidence,
                   lag(expression) OVER one AS expression_before, lag(time_s + duration_s) OVER one AS ended_s
            FROM {faces} WHERE expression IS NOT NULL
            WINDOW one AS (PARTITION BY video_id, analysis_id, track_id ORDER BY frame_index)
        ), numbered AS (
            SELECT *, sum(
                CASE WHEN expression = expression_before AND round(time_s - ended_s, {TIME_DIGITS}) <= {SPAN_MAX_GAP_S}
                     THEN 0 ELSE 1 END
            ) OVER (one ROWS UNBOUNDED PRECEDING) AS span
            FROM before WINDOW one AS (PARTITION BY video_id, analysis_id, track_id ORDER BY frame_index)
        )
        SELECT video_id, analysis_id, track_id, expression, min(time_s) AS start_s, max(time_s + duration_s) AS end_s,
               sum(duration_s) AS screen_time_s, sum(confidence * duration_s) AS sum_confidence_s,
               CAST(count(*) AS INTEGER) AS n_faces
        FROM numbered GROUP BY video_id, analysis_id, track_id, span, expression
    """


def count_rows(con: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], dict[str, int]]:
    """Counts per (video_id, analysis_id) of the relation ``observations``; a frame counts once."""
    rows = rows_of(
        con,
        """
        SELECT video_id, analysis_id,
               count(*) FILTER (WHERE face_index IS NULL OR face_index = 0) AS n_frames,
               count(*) FILTER (WHERE face_index = 0) AS n_frames_with_face,
               count(*) FILTER (WHERE frame_status = 'decode_error') AS n_frames_undecodable,
               count(face_index) AS n_faces
        FROM observations GROUP BY ALL
        """,
    )
    return {(row.pop("video_id"), row.pop("analysis_id")): row for row in rows.to_pylist()}
