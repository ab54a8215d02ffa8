"""``mfer export``, ``mfer report`` and ``mfer render``: results for people and for other programs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli.options import lake_option, plain_errors, scores_option, tell

if TYPE_CHECKING:
    pass

__all__ = ["export", "render", "report"]

as_found_option = click.option(
    "--as-found", is_flag=True, help="Ignore people's edits: names, merges, splits and exclusions."
)
_FORMATS = ("csv", "parquet", "fex", "openface", "fer", "elan", "srt")


@click.command()
@click.argument("videos", nargs=-1, type=click.Path())
@click.option("--format", "form", type=click.Choice(_FORMATS), required=True)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="A file, or a folder for a file per video."
)
@as_found_option
@scores_option
@lake_option
@plain_errors
def export(videos: tuple[str, ...], form: str, output: Path, as_found: bool, model: str | None, lake: str) -> None:
    """Export results as files for other programs.

    VIDEOS are paths, folders, file names or video_ids that the lake knows; without any, all.

    \b
    csv, parquet  one table: a row per face, the columns of the view scores, and name
    fex           one table with Py-Feat's columns; a frame without a face is a row of NaN
    openface      a file per video, frames counted from 1, success 0 without a face
    fer           a file per video, a row per frame: box0, angry0, ... box1, ...
    elan          a file per video (.eaf): a tier per person, an annotation per episode
    srt           a file per video: subtitles with the leading expression

    Excluded spans count as not seen. Split and merged faces have their person's name or number.

    \b
    mfer export --format fex -o scores.csv
    mfer export holiday.mp4 --format srt -o holiday.srt
    """
    from flows.cli.progress import training_progress
    from storage.exports.formats import export_videos
    from storage.identity import path_text
    from storage.lake import Lake

    with training_progress() as progress:
        written = export_videos(
            Lake.open(lake), form, output, videos, progress, model=model, as_found=as_found, tell=tell
        )
    click.echo("\n".join(path_text(path) for path in written))


@click.command()
@click.argument("videos", nargs=-1, type=click.Path())
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), default=Path("report.html"), show_default=True
)
@click.option("--blur", is_flag=True, help="Hide the faces in the pictures.")
@click.option("--moments", type=click.IntRange(0), default=6, show_default=True, help="Maximum pictures per video.")
@click.option("--title", default="Apparent expressions", show_default=True)
@as_found_option
@scores_option
@lake_option
@plain_errors
def report(
    videos: tuple[str, ...],
    output: Path,
    blur: bool,
    moments: int,
    title: str,
    as_found: bool,
    model: str | None,
    lake: str,
) -> None:
    """Write one HTML file with timelines, key moments, data quality, model card and method.

    VIDEOS are paths, folders, file names or video_ids that the lake knows; without any, all. The file
    is self-contained. Its pictures are cut from the videos, which must still be where they were analysed.

    \b
    mfer report holiday.mp4 -o holiday.html
    mfer report --blur --title "Study 3"
    """
    from dashboards.outputs.report import write_report
    from flows.cli.progress import training_progress
    from pipelines.scoring.lookup import card_of
    from storage.identity import path_text
    from storage.lake import Lake

    opened = Lake.open(lake)
    with training_progress() as progress:
        written = write_report(
            opened,
            output,
            videos,
            blur=blur,
            n_moments=moments,
            model=model,
            as_found=as_found,
            title=title,
            card_of=lambda model_id: card_of(model_id, opened),
            progress=progress,
            tell=tell,
        )
    click.echo(path_text(written))


@click.command()
@click.argument("video", type=click.Path())
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="mp4, mov or mkv.")
@click.option("--blur", is_flag=True, help="Hide every detected face.")
@click.option("--no-plot", is_flag=True, help="Draw on the picture only, without bars and plot below it.")
@click.option("--no-sound", is_flag=True, help="Write no sound.")
@click.option("--from", "from_s", type=click.FloatRange(0), help="Begin at this second of the video.")
@click.option("--to", "to_s", type=click.FloatRange(0, min_open=True), help="End at this second.")
@as_found_option
@scores_option
@lake_option
@plain_errors
def render(
    video: str,
    output: Path,
    blur: bool,
    no_plot: bool,
    no_sound: bool,
    from_s: float | None,
    to_s: float | None,
    as_found: bool,
    model: str | None,
    lake: str,
) -> None:
    """Write a video with boxes, track numbers, expressions, bars and a running plot.

    VIDEO is a path, file name or video_id that the lake knows. Every frame keeps its time, also at a
    variable rate. The sound is copied, or re-encoded if the output format cannot hold it. Small videos are
    enlarged. --from and --to write a part, whose first frame is at 0.

    With --blur, a face is hidden where it was found, through misses of up to a second, and 0.4 s before and
    after. A face that the detector never found is not hidden: analyse every frame first (no --fps), and
    check the result before you share it.
    """
    from dashboards.outputs.render import render_video
    from flows.cli.progress import training_progress
    from mfer.errors import ConfigError
    from storage.identity import path_text
    from storage.lake import Lake

    if from_s is not None and to_s is not None and to_s <= from_s:
        raise ConfigError(f"--from {from_s:g} --to {to_s:g}: the end must come after the beginning")
    part = None if from_s is None and to_s is None else (from_s or 0.0, math.inf if to_s is None else to_s)
    how: dict[str, Any] = {
        "blur": blur,
        "plot": not no_plot,
        "sound": not no_sound,
        "model": model,
        "as_found": as_found,
        "between_s": part,
    }
    with training_progress() as progress:
        done = render_video(Lake.open(lake), video, output, **how, progress=progress)
    click.echo(f"{path_text(done.output)}: {done.n_frames} frames")
