"""docs/commands.md: every command with its own help text.

``python -m flows.cli.docs_page docs/commands.md`` renews the file; a test keeps it so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from flows.cli.main import main

__all__ = ["commands_markdown"]

_HEAD = """# Commands

What `mfer COMMAND --help` prints, for every command. This page is made by `python -m flows.cli.docs_page
docs/commands.md`.

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


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(commands_markdown(), encoding="utf-8")
