"""Commits that short videos share: what the workers have analysed is gathered here and committed together.

A commit takes about as long for a hundred short videos as for one, and each leaves a file in every table. The rows are
held by the process that watches the workers, so that a worker that dies costs no video but its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.analyzed import AnalyzedVideo, commit_together
from storage.lake import Lake
from storage.records import VideoOutcome

__all__ = ["SharedCommits"]

#: What a commit has of any one video's time: as long as this after the video was begun, it is committed. So one that
#: took longer is committed at once, and what is finished shows within half a minute, with the time of the commit.
_SHARE_S = 20.0
#: More videos or bytes of rows than these do not wait for each other.
_MAX_VIDEOS = 500
_MAX_BYTES = 64 * 2**20

Complete = Callable[[VideoOutcome], VideoOutcome]


@dataclass(frozen=True)
class _Waiting:
    video: AnalyzedVideo
    complete: Complete
    due_s: float
    n_bytes: int


class SharedCommits:
    """Gathers short videos and commits them in a thread, one commit at a time, so that workers need not wait.

    Args:
        lake: receives the rows.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._thread = ThreadPoolExecutor(1, "commit")
        self._waiting: list[_Waiting] = []
        self._committing: Future[list[VideoOutcome]] | None = None
        self.cpu_s = 0.0

    def add(self, video: AnalyzedVideo, complete: Complete) -> None:
        """Take a video; ``complete`` makes its outcome that of its task, once it is committed."""
        assert video.observations is not None
        due_s = time.monotonic() + _SHARE_S - video.elapsed_s
        self._waiting.append(_Waiting(video, complete, due_s, video.observations.nbytes))

    @property
    def is_full(self) -> bool:
        """Whether more rows wait than memory is meant to hold: analyse no more until a commit has ended."""
        return sum(each.n_bytes for each in self._waiting) > _MAX_BYTES

    def poll(self) -> Iterator[VideoOutcome]:
        """The outcomes of a commit that has ended; begins the next one where it is due. Raises LakeError."""
        if self._committing is not None and self._committing.done():
            yield from self._take()
        if self._committing is None and self._waiting and self._is_due():
            self._begin()

    def flush(self) -> Iterator[VideoOutcome]:
        """Commit everything now and wait for it. Raises LakeError."""
        while self._committing is not None or self._waiting:
            if self._committing is None:
                self._begin()
            yield from self._take()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _is_due(self) -> bool:
        first_s = min(each.due_s for each in self._waiting)
        return self.is_full or len(self._waiting) >= _MAX_VIDEOS or time.monotonic() >= first_s

    def _begin(self) -> None:
        group, self._waiting = self._waiting, []
        self._committing = self._thread.submit(self._commit, group)

    def _take(self) -> list[VideoOutcome]:
        assert self._committing is not None
        try:
            return self._committing.result()
        finally:
            if self._committing.done():  # else somebody was interrupted while waiting, and may wait for it again
                self._committing = None

    def _commit(self, group: list[_Waiting]) -> list[VideoOutcome]:
        begun_s = time.thread_time()
        outcomes = commit_together(self._lake, [each.video for each in group])
        self.cpu_s += time.thread_time() - begun_s
        return [each.complete(outcome) for each, outcome in zip(group, outcomes, strict=True)]
