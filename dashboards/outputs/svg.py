"""Charts as SVG text that any page can hold: no script, no font, no file."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dashboards.outputs.palette import EXPRESSION_COLOURS

__all__ = ["Track", "clock", "share_bar", "timeline"]

_WIDTH, _LEFT, _RIGHT = 960, 56, 8
_PANEL, _GAP, _AXIS = 72, 36, 24
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
_MAX_TICKS = 12


@dataclass(frozen=True)
class Track:
    """One face over time in B bins: the bin's number int64 [B], prob float64 [B,8] in the order of
    ``EXPRESSION_COLOURS`` (0 where the model lacks the class) and doubtful bool [B]; label is what is written above."""

    label: str
    bin_number: np.ndarray
    prob: np.ndarray
    doubtful: np.ndarray


def clock(seconds: float) -> str:
    """Seconds as people read them: 3.5 s, 2:05, 1:02:05."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds % 1 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def share_bar(shares: Mapping[str, float], height: int = 22) -> str:
    """A bar of 100 %, a colour per expression; parts of at least 8 % carry their number."""
    parts, x = [], 0.0
    for name, colour in EXPRESSION_COLOURS.items():
        width = 100 * shares.get(name, 0.0)
        if width <= 0:
            continue
        parts.append(
            f'<rect x="{x:.3f}%" y="0" width="{width:.3f}%" height="{height}" fill="{colour}">'
            f"<title>{name} {width:.1f} %</title></rect>"
        )
        if width >= 8:
            ink = "#fff" if name == "sadness" else "#222"
            parts.append(
                f'<text x="{x + width / 2:.3f}%" y="{height / 2 + 4}" text-anchor="middle" style="fill:{ink}">'
                f"{width:.0f} %</text>"
            )
        x += width
    label = ", ".join(f"{name} {value * 100:.0f} %" for name, value in shares.items() if value >= 0.005)
    head = f'<svg class="bar" width="100%" height="{height}" role="img" aria-label="{html.escape(label)}">'
    return f"{head}{''.join(parts)}</svg>"


def timeline(tracks: Sequence[Track], bin_s: float, end_s: float, marks: Sequence[tuple[int, int, float]] = ()) -> str:
    """Stacked shares of the expressions over time, a panel per track; where a panel is white, its face was not seen.

    Args:
        tracks: from top to bottom.
        bin_s: width of a bin in seconds; bin k is from k bin_s on.
        end_s: end of the time axis.
        marks: (place of the track, number to write, seconds) of moments.
    """
    end_s = max(end_s, bin_s)
    width = _WIDTH - _LEFT - _RIGHT
    height = len(tracks) * (_PANEL + _GAP) + _AXIS
    parts = []
    for place, track in enumerate(tracks):
        top = place * (_PANEL + _GAP) + _GAP
        parts.append(f'<text x="{_LEFT}" y="{top - 17}" class="label">{html.escape(track.label)}</text>')
        parts.append(f'<rect x="{_LEFT}" y="{top}" width="{width}" height="{_PANEL}" class="ground"/>')
        for share, text in ((0, "0"), (0.5, "50"), (1, "100 %")):
            y = top + _PANEL * (1 - share)
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" class="tick">{text}</text>')
        parts += _areas(track, top, width, bin_s, end_s)
        for of_track, number, at_s in marks:
            if of_track == place:
                x = _LEFT + width * min(at_s / end_s, 1)
                parts.append(
                    f'<path d="M{x:.1f} {top}v{_PANEL}" class="mark"/><text x="{x:.1f}" y="{top - 4}" '
                    f'text-anchor="middle" class="number">{number}</text>'
                )
    parts += _axis(len(tracks) * (_PANEL + _GAP), width, end_s)
    label = f"Expressions over time, {len(tracks)} faces, {clock(end_s)}"
    return (
        f'<svg class="timeline" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _areas(track: Track, top: float, width: float, bin_s: float, end_s: float) -> list[str]:
    def x_of(bins: np.ndarray) -> np.ndarray:
        return _LEFT + width * np.minimum(bins * bin_s / end_s, 1)

    paths: dict[str, list[str]] = {name: [] for name in EXPRESSION_COLOURS}
    doubtful = []
    if not len(track.bin_number):
        return []
    for run in np.split(np.arange(len(track.bin_number)), np.flatnonzero(np.diff(track.bin_number) > 1) + 1):
        bins = track.bin_number[run]
        x = np.repeat(x_of(np.append(bins, bins[-1] + 1)), 2)[1:-1]  # each bin is a step
        upper = np.cumsum(track.prob[run], axis=1)
        upper = np.clip(upper / np.maximum(upper[:, -1:], 1e-9), 0, 1)
        lower = np.concatenate([np.zeros((len(run), 1)), upper[:, :-1]], axis=1)
        for k, name in enumerate(EXPRESSION_COLOURS):
            if (upper[:, k] - lower[:, k]).max() < 0.004:
                continue
            above = top + _PANEL * (1 - np.repeat(upper[:, k], 2))
            below = top + _PANEL * (1 - np.repeat(lower[:, k], 2))
            points = [*zip(x, above, strict=True), *zip(x[::-1], below[::-1], strict=True)]
            paths[name].append("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points) + "Z")
        doubtful += [
            f"M{x_of(bins[i : i + 1])[0]:.1f} {top + _PANEL + 3}h{max(width * bin_s / end_s, 0.5):.1f}"
            for i in np.flatnonzero(track.doubtful[run])
        ]
    drawn = [f'<path d="{"".join(d)}" fill="{EXPRESSION_COLOURS[name]}"/>' for name, d in paths.items() if d]
    if doubtful:
        drawn.append(f'<path d="{"".join(doubtful)}" class="doubtful"/>')
    return drawn


def _axis(y: float, width: float, end_s: float) -> list[str]:
    step_s = next((step for step in _STEPS_S if end_s / step <= _MAX_TICKS), _STEPS_S[-1])
    parts = []
    for k in range(math.floor(end_s / step_s) + 1):
        x = _LEFT + width * k * step_s / end_s
        anchor = "end" if x > _WIDTH - 30 else "middle"
        parts.append(f'<path d="M{x:.1f} {y + 4}v5" class="axis"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 21}" text-anchor="{anchor}" class="tick">{clock(k * step_s)}</text>')
    return parts
