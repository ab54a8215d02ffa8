"""A picture of the expressions of each face over time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from dashboards.outputs.palette import EXPRESSION_COLOURS
from storage.wording import counted

__all__ = ["write_timeline"]

#: More samples than this in one panel are averaged over time: the picture has no more columns to show them.
_MAX_COLUMNS = 1200
#: A face is away where its next sample is further off than this many sampling steps or durations of the frame.
_GAP_STEPS = 1.6
_INK, _FAINT = "#333333", "#8a8a8a"


@dataclass(frozen=True)
class _Panel:
    """One face track: times and durations float64 [N] in seconds, prob float64 [N,K] with 0 for a missing class."""

    path: str
    track_id: int
    time_s: np.ndarray
    duration_s: np.ndarray
    prob: np.ndarray
    step_s: float
    end_s: float


def write_timeline(
    scores: pa.Table, png_path: str | Path, title: str = "Apparent expression over time", max_panels: int = 12
) -> Path:
    """Draw the share of each expression over time, one panel per video and face track.

    Areas are stacked to 100 %; where a panel is empty, its face was not seen.

    Args:
        scores: one row per face and frame, with columns ``path``, ``track_id``, ``time_s``, ``duration_s`` and
            ``p_<expression>`` for any of the eight expressions; a NULL probability is a class that the model lacks.
        png_path: where to write.
        title: heading of the picture.
        max_panels: the tracks seen for the longest time are drawn; how many are left out is said below.

    Returns:
        The path.

    Raises:
        ValueError: a column is missing.
    """
    wanted = ["path", "track_id", "time_s", "duration_s"]
    names = [name for name in EXPRESSION_COLOURS if f"p_{name}" in scores.column_names]
    if missing := [column for column in wanted if column not in scores.column_names] or ([] if names else ["p_*"]):
        raise ValueError(f"a timeline needs the columns {', '.join([*wanted, 'p_*'])}; missing: {', '.join(missing)}")
    tracks = scores.group_by(wanted[:2]).aggregate([("duration_s", "sum"), ("time_s", "min")])
    longest = tracks.sort_by([("duration_s_sum", "descending"), ("path", "ascending"), ("track_id", "ascending")])
    chosen = longest.slice(0, max_panels).sort_by([("path", "ascending"), ("time_s_min", "ascending")])
    panels = [_panel(scores, names, row["path"], row["track_id"]) for row in chosen.to_pylist()]
    n_rows = max(len(panels), 1)
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08, hspace=0.04)
    figure = Figure(figsize=(12, 1.2 + 1.4 * n_rows), dpi=130, layout=layout)
    axes = figure.subplots(n_rows, 1, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel, names)
    if not panels:
        axes[0].set_axis_off()
        axes[0].text(0.5, 0.5, "no face was found", ha="center", va="center", color=_FAINT, fontsize=12)
    shown = [n for k, n in enumerate(names) if any(panel.prob[:, k].any() for panel in panels)]
    figure.legend(
        handles=[Patch(color=EXPRESSION_COLOURS[name], label=name) for name in shown],
        title=title,
        title_fontproperties={"size": 14, "weight": "bold"},
        labelcolor=_INK,
        loc="outside upper left",
        alignment="left",
        ncols=8,
        frameon=False,
        handlelength=1.0,
    )
    if hidden := tracks.num_rows - len(panels):
        note = f"{counted(hidden, 'shorter track')} {'is' if hidden == 1 else 'are'} not shown"
        figure.supxlabel(note, fontsize=9, color=_FAINT, x=0.99, ha="right")
    figure.savefig(png_path, format="png")
    return Path(png_path)


def _panel(scores: pa.Table, names: list[str], path: str, track_id: int) -> _Panel:
    of_video = scores.filter(pc.equal(scores["path"], path))
    rows = of_video.filter(pc.equal(of_video["track_id"], track_id)).sort_by("time_s")
    time_s, duration_s = (_floats(rows, column) for column in ("time_s", "duration_s"))
    prob = np.nan_to_num(np.stack([_floats(rows, f"p_{name}") for name in names], 1))
    sampled_s = np.unique(_floats(of_video, "time_s"))
    step_s = float(np.median(np.diff(sampled_s))) if len(sampled_s) > 1 else 0.0
    step_s = max(step_s, float(np.median(duration_s)))
    end_s = float((_floats(of_video, "time_s") + _floats(of_video, "duration_s")).max())
    if len(time_s) > _MAX_COLUMNS:
        time_s, duration_s, prob, step_s = _average(time_s, duration_s, prob, step_s)
    return _Panel(path, track_id, time_s, duration_s, prob, step_s, end_s)


def _floats(table: pa.Table, column: str) -> np.ndarray:
    return table[column].to_numpy().astype(np.float64)


def _average(
    time_s: np.ndarray, duration_s: np.ndarray, prob: np.ndarray, step_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Means over equal spans of time, weighted by how long each frame is shown."""
    width_s = max((time_s[-1] - time_s[0]) / _MAX_COLUMNS, 2 * step_s)  # no span of a seen face stays empty
    span, column = np.unique(((time_s - time_s[0]) // width_s).astype(np.int64), return_inverse=True)
    weight = np.maximum(duration_s, 1e-9)
    total = np.bincount(column, weight)
    means = [np.bincount(column, weight * values) / total for values in prob.T]
    return time_s[0] + span * width_s, np.full(len(span), width_s), np.stack(means, 1), width_s


def _draw(axis: Axes, panel: _Panel, names: list[str]) -> None:
    colours = [EXPRESSION_COLOURS[name] for name in names]
    lasting_s = np.maximum(panel.duration_s, panel.step_s)[:-1]
    away = np.flatnonzero(np.diff(panel.time_s) > _GAP_STEPS * lasting_s) + 1
    for run in np.split(np.arange(len(panel.time_s)), away):
        end_s = panel.time_s[run[-1]] + panel.duration_s[run[-1]]  # the last frame is shown until here
        x = np.append(panel.time_s[run], end_s)
        y = np.vstack([panel.prob[run], panel.prob[run[-1]]])
        axis.stackplot(x, y.T, colors=colours, linewidth=0)
    shares = np.average(panel.prob, axis=0, weights=np.maximum(panel.duration_s, 1e-9))
    leading = np.argsort(-shares)[:3]
    means = ", ".join(f"{names[k]} {shares[k] * 100:.0f} %" for k in leading if shares[k] >= 0.05)
    axis.set_title(f"{Path(panel.path).name}  ·  face {panel.track_id}", loc="left", fontsize=10, color=_INK)
    axis.set_title(f"mean: {means}", loc="right", fontsize=9, color=_FAINT)
    axis.set_xlim(0, panel.end_s)
    axis.xaxis.set_major_formatter("{x:g} s")
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1], ["0", "50", "100 %"])
    axis.tick_params(colors=_FAINT, labelsize=8, length=3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#bbbbbb")
