"""The dashboard in a real browser: picture, curves and lake in step, what is judged is written, names stay text."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.analyze import analyze_folder
from flows.demo_clips import carphone_path
from flows.explain import explain_moment
from flows.run import FolderRun
from pipelines.settings import AnalysisSettings, DetectorSettings
from pipelines.video.decode import open_video
from pipelines.video.encode import write_video
from storage.lake import Lake
from storage.schema import EXPRESSIONS
from storage.sql.views import run_sql
from tests.clips import read_number, write_clip
from tests.faces import carphone_faces, carphone_frames
from tests.models import tiny_model

pytestmark = pytest.mark.full
selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from tests.dashboards.web.browser import missing_browser, open_browser, serving  # noqa: E402

#: Where the picture begins in a file's clock, and the sound.
STARTS: dict[str, tuple[float, float | None]] = {
    "late_picture.mp4": (1.5, 0.0),
    "late_picture.webm": (1.5, 0.0),
    "late_sound.mp4": (0.0, 0.85),
    "both_late.mp4": (6.0, 5.0),
    "silent_and_late.webm": (1.5, None),
}
#: Files of which Chromium plays at most the sound, with the codec of their pictures.
UNPLAYABLE = {"hevc_and_sound.mov": "libx265", "hevc.mp4": "libx265", "mpeg4_and_sound.mp4": "mpeg4"}
WICKED = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>.mp4"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Lake:
    """The talking man, a copy of some of it under a wicked name, and one that no Chromium plays, really analysed."""
    videos = tmp_path_factory.mktemp("videos")
    shutil.copyfile(carphone_path(), videos / "carphone.mp4")
    wicked = "".join("∕" if letter == "/" else letter for letter in WICKED)  # a file name has no slash
    write_video(videos / wicked, list(carphone_frames()[:10]), 25)
    write_video(videos / "mpeg4.avi", list(carphone_frames()[:20]), 25, codec="mpeg4")
    for name, (start_s, sound_s) in STARTS.items():
        codec = "libvpx" if name.endswith(".webm") else "libx264"
        pts_ms = [round(1000 * start_s) + 40 * k for k in range(30)]
        sound = {} if sound_s is None else {"with_audio": True, "audio_start_s": sound_s}
        write_clip(videos / name, n_frames=30, codec=codec, options={"bf": "0"}, pts_ms=pts_ms, **sound)
    for name, codec in UNPLAYABLE.items():
        quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        write_clip(videos / name, n_frames=25, codec=codec, options=quiet, with_audio="sound" in name)
    place = tmp_path_factory.mktemp("browser") / "lake"
    settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36))
    second = tiny_model(place.parent / "second", name="mfer_atto.random_v2", seed=1)
    for each in (model, second):
        summary = analyze_folder(FolderRun((str(videos),), str(place), str(each), "cpu", 1, settings))
        assert summary.exit_code == 0
    return Lake.open(place)


@pytest.fixture(scope="module")
def page(lake: Lake, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    missing = missing_browser()
    if missing and os.environ.get("MFER_NEEDS_BROWSER"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)

    def explain(video_id: str, file: Path, at_s: float, png: Path) -> str:
        return explain_moment(str(file), at_s, model, png)

    profile, downloads = tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("downloads")
    with serving(lake, explain=explain) as address, open_browser(profile) as driver:
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads), "eventsEnabled": False}
        )
        yield Page(driver, address, lake, downloads)


class Page:
    """The browser with what the tests ask of it."""

    def __init__(self, driver: Any, address: str, lake: Lake, downloads: Path) -> None:
        self.driver, self.address, self.lake, self.downloads = driver, address, lake, downloads

    def js(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(f"return {script}", *values)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        # what was found a moment ago may have been drawn again: it is looked for anew
        wait = WebDriverWait(self.driver, 60, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda _: condition(), what)

    def find(self, css: str) -> Any:
        return self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, css), f"{css} to appear")[0]

    def open(self, path: str) -> None:
        self.driver.get(self.address + path)
        self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, "#page h1"), "the page")

    def video_id(self, name: str) -> str:
        query = "SELECT video_id FROM videos WHERE file_name = '" + name.replace("'", "''") + "'"
        return str(run_sql(self.lake, query)["video_id"][0])

    def open_video(self, name: str = "carphone.mp4") -> str:
        video_id = self.video_id(name)
        self.open(f"/video?id={video_id}")
        self.until(lambda: self.js("document.querySelectorAll('#timeline .scatterlayer .trace').length > 4"), "curves")
        return video_id

    def ready(self) -> None:
        self.until(lambda: self.js("document.getElementById('player').readyState >= 2"), "the video")
        self.until(lambda: self.js("!document.getElementById('player').seeking"), "the seek")

    @property
    def time_s(self) -> float:
        return float(self.js("document.getElementById('player').currentTime"))

    def plot(self) -> tuple[float, float, float, float]:
        """Left, top, width and height of the plot's inside, in the window's pixels."""
        box = "const b = document.querySelector('#timeline .nsewdrag').getBoundingClientRect();"
        self.driver.execute_script("document.getElementById('timeline').scrollIntoView({block: 'center'})")
        return tuple(self.driver.execute_script(f"{box} return [b.left, b.top, b.width, b.height]"))

    def click_at(self, share: float) -> None:
        left, top, width, height = self.plot()
        actions = ActionChains(self.driver, duration=0)
        actions.w3c_actions.pointer_action.move_to_location(round(left + share * width), round(top + height / 3))
        actions.w3c_actions.pointer_action.click()
        actions.perform()

    def key(self, keys: str) -> None:
        ActionChains(self.driver, duration=0).send_keys(keys).perform()

    def type(self, field: Any, text: str) -> None:
        """Type as a person does; Dash puts the caret back a moment after each letter (`debounce`)."""
        for end in range(1, len(text) + 1):
            field.send_keys(text[end - 1])
            self.driver.execute_async_script("setTimeout(arguments[0], 30)")
            assert field.get_attribute("value").endswith(text[:end])

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    inner = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(inner / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner))


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_picture_in_the_player_is_the_frame_that_the_page_names(page: Page, name: str, share: float) -> None:
    video_id = page.video_id(name)
    query = f"SELECT frame_index, time_s, duration_s FROM frames WHERE video_id = '{video_id}' ORDER BY time_s"
    frames = run_sql(page.lake, query).to_pylist()
    wanted = frames[int(share * len(frames))]
    page.open(f"/video?id={video_id}&t={wanted['time_s'] + wanted['duration_s'] / 2:.4f}")
    page.ready()
    named = "document.getElementById('overlay').dataset.frame"
    page.until(lambda: page.js(named) == str(wanted["frame_index"]), "the frame of that time to be named")
    picture = """
        const video = document.getElementById('player'), canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
        canvas.getContext('2d').drawImage(video, 0, 0);
        return Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data);"""
    rgba = np.array(page.driver.execute_script(picture), np.uint8).reshape(120, 208, 4)
    assert read_number(rgba[:, :, :3]) == wanted["frame_index"]


def test_click_on_a_curve_seeks_to_its_time_also_when_zoomed(page: Page) -> None:
    page.open_video()
    page.ready()
    shown = run_sql(page.lake, "SELECT max(duration_s) AS d FROM videos WHERE file_name = 'carphone.mp4'")
    whole_s = shown["d"][0].as_py()
    for from_s, to_s in ((0.0, whole_s), (1.0, 2.0)):
        page.driver.execute_script("window.mfer.page.timeline.zoom(arguments[0], arguments[1])", from_s, to_s)
        end = "document.querySelector('#timeline .js-plotly-plot').layout.xaxis.range[1]"
        page.until(lambda end=end, to_s=to_s: abs(page.js(end) - to_s) < 1e-3, "the zoom")
        for share in (0.1, 0.52, 0.9):
            page.click_at(share)
            wanted_s = from_s + share * (to_s - from_s)
            page.until(lambda wanted_s=wanted_s: abs(page.time_s - wanted_s) < 0.1, f"a seek to {wanted_s}")
            page.ready()
            cursor_s = float(page.js("document.getElementById('timeline-cursor').dataset.seconds"))
            assert abs(cursor_s - wanted_s) < 0.1


def test_cursor_follows_the_playing_video(page: Page) -> None:
    page.open_video()
    page.ready()
    page.driver.execute_script(
        "const v = document.getElementById('player'); v.muted = true; v.playbackRate = 0.5; v.play()"
    )
    page.until(lambda: page.time_s > 0.6, "the video to play")
    both = """
        const plot = document.querySelector('#timeline .nsewdrag').getBoundingClientRect();
        const cursor = document.getElementById('timeline-cursor').getBoundingClientRect();
        const range = document.querySelector('#timeline .js-plotly-plot').layout.xaxis.range;
        const share = (cursor.left + cursor.width / 2 - plot.left) / plot.width;
        return [document.getElementById('player').currentTime, range[0] + share * (range[1] - range[0])];
    """
    pairs = []
    for least_s in (0.7, 1.0, 1.3):
        page.until(lambda least_s=least_s: page.time_s > least_s, "the video to go on")
        pairs.append(page.driver.execute_script(both))
    page.driver.execute_script("document.getElementById('player').pause()")
    assert all(abs(video_s - cursor_s) < 0.15 for video_s, cursor_s in pairs), pairs
    page.until(
        lambda: abs(np.subtract(*page.driver.execute_script(both))) < 0.02, "the cursor to stand where the video does"
    )


def test_boxes_lie_on_the_face(page: Page) -> None:
    video_id = page.open_video()
    page.ready()
    rows = run_sql(page.lake, f"SELECT * FROM scores WHERE video_id = '{video_id}' ORDER BY frame_index").to_pylist()
    size = run_sql(page.lake, f"SELECT width_px, height_px FROM videos WHERE video_id = '{video_id}'").to_pylist()[0]
    overlay = "document.getElementById('overlay')"
    for frame in (0, 47, 101):
        row = next(row for row in rows if row["frame_index"] == frame)
        page.driver.execute_script("window.mfer.page.seek(arguments[0])", row["time_s"] + 0.4 * row["duration_s"])
        page.until(lambda frame=frame: page.js(f"{overlay}.dataset.frame") == str(frame), f"frame {frame}")
        drawn = np.array(json.loads(page.js(f"{overlay}.dataset.boxes")))
        width, height = page.js(f"[{overlay}.clientWidth, {overlay}.clientHeight]")
        scale = np.array([width / size["width_px"], height / size["height_px"]] * 2)
        stored = np.array([[row[f"box_{side}_px"] for side in ("x1", "y1", "x2", "y2")]])
        assert drawn == pytest.approx(stored * scale, abs=1.5)
        # the man's own face, found apart from the lake in the frames as stored (176 of 193 px wide)
        found = carphone_faces()
        own = found.box_xyxy_px[found.frame_row == frame][0] * np.array([size["width_px"] / 176, 1] * 2)
        assert overlap(stored[0], own) > 0.7
        x1, y1, x2, y2 = drawn[0]
        alpha = f"(x, y) => {overlay}.getContext('2d').getImageData(x, y, 1, 1).data[3]"
        on_edge = page.js(f"({alpha})({round(x1)}, {round((y1 + y2) / 2)})")
        inside = page.js(f"({alpha})({round((x1 + x2) / 2)}, {round((y1 + y2) / 2)})")
        assert on_edge > 100
        assert inside == 0


def test_keys_mark_exclude_name_and_undo(page: Page) -> None:
    video_id = page.open_video()
    page.ready()
    query = (
        f"SELECT kind, value, track_id, start_s, end_s FROM edits WHERE video_id = '{video_id}' ORDER BY created_utc"
    )

    def edits() -> list[dict[str, Any]]:
        return run_sql(page.lake, query).to_pylist()

    page.driver.execute_script("window.mfer.page.seek(1.0)")
    page.ready()
    page.key("x")
    page.driver.execute_script("window.mfer.page.seek(2.0)")
    page.ready()
    page.key("x")
    page.until(lambda: len(edits()) == 1, "the span")
    assert edits()[0]["kind"] == "exclude"
    assert (edits()[0]["start_s"], edits()[0]["end_s"]) == pytest.approx((1.0, 2.0), abs=0.01)
    counted = f"SELECT count(*) AS n FROM scores WHERE video_id = '{video_id}' AND time_s > 1.0 AND time_s < 1.99"
    assert run_sql(page.lake, counted)["n"][0].as_py() == 0
    page.until(lambda: "excluded" in page.find("#timeline").text, "the band")
    page.driver.execute_script("const s = document.getElementById('edit-face'); s.value = '0'")
    page.type(page.find("#edit-name"), "<b>Ann</b>")
    page.find("[data-does=nameFace]").click()
    page.until(lambda: "<b>Ann</b> (face 0)" in page.find("#timeline").text, "the name over the curves")
    assert edits()[1]["value"] == "<b>Ann</b>"
    assert "<b>Ann</b> (face 0)" in page.find("#edit-face").text
    assert "<b>Ann</b> (face 0)" in page.find("#edit-other").text
    page.until(lambda: "<b>Ann</b> (face 0) (0:04)" in page.find("#track-options").text, "the name in the face list")
    page.type(page.find("#edit-event"), "a smile")
    page.find("[data-does=markEvent]").click()
    page.until(lambda: len(edits()) == 3, "the event")
    assert edits()[2] | {"start_s": None} == {
        "kind": "event",
        "value": "a smile",
        "track_id": 0,
        "start_s": None,
        "end_s": None,
    }
    page.find("h1").click()
    for left in (2, 1, 0):
        page.key("u")
        page.until(lambda left=left: len(edits()) == left, "the undo")
    page.until(lambda: "excluded" not in page.find("#timeline").text, "the band to go")


def test_a_face_is_split_at_the_cursor_and_made_one_again(page: Page) -> None:
    video_id = page.open_video()
    page.ready()
    tracks = f"SELECT DISTINCT track_id FROM scores WHERE video_id = '{video_id}' ORDER BY 1"
    before = run_sql(page.lake, tracks)["track_id"].to_pylist()
    page.driver.execute_script("window.mfer.page.seek(2.0)")
    page.ready()
    page.driver.execute_script("const s = document.getElementById('edit-face'); s.value = '0'; window.kept = 1")
    page.find("[data-does=splitFace]").click()
    page.until(lambda: page.js("!window.kept"), "the page with the new face")
    after = run_sql(page.lake, tracks)["track_id"].to_pylist()
    assert set(after) == {*before, max(before) + 1}
    new = max(after)
    page.until(lambda: f"face {new}" in page.find("#timeline").text, "its curve")
    page.driver.execute_script("window.mfer.page.seek(3.0)")
    page.until(lambda: f"face {new}" in page.find("#moment-bars").text, "its bars")
    page.driver.execute_script("window.mfer.page.seek(1.0)")
    page.until(lambda: "face 0" in page.find("#moment-bars").text, "those of the face before")
    page.driver.execute_script("document.getElementById('edit-face').value = arguments[0]", str(new))
    for at_s in (2.5, 3.0):
        page.driver.execute_script("window.mfer.page.seek(arguments[0])", at_s)
        page.find("[data-does=exclude]").click()
    page.until(lambda: "excluded" in page.find("#timeline").text, "the band")
    layout = page.js("JSON.parse(JSON.stringify(document.querySelector('#timeline .js-plotly-plot').layout))")
    row = next(k for k, n in enumerate(layout["annotations"]) if n["text"] == f"face {new}")
    (band,) = [shape for shape in layout["shapes"] if shape["layer"] == "above"]
    assert [band["y0"], band["y1"]] == pytest.approx(layout["yaxis" + (str(row + 1) if row else "")]["domain"])
    assert (band["x0"], band["x1"]) == pytest.approx((2.5, 3.0), abs=0.05)
    assert f"exclude face {new}" in page.find("#edit-list").text
    page.driver.execute_script("document.getElementById('edit-other').value = '0'")
    page.find("[data-does=mergeFace]").click()
    page.until(lambda: f"face {new} = face 0" in page.find("#timeline").text, "the two as one person")
    assert f"merge face {new} with face 0" in page.find("#edit-list").text
    page.find("h1").click()
    for gone in (f"face {new} = face 0", "excluded"):
        page.key("u")
        page.until(lambda gone=gone: gone not in page.find("#timeline").text, "the undo")
    page.find("h1").click()
    page.key("u")
    page.until(lambda: run_sql(page.lake, tracks)["track_id"].to_pylist() == before, "the undo")
    page.until(lambda: page.js(f"!document.querySelector('#edit-face option[value=\"{new}\"]')"), "the page as before")


def test_the_second_models_curves_are_drawn_dotted(page: Page) -> None:
    video_id = page.open_video()
    lines = "[...document.querySelectorAll('#timeline .scatterlayer path.js-line')]"
    dotted = f"{lines}.filter((line) => line.style.strokeDasharray).length"
    assert page.js(dotted) == 0
    page.find("#other-analysis").click()
    page.find(".dash-dropdown-options .dash-options-list-option").click()
    page.until(lambda: page.js(dotted) == 8, "eight dotted curves")
    other = page.js("window.mfer.page.timeline.other.tracks[0].smooth.happiness.find((p) => p !== null)")
    own = page.js("window.mfer.page.timeline.own.tracks[0].smooth.happiness.find((p) => p !== null)")
    models = run_sql(page.lake, f"SELECT DISTINCT model_id FROM scores_all WHERE video_id = '{video_id}'")
    assert models.num_rows == 2
    assert other != own


def test_why_shows_where_the_model_looked_in_the_faces_of_the_moment(page: Page) -> None:
    page.open_video()
    page.ready()
    page.driver.execute_script("window.mfer.page.seek(1.0)")
    page.ready()
    page.find("[data-does=explain]").click()
    page.until(lambda: page.js("document.querySelector('#explain-dialog img')?.naturalWidth > 200"), "the picture")
    assert page.js("document.getElementById('explain-dialog').open")
    page.find("#explain-dialog button").click()
    assert not page.js("document.getElementById('explain-dialog').open")


def test_the_view_is_downloaded_as_a_clip_that_lasts_as_long(page: Page) -> None:
    page.open_video()
    page.ready()
    page.driver.execute_script("window.mfer.page.timeline.zoom(1.0, 2.0)")
    page.find("[data-does=clip]").click()
    file = page.until(lambda: next(page.downloads.glob("carphone_clip_*.mp4"), None), "the download")
    clip = open_video(file)
    assert clip.info.duration_s == pytest.approx(1.0, abs=0.1)
    assert "in your downloads" in page.find("#video-message").text


def test_settings_are_kept_in_the_browser_and_the_video_page_obeys(page: Page) -> None:
    page.open("/settings")
    assert str(page.lake.location) in page.find("#page").text
    page.find("#settings-form [name=curves][value=fear]").click()
    page.find("#settings-form [name=overlay][value=names]").click()
    page.driver.execute_script(
        "const c = document.querySelector('[data-expression=happiness]'); c.value = '#123456';"
        " c.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    page.open_video()
    lines = "[...document.querySelectorAll('#timeline .scatterlayer path.js-line')].map((l) => l.style.stroke)"
    page.until(lambda: "rgb(18, 52, 86)" in page.js(lines), "the chosen colour")
    page.until(lambda: not page.js("document.querySelectorAll('#curve-options input')[6].checked"), "fear to be off")
    assert page.js("window.mfer.page.overlay") == ["boxes", "expression"]
    page.open("/settings")
    assert not page.find("#settings-form [name=curves][value=fear]").is_selected()
    page.find("#settings-reset").click()
    assert page.find("#settings-form [name=curves][value=fear]").is_selected()
    page.open_video()
    page.until(lambda: page.js("document.querySelectorAll('#curve-options input')[6].checked"), "fear to be on")


def test_the_list_beside_the_player_finds_every_video_and_opens_it(page: Page) -> None:
    page.open_video()
    page.type(page.find("#side-search"), "MPEG4.AVI")
    found = "[...document.querySelectorAll('#side-list a')]"
    alone = f"{found}.length === 1 && {found}[0].textContent.includes('mpeg4.avi')"
    page.until(lambda: page.js(alone), "the one that matches")
    page.driver.execute_script("window.kept = 1")
    page.driver.execute_script(f"{found}[0].click()")  # at once: a list that is drawn again takes its links along
    page.until(lambda: page.find("h1").text == "mpeg4.avi", "its page")
    assert page.js("window.kept") == 1  # without loading everything anew


def test_curves_are_switched_by_name_and_zoom_fetches_every_face(page: Page) -> None:
    page.open_video()
    traces = "document.querySelectorAll('#timeline .scatterlayer .trace').length"
    both = page.until(lambda: page.js(traces), "curves")
    page.find("#curve-options input").click()
    page.until(lambda: page.js(traces) == both - 2, "one class less, raw and smoothed")
    page.find("#show-options input").click()
    page.until(lambda: page.js(traces) == both / 2 - 1, "the raw curves to go")


def test_labels_arrive_by_key_and_can_be_undone(page: Page) -> None:
    page.open("/label")
    rater = page.find("#label-rater")
    rater.send_keys(Keys.CONTROL, "a")
    page.type(rater, "rater one")
    rater.send_keys(Keys.TAB)
    face = "document.getElementById('label-picture').dataset.face"
    page.until(lambda: page.js("document.querySelector('#label-picture img')?.naturalWidth > 0"), "a face")
    page.until(lambda: page.js("window.mfer.label.rater") == "rater one", "the rater")
    page.until(lambda: page.js(face), "a face of the new queue")
    query = "SELECT * FROM labels WHERE rater = 'rater one' ORDER BY created_utc"
    judged = []
    for key, verdict, expression in (("4", "expression", "sadness"), ("9", "not_a_face", None)):
        shown = page.js(face)
        page.key(key)
        judged.append(shown)
        page.until(lambda shown=shown: page.js(face) not in (shown, ""), "the next face")
        row = run_sql(page.lake, query).to_pylist()[-1]
        assert f"{row['video_id']}/{row['frame_index']}/{row['face_index']}" == shown
        assert (row["verdict"], row["expression"]) == (verdict, expression)
    page.key("u")
    page.until(lambda: run_sql(page.lake, query).num_rows == 1, "the undo")
    page.until(lambda: page.js(face) == judged[-1], "the face to come back")


def test_a_script_in_a_file_name_is_shown_as_text(page: Page) -> None:
    wicked = WICKED.replace("/", "∕")
    page.driver.get(page.address + "/")
    page.until(lambda: wicked in page.find("#library-found").text, "the name in the library")
    page.open_video(wicked)
    assert page.find("h1").text == wicked
    page.open("/compare")
    page.open("/query")
    page.find("#query-run").click()
    page.until(lambda: wicked in page.find("#query-result").text, "the name in an answer")
    page.until(lambda: page.js("document.querySelectorAll('#query-chart .barlayer .trace').length > 0"), "the chart")
    assert page.driver.title == "mfer"
    assert page.js("document.querySelectorAll('img[src=x]').length") == 0


def test_queries_can_only_read(page: Page) -> None:
    page.open("/query")
    editor = page.find("#query-text")
    editor.send_keys(Keys.CONTROL, "a")
    page.type(editor, "DROP TABLE scores")
    editor.send_keys(Keys.CONTROL, Keys.ENTER)
    page.until(lambda: "is allowed" in page.find("#query-result").text, "the refusal")


def ask(page: Page, query: str) -> None:
    editor = page.find("#query-text")
    editor.send_keys(Keys.CONTROL, "a")
    page.type(editor, query)
    editor.send_keys(Keys.CONTROL, Keys.ENTER)


def test_a_long_answer_is_cut_with_a_note_and_a_long_query_is_shown_and_cancelled(page: Page) -> None:
    page.open("/query")
    ask(page, "SELECT a.frame_index FROM frames a, frames b")
    page.until(lambda: "the first 500 rows; Download CSV" in page.find("#query-result").text, "the note")
    assert page.js("document.querySelectorAll('#query-result tbody tr').length") == 500
    endless = "SELECT count(*) FROM range(1000000000000) WHERE hash(range) = 0"  # in no memory to speak of
    ask(page, endless)
    page.until(lambda: page.find("#query-asked").is_displayed(), "the query that runs")
    assert page.find("#query-asked").text == page.find("#query-text").get_attribute("value") == endless
    cancel = page.find("#query-cancel")
    page.until(lambda: cancel.is_displayed() and cancel.is_enabled(), "the button that cancels")
    cancel.click()
    page.until(lambda: "the query was cancelled" in page.find("#query-result").text, "the end")
    assert endless in page.find("#query-result .query-text").text
    assert not page.find("#query-running").is_displayed()


def test_a_table_of_ones_own_is_joined_with_the_views(page: Page, tmp_path: Path) -> None:
    table = tmp_path / "my participants.csv"
    table.write_text("file;age\ncarphone.mp4;44\n", encoding="utf-16")
    page.open("/query")
    page.find("#query-upload input[type=file]").send_keys(str(table))
    page.until(lambda: "my_participants; the last one has 1 rows of file, age" in page.find("#page").text, "the table")
    ask(page, "SELECT DISTINCT age FROM scores JOIN my_participants ON file = file_name")
    page.until(lambda: page.find("#query-result").text.endswith("age\n44"), "the answer")
    page.find("#query-remove").click()
    page.until(lambda: not page.find("#query-own").text, "the table to go")
    ask(page, "SELECT * FROM my_participants")
    page.until(lambda: "my_participants" in page.find("#query-result .error").text, "the refusal")


def test_a_model_is_chosen_at_the_head_and_every_page_shows_its_scores(page: Page) -> None:
    video_id = page.open_video()
    models = f"SELECT DISTINCT model_id FROM scores_all WHERE video_id = '{video_id}' ORDER BY 1"
    for model in run_sql(page.lake, models)["model_id"].to_pylist():
        page.find(f"#model-choice option[value='{model}']").click()
        page.until(lambda model=model: f"model {model}" in page.find("#page").text, "its scores")
        page.open("/query")
        ask(page, "SELECT DISTINCT model_id FROM scores")
        page.until(lambda model=model: page.find("#query-result").text.endswith(f"model_id\n{model}"), "the answer")
        page.open_video()
    page.driver.delete_cookie("mfer_model")


def test_a_key_is_for_the_control_that_has_the_focus(page: Page) -> None:
    page.open_video()
    page.ready()
    page.find("[data-does=keys]").send_keys(Keys.SPACE)
    assert page.js("document.getElementById('key-help').open")
    page.key(Keys.ESCAPE)
    box = page.find("#curve-options input")
    was = page.js("document.querySelector('#curve-options input').checked")
    box.send_keys(Keys.SPACE)
    assert page.js("document.querySelector('#curve-options input').checked") != was
    assert page.js("window.mfer.page.video.paused")
    box.send_keys(Keys.SPACE)


def test_the_address_follows_the_cursor_and_leads_back_to_it(page: Page) -> None:
    page.open_video()
    page.ready()
    page.driver.execute_script("window.mfer.page.seek(1.5)")
    page.until(lambda: page.driver.current_url.endswith("&t=1.50"), "the moment in the address")
    page.driver.refresh()
    page.until(lambda: page.js("Math.abs(window.mfer?.page?.now - 1.5) < 0.01"), "the moment")


def test_a_point_of_a_curve_tells_all_eight_values(page: Page) -> None:
    page.open_video()
    payload = page.js(
        "document.querySelector('#timeline .js-plotly-plot').data.filter((t) => t.hovertemplate).map((t) => t.text[5])"
    )
    assert len(payload) >= 1
    lines = [line.rsplit(" ", 2) for line in payload[0].split("<br>")]
    assert {name for name, _, _ in lines} == set(EXPRESSIONS)
    shares = [float(value) for _, value, _ in lines]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=1)


def test_tags_of_a_crowd_do_not_cover_each_other(page: Page) -> None:
    page.open_video()
    page.ready()
    page.until(lambda: page.js("window.mfer.page.frame?.faces.length === 1"), "the face")
    page.driver.execute_script("""
        const page = window.mfer.page, one = page.frame.faces[0];
        const aside = (k) => one.box.map((x, i) => x + (i % 2 ? 0 : 4 * k));
        const faces = [0, 1, 2, 3, 4, 5].map((k) => ({ ...one, track: k, box: aside(k) }));
        page.frame = { ...page.frame, faces };
        page.drawBoxes();""")
    tags = json.loads(page.js("document.getElementById('overlay').dataset.tags"))
    assert len(tags) >= 5
    for k, (a1, b1, a2, b2) in enumerate(tags):
        assert all(a2 <= c1 or c2 <= a1 or b2 <= d1 or d2 <= b1 for c1, d1, c2, d2 in tags[k + 1 :])


def test_a_video_without_a_face_has_no_axes(page: Page) -> None:
    page.open(f"/video?id={page.video_id('late_sound.mp4')}")
    text = "document.getElementById('timeline')?.textContent || ''"
    page.until(lambda: "no face was found in this video" in page.js(text), "the reason")
    assert page.js("document.querySelectorAll('#timeline .xtick, #timeline .ytick').length") == 0


@pytest.mark.parametrize("path", ["/", "/video", "/compare", "/query", "/label", "/models", "/settings"])
def test_a_narrow_screen_has_a_menu_that_folds_and_nothing_beyond_its_edge(page: Page, path: str) -> None:
    narrow = {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        if path == "/video":
            page.open_video()
        else:
            page.open(path)
        assert not page.find("header nav").is_displayed()
        page.find("#menu").click()
        assert page.find("header nav").is_displayed()
        assert page.find("#menu").get_attribute("aria-expanded") == "true"
        assert page.js("document.documentElement.scrollWidth") <= 420
        page.find("header nav a[href='/settings']").click()
        title = "document.querySelector('#page h1')?.textContent"
        page.until(lambda: page.js(title) == "Settings", "the page")
        page.until(lambda: not page.find("header nav").is_displayed(), "the menu to fold")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_video_that_the_browser_cannot_play_is_shown_as_single_frames(page: Page) -> None:
    page.open_video("mpeg4.avi")
    page.until(lambda: page.js("document.querySelector('img.still')?.naturalWidth > 0"), "a single frame")
    assert "cannot play" in page.find("#video-message").text
    page.click_at(0.5)
    page.until(lambda: page.js("document.getElementById('overlay').dataset.frame") in ("9", "10"), "another frame")


@pytest.mark.parametrize("name", UNPLAYABLE)
def test_a_video_of_which_the_browser_plays_only_the_sound_is_shown_as_single_frames(page: Page, name: str) -> None:
    page.open(f"/video?id={page.video_id(name)}&t=0.5")
    page.until(lambda: page.js("document.querySelector('img.still')?.naturalWidth > 0"), "a single frame")
    assert "cannot play" in page.find("#video-message").text
    assert page.js("document.querySelectorAll('video').length") == 0
    assert page.js("window.mfer.page.video.paused")
    page.until(lambda: page.js("document.getElementById('overlay').dataset.frame") == "12", "the frame at 0.5 s")
    picture = """
        const still = document.querySelector('img.still'), canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [still.naturalWidth, still.naturalHeight];
        canvas.getContext('2d').drawImage(still, 0, 0);
        return Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data);"""
    rgba = np.array(page.driver.execute_script(picture), np.uint8).reshape(120, 208, 4)
    assert read_number(rgba[:, :, :3]) == 12


CONTROLS = """
    return [...document.querySelectorAll("a[href], button, input, select, textarea, summary, video, [tabindex='0']")]
        .filter((part) => !part.disabled && part.tabIndex >= 0 && part.checkVisibility({visibilityProperty: true})
            && part.getBoundingClientRect().width > 0 && !part.closest("#timeline, [aria-hidden=true]"))
