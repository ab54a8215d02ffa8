"""Progress on a terminal: rate and remaining time; silence where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from flows.run import Progress
from storage.identity import path_shown
from storage.records import VideoOutcome

__all__ = ["make_progress", "training_progress"]


_STOPPING = "stopping when the segments at work are done; press Ctrl-C again to stop at once"
#: What the bar of a stage counts.
_UNITS = {"train": "steps", "export": "videos", "report": "videos", "people": "videos", "render": "frames"}


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {task.fields.get('unit', '')}/s" if task.speed else "", style="dim")


def _bars() -> Bars:
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


class _TerminalProgress(Progress):
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._videos = bars.add_task("videos", total=None, unit="videos")
        self._frames = bars.add_task("frames", total=0, unit="frames")
        self._known: dict[str, tuple[int, int]] = {}
        self._done = self._total = 0  # over all of them

    def begin(self, n_videos: int) -> None:
        self._bars.update(self._videos, total=n_videos)

    def more(self, n_videos: int) -> None:
        self._bars.update(self._videos, total=(self._bars.tasks[self._videos].total or 0) + n_videos)

    def frames(self, path: str, n_done: int, n_frames: int) -> None:
        before = self._known.get(path, (0, 0))
        self._known[path] = (n_done, n_frames)
        self._done += n_done - before[0]
        self._total += n_frames - before[1]
        description = f"frames ({path_shown(Path(path).name)[:30]})"
        self._bars.update(self._frames, completed=self._done, total=self._total, description=description)

    def video(self, outcome: VideoOutcome) -> None:
        self._bars.advance(self._videos)
        if outcome.status in ("failed", "partial"):
            text = f"{outcome.status} {outcome.code}: {path_shown(outcome.path)}"
            self._bars.console.print(text, style="yellow", highlight=False, markup=False)

    def stopping(self) -> None:
        self._bars.console.print(_STOPPING, style="yellow")


class _QuietProgress(Progress):
    def stopping(self) -> None:
        print(f"mfer: {_STOPPING}", file=sys.stderr, flush=True)


@contextmanager
def make_progress(quiet: bool = False) -> Iterator[Progress]:
    """Bars over videos and frames on a terminal, nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield _QuietProgress()
        return
    with _bars() as bars:
        yield _TerminalProgress(bars)


@contextmanager
def training_progress(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A function (stage, done, total) that draws one bar per stage on a terminal, and does nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    with _bars() as bars:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            name, _, detail = stage.partition(":")
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, unit=_UNITS.get(name, "faces"))
            bars.update(tasks[name], completed=done, total=total, description=stage if detail else name)

        yield show
