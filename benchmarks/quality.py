"""What size, turn, blur and other harm cost on the whole road from frame to score, with labelled faces.

Every labelled picture is pasted into a frame of its own, with its edge repeated around it; the frame is harmed,
its face found and aligned by the detector and scored, as a frame of a video is. So the figures hold what the detector
loses too. `python -m benchmarks.quality --data valid.parquet --split report [--json FILE]`.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageFilter

from flows.demo_clips import carphone_path
from mfer.crop import align_matrix
from mfer.data import read_faces
from mfer.faces import LabelledFaces
from mfer.metrics import wilson_interval
from pipelines.align import align_faces
from pipelines.batches import AlignedFaces, FrameBatch
from pipelines.faces.detectors import Detector, DetectorSettings, load_detector
from pipelines.faces.quality import QUALITY_CROP, UprightCheck, measure_quality
from pipelines.learning.prepare import prepare_faces
from pipelines.scoring.lookup import find_model
from pipelines.scoring.scorer import Scorer
from pipelines.video.decode import decode, open_video
from pipelines.video.encode import write_video

__all__ = ["HARMS", "Reading", "read_frames"]

#: Side in the frame of a pasted picture, and of the border around it as a share of that.
_SIDE_PX, _BORDER = 144, 1 / 3
_SIDES_PX = (96, 64, 48, 40, 32, 28, 24, 20, 16)
_BLURS_PX = (1.5, 3.0, 4.5, 6.0, 9.0)
_SHARPNESS_EDGES = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, np.inf)
_TURN_EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, np.inf)
_BATCH = 64

Harm = Callable[[Image.Image], Image.Image]


def _jpeg(frame: Image.Image) -> Image.Image:
    file = io.BytesIO()
    frame.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


def _half(frame: Image.Image) -> Image.Image:
    return frame.resize((frame.width // 2, frame.height // 2), Image.Resampling.BOX)


#: What is done to a frame whose face is about 130 px high.
HARMS: dict[str, Harm] = {
    "half size": _half,
    "blur (sigma 3 px)": lambda frame: frame.filter(ImageFilter.GaussianBlur(3)),
    "JPEG 30": _jpeg,
    "dark (x 0.3)": lambda frame: frame.point(lambda v: v * 0.3),
    "grey": lambda frame: frame.convert("L").convert("RGB"),
    "turned +20 deg": lambda frame: frame.rotate(20, Image.Resampling.BICUBIC),
    "turned -20 deg": lambda frame: frame.rotate(-20, Image.Resampling.BICUBIC),
    "turned +45 deg": lambda frame: frame.rotate(45, Image.Resampling.BICUBIC),
    "turned +90 deg": lambda frame: frame.transpose(Image.Transpose.ROTATE_90),
    "turned 180 deg": lambda frame: frame.transpose(Image.Transpose.ROTATE_180),
}


@dataclass(frozen=True)
class Reading:
    """Of T frames the most certain face of each: found bool [T]; top int64 [T], -1 without a face; measures float
    [T], NaN without one."""

    found: np.ndarray
    top: np.ndarray
    face_px: np.ndarray
    sharpness: np.ndarray
    turn: np.ndarray
    quality_ok: np.ndarray

    def agreement(self, other: Reading) -> float:
        """Share with the same top class, of the frames in which both found a face."""
        both = self.found & other.found
        return float((self.top[both] == other.top[both]).mean()) if both.any() else float("nan")


def read_frames(frames: Iterable[np.ndarray | Image.Image], scorer: Scorer, detector: Detector) -> Reading:
    """Find, align, measure and score the face of every frame, uint8 [H,W,3] of one size."""
    parts: list[list[np.ndarray]] = []
    batch: list[np.ndarray] = []
    for frame in frames:
        batch.append(np.asarray(frame))
        if len(batch) == _BATCH:
            parts.append(_read_batch(np.stack(batch), scorer, detector))
            batch = []
    if batch:
        parts.append(_read_batch(np.stack(batch), scorer, detector))
    return Reading(*(np.concatenate(same) for same in zip(*parts, strict=True)))


def _read_batch(rgb: np.ndarray, scorer: Scorer, detector: Detector) -> list[np.ndarray]:
    t = len(rgb)
    index = np.arange(t)
    frames = FrameBatch(rgb=rgb, frame_index=index, pts_s=index / 25, duration_s=np.full(t, 1 / 25))
    faces = detector.detect(frames.rgb)
    rows = [ours[np.argmax(faces.prob[ours])] for i in range(t) if len(ours := np.flatnonzero(faces.frame_row == i))]
    best = faces[rows]
    crops = scorer.align(frames, best)
    measured = align_faces(frames, best, QUALITY_CROP)
    quality = measure_quality(best, measured, upright=UprightCheck(detector))
    found = np.isin(index, best.frame_row)
    top, ok = np.full(t, -1), np.zeros(t, bool)
    top[best.frame_row], ok[best.frame_row] = scorer(crops).prob.argmax(1), quality.quality_ok
    measures = []
    for values in (quality.face_px, quality.sharpness, quality.nose_offset):
        measures.append(np.full(t, np.nan))
        measures[-1][best.frame_row] = values
    return [found, top, *measures, ok]


def frames_of(faces: LabelledFaces, side_px: int = _SIDE_PX) -> Iterable[Image.Image]:
    """Each picture at a side in the middle of an RGB frame, its edge repeated around it."""
    border = round(side_px * _BORDER)
    for picture in faces.pictures:
        small = Image.fromarray(picture).convert("RGB")
        method = Image.Resampling.BICUBIC if side_px >= small.width else Image.Resampling.BOX
        pasted = np.asarray(small.resize((side_px, side_px), method))
        yield Image.fromarray(np.pad(pasted, ((border, border), (border, border), (0, 0)), mode="edge"))


class Benchmark:
    """The faces, the model and the unharmed reading that everything is compared with."""

    def __init__(self, faces: LabelledFaces, scorer: Scorer) -> None:
        self.faces, self.scorer = faces.with_classes(scorer.card.class_names), scorer
        self.plain = self.read(frames_of(self.faces))

    def read(self, frames: Iterable[np.ndarray | Image.Image], side_px: float = _SIDE_PX) -> Reading:
        settings = DetectorSettings(min_face_px=max(12, round(side_px / 2)), mode="exact")
        return read_frames(frames, self.scorer, load_detector(settings))

    def row(self, reading: Reading) -> dict[str, Any]:
        right = reading.top == self.faces.majority
        n = int(reading.found.sum())
        return {
            "found": round(float(reading.found.mean()), 4),
            "accuracy_where_found": _share(right[reading.found]),
            "interval": [round(v, 4) for v in wilson_interval(int(right.sum()), n)],
            "agreement_with_unharmed": round(reading.agreement(self.plain), 4),
            "face_px": round(float(np.nanmedian(reading.face_px)), 1) if n else None,
            "sharpness": round(float(np.nanmedian(reading.sharpness)), 4) if n else None,
            "quality_ok": round(float(reading.quality_ok[reading.found].mean()), 4) if n else None,
            "accuracy_quality_ok": _share(right[reading.quality_ok]),
        }

    def stills(self) -> dict[str, Any]:
        """The figure of `mfer evaluate`, over all faces and over those that were found in their frames."""
        crop = self.scorer.card.crop
        prepared = prepare_faces(self.faces, crop.channels)
        crops = AlignedFaces(prepared.crops(crop).numpy(), align_matrix(prepared.landmarks_px, crop))
        top = self.scorer(crops).prob.argmax(1)
        right, found = top == self.faces.majority, self.plain.found
        return {
            "accuracy": _share(right),
            "accuracy_where_found": _share(right[found]),
            "agreement_with_frames": _share(top[found] == self.plain.top[found]),
        }

    def encoded(self) -> Reading:
        """All frames as one H.264 file, decoded as a user's video is."""
        with tempfile.TemporaryDirectory() as folder:
            video = write_video(Path(folder) / "faces.mp4", map(np.asarray, frames_of(self.faces)), 25)
            batches = decode(open_video(str(video)))
            return self.read(rgb for batch in batches for rgb in batch.rgb)

    def curve(self, measure: str, readings: list[Reading], edges: tuple[float, ...]) -> list[dict[str, Any]]:
        """Accuracy by a measure, over the faces of all readings."""
        value = np.concatenate([getattr(r, measure)[r.found] for r in readings])
        right = np.concatenate([(r.top == self.faces.majority)[r.found] for r in readings])
        rows = []
        for low, high in itertools.pairwise(edges):
            some = right[(value >= low) & (value < high)]
            interval = [round(v, 4) for v in wilson_interval(int(some.sum()), len(some))]
            rows.append({"from": low, "n": len(some), "accuracy": _share(some), "interval": interval})
        return rows