"""


def tab_stops(page: Page) -> list[Any]:
    """What Tab comes to from the top of the page, each with a frame around it."""
    found: list[Any] = []
    for _ in range(400):
        page.key(Keys.TAB)
        at = page.js("document.activeElement")
        if at.tag_name == "body" or (at in found and at != found[-1]):
            break
        if at not in found:
            found.append(at)
            style = (
                "const s = getComputedStyle(arguments[0]); return s.outlineStyle !== 'none' || s.boxShadow !== 'none'"
            )
            shown = page.driver.execute_script(style, at) or at.tag_name == "video"  # whose own parts show it
            assert shown, at.get_attribute("outerHTML")[:200]
    return found


@pytest.mark.parametrize("path", ["/", "/video", "/compare", "/query", "/label", "/models", "/settings"])
def test_every_control_is_reached_by_tab_and_has_a_name(page: Page, path: str) -> None:
    if path == "/video":
        page.open_video()
    else:
        page.open(path)
    page.until(lambda: page.js("!document.querySelector('._dash-loading')"), "the page")
    reached = tab_stops(page)
    missed = [part for part in page.driver.execute_script(CONTROLS) if part not in reached]
    assert not [part.get_attribute("outerHTML")[:200] for part in missed]
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    of_people = {"button", "link", "textbox", "searchbox", "checkbox", "combobox", "spinbutton", "ColorWell"}
    controls = [node for node in tree if not node["ignored"] and node["role"]["value"] in of_people]
    assert len(controls) >= 6
    assert not [node["role"]["value"] for node in controls if not node.get("name", {}).get("value")]


def test_a_video_is_found_opened_sought_and_left_by_keys_alone(page: Page) -> None:
    page.open("/")
    search = page.find("#library-text")
    page.until(lambda: [page.key(Keys.TAB), page.js("document.activeElement")][1] == search, "the search")
    page.type(search, "carphone")
    page.until(lambda: page.find("#library-found").text.startswith("1 of "), "the hit")
    link = page.find("article.card h2 a")
    page.until(lambda: [page.key(Keys.TAB), page.js("document.activeElement")][1] == link, "the hit's link")
    page.key(Keys.ENTER)
    page.until(lambda: page.js("document.querySelectorAll('#timeline .scatterlayer .trace').length > 4"), "curves")
    page.ready()
    page.key("n")  # the next episode, and on by single frames
    page.ready()
    frame = page.js("document.getElementById('overlay').dataset.frame")
    page.key(Keys.ARROW_RIGHT)
    page.until(lambda: page.js("document.getElementById('overlay').dataset.frame") == str(int(frame) + 1), "a frame on")
    episode = page.find("#episode-list button")
    page.until(lambda: [page.key(Keys.TAB), page.js("document.activeElement")][1] == episode, "an episode")
    page.key(Keys.ENTER)
    page.until(lambda: abs(page.time_s - float(episode.get_attribute("data-seek"))) < 0.1, "its beginning")
    page.key("?")
    page.until(lambda: page.js("document.getElementById('key-help').open"), "the list of keys")
    page.key(Keys.ESCAPE)
    page.until(lambda: not page.js("document.getElementById('key-help').open"), "it to close")
    link = page.find("nav a[href='/compare']")
    page.until(
        lambda: [page.key(Keys.SHIFT + Keys.TAB + Keys.NULL), page.js("document.activeElement")][1] == link, "a page"
    )
    page.key(Keys.ENTER)
    page.until(lambda: page.js("document.querySelectorAll('#compare-bars .barlayer .trace').length > 0"), "bars")


def test_pages_speak_to_no_other_host_and_log_no_error(page: Page) -> None:
    page.driver.get_log("performance")
    page.errors()
    for path in ("/", "/compare", "/query", "/label", "/models", "/settings"):
        page.open(path)
    page.open_video()
    page.ready()
    log = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    request = [e["params"]["request"]["url"] for e in log if e["method"] == "Network.requestWillBeSent"]
    assert len(request) > 20
    assert not [url for url in request if not url.startswith((page.address, "data:", "blob:"))]
    assert not page.errors()
