"""``mfer export``, ``mfer report`` and ``mfer render``: results for people and for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from flows.options import lake_option, plain_errors

__all__ = ["export"]

_FORMATS = ("csv", "parquet", "fex", "openface", "fer", "elan", "srt")


@click.command()
@click.argument("videos", nargs=-1, type=click.Path())
@click.option("--format", "form", type=click.Choice(_FORMATS), required=True)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="A file, or a folder for a file per video."
)
@lake_option
@plain_errors
def export(videos: tuple[str, ...], form: str, output: Path, lake: str) -> None:
    """Write what the lake holds as files of other programs.

    VIDEOS are paths, folders, file names or video_ids that the lake knows; without any, all.

    \b
    csv, parquet  one table: a row per face, the columns of the view scores
    fex           one table with Py-Feat's columns; a frame without a face is a row of NaN
    openface      a file per video, frames counted from 1, success 0 without a face
    fer           a file per video, a row per frame: box0, angry0, ... box1, ...
    elan          a file per video (.eaf): a tier per face, an annotation per episode
    srt           a file per video: subtitles with the leading expression

    \b
    mfer export --format fex -o scores.csv
    mfer export holiday.mp4 --format srt -o holiday.srt
    """
    from flows.progress import training_progress
    from storage.exports import export_videos
    from storage.identity import path_text
    from storage.lake import Lake

    with training_progress() as progress:
        written = export_videos(Lake.open(lake), form, output, videos, progress)
    click.echo("\n".join(path_text(path) for path in written))
