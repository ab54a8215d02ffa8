"""What a GPU does: faces per second of the largest network, detections per second, an analysis beside decoding.

    python -m benchmarks.gpu [--device cuda] [--json FILE]
    python -m benchmarks.gpu --device cpu --quick        # a dry run: that it works, not how fast

No figure of it is quoted yet: no GPU was at hand when it was written.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clips import FPS, one_face_720p
from benchmarks.machine import machine
from flows.analyze import analyze_folder
from flows.run import FolderRun
from mfer.card import Architecture
from mfer.network import MFER
from pipelines.faces.detectors import load_detector
from pipelines.video.decode import decode, open_video
from pipelines.video.encode import write_video


def rate(work: Callable[[], int], device: str, seconds: float) -> float:
    """Items per second of wall time, after one warm-up."""
    work()
    done, started = 0, time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        done += work()
        if device != "cpu":
            torch.cuda.synchronize()
    return done / elapsed


def faces_per_s(device: str, quick: bool) -> float:
    """`mfer_base` with dense DS attention at 224 px, bfloat16, channels last, compiled."""
    n_faces = 2 if quick else 256
    model = MFER(Architecture("mfer_base")).eval().to(device).to(memory_format=torch.channels_last)
    served = model if quick else torch.compile(model, mode="max-autotune")
    faces = torch.randn(n_faces, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def work() -> int:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            served(faces)
        return n_faces

    return rate(work, device, 1 if quick else 20)


def detections_per_s(device: str, quick: bool) -> float:
    """Full detection on every frame of a 720p clip, 32 frames at a time."""
    frames = np.stack(list(one_face_720p(2 if quick else 32)))
    detector = load_detector(device=device)

    def work() -> int:
        detector.detect(frames)
        return len(frames)

    return rate(work, device, 1 if quick else 20)


def analysis_against_decoding(device: str, quick: bool) -> dict[str, float]:
    """Frames per second of wall time over as many clips as cores: analysed, and only decoded."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        clips = [Path(folder) / f"{i}.mp4" for i in range(1 if quick else cores)]
        n_frames = (1 if quick else 120) * FPS
        for i, clip in enumerate(clips):
            write_video(clip, one_face_720p(n_frames + i), FPS, options={"preset": "ultrafast"})
        analysed = {}
        for networks in ("own", "shared"):
            run = FolderRun((folder,), f"{folder}/{networks}", device=device, workers=len(clips), networks=networks)
            summary = analyze_folder(run)
            assert summary.exit_code == 0
            n_analysed = sum(outcome.n_frames for outcome in summary.outcomes)
            analysed[f"analysed, {networks} networks"] = round(n_analysed / summary.elapsed_s, 1)
        started = time.monotonic()
        n_decoded = sum(len(batch) for batch in decode(open_video(clips[0]), decoder="pyav"))
        decode_s = time.monotonic() - started
    return {
        **analysed,
        "decoded, one core times cores": round(n_decoded / decode_s * len(clips), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny batches")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    figures: dict[str, Any] = {
        "mfer_base, 224 px, bfloat16: faces/s": round(faces_per_s(options.device, options.quick), 1),
        "detection on every frame, 720p: frames/s": round(detections_per_s(options.device, options.quick), 1),
        "end to end, 720p: frames/s": analysis_against_decoding(options.device, options.quick),
    }
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps({**machine(), "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
