"""Cut the labelled faces of a lake from their videos for training; the pictures are not stored."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mfer.faces import EncodedPictures, LabelledFaces
from mfer.prepared import PreparedFaces
from pipelines.errors import VideoError
from pipelines.learning.split import Split, split_videos, video_mark
from pipelines.remote import local_copy
from pipelines.video.stills import read_still
from storage.annotations.labels import LabelledFace, LakeLabels
from storage.identity import stream_of_video

__all__ = ["LakeFaces", "collect_faces", "face_mark", "known_faces"]

#: What is cut out around a face's centre, as a multiple of its box's larger side to each direction. The widest template
#: (face_evolve) reaches 0.8 at most; the rest is for faces that training turns, shifts and shrinks.
_REACH = 1.25
_FACE_MARK_DIGITS = 8
_LICENCE = "labels by people of this lake, on faces of its own videos"


@dataclass(frozen=True, kw_only=True)
class LakeFaces:
    """Faces for training and for testing (None if there are none), and counts of those left out, by reason.

    ``groups`` names the video of each test face. ``missing`` are videos with labels whose file is gone or has changed.
    ``learned`` and ``tested`` are the ``video_mark`` of both sides, ``marks`` the ``face_mark`` of what is learned:
    what the next split and the next refresh have to know, without an id of a video.
    """

    train: PreparedFaces | None
    test: PreparedFaces | None
    groups: tuple[str, ...]
    dropped: dict[str, int]
    missing: tuple[str, ...]
    learned: tuple[str, ...]
    tested: tuple[str, ...]
    marks: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """The record for the model's card."""
        return {
            "n_train": 0 if self.train is None else len(self.train),
            "n_test": 0 if self.test is None else len(self.test),
            "dropped": self.dropped,
            "learned_videos": list(self.learned),
            "tested_videos": list(self.tested),
            "learned_faces": " ".join(self.marks),
        }


def face_mark(face: LabelledFace) -> str:
    """A hash that changes with the face or its ratings, and from which the face cannot be found."""
    text = f"{face.name}/{face.faces_id}/{sorted(face.votes.items())}"
    return hashlib.sha256(text.encode()).hexdigest()[:_FACE_MARK_DIGITS]


def known_faces(
    labels: LakeLabels, class_names: tuple[str, ...], *, tested: Collection[str] = (), learned: Collection[str] = ()
) -> set[str]:
    """``face_mark`` of every face that could be learned from, without cutting one out; see ``collect_faces``."""
    train = {v for v in _split(labels, tested, learned).train if labels.file_of(v) is not None}
    return {face_mark(f) for f in labels.faces if f.video_id in train and _majority(f) in class_names}


def _majority(face: LabelledFace) -> str:
    """The expression that most raters named; ``read_labels`` leaves out faces without one."""
    return max(face.votes, key=lambda expression: face.votes[expression])


def _split(labels: LakeLabels, tested: Collection[str], learned: Collection[str]) -> Split:
    """Assign every video with a labelled face to a side, see ``split_videos``."""
    return split_videos(
        {face.video_id: labels.persons.get(face.video_id, ()) for face in labels.faces}, tested, learned
    )


