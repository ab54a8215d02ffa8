"""The demo: real material through the whole road, then answers that a person can look at."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dashboards.outputs.timeline import write_timeline
from flows.analyze import analyze_folder
from flows.cli.progress import make_progress
from flows.cli.results import write_result
from flows.demo_clips import write_demo_videos
from flows.run import FolderRun
from storage.lake import Lake
from storage.sql.views import run_sql

__all__ = ["run_demo"]

_QUESTIONS = (
    (
        "How long did each face show each expression?",
        "SELECT file_name, track_id, expression, round(sum(duration_s), 2) AS seconds,"
        " round(avg(confidence), 2) AS mean_confidence FROM scores GROUP BY ALL ORDER BY file_name, seconds DESC",
    ),
    (
        "Which spans have one leading expression?",
        "SELECT file_name, track_id, round(start_s, 2) AS start_s, round(end_s, 2) AS end_s, expression,"
        " round(mean_confidence, 2) AS mean_confidence FROM episodes ORDER BY file_name, start_s",
    ),
    (
        "In how many frames was there a face at all?",
        "SELECT file_name, count(*) AS frames, sum((frame_status = 'ok')::INT) AS with_face,"
        " round(max(time_s + duration_s), 2) AS seconds FROM frames GROUP BY file_name ORDER BY file_name",
    ),
)


def run_demo(folder: Path) -> int:
    """Analyse the demo's clips into ``folder/lake``, print three answers and write ``folder/timeline.png``.

    Returns:
        The exit code of the analysis.
    """
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    for path in write_demo_videos(videos):
        click.echo(f"video    {path}")
    with make_progress() as progress:
        summary = analyze_folder(FolderRun((str(videos),), str(folder / "lake")), progress)
    facts = summary.to_dict()
    click.echo(
        f"analysed {facts['ok']} videos, {facts['skipped']} were done before; {facts['frames']} frames,"
        f" {facts['faces']} faces in {facts['elapsed_s']:.1f} s with {summary.model_id}"
    )
    lake = Lake.open(folder / "lake")
    for question, query in _QUESTIONS:
        click.echo(f'\n{question}\n  mfer sql "{query}" --lake {folder / "lake"}\n')
        sys.stdout.flush()
        write_result(run_sql(lake, query), "table", None)
    picture = write_timeline(run_sql(lake, "SELECT * FROM scores ORDER BY path, time_s"), folder / "timeline.png")
    click.echo(f"\ntimeline {picture}\nNow with your own: mfer analyze VIDEOS --lake LAKE")
    return summary.exit_code
