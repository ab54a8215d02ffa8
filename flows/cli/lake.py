"""``mfer lake``: maintain the tables."""

from __future__ import annotations

import sys

import click

from flows.cli.options import lake_option, plain_errors

__all__ = ["lake"]


@click.group()
def lake() -> None:
    """Maintain the tables: check, repair, compact, forget a video, history."""


@lake.command()
@lake_option
@click.option("--repair", is_flag=True, help="Remove what is broken; the next analysis analyses those videos again.")
@plain_errors
def check(lake: str, repair: bool) -> None:
    """Read every file and compare every count.

    Every file that a table names is read to its end, the rows are counted against the table of videos,
    and every finished video must have all its segments. Leftovers of killed runs are listed, but
    are not errors. Exit code 1: something is wrong (with --repair: still wrong afterwards).

    --repair moves broken files to the folder `damaged` inside the lake and takes their videos out of
    the tables; analyse their folder again to have them back. Labels and edits
    that people made cannot be computed again: restore such files from a copy first.
    """
    from storage.identity import printable
    from storage.lake import Lake
    from storage.maintenance.check import check_lake
    from storage.maintenance.repair import repair_lake

    opened = Lake.open(lake)
    for sentence in repair_lake(opened) if repair else ():
        click.echo(f"repair: {printable(sentence)}")
    found = check_lake(opened)
    for fault in (*found.files, *found.videos, *found.others):
        click.echo(f"wrong: {printable(str(fault))}")
    for note in found.notes:
        click.echo(f"note: {printable(note)}")
    click.echo(
        f"{found.n_files} files, {found.n_videos} finished videos, {found.n_rows} rows of observations: "
        f"{'sound' if found.is_sound else 'NOT SOUND'}"
    )
    if not found.is_sound and not repair:
        click.echo("Restore the files from a copy, or run `mfer lake check --repair`.")
    sys.exit(0 if found.is_sound else 1)


@lake.command()
@lake_option
@plain_errors
def compact(lake: str) -> None:
    """Merge small files into large ones, so that queries stay fast.

    No answer changes. May run beside readers and writers, and be stopped at any moment. Files that no
    version of the last week needs, and what killed runs left behind, are deleted.
    """
    from storage.lake import Lake

    for name, (before, after) in Lake.open(lake).compact().items():
        click.echo(f"{name:13} {before:6} files -> {after}")


@lake.command()
@click.argument("video")
@lake_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@plain_errors
def forget(video: str, lake: str, yes: bool) -> None:
    """Erase a video from every version of every table.

    VIDEO is the path that was analysed, or a video_id. All rows go: observations, tracks, seconds,
    labels, edits and runs, with all earlier versions of these tables. Then every file of the lake is
    searched for the video's id and paths; exit code 1 names what was found. The video itself is not
    touched, nor is what was exported before. Analysing it again brings it back.
    """
    from storage.identity import printable
    from storage.lake import Lake
    from storage.maintenance.forget import forget_video, what_would_go

    opened = Lake.open(lake)
    if not yes:
        video_ids, paths = what_would_go(opened, video)
        listed = "".join(f"\n  {printable(name)}" for name in (*video_ids, *paths))
        click.echo(f"This erases all that is known of:{listed}")
        click.confirm("Go on, and erase the earlier versions of the tables too?", abort=True)
    gone = forget_video(opened, video)
    for path in gone.paths:
        click.echo(f"forgot {printable(path)}")
    click.echo(", ".join(f"{n} rows of {name}" for name, n in gone.n_rows.items() if n) or "no rows were left of it")
    for sentence in gone.left:
        click.echo(f"wrong: {printable(sentence)}")
    click.echo(f"searched {gone.n_files_searched} files: {len(gone.left) or 'nothing'} found")
    sys.exit(1 if gone.left else 0)


@lake.command()
@lake_option
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Number of changes to show.")
@plain_errors
def history(lake: str, limit: int) -> None:
    """List the changes of the tables, latest first."""
    from storage.delta.log import history as changes
    from storage.lake import Lake

    for change in changes(Lake.open(lake).location, limit=limit):
        rows = "" if change.n_rows is None else f"{change.n_rows} rows"
        click.echo(
            f"{change.when_utc:%Y-%m-%d %H:%M:%S}Z  {change.table:13} v{change.version:<6} {change.operation:14} {rows}"
        )
