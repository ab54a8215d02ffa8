"""Faces that are followed against MTCNN on every frame, and against how far MTCNN agrees with itself.

    python -m benchmarks.detection [--video FILE ...] [--json FILE]

The reference is the package on every frame. `shifted` is the package again on the picture less its first row and
column: what differs then is its own noise, and no scheme can be asked for less. A reference face is steady if the
reference has it in a neighbouring frame too; an extra face is false if the reference has none there within six frames.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.progress import track

from benchmarks.clips import DETECTION_CLIPS, FPS
from benchmarks.machine import machine, show_machine
from pipelines.batches import Detections, FrameBatch
from pipelines.faces.finder import FaceFinder
from pipelines.faces.track import box_iou
from pipelines.settings import DetectorSettings, TrackerSettings
from pipelines.video.decode import decode, open_video

_SAME_IOU = 0.4
_NEAR_FRAMES = 6
Source = Callable[[], Iterable[FrameBatch]]
Found = tuple[Detections, np.ndarray]


def batches(pictures: Iterable[np.ndarray]) -> Iterator[FrameBatch]:
    for i, rgb in enumerate(pictures):
        index = np.array([i], np.int64)
        yield FrameBatch(
            rgb=np.array(rgb)[None],
            frame_index=index,
            pts_s=index / FPS,
            duration_s=np.full(1, 1 / FPS),
        )


def _drawn(make: Callable[[], Iterable[np.ndarray]]) -> Iterable[FrameBatch]:
    return batches(make())


def _decoded(path: Path) -> Iterable[FrameBatch]:
    return decode(open_video(path), decoder="pyav", batch_frames=2)


def shifted(frames: Iterable[FrameBatch]) -> Iterator[FrameBatch]:
    for batch in frames:
        yield replace(batch, rgb=np.ascontiguousarray(batch.rgb[:, 1:, 1:]))


def find(frames: Iterable[FrameBatch], mode: Literal["tracked", "exact"], shift_px: int = 0) -> Found:
    """All faces, with frame numbers as frame_row, and their tracks."""
    parts = []
    for batch, faces, numbers in FaceFinder(DetectorSettings(mode=mode), TrackerSettings(), "cpu")(frames):
        rows = batch.frame_index[faces.frame_row]
        parts.append((rows, faces.box_xyxy_px + shift_px, faces.landmarks_px + shift_px, faces.prob, numbers))
    *fields, tracks = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Detections(*fields), tracks


def compare(found: Found, reference: Found) -> dict[str, float | int]:
    faces, truth = found[0], reference[0]
    hits = steady = steady_hits = extra = false = 0
    errors = []
    for row in np.union1d(faces.frame_row, truth.frame_row):
        ours, theirs = np.flatnonzero(faces.frame_row == row), np.flatnonzero(truth.frame_row == row)
        near = np.abs(truth.frame_row - row)
        iou = box_iou(truth.box_xyxy_px[theirs], faces.box_xyxy_px[ours])
        free = set(range(len(ours)))
        beside = box_iou(truth.box_xyxy_px[theirs], truth.box_xyxy_px[near == 1]).max(1, initial=0) >= _SAME_IOU
        steady += int(beside.sum())
        for i in np.argsort(-iou.max(1, initial=0)):
            j = max(free, key=lambda k: iou[i, k], default=None)
            if j is None or iou[i, j] < _SAME_IOU:
                continue
            free.remove(j)
            hits += 1
            steady_hits += int(beside[i])
            points = truth.landmarks_px[theirs[i]]
            distance_px = np.linalg.norm(faces.landmarks_px[ours[j]] - points, axis=1).mean()
            errors.append(distance_px / np.linalg.norm(points[0] - points[1]))
        extra += len(free)
        around = truth.box_xyxy_px[near <= _NEAR_FRAMES]
        false += sum(box_iou(faces.box_xyxy_px[ours[[j]]], around).max(initial=0) < _SAME_IOU for j in free)
    return {
        "reference_faces": len(truth),
        "faces": len(faces),
        "recall": round(hits / max(len(truth), 1), 4),
        "recall_of_steady": round(steady_hits / max(steady, 1), 4),
        "extra": extra,
        "false": int(false),
        "landmark_distance": round(float(np.median(errors)), 4) if errors else 0.0,
        "tracks": len(np.unique(found[1])),
        "reference_tracks": len(np.unique(reference[1])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, action="append", default=[], help="a video of your own, too")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources: dict[str, Source] = {name: partial(_drawn, make) for name, make in DETECTION_CLIPS.items()}
    for path in options.video:
        sources[path.stem] = partial(_decoded, path)
    facts, rows = machine(), []
    print(show_machine(facts), flush=True)
    for name, source in track(sources.items(), description="clips"):
        reference = find(source(), "exact")
        for scheme, found in (
            ("tracked", find(source(), "tracked")),
            ("exact, shifted", find(shifted(source()), "exact", 1)),
        ):
            rows.append({"clip": name, "scheme": scheme, **compare(found, reference)})
            print(rows[-1], flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
