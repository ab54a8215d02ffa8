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
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pyarrow as pa
import torch

from mfer.errors import ConfigError
from pipelines.containers import require_file
from pipelines.decode import Decoding, decode, open_video
from pipelines.errors import VideoError
from pipelines.find import FaceFinder, StoredFaces
from pipelines.packets import Video
from pipelines.profile import stage, staged
from pipelines.quality import measure_quality
from pipelines.remote import local_copy
from pipelines.rows import ROW_SCHEMA, FrameTimes, observation_rows
from pipelines.scorer import Scorer
from pipelines.settings import AnalysisSettings
from pipelines.stream import ahead
from storage.errors import LakeError
from storage.identity import analysis_id, faces_id, path_text, video_id_of
from storage.lake import Lake
from storage.objects import Place
from storage.records import FinishedVideo, VideoOutcome

__all__ = ["VideoAnalyzer", "VideoFile"]

#: Batches that are decoded while the faces of an earlier one are found and scored.
_BATCHES_AHEAD = 2
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FrameProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class VideoFile:
    """A path to analyse; ``video_id`` is known where the file was hashed before and has not changed since."""

    path: Place
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
        self.finder = FaceFinder(settings.detector, settings.tracker, device)
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
            with local_copy(file.path) as path:  # of an object in a store; a file is read where it is
                require_file(path)
                stat = path.stat()
                size_bytes, mtime_ns = stat.st_size, stat.st_mtime_ns
                with stage("hash"):
                    video_id = video_id or video_id_of(path)
                if self.lake.video_is_done(self.analysis_id, video_id):
                    outcome = VideoOutcome(video_id, str(file.path), "skipped", message="already analysed")
                else:
                    outcome = self._analyze(path, file.path, video_id, size_bytes, mtime_ns, progress)
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
        self, path: Path, named: Place, video_id: str, size_bytes: int, mtime_ns: int, progress: FrameProgress | None
    ) -> VideoOutcome:
        with stage("scan"):
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
            with stage("commit"):
                self.lake.commit_segment(rows, analysis_id=self.analysis_id, video_id=video_id)
            del rows
        n_missing = video.n_missing
        finished = FinishedVideo(
            video_id=video_id,
            analysis_id=self.analysis_id,
            faces_id=self.faces_id,
            model_id=self.scorer.model_id,
            path=path_text(named),
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
        with stage("commit"):
            counts = self.lake.commit_video(finished)
        partial = counts.status == "partial"
        message = f"{counts.n_frames_unread} of {counts.n_frames} frames could not be read" if partial else ""
        return VideoOutcome(
            video_id,
            str(named),
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
        """Decode, find faces, align, score, write: the whole of it."""
        times = FrameTimes(frames.frame_index, video.pts_s, video.duration_s, video.info.start_s)
        stored = self.lake.stored_faces(self.faces_id, video.info.video_id)
        find_faces = self.finder if stored is None else StoredFaces(stored)
        n_done = 0
        with (
            pa.ipc.new_file(rows_file, ROW_SCHEMA) as out,
            closing(ahead(staged("decode", frames), _BATCHES_AHEAD)) as decoded,
        ):
            for batch, faces, track in find_faces(decoded):
                with stage("align"):
                    crops = self.scorer.align(batch, faces)
                with stage("score"):
                    scores = self.scorer(crops)
                with stage("quality"):
                    quality = measure_quality(faces, crops, self.settings.quality)
                with stage("write"):
                    out.write(observation_rows(batch, times, faces, track, quality, scores))
                n_done += len(batch) + len(batch.unread_index)
                if progress:
                    progress(n_done, len(frames.frame_index))
        rows_file.flush()


def _failed(path: Place, video_id: str | None, code: str, stage: str, message: str) -> VideoOutcome:
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
