"""What an archive costs on many workers, from rates measured on one core, and what slow and lost machines add.

    python -m benchmarks.scaling [--hours 10000] [--json benchmarks/results/scaling.json]

A simulation of `flows/workers/ray_engine.py`: videos are given out by falling size; a long one shares its segments out
after the first; a worker reads all packets before the part that it begins with; a lost machine costs what its workers
were at, which others take, and comes back after a while. Rates are those of benchmarks/results/speed.json (one core,
720p, one face).
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine

FPS = 25.0
SEGMENT_S = 300.0
#: Hours of video that are read past in an hour without decoding: at 2 Mbit/s that is 90 MB/s, a shared disk's share.
DEMUX_SPEED = 360.0
#: Of the simulations of a scenario, the median is told.
SEEDS = (1, 2, 3, 4, 5)
#: A machine of the simulation has so many workers.
WORKERS_PER_MACHINE = 16


@dataclass(frozen=True)
class Scenario:
    """One cluster and what befalls it."""

    name: str
    n_workers: int
    slow_share: float = 0.0  # of workers run at a quarter of the speed
    lost_per_machine_day: float = 0.0
    segments: bool = True


@dataclass
class _Video:
    n_segments: int
    n_open: int = 1
    seen: bool = False


@dataclass(order=True)
class _Event:
    at_s: float
    order: int
    worker: int = field(compare=False)
    task: tuple[_Video, int, int] | None = field(compare=False)
    began_s: float = field(compare=False, default=0.0)


def lengths_s(hours: float, seed: int) -> np.ndarray:
    """Lengths of videos, log-normal with a median of 10 minutes and a long tail, up to six hours, in seconds."""
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    while sum(drawn) < hours * 3600:
        drawn.extend(np.minimum(rng.lognormal(np.log(600), 1.3, 1000), 6 * 3600).tolist())
    total = np.cumsum(drawn)
    return np.sort(np.array(drawn[: int(np.searchsorted(total, hours * 3600)) + 1]))[::-1]


def simulate(scenario: Scenario, videos_s: np.ndarray, frames_per_s: float, seed: int) -> dict[str, float]:
    """Hours until the last video is finished, and the share of worker time that went into rows."""
    rng = np.random.default_rng(seed)
    n = scenario.n_workers
    speed = np.where(rng.random(n) < scenario.slow_share, 0.25, 1.0)
    segment_cost_s = SEGMENT_S * FPS / frames_per_s
    sizes = [_Video(max(1, int(np.ceil(s / SEGMENT_S)))) for s in videos_s]
    waiting = deque((v, 0, 1 if scenario.segments else v.n_segments) for v in sizes)
    events: list[_Event] = []
    free, dead_until = list(range(n)), np.zeros(n)
    order, now_s, useful_s = 0, 0.0, 0.0
    machines = max(1, n // WORKERS_PER_MACHINE)
    next_loss_s = _next_loss(rng, scenario, machines, 0.0)
    while waiting or events:
        while waiting and free:
            worker, task = free.pop(), waiting.popleft()
            video, first, end = task
            skip_s = first * SEGMENT_S / DEMUX_SPEED
            last = min(end, video.n_segments)
            took_s = ((last - first) * segment_cost_s + skip_s) / speed[worker]
            begin_s = max(now_s, dead_until[worker])
            heapq.heappush(events, _Event(begin_s + took_s, order, worker, task, begin_s))
            order += 1
        if next_loss_s < events[0].at_s:
            now_s = next_loss_s
            first_of = int(rng.integers(machines)) * WORKERS_PER_MACHINE
            lost = range(first_of, min(first_of + WORKERS_PER_MACHINE, n))
            for event in [e for e in events if e.worker in lost and e.task is not None]:
                video, first, end = event.task  # type: ignore[misc]
                done = int((now_s - event.began_s) * speed[event.worker] / segment_cost_s) if scenario.segments else 0
                done = max(0, min(done, end - first - 1))  # what was committed stays
                useful_s += done * segment_cost_s
                waiting.appendleft((video, first + done, end))
                event.task = None
            dead_until[list(lost)] = now_s + 600
            next_loss_s = _next_loss(rng, scenario, machines, now_s)
            continue
        event = heapq.heappop(events)
        now_s = event.at_s
        free.append(event.worker)
        if event.task is None:
            continue
        video, first, end = event.task
        useful_s += (min(end, video.n_segments) - first) * segment_cost_s
        if scenario.segments and not video.seen:
            video.seen = True
            rest = video.n_segments - 1
            parts = min(n, rest)
            bounds = [1 + k * rest // parts for k in range(parts + 1)] if parts else []
            waiting.extendleft((video, a, b) for a, b in pairwise(bounds))
    return {"hours": round(now_s / 3600, 2), "share_useful": round(useful_s / (now_s * n), 3)}


def _next_loss(rng: np.random.Generator, scenario: Scenario, machines: int, now_s: float) -> float:
    if not scenario.lost_per_machine_day:
        return float("inf")
    return now_s + rng.exponential(86_400 / (scenario.lost_per_machine_day * machines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=10_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    speed = json.loads(Path("benchmarks/results/speed.json").read_text())["figures"]
    frames_per_s = speed["720p, one face: frames per CPU s after the start"]
    stages = speed["720p, one face: CPU s by stage"]
    videos_s = lengths_s(options.hours, seed=0)
    scenarios = [
        *(Scenario(f"{n} workers", n) for n in (1, 16, 128, 1024)),
        Scenario("128 workers, 5% of them at a quarter of the speed", 128, slow_share=0.05),
        Scenario("128 workers, a machine lost twice a day", 128, lost_per_machine_day=2),
        Scenario("1024 workers, slow ones and lost machines", 1024, 0.05, 2),
        Scenario("1024 workers, the same, whole videos instead of segments", 1024, 0.05, 2, segments=False),
    ]
    rows: list[dict[str, Any]] = []
    for scenario in scenarios:
        runs = [simulate(scenario, videos_s, frames_per_s, seed) for seed in SEEDS]
        found = sorted(runs, key=lambda run: run["hours"])[len(runs) // 2]
        rows.append({"scenario": scenario.name, **found})
        print(f"{scenario.name:60} {found['hours']:10.2f} h, {found['share_useful']:.1%} for rows", flush=True)
    result = {
        "machine": machine(),
        "hours_of_video": options.hours,
        "n_videos": len(videos_s),
        "longest_video_s": float(videos_s.max()),
        "frames_per_cpu_s": frames_per_s,
        "decode_share": round(stages["decode"] / stages["all"], 3),
        "simulated": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
