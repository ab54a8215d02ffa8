"""The picture of packages and their folders in docs/design.md, drawn from the imports in the code.

python -m tests.architecture_picture docs/architecture.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.test_architecture import module_arrows, room_of

#: Where each package stands: column and row, the importing ones above.
_PLACES = {"flows": (0.5, 0), "dashboards": (0, 1), "pipelines": (1, 1), "storage": (0, 2), "mfer": (1, 2)}
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 400, 110, 60, 60
_STYLE = (
    "text{font:13px sans-serif;fill:#222}.name{font-weight:bold;font-size:15px}"
    "rect{fill:#f4f6fa;stroke:#4a6fa5}.room{fill:#fff;stroke:#b8c4d8}.arrow{stroke:#4a6fa5;stroke-width:1.5;fill:none}"
)


def draw() -> str:
    """The picture as SVG."""
    arrows = module_arrows()
    between: set[tuple[str, str]] = set()
    rooms: dict[str, set[str]] = {package: set() for package in _PLACES}
    for path, imported in arrows.items():
        package = path.split("/")[0]
        if not (room := room_of(path)).endswith(".py"):
            rooms[package].add(room.split("/")[1])
        if path != "mfer/__init__.py":  # the functions for users, which fetch what they need when they are called
            between |= {(package, other.split("/")[0]) for other in imported} - {(package, package)}
    width, height = 2 * _WIDTH + 3 * _GAP_X, 3 * _HEIGHT + 4 * _GAP_Y - 80
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Packages, their folders, and which package imports which</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">',
        '<path d="M0 0L8 4L0 8z" fill="#4a6fa5" stroke="none"/></marker></defs>',
        '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>',
    ]
    parts += [f'<path class="arrow" d="{_arrow(a, b)}" marker-end="url(#tip)"/>' for a, b in sorted(between)]
    for package in _PLACES:
        parts += _box(package, rooms[package])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _corner(package: str) -> tuple[int, int]:
    column, row = _PLACES[package]
    return int(_GAP_X + column * (_WIDTH + _GAP_X)), 20 + row * (_HEIGHT + _GAP_Y)


def _arrow(a: str, b: str) -> str:
    """An arrow's path: down, sideways within a row, or around the row between."""
    (ax, ay), (bx, by) = _corner(a), _corner(b)
    middle = _HEIGHT / 2
    if ay == by:
        return f"M{ax + _WIDTH} {ay + middle}H{bx}"
    left = bx < ax
    if _PLACES[b][1] - _PLACES[a][1] > 1:
        start, outside, edge = (ax, bx - 30, bx) if left else (ax + _WIDTH, bx + _WIDTH + 30, bx + _WIDTH)
        return f"M{start} {ay + middle}H{outside}V{by + middle}H{edge}"
    lean = 0.5 + 0.3 * ((bx > ax) - left)
    return f"M{ax + _WIDTH * lean} {ay + _HEIGHT}L{bx + _WIDTH * (1 - lean)} {by}"


def _box(package: str, rooms: set[str]) -> list[str]:
    x, y = _corner(package)
    parts = [
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>',
        f'<text class="name" x="{x + 12}" y="{y + 24}">{package}/</text>',
    ]
    wide = (_WIDTH - 20) // 3
    for k, room in enumerate(sorted(rooms)):
        left, top = x + 10 + k % 3 * wide, y + 36 + k // 3 * 34
        parts.append(f'<rect class="room" x="{left + 2}" y="{top}" width="{wide - 4}" height="28" rx="4"/>')
        parts.append(f'<text x="{left + 10}" y="{top + 19}">{room}/</text>')
    return parts


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(), encoding="utf-8")
