"""Table functions for what people publish: smoothing, baselines, events, synchrony, projections and shares.

Each is a DuckDB table macro over the public views, so that ``SELECT * FROM smoothed(width_s := 1)`` works wherever
the views do. docs/analysis.md has the formulas with their sources.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import duckdb

from storage.schema import EXPRESSIONS
from storage.stitch import SPAN_MAX_GAP_S, TIME_DIGITS

__all__ = ["DRAW_SQL", "FUNCTIONS", "REPLICATES", "SHORTEST_S", "TableFunction", "create_function", "create_functions"]

#: Pleasure and arousal of six words, as commonly quoted from Russell and Mehrabian 1977 (doi
#: 10.1016/0092-6566(77)90037-X); neutral is the origin and contempt a choice of ours: as unpleasant as disgust, hardly
#: aroused.
_AFFECT = {
    "neutral": (0.0, 0.0),
    "happiness": (0.81, 0.51),
    "surprise": (0.40, 0.67),
    "sadness": (-0.63, -0.27),
    "anger": (-0.51, 0.59),
    "disgust": (-0.60, 0.35),
    "fear": (-0.64, 0.60),
    "contempt": (-0.60, 0.10),
}


@dataclass(frozen=True)
class TableFunction:
    """One table function: its parameters with defaults, what a row is, its SELECT, and unit and meaning of columns.

    Columns without an entry are those of the views ``scores`` and ``tracks`` under that name.
    """

    name: str
    parameters: dict[str, str]
    meaning: str
    sql: str
    columns: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def signature(self) -> str:
        return f"{self.name}({', '.join(f'{name} := {value}' for name, value in self.parameters.items())})"


def _each(pattern: str, joint: str = ", ") -> str:
    return joint.join(pattern.format(name) for name in EXPRESSIONS)


_NAMES = _each("'{}'")
#: The class with the highest probability; NULL, which list_position would find, where none is known.
_LEADING = (
    f"CASE WHEN greatest({_each('p_{}')}) IS NOT NULL"
    f" THEN list_extract([{_NAMES}], list_position([{_each('p_{}')}], greatest({_each('p_{}')}))) END"
)
_LONG = f"unnest([{_each('p_{}')}]) AS p, unnest([{_NAMES}]) AS class"
#: A face that is shown for no time at all, as a lone picture is, still counts.
SHORTEST_S = 1e-9
_WEIGHT = f"greatest(duration_s, {SHORTEST_S})"
_WHERE = "file_name, track_id, time_s, duration_s"
_WHICH = "path, video_id, frame_index, analysis_id"


#: What a parameter has to be, in SQL and in words.
_ALLOWED = {
    **dict.fromkeys(("width_s", "window_s", "step_s", "bin_s"), ("{0} > 0", "above 0")),
    **dict.fromkeys(("max_gap_s", "min_s"), ("{0} >= 0", "0 or above")),
    **dict.fromkeys(("on_p", "off_p"), ("{0} BETWEEN 0 AND 1", "from 0 to 1")),
    "share": ("{0} > 0 AND {0} <= 1", "above 0 and at most 1"),
    "level": ("{0} > 0 AND {0} < 1", "above 0 and below 1"),
    "replicates": ("{0} > 0 AND {0} = floor({0})", "a whole number above 0"),
    **dict.fromkeys(("lag_s", "power"), ("isfinite({0}::DOUBLE)", "a number")),
}


def _checked(parameter: str) -> str:
    """The value of a parameter, or an error that names it and what it has to be."""
    test, words = _ALLOWED[parameter]
    refused = f"error('{parameter} has to be {words}')"
    return f"CASE WHEN {test.format(parameter)} THEN {parameter} ELSE {refused} END"


def _steps(time_s: str, step_s: str) -> str:
    """How many whole steps of time a time is: 0.3 s are three of 0.1 s, although 0.3 / 0.1 < 3."""
    return f"CAST(floor(round(({time_s}) / ({step_s}), {TIME_DIGITS})) AS BIGINT)"


_PLACED = {"path": ("", "path at which a run found the video; copies are in videos")}

# With the window 1 + cos(pi (t - s) / w) = 1 + cos(pi t / w) cos(pi s / w) + sin(pi t / w) sin(pi s / w), the kernel's
# sum around s falls into three sums that no longer contain s: a moving window, and not a loop over pairs of frames.
_SMOOTHED = f"""
    WITH placed AS (
        SELECT *, CASE WHEN round(time_s - lag(time_s + duration_s) OVER faces, {TIME_DIGITS}) <= {
    _checked("max_gap_s")
} THEN 0 ELSE 1 END
               AS begins
        FROM scores WINDOW faces AS (PARTITION BY video_id, track_id ORDER BY frame_index)
    ), cut AS (
        SELECT *, sum(begins) OVER (PARTITION BY video_id, track_id ORDER BY frame_index ROWS UNBOUNDED PRECEDING)
               AS span, cos(pi() * time_s / {_checked("width_s")}) AS c, sin(pi() * time_s / width_s) AS s,
               {_WEIGHT} AS w
        FROM placed
    ), summed AS (
        SELECT {_WHERE}, {_WHICH}, span, {_each("p_{}")}, c, s,
               sum(w) OVER near + c * sum(w * c) OVER near + s * sum(w * s) OVER near AS total,
               {
    _each("sum(w * p_{0}) OVER near + c * sum(w * c * p_{0}) OVER near + s * sum(w * s * p_{0}) OVER near AS sum_{0}")
}
        FROM cut WINDOW near AS (
            PARTITION BY video_id, track_id, span ORDER BY time_s
            RANGE BETWEEN width_s PRECEDING AND width_s FOLLOWING
        )
    ), divided AS (
        SELECT {_WHERE}, {_each("CASE WHEN p_{0} IS NOT NULL THEN sum_{0} / total END AS p_{0}")},
               CAST(span AS INTEGER) AS span, {_WHICH}
        FROM summed
    )
    SELECT {_WHERE},
           {_LEADING} AS expression,
           * EXCLUDE ({_WHERE})
    FROM divided
