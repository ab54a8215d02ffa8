"""The Prefect flow ``analyze-folder``: ``mfer analyze`` with a server that shows, records and schedules."""

from __future__ import annotations

import inspect
import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import httpx
from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows.analysis_options import AnalysisOptions, Option, analysis_options
from flows.analyze import analyze_folder
from flows.prefect_flows.working_folder import enter_working_folder
from flows.run import FolderRun, Progress, RunSummary
from mfer.errors import ConfigError
from storage.delta.object_store import is_uri, place_of
from storage.identity import path_shown
from storage.lake import Lake
from storage.records import STATUSES, WORST_FIRST, VideoOutcome
from storage.wording import counted

__all__ = ["analyze_folder_flow", "final_state", "outcome_rows", "summary_markdown"]

_PROGRESS_INTERVAL_S = 3.0
#: A page stays quick to draw; every outcome is in the lake.
_MAX_TABLE_ROWS = 1000
_MAX_NAMED_VIDEOS = 10


def _takes_analysis_options(flow_function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function with ``**chosen`` a parameter for each option of an analysis, with its limits and its help."""
    signature = inspect.signature(flow_function, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    options = analysis_options()
    given = [
        inspect.Parameter(
            option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=_type_of(option)
        )
        for option in options
    ]
    flow_function.__signature__ = signature.replace(parameters=[*own, *given])  # type: ignore[attr-defined]
    lines = [
        f"    {option.name}: {option.help}{f' Default: {option.default_text}.' if option.default_text else ''}"
        for option in options
    ]
    flow_function.__doc__ = "\n".join([inspect.getdoc(flow_function) or "", *lines])
    return flow_function


def _type_of(option: Option) -> Any:
    whole = Annotated[int, Field(ge=option.least)] if option.least is not None else int
    share = Annotated[str, Field(pattern=r"^\d+(\.\d+)?%?$")]
    kinds: dict[str, Any] = {
        "text": Literal[option.choices] if option.choices else str,
        "texts": list[str],
        "whole": whole,
        "number": Annotated[float, Field(ge=option.least, gt=option.above)],
        "pixels_or_share": Annotated[int, Field(ge=1)] | share,
        "number_or_all": Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^(\d+|all)$")],
        "flag": bool,
    }
    return kinds[option.kind] | None if option.default is None else kinds[option.kind]


@flow(name="analyze-folder", flow_run_name="analyze-folder {folder}", retries=0, persist_result=False)
@_takes_analysis_options
def analyze_folder_flow(folder: str, lake: str = "lake", report: str | None = None, **chosen: Any) -> State[Any]:
    """Analyse a folder of videos, or one video, into a lake.

    A video that was analysed before with the same settings and model is skipped. The final state is Completed, or
    CompletedWithFailures where some videos failed or could not be read completely, or Failed where every video failed
    or the run had to stop; its message says which and why. docs/deployments.md says how to run it.

    Args:
        folder: Where the videos are: a folder, a video, a pattern such as /data/2026-*/*.mp4, or s3://BUCKET/PREFIX.
            A relative path starts where the worker or ``mfer serve`` runs.
        lake: Folder of the tables, or s3://BUCKET/PREFIX.
        report: An HTML file to write about the folder's finished videos, as ``mfer report`` does.
    """
    enter_working_folder()
    if report is not None and is_uri(report):
        raise ConfigError(f"report is {report}; allowed is a file on the machine of the run")
    path = folder if is_uri(folder) else os.path.abspath(os.path.expanduser(folder))
    run = AnalysisOptions(**chosen).run([path], os.path.expanduser(lake))
    summary = analyze(run)
    publish(summary)
    if report is not None:
        write_run_report(summary, os.path.abspath(os.path.expanduser(report)))
    return final_state(summary)


@task(cache_policy=NO_CACHE, retries=0, persist_result=False)
def analyze(run: FolderRun) -> RunSummary:
    """Analyse, with a log line per video and a progress artifact."""
    return analyze_folder(run, _RunProgress())


@task(cache_policy=NO_CACHE, retries=0, persist_result=False)
def publish(summary: RunSummary) -> None:
    """Show what happened on the pages of the run."""
    create_table_artifact(outcome_rows(summary), key="outcomes", description="What happened to each video")
    create_markdown_artifact(summary_markdown(summary), key="summary", description="The run and what to ask next")


@task(cache_policy=NO_CACHE, retries=0, persist_result=False)
def write_run_report(summary: RunSummary, output: str) -> None:
    """Write the page of the run's finished videos, those finished by earlier runs included, and link it."""
    from dashboards.outputs.report import write_report
    from pipelines.scoring.lookup import card_of

    finished = {each.video_id for each in summary.outcomes if each.status != "failed" and each.code != "interrupted"}
    names = sorted(video_id for video_id in finished if video_id is not None)
    if not names:
        get_run_logger().info("no report: the run has no finished video")
        return
    lake = Lake.open(summary.lake)
    written = write_report(lake, output, names, card_of=lambda model_id: card_of(model_id, lake))
    description = f"{path_shown(written)}, a file on {platform.node()}"
    create_link_artifact(written.as_uri(), "Report", key="report", description=description)


class _RunProgress(Progress):
    """Lines in the run's log and a progress artifact, which is redrawn every few seconds at most."""

    def __init__(self) -> None:
        self._log = get_run_logger()
        # Prefect's functions return a coroutine only to callers that are async
        self._artifact = cast(UUID, create_progress_artifact(0.0, key="progress", description="Videos analysed"))
        self._n_videos = self._n_ended = 0
        self._shares: dict[str, float] = {}  # of the videos at work, how much is done
        self._drawn_s = time.monotonic()

    def begin(self, n_videos: int) -> None:
        self._n_videos = n_videos
        self._log.info("%s to analyse", counted(n_videos, "video"))
        if not n_videos:
            self._draw(100.0)

    def more(self, n_videos: int) -> None:
        self._n_videos += n_videos

    def frames(self, path: str, n_done: int, n_frames: int) -> None:
        self._shares[path] = min(1.0, n_done / n_frames) if n_frames else 0.0
        if time.monotonic() - self._drawn_s >= _PROGRESS_INTERVAL_S:
            self._draw(100 * (self._n_ended + sum(self._shares.values())) / self._n_videos)

    def video(self, outcome: VideoOutcome) -> None:
        self._shares.pop(outcome.path, None)
        self._n_ended += 1
        log = self._log.warning if outcome.status in ("failed", "partial") else self._log.info
        log(
            "%s (%d of %d): %d frames, %d faces in %.1f s%s",
            path_shown(outcome.path),
            self._n_ended,
            self._n_videos,
            outcome.n_frames,
            outcome.n_faces,
            outcome.elapsed_s,
            f"; {outcome.status}, {outcome.code}: {outcome.message}" if outcome.code else "",
        )
        # each drawing is a request, and a hundred short videos can end at once
        if self._n_ended == self._n_videos or time.monotonic() - self._drawn_s >= _PROGRESS_INTERVAL_S:
            self._draw(100 * self._n_ended / self._n_videos)

    def _draw(self, percent: float) -> None:
        self._drawn_s = time.monotonic()
        try:
            update_progress_artifact(self._artifact, min(percent, 100.0))
        except httpx.HTTPError as error:  # a server that is away for a moment costs no video anything
            self._log.debug("progress could not be shown: %s", error)


def final_state(summary: RunSummary) -> State[Any]:
    """The state that a run ends in: Completed, CompletedWithFailures (of type Completed) or Failed."""
    outcomes = summary.outcomes
    trouble = [outcome for outcome in outcomes if outcome.status in ("failed", "partial")]
    if not outcomes:
        return Completed(message="no video was found")
    if not trouble:
        return Completed(message=_counts_text(summary))
    named = [
        f"{path_shown(outcome.path)} is {outcome.status}, {outcome.code}: {outcome.message}"
        for outcome in trouble[:_MAX_NAMED_VIDEOS]
    ]
    if len(trouble) > len(named):
        named.append(f"and {len(trouble) - len(named)} more")
    message = f"{_counts_text(summary)}. {'; '.join(named)}"
    if summary.count("failed") == len(outcomes):
        return Failed(message=message)
    return Completed(name="CompletedWithFailures", message=message)


def outcome_rows(summary: RunSummary) -> list[dict[str, Any]]:
    """One row per video for people to read, the worst first."""
    ordered = sorted(summary.outcomes, key=lambda outcome: WORST_FIRST.index(outcome.status))
    return [
        {
            "video": path_shown(outcome.path),
            "status": outcome.status,
            "code": outcome.code or "",
            "message": outcome.message,
            "frames": outcome.n_frames,
            "with a face": outcome.n_frames_with_face,
            "faces": outcome.n_faces,
            "seconds": round(outcome.elapsed_s, 1),
        }
        for outcome in ordered[:_MAX_TABLE_ROWS]
    ]


def summary_markdown(summary: RunSummary) -> str:
    """The run in a few lines, and the queries to ask next."""
    facts = summary.to_dict()
    queries = (
        "SELECT file_name, expression, round(sum(duration_s), 1) AS seconds FROM scores GROUP BY ALL ORDER BY ALL",
        "SELECT path, status, code, message FROM videos WHERE status <> 'ok'",
    )
    lake = path_shown(place_of(summary.lake))
    commands = "\n".join(f'mfer sql "{query}" --lake {lake}' for query in queries)
    frames = f"{facts['frames']} frames, {facts['frames_with_face']} with a face, {facts['faces']} faces"
    return (
        f"{_counts_text(summary)}; {facts['ignored_files']} other files ignored.\n\n"
        + (f"{summary.pictures_text}.\n\n" if summary.pictures_text else "")
        + f"{frames} in {facts['elapsed_s']:.1f} s with model `{summary.model_id}`.\n\n"
        + (f"Note: {summary.note}.\n\n" if summary.note else "")
        + f"Lake `{lake}`, analysis `{summary.analysis_id}`, run `{summary.run_id}`.\n\n```\n{commands}\n```\n"
    )


def _counts_text(summary: RunSummary) -> str:
    counts = Counter(outcome.status for outcome in summary.outcomes)
    parts = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
    return f"{counted(len(summary.outcomes), 'video')}: {parts}"
