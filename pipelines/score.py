"""The spine: one video to rows. Open this first.

Frames are decoded in small batches; faces are found, or taken from an earlier analysis with the same settings; each
is cut out by the model's own crop contract and scored; and the rows go to a file that is committed when the video
has ended. Memory does not depend on the length of the video.
"""

from __future__ import annotations

import errno
import mmap
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mfer.errors import ConfigError
from pipelines.batches import Detections, FrameBatch
from pipelines.containers import require_file
from pipelines.decode import Decoding, decode, open_video
from pipelines.detect import FaceDetector
from pipelines.errors import VideoError
from pipelines.packets import Video
from pipelines.quality import measure_quality
from pipelines.rows import ROW_SCHEMA, FrameTimes, observation_rows
from pipelines.scorer import Scorer
from pipelines.settings import AnalysisSettings
from pipelines.track import Tracker
from storage.errors import LakeError
from storage.identity import analysis_id, faces_id, path_text, video_id_of
from storage.lake import Lake
from storage.records import FinishedVideo, VideoOutcome
from storage.schema import LANDMARKS

__all__ = ["VideoAnalyzer", "VideoFile"]

#: Boxes and landmarks are rounded as the lake stores them before anything is computed from them, so that scoring
#: stored faces with the same model gives the same numbers.
_PIXEL_STEP = 8
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FrameProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class VideoFile:
    """A path to analyse; ``video_id`` is known where the file was hashed before and has not changed since."""

    path: Path
    video_id: str | None = None


class VideoAnalyzer:
    """Everything that is loaded once and used for many videos, in one process.

    Args:
        lake: where rows go.
        settings: sampling, detector, tracker, quality, decoder.
        scorer: the model.
        device: where the detector runs.
    """

    def __init__(self, lake: Lake, settings: AnalysisSettings, scorer: Scorer, device: str = "cpu") -> None:
        self.lake = lake
        self.settings = settings
        self.scorer = scorer
        self.detector = FaceDetector(settings.detector, device)
        self.faces_id = faces_id(settings.hashed())
        self.analysis_id = analysis_id(self.faces_id, scorer.model_id, scorer.card.crop.to_dict())

    def __call__(self, file: VideoFile, progress: FrameProgress | None = None) -> VideoOutcome:
        """Analyse one video and commit its rows.

        Args:
            file: what to analyse.
            progress: called with (sampled frames done, sampled frames in all).

        Returns:
            The outcome; what is wrong with the video is in it, never raised.

        Raises:
            LakeError, ConfigError: the run has to stop.
        """
        started = time.monotonic()
        video_id, size_bytes, mtime_ns = file.video_id, 0, 0
        try:
            require_file(file.path)
            stat = file.path.stat()
            size_bytes, mtime_ns = stat.st_size, stat.st_mtime_ns
            video_id = video_id or video_id_of(file.path)
            if self.lake.video_is_done(self.analysis_id, video_id):
                outcome = VideoOutcome(video_id, str(file.path), "skipped", message="already analysed")
            else:
                outcome = self._analyze(file.path, video_id, size_bytes, mtime_ns, progress)
        except (LakeError, ConfigError):
            raise
        except VideoError as error:
            outcome = _failed(file.path, video_id, error.code, error.stage, error.message)
        except (MemoryError, torch.OutOfMemoryError):
            message = "not enough memory; use fewer workers, or sample fewer frames"
            outcome = _failed(file.path, video_id, "out_of_memory", "score", message)
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise _disk_full() from error
            outcome = _failed(file.path, video_id, "unreadable", "open", f"{error.strerror or error}; check the disk")
        except Exception as error:  # one video must not end the folder
            outcome = _failed(file.path, video_id, "internal", "score", _fault(error))
        return replace(outcome, elapsed_s=time.monotonic() - started, size_bytes=size_bytes, mtime_ns=mtime_ns)

    def _analyze(
        self, path: Path, video_id: str, size_bytes: int, mtime_ns: int, progress: FrameProgress | None
    ) -> VideoOutcome:
        video = open_video(path, video_id)
        info = video.info
        frames = decode(
            video,
            every=self.settings.every,
            fps=self.settings.fps,
            batch_frames=self.settings.batch_frames(info.width_px, info.height_px),
            decoder=self.settings.decoder,  # type: ignore[arg-type]  # checked by AnalysisSettings
        )
        with tempfile.TemporaryFile(prefix="mfer-") as rows_file:  # has no name: a killed process leaves none behind
            self._write_rows(rows_file, video, frames, progress)
            mapped = mmap.mmap(rows_file.fileno(), 0, access=mmap.ACCESS_READ)
            rows = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
            self.lake.commit_segment(rows, analysis_id=self.analysis_id, video_id=video_id)
            del rows
        n_missing = video.n_missing
        finished = FinishedVideo(
            video_id=video_id,
            analysis_id=self.analysis_id,
            faces_id=self.faces_id,
            model_id=self.scorer.model_id,
            path=path_text(path),
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            code="truncated" if n_missing else None,
            message=f"the file ends {n_missing} frames before its header says" if n_missing else "",
            width_px=info.width_px,
            height_px=info.height_px,
            duration_s=info.duration_s,
            start_s=info.start_s,
            codec=info.codec,
            container=info.container,
            decoder=frames.decoder,
            settings={**self.settings.hashed(), "crop": self.scorer.card.crop.to_dict()},
        )
        counts = self.lake.commit_video(finished)
        partial = counts.status == "partial"
        message = f"{counts.n_frames_unread} of {counts.n_frames} frames could not be read" if partial else ""
        return VideoOutcome(
            video_id,
            str(path),
            counts.status,
            code=(finished.code or "frames_unread") if partial else None,
            stage="decode" if partial else None,
            message=finished.message or message,
            n_frames=counts.n_frames,
            n_faces=counts.n_faces,
            n_frames_with_face=counts.n_frames_with_face,
            n_frames_unread=counts.n_frames_unread,
        )

    def _write_rows(self, rows_file: IO[bytes], video: Video, frames: Decoding, progress: FrameProgress | None) -> None:
        """Decode, detect, align, score, write: the whole of it."""
        info = video.info
        times = FrameTimes(frames.frame_index, video.pts_s, video.duration_s, info.start_s)
        find_faces = self._face_source(info.video_id)
        n_done = 0
        with pa.ipc.new_file(rows_file, ROW_SCHEMA) as out:
            for batch in frames:
                faces, track = find_faces(batch)
                crops = self.scorer.align(batch, faces)
                scores = self.scorer(crops)
                quality = measure_quality(faces, crops, self.settings.quality)
                out.write(observation_rows(batch, times, faces, track, quality, scores))
                n_done += len(batch) + len(batch.unread_index)
                if progress:
                    progress(n_done, len(frames.frame_index))
        rows_file.flush()

    def _face_source(self, video_id: str) -> Callable[[FrameBatch], tuple[Detections, np.ndarray]]:
        """Faces and tracks of each batch: those of an earlier analysis with the same settings, or new ones."""
        stored = self.lake.stored_faces(self.faces_id, video_id)
        if stored is not None:
            return StoredFaces(stored)
        tracker = Tracker(self.settings.tracker)

        def detect(frames: FrameBatch) -> tuple[Detections, np.ndarray]:
            found = self.detector(frames.rgb) if len(frames) else Detections.empty()
            faces = Detections(
                found.frame_row,
                np.round(found.box_xyxy_px * _PIXEL_STEP) / _PIXEL_STEP,
                np.round(found.landmarks_px * _PIXEL_STEP) / _PIXEL_STEP,
                found.prob,
            )
            return faces, tracker(frames, faces) if len(frames) else np.zeros(0, np.int64)

        return detect


