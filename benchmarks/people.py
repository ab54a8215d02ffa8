"""How well ``mfer people find`` tells people apart, and what it costs.

    python -m benchmarks.people CLIP... [--shots 40] [--longest-s 3] [--seed 0] [--json FILE]

Each CLIP shows one person (or is a photograph of one). An edited film is made of them: hard cuts between short shots,
each with its own framing and light, some with two people side by side. It is analysed, ``mfer people find`` is run, and
every pair of tracks is compared with who was really shown. A second film, with other shots of the same people, tests
``--across``. Cost is the CPU time of finding over that of the analysis, with the start of both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import machine
from flows.run import FolderRun
from pipelines.people.find import find_people
from pipelines.people.network import load_identity
from pipelines.settings import AnalysisSettings
from pipelines.video.decode import decode, open_video
from pipelines.video.encode import write_video
from storage.lake import Lake
from storage.sql.views import run_sql

__all__ = ["FPS", "Shot", "edit", "pairwise", "plan", "read_people", "who_is_who"]

FPS = 25
_HEIGHT_PX, _WIDTH_PX = 360, 640
_PICTURES = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True)
class Shot:
    """A shot of one person, or of two side by side, ``n_frames`` long; framing and light are drawn from ``seed``."""

    people: tuple[str, ...]
    n_frames: int
    seed: int


def read_people(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Frames uint8 [T,H,W,3] of each person, at most 500, by the file's name; a photograph is one frame."""
    people = {}
    for path in paths:
        if path.suffix.lower() in _PICTURES:
            with Image.open(path) as picture:
                people[path.stem] = np.asarray(picture.convert("RGB"))[None]
        else:
            frames = [batch.rgb.copy() for batch in decode(open_video(path), fps=FPS)]
            people[path.stem] = np.concatenate(frames)[:500]
    return people


def plan(names: Sequence[str], n_shots: int, seed: int, longest_s: float = 3.0) -> list[Shot]:
    """Shots of 1.2 s to the longest; of more than three people none is shown twice in a row; every eighth shows two."""
    rng = np.random.default_rng(seed)
    shots: list[Shot] = []
    while len(shots) < n_shots:
        n_people = 2 if len(shots) % 8 == 7 else 1
        people = tuple(rng.choice(names, n_people, replace=False).tolist())
        if shots and set(people) & set(shots[-1].people) and len(names) > 3:
            continue
        shots.append(Shot(people, int(rng.integers(30, round(FPS * longest_s))), int(rng.integers(1 << 30))))
    return shots


def edit(people: Mapping[str, np.ndarray], shots: Sequence[Shot]) -> Iterator[np.ndarray]:
    """The frames of a film, uint8 RGB [360,640,3] each."""
    for shot in shots:
        rng = np.random.default_rng(shot.seed)
        width_px = _WIDTH_PX // len(shot.people)
        parts = [list(_part(people[name], shot.n_frames, width_px, rng)) for name in shot.people]
        yield from (np.concatenate(pictures, axis=1) for pictures in zip(*parts, strict=True))


def _part(frames: np.ndarray, n_frames: int, width_px: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """One person in a field of that width: a slow move over part of the picture, in a light of its own."""
    _, height, width, _ = frames.shape
    first = int(rng.integers(max(len(frames) - n_frames, 0) + 1))
    share = rng.uniform(0.8, 1.0, 2)  # of the picture that is shown, at the beginning and at the end
    gain, lift, tint = rng.uniform(0.7, 1.25), rng.uniform(-15, 25), rng.uniform(0.92, 1.08, 3)
    shift = rng.uniform(0, 1, 2)
    for i in range(n_frames):
        at = first + i if first + i < len(frames) else 2 * len(frames) - 2 - first - i
        part = share[0] + (share[1] - share[0]) * i / n_frames
        side = (part * width, part * height)
        x, y = ((full - size) * place for full, size, place in zip((width, height), side, shift, strict=True))
        scale = min(width_px / side[0], _HEIGHT_PX / side[1])
        size = max(int(side[0] * scale), 1), max(int(side[1] * scale), 1)
        picture = Image.fromarray(frames[min(max(at, 0), len(frames) - 1)])
        shown = np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + side[0], y + side[1])))
        canvas = np.full((_HEIGHT_PX, width_px, 3), 20, np.uint8)
        top, left = (_HEIGHT_PX - size[1]) // 2, (width_px - size[0]) // 2
        lit = np.clip(shown * gain * tint + lift, 0, 255).astype(np.uint8)
        canvas[top : top + size[1], left : left + size[0]] = lit
        yield canvas


