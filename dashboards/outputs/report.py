"""A report as one HTML file that opens from disk and loads nothing: what was found, in pictures, and how."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from dashboards.outputs.findings import Findings, Moment, find
from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.outputs.pictures import as_jpeg
from dashboards.outputs.svg import clock, share_bar, timeline
from storage.delta.relations import Connection, read_errors, rows_of
from storage.errors import LakeError
from storage.files import whole_file
from storage.lake import Lake
from storage.sql.model_choice import mixture_note
from storage.sql.selection import ChosenVideo, choose_videos
from storage.sql.statistics import bootstrap_means
from storage.sql.views import connect

__all__ = ["write_report"]

#: A page with more videos is too heavy for a browser; the summary still counts them all.
MAX_VIDEOS = 60
_STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.25rem; margin: 3rem 0 .5rem; border-top: 1px solid #ccc; padding-top: 1rem }
h3 { font-size: 1.05rem; margin: 2.5rem 0 .25rem; overflow-wrap: anywhere }
p { max-width: 46rem; margin: .5rem 0 }
a { color: #0b5394 }
.note { color: #555; font-size: .9rem }
.warning { border-left: 4px solid #d55e00; padding: .25rem .75rem; background: #fdf3ec }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0 }
.tiles div { border: 1px solid #ddd; border-radius: 6px; padding: .5rem .9rem; min-width: 7rem }
.tiles b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; margin: .5rem 0; width: 100% }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; border-bottom: 1px solid #e3e3e3; vertical-align: middle }
th { font-size: .85rem; color: #555; font-weight: 600 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.name { overflow-wrap: anywhere; min-width: 8rem }
td.wide { width: 45% }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; padding: 0; margin: .75rem 0 }
.legend { list-style: none; font-size: .9rem }
.legend i { display: inline-block; width: .9em; height: .9em; margin-right: .4em; border: 1px solid #999 }
svg text { font: 12px system-ui, sans-serif; fill: #333 }
svg .tick { fill: #666; font-size: 11px } svg .label { font-size: 13px } svg .number { font-weight: 700 }
svg .ground { fill: #fff; stroke: #ddd } svg .axis { stroke: #999 }
svg .mark { stroke: #111; stroke-width: 1.2; stroke-dasharray: 3 2; fill: none }
svg .doubtful { stroke: #777; stroke-width: 4; fill: none }
svg.timeline { width: 100%; height: auto; display: block; margin: .5rem 0 }
svg.bar { display: block; min-width: 10rem }
.moments { display: grid; gap: 1rem; margin: 1rem 0 }
.moments { grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)) }
figure { margin: 0 }
figure img, figure .none { width: 100%; aspect-ratio: 1; display: block; border-radius: 4px; background: #eee }
figcaption { font-size: .85rem; line-height: 1.35; margin-top: .3rem }
code, pre { font: 13px/1.45 ui-monospace, monospace }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .75rem }
details { margin: .5rem 0 }
@media print { h2, h3, figure, tr { break-inside: avoid } }
"""


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
            progress(f"report: {video.file_name}", done, len(shown))
            findings.append(find(con, video, n_moments, blur))
        progress("report", len(shown), len(shown))
        body = [
            _head(title, lake, videos, note),
            _summary(con, videos, findings),
            *(["<h2>Videos</h2>", _legend()] if findings else []),
            *(_video(found, blur) for found in findings),
            _quality(findings),
            _models(sorted({video.model_id for video in videos if video.model_id}), card_of),
            _method(con, videos, blur),
        ]
    page = _PAGE.format(title=html.escape(title), style=_STYLE, body="\n".join(body))
    try:
        with whole_file(output) as fresh:
            fresh.write_text(page, encoding="utf-8")
    except OSError as error:
        raise LakeError(f"cannot write {output}: {error.strerror or error}; name another file", "bad_output") from error
    return output


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head><body><main>
{body}
</main></body></html>
"""


def _text(value: object) -> str:
    """Text for a page; <bdi>, because a file's name may turn the direction of what follows."""
    return f"<bdi>{html.escape(str(value))}</bdi>"


