"""The committed results as the tables of docs/performance.md: `python -m benchmarks.tables`."""

from __future__ import annotations

import json
import re
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = _ROOT / "docs" / "performance.md"


_TAKEN = ("cold_cpu_s", "cold_s", "warm_cpu_s", "warm_s")


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def detection() -> str:
    rows = json.loads((_ROOT / "benchmarks/results/detection.json").read_text())["rows"]
    head = ["clip", "scheme", "faces", "recall", "of steady", "extra", "false", "landmarks, of eye distance", "tracks"]
    return table(
        head,
        [
            [
                row["clip"],
                row["scheme"],
                f"{row['faces']} of {row['reference_faces']}",
                f"{row['recall']:.1%}",
                f"{row['recall_of_steady']:.1%}",
                str(row["extra"]),
                str(row["false"]),
                f"{row['landmark_distance']:.1%}",
                f"{row['tracks']} ({row['reference_tracks']})",
            ]
            for row in rows
        ],
    )


def speed() -> str:
    result = json.loads((_ROOT / "benchmarks/results/speed.json").read_text())
    rows = [[name, str(value)] for name, value in result["figures"].items() if not isinstance(value, dict)]
    stages = result["figures"]["720p, one face: CPU s by stage"]
    total_s = stages["all"] - stages["start"]
    shares = ", ".join(
        f"{name} {seconds / total_s:.0%}"
        for name, seconds in sorted(stages.items(), key=lambda item: -item[1])
        if name not in ("start", "all") and seconds / total_s >= 0.005
    )
    return f"{table(['figure', ''], rows)}\n\nAfter the start, 720p with one face: {shares}."


def scale() -> str:
    """CPU and wall seconds by question and number of rows: of a new process's answer, and of a second answer."""
    by_rows = json.loads((_ROOT / "benchmarks/results/scale.json").read_text())
    found = [by_rows[key] for key in sorted(by_rows, key=int)]
    head = ["question", *(f"{facts['rows'] / 1e6:.0f} million rows" for facts in found)]
    rows = [
        [name, *(" · ".join(f"{facts['questions'][name][key]:.2f}" for key in _TAKEN) for facts in found)]
        for name in found[0]["questions"]
    ]
    rows.append(["load average", *(str(facts["load_average"]) for facts in found)])
    rows.append(["observations, bytes a row", *(str(facts["bytes_a_row"]) for facts in found)])
    return table(head, rows)


def dashboard() -> str:
    by_rows = json.loads((_ROOT / "benchmarks/results/dashboard.json").read_text())
    found = [by_rows[key] for key in sorted(by_rows, key=int)]
    head = ["seconds until it shows", *(f"{facts['faces'] / 1e6:.1f} million faces" for facts in found)]
    rows = [[name, *(f"{facts['wall_seconds'][name]:.2f}" for facts in found)] for name in found[0]["wall_seconds"]]
    rows.append(["load average", *(str(facts["load_average"]) for facts in found)])
    return table(head, rows)


def main() -> None:
    page = _PAGE.read_text()
    for name, made in (
        ("detection", detection()),
        ("speed", speed()),
        ("scale", scale()),
        ("dashboard", dashboard()),
    ):
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        page = re.sub(f"{marks[0]}.*?{marks[1]}", lambda _: f"{marks[0]}\n{made}\n{marks[1]}", page, flags=re.DOTALL)  # noqa: B023
    _PAGE.write_text(page)


if __name__ == "__main__":
    main()
