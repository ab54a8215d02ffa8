"""The documentation names every command as it is, builds with every link whole, and its Python is run."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.docs_page import commands_markdown, with_parameters
from flows.cli.main import main
from mfer.augment import Augmentation
from mfer.card import Architecture, CropContract
from mfer.gate import GateRules
from mfer.recipe import Optimisation
from pipelines.settings import AnalysisSettings, DetectorSettings, QualitySettings, TrackerSettings
from storage.errors import LAKE_CODES
from storage.records import VIDEO_CODES
from storage.sql.views import VIEWS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def test_every_command_is_documented_with_its_own_help() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert text == commands_markdown(), "run `python -m flows.cli.docs_page docs`"
    page = (DOCS / "deployments.md").read_text(encoding="utf-8")
    assert page == with_parameters(page), "run `python -m flows.cli.docs_page docs`"
    assert all(f"\n## mfer {name}\n" in text for name in main.commands)


def test_commands_in_the_documentation_exist_with_their_options() -> None:
    """Every `mfer ...` of a block or in running text: the command and each of its long options."""
    n_found = 0
    for document in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        lines = re.findall(r"^(mfer .*)$", blocks, re.MULTILINE) + re.findall(r"^    (mfer .*)$", text, re.MULTILINE)
        for line in lines + re.findall(r"`(mfer [^`]*)`", text):
            words = re.sub(r"\s[|>#&;].*", "", line, flags=re.DOTALL).split()
            if words[1] in ("COMMAND", "--help", "..."):
                continue
            assert words[1] in main.commands, f"{document.name}: {line}"
            command = main.commands[words[1]]
            for word in words[2:]:
                command = getattr(command, "commands", {}).get(word, command)
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            wanted = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
            assert wanted <= known | {"--help"}, f"{document.name}: {line}"
            n_found += 1
    assert n_found > 100


def test_the_help_of_sql_names_every_view() -> None:
    named = re.search(r"Views: ([\w,\s]+)\.", main.commands["sql"].help or "")
    assert named
    assert set(re.split(r",\s+", named[1])) == set(VIEWS)


def test_errors_that_the_documentation_names_exist() -> None:
    """A dotted name of ours in backticks, such as `storage.errors.LakeError`, can be imported."""
    for document in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        for name in re.findall(r"`((?:mfer|storage|pipelines|flows)\.[\w.]+\.[A-Z]\w+)`", document.read_text("utf-8")):
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), f"{document.name}: {name}"


def section(document: str, title: str) -> str:
    text = (DOCS / document).read_text(encoding="utf-8")
    level = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert level, f"{document} has no section {title}"
    return re.split(rf"^#{{1,{len(level[1])}}} ", text[level.end() :], flags=re.MULTILINE)[0]


def cells_of(text: str) -> list[list[str]]:
    """The rows of the tables in a text that begin with a name in backticks."""
    return [[cell.strip() for cell in row.split(" | ")] for row in re.findall(r"^\| (`.*) \|$", text, re.MULTILINE)]


def value_of(text: str) -> object:
    """A default as the documentation writes it."""
    text = text.strip("`[] ")
    if ", " in text:
        return tuple(map(value_of, text.split(", ")))
    try:
        return {"none": None, "true": True, "false": False}[text] if text in ("none", "true", "false") else float(text)
    except ValueError:
        return text


SETTINGS = {
    ("settings.md", f"`{kind.__name__}`"): kind
    for kind in (AnalysisSettings, DetectorSettings, TrackerSettings, QualitySettings)
} | {
    ("training.md", "`[architecture]`"): Architecture,
    ("training.md", "`[crop]`"): CropContract,
    ("training.md", "`[optimisation]`"): Optimisation,
}


@pytest.mark.parametrize(("place", "kind"), SETTINGS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_every_setting_is_documented_with_its_default(place: tuple[str, str], kind: type) -> None:
    payload: dict[str, object] = {}
    for first, defaults, *_ in cells_of(section(*place)):
        names = re.findall(r"`(\w+)`", first)
        payload |= zip(names, [defaults] if len(names) == 1 else defaults.split(", "), strict=True)
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    assert payload.keys() == known.keys()
    for name, default in known.items():
        if default is not dataclasses.MISSING:  # what has settings of its own has a table of its own
            assert value_of(str(payload[name])) == default, name


def test_options_of_the_settings_are_those_of_the_command() -> None:
    payload = re.findall(r"`(--[a-z-]+)", (DOCS / "settings.md").read_text(encoding="utf-8"))
    assert {*payload} <= {option for parameter in main.commands["analyze"].params for option in parameter.opts}
    assert len(payload) == 15


@pytest.mark.parametrize(
    ("place", "kind"),
    [(("training.md", "`[augmentation]`"), Augmentation), (("operations.md", "The promotion gate"), GateRules)],
)
def test_settings_that_are_told_in_running_text_are_all_there(place: tuple[str, str], kind: type) -> None:
    names = re.findall(r"`([a-z_]+)`", section(*place))
    assert {*names} == {field.name for field in dataclasses.fields(kind)}


def test_variables_of_the_environment_are_documented_and_read() -> None:
    pattern = r"\bMFER_[A-Z_]+"
    read = {name for file in source_files() for name in re.findall(pattern, file.read_text(encoding="utf-8"))}
    payload = {name for file in DOCS.rglob("*.md") for name in re.findall(pattern, file.read_text(encoding="utf-8"))}
    assert read == payload


def source_files() -> list[Path]:
    folders = ("mfer", "storage", "pipelines", "dashboards", "flows")
    return [file for folder in folders for file in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize(
    ("title", "codes", "defined"),
    [("Errors", VIDEO_CODES, "storage/records.py"), ("Errors of a lake", LAKE_CODES, "storage/errors.py")],
)
def test_every_error_code_is_documented_and_every_documented_code_is_given(
    title: str, codes: frozenset[str], defined: str
) -> None:
    """The classes refuse a code that is not in their sets."""
    text = section("errors.md", title).split("\n## ")[0]
    assert {cells[0].strip("`") for cells in cells_of(text)} == codes
    given = {
        node.value
        for file in source_files()
        if file != ROOT / defined
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert codes - given <= {"failed"}  # what a LakeError has without a code


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
