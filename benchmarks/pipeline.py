"""Frames per CPU-second of the whole road on one core, by the smallest face that is looked for.

Analyses a 1280x720 pan over one public photograph (one face) into a lake, in one process on one thread, once per
setting, and scores it once more with the stored faces: `python benchmarks/pipeline.py [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from flows.demo_clips import astronaut_path
from pipelines.detect import DetectorSettings
from pipelines.encode import write_video
from pipelines.models import find_model
from pipelines.score import VideoAnalyzer, VideoFile
from pipelines.scorer import Scorer
from pipelines.settings import AnalysisSettings
from storage.lake import Lake

_WIDTH_PX, _HEIGHT_PX, _N_FRAMES = 1280, 720, 48


def pan() -> Iterator[np.ndarray]:
    """Frames uint8 [720,1280,3] of a slow pan over the photograph, enlarged to 1400 px wide."""
    with Image.open(astronaut_path()) as photograph:
        wide = np.asarray(photograph.convert("RGB").resize((1400, 1400), Image.Resampling.BICUBIC))
    for i in range(_N_FRAMES):
        yield np.ascontiguousarray(wide[i : i + _HEIGHT_PX, 2 * i : 2 * i + _WIDTH_PX])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        video = write_video(Path(folder) / "pan.mp4", pan(), 24)
        lake = Lake.open(Path(folder) / "lake", create=True)
        scorer = Scorer(find_model("default"))
        for min_face_px in (20, 72):
            analyzer = VideoAnalyzer(lake, AnalysisSettings(detector=DetectorSettings(min_face_px)), scorer)
            started = time.process_time()
            outcome = analyzer(VideoFile(video))
            seconds = time.process_time() - started
            rows.append(
                {
                    "min_face_px": min_face_px,
                    "frames": outcome.n_frames,
                    "faces": outcome.n_faces,
                    "frames_per_cpu_s": round(outcome.n_frames / seconds, 2),
                }
            )
            print(rows[-1], flush=True)
    if options.json:
        facts = {"machine": platform.machine(), "torch": torch.__version__, "video": "1280x720 H.264", "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
