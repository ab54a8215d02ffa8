"""The documentation names every command as it is, builds with every link whole, and its Python is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import main
from flows.command_docs import commands_markdown

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_every_command_is_documented_with_its_own_help() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert text == commands_markdown(), "run `python -m flows.command_docs docs/commands.md`"
    assert all(f"\n## mfer {name}\n" in text for name in main.commands)


def test_commands_in_the_documentation_exist_with_their_options() -> None:
    """Every `mfer ...` line of an indented block: the command and each of its long options."""
    for document in DOCS.rglob("*.md"):
        for line in re.findall(r"^    (mfer .*)$", document.read_text(encoding="utf-8"), re.MULTILINE):
            words = line.split()
            command = main.commands[words[1]]
            for word in words[2:]:
                command = getattr(command, "commands", {}).get(word, command)
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            wanted = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
            assert wanted <= known, f"{document.name}: {line}"


@pytest.mark.full
def test_the_site_builds_with_every_link_whole_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?([^\" >]+)", page.read_text())
        foreign = [address for address in loaded if re.match(r"(https?:)?//", address)]
        assert not foreign, f"{page.name} loads {foreign}"
    assert {path.stem for path in DOCS.rglob("*.md")} <= {path.stem for path in tmp_path.rglob("*.html")}


@pytest.mark.full
def test_the_python_session_of_the_documentation_runs_on_the_demo(tmp_path: Path) -> None:
    from click.testing import CliRunner

    os.chdir(tmp_path)
    try:
        assert CliRunner().invoke(main, ["demo"]).exit_code == 0
        blocks = re.findall(r"```python\n(.*?)```", (DOCS / "notebook.md").read_text(encoding="utf-8"), re.DOTALL)
        assert len(blocks) >= 5
        session: dict[str, object] = {}
        for block in blocks:
            exec(compile(block, "notebook.md", "exec"), session)
    finally:
        os.chdir(ROOT)
    for name in ("curve.png", "timeline.png", "report.html"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert session["events"]
