"""Measure the CPU time of each stage of an analysis; cheap enough to be always on."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["cpu_seconds", "profile_table", "reset_stages", "stage", "staged"]

T = TypeVar("T")


class _Stages(threading.local):
    """The stages that a thread is in, innermost last, and the thread's CPU time at the last mark."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.marked_s = 0.0


_current = _Stages()
_lock = threading.Lock()
_seconds: defaultdict[str, float] = defaultdict(float)


def _charge() -> None:
    """Add the time since the last mark to the innermost stage."""
    now_s = time.thread_time()
    if _current.names:
        with _lock:
            _seconds[_current.names[-1]] += now_s - _current.marked_s
    _current.marked_s = now_s


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count this thread's CPU time for a stage; time in a nested stage counts for that one only."""
    _charge()
    _current.names.append(name)
    try:
        yield
    finally:
        _charge()
        _current.names.pop()


def staged(name: str, items: Iterable[T]) -> Iterator[T]:
    """Yield the same items, and count the making of each for a stage."""
    source = iter(items)
    while True:
        with stage(name):
            try:
                item = next(source)
            except StopIteration:
                return
        yield item


def cpu_seconds() -> dict[str, float]:
    """CPU seconds of this process by stage since the last reset; ``other`` is time outside all stages."""
    with _lock:
        counted = dict(_seconds)
    return {**counted, "other": time.process_time() - sum(counted.values())}


def reset_stages() -> None:
    """Restart the count; what the process has used so far becomes its stage ``start``."""
    with _lock:
        _seconds.clear()
        _seconds["start"] = time.process_time()


def profile_table(cpu_s: Mapping[str, float], n_frames: int) -> str:
    """Format CPU seconds by stage as a table."""
    total_s = sum(cpu_s.values())
    lines = [f"{'stage':10} {'CPU s':>8} {'share':>7} {'ms/frame':>9}"]
    for name, seconds in [*sorted(cpu_s.items(), key=lambda row: -row[1]), ("all", total_s)]:
        per_frame = f"{seconds / n_frames * 1000:9.2f}" if n_frames else f"{'':9}"
        lines.append(f"{name:10} {seconds:8.2f} {seconds / total_s if total_s else 0:7.1%} {per_frame}")
    return "\n".join(lines)
