"""How the views honour what people said: excluded spans leave, a track that was split has two numbers, names hold.

The other views take their second form (``CORRECTED``) only in a lake in which somebody excluded or split something, so
that nobody else pays for the joins. What was summed when a video was committed
is then summed anew from the faces, for the tracks in question alone.
"""

from __future__ import annotations

from collections.abc import Collection

from storage.schema import EXPRESSIONS
from storage.summary import SECONDS_SUMS, spans_sql

__all__ = ["BASIC_VIEWS", "CORRECTED", "EDITS_SQL", "LABELS_SQL", "LAST_LABELS_SQL", "PEOPLE_SQL", "WHO", "corrections"]

#: In the schema ``raw``: the edits that nobody took back; the excluded spans, a row per track and span; and the
#: pieces of tracks that were split, of which the first keeps the track's number and has no row here.
BASIC_VIEWS = {
    "standing_edits": """
        SELECT * FROM raw.edits WHERE kind <> 'undo'
        AND edit_id NOT IN (SELECT value FROM raw.edits WHERE kind = 'undo' AND value IS NOT NULL)
    """,
    "excluded": """
        SELECT DISTINCT t.video_id, t.analysis_id, t.track_id,
               coalesce(e.start_s, '-inf'::DOUBLE) AS from_s, coalesce(e.end_s, 'inf'::DOUBLE) AS until_s
        FROM raw.standing_edits e JOIN raw.tracks t ON t.video_id = e.video_id
             AND (e.track_id IS NULL OR (e.track_id = t.track_id AND e.faces_id = t.faces_id))
        WHERE e.kind = 'exclude'
    """,
    "track_splits": """
        SELECT t.video_id, t.analysis_id, t.track_id, CAST(e.value AS INTEGER) AS split_track_id, e.start_s AS from_s,
               lead(e.start_s, 1, 'inf'::DOUBLE) OVER (
                   PARTITION BY t.video_id, t.analysis_id, t.track_id ORDER BY e.start_s, e.created_utc
               ) AS until_s
        FROM raw.standing_edits e JOIN (SELECT DISTINCT video_id, analysis_id, faces_id, track_id FROM raw.tracks) t
             USING (video_id, faces_id, track_id)
        WHERE e.kind = 'split'
    """,
}

