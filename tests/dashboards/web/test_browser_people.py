"""The dashboard in a real browser: people who were found, and the page of a single picture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from flows.analyze import analyze_folder
from flows.run import FolderRun
from pipelines.people.find import find_people
from pipelines.settings import AnalysisSettings, DetectorSettings
from storage.lake import Lake
from storage.sql.views import run_sql
from tests.faces import astronaut
from tests.films import FILMS, write_film

pytestmark = pytest.mark.full
selenium = pytest.importorskip("selenium", reason="selenium is not installed")

from tests.dashboards.web.browser import missing_browser, open_browser, serving  # noqa: E402
from tests.dashboards.web.test_browser import Page  # noqa: E402

FILM, PICTURE = "one.mp4", "astronaut.png"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Page]:
    missing = missing_browser()
    if missing and os.environ.get("MFER_NEEDS_BROWSER"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("people")
    write_film(folder / FILM, FILMS[FILM])
    Image.fromarray(astronaut()).save(folder / PICTURE)
    settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36))
    named = tuple(str(folder / name) for name in (FILM, PICTURE))
    assert analyze_folder(FolderRun(named, str(folder / "lake"), str(model), "cpu", 1, settings)).exit_code == 0
    lake = Lake.open(folder / "lake")
    profile, downloads = tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("downloads")
    with serving(lake) as address, open_browser(profile) as driver:
        yield Page(driver, address, lake, downloads)


def people(page: Page, video_id: str) -> list[set[int]]:
    """The tracks of each person, as the view ``scores`` has them; a track of nobody is a person of its own."""
    rows = run_sql(page.lake, f"SELECT DISTINCT person, track_id FROM scores WHERE video_id = '{video_id}'").to_pylist()
    return sorted(
        ({row["track_id"] for row in rows if row["person"] == person} for person in {row["person"] for row in rows}),
        key=min,
    )


def choose(page: Page, select: str, track: int) -> None:
    page.until(lambda: page.js(f"!!document.querySelector('#{select} option[value=\"{track}\"]')"), f"face {track}")
    page.driver.execute_script(f"document.getElementById('{select}').value = '{track}'")


def test_people_who_were_found_are_accepted_parted_and_merged(page: Page) -> None:
    video_id = page.video_id(FILM)
    find_people(page.lake, [FILM])
    found = people(page, video_id)
    assert len(found) == 2
    assert max(map(len, found)) >= 3
    page.open_video(FILM)
    rows = "document.querySelectorAll('#edit-list li.found').length"
    page.until(lambda: page.js(rows) == 2, "both people")
    text = page.find("#edit-list").text
    for tracks in found:
        assert f"found: face {', '.join(map(str, sorted(tracks)))} is one person (" in text

    page.find("#edit-list li.found button").click()
    page.until(lambda: page.js(rows) == 1, "one of them to be accepted")
    assert "Accepted." in page.find("#video-message").text
    accepted = f"SELECT track_id FROM edits WHERE kind = 'person' AND confidence IS NULL AND video_id = '{video_id}'"
    assert set(run_sql(page.lake, accepted)["track_id"].to_pylist()) in found

    waiting = next(tracks for tracks in found if f"face {min(tracks)}" in page.find("#edit-list li.found").text)
    last = max(waiting)
    choose(page, "edit-face", last)
    page.find("[data-does=notFound]").click()
    page.until(lambda: "nobody who was found" in page.find("#edit-list").text, "the face to be parted")
    assert {last} in people(page, video_id)

    first, other = (min(tracks) for tracks in found)
    choose(page, "edit-face", other)
    choose(page, "edit-other", first)
    page.find("[data-does=mergeFace]").click()
    page.until(lambda: f"merge face {other} with face {first}" in page.find("#edit-list").text, "the two as one")
    assert people(page, video_id) == sorted([found[0] | found[1] - {last}, {last}], key=min)

    for _ in range(2):
        before = page.find("#edit-list").text
        page.find("h1").click()
        page.key("u")
        page.until(lambda before=before: page.find("#edit-list").text != before, "the undo")
    assert people(page, video_id) == found
    assert not page.errors()


def test_the_page_of_a_picture_shows_nothing_that_needs_time(page: Page) -> None:
    video_id = page.video_id(PICTURE)
    page.open(f"/video?id={video_id}")
    page.until(lambda: page.js("document.querySelector('img.still')?.naturalWidth > 0"), "the picture")
    page.until(lambda: "face 0" in page.find("#moment-bars").text, "its face")
    visible = "[...document.querySelectorAll('#page button')].filter((b) => b.offsetParent).map((b) => b.textContent)"
    page.until(lambda: page.js("!!document.querySelector('#edit-list li')"), "the edits")
    assert set(page.js(visible)) == {
        "keys (?)",
        "exclude (x)",
        "name the face",
        "join the two faces",
        "nobody who was found",
    }
    assert not page.js("!!document.getElementById('timeline').offsetParent")
    shown = page.find(".video-main").text
    assert not [word for word in ("Curves", "Smoothing", "Event", "Episodes", "0:00", "frame 0") if word in shown]

    page.find("h1").click()
    page.key("?")
    page.until(lambda: "exclude" in page.find("#key-help").text, "the keys")
    assert "5 seconds" not in page.find("#key-help").text
    page.driver.execute_script("document.getElementById('key-help').close()")
    page.until(lambda: not page.js("document.activeElement.closest('dialog')"), "the keys to be gone")
    page.find("h1").click()
    faces = f"SELECT count(*) AS n FROM scores WHERE video_id = '{video_id}'"
    page.key("x")
    page.until(lambda: "exclude" in page.find("#edit-list").text, "the exclusion")
    assert run_sql(page.lake, faces)["n"][0].as_py() == 0
    page.key("u")
    page.until(lambda: "nothing yet" in page.find("#edit-list").text, "the undo")
    assert run_sql(page.lake, faces)["n"][0].as_py() == 1
    assert not page.errors()
