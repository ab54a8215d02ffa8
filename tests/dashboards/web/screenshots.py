"""Pictures of every page of the dashboard, for people to look at: `python -m tests.dashboards.web.screenshots FOLDER`.

Analyses what comes with installed packages (a photograph and a woman who cries and laughs, side by side and alone,
and a talking man in pieces), a black clip and a file that is no video, and leaves the lake beside the pictures. With
--lake another lake is shown.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from flows.analyze import analyze_folder
from flows.demo_clips import crying_path, write_demo_videos
from flows.run import FolderRun
from pipelines.settings import AnalysisSettings, DetectorSettings
from pipelines.video.encode import write_video
from storage.annotations.edits import add_edit
from storage.lake import Lake
from storage.sql.views import run_sql
from tests.dashboards.web.browser import open_browser, serving
from tests.faces import astronaut, carphone_frames

_FPS = 25
_WAIT_S = 60.0


def side_by_side() -> Iterator[np.ndarray]:
    """Two faces, of which one is covered for a second, uint8 RGB [360,800,3]."""
    photograph = Image.fromarray(astronaut())
    with av.open(str(crying_path())) as container:
        crying = [frame.to_image() for frame in islice(container.decode(video=0), 110, 310)]
    for index, other in enumerate(crying):
        canvas = np.full((360, 800, 3), 24, np.uint8)
        shift = 12 * math.sin(index / 18)
        window = (60 + shift, 0, 400 + shift, 306)
        canvas[:, :400] = photograph.resize((400, 360), Image.Resampling.BICUBIC, box=window)
        if 90 <= index < 120:
            canvas[50:230, 90:270] = 128
        canvas[:, 400:] = np.asarray(other)[:, 220:620]
        yield canvas


def make_lake(folder: Path) -> Lake:
    """Material, analysed with the default model."""
    videos = folder / "videos"
    place = folder / "lake"
    if not (place / "lake.json").exists():
        for name in ("calm", "lively", "other"):
            (videos / name).mkdir(parents=True, exist_ok=True)
        talk = carphone_frames()
        write_demo_videos(videos / "other")
        write_video(videos / "other" / "two faces.mp4", side_by_side(), _FPS, options={"crf": "16"})
        write_video(videos / "other" / "nobody.mp4", [np.zeros_like(talk[0])] * 30, _FPS)
        (videos / "other" / "notes.mp4").write_text("this is no video\n")
        for k in range(4):
            write_video(videos / "calm" / f"session {k}.mp4", list(talk[4 * k : 4 * k + 20]), _FPS)
            write_video(videos / "lively" / f"session {k}.mp4", list(talk[45 + 6 * k : 65 + 6 * k]), _FPS)
        settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36))
        analyze_folder(FolderRun((str(videos),), str(place), "default", "cpu", 1, settings))
    return Lake.open(place)


def say_something(lake: Lake, video_id: str) -> None:
    """A name, an event and an excluded span, so that they are in the picture."""
    if run_sql(lake, "SELECT * FROM edits").num_rows:
        return
    row = run_sql(lake, f"SELECT faces_id FROM videos WHERE video_id = '{video_id}'").to_pylist()[0]
    add_edit(lake, video_id, "name", faces_id=row["faces_id"], track_id=1, value="Eileen")
    add_edit(lake, video_id, "event", value="question", start_s=2.2)
    add_edit(lake, video_id, "exclude", start_s=6.6, end_s=7.3)


def take(driver: Any, png: Path, ready: str, *, act: Callable[[], None] | None = None) -> None:
    """Wait until a page is ready, then write its whole length."""

    def wait(shown: str) -> None:
        until = time.monotonic() + _WAIT_S
        while not driver.execute_script(f"return {shown}"):
            if time.monotonic() > until:
                raise TimeoutError(f"{png.name}: {shown}")
            time.sleep(0.1)

    wait(ready)
    if act:
        act()
    wait("[...document.images].every((image) => image.complete)")
    time.sleep(0.8)  # pictures fade in
    width = driver.get_window_size()["width"]
    driver.set_window_size(width, max(900, driver.execute_script("return document.documentElement.scrollHeight") + 150))
    time.sleep(0.8)
    driver.save_screenshot(str(png))
    driver.set_window_size(width, 1100)
    print(png)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lake", type=Path, help="a lake of your own")
    parser.add_argument("--readme", type=Path, help="write the upper part of the video page here, small")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    lake = Lake.open(options.lake) if options.lake else make_lake(options.folder)
    best = "SELECT video_id FROM videos WHERE n_tracks > 0 ORDER BY n_tracks DESC, n_faces DESC LIMIT 1"
    video_id = str(run_sql(lake, best)["video_id"][0])
    if not options.lake:
        say_something(lake, video_id)
    with (
        tempfile.TemporaryDirectory() as profile,
        serving(lake) as address,
        open_browser(Path(profile), (1440, 1100)) as driver,
    ):
        pages(driver, address, video_id, options.folder)
    if options.readme:
        with Image.open(options.folder / "video.png") as shot:
            upper = shot.convert("RGB").crop((0, 0, shot.width, 1130))
        small = upper.resize((1080, round(1130 * 1080 / upper.width)), Image.Resampling.LANCZOS)
        small.save(options.readme, quality=86, subsampling=0, optimize=True)  # a JPEG by its name


def pages(driver: Any, address: str, video_id: str, folder: Path) -> None:
    def seek() -> None:
        driver.execute_script("window.mfer.page.seek(2.4)")
        time.sleep(1)

    def run() -> None:
        driver.execute_script("document.getElementById('query-run').click()")
        time.sleep(3)

    driver.get(f"{address}/")
    take(driver, folder / "library.png", "document.querySelectorAll('article.card').length > 0")
    driver.get(f"{address}/video?id={video_id}")
    ready = "document.querySelectorAll('#timeline .scatterlayer .trace').length > 7"
    take(driver, folder / "video.png", ready + " && document.getElementById('player')?.readyState > 2", act=seek)
    driver.get(f"{address}/compare")
    take(driver, folder / "compare.png", "document.querySelectorAll('#compare-bars .barlayer .trace').length > 0")
    driver.get(f"{address}/query")
    take(driver, folder / "query.png", "!!document.getElementById('query-run')", act=run)
    driver.get(f"{address}/label")
    take(driver, folder / "label.png", "document.querySelector('#label-picture img')?.naturalWidth > 0")
    driver.get(f"{address}/models")
    take(driver, folder / "models.png", "document.querySelectorAll('table').length > 1")
    driver.get(f"{address}/settings")
    take(driver, folder / "settings.png", "document.querySelectorAll('#settings-form fieldset').length > 0")


if __name__ == "__main__":
    main()
