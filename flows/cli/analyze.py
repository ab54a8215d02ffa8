"""``mfer analyze``."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from flows.analysis_options import AnalysisOptions
from flows.cli.options import analysis_options, lake_option, resumable

if TYPE_CHECKING:
    from flows.run import RunSummary

__all__ = ["analyze"]


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@lake_option
@analysis_options
@click.option("--profile", is_flag=True, help="Print what bounds the run, what would help, and each stage's CPU time.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@resumable
def analyze(paths: tuple[str, ...], lake: str, profile: bool, as_json: bool, **chosen: Any) -> None:
    """Analyse videos, pictures and folders of them into a lake.

    Folders are searched for video files, and so are s3://BUCKET/PREFIX and quoted patterns such as
    '2026-*/**/*.mp4'; a file that is named itself is always tried, and pictures in folders are analysed with
    --pictures or --sequence. Videos that were analysed before with the
    same settings and model are skipped. To resume an interrupted run, give the same command again: a video
    resumes at its first missing segment. Short videos are committed together, each within half a minute. Ctrl-C
    ends the run after the present segments; a second Ctrl-C ends it at once. Exit code 0: all well; 1: a video
    failed or could not be read completely; 2: the run could not begin or had to stop; 130: Ctrl-C.
    """
    from flows.analyze import analyze_folder
    from flows.cli.progress import make_progress
    from pipelines.advice import advice
    from pipelines.profile import profile_table

    run = AnalysisOptions(**chosen).run(paths, lake)
    with make_progress(quiet=as_json) as progress:
        summary = analyze_folder(run, progress)
    click.echo(json.dumps(summary.to_dict(), indent=2) if as_json else _summary_text(summary))
    if profile:
        click.echo(advice(summary.cpu_s, run.settings), err=as_json)
        click.echo(profile_table(summary.cpu_s, summary.to_dict()["frames"]), err=as_json)
    sys.exit(summary.exit_code)


def _summary_text(summary: RunSummary) -> str:
    from storage.identity import path_shown, printable
    from storage.records import STATUSES
    from storage.wording import counted

    facts = summary.to_dict()
    lines = [
        f"{outcome.status:8} {outcome.code or ''} {path_shown(outcome.path)}: {printable(outcome.message)}"
        for outcome in summary.outcomes
        if outcome.status in ("partial", "failed") or (outcome.status == "ok" and outcome.message)
    ]
    parts = ", ".join(f"{facts[status]} {status}" for status in STATUSES)
    ignored = counted(facts["ignored_files"], "other file")
    lines.append(f"{counted(len(summary.outcomes), 'video')}: {parts}; {ignored} ignored")
    if facts["frames"]:
        lines.append(
            f"{facts['frames']} frames, {facts['share_of_frames_with_face']:.1%} with a face, {facts['faces']} faces,"
            f" {facts['frames_per_s']:.1f} frames/s, model {summary.model_id}"
        )
    if summary.pictures_text:
        lines.append(f"{summary.pictures_text}.")
    if summary.note:
        lines.append(f"note: {summary.note}")
    if summary.was_interrupted:
        lines.append("Stopped. What is finished is kept; run the same command again to go on.")
    if not summary.outcomes:
        lines.append("No video was found. Name a video file, or a folder with videos in it.")
    if any(outcome.status != "failed" for outcome in summary.outcomes):
        query = (
            "SELECT file_name, expression, round(sum(duration_s), 1) AS seconds FROM scores GROUP BY ALL ORDER BY ALL"
        )
        lines.append(f'Next: mfer sql "{query}" --lake {shlex.quote(summary.lake)}')
    return "\n".join(lines)
