"""The ``mfer`` command. Heavy imports wait inside the commands, so that help is quick."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TextIO

import click

from flows.analysis_options import n_cores
from flows.cli.analyze import analyze
from flows.cli.dashboard import dashboard
from flows.cli.drift import drift
from flows.cli.labels import labels
from flows.cli.lake import lake as lake_commands
from flows.cli.models import models
from flows.cli.options import CommentsAllowed, lake_option, plain_errors, resumable, scores_option, tell
from flows.cli.output import export, render, report
from flows.cli.people import people
from storage.interpreter import leave_out_pandas

__all__ = ["main", "run"]


def run() -> None:
    """The program ``mfer``."""
    if sys.argv[1:2] == ["analyze"]:  # it is started most often
        leave_out_pandas()
    main()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="mfer")
def main() -> None:
    """Turn folders of video into tables of apparent facial expressions.

    \b
    mfer analyze VIDEOS --lake LAKE        faces and eight expression probabilities of every frame
    mfer sql "SELECT * FROM videos"        query the tables
    mfer inspect VIDEO --at 3.5            why a moment has its score, or has none
    mfer dashboard                         look at videos, curves and groups in the browser
    mfer demo                              try all of it on real material, offline

    A score is how a face looks to people (apparent expression), not what a person feels.
    """


main.add_command(analyze)
main.add_command(export)
main.add_command(report)
main.add_command(render)
main.add_command(dashboard)
main.add_command(lake_commands)
main.add_command(models)
main.add_command(labels)
main.add_command(people)
main.add_command(drift)


@main.command(cls=CommentsAllowed)
@click.argument("query", required=False)
@click.option(
    "--file",
    "-f",
    "query_file",
    type=click.File(encoding="utf-8-sig"),
    help="Read the query from a file, or - for standard input.",
)
@click.option(
    "--table",
    "own_tables",
    multiple=True,
    metavar="NAME=FILE",
    help="A table of your own to join with: CSV, TSV, JSON, Parquet or Excel. [repeatable]",
)
@scores_option
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
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), help="Seconds that the query may take.  [default: 300]"
)
@click.option("--memory-mb", type=click.IntRange(64), help="Memory that the query may use.  [default: 4096]")
@plain_errors
def sql(
    query: str | None,
    query_file: TextIO | None,
    own_tables: tuple[str, ...],
    model: str | None,
    lake: str,
    form: str,
    output: str | None,
    limit_rows: int | None,
    timeout: float | None,
    memory_mb: int | None,
) -> None:
    """Run one SELECT on the lake.

    \b
    Views: scores, scores_all, frames, tracks, seconds, spans, episodes, videos, runs, analyses, labels, edits, people,
    models, drift.
    mfer sql "SHOW TABLES"    mfer sql "DESCRIBE scores"    mfer sql -f query.sql
    mfer sql "SELECT * FROM tracks JOIN participants USING (file_name)" --table participants=participants.csv
    docs/tables.md describes every column. The query can read the lake and the given tables, nothing else. At a limit
    it ends with an error, never with part of an answer.
    """
    from flows.cli.results import write_result
    from storage.lake import Lake
    from storage.sql.own_tables import read_own_table
    from storage.sql.sandbox import run_sql_sandboxed
    from storage.sql.views import MAX_ROWS, MEMORY_MB, TIMEOUT_S, note_of

    if query is not None and query_file is not None:
        raise click.UsageError("give one query: as an argument, or with --file")
    text = query_file.read() if query_file is not None else query
    if text is None:
        raise click.UsageError("give a query: as an argument, or with --file")
    named = [given.partition("=") for given in own_tables]
    if wrong := [name for name, sign, path in named if not (sign and path)]:
        raise click.UsageError(f"--table {wrong[0]}: give a name and a file, such as participants=participants.csv")
    tables = {name: read_own_table(path) for name, _, path in named}
    rows = run_sql_sandboxed(
        Lake.open(lake),
        text,
        model=model,
        tables=tables,
        timeout_s=timeout or TIMEOUT_S,
        max_rows=limit_rows or MAX_ROWS,
        memory_mb=memory_mb or MEMORY_MB,
    )
    write_result(rows, form, output)
    tell(note_of(rows))


@main.command()
@click.argument("video", type=click.Path())
@click.option("--at", "at_s", type=float, help="Seconds into the video, as a player shows them.")
@lake_option
@plain_errors
def inspect(video: str, at_s: float | None, lake: str) -> None:
    """Show what is known of a video, and why a moment has its score or has none.

    VIDEO is a path, or a file name or video_id that the lake knows. Exit code 1: there is no such video, or the lake
    has not that moment of it.
    """
    from flows.cli.inspect import inspect_video

    text, answers = inspect_video(video, lake, at_s)
    click.echo(text)
    sys.exit(0 if answers else 1)


@main.command()
@click.argument("video", type=click.Path())
@click.option(
    "--at",
    "at_s",
    type=float,
    default=0.0,
    show_default=True,
    help="Seconds into the video, as a player shows them; of a picture 0.",
)
@click.option("--model", default="default", show_default=True, help="Name, id or folder; see `mfer models list`.")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), default=Path("explain.png"), show_default=True
)
@lake_option
@plain_errors
def explain(video: str, at_s: float, model: str, output: Path, lake: str) -> None:
    """Show where in the faces of one moment the model found the expression (Grad-CAM).

    VIDEO is a path, or a file name or video_id that the lake knows. Faces and their numbers are the lake's; in a
    frame that the lake lacks they are detected.
    """
    from flows.cli.inspect import open_lake
    from flows.explain import explain_moment
    from pipelines.scoring.lookup import find_model

    opened = open_lake(lake)
    click.echo(explain_moment(video, at_s, find_model(model, opened), output, opened))


@main.command()
@click.option("--recipe", default="ferplus_cpu", show_default=True, help="A shipped recipe's name, or a .toml file.")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Labelled faces; docs/training.md lists layouts."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; the same command resumes it."
)
@click.option("--name", help="Name of the model; default: architecture.data_v1.")
@click.option("--initial", help="A model to start from: its name, id or folder; see `mfer models list`.")
@click.option("--teacher", "teachers", multiple=True, help="A model to distil from, beside the labels. [repeatable]")
@click.option(
    "--unlabelled",
    type=click.Path(path_type=Path),
    help="Faces without labels; only the teachers' predictions are learned.",
)
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--batch-size", type=click.IntRange(2), help="Instead of the recipe's.")
@click.option("--learning-rate", type=float, help="Instead of the recipe's.")
@click.option("--seed", type=int, help="Instead of the recipe's.")
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=n_cores, show_default="cores", help="CPU threads.")
@lake_option
@resumable
def train(
    recipe: str,
    data: Path,
    out: Path,
    name: str | None,
    initial: str | None,
    teachers: tuple[str, ...],
    unlabelled: Path | None,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int | None,
    device: str,
    threads: int,
    lake: str,
) -> None:
    """Train a model on labelled faces by a recipe.

    The result is a folder with weights and card, which --model accepts. The same command resumes a killed run,
    with the same result.
    """
    from flows.cli.inspect import open_lake
    from flows.cli.progress import training_progress
    from flows.training import train_model
    from mfer.recipe import Recipe
    from pipelines.scoring.lookup import find_model
    from pipelines.scoring.scorer import choose_device

    known = open_lake(lake)
    chosen = Recipe.load(recipe).replace(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    with training_progress() as progress:
        card, measured = train_model(
            chosen,
            data,
            out,
            device=choose_device(device),
            threads=threads,
            name=name,
            initial=None if initial is None else find_model(initial, known),
            teachers=[find_model(teacher, known) for teacher in teachers or chosen.distillation.teachers],
            unlabelled=unlabelled,
            progress=progress,
            tell=tell,
        )
    click.echo(f"{measured.table()}\n\n{card.model_id} in {out}")
    click.echo(f"Next: mfer analyze VIDEOS --model {out}")


@main.command()
@click.option("--model", default="default", show_default=True, help="Name, id or folder; see `mfer models list`.")
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="Labelled faces; docs/training.md lists layouts."
)
@click.option("--split", type=click.Choice(["all", "selection", "report", "train"]), default="all", show_default=True)
@click.option("--flip", is_flag=True, help="Average each face with its mirror image.")
@click.option(
    "--talk", multiple=True, help="Clips of people who talk with a neutral face; the predicted expressions are listed."
)
@click.option("--report", type=click.Path(path_type=Path), help="Folder for an HTML page with pictures.")
@click.option("--confusion", type=click.Path(dir_okay=False, path_type=Path), help="PNG of the confusion matrix.")
@click.option("--device", default="auto", show_default=True)
@lake_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@plain_errors
def evaluate(
    model: str,
    data: Path,
    split: str,
    flip: bool,
    talk: tuple[str, ...],
    report: Path | None,
    confusion: Path | None,
    device: str,
    lake: str,
    as_json: bool,
) -> None:
    """Measure a model on labelled faces.

    Accuracy, mean and per-class recall, confusion matrix, calibration error and likelihood, with
    bootstrap intervals. --split report is the half of a validation set on which nothing was chosen.
    """
    from flows.cli.inspect import open_lake
    from flows.cli.progress import training_progress
    from flows.training import evaluate_model
    from pipelines.learning.clips import leading_expressions
    from pipelines.scoring.lookup import find_model
    from pipelines.scoring.scorer import choose_device

    folder = find_model(model, open_lake(lake))
    talking = leading_expressions(talk, folder, choose_device(device)) if talk else None
    with training_progress(quiet=as_json) as progress:
        found = evaluate_model(
            folder,
            data,
            split,
            device=choose_device(device),
            report=report,
            flip=flip,
            talking=talking,
            progress=progress,
        )
    if confusion:
        from mfer.charts import save_confusion

        save_confusion(found, confusion)
    if as_json:
        click.echo(json.dumps({**found.to_dict(), **({"talk": talking.to_dict()} if talking else {})}, indent=2))
    else:
        click.echo(found.table() + (f"\n\n  {talking.line()}" if talking else ""))


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo_out"), show_default=True)
@plain_errors
def demo(out: Path) -> None:
    """Analyse a woman who cries and laughs, and a photograph, run three SQL queries and draw a timeline.

    Everything comes with installed packages; nothing is downloaded.
    """
    from flows.cli.demo import run_demo

    sys.exit(run_demo(out))


@main.command()
@lake_option
@click.option("--inbox", type=click.Path(), help="Folder to analyse on a schedule; finished videos are skipped.")
@click.option("--cron", default="0 * * * *", show_default=True, help="When to analyse the inbox.")
@click.option("--every", "every_s", type=float, help="Analyse the inbox every so many seconds, instead of --cron.")
@click.option("--data", type=click.Path(), help="Base set to refresh the production model with on a schedule.")
@click.option("--refresh-cron", default="0 3 * * 0", show_default=True, help="When to refresh it.")
@click.option("--drift-cron", default="0 6 * * 1", show_default=True, help="When to check for drift.")
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
    from flows.prefect_flows.deployments import Schedules
    from flows.prefect_flows.deployments import serve as serve_deployments

    serve_deployments(lake, Schedules(inbox, cron, every_s, data, refresh_cron, drift_cron))