class StoredFaces:
    """The faces of a finished analysis, batch by batch, so that a new model needs no detector."""

    def __init__(self, rows: pa.Table) -> None:
        rows = rows.filter(pc.is_valid(rows["face_index"]))
        self._frame = rows["frame_index"].to_numpy()
        names = [f"box_{c}_px" for c in ("x1", "y1", "x2", "y2")]
        self._box = np.stack([rows[n].to_numpy() for n in names], 1).astype(np.float32)
        points = [f"{point}_{axis}_px" for point in LANDMARKS for axis in "xy"]
        self._landmarks = np.stack([rows[n].to_numpy() for n in points], 1).astype(np.float32).reshape(-1, 5, 2)
        self._prob = rows["det_prob"].to_numpy().astype(np.float32)
        self._track = rows["track"].to_numpy().astype(np.int64)

    def __call__(self, frames: FrameBatch) -> tuple[Detections, np.ndarray]:
        chosen = np.flatnonzero(np.isin(self._frame, frames.frame_index))
        row = np.searchsorted(frames.frame_index, self._frame[chosen])
        faces = Detections(row.astype(np.int64), self._box[chosen], self._landmarks[chosen], self._prob[chosen])
        return faces, self._track[chosen]


def _failed(path: Path, video_id: str | None, code: str, stage: str, message: str) -> VideoOutcome:
    return VideoOutcome(video_id, str(path), "failed", code=code, stage=stage, message=message)


def _disk_full() -> LakeError:
    folder = tempfile.gettempdir()
    message = f"the disk is full while writing a video's rows in {folder}; free some space there, or set TMPDIR"
    return LakeError(f"{message}, and run again: what is done is kept", "disk_full")


def _fault(error: Exception) -> str:
    """What a report of our own fault needs, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = path_text(str(error))  # a message may quote a file name that is not UTF-8
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno}); please report it"
