"""How well `speaking` tells people who speak from still faces that are moved and noised.

Clips of speakers, and videos made of single frames: each is shifted, scaled, turned and brightened at random, slowly
and from frame to frame, and gets noise; all are encoded and analysed as any video. Figures are per second of a track.
`python -m benchmarks.speaking CLIP ... [--faces FACES.parquet]` prints them. The clips that the documentation names are
of the GRID corpus (Cooke et al. 2006, doi 10.1121/1.2229005, CC BY 4.0): one sentence in their first two seconds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from flows.demo_clips import astronaut_path, carphone_path
from mfer.data import read_faces
from pipelines.score import VideoAnalyzer, VideoFile
from pipelines.scoring.lookup import find_model
from pipelines.scoring.scorer import Scorer
from pipelines.settings import AnalysisSettings
from pipelines.video.encode import write_video
from storage.lake import Lake
from storage.sql.views import run_sql

__all__ = ["moved"]

#: Labelled faces that are moved.
_FACES = 15
_SHARES = (0.1, 0.2, 0.3, 0.5)


def moved(pictures: Sequence[np.ndarray], *, strength: float = 1.0, seed: int = 0) -> Iterator[np.ndarray]:
    """The pictures, all uint8 [H,W,3], as a shaking camera shows them one after another.

    Standard deviations are 2 px, 1.5 % of scale, 1.5 degrees, 2 % of brightness and 4 grey levels of noise, times
    ``strength``.
    """
    rng, n_frames = np.random.default_rng(seed), len(pictures)

    def walk(spread: float) -> np.ndarray:
        slow = np.convolve(rng.normal(size=n_frames + 24), np.hanning(25), "valid")[:n_frames]
        return strength * spread * (slow / slow.std() + 0.35 * rng.normal(size=n_frames))

    shakes = zip(pictures, walk(2), walk(2), walk(0.015), np.radians(walk(1.5)), strict=True)
    for array, dx, dy, scale, turn in shakes:
        picture = Image.fromarray(array)
        cos, sin = np.cos(turn) * (1 + scale), np.sin(turn) * (1 + scale)
        x, y = picture.width / 2, picture.height / 2
        back = (cos, -sin, x - cos * x + sin * y + dx, sin, cos, y - sin * x - cos * y + dy)
        shaken = np.asarray(picture.transform(picture.size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC))
        light = 1 + strength * 0.02 * rng.normal()
        yield np.clip(shaken * light + rng.normal(0, strength * 4, shaken.shape), 0, 255).astype(np.uint8)


def _frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def _stills(clips: list[Path], faces: Path | None) -> Iterator[np.ndarray]:
    with Image.open(astronaut_path()) as image:
        yield np.asarray(image.convert("RGB"))[:260, 90:350]
    for clip in [carphone_path(), *clips]:
        frames = _frames(clip)
        yield from (frames[0], frames[len(frames) // 2])
    if faces is not None:
        some = read_faces(faces, "all")
        for k in range(0, len(some), max(1, len(some) // _FACES)):
            face = Image.fromarray(some.pictures[k]).convert("RGB").resize((144, 144), Image.Resampling.BICUBIC)
            yield np.pad(np.asarray(face), ((48, 48), (48, 48), (0, 0)), mode="edge")


def _seconds(files: list[Path], settings: AnalysisSettings, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """File name to (second, speaking) of those seconds for which at least a third of the time is known."""
    analyzer = VideoAnalyzer(Lake.open(folder, create=True), settings, Scorer(find_model("default")))
    for file in files:
        analyzer(VideoFile(file))
    query = """
        SELECT file_name, second, speaking FROM seconds SEMI JOIN (
            SELECT video_id, track_id, floor(time_s)::INT AS second FROM scores
            WHERE mouth_motion IS NOT NULL GROUP BY ALL HAVING sum(duration_s) > 0.33
        ) USING (video_id, track_id, second) ORDER BY ALL
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for row in run_sql(analyzer.lake, query).to_pylist():
        found.setdefault(row["file_name"], []).append((row["second"], row["speaking"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="+", type=Path, help="clips of people who speak at their beginning")
    parser.add_argument("--spoken", type=int, default=2, help="seconds at the beginning of each that are speech")
    parser.add_argument("--faces", type=Path, help="labelled faces, some of which are moved too")
    parser.add_argument("--fps", type=float, nargs="*", default=[5.0], help="rates of sampling beside every frame")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stills = [
            write_video(folder / f"still{k}.mp4", moved([still] * 75, seed=k), 25)
            for k, still in enumerate(_stills(options.clips, options.faces))
        ]
        for fps in [None, *options.fps]:
            settings = AnalysisSettings(fps=fps)
            found = _seconds([*options.clips, *map(Path, stills)], settings, folder / f"lake{fps}")
            clips = {clip.name: found[clip.name] for clip in options.clips}
            spoken = np.array([share for rows in clips.values() for second, share in rows if second < options.spoken])
            quiet = np.array([share for file, rows in found.items() if file not in clips for _, share in rows])
            above = (spoken[:, None] > quiet).mean() + (spoken[:, None] == quiet).mean() / 2
            print(f"\n{'every frame' if fps is None else f'{fps:g} frames a second'}")
            print(f"{len(spoken)} spoken seconds, {len(quiet)} still ones, AUC {above:.3f}")
            print(
                f"spoken: lowest {spoken.min():.2f}, median {np.median(spoken):.2f}; still: highest {quiet.max():.2f}"
            )
            for share in _SHARES:
                print(
                    f"speaking >= {share}: {(spoken >= share).mean():.0%} spoken, {(quiet >= share).mean():.1%} still"
                )
            for file, rows in clips.items():
                print(file, *(f"{share:.2f}" for _, share in rows))


if __name__ == "__main__":
    main()
