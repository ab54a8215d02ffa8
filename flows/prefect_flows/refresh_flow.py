"""The Prefect flow ``refresh-model``: ``mfer models refresh`` on a schedule, with its reasons on the run's page."""

from __future__ import annotations

import os
import time
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import PositiveFloat, PositiveInt

from flows.prefect_flows.working_folder import enter_working_folder
from flows.refresh import RefreshOutcome, RefreshRequest, outcome_text, refresh_model
from mfer.gate import GateRules
from storage.identity import path_shown

__all__ = ["refresh_model_flow", "refresh_state"]

_PROGRESS_INTERVAL_S = 5.0


@flow(name="refresh-model", flow_run_name="refresh-model {lake}", retries=0, persist_result=False)
def refresh_model_flow(
    data: str,
    lake: str = "lake",
    recipe: str = "refresh",
    epochs: PositiveInt | None = None,
    learning_rate: PositiveFloat | None = None,
    golden: list[str] | None = None,
    rules: dict[str, float] | None = None,
    min_new_faces: PositiveInt = 1,
    promote: bool = True,
    force: bool = False,
    reanalyze: bool = False,
    device: str = "auto",
    threads: PositiveInt = 1,
    work: str | None = None,
) -> State[Any]:
    """Train the production model on the lake's labels, and promote the candidate if it passes the gate.

    The final state is Completed (nothing was new, or the candidate is in production), CandidateRefused (of type
    Completed: it is published and the message says which check failed), or Failed where the run could not begin or had
    to stop. A run that was killed is simply started again. docs/operations.md describes the gate.

    Args:
        data: the base set of labelled faces; docs/training.md lists layouts.
        lake: folder of the tables.
        recipe: a shipped recipe's name, or a .toml file.
        epochs: instead of the recipe's.
        learning_rate: instead of the recipe's.
        golden: clips, or folders of clips, on which both models should agree.
        rules: rules of the promotion gate that differ from the defaults.
        min_new_faces: newly labelled faces that are needed to begin.
        promote: false publishes only.
        force: train although no label is new.
        reanalyze: score with the promoted model what the old one scored.
        device: auto, cpu, cuda or cuda:N.
        threads: threads for training on a CPU.
        work: folder for the state of a killed run; default: in the user's cache.
    """
    enter_working_folder()
    request = RefreshRequest(
        data=os.path.abspath(os.path.expanduser(data)),
        lake=os.path.expanduser(lake),
        recipe=recipe,
        epochs=epochs,
        learning_rate=learning_rate,
        golden=tuple(golden or ()),
        rules=GateRules.from_dict(rules or {}),
        min_new_faces=min_new_faces,
        promote=promote,
        force=force,
        reanalyze=reanalyze,
        device=device,
        threads=threads,
        work=work,
    )
    outcome = refresh(request)
    show_outcome(outcome)
    return refresh_state(outcome)


@task(cache_policy=NO_CACHE, retries=0, persist_result=False)
def refresh(request: RefreshRequest) -> RefreshOutcome:
    """Collect, train, compare, decide and publish, with a log line and a progress artifact per stage."""
    return refresh_model(request, _Stages())


@task(cache_policy=NO_CACHE, retries=0, persist_result=False)
def show_outcome(outcome: RefreshOutcome) -> None:
    """Show the whole reasoning on the pages of the run."""
    parts = [outcome.message, f"Production before: `{outcome.production}`."]
    if outcome.candidate:
        parts.append(f"Candidate: `{outcome.candidate}`.")
    if outcome.decision is not None:
        parts.append(outcome.decision.markdown())
    parts.append("```\n" + outcome_text(outcome) + "\n```")
    create_markdown_artifact("\n\n".join(parts), key="promotion", description="Why the model was promoted, or was not")
    if outcome.decision is not None:
        create_table_artifact(
            [
                {"check": c.name, "on": c.subject, "outcome": c.outcome, "loss": c.value, "allowed": c.threshold}
                for c in outcome.decision.checks
            ],
            key="promotion-checks",
            description="Every check of the promotion gate",
        )


class _Stages:
    """A log line when a stage begins, and a progress artifact that is redrawn every few seconds at most."""

    def __init__(self) -> None:
        self._log = get_run_logger()
        # Prefect's functions return a coroutine only to callers that are async
        self._artifact = cast(UUID, create_progress_artifact(0.0, key="refresh", description="The present stage"))
        self._stage = ""
        self._drawn_s = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        name = stage if stage.startswith("find faces") else stage.partition(":")[0]
        began = name != self._stage
        if began:
            self._log.info("%s: %d", name, total)
            self._stage = name
        if not (began or done == total or time.monotonic() - self._drawn_s >= _PROGRESS_INTERVAL_S):
            return
        self._drawn_s = time.monotonic()
        try:
            update_progress_artifact(self._artifact, min(100.0, 100.0 * done / max(total, 1)), description=stage)
        except httpx.HTTPError as error:  # a server that is away for a moment costs no step
            self._log.debug("progress could not be shown: %s", error)


def refresh_state(outcome: RefreshOutcome) -> State[Any]:
    """The state that a run ends in; a file that is gone is said whatever the state."""
    gone = "".join(f"; gone or changed: {path_shown(path)}" for path in outcome.missing)
    message = outcome.message + gone
    if outcome.status == "refused":
        return Completed(name="CandidateRefused", message=message)
    troubled = outcome.reanalysis is not None and (
        outcome.reanalysis.missing or any(run.exit_code for run in outcome.reanalysis.runs)
    )
    return Completed(name="CompletedWithFailures", message=message) if troubled else Completed(message=message)
