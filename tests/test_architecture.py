"""Arrows between packages and between their folders, a place for each foreign library, a quick command line."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
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
#: What each folder inside a package may import of that package's other folders and of its plain modules. A plain module
#: is a room of its own: it may import any folder with which it forms no circle.
ROOM_MAY_IMPORT = {
    "flows/cli": {
        *(f"flows/{name}.py" for name in ("analysis_options", "analyze", "demo_clips", "explain", "export")),
        *(f"flows/{name}.py" for name in ("reanalyze", "refresh", "run", "training")),
        "flows/prefect_flows",
    },
    "flows/prefect_flows": {f"flows/{name}.py" for name in ("analysis_options", "analyze", "refresh", "run")},
    "flows/workers": {"flows/run.py"},
    "mfer/pretrained": {f"mfer/{name}.py" for name in ("card", "errors", "int8", "network")},
    "pipelines/video": {f"pipelines/{name}.py" for name in ("batches", "errors", "heartbeat")},
    "pipelines/faces": {
        "pipelines/align.py",
        "pipelines/batches.py",
        "pipelines/profile.py",
        "pipelines/scoring",
        "pipelines/video",
    },
    "pipelines/scoring": {"pipelines/align.py", "pipelines/batches.py"},
    "pipelines/people": {
        *(f"pipelines/{name}.py" for name in ("errors", "heartbeat", "remote")),
        *("pipelines/scoring", "pipelines/video"),
    },
    "pipelines/learning": {
        *(f"pipelines/{name}.py" for name in ("batches", "errors", "remote", "settings", "sources")),
        *(f"pipelines/{name}" for name in ("faces", "scoring", "video")),
    },
    "storage/delta": {f"storage/{name}.py" for name in ("errors", "files", "rounding", "schema")},
    "storage/sql": {
        *(
            f"storage/{name}.py"
            for name in (
                "errors",
                "identity",
                "interpreter",
                "lake",
                "models",
                "schema",
                "sequences",
                "stitch",
                "summary",
                "wording",
            )
        ),
        "storage/delta",
    },
    "storage/annotations": {
        *(f"storage/{name}.py" for name in ("lake", "originals", "schema", "summary")),
        *("storage/delta", "storage/sql"),
    },
    "storage/maintenance": {
        *(f"storage/{name}.py" for name in ("errors", "identity", "lake", "models", "records", "schema", "summary")),
        "storage/delta",
    },
    "storage/exports": {
        *(f"storage/{name}.py" for name in ("errors", "files", "lake", "schema")),
        *("storage/delta", "storage/sql"),
    },
    "dashboards/outputs": set(),
    "dashboards/web": {"dashboards/outputs"},
}
#: The functions for users of Python: ``mfer.analyze`` and its like fetch what they need when they are called.
DOOR = "mfer/__init__.py"
HOME_OF = {
    "av": {"pipelines/video"},
    "decord": {"pipelines/video/decord.py"},
    "torchcodec": {"pipelines/video/torchcodec.py"},
    "facenet_pytorch": {"pipelines/faces/mtcnn_reference.py"},
    "prefect": {"flows/prefect_flows"},
    "ray": {"flows/workers/ray_engine.py"},
    "duckdb": {"storage", DOOR},  # the door names its type
    "deltalake": {"storage"},
    "obstore": {"storage/delta/object_store.py"},
    "fsspec": {"storage/delta/duckdb_fs.py"},
    "timm": {"mfer"},
    "dash": {"dashboards/web"},
    "plotly": {"dashboards/web"},
    "flask": {"dashboards/web"},
}


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
        allowed = MAY_IMPORT.keys() if module == ROOT / DOOR else MAY_IMPORT[package] | {package}
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
            if name in HOME_OF and not {path.as_posix(), *(place.as_posix() for place in path.parents)} & HOME_OF[name]
        ]
    assert not wrong, "\n".join(wrong)


def test_packages_import_nothing_from_tests_or_benchmarks() -> None:
    assert not [str(m) for m in modules() if any(name in ("tests", "benchmarks") for name, _ in imports_of(m))]


def module_arrows() -> dict[str, set[str]]:
    """Every module of ours, by its path, with those that it imports, also inside functions and for types alone."""
    paths = {module.relative_to(ROOT).as_posix() for module in modules()}
    arrows: dict[str, set[str]] = {}
    for path in sorted(paths):
        names = set()
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        arrows[path] = ({f"{name.replace('.', '/')}.py" for name in names} & paths) - {path}
    return arrows


def room_of(path: str) -> str:
    """The folder inside a package that a module is in; a plain module of a package is a room of its own."""
    parts = path.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else path


def room_arrows() -> dict[str, set[str]]:
    """Every room with those of the same package that it imports."""
    arrows: dict[str, set[str]] = {}
    for path, imported in module_arrows().items():
        rooms = {room_of(other) for other in imported if other.split("/")[0] == path.split("/")[0]}
        arrows.setdefault(room_of(path), set()).update(rooms - {room_of(path)})
    return arrows


def circle(arrows: dict[str, set[str]]) -> tuple[str, ...]:
    """What is left of a circle of arrows; empty where there is none."""
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        return tuple(error.args[1])
    return ()


def test_folders_inside_a_package_import_as_drawn() -> None:
    folders = {room: found for room, found in room_arrows().items() if not room.endswith(".py")}
    assert folders.keys() == ROOM_MAY_IMPORT.keys()
    assert {room: new for room, found in folders.items() if (new := found - ROOM_MAY_IMPORT[room])} == {}


def test_no_modules_and_no_folders_import_each_other_in_a_circle() -> None:
    assert circle(module_arrows()) == ()
    assert circle(room_arrows()) == ()


@pytest.mark.parametrize("package", ["dashboards", "flows", "mfer", "pipelines", "storage"])
def test_a_folder_s_own_file_imports_nothing_heavy_and_says_what_lives_there(package: str) -> None:
    folders = sorted(path.parent for path in (ROOT / package).rglob("__init__.py"))
    for folder in folders:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder
    names = [".".join(folder.relative_to(ROOT).parts) for folder in folders]
    done = python(f"import sys, {', '.join(names)}; print(*{{name.partition('.')[0] for name in sys.modules}})")
    assert not {"torch", "prefect", "duckdb", "pyarrow", "numpy", "av", "dash"} & set(done.stdout.split())


def test_lake_and_network_name_the_same_classes() -> None:
    assert schema.EXPRESSIONS == EXPRESSIONS


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_command_line_imports_nothing_heavy() -> None:
    heavy = {"torch", "prefect", "duckdb", "pyarrow", "rich", "numpy", "av", "matplotlib"}
    done = python("import sys, flows.cli.main; print(*{name.partition('.')[0] for name in sys.modules})")
    assert not heavy & set(done.stdout.split())


def test_an_analysis_does_without_pandas(tmp_path: Path) -> None:
    """pyarrow would import it, which takes a fifth of a second in each process."""
    code = f"""if True:
        import importlib.util
        import sys
        from flows.cli.main import run

        sys.argv[1:] = ["analyze", {str(tmp_path)!r}, "--lake", {str(tmp_path / "lake")!r}]
        try:
            run()
        finally:
            import pyarrow
            pyarrow.array([1])
            importlib.util.find_spec("pandas")  # PyTorch asks so
            print("pandas" in sys.modules)
    """
    (tmp_path / "notes.mp4").write_text("this is no video\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done


def test_an_analysis_on_a_cpu_loads_no_pytorch_once_its_networks_are_exported(tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        from pathlib import Path
        from flows.demo_clips import carphone_path
        from pipelines.score import VideoAnalyzer, VideoFile
        from pipelines.scoring.lookup import find_model
        from pipelines.scoring.scorer import Scorer
        from pipelines.settings import AnalysisSettings
        from storage.lake import Lake

        lake = Lake.open({str(tmp_path / "{}")!r}.format(sys.argv[1]), create=True)
        analyze = VideoAnalyzer(lake, AnalysisSettings(every=40), Scorer(find_model("default")))
        outcome = analyze(VideoFile(carphone_path()))
        assert outcome.status == "ok" and outcome.n_faces > 0
        print(*{{name.partition('.')[0] for name in sys.modules}})
    """
    for attempt in "12":  # the first one may have to export them
        done = subprocess.run([sys.executable, "-c", code, attempt], capture_output=True, text=True, check=True)
        loaded = {"torch", "torchvision", "timm", "onnx"} & set(done.stdout.split())
        if not loaded:
            return
    raise AssertionError(loaded)


@pytest.mark.parametrize("words", [[], ["analyze"], ["sql"], ["models"], ["demo"], ["dashboard"]], ids=" ".join)
def test_help_answers_without_loading_anything_heavy(words: list[str]) -> None:
    done = python(
        "import sys\nfrom flows.cli.main import main\n"
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


def test_the_picture_of_the_design_page_is_that_of_the_code() -> None:
    from tests.architecture_picture import draw

    drawn = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == draw(), "run `python -m tests.architecture_picture docs/architecture.svg`"
