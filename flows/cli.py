"""The ``mfer`` command: every journey without a server. Heavy imports wait inside the commands: help is quick."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.dashboard import dashboard
from flows.drift_command import drift
from flows.label_commands import labels
from flows.lake_commands import lake as lake_commands
from flows.model_commands import models
from flows.options import lake_option, plain_errors
from flows.output_commands import export, render, report

if TYPE_CHECKING:
    from flows.analyze import RunSummary

__all__ = ["main"]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="mfer")
def main() -> None:
    """Folders of video to a table of apparent facial expressions that SQL can query.

    \b
    mfer analyze VIDEOS --lake LAKE        faces and eight expression probabilities of every frame
    mfer sql "SELECT * FROM videos"        ask the tables
    mfer inspect VIDEO --at 3.5            why a moment has the score it has, or none
    mfer dashboard                         look at videos, curves and groups in the browser
    mfer demo                              all of it on real material, offline

    A score is how a face looks to people (apparent expression), not what a person feels.
    """


main.add_command(export)
main.add_command(report)
main.add_command(render)
main.add_command(dashboard)
main.add_command(lake_commands)
main.add_command(models)
main.add_command(labels)
main.add_command(drift)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@lake_option
@click.option("--model", default="default", show_default=True, help="Name, id or folder; see `mfer models list`.")
@click.option("--fps", type=float, help="Frames per second to analyse; default: every frame.")
@click.option("--every", type=int, default=1, show_default=True, help="Analyse every n-th frame.")
@click.option(
    "--min-face",
    default="20",
    show_default=True,
    help="Smallest face looked for: its side in pixels, or 5% of the frame's shorter side. Larger is much faster.",
)
@click.option(
    "--detect",
    type=click.Choice(["tracked", "exact"]),
    default="tracked",
    show_default=True,
    help="tracked detects now and then and follows faces in between; exact runs MTCNN on every frame, the reference.",
)
@click.option(
    "--detect-every",
    "interval_s",
    type=float,
    default=1.0,
    show_default=True,
    help="Seconds between two detections of `tracked`; cuts and lost faces bring one sooner.",
)
@click.option(
    "--runtime",
    type=click.Choice(["auto", "torch", "onnx"]),
    default="auto",
    show_default=True,
    help="What runs the model: auto is ONNX Runtime on a CPU and PyTorch on a GPU.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--decoder", type=click.Choice(["auto", "decord", "pyav"]), default="auto", show_default=True)
@click.option(
    "--workers", type=click.IntRange(1), help="Videos at a time.  [default: cores; with ray all of its cluster]"
)
@click.option(
    "--segment",
    "segment_s",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds of video that are committed at a time: what a crash costs. Another length is another analysis.",
)
@click.option(
    "--stall",
    "stall_s",
    type=click.FloatRange(0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds without progress after which a video's process is killed, and the video tried once more.",
)
@click.option(
    "--memory-mb",
    type=click.IntRange(1),
    help="Memory at which a video's process is killed.  [default: 80% of the machine's, shared among the workers]",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: on a Ray cluster, which shares long videos out by segments; see docs/scaling.md.",
)
@click.option("--ray-address", help="The cluster: auto, or HOST:PORT.  [default: a new one on this machine]")
@click.option("--profile", is_flag=True, help="Say where the CPU time went, by stage.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@plain_errors
def analyze(
    paths: tuple[str, ...],
    lake: str,
    model: str,
    fps: float | None,
    every: int,
    min_face: str,
    detect: str,
    interval_s: float,
    runtime: str,
    device: str,
    decoder: str,
    workers: int | None,
    segment_s: float,
    stall_s: float,
    memory_mb: int | None,
    engine: str,
    ray_address: str | None,
    profile: bool,
    as_json: bool,
) -> None:
    """Analyse videos and folders of videos into a lake.

    Folders are searched for video files, and so is s3://BUCKET/PREFIX; what is named itself is always
    tried. A video that was analysed before with the same settings and model is skipped, and one that was
    begun goes on with its first missing segment, so an interrupted run is simply started again. Ctrl-C
    ends the run when the segments at work are done; a second one ends it at once. Exit code 0: all well;
    1: a video failed or could not be read completely; 2: the run could not begin or had to stop; 130: Ctrl-C.
    """
    from flows.analyze import FolderRun, analyze_folder
    from flows.pool import ProcessLimits
    from flows.progress import make_progress
    from pipelines.profile import profile_table
    from pipelines.settings import AnalysisSettings, DetectorSettings, parse_min_face

    detector = DetectorSettings(mode=detect, interval_s=interval_s, **parse_min_face(min_face))  # type: ignore[arg-type]
    settings = AnalysisSettings(every, fps, detector, decoder=decoder, segment_s=segment_s)
    limits = ProcessLimits(progress_s=stall_s, open_s=min(stall_s, ProcessLimits.open_s), memory_mb=memory_mb)
    workers = workers or (_cores() if engine == "local" else sys.maxsize)
    run = FolderRun(paths, lake, model, device, workers, settings, runtime, limits, engine, ray_address)
    with make_progress(quiet=as_json) as progress:
        summary = analyze_folder(run, progress)
    click.echo(json.dumps(summary.to_dict(), indent=2) if as_json else _summary_text(summary))
    if profile:
        click.echo(profile_table(summary.cpu_s, summary.to_dict()["frames"]), err=as_json)
    sys.exit(summary.exit_code)


def _summary_text(summary: RunSummary) -> str:
    from storage.identity import path_shown, printable

    facts = summary.to_dict()
    lines = [
        f"{outcome.status:8} {outcome.code or ''} {path_shown(outcome.path)}: {printable(outcome.message)}"
        for outcome in summary.outcomes
        if outcome.status in ("partial", "failed")
    ]
    n_videos = len(summary.outcomes)
    parts = ", ".join(f"{facts[status]} {status}" for status in ("ok", "partial", "failed", "skipped"))
    lines.append(
        f"{n_videos} video{'' if n_videos == 1 else 's'}: {parts}; {facts['ignored_files']} other files ignored"
    )
    if facts["frames"]:
        lines.append(
            f"{facts['frames']} frames, {facts['share_of_frames_with_face']:.1%} with a face, {facts['faces']} faces,"
            f" {facts['frames_per_s']:.1f} frames/s, model {summary.model_id}"
        )
    if summary.was_interrupted:
        lines.append("Stopped. What is finished is kept; run the same command again to go on.")
    if not n_videos:
        lines.append("No video was found. Name a video file, or a folder with videos in it.")
    if any(outcome.status != "failed" for outcome in summary.outcomes):
        query = (
            "SELECT file_name, expression, round(sum(duration_s), 1) AS seconds FROM scores GROUP BY ALL ORDER BY ALL"
        )
        lines.append(f'Next: mfer sql "{query}" --lake {shlex.quote(summary.lake)}')
    return "\n".join(lines)


@main.command()
@click.argument("query")
@lake_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="parquet needs --output.",
)
@click.option("--output", "-o", type=click.Path(dir_okay=False), help="Write to a file instead of the terminal.")
@click.option("--limit-rows", type=click.IntRange(1), help="Refuse longer answers.  [default: 5 million]")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds to work at it.  [default: 300]")
@click.option("--memory-mb", type=click.IntRange(64), help="Memory to work with.  [default: 4096]")
@plain_errors
def sql(
    query: str,
    lake: str,
    form: str,
    output: str | None,
    limit_rows: int | None,
    timeout: float | None,
    memory_mb: int | None,
) -> None:
    """Ask the lake one SELECT.

    \b
    Views: scores, scores_all, frames, tracks, seconds, episodes, videos, runs, analyses, labels, edits, people, models,
    drift.
    mfer sql "SHOW TABLES"    mfer sql "DESCRIBE scores"
    docs/tables.md says what every column means. The query reads the lake and nothing else; at a limit
    it ends with an error and never with half an answer.
    """
    from flows.results import write_result
    from storage.apart import run_sql_apart
    from storage.lake import Lake
    from storage.views import MAX_ROWS, MEMORY_MB, TIMEOUT_S

    limits = {"max_rows": limit_rows or MAX_ROWS, "memory_mb": memory_mb or MEMORY_MB}
    rows = run_sql_apart(Lake.open(lake), query, timeout_s=timeout or TIMEOUT_S, **limits)
    write_result(rows, form, output)


@main.command()
@click.argument("video", type=click.Path())
@click.option("--at", "at_s", type=float, help="Seconds into the video, as a player shows them.")
@lake_option
@plain_errors
def inspect(video: str, at_s: float | None, lake: str) -> None:
    """Say what is known of a video, and why a moment has a score or none."""
    from flows.inspect import inspect_video

    click.echo(inspect_video(video, lake, at_s))


@main.command()
@click.argument("video", type=click.Path())
@click.option("--at", "at_s", type=float, required=True, help="Seconds into the video, as a player shows them.")
@click.option("--model", default="default", show_default=True, help="Name, id or folder; see `mfer models list`.")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), default=Path("explain.png"), show_default=True
)
@lake_option
@plain_errors
def explain(video: str, at_s: float, model: str, output: Path, lake: str) -> None:
    """Draw where in the faces of one moment the model found their expression (Grad-CAM)."""
    from flows.explain import explain_moment
    from flows.inspect import open_lake
    from pipelines.models import find_model

    click.echo(explain_moment(video, at_s, find_model(model, open_lake(lake)), output))


@main.command()
@click.option("--recipe", default="ferplus_cpu", show_default=True, help="A shipped recipe's name, or a .toml file.")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Labelled faces; docs/training.md lists layouts."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; started again, it resumes."
)
@click.option("--name", help="Name of the model; default: architecture.data_v1.")
@click.option("--initial", type=click.Path(path_type=Path), help="A model's folder to start from.")
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--batch-size", type=click.IntRange(2), help="Instead of the recipe's.")
@click.option("--learning-rate", type=float, help="Instead of the recipe's.")
@click.option("--seed", type=int, help="Instead of the recipe's.")
@click.option("--device", default="auto", show_default=True)
@click.option("--shards", type=click.IntRange(1), default=_cores, show_default="cores", help="CPU threads.")
@plain_errors
def train(
    recipe: str,
    data: Path,
    out: Path,
    name: str | None,
    initial: Path | None,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int | None,
    device: str,
    shards: int,
) -> None:
    """Train a model from labelled faces by a recipe.

    The outcome is a folder that --model can name, with weights and card. A killed run goes on from
    its last state with the same command, to the same result.
    """
    from flows.progress import training_progress
    from flows.training import train_model
    from mfer.recipe import Recipe
    from pipelines.scorer import choose_device

    chosen = Recipe.load(recipe).replace(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    with training_progress() as progress:
        card = train_model(
            chosen,
            data,
            out,
            device=choose_device(device),
            shards=shards,
            name=name,
            initial=initial,
            progress=progress,
        )
    click.echo(f"{card.model_id} in {out}\n{json.dumps(card.metrics, indent=2)}")
    click.echo(f"Next: mfer analyze VIDEOS --model {out}")


@main.command()
@click.option("--model", default="default", show_default=True, help="Name, id or folder; see `mfer models list`.")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Labelled faces; docs/training.md lists layouts."
)
@click.option("--split", type=click.Choice(["all", "selection", "report", "train"]), default="all", show_default=True)
@click.option("--flip", is_flag=True, help="Average each face with its mirror image.")
@click.option("--report", type=click.Path(path_type=Path), help="Folder for an HTML page with pictures.")
@click.option("--confusion", type=click.Path(path_type=Path), help="PNG of the confusion matrix.")
@click.option("--device", default="auto", show_default=True)
@lake_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@plain_errors
def evaluate(
    model: str,
    data: Path,
    split: str,
    flip: bool,
    report: Path | None,
    confusion: Path | None,
    device: str,
    lake: str,
    as_json: bool,
) -> None:
    """Measure a model on labelled faces.

    Accuracy, mean and per-class recall, confusion matrix, calibration error and likelihood, with
    bootstrap intervals. Of a validation set, --split report is the half that chose nothing.
    """
    from flows.inspect import open_lake
    from flows.progress import training_progress
    from flows.training import evaluate_model
    from pipelines.models import find_model
    from pipelines.scorer import choose_device

    with training_progress(quiet=as_json) as progress:
        found = evaluate_model(
            find_model(model, open_lake(lake)),
            data,
            split,
            device=choose_device(device),
            report=report,
            flip=flip,
            progress=progress,
        )
    if confusion:
        from mfer.charts import save_confusion

        save_confusion(found, confusion)
    click.echo(found.to_json() if as_json else found.table())


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo_out"), show_default=True)
@plain_errors
def demo(out: Path) -> None:
    """Analyse a talking face and a photograph, ask three questions in SQL and draw a timeline.

    Everything comes with installed packages; nothing is downloaded.
    """
    from flows.demo import run_demo

    sys.exit(run_demo(out))


@main.command()
@lake_option
@click.option("--inbox", type=click.Path(), help="Folder to analyse on a schedule; what is done is skipped.")
@click.option("--cron", default="0 * * * *", show_default=True, help="When to look into the inbox.")
@click.option("--every", "every_s", type=float, help="Seconds from one look into the inbox to the next, instead.")
@click.option("--data", type=click.Path(), help="Base set to refresh the production model with on a schedule.")
@click.option("--refresh-cron", default="0 3 * * 0", show_default=True, help="When to refresh it.")
@click.option("--drift-cron", default="0 6 * * 1", show_default=True, help="When to look for drift.")
@plain_errors
def serve(
    lake: str,
    inbox: str | None,
    cron: str,
    every_s: float | None,
    data: str | None,
    refresh_cron: str,
    drift_cron: str,
) -> None:
    """Serve the Prefect flows analyze-folder, refresh-model and check-drift until stopped, with a server if none runs.

    \b
    In another terminal, in this folder:
    prefect deployment run 'analyze-folder/default' -p folder=VIDEOS --watch
    prefect deployment run 'refresh-model/default' -p data=FACES --watch
    prefect deployment run 'check-drift/default' --watch
    """
    from flows.deployments import Schedules
    from flows.deployments import serve as serve_deployments

    serve_deployments(lake, Schedules(inbox, cron, every_s, data, refresh_cron, drift_cron))
