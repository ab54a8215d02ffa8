"""What the groups of the command line share: the option --lake, and errors as one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from flows.analysis_options import Option
from flows.analysis_options import analysis_options as declared_options

__all__ = ["CommentsAllowed", "analysis_options", "lake_option", "plain_errors", "resumable", "scores_option", "tell"]


class CommentsAllowed(click.Command):
    """A command whose argument may begin with an SQL comment, which looks like an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """An option has no white space before its ``=``; a comment gets some before it and is an argument."""
        return super().parse_args(ctx, [f" {arg}" if re.match(r"--[^=\s]*\s", arg) else arg for arg in args])


def analysis_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of an analysis, as ``flows.analysis_options`` declares them."""
    for option in reversed(declared_options()):
        several = option.kind == "texts"
        if option.kind == "flag":
            command = click.option(option.flag, option.name, is_flag=True, help=option.help)(command)
            continue
        command = click.option(
            option.flag,
            option.name,
            type=_click_type(option),
            default=None if several else option.default,
            multiple=several,
            show_default=option.default_text or option.default not in (None, ()),
            help=f"{option.help} [repeatable]" if several else option.help,
        )(command)
    return command


def _click_type(option: Option) -> click.ParamType:
    if option.choices:
        return click.Choice(option.choices)
    limit = option.least if option.above is None else option.above
    if option.kind == "whole":
        return click.IntRange(min=option.least)
    if option.kind == "number":
        return click.FloatRange(min=limit, min_open=option.above is not None)
    return click.STRING


def lake_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--lake",
        default=lambda: os.environ.get("MFER_LAKE") or "lake",
        show_default="$MFER_LAKE, else ./lake",
        help="Folder of the tables, or s3://BUCKET/PREFIX.",
    )(command)


def scores_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--model`` of the commands that query the lake."""
    return click.option(
        "--model",
        help="Use only the scores of this model: its name, model_id or folder; `default` is the one in production."
        "  [default: for each video the model in production, else any other]",
    )(command)


def tell(note: str) -> None:
    """A note on stderr, beside the answer; none where there is nothing to say."""
    if note:
        click.echo(f"note: {note}", err=True)


def plain_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a person has to correct is one line on stderr and exit code 2; a bug keeps its traceback.

    Ctrl-C ends with exit code 130, as shells have it.
    """
    return _with_plain_errors(command, "stopped")


def resumable(command: Callable[..., Any]) -> Callable[..., Any]:
    """``plain_errors`` of a command that keeps what it has done when it is stopped."""
    return _with_plain_errors(command, "stopped; finished work is kept, and the same command resumes")


def _with_plain_errors(command: Callable[..., Any], when_stopped: str) -> Callable[..., Any]:
    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from mfer.errors import ConfigError, ModelError
        from pipelines.errors import VideoError
        from storage.errors import LakeError
        from storage.identity import printable

        try:
            return command(*args, **kwargs)
        except (ConfigError, ModelError, LakeError) as error:
            click.echo(f"mfer: {printable(str(error), keep=chr(10))}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo(f"mfer: {when_stopped}", err=True)
            sys.exit(130)
        except VideoError as error:
            click.echo(f"mfer: {error.code}: {printable(error.message)}", err=True)
            sys.exit(1)

    return run