def _share(right: np.ndarray) -> float | None:
    return round(float(right.mean()), 4) if len(right) else None


def carphone(scorer: Scorer) -> dict[str, Any]:
    """A man who talks in a car, in colour: share of frames by top class, and agreement with the grey copy."""
    with av.open(str(carphone_path())) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    detector = load_detector(DetectorSettings(min_face_px=36, mode="exact"))
    colour, grey = (read_frames(some, scorer, detector) for some in (frames, map(HARMS["grey"], frames)))
    names = scorer.card.class_names
    shares = {names[k]: round(float((colour.top == k).mean()), 3) for k in range(len(names))}
    return {"frames": len(frames), "share_of_frames": shares, "agreement_grey": round(colour.agreement(grey), 4)}


def speed(scorer: Scorer) -> float:
    """Faces per CPU-second from crops to probabilities, the best of five batches."""
    crop = scorer.card.crop
    pixels = np.random.default_rng(0).integers(
        0, 256, (_BATCH, crop.channels, crop.side_px, crop.side_px), dtype=np.uint8
    )
    crops = AlignedFaces(pixels, np.zeros((_BATCH, 2, 3), np.float32))
    seconds = []
    for _ in range(6):
        started = time.process_time()
        scorer(crops)
        seconds.append(time.process_time() - started)
    return round(_BATCH / min(seconds[1:]), 1)