def _percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _table(head: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f'<th class="{kind}" scope="col">{name}</th>' for name, kind in head)
    lines = [
        "<tr>" + "".join(f'<td class="{kind}">{cell}</td>' for cell, (_, kind) in zip(row, head, strict=True)) + "</tr>"
        for row in rows
    ]
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _head(title: str, lake: Lake, videos: Sequence[ChosenVideo], note: str) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f'<h1>{_text(title)}</h1><p class="note">{len(videos)} video{"s" if len(videos) != 1 else ""} of the lake '
        f"{_text(lake.location)}, written {now}.</p>"
        '<p class="warning">These are <b>apparent</b> expressions: how a model, trained on people\'s judgements of '
        "still pictures, says a face looks. They say nothing certain of what a person feels, means or will do, "
        "and must not be used to judge single people.</p>"
        + (f'<p class="warning">{_text(note[:1].upper() + note[1:])}.</p>' if note else "")
    )


def _legend() -> str:
    items = "".join(f'<li><i style="background:{c}"></i>{name}</li>' for name, c in EXPRESSION_COLOURS.items())
    return (
        f'<ul class="legend">{items}</ul><p class="note">White: the face was not seen. A grey line below a panel: too '
        "small, turned or unsharp to trust. Dashed: a key moment.</p>"
    )


def _summary(con: Connection, videos: Sequence[ChosenVideo], findings: Sequence[Findings]) -> str:
    n_frames = sum(video.n_frames for video in videos)
    n_with = sum(video.n_frames_with_face for video in videos)
    partial = sum(video.status == "partial" for video in videos)
    tiles = [
        ("videos", f"{len(videos)}"),
        ("duration", clock(sum(video.duration_s or 0 for video in videos))),
        ("frames analysed", f"{n_frames:,}"),
        ("with a face", _percent(n_with / n_frames if n_frames else None)),
        ("faces", f"{sum(video.n_faces for video in videos):,}"),
        ("tracks", f"{sum(video.n_tracks for video in videos):,}"),
    ]
    parts = ["<h2>Summary</h2>", '<div class="tiles">']
    parts += [f"<div><b>{value}</b>{name}</div>" for name, value in tiles]
    parts.append("</div>")
    if partial:
        parts.append(
            f'<p class="warning">{partial} of the videos could not be read completely; see data quality below.</p>'
        )
    parts.append(_shares(con, [video.video_id for video in videos]))
    rows = [
        (
            f'<a href="#{html.escape(found.video.video_id)}">{_text(found.video.file_name)}</a>',
            clock(found.video.duration_s or 0),
            _percent(found.video.n_frames_with_face / found.video.n_frames if found.video.n_frames else None),
            f"{found.video.n_tracks}",
            share_bar(found.shares) if found.shares else '<span class="note">no face</span>',
        )
        for found in findings
    ]
    head = [("video", "name"), ("length", "n"), ("with face", "n"), ("tracks", "n"), ("leading expression", "wide")]
    parts.append(_table(head, rows))
    if len(videos) > len(findings):
        parts.append(
            f'<p class="note">The first {len(findings)} of {len(videos)} videos are shown; name videos to choose.</p>'
        )
    return "\n".join(parts)


def _shares(con: Connection, video_ids: list[str]) -> str:
    """The mean over videos with the interval of ``expression_shares``, of these videos only."""
    rows = rows_of(
        con,
        "SELECT video_id, expression, share, screen_time_s FROM video_shares() WHERE video_id IN (SELECT unnest(?))"
        " ORDER BY video_id",
        [video_ids],
    ).to_pylist()
    if not rows:
        return "<p>No face was found in any of these videos.</p>"
    by_name = {name: np.array([r["share"] for r in rows if r["expression"] == name]) for name in EXPRESSION_COLOURS}
    estimates = {name: bootstrap_means(shares) for name, shares in by_name.items()}
    n_videos = estimates["neutral"].n
    lines = []
    for name, found in sorted(estimates.items(), key=lambda item: -float(item[1].mean)):
        interval = f"{100 * found.low:.0f} to {100 * found.high:.0f} %" if n_videos > 1 else "–"
        bar = share_bar({name: float(found.mean)}, height=14)
        lines.append((name, _percent(float(found.mean), 1), interval, bar))
    head = [("expression", ""), ("share of the time", "n"), ("95 % interval", "n"), ("", "wide")]
    said = (
        f"The share of the time that faces were seen in which each expression leads, as a mean over {n_videos} videos; "
        "the interval resamples videos."
        if n_videos > 1
        else "The share of the time that faces were seen in which each expression leads."
    )
    return f"<p>{said}</p>" + _table(head, lines)


