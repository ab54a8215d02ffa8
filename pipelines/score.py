"""The spine: one video to rows. Open this first.

Frames are decoded in small batches; faces are found, or taken from an earlier analysis with the same settings; each
is cut out by the model's own crop contract and scored; and the rows go to a file that is committed when a segment of
the video has ended. Committed segments are never repeated: a killed run continues with the first missing one. Memory
does not depend on the length of the video.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Literal

import numpy as np
import pyarrow as pa

from mfer.errors import ConfigError
from pipelines.align import align_faces
from pipelines.analyzed import ALREADY_ANALYSED, AnalyzedVideo, FinishedVideos, commit_together
from pipelines.batches import FrameBatch
from pipelines.errors import VideoError
from pipelines.faces.finder import FaceFinder, FoundFaces, StoredFaces
from pipelines.faces.mouth_motion import MouthMotion
from pipelines.faces.quality import QUALITY_CROP, UprightCheck, measure_quality
from pipelines.faces.rotation import Turn, best_quarters
from pipelines.heartbeat import Phase, heartbeat
from pipelines.profile import stage, staged
from pipelines.remote import local_copy
from pipelines.rows import ROW_SCHEMA, FrameTimes, observation_rows
from pipelines.scoring.scorer import Scorer
from pipelines.settings import AnalysisSettings
from pipelines.video.containers import require_file
from pipelines.video.decode import Decoding, decode, open_video
from pipelines.video.prefetch import prefetch
from pipelines.video.scan import Video, list_streams
from pipelines.video.stills import read_still
from storage.delta.object_store import Status, StoragePath
from storage.errors import LakeError
from storage.identity import analysis_id, faces_id, path_text, video_id_of, with_stream
from storage.lake import Lake, Segment
from storage.records import FinishedVideo, VideoOutcome, VideoPart
from storage.sequences import status_of

__all__ = ["VideoAnalyzer", "VideoFile"]

#: Batches that are decoded while the faces of an earlier one are found and scored.
_PREFETCH_BATCHES = 2
#: Frames that ``rotate`` looks at where it is ``auto``, evenly over the video.
_ROTATION_FRAMES = 8
#: A face that has to be checked for standing upright is checked once in so many seconds of its track.
_CHECK_S = 0.5
#: A video of one segment with no more sampled frames is short: its rows fit into memory, with those of many others.
_SHORT_FRAMES = 3_000
_GO_ON = "run again to go on from there"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FrameProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class VideoFile:
    """A path to analyse.

    ``content`` is set if the file was hashed before and has not changed since. ``decoder`` replaces the one of the
    settings. ``segments`` (first, end) limits what is committed; None commits all segments, and the video as finished.
    ``stream`` is the number of the video stream; None is the one that players show, and so is ``all``, whose outcome
    names the others. A video that ``may_split`` and has several segments is only opened, so that others can share it.
    """

    path: StoragePath
    content: str | None = None
    decoder: str | None = None
    segments: tuple[int, int] | None = None
    stream: int | Literal["all"] | None = None
    may_split: bool = False


class _StoppedError(Exception):
    """The run was asked to stop; the segments so far are committed."""


class VideoAnalyzer:
    """Analyses one video after another with networks that are loaded once.

    Args:
        lake: receives the rows.
        settings: sampling, detector, tracker, quality, decoder.
        scorer: the model.
        finder: finds the faces; by default with the detector of the settings, on the CPU.
        device: decodes the frames, if the decoder can use it.
    """

    def __init__(
        self,
        lake: Lake,
        settings: AnalysisSettings,
        scorer: Scorer,
        *,
        finder: FaceFinder | None = None,
        device: str = "cpu",
    ) -> None:
        self.lake = lake
        self.settings = settings
        self.scorer = scorer
        self.device = device
        self.finder = finder or FaceFinder(settings.detector, settings.tracker)
        self._refiner = self.finder.refiner
        self.faces_id = faces_id(settings.hashed())
        self.analysis_id = analysis_id(self.faces_id, scorer.model_id, scorer.card.crop.to_dict())
        self._finished = FinishedVideos(lake, self.faces_id)

    def __call__(
        self, file: VideoFile, progress: FrameProgress | None = None, stopping: Callable[[], bool] = lambda: False
    ) -> VideoOutcome | VideoPart:
        """Analyse one video and commit its rows, segment by segment.

        Args:
            file: what to analyse.
            progress: called with (sampled frames done of those wanted here, sampled frames of the whole video).
            stopping: called after each segment: whether to leave the others to another run.

        Returns:
            The outcome, which also reports what is wrong with the video. A VideoPart if ``file.segments`` leaves
            some segments out, or if it may be split.

        Raises:
            LakeError, ConfigError: the run has to stop.
        """
        found = self.analyze(file, progress, stopping)
        if not isinstance(found, AnalyzedVideo):
            return found
        heartbeat(Phase.COMMIT)
        with stage("commit"):
            return commit_together(self.lake, [found])[0]

    def analyze(
        self, file: VideoFile, progress: FrameProgress | None = None, stopping: Callable[[], bool] = lambda: False
    ) -> VideoOutcome | VideoPart | AnalyzedVideo:
        """The same, but the rows of a short video are left to the caller, who can commit many together.

        Returns:
            As a call does, or an AnalyzedVideo with rows (``pipelines.analyzed.commit_together``).
        """
        heartbeat(Phase.OPEN)
        started = time.monotonic()
        video_id, stat = file.content, None
        stream, others = None if file.stream == "all" else file.stream, tuple[int, ...]()
        try:
            with local_copy(file.path) as path:  # of an object in a store; a file is read where it is
                require_file(path)
                stat = status_of(path)
                with stage("hash"):
                    content = file.content or video_id_of(path, heartbeat)
                video_id = with_stream(content, stream)
                if file.stream is not None:
                    shown, streams = list_streams(path)
                    others = tuple(n for n in range(len(streams)) if n != shown) if file.stream == "all" else ()
                    video_id = with_stream(content, None if stream == shown else stream)
                if self.analysis_id in self._finished.analyses_of(video_id):
                    outcome = VideoOutcome(video_id, str(file.path), "skipped", message=ALREADY_ANALYSED)
                else:
                    found = self._analyze(path, file, video_id, stat, progress, stopping)
                    if isinstance(found, VideoPart):
                        return found
                    elapsed_s = time.monotonic() - started
                    found = replace(found, elapsed_s=elapsed_s, stream=stream, other_streams=others)
                    self._finished.add(video_id, self.analysis_id)
                    if found.observations is not None:
                        return found
                    heartbeat(Phase.COMMIT)
                    with stage("commit"):
                        outcome = found.outcome(self.lake.commit_video(found.finished))
        except (LakeError, ConfigError):
            raise
        except _StoppedError as stopped:
            outcome = VideoOutcome(video_id, str(file.path), "skipped", "interrupted", message=str(stopped))
        except VideoError as error:
            outcome = _failed(file.path, video_id, error.code, error.stage, error.message)
        except MemoryError:
            message = "not enough memory; use fewer workers, or sample fewer frames"
            outcome = _failed(file.path, video_id, "out_of_memory", "score", message)
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise _disk_full() from error
            outcome = _failed(file.path, video_id, "unreadable", "open", f"{error.strerror or error}; check the disk")
        except Exception as error:  # one video must not end the folder
            outcome = _failed(file.path, video_id, "internal", "score", _fault(error))
        size_bytes, mtime_ns = (stat.st_size, stat.st_mtime_ns) if stat else (0, 0)
        return replace(
            outcome,
            elapsed_s=time.monotonic() - started,
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            stream=stream,
            other_streams=others,
        )

    def _analyze(
        self,
        path: Path,
        file: VideoFile,
        video_id: str,
        stat: os.stat_result | Status,
        progress: FrameProgress | None,
        stopping: Callable[[], bool],
    ) -> AnalyzedVideo | VideoPart:
        """``path`` is the file, or a local copy of it."""
        with stage("scan"):
            video = open_video(path, video_id, stream=None if file.stream == "all" else file.stream)
        info = video.info
        frames = decode(
            video,
            every=self.settings.every,
            fps=self.settings.fps,
            batch_frames=self.settings.batch_frames(info.width_px, info.height_px),
            decoder=file.decoder or self.settings.decoder,
            segment_s=self.settings.segment_s,
            device=self.device,
        )
        if file.may_split and frames.n_segments > 1:
            return VideoPart(video_id, str(file.path), frames.n_segments)
        first, end = file.segments or (0, frames.n_segments)
        turn = Turn(self._quarters(video), info.width_px, info.height_px)
        wanted = range(first, min(end, frames.n_segments))
        rows = self._commit_segments(video, frames, turn, stat, wanted, progress, stopping)
        if end - first < frames.n_segments:
            return VideoPart(video_id, str(file.path), frames.n_segments)
        code, message = video.defect or (None, "")
        finished = FinishedVideo(
            video_id=video_id,
            analysis_id=self.analysis_id,
            faces_id=self.faces_id,
            model_id=self.scorer.model_id,
            path=path_text(file.path),
            size_bytes=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            n_segments=frames.n_segments,
            code=code,
            message=_joined(message, video.note),
            width_px=info.width_px,
            height_px=info.height_px,
            duration_s=info.duration_s,
            start_s=info.start_s,
            codec=info.codec,
            container=info.container,
            decoder=frames.decoder,
            stream=info.stream,
            n_streams=info.n_streams,
            settings={
                **self.settings.hashed(),
                "crop": self.scorer.card.crop.to_dict(),
                "class_shares": self.scorer.card.class_shares_by_name(),
                "rotation_deg": turn.degrees,
            },
        )
        return AnalyzedVideo(str(file.path), finished, rows)

    def _commit_segments(
        self,
        video: Video,
        frames: Decoding,
        turn: Turn,
        stat: os.stat_result | Status,
        wanted: range,
        progress: FrameProgress | None,
        stopping: Callable[[], bool],
    ) -> pa.Table | None:
        """Commit the wanted segments that the lake lacks, each when it is whole; of a short video, return its rows.

        Segments without a readable frame at the beginning of a video wait for the first one that has a readable frame:
        a video without any has failed, it is not partial.
        """
        path, video_id = video.info.path, video.info.video_id
        is_short = frames.n_segments == 1 and len(frames.frame_index) <= _SHORT_FRAMES
        done = set() if is_short else self.lake.done_segments(self.analysis_id, video_id, frames.n_segments)
        times = FrameTimes(frames.frame_index, video.pts_s, video.duration_s, video.info.start_s)
        is_known = bool(self._finished.analyses_of(video_id))
        stored = self.lake.stored_faces(self.faces_id, video_id) if is_known else None
        find_faces = self.finder if stored is None else StoredFaces(stored, turn)
        n_rows, n_in_all = np.diff(frames.segment_bounds), len(frames.frame_index)
        n_done = int(n_rows[sorted(done & set(wanted))].sum())
        read_any, waiting = bool(done), dict[int, pa.Table]()
        for first, end in _missing_runs(done, wanted):
            part = frames.between(first, end)
            with closing(prefetch(staged("decode", _with_heartbeats(part)), _PREFETCH_BATCHES)) as decoded:
                for segment in range(first, end):
                    heartbeat(Phase.WORK)
                    with tempfile.TemporaryFile(prefix="mfer-") as rows_file:  # no name: no leftover
                        found = find_faces(turn.frames(_take_rows(decoded, int(n_rows[segment]))))
                        for n_of_batch, n_read in self._write_rows(rows_file, found, times, turn):
                            n_done, read_any = n_done + n_of_batch, read_any or n_read > 0
                            if progress:
                                progress(n_done, n_in_all)
                        waiting[segment] = _map_rows(rows_file)
                        _require_unchanged(path, stat)
                        if read_any and not is_short:
                            self._commit_waiting(video_id, waiting)
                    if stopping() and not waiting and segment + 1 < frames.n_segments:
                        raise _StoppedError(f"stopped after segment {segment + 1} of {frames.n_segments}; {_GO_ON}")
        if is_short and read_any:
            return waiting[0]
        if waiting and len(wanted) < frames.n_segments:  # another part may have frames that can be read
            self._commit_waiting(video_id, waiting)
        if waiting:
            message = f"none of {n_in_all} frames could be read; copy or convert the video again"
            raise VideoError("decode_failed", "decode", path, message)
        return None

    def _commit_waiting(self, video_id: str, waiting: dict[int, pa.Table]) -> None:
        heartbeat(Phase.COMMIT)
        with stage("commit"):
            parts = [Segment(self.analysis_id, video_id, segment, rows) for segment, rows in waiting.items()]
            self.lake.commit_segments(parts)
        waiting.clear()

    def _write_rows(
        self, rows_file: IO[bytes], found_faces: Iterator[FoundFaces], times: FrameTimes, turn: Turn
    ) -> Iterator[tuple[int, int]]:
        """Align, score and write the faces of one segment; yields each batch's sampled and its readable frames."""
        check, mouth = self._new_check(), MouthMotion(self.scorer.card.crop)
        with pa.ipc.new_file(rows_file, ROW_SCHEMA) as out:
            for batch, faces, track in found_faces:
                with stage("align"):
                    crops = self.scorer.align(batch, faces)
                with stage("score"):
                    scores = self.scorer(crops)
                with stage("quality"):
                    occasion = np.stack([track, batch.pts_s[faces.frame_row] // _CHECK_S], 1).astype(np.int64)
                    measured = align_faces(batch, faces, QUALITY_CROP)
                    quality = measure_quality(faces, measured, self.settings.quality, check, occasion)
                with stage("mouth"):
                    motion = mouth(batch, faces, crops, track)
                with stage("write"):
                    out.write(observation_rows(batch, times, turn.faces_back(faces), track, quality, motion, scores))
                heartbeat()
                yield len(batch) + len(batch.undecodable_index), len(batch)
        rows_file.flush()

    def _new_check(self) -> UprightCheck | None:
        return UprightCheck(self._refiner, self.settings.quality) if self._refiner else None

    def _quarters(self, video: Video) -> int:
        """The number of quarter turns clockwise of this video's frames."""
        if self.settings.rotate != "auto":
            return int(self.settings.rotate or 0) // 90
        with stage("rotate"):
            return best_quarters(_sample_stills(video), self._sum_of_faces)

    def _sum_of_faces(self, frames: FrameBatch) -> tuple[float, float]:
        """Sums of the probabilities of good faces, and of all."""
        faces = self.finder.detector.detect(frames.rgb)
        crops = align_faces(frames, faces, QUALITY_CROP)
        good = measure_quality(faces, crops, self.settings.quality, self._new_check()).quality_ok
        return float(faces.prob[good].sum()), float(faces.prob.sum())


def _sample_stills(video: Video) -> Iterator[FrameBatch]:
    """Some frames of a video, one at a time; those that cannot be read are left out."""
    n_frames = video.info.n_frames
    for index in np.unique(np.linspace(0, n_frames, 2 * _ROTATION_FRAMES + 1)[1::2].astype(np.int64)):
        heartbeat()
        try:
            picture = read_still(video.info.path, float(video.pts_s[index]), stream=video.info.stream)
        except VideoError:
            continue
        rgb = np.ascontiguousarray(picture)[None]
        yield FrameBatch(
            rgb=rgb,
            frame_index=index[None],
            pts_s=video.pts_s[index][None],
            duration_s=video.duration_s[index][None],
        )


def _missing_runs(done: set[int], wanted: range) -> Iterator[tuple[int, int]]:
    """(first, end) of each run of segments that are wanted and not done."""
    for before, after in pairwise([wanted.start - 1, *sorted(done & set(wanted)), wanted.stop]):
        if after - before > 1:
            yield before + 1, after


def _with_heartbeats(batches: Iterable[FrameBatch]) -> Iterator[FrameBatch]:
    for batch in batches:
        heartbeat()
        yield batch


def _take_rows(batches: Iterator[FrameBatch], n_rows: int) -> Iterator[FrameBatch]:
    """The batches of one segment: ``n_rows`` sampled frames, readable or not."""
    while n_rows > 0:
        batch = next(batches)
        n_rows -= len(batch) + len(batch.undecodable_index)
        yield batch


def _map_rows(rows_file: IO[bytes]) -> pa.Table:
    """Map the rows of a file without reading it into memory; the file may be deleted meanwhile."""
    mapped = mmap.mmap(rows_file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()


def _require_unchanged(path: Path, stat: os.stat_result | Status) -> None:
    """Raise VideoError if the file was changed since it was hashed: rows belong to the hashed bytes."""
    try:
        now = status_of(path)
    except OSError as error:
        message = f"the file went away while it was read ({error.strerror}); leave it in place until the run has ended"
        raise VideoError("changed", "decode", path, message) from error
    if _state(now) != _state(stat):
        message = "the file was changed or replaced while it was read; run again once it is complete"
        raise VideoError("changed", "decode", path, message)


def _state(stat: os.stat_result | Status) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, getattr(stat, "st_ino", 0)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _failed(path: StoragePath, video_id: str | None, code: str, stage: str, message: str) -> VideoOutcome:
    return VideoOutcome(video_id, str(path), "failed", code=code, stage=stage, message=message)


def _disk_full() -> LakeError:
    folder = tempfile.gettempdir()
    message = f"the disk is full while writing a video's rows in {folder}; free some space there, or set TMPDIR"
    return LakeError(f"{message}, and run again: what is done is kept", "disk_full")


def _fault(error: Exception) -> str:
    """One line with what a bug report needs."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = path_text(str(error))  # a message may quote a file name that is not UTF-8
    return f"{type(error).__name__}: {text} ({Path(at.filename).name}, line {at.lineno}); please report it"
