"""``mfer drift``: do recent videos differ from earlier ones?"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from flows.cli.options import lake_option, plain_errors

__all__ = ["drift"]


@click.command()
@click.option("--recent-days", type=float, default=7, show_default=True, help="Days in the recent window.")
@click.option(
    "--reference-days", type=float, default=56, show_default=True, help="Days in the reference window before it."
)
@click.option("--until", type=click.DateTime(), help="End of the recent window, in UTC.  [default: now]")
@click.option(
    "--min-effect", type=float, default=0.3, show_default=True, help="Smallest statistic D that counts as drift."
)
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Rate of false alarms, per check.")
@click.option("--min-videos", type=int, default=8, show_default=True, help="Minimum videos per window.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@lake_option
@plain_errors
def drift(
    recent_days: float,
    reference_days: float,
    until: datetime | None,
    min_effect: float,
    alpha: float,
    min_videos: int,
    as_json: bool,
    lake: str,
) -> None:
    """Compare recent videos with earlier ones: faces found, their size and sharpness, the model's scores.

    A Kolmogorov-Smirnov test over videos, for each folder and for all together; the results are written into the
    lake's table drift. docs/operations.md says why videos are compared, not frames. Exit code 1: something has drifted.
    """
    import json
    from dataclasses import asdict

    from mfer.errors import ConfigError
    from storage.drift import DriftRules, check_drift
    from storage.identity import printable
    from storage.lake import Lake

    try:
        report = check_drift(
            Lake.open(lake),
            recent_days=recent_days,
            reference_days=reference_days,
            until_utc=until.replace(tzinfo=UTC) if until else None,
            rules=DriftRules(min_effect, alpha, min_videos),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if as_json:
        click.echo(
            json.dumps({**asdict(report), "drifted": [asdict(f) for f in report.drifted]}, indent=2, default=str)
        )
    else:
        for finding in report.drifted:
            click.echo(f"drift: {printable(str(finding))}")
        for source in report.unjudged if report.findings else ():
            click.echo(f"not judged: {printable(source)}")
        click.echo(printable(report.summary))
    sys.exit(1 if report.drifted else 0)
