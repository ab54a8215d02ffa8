"""The arrows between the packages, one place for each foreign library, and a command line that answers at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from mfer.classes import EXPRESSIONS
from storage import schema

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "mfer": set(),
    "storage": set(),
    "pipelines": {"mfer", "storage"},
    "dashboards": {"pipelines", "storage"},
    "flows": {"dashboards", "pipelines", "storage", "mfer"},
}
HOME_OF = {
    "av": {
        f"pipelines/{name}.py"
        for name in ("containers", "decode", "encode", "orientation", "packets", "remake", "stills")
    },
    "decord": {"pipelines/decode.py"},
    "torchcodec": {"pipelines/decode_torchcodec.py"},
    "facenet_pytorch": {"pipelines/detect.py"},
    "prefect": {"flows"},
    "ray": {"flows"},
    "duckdb": {"storage"},
    "deltalake": {"storage"},
    "obstore": {"storage/objects.py"},
    "fsspec": {"storage/duck_files.py"},
    "timm": {"mfer"},
    "dash": {"dashboards"},
    "plotly": {"dashboards"},
    "flask": {"dashboards"},
}
MAX_LINES = 420


def modules() -> Iterator[Path]:
    for package in MAY_IMPORT:
        yield from sorted((ROOT / package).rglob("*.py"))


def imports_of(module: Path) -> Iterator[tuple[str, int]]:
    """(top-level name, line) of every import, also of those inside functions."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively; name the package"
            assert node.module is not None
            yield node.module.partition(".")[0], node.lineno


def test_packages_import_in_one_direction_only() -> None:
    wrong = []
    for module in modules():
        package = module.relative_to(ROOT).parts[0]
        allowed = MAY_IMPORT[package] | {package}
        wrong += [
            f"{module.relative_to(ROOT)}:{line} imports {name}; {package} may import {sorted(MAY_IMPORT[package])}"
            for name, line in imports_of(module)
            if name in MAY_IMPORT.keys() - allowed
        ]
    assert not wrong, "\n".join(wrong)


def test_each_foreign_library_has_one_place() -> None:
    wrong = []
    for module in modules():
        path = module.relative_to(ROOT)
        wrong += [
            f"{path}:{line} imports {name}, whose place is {', '.join(sorted(HOME_OF[name]))}"
            for name, line in imports_of(module)
            if name in HOME_OF and not {path.as_posix(), path.parts[0]} & HOME_OF[name]
        ]
    assert not wrong, "\n".join(wrong)


def test_packages_import_nothing_from_tests_or_benchmarks() -> None:
    assert not [str(m) for m in modules() if any(name in ("tests", "benchmarks") for name, _ in imports_of(m))]


def test_modules_stay_short() -> None:
    lengths = {str(module.relative_to(ROOT)): len(module.read_text().splitlines()) for module in modules()}
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


def test_lake_and_network_name_the_same_classes() -> None:
    assert schema.EXPRESSIONS == EXPRESSIONS


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_command_line_imports_nothing_heavy() -> None:
    heavy = {"torch", "prefect", "duckdb", "pyarrow", "rich", "numpy", "av", "matplotlib"}
    done = python("import sys, flows.cli; print(*{name.partition('.')[0] for name in sys.modules})")
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("words", [[], ["analyze"], ["sql"], ["models"], ["demo"], ["dashboard"]], ids=" ".join)
def test_help_answers_without_loading_anything_heavy(words: list[str]) -> None:
    done = python(
        "import sys\nfrom flows.cli import main\n"
        f"try: main({[*words, '--help']!r})\n"
        "finally: sys.stderr.write(' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    assert f"Usage: -c {' '.join(words)}".rstrip() in done.stdout
    assert not {"torch", "prefect", "duckdb", "pyarrow"} & set(done.stderr.split())


def test_console_script_prints_help_and_version() -> None:
    mfer = Path(sys.executable).with_name("mfer")
    shown = subprocess.run([mfer, "--help"], capture_output=True, text=True, check=True).stdout
    for command in ("analyze", "sql", "inspect", "models", "demo", "train", "evaluate", "dashboard"):
        assert f"\n  {command} " in shown
    version = subprocess.run([mfer, "--version"], capture_output=True, text=True, check=True).stdout
    assert metadata.version("mfer") in version
