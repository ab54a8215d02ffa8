"""A report as one HTML file that opens from disk and loads nothing: what was found, in pictures, and how."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from dashboards.outputs.findings import TURNED_DEG, Findings, Moment, find
from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.outputs.pictures import as_jpeg
from dashboards.outputs.shares import share_with_face
from dashboards.outputs.svg import clock, share_bar, timeline
from storage.delta.relations import Connection, read_errors, rows_of
from storage.errors import LakeError
from storage.files import whole_file
from storage.lake import Lake
from storage.sql.model_choice import mixture_note
from storage.sql.selection import ChosenVideo, choose_videos
from storage.sql.statistics import bootstrap_means
from storage.sql.views import connect
from storage.wording import counted

__all__ = ["write_report"]

#: A page with more videos is too heavy for a browser; the summary still counts them all.
MAX_VIDEOS = 60
_TEMPLATES = Environment(
    loader=PackageLoader("dashboards.outputs"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.globals["counted"] = counted


def write_report(
    lake: Lake,
    output: str | Path,
    names: Sequence[str | Path] = (),
    *,
    blur: bool = False,
    n_moments: int = 6,
    model: str | None = None,
    as_found: bool = False,
    title: str = "Apparent expressions",
    card_of: Callable[[str], Mapping[str, Any] | None] = lambda model_id: None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    tell: Callable[[str], None] = lambda note: None,
) -> Path:
    """Write the page.

    Args:
        lake: where the rows are; pictures are cut from the videos where these still lie.
        output: the HTML file, which appears when it is complete.
        names: which videos, see ``choose_videos``; none: all. The first MAX_VIDEOS are shown one by one.
        blur: hide every face of the lake in the pictures, also where a person excluded it.
        n_moments: pictures per video, at most.
        model: whose scores; None: see ``storage.sql.views.connect``.
        as_found: leave out what people said: names, merges, splits and exclusions.
        title: heading.
        card_of: the card of a model_id as a dictionary, or None where it is not at hand.
        progress: called with (stage, videos done, videos in all).
        tell: called with the note that the page has where it shows scores of more than one model.

    Raises:
        LakeError: ``unknown_video``, ``bad_output`` or ``damaged``.
    """
    output = Path(output)
    with connect(lake, model=model, as_found=as_found) as con, read_errors(lake.location):
        videos = choose_videos(con, names)
        note = mixture_note(con, [video.video_id for video in videos])
        tell(note)
        shown = videos[:MAX_VIDEOS]
        findings = []
        for done, video in enumerate(shown):
            progress(f"report: {video.title}", done, len(shown))
            findings.append(find(con, video, n_moments, blur))
        progress("report", len(shown), len(shown))
        page = _TEMPLATES.get_template("report.html").render(
            title=title,
            location=lake.location,
            now=_when(datetime.now(UTC)),
            note=note[:1].upper() + note[1:],
            blur=blur,
            videos=videos,
            max_videos=MAX_VIDEOS,
            turned_deg=TURNED_DEG,
            colours=EXPRESSION_COLOURS,
            tiles=_tiles(videos),
            n_partial=sum(video.status == "partial" for video in videos),
            shown=[_shown(found) for found in findings],
            models={name: _model_facts(card_of(name)) for name in sorted({v.model_id for v in videos if v.model_id})},
            **_shares(con, [video.video_id for video in videos]),
            **_method(con, videos),
        )
    try:
        with whole_file(output) as fresh:
            fresh.write_text(page, encoding="utf-8")
    except OSError as error:
        raise LakeError(f"cannot write {output}: {error.strerror or error}; name another file", "bad_output") from error
    return output


def _when(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _tiles(videos: Sequence[ChosenVideo]) -> list[tuple[str, str]]:
    n_frames = sum(video.n_frames for video in videos)
    n_with_face = sum(video.n_frames_with_face for video in videos)
    with_face = share_with_face(n_with_face, n_frames, sum(video.n_frames_undecodable for video in videos))
    return [
        ("videos", f"{len(videos)}"),
        ("duration", clock(sum(video.duration_s or 0 for video in videos))),
        ("frames analysed", f"{n_frames:,}"),
        ("with a face", "–" if with_face is None else f"{100 * with_face:.0f} %"),
        ("faces", f"{sum(video.n_faces for video in videos):,}"),
        ("tracks", f"{sum(video.n_tracks for video in videos):,}"),
    ]


def _shares(con: Connection, video_ids: list[str]) -> dict[str, Any]:
    """The mean over videos with the interval of ``expression_shares``, of these videos only, the largest first; None
    for a class that no model of these videos has."""
    rows = rows_of(
        con,
        "SELECT video_id, expression, share, screen_time_s FROM video_shares() WHERE video_id IN (SELECT unnest(?))"
        " ORDER BY video_id",
        [video_ids],
    ).to_pylist()
    if not rows:
        return {"shares": [], "n_counted": 0}
    estimates = {
        name: bootstrap_means(np.array([r["share"] for r in rows if r["expression"] == name], np.float64))
        for name in EXPRESSION_COLOURS
    }
    n_videos = max(found.n for found in estimates.values())
    shares: list[tuple[str, float | None, str, Markup]] = []
    for name, found in sorted(estimates.items(), key=lambda item: (not item[1].n, -float(item[1].mean))):
        if not found.n:
            shares.append((name, None, "–", Markup()))
            continue
        interval = f"{100 * found.low:.0f} to {100 * found.high:.0f} %" if found.n > 1 else "–"
        mean = float(found.mean)
        shares.append((name, mean, interval, Markup(share_bar({name: mean}, height=14))))
    return {"shares": shares, "n_counted": n_videos}


def _shown(found: Findings) -> dict[str, Any]:
    """A video with its drawings, as markup."""
    video = found.video
    marks = [
        (found.track_ids.index(moment.track_id), number, moment.apex_s)
        for number, moment in enumerate(found.moments, 1)
        if moment.track_id in found.track_ids
    ]
    lasts_s = video.duration_s or found.bin_s
    return {
        "found": found,
        "video": video,
        "length": clock(video.duration_s or 0),
        "with_face": share_with_face(video.n_frames_with_face, video.n_frames, video.n_frames_undecodable),
        "bar": Markup(share_bar(found.shares)) if found.shares else "",
        "timeline": Markup(timeline(found.tracks, found.bin_s, lasts_s, marks)) if found.tracks else None,
        "moments": [_moment(moment) for moment in found.moments],
    }


def _moment(moment: Moment) -> dict[str, Any]:
    return {
        "picture": as_jpeg(moment.picture) if moment.picture else "",
        "who": moment.who,
        "expression": moment.expression,
        "p": moment.apex_p,
        "apex": clock(moment.apex_s),
        "onset": clock(moment.onset_s),
        "offset": clock(moment.offset_s),
    }


def _model_facts(card: Mapping[str, Any] | None) -> list[tuple[str, str]] | None:
    """What a card says of a model, by name; None without a card."""
    if card is None:
        return None
    metrics, data = card.get("metrics", {}), card.get("training", {}).get("data", {})
    recall = ", ".join(f"{name} {100 * value:.0f} %" for name, value in metrics.get("per_class_recall", {}).items())
    numbers = [(n.replace("_", " "), f"{metrics[n]:.3f}") for n in ("accuracy", "mean_recall", "ece") if n in metrics]
    return [
        ("classes", ", ".join(card.get("class_names", ()))),
        ("trained on", data.get("source", "")),
        ("licence", card.get("licence", "")),
        ("measured by", metrics.get("protocol", "")),
        *numbers,
        ("recall per class", recall),
    ]


def _detectors(con: Connection, videos: Sequence[ChosenVideo]) -> list[str]:
    """Names of the detectors that found the faces."""
    ids = [video.video_id for video in videos]
    rows = rows_of(
        con, "SELECT DISTINCT settings FROM raw.videos WHERE video_id IN (SELECT unnest(?))", [ids]
    ).to_pylist()
    detectors = [json.loads(row["settings"] or "{}").get("detector", {}) for row in rows]
    return sorted({detector["name"] for detector in detectors if "name" in detector})


def _method(con: Connection, videos: Sequence[ChosenVideo]) -> dict[str, Any]:
    """Detectors, settings and runs that the rows come from."""
    runs = rows_of(
        con,
        "SELECT DISTINCT ON (manifest, device, program_version, code_revision)"
        " run_id, started_utc, device, program_version, code_revision, manifest"
        " FROM runs WHERE status IN ('ok', 'partial') AND video_id IN (SELECT unnest(?)) ORDER BY started_utc",
        [[video.video_id for video in videos]],
    ).to_pylist()
    return {
        "found_by": " and ".join(_detectors(con, videos)) or "a detector",
        "settings": [_indented(settings) for settings in sorted({video.settings for video in videos})],
        "runs": [
            {
                "run_id": run["run_id"],
                "started": _when(run["started_utc"]),
                "device": run["device"],
                "program": " ".join(filter(None, (run["program_version"], run["code_revision"]))),
                "versions": _indented(json.dumps(json.loads(run["manifest"]).get("library_versions", {}))),
            }
            for run in runs
        ],
    }


def _indented(text: str) -> str:
    return json.dumps(json.loads(text), indent=1)
