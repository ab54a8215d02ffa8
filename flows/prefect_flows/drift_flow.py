"""The Prefect flow ``check-drift``: ``mfer drift`` on a schedule."""

from __future__ import annotations

import os
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import PositiveFloat, PositiveInt

from flows.prefect_flows.working_folder import enter_working_folder
from mfer.errors import ConfigError
from storage.drift import DriftReport, DriftRules, check_drift
from storage.identity import printable
from storage.lake import Lake

__all__ = ["check_drift_flow", "drift_state"]


@flow(name="check-drift", flow_run_name="check-drift {lake}", retries=0, persist_result=False)
def check_drift_flow(
    lake: str = "lake",
    recent_days: PositiveFloat = 7,
    reference_days: PositiveFloat = 56,
    min_effect: PositiveFloat = 0.3,
    alpha: PositiveFloat = 0.05,
    min_videos: PositiveInt = 8,
) -> State[Any]:
    """Compare the videos of the recent window with those before it, folder by folder and all together.

    The final state is Completed, or DriftFound (of type Completed) with what has drifted in its message. What was
    measured is a table on the run's page and rows of the lake's table ``drift``.

    Args:
        lake: folder of the tables.
        recent_days: length of the recent window, which ends now.
        reference_days: length of the window before it.
        min_effect: the Kolmogorov-Smirnov statistic from which a change matters.
        alpha: how often a check without any change may find one.
        min_videos: on either side, to be judged.
    """
    enter_working_folder()
    try:
        rules = DriftRules(min_effect, alpha, min_videos)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    report = measure(os.path.expanduser(lake), recent_days, reference_days, rules)
    show_report(report)
    return drift_state(report)


@task(cache_policy=NO_CACHE, retries=0, persist_result=False)
def measure(lake: str, recent_days: float, reference_days: float, rules: DriftRules) -> DriftReport:
    """Compare, and write what was measured into the lake."""
    return check_drift(Lake.open(lake), recent_days=recent_days, reference_days=reference_days, rules=rules)


@task(cache_policy=NO_CACHE, retries=0, persist_result=False)
def show_report(report: DriftReport) -> None:
    """Show what was measured on the run's page."""
    rows = [
        {
            "source": printable(f.source),
            "measure": f.measure,
            "drift": "drift" if f.drifted else "",
            "D": round(f.value, 3),
            "drift from": round(f.threshold, 3),
            "median before": f.median_reference,
            "median recently": f.median_recent,
            "videos before": f.n_reference,
            "videos recently": f.n_recent,
        }
        for f in sorted(report.findings, key=lambda f: f.threshold - f.value)
    ]
    create_table_artifact(rows, key="drift", description="What was compared, the largest change first")
    lines = [report.summary, *(f"- not judged: {source}" for source in report.unjudged)]
    create_markdown_artifact(
        printable("\n".join(lines), keep="\n"), key="drift-summary", description="What has drifted"
    )


def drift_state(report: DriftReport) -> State[Any]:
    """The state that a run ends in."""
    message = printable(report.summary)
    return Completed(name="DriftFound", message=message) if report.drifted else Completed(message=message)