"""
# Kept beside the settings of an analysis, since a lake's rows outlive the model that gave them.
_REWEIGHTED = f"""
    WITH trained AS (
        SELECT analysis_id, {_each("CAST(settings->'class_shares'->>'{0}' AS DOUBLE) AS share_{0}")} FROM analyses
    ), weighted AS (
        SELECT {_WHERE}, {_WHICH}, quality_ok, {_each("p_{0} / pow(share_{0}, " + _checked("power") + ") AS w_{0}")}
        FROM scores JOIN trained USING (analysis_id)
    ), normed AS (
        SELECT {_WHERE}, {_WHICH}, quality_ok,
               {_each("w_{0} / (" + _each("coalesce(w_{}, 0)", " + ") + ") AS p_{0}")}
        FROM weighted
    )
    SELECT {_WHERE},
           {_LEADING} AS expression,
           {_each("p_{}")}, quality_ok, {_WHICH}
    FROM normed
"""
#: Of a track, or of all tracks of a person, the faces of good quality, or all where none is.
_BASELINES = f"""
    WITH keyed AS (
        SELECT {_WHERE}, {_WHICH}, {_each("p_{}")}, {{arousal}} AS arousal, coalesce(quality_ok, false) AS is_good,
               CASE WHEN "by" = 'person' THEN coalesce(person_id, video_id) ELSE video_id END AS whose,
               CASE WHEN "by" = 'person' AND person_id IS NOT NULL THEN NULL
                    WHEN "by" IN ('track', 'person') THEN track_id
                    ELSE error('by is track or person') END AS of_track
        FROM scores WHERE expression IS NOT NULL
    ), shown AS (
        SELECT * FROM keyed QUALIFY is_good OR NOT bool_or(is_good) OVER (PARTITION BY whose, of_track)
    ), calm AS (
        SELECT *, round(sum({_WEIGHT}) OVER (
                   PARTITION BY whose, of_track ORDER BY arousal, frame_index, video_id, track_id
                   ROWS UNBOUNDED PRECEDING
               ) - {_WEIGHT} - {_checked("share")} * sum({_WEIGHT}) OVER (PARTITION BY whose, of_track), {
    TIME_DIGITS
}) < 0
                   AS is_calm
        FROM shown
    ), measured AS (
        SELECT whose, of_track, count(*) AS n_faces, {_each("median(p_{0}) AS median_p_{0}")},
               {
    _each(
        f"sum(p_{{0}} * {_WEIGHT}) FILTER (is_calm)"
        f" / sum({_WEIGHT}) FILTER (is_calm AND p_{{0}} IS NOT NULL) AS calm_p_{{0}}"
    )
}
        FROM calm GROUP BY whose, of_track
    ), told AS (
        SELECT DISTINCT file_name, track_id, path, video_id, analysis_id, whose, of_track FROM keyed
    )
    SELECT t.file_name, t.track_id, m.* EXCLUDE (whose, of_track), t.path, t.video_id, t.analysis_id
    FROM told t JOIN measured m ON t.whose = m.whose AND t.of_track IS NOT DISTINCT FROM m.of_track
