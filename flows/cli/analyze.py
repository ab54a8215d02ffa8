"""``mfer analyze``."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import click

from flows.cli.options import lake_option, n_cores, resumable
from pipelines.faces.detectors import DEFAULT_DETECTOR, DETECT_MODES, DETECTORS
from pipelines.settings import ROTATIONS
from pipelines.video.decoders import DECODERS

if TYPE_CHECKING:
    from flows.run import RunSummary
    from pipelines.settings import Rotation

__all__ = ["analyze"]


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@lake_option
@click.option("--model", default="default", show_default=True, help="Name, id or folder; see `mfer models list`.")
@click.option("--exclude", multiple=True, help="Pattern of files and folders to leave out: '*_proxy*'. [repeatable]")
@click.option("--fps", type=float, help="Frames per second to analyse; default: every frame.")
@click.option("--every", type=int, default=1, show_default=True, help="Analyse every n-th frame.")
@click.option(
    "--min-face",
    default="20",
    show_default=True,
    help="Smallest face looked for: its side in pixels, or 5% of the frame's shorter side. Larger is much faster.",
)
@click.option(
    "--rotate",
    type=click.Choice(ROTATIONS),
    help="Degrees clockwise by which frames are turned before faces are looked for, for files in which people lie on"
    " their side; auto: by which most faces of a few frames stand upright.",
)
@click.option(
    "--detector",
    type=click.Choice(list(DETECTORS)),
    default=DEFAULT_DETECTOR,
    show_default=True,
    help="What finds faces.",
)
@click.option(
    "--detect",
    type=click.Choice(DETECT_MODES),
    default="tracked",
    show_default=True,
    help="tracked detects now and then and follows faces in between; exact detects on every frame, the reference.",
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
@click.option(
    "--decoder",
    type=click.Choice(["auto", *DECODERS]),
    default="auto",
    show_default=True,
    help="auto is pyav. decord, and torchcodec, which decodes on a GPU, read only files that a scan verified.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Videos at a time.  [default: cores; with ray all of its cluster]"
)
@click.option(
    "--networks",
    type=click.Choice(["auto", "own", "shared"]),
    default="auto",
    show_default=True,
    help="own: in each worker; shared: in one process for all workers; auto shares them on a GPU.",
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
@resumable
def analyze(
    paths: tuple[str, ...],
    lake: str,
    model: str,
    exclude: tuple[str, ...],
    fps: float | None,
    every: int,
    min_face: str,
    rotate: Rotation | None,
    detector: str,
    detect: str,
    interval_s: float,
    runtime: str,
    device: str,
    decoder: str,
    workers: int | None,
    networks: str,
    segment_s: float,
    stall_s: float,
    memory_mb: int | None,
    engine: str,
    ray_address: str | None,
    profile: bool,
    as_json: bool,
) -> None:
    """Analyse videos and folders of videos into a lake.

    Folders are searched for video files, and so are s3://BUCKET/PREFIX and quoted patterns such as
    '2026-*/**/*.mp4'; what is named itself is always tried. A video that was analysed before with the same
    settings and model is skipped, and one that was begun goes on with its first missing segment, so an
    interrupted run is simply started again. Ctrl-C ends the run when the segments at work are done; a second
    one ends it at once. Exit code 0: all well; 1: a video failed or could not be read completely; 2: the run
    could not begin or had to stop; 130: Ctrl-C.
    """
    from flows.analyze import analyze_folder
    from flows.cli.progress import make_progress
    from flows.run import FolderRun, ProcessLimits
    from pipelines.profile import profile_table
    from pipelines.settings import AnalysisSettings, DetectorSettings, parse_min_face

    settings = AnalysisSettings(
        every=every,
        fps=fps,
        rotate=rotate,
        detector=DetectorSettings(name=detector, mode=detect, interval_s=interval_s, **parse_min_face(min_face)),  # type: ignore[arg-type]
        decoder=decoder,
        segment_s=segment_s,
    )
    limits = ProcessLimits(progress_s=stall_s, open_s=min(stall_s, ProcessLimits.open_s), memory_mb=memory_mb)
    workers = workers or (n_cores() if engine == "local" else sys.maxsize)
    run = FolderRun(
        paths, lake, model, device, workers, settings, runtime, limits, engine, ray_address, networks, exclude
    )
    with make_progress(quiet=as_json) as progress:
        summary = analyze_folder(run, progress)
    click.echo(json.dumps(summary.to_dict(), indent=2) if as_json else _summary_text(summary))
    if profile:
        click.echo(profile_table(summary.cpu_s, summary.to_dict()["frames"]), err=as_json)
    sys.exit(summary.exit_code)


def _summary_text(summary: RunSummary) -> str:
    from storage.identity import path_shown, printable
    from storage.records import STATUSES

    facts = summary.to_dict()
    lines = [
        f"{outcome.status:8} {outcome.code or ''} {path_shown(outcome.path)}: {printable(outcome.message)}"
        for outcome in summary.outcomes
        if outcome.status in ("partial", "failed") or (outcome.status == "ok" and outcome.message)
    ]
    n_videos = len(summary.outcomes)
    parts = ", ".join(f"{facts[status]} {status}" for status in STATUSES)
    lines.append(
        f"{n_videos} video{'' if n_videos == 1 else 's'}: {parts}; {facts['ignored_files']} other files ignored"
    )
    if facts["frames"]:
        lines.append(
            f"{facts['frames']} frames, {facts['share_of_frames_with_face']:.1%} with a face, {facts['faces']} faces,"
            f" {facts['frames_per_s']:.1f} frames/s, model {summary.model_id}"
        )
    if summary.note:
        lines.append(f"note: {summary.note}")
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