#: Each rater's last judgement on each face, also a withdrawn one.
LAST_LABELS_SQL = """
    FROM raw.labels QUALIFY row_number() OVER (
        PARTITION BY video_id, faces_id, frame_index, face_index, rater ORDER BY created_utc DESC, label_id
    ) = 1
"""
LABELS_SQL = f"""
    SELECT f.file_name, l.* FROM ({LAST_LABELS_SQL}) l LEFT JOIN raw.finished f ON l.video_id = f.video_id AND f.chosen
    WHERE l.verdict IS DISTINCT FROM 'withdrawn'
"""
EDITS_SQL = """
    SELECT f.file_name, e.* FROM raw.standing_edits e LEFT JOIN raw.finished f ON e.video_id = f.video_id AND f.chosen
"""
#: Who the tracks of the chosen analyses are. A ``person`` edit puts a track into a group, in any number of videos; what
#: people said comes before what ``mfer people find`` found. A merge joins two groups, or two tracks that are in none.
#: Merges go both ways and over several steps; UNION ends the walk where it comes back to where it was. A name holds for
#: the whole group, unless people gave two names in a group that was found: then it holds for its own track alone.
PEOPLE_SQL = """
    WITH RECURSIVE faces AS (
        SELECT DISTINCT f.file_name, t.video_id, t.faces_id, t.track_id
        FROM raw.tracks t JOIN raw.finished f
             ON t.video_id = f.video_id AND t.faces_id = f.faces_id AND f.chosen
             SEMI JOIN raw.standing_edits e ON t.video_id = e.video_id
        UNION SELECT DISTINCT f.file_name, p.video_id, f.faces_id, p.split_track_id
        FROM raw.track_splits p JOIN raw.finished f USING (video_id, analysis_id) WHERE f.chosen
    ), said AS (
        SELECT video_id, track_id, kind, value, created_utc, confidence, edit_id, TRY_CAST(value AS INTEGER) AS same_as
        FROM raw.standing_edits SEMI JOIN faces USING (video_id, faces_id, track_id)
        WHERE kind IN ('name', 'merge', 'person')
    ), merges AS (
        SELECT DISTINCT s.video_id, s.track_id, s.same_as FROM said s JOIN faces f
        ON s.video_id = f.video_id AND s.same_as = f.track_id WHERE s.kind = 'merge'
    ), names AS (
        SELECT video_id, track_id, arg_max(value, created_utc) AS name, max(created_utc) AS named_utc
        FROM said WHERE kind = 'name' GROUP BY ALL
    ), grouped AS (
        SELECT video_id, track_id, value AS group_id, confidence FROM said WHERE kind = 'person'
        QUALIFY row_number() OVER (
            PARTITION BY video_id, track_id ORDER BY confidence IS NULL DESC, created_utc DESC, edit_id
        ) = 1
    ), known AS (
        SELECT video_id, track_id FROM names UNION SELECT video_id, track_id FROM grouped
        UNION SELECT video_id, track_id FROM merges UNION SELECT video_id, same_as FROM merges
    ), placed AS (
        SELECT k.*, coalesce(g.group_id, k.video_id || '/' || k.track_id) AS group_id, g.confidence,
               n.name, n.named_utc, m.track_id IS NOT NULL AS is_merged
        FROM known k LEFT JOIN grouped g USING (video_id, track_id) LEFT JOIN names n USING (video_id, track_id)
             LEFT JOIN (SELECT DISTINCT video_id, track_id FROM merges) m USING (video_id, track_id)
    ), links AS (
        SELECT a.group_id AS a, b.group_id AS b FROM merges m
        JOIN placed a ON m.video_id = a.video_id AND m.track_id = a.track_id
        JOIN placed b ON m.video_id = b.video_id AND m.same_as = b.track_id WHERE a.group_id <> b.group_id
    ), both_ways AS (
        FROM links UNION SELECT b, a FROM links
    ), together AS (
        SELECT DISTINCT a AS group_id, a AS other FROM both_ways
        UNION SELECT t.group_id, l.b FROM together t JOIN both_ways l ON t.other = l.a
    ), joined AS (
        SELECT p.* REPLACE (coalesce(j.first_id, p.group_id) AS group_id)
        FROM placed p LEFT JOIN (SELECT group_id, min(other) AS first_id FROM together GROUP BY group_id) j
             USING (group_id)
    ), called AS (
        SELECT *, coalesce(name, CASE
               WHEN count(DISTINCT name) OVER everybody <= 1 OR count(confidence) OVER everybody = 0
               THEN arg_max(name, named_utc) OVER everybody END) AS known_as,
               CASE WHEN count(DISTINCT name) OVER everybody > 1 AND count(confidence) OVER everybody > 0
               THEN coalesce(name, group_id) ELSE group_id END AS person_key
        FROM joined WINDOW everybody AS (PARTITION BY group_id)
    ), numbered AS (
        SELECT *, coalesce(
                   min(track_id) FILTER (NOT is_merged) OVER same_video, min(track_id) OVER same_video
               ) AS person
        FROM called WINDOW same_video AS (PARTITION BY video_id, person_key)
    )
    SELECT any_value(f.file_name) AS file_name, track_id, any_value(n.person) AS person, any_value(n.known_as) AS name,
           any_value(coalesce(n.known_as, n.person_key)) AS person_id, any_value(n.confidence) AS confidence,
           video_id, any_value(f.faces_id) AS faces_id
    FROM numbered n JOIN faces f USING (video_id, track_id) GROUP BY video_id, track_id
"""


def _each(pattern: str) -> str:
    return ", ".join(pattern.format(name) for name in EXPRESSIONS)