"""
_ABOVE_BASELINE = f"""
    SELECT {", ".join(f"s.{name}" for name in _WHERE.split(", "))}, {_each("s.p_{0} - b.median_p_{0} AS d_{0}")},
           {", ".join(f"s.{name}" for name in _WHICH.split(", "))}
    FROM scores s JOIN baselines(by := "by") b USING (video_id, track_id)
"""
_EVENTS = f"""
    WITH long AS (
        SELECT * FROM (
            SELECT {_WHERE}, {_WHICH}, span, {_LONG} FROM smoothed(width_s := width_s, max_gap_s := max_gap_s)
        ) WHERE p IS NOT NULL
    ), marked AS (
        SELECT *, CASE WHEN p < {_checked("off_p")} THEN NULL
                       WHEN lag(p) OVER faces >= off_p THEN 0 ELSE 1 END AS begins
        FROM long WINDOW faces AS (PARTITION BY video_id, track_id, span, class ORDER BY frame_index)
    ), numbered AS (
        SELECT *, sum(begins) OVER (
            PARTITION BY video_id, track_id, span, class ORDER BY frame_index ROWS UNBOUNDED PRECEDING
        ) AS run
        FROM marked WHERE begins IS NOT NULL
    ), runs AS (
        SELECT file_name, track_id, class AS expression, min(time_s) AS onset_s,
               arg_max(time_s, p) AS apex_s, max(time_s + duration_s) AS offset_s, max(p) AS apex_p,
               sum(p * {_WEIGHT}) / sum({_WEIGHT}) AS mean_p, count(*) AS n_faces, path, video_id, analysis_id
        FROM numbered GROUP BY file_name, track_id, class, span, run, path, video_id, analysis_id
    )
    SELECT file_name, track_id, expression, onset_s, apex_s, offset_s, apex_s - onset_s AS rise_s,
           offset_s - apex_s AS fall_s, apex_p, mean_p, n_faces, path, video_id, analysis_id
    FROM runs WHERE apex_p >= {_checked("on_p")} AND round(offset_s - onset_s, {TIME_DIGITS}) >= {_checked("min_s")}
"""
_SYNCHRONY = f"""
    WITH long AS (
        SELECT file_name, path, video_id, analysis_id, track_id, duration_s,
               {_steps("time_s + duration_s / 2", _checked("bin_s"))} AS bin, {_LONG}
        FROM scores
    ), binned AS (
        SELECT file_name, path, video_id, analysis_id, track_id, class, bin,
               sum(p * {_WEIGHT}) / sum({_WEIGHT}) AS p
        FROM long WHERE p IS NOT NULL GROUP BY ALL
    ), pairs AS (
        SELECT a.*, b.track_id AS other_track_id, b.p AS other_p,
               unnest(range(
                   greatest({_steps("(a.bin + 0.5) * bin_s - " + _checked("window_s"), "step_s")} + 1, 0),
                   {_steps("(a.bin + 0.5) * bin_s", _checked("step_s"))} + 1
               )) AS step
        FROM binned a JOIN binned b ON a.video_id = b.video_id AND a.class = b.class
             AND a.track_id < b.track_id AND b.bin = a.bin + CAST(round({_checked("lag_s")} / bin_s) AS BIGINT)
    )
    SELECT file_name, track_id, other_track_id, class AS expression,
           step * step_s::DOUBLE AS start_s, step * step_s::DOUBLE + window_s AS end_s, count(*) AS n_bins,
           least(count(*) * bin_s / window_s, 1) AS coverage,
           CASE WHEN count(*) >= 3 AND min(p) < max(p) AND min(other_p) < max(other_p) THEN corr(p, other_p) END
               AS correlation,
           path, video_id, analysis_id
    FROM pairs GROUP BY file_name, track_id, other_track_id, class, step, path, video_id, analysis_id
