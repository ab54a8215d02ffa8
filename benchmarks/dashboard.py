"""How long the dashboard's pages take over a large lake: `python -m benchmarks.dashboard [--lake DIR] [--json FILE]`.

The lake is that of `benchmarks.scale` (synthetic; no video files, so no thumbnail is decoded), with a three-hour video
beside the others. `mfer dashboard` serves it, started afresh with nothing in memory, and its pages are opened in a real
Chromium on the same machine. Each figure is wall time from asking for the address until the page shows its content, and
what the server and the browser took of the CPU meanwhile: where other programs have the cores too, that tells what a
quiet machine would need.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import add_result, machine
from benchmarks.scale import fill, name_of
from storage.lake import Lake, Segment
from storage.sql.views import run_sql
from tests.dashboards.web.browser import open_browser
from tests.storage.lake_rows import ANALYSIS_A, face_rows, finished

_FPS = 25
_LONG_S = 3 * 3600
_CARDS = "return document.querySelectorAll('article.card').length > 0"
#: Its neighbours in the list are 8 further: that many folders take turns.
_SEARCHED = 577


def add_long(lake: Lake) -> None:
    """A video of three hours, where there is none."""
    video_id = name_of(-1)
    if run_sql(lake, f"SELECT 1 FROM videos WHERE video_id = '{video_id}'").num_rows == 0:
        rows = face_rows(_LONG_S * _FPS, seed=99)
        lake.commit_segments([Segment(ANALYSIS_A, video_id, 0, rows)])
        size = {"width_px": 1280, "height_px": 720, "codec": "h264", "duration_s": float(_LONG_S)}
        lake.commit_video(finished(0, video_id=video_id, path="/archive/long/three hours.mp4", **size))


@dataclass(frozen=True)
class Watch:
    """The server's process and the browser's driver, whose descendants are the browser."""

    server: psutil.Process
    driver: Any

    def cpu_s(self) -> tuple[float, float]:
        browser = psutil.Process(self.driver.service.process.pid)
        both = ([self.server], browser.children(recursive=True))
        return tuple(sum(sum(process.cpu_times()[:2]) for process in each) for each in both)  # type: ignore[return-value]

    def timed(self, open_page: Callable[[], None], shown: str) -> list[float]:
        """Seconds on the clock, of the server's CPU and of the browser's, until a condition in JavaScript holds."""
        started, before = time.perf_counter(), self.cpu_s()
        open_page()
        while not self.driver.execute_script(shown):
            if time.perf_counter() - started > 120:
                raise TimeoutError(shown)
            time.sleep(0.03)
        wall_s, after = time.perf_counter() - started, self.cpu_s()
        return [round(seconds, 2) for seconds in (wall_s, after[0] - before[0], after[1] - before[1])]


@contextmanager
def served(place: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The command in a process of its own: its address and the process."""
    command = "from flows.cli.main import main; main()"
    words = [sys.executable, "-c", command, "dashboard", "--lake", str(place), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            output = process.stdout.readline()
            yield output.split(" at ")[1].split("  ")[0].rstrip("/"), psutil.Process(process.pid)
        finally:
            process.terminate()


def curves_of(number: int) -> str:
    """JavaScript: whether the curves of that video are drawn."""
    plot = "document.querySelector('#timeline .js-plotly-plot')"
    return f"return {plot}?.layout?.meta?.video_id === '{name_of(number)}' && {plot}.calcdata?.length >= 8"


def measure(lake: Lake, profile: Path) -> dict[str, list[float]]:
    """Each page's seconds (wall, server, browser) in one browser, the first one with an empty cache."""
    found: dict[str, list[float]] = {}
    with served(Path(str(lake.location))) as (address, server), open_browser(profile) as driver:
        timed = Watch(server, driver).timed

        def go(path: str) -> Callable[[], None]:
            return lambda: driver.get(address + path)

        found["library, first visit"] = timed(go("/"), _CARDS)
        paint = "return performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
        found["library, first contentful paint"] = [round(driver.execute_script(paint), 2)]
        found["library again"] = timed(go("/"), _CARDS)
        search = "document.querySelector('#library-text')"
        typed = f"const i = {search}; i.focus(); document.execCommand('insertText', false, 'session {_SEARCHED:04}');"
        hit = "return document.querySelector('#library-found .count')?.textContent.startsWith('1 of ')"
        found["library, search for a name"] = timed(lambda: driver.execute_script(typed), hit)

        def follow(css: str, number: int) -> list[float]:
            link = f"document.querySelector(\"{css} a[href*='{name_of(number)}']\")"
            timed(lambda: None, f"return !!{link}")
            return timed(lambda: driver.execute_script(f"{link}.click()"), curves_of(number))

        found["video page from the library, first"] = follow("article.card", _SEARCHED)
        found["next video page"] = follow("#side-list", _SEARCHED + 8)
        found["and the next"] = follow("#side-list", _SEARCHED + 16)
        found["video page by its address"] = timed(go(f"/video?id={name_of(500)}"), curves_of(500))
        found["video of three hours by its address"] = timed(go(f"/video?id={name_of(-1)}"), curves_of(-1))
        zoom = "window.before = window.mfer.page.timeline.own; window.mfer.page.timeline.zoom(3000, 3600)"
        drawn = "return window.mfer.page.timeline.own !== window.before"
        found["three hours, zoom to ten minutes"] = timed(lambda: driver.execute_script(zoom), drawn)
        bars = "return document.querySelectorAll('#compare-bars .barlayer .trace').length > 1"
        found["compare"] = timed(go("/compare"), bars)
        face = "return !!document.getElementById('label-picture')?.dataset.face"
        found["label, queue over all faces"] = timed(go("/label"), face)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--lake", type=Path, help="keep the lake here, and use it if it is there")
    parser.add_argument("--json", type=Path, help="add the figures to this file, under the number of rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.lake or Path(folder) / "lake"
        if not (place / "lake.json").exists():
            fill(Lake.open(place, create=True), options.rows, options.videos)
            Lake.open(place).compact()
        lake = Lake.open(place)
        add_long(lake)
        counted = run_sql(lake, "SELECT count(*) AS videos, sum(n_faces)::BIGINT AS faces FROM videos").to_pylist()[0]
        found = measure(lake, Path(folder) / "profile")
        facts = {**counted, "seconds": found, "load_average": round(os.getloadavg()[0], 1), **machine()}
    print(json.dumps(facts, indent=2))
    if options.json:
        add_result(options.json, str(options.rows), facts)


if __name__ == "__main__":
    main()
