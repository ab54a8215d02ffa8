"""Which files a run is about: named ones, and those that a folder's names say are videos."""

from __future__ import annotations

import codecs
import fnmatch
import glob
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import VideoError
from pipelines.remote import objects_below
from storage.delta.object_store import ObjectPath, StoragePath, is_uri
from storage.errors import LakeError
from storage.identity import as_stored, composed
from storage.sequences import PathKind, group_numbered, sequence_of

__all__ = ["PICTURE_EXTENSIONS", "VIDEO_EXTENSIONS", "FoundVideos", "absolute", "find_videos"]

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
        ".insv",
        ".lrv",
        ".m1v",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mj2",
        ".mjpeg",
        ".mjpg",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpe",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".nut",
        ".ogm",
        ".ogv",
        ".qt",
        ".rm",
        ".rmvb",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".y4m",
    }
)
#: Pictures in a folder, in any case; they are counted, and analysed where that is asked for.
PICTURE_EXTENSIONS = frozenset(
    {
        ".apng",
        ".avif",
        ".bmp",
        ".dib",
        ".heic",
        ".heif",
        ".hif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)

#: Extensions that program text has, too: the file's bytes decide.
_ALSO_TEXT = frozenset({".mts", ".ts"})
_HEAD_BYTES = 4096
#: Folders in which systems keep deleted files, previews and old versions; so are all whose names begin with a dot.
_SYSTEM_FOLDERS = frozenset(
    {"#recycle", "$recycle.bin", "@eadir", "__macosx", "lost+found", "system volume information"}
)


@dataclass(frozen=True)
class FoundVideos:
    """The paths to try, in a stable order and each once; how many other files and folders were passed by, how many of
    these are pictures; and what went wrong.

    ``videos`` may hold what turns out to be no video, such as a named pipe called ``x.mp4``: opening it says so.
    ``problems`` are paths that are missing and folders that cannot be listed.
    """

    videos: tuple[StoragePath, ...]
    ignored_count: int
    problems: tuple[VideoError, ...]
    n_pictures: int = 0


def find_videos(
    paths: Iterable[str | Path],
    exclude: Iterable[str] = (),
    *,
    pictures: bool = False,
    sequence_fps: float | None = None,
) -> FoundVideos:
    """Search folders recursively, links included, and take whatever else is named.

    Passed by in folders, and counted: files without a video's extension, program text that ends in ``.ts`` or ``.mts``,
    what is hidden, folders of deleted files and previews (``@eaDir``, ``$RECYCLE.BIN``), folders named like videos.

    Args:
        paths: files and folders; patterns of such (``*``, ``?``, ``[...]``, ``**`` for any folders), unless something
            has that very name; objects and prefixes in an object store (``s3://bucket/prefix``). The order of the
            result follows theirs and, within a folder or pattern, the bytes of the names.
        exclude: patterns of what to leave out: ``*_proxy.mp4`` and ``drafts`` fit the name of any file or folder,
            ``2024/*/raw`` (with a slash) the end of a path.
        pictures: take the pictures in folders, too.
        sequence_fps: take pictures whose names differ in their last number alone as one video of that rate, by the
            name of the sequence (``storage/sequences.py``); a picture that is named stands for its sequence.
    """
    search = _Search(tuple(composed(pattern.rstrip("/")) for pattern in exclude), pictures, sequence_fps)
    for named in paths:
        if is_uri(named):
            search.store(str(named))
        else:
            search.named(named)
    n_pictures = len(search.pictures_seen - search.videos.keys())
    return FoundVideos(tuple(search.videos.values()), search.n_ignored + n_pictures, tuple(search.problems), n_pictures)


class _Search:
    """What has been found so far."""

    def __init__(self, exclude: tuple[str, ...], pictures: bool, sequence_fps: float | None) -> None:
        self.exclude, self.pictures, self.sequence_fps = exclude, pictures, sequence_fps
        self.videos: dict[str, StoragePath] = {}
        self.problems: list[VideoError] = []
        self.pictures_seen: set[str] = set()  # and not taken where they were seen
        self.n_ignored = 0
        self._visited: set[tuple[int, int]] = set()

    def named(self, named: str | Path) -> None:
        """What is at a path or fits a pattern."""
        if sequence_of(Path(named)):
            self._add(Path(named))
            return
        matches = _matches(named)
        takes_pictures = not matches or _has_extension(str(named), PICTURE_EXTENSIONS)
        paths = matches or [as_stored(named)]
        sequences = self._sequences(paths)
        for path in paths:
            try:
                is_folder = stat.S_ISDIR(path.stat().st_mode)
            except OSError as error:
                self.problems.append(_problem(path, error))
                continue
            if self._is_excluded(path):
                self.n_ignored += 1
            elif is_folder:
                self.folder(path)
            elif _has_extension(path.name, PICTURE_EXTENSIONS):
                self._picture(path, sequences, is_wanted=takes_pictures or self.pictures)
            elif matches and not _is_video(path):
                self.n_ignored += 1
            else:
                self._add(path)

    def folder(self, folder: Path) -> None:
        """What is in a folder, depth first."""
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self._visited:  # a link back up, or a folder named twice
                return
            self._visited.add((status.st_dev, status.st_ino))
            names = sorted(os.listdir(folder), key=os.fsencode)
        except OSError as error:
            self.problems.append(_problem(folder, error))
            return
        paths = [folder / name for name in names]
        sequences = self._sequences(paths)
        for name, path in zip(names, paths, strict=True):
            if _is_hidden(name) or self._is_excluded(path):
                self.n_ignored += 1
            elif path.is_dir() and not _has_extension(name, VIDEO_EXTENSIONS):
                self.folder(path)
            elif _is_video(path) and not path.is_dir():
                self._add(path)
            elif _has_extension(name, PICTURE_EXTENSIONS) and not path.is_dir():
                self._picture(path, sequences, is_wanted=self.pictures)
            else:
                self.n_ignored += 1

    def store(self, uri: str) -> None:
        """The object of that name, or what is below that prefix."""
        try:
            place = ObjectPath(uri)
            if sequence_of(place):
                self._add(place)
                return
            objects: Iterable[ObjectPath] = objects_below(place)
            if self.sequence_fps is not None:
                objects = list(objects)
            sequences = self._sequences(objects)
            for found in objects:
                below = str(found).removeprefix(str(place)).strip("/").split("/")
                if found != place and (any(map(_is_hidden, below)) or self._is_excluded(found)):
                    self.n_ignored += 1
                elif _has_extension(found.name, PICTURE_EXTENSIONS):
                    self._picture(found, sequences, is_wanted=found == place or self.pictures)
                elif found == place or _is_video(found):
                    self._add(found)
                else:
                    self.n_ignored += 1
        except VideoError as error:
            self.problems.append(error)

    def _sequences(self, paths: Iterable[PathKind]) -> dict[PathKind, PathKind | None]:
        """The name of the sequence that each picture is in, of those that are in one; None of one that is a problem."""
        if self.sequence_fps is None:
            return {}
        named = (path for path in paths if _has_extension(path.name, PICTURE_EXTENSIONS))
        pictures = (path for path in named if isinstance(path, ObjectPath) or path.is_file())
        found: dict[PathKind, PathKind | None] = {}
        for sequence, files in group_numbered(pictures, self.sequence_fps).items():
            everything = [file for _, file in sequence.frames()[0]]
            n_excluded = sum(map(self._is_excluded, everything))
            if self._is_excluded(sequence.path) or len(everything) < 2 or n_excluded == len(everything):
                continue
            if n_excluded:
                self.problems.append(_cut_sequence(sequence.path, n_excluded, len(everything)))
            found |= dict.fromkeys(files, None if n_excluded else sequence.path)
        return found

    def _picture(self, path: PathKind, sequences: dict[PathKind, PathKind | None], *, is_wanted: bool) -> None:
        if path in sequences:
            if name := sequences[path]:
                self._add(name)
        elif is_wanted:
            self._add(path)
        else:
            self.pictures_seen.add(str(absolute(path)))

    def _add(self, path: StoragePath) -> None:
        self.videos.setdefault(str(absolute(path)), path)

    def _is_excluded(self, path: StoragePath) -> bool:
        parts = composed(str(path)).split("/")
        for pattern in self.exclude:
            n = pattern.count("/") + 1
            if fnmatch.fnmatchcase("/".join(parts[-n:]), pattern):
                return True
            if isinstance(path, ObjectPath) and any(
                fnmatch.fnmatchcase("/".join(parts[i : i + n]), pattern) for i in range(len(parts) - n + 1)
            ):
                return True  # a store has no folders that could be left out before
        return False


def _matches(named: str | Path) -> list[Path]:
    """What a pattern stands for; nothing where it is none, or the name of something."""
    pattern = os.fspath(named)
    if not glob.has_magic(pattern) or os.path.lexists(pattern):
        return []
    return [Path(found) for found in sorted(glob.glob(pattern, recursive=True), key=os.fsencode)]


def absolute(video: StoragePath) -> StoragePath:
    """The path under which a video is known, whatever the folder of the process: links stay, objects are as named."""
    return video if isinstance(video, ObjectPath) else Path(os.path.abspath(video))


def _has_extension(name: str, extensions: frozenset[str]) -> bool:
    return os.path.splitext(name)[1].lower() in extensions


def _is_hidden(name: str) -> bool:
    """Whether a name is not shown to people, or a system's own; "._clip.mp4" is macOS's side file of clip.mp4."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def _is_video(path: StoragePath) -> bool:
    """Whether a file's name, and where that leaves a doubt its first bytes, say that it is a video."""
    if not _has_extension(path.name, VIDEO_EXTENSIONS):
        return False
    if os.path.splitext(path.name)[1].lower() not in _ALSO_TEXT:
        return True
    try:
        if isinstance(path, ObjectPath):
            head = path.read_range(0, min(_HEAD_BYTES, path.stat().st_size))
        elif not path.is_file():  # a pipe would wait for a writer
            return True
        else:
            with path.open("rb") as file:
                head = file.read(_HEAD_BYTES)
    except (OSError, LakeError):
        return True  # opening it will say why
    return not head or not _is_text(head)


def _is_text(head: bytes) -> bool:
    """Whether a file that begins so is text, in UTF-8 or UTF-16: a transport stream has zero bytes in every packet."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    if b"\0" in head:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True


def _cut_sequence(path: StoragePath, n_excluded: int, n_pictures: int) -> VideoError:
    """A sequence is known by a name that stands for all of its pictures, so it is never read without some of them."""
    message = (
        f"--exclude leaves out {n_excluded} of {n_pictures} pictures of this sequence, which is only read as a whole;"
        f" move them to another folder, or leave out all with --exclude {path.name!r}"
    )
    return VideoError("pictures_missing", "open", str(path), message)


def _problem(path: Path, error: OSError) -> VideoError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return VideoError("missing", "open", path, "there is no such file or folder; check the name and the mount")
    message = f"the folder cannot be searched ({error.strerror}); check its permissions and the disk"
    return VideoError("unreadable", "open", path, message)