"""


def _projection(axis: int) -> str:
    return " + ".join(f"{pair[axis]}::DOUBLE * coalesce(p_{name}, 0)" for name, pair in _AFFECT.items() if pair[axis])


_AFFECT_SQL = f"""
    SELECT {_WHERE}, {_projection(0)} AS valence, {_projection(1)} AS arousal, {_each("p_{}")}, {_WHICH}
    FROM scores WHERE expression IS NOT NULL
"""
#: With ``by := 'person'`` a video counts once for each person in it whom somebody named, merged or found.
_SHARES_OF_VIDEOS = f"""
    WITH long AS (
        SELECT video_id, path, CASE "by" WHEN 'person' THEN person_id WHEN 'path' THEN NULL
               ELSE error('by is path or person') END AS person, expression, sum({_WEIGHT}) AS seconds FROM scores
        WHERE expression IS NOT NULL AND ("by" IS DISTINCT FROM 'person' OR person_id IS NOT NULL) GROUP BY ALL
    ), totals AS (
        SELECT video_id, path, person, sum(seconds) AS seconds FROM long GROUP BY ALL
    ), known AS (
        SELECT video_id, {_each("bool_or(mean_p_{0} IS NOT NULL) AS has_{0}")} FROM tracks GROUP BY video_id
    )
    SELECT parse_filename(t.path, false, 'forward_slash') AS file_name,
           CASE WHEN "by" = 'person' THEN t.person ELSE regexp_extract(t.path, group_pattern, 1) END AS group_name,
           e.expression,
           CASE WHEN CASE e.expression {_each("WHEN '{0}' THEN has_{0}", " ")} END
                THEN coalesce(l.seconds, 0) / t.seconds END AS share,
           t.seconds AS screen_time_s, t.path, t.video_id
    FROM totals t JOIN known USING (video_id) CROSS JOIN (SELECT unnest([{_NAMES}]) AS expression) e
         LEFT JOIN long l ON l.video_id = t.video_id AND l.expression = e.expression
              AND l.person IS NOT DISTINCT FROM t.person
"""
#: Draws videos of a group with replacement: replicate r's draw i takes the video number md5(seed/group/r/i) mod n. The
#: same seed gives the same interval everywhere; DuckDB's own hash of integers is not even enough in its lowest bits.
DRAW_SQL = "md5_number_lower(concat_ws('/', seed, group_name, replicate, draw)) % n"
#: Replicates of a bootstrap over videos.
REPLICATES = 1000
_DRAWS = f"""
    numbered AS (
        SELECT *, row_number() OVER (PARTITION BY group_name, expression ORDER BY video_id) - 1 AS place,
               count(*) OVER (PARTITION BY group_name, expression) AS n
        FROM video_shares(group_pattern := group_pattern, by := "by")
    ), groups AS (
        SELECT DISTINCT group_name, n FROM numbered WHERE {_checked("level")} > 0
    ), draws AS (
        SELECT group_name, replicate, {DRAW_SQL} AS place
        FROM (
            SELECT group_name, n, replicate, unnest(range(n)) AS draw
            FROM groups, range(CAST({_checked("replicates")} AS BIGINT)) r(replicate)
        )
    ), means AS (
        SELECT d.group_name, n.expression, d.replicate, avg(n.share) AS share
        FROM draws d JOIN numbered n ON d.group_name = n.group_name AND d.place = n.place GROUP BY ALL
    ), found AS (
        SELECT group_name, expression, count(*) AS n_videos, count(share) AS n_known, avg(share) AS share,
               sum(share * screen_time_s) / sum(screen_time_s) FILTER (share IS NOT NULL) AS share_of_time
        FROM numbered GROUP BY ALL
    )
"""


def _quantile(value: str, twice: str) -> str:
    # DuckDB wants a constant in its range even where _checked refuses the level
    return f"quantile_cont({value}, greatest(least(({twice}) / 2, 1), 0))"


_SHARES = f"""
    WITH {_DRAWS}
    SELECT f.group_name, f.expression, f.n_videos, f.share,
           CASE WHEN f.n_known > 1 THEN {_quantile("m.share", "1 - level")} END AS low,
           CASE WHEN f.n_known > 1 THEN {_quantile("m.share", "1 + level")} END AS high, f.share_of_time
    FROM found f JOIN means m USING (group_name, expression)
    GROUP BY f.group_name, f.expression, f.n_videos, f.n_known, f.share, f.share_of_time