_STORED = "video_id, analysis_id, track_id"
_BOX_WIDTH, _BOX_HEIGHT = "box_x2_px - box_x1_px", "box_y2_px - box_y1_px"
#: ``faces``: those of the chosen analyses, with the number of the piece they are in; ``kept``: without excluded ones;
#: ``again``: the kept faces of tracks of which something was excluded or split.
_WORKING_VIEWS = {
    "touched": f"SELECT {_STORED} FROM raw.excluded UNION SELECT {_STORED} FROM raw.track_splits",
    "faces": """
        SELECT s.* EXCLUDE (chosen) REPLACE (coalesce(p.split_track_id, s.track_id) AS track_id),
               s.track_id AS found_track_id
        FROM (FROM scores_all WHERE chosen) s LEFT JOIN raw.track_splits p
        ON s.video_id = p.video_id AND s.analysis_id = p.analysis_id AND s.track_id = p.track_id
           AND s.time_s >= p.from_s AND s.time_s < p.until_s
    """,
    "kept": """
        SELECT s.* FROM raw.faces s ANTI JOIN raw.excluded x
        ON s.video_id = x.video_id AND s.analysis_id = x.analysis_id AND s.found_track_id = x.track_id
           AND s.time_s >= x.from_s AND s.time_s < x.until_s
    """,
    "again": """
        SELECT s.* FROM (FROM raw.kept WHERE video_id IN ({videos})) s SEMI JOIN raw.touched t
        ON s.video_id = t.video_id AND s.analysis_id = t.analysis_id AND s.found_track_id = t.track_id
    """,
    "summed_seconds": f"""
        SELECT * FROM raw.seconds ANTI JOIN raw.touched USING ({_STORED})
        UNION ALL BY NAME
        SELECT {_STORED}, CAST(floor(time_s) AS INTEGER) AS second, {SECONDS_SUMS} FROM raw.again GROUP BY ALL
    """,
    "summed_spans": f"""
        SELECT * FROM raw.spans ANTI JOIN raw.touched USING ({_STORED})
        UNION ALL BY NAME FROM ({spans_sql("raw.again")})
    """,
    "summed_tracks": f"""
        SELECT * FROM raw.tracks ANTI JOIN raw.track_splits USING ({_STORED})
        UNION ALL BY NAME
        SELECT video_id, analysis_id, any_value(f.faces_id) AS faces_id, track_id, min(frame_index) AS first_frame,
               max(frame_index) AS last_frame, min(time_s) AS start_s, max(time_s + duration_s) AS end_s,
               count(*) AS n_faces, avg({_BOX_WIDTH}) AS mean_box_width_px, avg({_BOX_HEIGHT}) AS mean_box_height_px,
               {_each("avg(p_{0}) AS mean_p_{0}")}
        FROM (FROM raw.faces WHERE video_id IN ({{videos}})) s
             JOIN (SELECT video_id, analysis_id, faces_id FROM raw.finished) f USING (video_id, analysis_id)
             SEMI JOIN raw.track_splits p ON s.video_id = p.video_id AND s.analysis_id = p.analysis_id
             AND s.found_track_id = p.track_id
        GROUP BY video_id, analysis_id, track_id
    """,
}
_SCORES_OF_KEPT = "SELECT * EXCLUDE (found_track_id) FROM raw.kept"
#: What a view is made of, and what instead of it where something was excluded or split.
CORRECTED = {
    "scores": ("(SELECT * EXCLUDE (chosen) FROM scores_all WHERE chosen)", f"({_SCORES_OF_KEPT})"),
    "seconds": ("raw.seconds", "raw.summed_seconds"),
    "spans": ("raw.spans", "raw.summed_spans"),
    "tracks": ("raw.tracks", "raw.summed_tracks"),
}
#: Columns of ``scores`` that say who a face is, and what they are joined with: in a lake in which nobody said or asked
#: who, and in others. A query that names neither column pays nothing: ``people`` has one row per track, so that
#: DuckDB leaves the join out.
WHO = (
    ("s.track_id AS person, CAST(NULL AS VARCHAR) AS person_id", ""),
    (
        "coalesce(w.person, s.track_id) AS person, w.person_id",
        "LEFT JOIN people w ON s.video_id = w.video_id AND s.track_id = w.track_id",
    ),
)


def corrections(video_ids: Collection[str]) -> dict[str, str]:
    """Views of the schema ``raw`` that a lake needs in which something of these videos was excluded or split."""
    listed = ", ".join(f"'{video_id}'" for video_id in sorted(video_ids))
    return {name: sql.replace("{videos}", listed) for name, sql in _WORKING_VIEWS.items()}
