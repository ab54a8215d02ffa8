"""Which files a run is about: named ones, and those that a folder's names say are videos."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import VideoError
from pipelines.remote import objects_below
from storage.delta.object_store import ObjectPath, is_uri
from storage.delta.object_store import Place as StoragePath

__all__ = ["VIDEO_EXTENSIONS", "FoundVideos", "absolute", "find_videos"]

#: What a folder is searched for, in any case; a file that is named explicitly is tried whatever its extension.
VIDEO_EXTENSIONS = frozenset(
    {
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".dv",
        ".f4v",
        ".flv",
        ".gif",
        ".m1v",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mj2",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpe",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogm",
        ".ogv",
        ".qt",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".y4m",
    }
)


@dataclass(frozen=True)
class FoundVideos:
    """The paths to try, in a stable order and each once; how many other files were passed by; and what went wrong.

    ``videos`` may hold what turns out to be no video, such as a folder or a named pipe called ``x.mp4``: opening it
    says so. ``problems`` are paths that are missing and folders that cannot be listed.
    """

    videos: tuple[StoragePath, ...]
    ignored_count: int
    problems: tuple[VideoError, ...]


def find_videos(paths: Iterable[str | Path]) -> FoundVideos:
    """Search folders recursively, links included, and take whatever else is named.

    Args:
        paths: files and folders; patterns of such (``*``, ``?``, ``[...]``, ``**`` for any folders), unless something
            has that very name; objects and prefixes in an object store (``s3://bucket/prefix``). The order of the
            result follows theirs and, within a folder or pattern, the bytes of the names.
    """
    videos: dict[str, StoragePath] = {}
    problems: list[VideoError] = []
    visited: set[tuple[int, int]] = set()
    n_ignored = 0
    for named in paths:
        if is_uri(named):
            n_ignored += _search_store(str(named), videos, problems)
            continue
        for path in (matches := _matches(named)) or [Path(named)]:
            try:
                is_folder = stat.S_ISDIR(path.stat().st_mode) and not _has_video_name(path.name)
            except OSError as error:
                problems.append(_problem(path, error))
                continue
            if is_folder:
                n_ignored += _search(path, videos, problems, visited)
            elif matches and not _has_video_name(path.name):
                n_ignored += 1
            else:
                videos.setdefault(os.path.abspath(path), path)
    return FoundVideos(tuple(videos.values()), n_ignored, tuple(problems))


def _matches(named: str | Path) -> list[Path]:
    """What a pattern stands for; nothing where it is none, or the name of something."""
    pattern = os.fspath(named)
    if not glob.has_magic(pattern) or os.path.lexists(pattern):
        return []
    return [Path(found) for found in sorted(glob.glob(pattern, recursive=True), key=os.fsencode)]


def _search(
    folder: Path, videos: dict[str, StoragePath], problems: list[VideoError], visited: set[tuple[int, int]]
) -> int:
    """Add a folder's videos, depth first; return how many other files it holds."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in visited:  # a link back up, or a folder named twice
            return 0
        visited.add((status.st_dev, status.st_ino))
        names = sorted(os.listdir(folder), key=os.fsencode)
    except OSError as error:
        problems.append(_problem(folder, error))
        return 0
    n_ignored = 0
    for name in names:
        path = folder / name
        if _has_video_name(name):
            videos.setdefault(os.path.abspath(path), path)
        elif path.is_dir():
            n_ignored += _search(path, videos, problems, visited)
        else:
            n_ignored += 1
    return n_ignored


def _search_store(uri: str, videos: dict[str, StoragePath], problems: list[VideoError]) -> int:
    n_ignored = 0
    try:
        prefix = ObjectPath(uri)
        for found in objects_below(prefix):
            if found == prefix or _has_video_name(found.name):
                videos.setdefault(str(found), found)
            else:
                n_ignored += 1
    except VideoError as error:
        problems.append(error)
    return n_ignored


def absolute(video: StoragePath) -> StoragePath:
    """The path under which a video is known, whatever the folder of the process: links stay, objects are as named."""
    return video if isinstance(video, ObjectPath) else Path(os.path.abspath(video))


def _has_video_name(name: str) -> bool:
    # "._clip.mp4" is macOS's side file of clip.mp4
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS and not name.startswith("._")


def _problem(path: Path, error: OSError) -> VideoError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return VideoError("missing", "open", path, "there is no such file or folder; check the name and the mount")
    message = f"the folder cannot be searched ({error.strerror}); check its permissions and the disk"
    return VideoError("unreadable", "open", path, message)
