"""``mfer labels``: import and export people's labels, and suggest faces to label next."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Any

import click

from flows.cli.options import lake_option, plain_errors

__all__ = ["labels"]

#: What names a face.
_FACE = ("video_id", "faces_id", "frame_index", "time_s", "face_index", "track_id")


@click.group()
def labels() -> None:
    """People's labels of faces: import, export, list, and suggest faces to label."""


@labels.command("import")
@click.argument("place", type=click.Path(path_type=Path))
@click.option(
    "--rater", default=getpass.getuser, show_default="your user name", help="The rater of rows that name none."
)
@lake_option
@plain_errors
def import_labels(place: Path, rater: str, lake: str) -> None:
    """Import labels from a CSV, TSV, JSON, Excel or Parquet file, or a folder of such files.

    \b
    Columns: video (path, file name or video_id) or video_id, frame_index or time_s, expression (an expression,
    not_a_face or undecided), and where a frame has several faces face_index or track_id; rater, note, faces_id.
    Rows without an expression are left out, so the file of `mfer labels suggest -o` can be half filled in.
    time_s is in seconds or h:mm:ss. The same file twice is written once.
    Exit code 1: some rows are refused, each with its line and why; the others are written.
    """
    from pipelines.learning.label_files import read_judgements
    from storage.annotations.labels import add_labels
    from storage.identity import printable
    from storage.lake import Lake

    opened = Lake.open(lake)
    found, refused, n_empty = read_judgements(opened, place, rater)
    n_written, n_known, unplaced = add_labels(opened, found)
    for refusal in (*refused, *unplaced):
        click.echo(f"refused {printable(refusal.where)}: {printable(refusal.reason)}", err=True)
    n_refused = len(refused) + len(unplaced)
    click.echo(f"{n_written} labels written, {n_known} known already, {n_refused} refused, {n_empty} rows without one")
    sys.exit(1 if n_refused else 0)


@labels.command()
@click.option("--number", "-n", type=click.IntRange(1), default=100, show_default=True, help="Faces, at most.")
@click.option(
    "--order",
    type=click.Choice(["entropy", "margin", "random"]),
    default="entropy",
    show_default=True,
    help="Order: entropy (highest first), margin (the two highest probabilities closest first), or random.",
)
@click.option("--output", "-o", type=click.Path(dir_okay=False), help="CSV to fill in and import.")
@lake_option
@plain_errors
def suggest(number: int, order: str, output: str | None, lake: str) -> None:
    """List the unlabelled faces that the model is least sure of, in turns from every video and track.

    With --output, a CSV whose empty column `expression` a person fills in; `mfer labels import` reads it.
    The dashboard's page Label shows such faces with their pictures.
    """
    from storage.annotations.labels import suggested_faces
    from storage.lake import Lake

    faces = suggested_faces(Lake.open(lake), number, order)
    columns = ("video", *_FACE, "expression", "model_says", "confidence", "entropy")
    rows = [{**face, "video": face["path"], "model_says": face["expression"], "expression": ""} for face in faces]
    if output is not None:
        _write_csv(output, columns, rows)
        click.echo(f"{output}: {len(rows)} faces of {len({face['video_id'] for face in faces})} videos")
        return
    for face in faces:
        click.echo(
            f"{face['file_name']}  {face['time_s']:.3f} s  frame {face['frame_index']}  face {face['face_index']}"
            f"  track {face['track_id']}: {face['expression']} {face['confidence']:.2f}, entropy {face['entropy']:.2f}"
        )


@labels.command("list")
@lake_option
@plain_errors
def list_labels(lake: str) -> None:
    """Count the labels by expression and rater, and the faces that can be learned from."""
    from storage.annotations.labels import read_labels
    from storage.lake import Lake
    from storage.sql.views import run_sql

    opened = Lake.open(lake)
    counted = run_sql(
        opened,
        "SELECT rater, coalesce(expression, verdict) AS said, count(*) AS n FROM labels GROUP BY ALL ORDER BY ALL",
    ).to_pylist()
    for row in counted:
        click.echo(f"{row['rater']:20} {row['said']:12} {row['n']:6}")
    found = read_labels(opened)
    videos = {face.video_id for face in found.faces}
    gone = [video_id for video_id in videos if found.file_of(video_id) is None]
    click.echo(f"{len(found.faces)} faces of {len(videos)} videos have an expression by the majority of their raters")
    for reason, n in found.dropped.items():
        click.echo(f"  {n} others: {reason}")
    if gone:
        click.echo(f"  of {len(gone)} videos the file is gone or has changed: nothing can be learned from those")


@labels.command("export")
@click.option("--output", "-o", type=click.Path(dir_okay=False), required=True, help="CSV to write.")
@lake_option
@plain_errors
def export_labels(output: str, lake: str) -> None:
    """Export every current label as CSV, in the columns that `mfer labels import` reads."""
    from storage.lake import Lake
    from storage.sql.views import run_sql

    columns = ("file_name", *_FACE, "expression", "rater", "shown_model_id", "note", "created_utc")
    rows = run_sql(
        Lake.open(lake),
        f"SELECT {', '.join(c for c in columns if c != 'expression')}, coalesce(expression, verdict) AS expression"
        " FROM labels ORDER BY video_id, frame_index, face_index, rater",
    ).to_pylist()
    _write_csv(output, columns, rows)
    click.echo(f"{output}: {len(rows)} judgements")


def _write_csv(path: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    import csv

    from mfer.errors import ConfigError
    from storage.files import whole_file

    try:
        with whole_file(path) as fresh, fresh.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; name another file") from error