def _video(found: Findings, blur: bool) -> str:
    video = found.video
    place = html.escape(video.video_id)
    size = f"{video.width_px}×{video.height_px}, " if video.width_px else ""
    parts = [
        f'<h3 id="{place}">{_text(video.file_name)}</h3>',
        f'<p class="note">{clock(video.duration_s or 0)}, {size}{_text(video.codec or "")}; {video.n_faces:,} faces in '
        f"{video.n_frames:,} frames; {_text(video.path)}</p>",
    ]
    if not found.tracks:
        return "\n".join([*parts, "<p>No face was found.</p>"])
    marks = [
        (found.track_ids.index(moment.track_id), number, moment.apex_s)
        for number, moment in enumerate(found.moments, 1)
        if moment.track_id in found.track_ids
    ]
    parts.append(timeline(found.tracks, found.bin_s, video.duration_s or found.bin_s, marks))
    if found.n_more_tracks:
        parts.append(f'<p class="note">{found.n_more_tracks} shorter tracks are not drawn.</p>')
    if found.moments:
        parts.append('<div class="moments">')
        parts += [_figure(number, moment, blur) for number, moment in enumerate(found.moments, 1)]
        parts.append("</div>")
    else:
        parts.append('<p class="note">No expression but neutral stood out for long enough to be a key moment.</p>')
    if found.no_pictures:
        parts.append(f'<p class="note">{_text(found.no_pictures)}</p>')
    return "\n".join(parts)


def _figure(number: int, moment: Moment, blur: bool) -> str:
    said = f"{html.escape(moment.who)} at {clock(moment.apex_s)}: {moment.expression}" + (", blurred" if blur else "")
    image = f'<img src="{as_jpeg(moment.picture)}" alt="{said}">' if moment.picture else '<div class="none"></div>'
    return (
        f"<figure>{image}<figcaption><b>{number}. {moment.expression}</b> {100 * moment.apex_p:.0f} %<br>"
        f"{_text(moment.who)} at {clock(moment.apex_s)}, from {clock(moment.onset_s)} to "
        f"{clock(moment.offset_s)}</figcaption></figure>"
    )


def _quality(findings: Sequence[Findings]) -> str:
    head = [("video", "name"), *((name, "n") for name in ("frames", "without face", "undecodable", "trusted faces"))]
    head += [(name, "n") for name in ("face size", "turned away", "confidence", "most at once")]
    rows = []
    for found in findings:
        q = found.quality
        n = max(q["n_frames"], 1)
        rows.append(
            (
                _text(found.video.file_name),
                f"{q['n_frames']:,}",
                _percent(q["n_without_face"] / n),
                _percent(q["n_undecodable"] / n, 1) if q["n_undecodable"] else "0",
                _percent(q["quality_ok"]),
                "–" if q["face_px"] is None else f"{q['face_px']:.0f} px",
                _percent(q["turned"]),
                "–" if q["confidence"] is None else f"{q['confidence']:.2f}",
                f"{q['most_faces'] or 0}",
            )
        )
    return (
        "<h2>Data quality</h2>"
        + _table(head, rows)
        + '<p class="note">Trusted faces: large, sharp and frontal enough (<code>quality_ok</code>). Turned away: nose '
        "more than 0.3 of the way to an eye. Confidence: mean probability of the leading expression. Unread frames are "
        "damaged in the file and count for nothing.</p>"
    )