def collect_faces(
    labels: LakeLabels,
    class_names: tuple[str, ...],
    channels: int,
    *,
    tested: Collection[str] = (),
    learned: Collection[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LakeFaces:
    """Cut every labelled face out of its video, with its surroundings, and split the faces into training and test.

    The stored landmarks go with the picture, so the crop contract cuts what it cuts in an analysis.

    Args:
        labels: from ``storage.annotations.labels.read_labels``.
        class_names: of the model; faces whose majority is of another class are left out and counted.
        channels: 1 or 3, what the crop contract wants of the pictures.
        tested, learned: ``video_mark`` of videos that earlier models were tested on or trained with.
        progress: called with (faces done, faces in all).
    """
    split = _split(labels, tested, learned)
    dropped = Counter(labels.dropped)
    sides: dict[str, list[LabelledFace]] = {"train": [], "test": []}
    for face in labels.faces:
        if _majority(face) not in class_names:
            dropped["not a class of the model"] += 1
        elif face.video_id in split.left_out:
            dropped["a person who is on the other side too"] += 1
        else:
            sides["test" if face.video_id in split.test else "train"].append(face)
    n_faces = sum(map(len, sides.values()))
    cut = _Cutter(labels, lambda done: progress(done, n_faces))
    train, test = (cut(faces, class_names, channels) for faces in sides.values())
    dropped.update(cut.dropped)
    return LakeFaces(
        train=train[0],
        test=test[0],
        groups=tuple(face.video_id for face in test[1]),
        dropped=dict(dropped),
        missing=tuple(sorted(cut.missing)),
        learned=tuple(sorted({video_mark(face.video_id) for face in train[1]})),
        tested=tuple(sorted({video_mark(face.video_id) for face in test[1]})),
        marks=tuple(sorted(face_mark(face) for face in train[1])),
    )


class _Cutter:
    """Cuts faces out of videos and counts those that it could not cut, by reason."""

    def __init__(self, labels: LakeLabels, report: Callable[[int], None]) -> None:
        self._labels, self._report = labels, report
        self._n_done = 0
        self.dropped: Counter[str] = Counter()
        self.missing: set[str] = set()

    def __call__(
        self, faces: Sequence[LabelledFace], class_names: tuple[str, ...], channels: int
    ) -> tuple[PreparedFaces | None, list[LabelledFace]]:
        kept, pictures, landmarks = [], [], []
        for video_id in sorted({face.video_id for face in faces}):
            ours = sorted((face for face in faces if face.video_id == video_id), key=lambda face: face.frame_index)
            try:
                for face, picture, points in self._cut_video(video_id, ours):
                    kept.append(face)
                    pictures.append(picture)
                    landmarks.append(points)
            except VideoError:
                self.missing.add(str(self._labels.files[video_id][0]["path"]))
                self.dropped["video gone or changed"] += len(ours)
            self._n_done += len(ours)
            self._report(self._n_done)
        if not kept:
            return None, []
        labelled = _labelled(kept, pictures, class_names)
        found = np.ones(len(kept), bool)
        return PreparedFaces.stack(labelled, np.stack(landmarks), found, channels), kept

    def _cut_video(self, video_id: str, faces: Sequence[LabelledFace]) -> list[tuple[LabelledFace, bytes, np.ndarray]]:
        """Faces of one video in their order, each with what ``_cut`` makes; VideoError where the video is gone."""
        stored = self._labels.file_of(video_id)
        if stored is None:
            raise VideoError("missing", "open", video_id, "its file is gone or has changed")
        found = []
        at_s, frame = None, None
        with local_copy(stored) as path:
            for face in faces:
                if face.pts_s != at_s:
                    at_s, frame = face.pts_s, self._frame(str(path), face)
                if frame is None:
                    self.dropped["frame cannot be read"] += 1
                else:
                    found.append((face, *_cut(frame, face)))
        return found

    @staticmethod
    def _frame(path: str, face: LabelledFace) -> np.ndarray | None:
        try:
            return read_still(path, face.pts_s, stream=stream_of_video(face.video_id))
        except VideoError:
            return None


def _cut(frame: np.ndarray, face: LabelledFace) -> tuple[bytes, np.ndarray]:
    """A face with its surroundings as PNG, and its landmarks in that picture, float32 [5,2].

    It ends where the frame ends, so that what the crop repeats beyond it is the frame's own border.
    """
    x1, y1, x2, y2 = face.box_px
    reach = _REACH * max(x2 - x1, y2 - y1)
    left, top = (max(0, round((a + b) / 2 - reach)) for a, b in ((x1, x2), (y1, y2)))
    right, bottom = (
        min(size, round((a + b) / 2 + reach)) for a, b, size in ((x1, x2, frame.shape[1]), (y1, y2, frame.shape[0]))
    )
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame[top:bottom, left:right])).save(out, "PNG", compress_level=1)
    points = np.asarray(face.landmarks_px, np.float32).reshape(5, 2) - np.array([left, top], np.float32)
    return out.getvalue(), points


def _labelled(faces: Sequence[LabelledFace], pictures: list[bytes], class_names: tuple[str, ...]) -> LabelledFaces:
    votes = np.array([[face.votes.get(name, 0) for name in class_names] for face in faces], np.float32)
    return LabelledFaces(
        names=[face.name for face in faces],
        pictures=EncodedPictures(pictures),
        target=votes / votes.sum(1, keepdims=True),
        majority=np.array([class_names.index(_majority(face)) for face in faces], dtype=np.int64),
        class_names=class_names,
        source="labels of the lake",
        licence=_LICENCE,
        agreed=np.array([2 * max(face.votes.values()) > sum(face.votes.values()) for face in faces], dtype=bool),
    )
