"""Find the faces of every frame with detections on few of them: ``refine`` follows each face in between.

``refine`` (of MTCNN: its last network, O-Net) finds the face near a box, so it also finds the face near where it was
one frame before, at a hundredth of the cost of a detection. Detections come at key frames: the first frame, on a timer,
on both sides of a cut, soon after a followed face was lost, and at the end. The smallest faces cost most of a
detection, so in between only every other one looks for them. A face that a key frame shows for the first time is
followed backwards through the frames since the last full detection, so that one that enters between two detections is
there from its first frame on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.batches import Detections, FrameBatch
from pipelines.faces.detectors import LARGE_FACE, Detector
from pipelines.faces.track import box_iou
from pipelines.profile import stage

__all__ = ["follow_faces"]

#: Frames since the last full detection are kept for the way back, but not more than so many pixels (390 MB): of 1080p
#: 62 frames, of 4K 15. A full detection comes earlier then.
_KEPT_PIXELS = 130_000_000
#: So many frames a detection interval are near enough to each other to follow a face through two intervals.
_STEPS = 4
#: A detection of large faces also finds smaller ones; below this share of its least side (in drawn clips 0.65) it is
#: not relied on.
_SMALL = 0.75
#: Overlap from which a followed and a detected face are the same one.
_SAME_FACE_IOU = 0.4
#: Overlap of a face's box with the box before and after one step below which it moves fast: where it was is tried too.
_FAST_IOU = 0.9
#: Overlap with the box that it was found from below which a face is refined again: only well in its box is it exact.
_MOVED_IOU = 0.8
#: Overlap from which a face of the frame before shows how a face moves.
_TWIN_IOU = 0.2
#: Where a lost face is looked for: beside the place where it was expected, in box sides.
_AROUND = 0.35 * np.array([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1) if x or y], np.float32)


@dataclass
class _Frame:
    """One frame of the batch that it came with; ``faces`` are known once it was reached."""

    rgb: np.ndarray  # uint8 [1,H,W,3]
    pts_s: float
    faces: Detections = field(default_factory=Detections.empty)


def follow_faces(
    batches: Iterable[tuple[FrameBatch, np.ndarray]], detector: Detector
) -> Iterator[tuple[FrameBatch, np.ndarray, Detections]]:
    """Yield every batch with its cuts and its faces, possibly some frames late; the size of batches does not matter.

    Args:
        batches: frames in order, and int8 [T]: which of them follow a cut, or may follow one.
        detector: finds the faces and refines them.
    """
    span = _Span(detector)
    pending: deque[tuple[FrameBatch, np.ndarray, list[_Frame]]] = deque()
    for batch, cuts in batches:
        frames = [_Frame(batch.rgb[i : i + 1], float(batch.pts_s[i])) for i in range(len(batch))]
        pending.append((batch, cuts, frames))
        for frame, is_cut in zip(frames, cuts, strict=True):
            span.add(frame, bool(is_cut))
        unsettled = set(map(id, span.frames))
        while pending and unsettled.isdisjoint(map(id, pending[0][2])):
            settled, its_cuts, its_frames = pending.popleft()
            yield settled, its_cuts, _gather(its_frames)
    span.close()
    for settled, its_cuts, its_frames in pending:
        yield settled, its_cuts, _gather(its_frames)


class _Span:
    """The frames from the last full detection on; the next detections may still add faces to them."""

    def __init__(self, detector: Detector) -> None:
        self.frames: list[_Frame] = []
        self._detector, self._settings = detector, detector.settings
        self._before: _Frame | None = None  # the frame before the span
        self._detected_s = 0.0  # time of the last detection, full or not
        self._lost = self._lost_small = False

    def add(self, frame: _Frame, is_cut: bool) -> None:
        """Find the frame's faces."""
        if is_cut:
            self.close()
        if not self.frames:
            with stage("detect"):
                frame.faces = self._detector.detect(frame.rgb)
            self._start(frame)
            return
        wait_s = self._settings.refresh_s if self._lost else self._settings.interval_s
        pixels = (len(self.frames) + 1) * frame.rgb.shape[1] * frame.rgb.shape[2]
        if pixels > _KEPT_PIXELS:
            self._detect(frame)
        elif frame.pts_s - self._detected_s >= wait_s:
            self._detect(frame, large_only=not self._lost_small and self._small_can_wait(frame, pixels))
        else:
            frame.faces = self._follow(frame)
            before = self.frames[-1].faces
            if len(frame.faces) < len(before):
                self._lost = True
                self._lost_small |= bool(self._is_small(_without(before, frame.faces), frame).any())
            self.frames.append(frame)

    def _small_can_wait(self, frame: _Frame, pixels: int) -> bool:
        """Whether small faces may be looked for at the next detection: with the frames until then kept for the way
        back, and these near enough to each other to be followed through."""
        interval_s, last = self._settings.interval_s, self.frames[-1]
        soon = frame.pts_s - self.frames[0].pts_s < 1.5 * interval_s
        return soon and 2 * pixels <= _KEPT_PIXELS and _STEPS * (frame.pts_s - last.pts_s) <= interval_s

    def close(self) -> None:
        """Detect on the last frame, to find faces that entered since the detection before, and clear the span."""
        if len(self.frames) > 1:
            self._detect(self.frames.pop())
        self.frames, self._before = [], None

    def _start(self, key: _Frame) -> None:
        """Begin a span with a frame of which all faces are known."""
        self._before = self.frames[-1] if self.frames else None
        self.frames = []
        self._append(key)

    def _append(self, key: _Frame) -> None:
        self.frames.append(key)
        self._detected_s, self._lost, self._lost_small = key.pts_s, False, False

    def _detect(self, key: _Frame, large_only: bool = False) -> None:
        """Detect on a frame, add its faces to the frames before it that have them too, and start anew if it saw all.

        A face that the detector is less sure of counts if it was followed up to here; one that it misses for once is
        kept if ``refine`` is sure of it, or if it is too small for a detection of large faces.
        """
        sure = self._settings.min_prob
        followed = self._follow(key)
        with stage("detect"):
            found = self._detector.detect(key.rgb, self._settings.keep_prob, large_only=large_only)
        known = box_iou(found.box_xyxy_px, followed.box_xyxy_px).max(1, initial=0) >= _SAME_FACE_IOU
        missed = _without(followed, found)
        kept = missed.prob > sure
        if large_only:
            kept |= self._is_small(missed, key)
        key.faces = _join(found[known | (found.prob > sure)], missed[kept])
        self._go_back(key)
        (self._append if large_only else self._start)(key)

    def _is_small(self, faces: Detections, frame: _Frame) -> np.ndarray:
        """Which faces a detection of large faces may miss because of their size, bool [F]."""
        sides_px = faces.box_xyxy_px[:, 2:] - faces.box_xyxy_px[:, :2]
        large_px = LARGE_FACE * self._settings.smallest_px(*frame.rgb.shape[1:3])
        return np.asarray(sides_px.max(1, initial=0) < _SMALL * large_px)

    def _go_back(self, key: _Frame) -> None:
        """Follow the faces that the frame before a key frame lacks, until they are lost or known."""
        later, fresh = None, _without(key.faces, self.frames[-1].faces)
        for frame in reversed(self.frames):
            found = _without(self._near(frame, fresh, later), frame.faces)
            if not len(found):
                return
            frame.faces = _join(frame.faces, found)
            later, fresh = fresh, found

    def _follow(self, frame: _Frame) -> Detections:
        before = self.frames[-2] if len(self.frames) > 1 else self._before
        return self._near(frame, self.frames[-1].faces, before.faces if before else None)

    def _near(self, frame: _Frame, faces: Detections, before: Detections | None) -> Detections:
        """Find faces again one frame later: where their movement leads, where they were, or beside that."""
        if not len(faces):
            return faces
        box = faces.box_xyxy_px
        step = np.tile(_steps(faces, before), 2)
        expected = box + step
        fast = (1 - np.abs(step[:, :2]) / (box[:, 2:] - box[:, :2])).clip(0).prod(1) < _FAST_IOU
        found = self._refine(frame, np.concatenate([expected, box[fast]]))
        gone = expected[box_iou(expected, found.box_xyxy_px).max(1, initial=0) < _SAME_FACE_IOU]
        if len(gone):
            side = np.sqrt((gone[:, 2:] - gone[:, :2]).prod(1))
            around = gone[:, None] + np.tile(side[:, None, None] * _AROUND, 2)
            found = self._refine(frame, np.concatenate([found.box_xyxy_px, around.reshape(-1, 4)]))
        return found

    def _refine(self, frame: _Frame, box: np.ndarray) -> Detections:
        keep = self._settings.keep_prob
        with stage("follow"):
            found = self._detector.refine(frame.rgb, np.zeros(len(box), np.int64), box, keep)
            if (box_iou(found.box_xyxy_px, box).max(1, initial=0) < _MOVED_IOU).any():
                found = self._detector.refine(frame.rgb, found.frame_row, found.box_xyxy_px, keep)
        return found


