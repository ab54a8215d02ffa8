"""A user's own modules, in the folder in which a command runs: none of ours may ever import them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["NAMES", "write_strangers"]

#: Ours, libraries of ours, and of Python itself.
NAMES = (
    *("mfer", "pipelines", "flows", "storage", "dashboards"),
    *("torch", "av", "duckdb", "ray", "prefect"),
    *("random", "json"),
)


def write_strangers(folder: Path) -> Path:
    """Modules that end the process that imports them, as files and as packages."""
    for i, name in enumerate(NAMES):
        path = folder / f"{name}.py" if i % 2 else folder / name / "__init__.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("import sys\nsys.exit('a file of the user was run')\n")
    return folder