"""
_SHARE_DIFFERENCES = f"""
    WITH {_DRAWS}
    SELECT a.group_name, b.group_name AS other_group, a.expression, a.n_videos, b.n_videos AS other_n_videos,
           a.share - b.share AS difference,
           CASE WHEN least(a.n_known, b.n_known) > 1 THEN {_quantile("x.share - y.share", "1 - level")} END AS low,
           CASE WHEN least(a.n_known, b.n_known) > 1 THEN {_quantile("x.share - y.share", "1 + level")} END AS high
    FROM found a JOIN found b ON a.expression = b.expression AND a.group_name < b.group_name
         JOIN means x ON x.group_name = a.group_name AND x.expression = a.expression
         JOIN means y ON y.group_name = b.group_name AND y.expression = b.expression AND y.replicate = x.replicate
    GROUP BY a.group_name, b.group_name, a.expression, a.n_videos, b.n_videos, a.n_known, b.n_known, a.share, b.share
"""

_GROUP = (
    "",
    "first capture group of group_pattern in the path: '([^/]*)/[^/]*$' is a video's folder; by := 'person': person_id",
)
_BOOTSTRAP = {"replicates": str(REPLICATES), "level": "0.95", "seed": "0"}
_FUNCTIONS = (
    TableFunction(
        "smoothed",
        {"width_s": "0.5", "max_gap_s": str(SPAN_MAX_GAP_S)},
        "One row per face of scores, with probabilities averaged over time by a raised-cosine window of width_s at "
        "half height; never across the end of a track, nor across a gap of more than max_gap_s.",
        _SMOOTHED,
        {
            **_PLACED,
            "span": ("", "number of the gapless span of its track, from 1"),
            "expression": ("", "class with the highest smoothed probability"),
            **{f"p_{name}": ("0..1", f"smoothed probability of {name}") for name in EXPRESSIONS},
        },
    ),
    TableFunction(
        "reweighted",
        {"power": "0.5"},
        "One row per face of scores, with each probability divided by the share of its class among the faces that "
        "the model learned from, to a power, and normalised: rare expressions are found more often. Power 0 "
        "changes nothing; power 1 assumes a uniform prior over classes. NULL if the card does not state the shares.",
        _REWEIGHTED,
        {
            **_PLACED,
            "expression": ("", "class with the highest reweighted probability"),
            **{f"p_{name}": ("0..1", f"reweighted probability of {name}") for name in EXPRESSIONS},
        },
    ),
    TableFunction(
        "affect",
        {},
        "One row per face of scores, with a projection of its probabilities onto valence and arousal, which is not a "
        "measurement.",
        _AFFECT_SQL,
        {
            **_PLACED,
            "valence": ("-1..1", "projection: sum of the probabilities times fixed coefficients (docs/analysis.md)"),
            "arousal": ("-1..1", "projection, in the same way"),
        },
    ),
    TableFunction(
        "baselines",
        {"share": "0.2", "by": "'track'"},
        "One row per track: two baselines of its face, from its faces of good quality (from all faces if none is "
        "good); with by := 'person' from all tracks of its person.",
        _BASELINES.replace("{arousal}", _projection(1)),
        {
            **_PLACED,
            "n_faces": ("", "faces (rows) that count"),
            **{f"median_p_{name}": ("0..1", f"median probability of {name}") for name in EXPRESSIONS},
            **{
                f"calm_p_{name}": (
                    "0..1",
                    f"mean probability of {name} over the share of its time with the lowest arousal",
                )
                for name in EXPRESSIONS
            },
        },
    ),
    TableFunction(
        "above_baseline",
        {"by": "'track'"},
        "One row per face of scores, as the difference from the median of its own track; with by := 'person' of all "
        "tracks of its person.",
        _ABOVE_BASELINE,
        {
            **_PLACED,
            **{f"d_{name}": ("-1..1", f"probability of {name} minus the track's median of it") for name in EXPRESSIONS},
        },
    ),
    TableFunction(
        "expression_events",
        {"on_p": "0.5", "off_p": "0.25", "min_s": "0.2", "width_s": "0.3", "max_gap_s": str(SPAN_MAX_GAP_S)},
        "One row per span in which an expression's smoothed probability stays at off_p or above and reaches on_p, "
        "for at least min_s.",
        _EVENTS,
        {
            **_PLACED,
            "expression": ("", "the expression; events of several may overlap"),
            "onset_s": ("s", "time_s of the first frame at off_p or above"),
            "apex_s": ("s", "time_s of the highest probability"),
            "offset_s": ("s", "end of the last frame at off_p or above"),
            "rise_s": ("s", "from onset to apex"),
            "fall_s": ("s", "from apex to offset"),
            "apex_p": ("0..1", "smoothed probability at the apex"),
            "mean_p": ("0..1", "mean smoothed probability, weighted by time"),
            "n_faces": ("", "faces (rows) in it"),
        },
    ),
    TableFunction(
        "synchrony",
        {"window_s": "10", "step_s": "5", "bin_s": "0.1", "lag_s": "0"},
        "One row per two tracks of a video, expression and window of time: the correlation of their probabilities.",
        _SYNCHRONY,
        {
            **_PLACED,
            "other_track_id": ("", "the other track, taken lag_s later"),
            "expression": ("", "the expression whose probabilities are compared"),
            "start_s": ("s", "start of the window"),
            "end_s": ("s", "end of the window"),
            "n_bins": ("", "bins of bin_s in which both faces were seen"),
            "coverage": ("0..1", "these bins over those of a whole window"),
            "correlation": ("-1..1", "Pearson's; NULL for fewer than three bins, or where one does not change"),
        },
    ),
    TableFunction(
        "video_shares",
        {"group_pattern": "''", "by": "'path'"},
        "One row per video and expression: the share of the faces' screen time in which it leads. With by := 'person' "
        "one row per person, video and expression, of the people who were named, merged or found.",
        _SHARES_OF_VIDEOS,
        {
            **_PLACED,
            "group_name": _GROUP,
            "share": ("0..1", "time that the expression leads over the time that faces were seen"),
            "screen_time_s": ("s", "time that faces were seen, each face counted"),
        },
    ),
    TableFunction(
        "expression_shares",
        {"group_pattern": "''", **_BOOTSTRAP, "by": "'path'"},
        "One row per group and expression: the mean over videos of each video's share, with a percentile bootstrap "
        "interval over videos.",
        _SHARES,
        {
            "group_name": _GROUP,
            "n_videos": ("", "videos with a face"),
            "share": ("0..1", "mean over videos, with equal weight for each"),
            "low": ("0..1", "lower end of the interval; NULL where fewer than two videos have a share"),
            "high": ("0..1", "upper end of the interval"),
            "share_of_time": ("0..1", "share of all time together, so that long videos count more"),
        },
    ),
    TableFunction(
        "share_differences",
        {"group_pattern": "''", **_BOOTSTRAP, "by": "'path'"},
        "One row per two groups and expression: the difference of their mean shares, with a percentile bootstrap "
        "interval over the videos of each.",
        _SHARE_DIFFERENCES,
        {
            "group_name": _GROUP,
            "other_group": ("", "the group that is subtracted; later in the alphabet"),
            "n_videos": ("", "videos with a face in the group"),
            "other_n_videos": ("", "videos with a face in the other group"),
            "difference": ("-1..1", "mean share of the group minus that of the other"),
            "low": ("-1..1", "lower end of the interval; NULL where a group has fewer than two shares"),
            "high": ("-1..1", "upper end of the interval"),
        },
    ),
)
#: The table functions by name.
FUNCTIONS = {function.name: function for function in _FUNCTIONS}


def create_functions(con: duckdb.DuckDBPyConnection) -> None:
    """Make every table function in a connection that has the views."""
    for name in ("affect", *(name for name in FUNCTIONS if name != "affect")):
        create_function(con, name)


def create_function(con: duckdb.DuckDBPyConnection, name: str, *, temporary: bool = False) -> None:
    """Make one table function; what it reads has to be there. A temporary one is the cursor's alone."""
    function = FUNCTIONS[name]
    con.execute(f"CREATE {'TEMP ' if temporary else ''}MACRO {function.signature} AS TABLE {function.sql}")