def _steps(faces: Detections, before: Detections | None) -> np.ndarray:
    """Movement of each face since the frame before, in pixels, float [F,2]; 0 if it is new."""
    if before is None or not len(before):
        return np.zeros((len(faces), 2), np.float32)
    iou = box_iou(faces.box_xyxy_px, before.box_xyxy_px)
    step = (faces.landmarks_px - before.landmarks_px[iou.argmax(1)]).mean(1)
    return np.where(iou.max(1, keepdims=True) < _TWIN_IOU, 0, step)


def _gather(frames: list[_Frame]) -> Detections:
    """Join the faces of a batch's frames."""
    return Detections.concatenate(
        [replace(frame.faces, frame_row=np.full(len(frame.faces), row)) for row, frame in enumerate(frames)]
    )


def _without(faces: Detections, known: Detections) -> Detections:
    """The faces that are not among the known ones."""
    return faces[box_iou(faces.box_xyxy_px, known.box_xyxy_px).max(1, initial=0) < _SAME_FACE_IOU]


def _join(a: Detections, b: Detections) -> Detections:
    """Join the faces of one frame, by falling area."""
    both = Detections.concatenate([a, b])
    box = both.box_xyxy_px
    return both[np.argsort(-(box[:, 2:] - box[:, :2]).prod(1), kind="stable")]