def who_is_who(lake: Lake, plans: Mapping[str, Sequence[Shot]]) -> list[tuple[str, str, int]]:
    """Every track that was told in some films: who was really shown, whom it was taken for, and its faces.

    ``plans`` are the shots of each film by its file name.
    """
    rows = run_sql(
        lake,
        "SELECT file_name, track_id, any_value(person_id) AS found, median(frame_index) AS frame, count(*) AS n,"
        " median((box_x1_px + box_x2_px) / 2) AS x FROM scores WHERE person_id IS NOT NULL GROUP BY ALL",
    ).to_pylist()
    tracks = []
    for row in (row for row in rows if row["file_name"] in plans):
        shots = plans[row["file_name"]]
        ends = np.cumsum([shot.n_frames for shot in shots])
        people = shots[int(np.searchsorted(ends, row["frame"], side="right"))].people
        tracks.append((people[min(int(row["x"] * len(people) / _WIDTH_PX), len(people) - 1)], row["found"], row["n"]))
    return tracks


def pairwise(tracks: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """Of all pairs of tracks: precision, recall and F1 of being one person, and which people were joined."""
    pairs = [(a[0] == b[0], a[1] == b[1]) for a, b in combinations(tracks, 2)]
    hit, found, true = sum(t and f for t, f in pairs), sum(f for _, f in pairs), sum(t for t, _ in pairs)
    mixed = {found: {name for name, other, _ in tracks if other == found} for _, found, _ in tracks}
    return {
        "tracks": len(tracks),
        "people": len({name for name, _, _ in tracks}),
        "found": len(mixed),
        "precision": round(hit / max(found, 1), 4),
        "recall": round(hit / max(true, 1), 4),
        "f1": round(2 * hit / max(found + true, 1), 4),
        "joined": sorted("+".join(sorted(names)) for names in mixed.values() if len(names) > 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--shots", type=int, default=40, help="in each of the two films")
    parser.add_argument("--longest-s", type=float, default=3.0, help="longest shot in seconds; the shortest has 1.2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    people = read_people(options.clips)
    with tempfile.TemporaryDirectory() as folder:
        plans = {
            f"film{k}.mp4": plan(list(people), options.shots, 2 * options.seed + k, options.longest_s) for k in range(2)
        }
        for name, shots in plans.items():
            write_video(Path(folder) / name, edit(people, shots), FPS, options={"preset": "veryfast"})
        figures = measure(folder, plans)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps({**machine(), **figures}, indent=2) + "\n")


def _cpu_s() -> float:
    """CPU time of this process and of the workers that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measure(folder: str, plans: Mapping[str, Sequence[Shot]]) -> dict[str, Any]:
    """Analyse the films and find their people, within each and across both."""
    from flows.analyze import analyze_folder

    location = f"{folder}/lake"
    began = _cpu_s()
    analyze_folder(FolderRun((folder,), location, settings=AnalysisSettings()))
    analysis_s = _cpu_s() - began
    lake = Lake.open(location)
    load_identity()  # the first time it is exported, which takes seconds
    began = _cpu_s()
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", "people", "find", "--lake", location]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    find_s = _cpu_s() - began
    figures: dict[str, Any] = {"within": {}}
    for name in plans:
        figures["within"][name] = pairwise(who_is_who(lake, {name: plans[name]}))
    find_people(lake, across=True)
    figures["across"] = pairwise(who_is_who(lake, plans))
    figures["cost"] = {
        "analysis_s": round(analysis_s, 2),
        "find_cpu_s": round(find_s, 2),
        "share": round(find_s / analysis_s, 4),
    }
    return figures


if __name__ == "__main__":
    main()
