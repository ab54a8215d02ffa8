"""``mfer models``: list, publish, promote and refresh models."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flows.cli.options import lake_option, plain_errors, resumable

__all__ = ["models"]


@click.group()
def models() -> None:
    """Models of the package and of the lake."""


@models.command("list")
@lake_option
@plain_errors
def list_models(lake: str) -> None:
    """List the models that --model accepts."""
    from flows.cli.inspect import models_table

    click.echo(models_table(lake))


@models.command("show")
@click.argument("name", default="default")
@lake_option
@click.option("--json", "as_json", is_flag=True, help="Print all that the card holds, as one JSON object.")
@plain_errors
def show_model(name: str, lake: str, as_json: bool) -> None:
    """Print a model's card: classes, crop, training data, metrics, licence."""
    from flows.cli.inspect import model_card

    click.echo(model_card(name, lake, as_json=as_json))


@models.command("export")
@click.argument("name", default="default")
@click.option("--format", "form", type=click.Choice(["onnx"]), default="onnx", show_default=True)
@click.option("--output", "-o", type=click.Path(dir_okay=False), required=True)
@lake_option
@plain_errors
def export_model(name: str, form: str, output: str, lake: str) -> None:
    """Export a model for another runtime, and compare both on real faces."""
    from flows.cli.inspect import open_lake
    from flows.training import export_onnx
    from pipelines.scoring.lookup import find_model

    difference = export_onnx(find_model(name, open_lake(lake)), Path(output))
    click.echo(f"{output}: {form}, probabilities differ by at most {difference:.1e}")


@models.command("publish")
@click.argument("folder", type=click.Path(path_type=Path))
@lake_option
@plain_errors
def publish_model(folder: Path, lake: str) -> None:
    """Copy a trained model into the lake, so that its name works there; nothing is overwritten."""
    from mfer.card import verify_model
    from storage.lake import Lake
    from storage.models import WEIGHTS, ModelStore

    card = verify_model(folder)
    store = ModelStore(Lake.open(lake, create=True))
    click.echo(store.publish(card.name, folder / WEIGHTS, card.to_dict()))


@models.command("promote")
@click.argument("name")
@lake_option
@plain_errors
def promote_model(name: str, lake: str) -> None:
    """Put a model into production: `default` then means it, and the views prefer its scores.

    NAME is one of the lake's or the package's, or a model's folder, which are published first.
    """
    from mfer.card import verify_model
    from pipelines.scoring.lookup import find_model
    from storage.lake import Lake
    from storage.models import WEIGHTS, ModelStore

    opened = Lake.open(lake, create=True)
    folder = find_model(name, opened)
    card = verify_model(folder)
    store = ModelStore(opened)
    if card.model_id not in {model.model_id for model in store.published()}:
        store.publish(card.name, folder / WEIGHTS, card.to_dict())
    before = store.production()
    if before == card.model_id:
        click.echo(f"{card.model_id} is in production already")
        return
    store.promote(card.model_id)
    click.echo(f"in production: {card.model_id}, before: {before or 'the model of the package'}")


@models.command("rollback")
@lake_option
@plain_errors
def rollback_model(lake: str) -> None:
    """Undo the last promotion: the model before it is in production again. Nothing is deleted."""
    from storage.lake import Lake
    from storage.models import ModelStore

    store = ModelStore(Lake.open(lake))
    before = store.production()
    now = store.rollback()
    click.echo(f"in production: {now or 'the model of the package'}, before: {before}")


@models.command("history")
@lake_option
@plain_errors
def model_history(lake: str) -> None:
    """List the events of the lake's models, latest last, with the gate's decision on each candidate."""
    from storage.lake import Lake
    from storage.models import ModelStore

    for event in ModelStore(Lake.open(lake)).history():
        text = f"  {event.gate_summary}" if event.gate_summary else ""
        click.echo(f"{event.created_utc:%Y-%m-%d %H:%M:%S}Z  {event.event:9} {event.model_id or 'the package'}{text}")


@models.command("refresh")
@click.option("--data", required=True, type=click.Path(), help="The base set; docs/training.md lists layouts.")
@click.option("--recipe", default="refresh", show_default=True, help="A shipped recipe's name, or a .toml file.")
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--learning-rate", type=float, help="Instead of the recipe's.")
@click.option("--seed", type=int, help="Instead of the recipe's.")
@click.option(
    "--golden", multiple=True, type=click.Path(), help="Clip or folder of clips on which both models should agree."
)
@click.option("--rules", type=click.Path(path_type=Path), help="TOML file with rules of the promotion gate.")
@click.option(
    "--min-new",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Newly labelled faces that are needed to begin.",
)
@click.option("--publish-only", is_flag=True, help="Do not promote, whatever the gate says.")
@click.option("--force", is_flag=True, help="Train although no label is new.")
@click.option("--reanalyze", is_flag=True, help="Score the old model's videos with the promoted model.")
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@lake_option
@resumable
def refresh(
    data: str,
    recipe: str,
    epochs: int | None,
    learning_rate: float | None,
    seed: int | None,
    golden: tuple[str, ...],
    rules: Path | None,
    min_new: int,
    publish_only: bool,
    force: bool,
    reanalyze: bool,
    device: str,
    threads: int,
    as_json: bool,
    lake: str,
) -> None:
    """Train the production model on the lake's labels, and promote the candidate if it passes the gate.

    The candidate starts from the model in production and learns from the base set and the labelled faces of the lake.
    Both are measured on the same test faces, which no model learns from. The candidate is always published; the
    promotion gate (docs/operations.md) decides whether it goes into production. The same command resumes a killed
    run. Exit code 0 also when no label is new or the candidate is refused.
    """
    import json

    from flows.cli.progress import training_progress
    from flows.refresh import RefreshRequest, outcome_text, read_rules, refresh_model

    request = RefreshRequest(
        data,
        lake,
        recipe,
        epochs,
        learning_rate,
        seed,
        golden,
        read_rules(rules),
        min_new,
        not publish_only,
        force,
        reanalyze,
        device,
        threads,
    )
    with training_progress(quiet=as_json) as progress:
        outcome = refresh_model(request, progress)
    click.echo(json.dumps(outcome.to_dict(), indent=2) if as_json else outcome_text(outcome))


@models.command("reanalyze")
@click.argument("old")
@click.option("--model", default="default", show_default=True, help="The model to score with.")
@click.option("--device", default="auto", show_default=True)
@lake_option
@resumable
def reanalyze_model(old: str, model: str, device: str, lake: str) -> None:
    """Score every video of the model OLD (a model_id) with another model, the shortest first.

    Stored faces are reused, old scores are kept, and finished videos are skipped. Exit code 1: some videos could not
    be scored.
    """
    from flows.cli.progress import make_progress
    from flows.reanalyze import reanalyze
    from storage.identity import printable
    from storage.lake import Lake
    from storage.records import STATUSES

    with make_progress() as progress:
        done = reanalyze(Lake.open(lake), old, model, device, progress)
    for path in done.missing:
        click.echo(f"gone or changed: {printable(path)}")
    for path in done.outdated:
        click.echo(f"its faces are of another version of the detector, analyse it afresh: {printable(path)}")
    counts = {status: sum(run.count(status) for run in done.runs) for status in STATUSES}
    click.echo(", ".join(f"{n} {status}" for status, n in counts.items()))
    troubled = done.missing or done.outdated or any(run.exit_code for run in done.runs)
    sys.exit(1 if troubled else 0)