def _models(model_ids: Sequence[str], card_of: Callable[[str], Mapping[str, Any] | None]) -> str:
    parts = ["<h2>Model</h2>"]
    for model_id in model_ids:
        parts.append(f"<h3>{_text(model_id)}</h3>")
        card = card_of(model_id)
        if card is None:
            parts.append('<p class="note">Its card is neither in the package nor in the lake.</p>')
            continue
        metrics, data = card.get("metrics", {}), card.get("training", {}).get("data", {})
        recall = ", ".join(f"{name} {100 * value:.0f} %" for name, value in metrics.get("per_class_recall", {}).items())
        rows = [
            ("classes", ", ".join(card.get("class_names", ()))),
            ("trained on", data.get("source", "")),
            ("licence", card.get("licence", "")),
            ("measured by", metrics.get("protocol", "")),
            *((name, f"{metrics[name]:.3f}") for name in ("accuracy", "mean_recall", "ece") if name in metrics),
            ("recall per class", recall),
        ]
        known = [(name.replace("_", " "), _text(value)) for name, value in rows if value]
        parts.append(_table([("", ""), ("", "name")], known))
    parts.append(
        "<p>Known to mislead it: speech, turned heads, hands before the face, age, poor light, and posed against "
        "spontaneous expressions. Classes with a low recall are seldom recognised: that one is rare here does not mean "
        "that it was not shown.</p>"
    )
    return "\n".join(parts)


def _detectors(con: Connection, videos: Sequence[ChosenVideo]) -> list[str]:
    """Names of the detectors that found the faces."""
    ids = [video.video_id for video in videos]
    rows = rows_of(
        con, "SELECT DISTINCT settings FROM raw.videos WHERE video_id IN (SELECT unnest(?))", [ids]
    ).to_pylist()
    detectors = [json.loads(row["settings"] or "{}").get("detector", {}) for row in rows]
    return sorted({detector["name"] for detector in detectors if "name" in detector})


def _method(con: Connection, videos: Sequence[ChosenVideo], blur: bool) -> str:
    runs = rows_of(
        con,
        "SELECT DISTINCT ON (manifest, device, program_version, code_revision)"
        " run_id, started_utc, device, program_version, code_revision, manifest"
        " FROM runs WHERE status IN ('ok', 'partial') AND video_id IN (SELECT unnest(?)) ORDER BY started_utc",
        [[video.video_id for video in videos]],
    ).to_pylist()
    found_by = " and ".join(_detectors(con, videos)) or "a detector"
    parts = [
        "<h2>How it was computed</h2>",
        "<p>Each sampled frame was decoded with its own presentation time; faces were found by "
        f"{html.escape(found_by)}, followed through "
        "time, aligned by five landmarks and scored by the network. An expression leads where its probability is the "
        "highest of the eight. Key moments are apexes of <code>expression_events()</code> with its default thresholds: "
        "smoothed probability of at least 0.5, for at least 0.2 s. Timelines are means per "
        "bin, weighted by time.</p>",
        "<p>Faces in the pictures are hidden: every face that was found in the frame. One that was not found is not."
        "</p>"
        if blur
        else "",
    ]
    rows = [
        (_text(video.file_name), *(f"<code>{html.escape(v or '')}</code>" for v in (video.video_id, video.analysis_id)))
        for video in videos[:MAX_VIDEOS]
    ]
    parts.append(_table([("video", "name"), ("video_id", ""), ("analysis_id", "")], rows))
    for settings in sorted({video.settings for video in videos}):
        parts.append(f"<details><summary>Settings</summary><pre>{html.escape(_indented(settings))}</pre></details>")
    for run in runs:
        versions = json.loads(run["manifest"]).get("library_versions", {})
        program = " ".join(filter(None, (run["program_version"], run["code_revision"])))
        started = run["started_utc"].strftime("%Y-%m-%d %H:%M UTC")
        parts.append(
            f"<details><summary>Run {_text(run['run_id'])}, {started}, on {_text(run['device'])}</summary><pre>"
            f"mfer {html.escape(program)}\n{html.escape(_indented(json.dumps(versions)))}</pre></details>"
        )
    return "\n".join(parts)


def _indented(text: str) -> str:
    return json.dumps(json.loads(text), indent=1)