def measure(faces: LabelledFaces, scorer: Scorer, show: Callable[[str, Any], None]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def keep(section: str, name: str, figures: Any) -> None:
        found.setdefault(section, {})[name] = figures
        show(f"{section}: {name}", figures)

    bench = Benchmark(faces, scorer)
    keep("road", "frames", bench.row(bench.plain))
    keep("still", "pictures", bench.stills())
    keep("road", "H.264 file", bench.row(bench.encoded()))
    for name, harm in HARMS.items():
        side = _SIDE_PX / 2 if harm is _half else _SIDE_PX
        if name != "grey":  # the labelled pictures are grey already: the talking man in colour stands for them
            keep("harm", name, bench.row(bench.read(map(harm, frames_of(bench.faces)), side)))
    for side_px in _SIDES_PX:
        keep("size", f"{side_px} px", bench.row(bench.read(frames_of(bench.faces, side_px), side_px)))
    blurred = []
    for sigma in _BLURS_PX:
        frames = (frame.filter(ImageFilter.GaussianBlur(sigma)) for frame in frames_of(bench.faces))
        blurred.append(bench.read(frames))
        keep("blur", f"sigma {sigma} px", bench.row(blurred[-1]))
    keep("curve", "turn", bench.curve("turn", [bench.plain], _TURN_EDGES))
    keep("curve", "sharpness", bench.curve("sharpness", [bench.plain, *blurred], _SHARPNESS_EDGES))
    keep("carphone", "whole clip", carphone(scorer))
    keep("speed", "faces scored per CPU-second", speed(scorer))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="labelled faces, as mfer evaluate takes them")
    parser.add_argument("--split", default="report", help="all, selection or report")
    parser.add_argument("--model", default="default")
    parser.add_argument("--faces", type=int, default=600, help="so many of them, the first")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faces, scorer = read_faces(options.data, options.split), Scorer(find_model(options.model))
    faces = faces.take(slice(0, options.faces))
    found = measure(faces, scorer, lambda name, figures: print(name, json.dumps(figures), flush=True))
    if options.json:
        facts = {"model": scorer.model_id, "faces": faces.source, "split": options.split, "n": len(faces), **found}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
