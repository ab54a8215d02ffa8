"""Numbered pictures in a folder that make one video: ``/data/walk/left_#.png@25fps`` names all of them and their rate.

The folder may be a prefix in an object store.

Where a path may mean such a sequence, ``status_of`` takes the place of ``Path.stat``.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

from storage.delta.object_store import Status, StoragePath

__all__ = ["PathKind", "PictureSequence", "group_numbered", "is_file", "sequence_of", "status_of"]

_NAME = re.compile(r"(.*)#([^#]*)@([0-9.]+)fps", re.DOTALL)
#: A file's name without its extension: the last number in it is that of the picture.
_NUMBERED = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)
#: Numbers of which more than half are missing, such as dates, do not count frames.
_MOST_PLACES = 2
PathKind = TypeVar("PathKind", bound=StoragePath)


@dataclass(frozen=True)
class PictureSequence(Generic[PathKind]):
    """Pictures of one folder whose names differ in their last number alone, shown ``fps`` a second."""

    folder: PathKind
    prefix: str
    suffix: str
    fps: float

    @property
    def path(self) -> PathKind:
        """The name under which a lake knows it."""
        name = f"{self.prefix}#{self.suffix}@{_rate(self.fps)}fps"
        return cast(PathKind, self.folder / name)

    def frames(self) -> tuple[list[tuple[int, PathKind]], str]:
        """(frame, file) by number, and a note where the numbers do not count frames.

        Numbers that rise in equal steps follow each other; one that is missing leaves its frame empty. Where numbers
        repeat (1 and 01), or most are missing, the pictures follow each other without gaps.

        Raises:
            OSError: the folder cannot be listed; FileNotFoundError where it has no such picture.
            LakeError: the object store cannot be asked.
        """
        found = []
        for file in cast(Iterable[PathKind], self.folder.iterdir()):
            if (split := _split(file.name)) and (split[0], split[2]) == (self.prefix, self.suffix):
                found.append((split[1], file))
        if not found:
            raise FileNotFoundError(2, "there are no such pictures", str(self.path))
        found.sort(key=lambda each: (each[0], each[1].name))
        numbers = [number for number, _ in found]
        step = math.gcd(*(number - numbers[0] for number in numbers)) or 1
        places = [(number - numbers[0]) // step for number in numbers]
        note = ""
        if len(set(places)) < len(places):
            note = "some numbers of the pictures repeat, so the pictures follow each other without gaps"
        elif places[-1] + 1 > _MOST_PLACES * len(places):
            note = "most numbers between the pictures are missing, so the pictures follow each other without gaps"
        return [(k if note else places[k], file) for k, (_, file) in enumerate(found)], note

    def status(self) -> Status:
        """The size of all files, and the last change of one of them or of a folder on a disk. Raises as ``frames``."""
        statuses = [file.stat() for _, file in self.frames()[0]]
        changed_ns = max(status.st_mtime_ns for status in statuses)
        if isinstance(self.folder, Path):
            changed_ns = max(changed_ns, self.folder.stat().st_mtime_ns)
        return Status(sum(status.st_size for status in statuses), changed_ns)


def sequence_of(path: PathKind) -> PictureSequence[PathKind] | None:
    """The sequence that a path names; None where it names none, or where a file or folder has that very name."""
    match = _NAME.fullmatch(path.name)
    if match is None or (isinstance(path, Path) and os.path.lexists(path)):
        return None
    prefix, suffix, rate = match.groups()
    try:
        fps = float(rate)
    except ValueError:
        return None
    return PictureSequence(cast(PathKind, path.parent), prefix, suffix, fps) if 0 < fps < math.inf else None


def group_numbered(files: Iterable[PathKind], fps: float) -> dict[PictureSequence[PathKind], list[PathKind]]:
    """The files by the sequence that each belongs to; files without a number are in none."""
    fps = float(_rate(fps))  # as the name will say it
    groups: dict[PictureSequence[PathKind], list[PathKind]] = {}
    for file in files:
        if split := _split(file.name):
            groups.setdefault(PictureSequence(cast(PathKind, file.parent), split[0], split[2], fps), []).append(file)
    return groups


def status_of(path: StoragePath) -> os.stat_result | Status:
    """Size and time of a file, an object or a sequence of pictures. Raises OSError where there is none."""
    sequence = sequence_of(path)
    return path.stat() if sequence is None else sequence.status()


def is_file(path: Path) -> bool:
    """Whether there is such a file, or a sequence of pictures of that name."""
    try:
        status = status_of(path)
    except OSError:
        return False
    return isinstance(status, Status) or stat.S_ISREG(status.st_mode)


def _rate(fps: float) -> str:
    return f"{fps:.6f}".rstrip("0").rstrip(".")


def _split(name: str) -> tuple[str, int, str] | None:
    """What comes before the last number of a file's name, the number, and what comes after it."""
    stem, extension = os.path.splitext(name)
    match = _NUMBERED.fullmatch(stem)
    return (match[1], int(match[2]), match[3] + extension) if match else None
