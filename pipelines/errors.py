"""What can be wrong with one video; the folder goes on without it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["VideoError"]


class VideoError(Exception):
    """One video could not be analysed.

    ``code`` is one of the closed set in docs/errors.md, ``stage`` the part of the pipeline that gave up
    (``open``, ``decode``, ``detect``, ``score``, ``write``) and ``path`` the file.
    """

    def __init__(self, code: str, stage: str, path: str | Path, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.stage = stage
        self.path = str(path)
        self.message = message

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str, str, str]]:
        return VideoError, (self.code, self.stage, self.path, self.message)  # survives a process border
