"""What docs/ says of commands and parameters: every command with its own help text, and the flow's parameters.

``python -m flows.cli.docs_page docs`` renews docs/commands.md and the table in docs/deployments.md; a test keeps them
so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from flows.analysis_options import analysis_options
from flows.cli.main import main

__all__ = ["commands_markdown", "with_parameters"]

_BEGIN, _END = "<!-- parameters: made by flows.cli.docs_page -->", "<!-- end of parameters -->"

_HEAD = """# Commands

What `mfer COMMAND --help` prints, for every command. This page is made by `python -m flows.cli.docs_page docs`.

Exit codes: 0 all well; 1 a video failed or could not be read completely; 2 the run could not begin or had to stop.
[errors.md](errors.md) has the codes of failed videos.
"""


def _commands(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(command.commands[name], (*words, name))


def commands_markdown() -> str:
    """Every command in order of its name, as Markdown."""
    parts = [_HEAD]
    names = main.context_settings["help_option_names"]
    for words, command in _commands(main, ("mfer",)):
        context: click.Context | None = None
        for word in words[:-1]:
            context = click.Context(click.Group(word), info_name=word, parent=context)
        own = click.Context(
            command, context, words[-1], max_content_width=100, terminal_width=100, help_option_names=names
        )
        with own:
            help_text = command.get_help(own)
        parts.append(f"## {' '.join(words)}\n\n```text\n{help_text}\n```\n")
    return "\n".join(parts)


def with_parameters(page: str) -> str:
    """The page with the parameters of the flow ``analyze-folder`` that are options of ``mfer analyze`` too, as a table
    between its two comments."""
    rows = ["| parameter | default | option | meaning |", "| --- | --- | --- | --- |"]
    for option in analysis_options():
        default = option.default_text or ("none" if option.default in (None, ()) else f"`{option.default}`")
        allowed = f" Allowed: {', '.join(f'`{choice}`' for choice in option.choices)}." if option.choices else ""
        rows.append(f"| `{option.name}` | {default} | `{option.flag}` | {option.help}{allowed} |")
    before, rest = page.split(_BEGIN, 1)
    after = rest.split(_END, 1)[1]
    return "\n".join([before + _BEGIN, "", *rows, "", _END + after])


if __name__ == "__main__":
    docs = Path(sys.argv[1])
    (docs / "commands.md").write_text(commands_markdown(), encoding="utf-8")
    deployments = docs / "deployments.md"
    deployments.write_text(with_parameters(deployments.read_text(encoding="utf-8")), encoding="utf-8")
