"""A report is one file that loads nothing, shows the moments that the lake has, and hides faces where asked."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image

from dashboards.outputs.findings import TURNED_DEG
from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.outputs.pictures import crop_face, hide_faces
from dashboards.outputs.report import write_report
from dashboards.outputs.svg import clock, share_bar
from flows.analyze import analyze_folder
from flows.cli.main import main
from flows.run import FolderRun
from pipelines.scoring.lookup import DEFAULT_MODEL
from pipelines.settings import AnalysisSettings, DetectorSettings
from pipelines.video.encode import write_video
from storage.annotations.edits import add_edit
from storage.errors import LakeError
from storage.lake import Lake
from storage.sql.views import run_sql
from tests.clips import write_clip
from tests.faces import carphone_frames
from tests.storage.lake_rows import add_video, face_rows

NASTY = "<script>alert(1)</script> & 'talk'.mkv"


class Page(HTMLParser):
    """Which elements, addresses and text a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The talking man, four seconds at ten frames a second, under a nasty name; and bars without a face."""
    folder = tmp_path_factory.mktemp("report")
    videos = folder / "videos"
    videos.mkdir()
    write_video(videos / NASTY.replace("/", "\u2215"), carphone_frames()[::3], 10, options={"crf": "18"})
    write_clip(videos / "bars.mp4", n_frames=3)
    settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36))
    analyze_folder(FolderRun((str(videos),), str(folder / "lake"), device="cpu", settings=settings))
    return Lake.open(folder / "lake")


@pytest.fixture(scope="module")
def page(lake: Lake) -> str:
    output = lake.location.parent / "report.html"
    assert CliRunner().invoke(main, ["report", "--lake", str(lake.location), "-o", str(output)]).exit_code == 0
    return output.read_text(encoding="utf-8")


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_a_report_loads_nothing_and_shows_names_as_text(page: str) -> None:
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert NASTY.replace("/", "\u2215") in parsed.text
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in parsed.addresses)
    assert not re.search(r"url\(|@import|https?://", page)


def test_a_report_tells_what_the_lake_holds(lake: Lake, page: str) -> None:
    text = re.sub(r"\s+", " ", Page(page).text)
    (counts,) = run_sql(lake, "SELECT sum(n_frames) AS frames, sum(n_faces) AS faces FROM videos").to_pylist()
    assert f"{counts['frames']}frames analysed" in text
    assert f"{counts['faces']}faces" in text
    for part in ("Data quality", f"{DEFAULT_MODEL}@", "How it was computed", "per class", "no face"):
        assert part in text
    for row in run_sql(lake, "SELECT video_id, analysis_id FROM videos").to_pylist():
        assert row["video_id"] in text
        assert row["analysis_id"] in text


def test_key_moments_are_the_events_of_the_lake_as_pictures_of_the_face(lake: Lake, page: str) -> None:
    events = run_sql(lake, "SELECT * FROM expression_events() WHERE expression <> 'neutral'").to_pylist()
    assert events
    shown = pictures(page)
    assert 1 <= len(shown) <= len(events)
    captions = re.findall(r"<b>\d+\. (\w+)</b> (\d+) %<br><bdi>face (\d+)</bdi> at ([\d.]+) s", page)
    known = {(e["expression"], f"{100 * e['apex_p']:.0f}", str(e["track_id"]), clock(e["apex_s"])[:-2]) for e in events}
    assert len(captions) == len(shown)
    assert set(captions) <= known
    first = next(e for e in events if clock(e["apex_s"])[:-2] == captions[0][3] and e["expression"] == captions[0][0])
    (face,) = run_sql(lake, f"SELECT * FROM scores WHERE time_s = {first['apex_s']!r}").to_pylist()
    frame = np.array(carphone_frames()[::3][face["frame_index"]])
    box = [face[f"box_{side}_px"] for side in ("x1", "y1", "x2", "y2")]
    wanted = np.asarray(crop_face(frame, box, len(shown[0])))
    assert np.abs(shown[0].astype(int) - wanted).mean() < 12  # two lossy codecs lie in between


def test_a_report_calls_faces_by_their_names_unless_it_is_to_show_what_was_found(lake: Lake, tmp_path: Path) -> None:
    own = Lake.open(shutil.copytree(lake.location, tmp_path / "lake"))
    query = "SELECT video_id, faces_id, track_id FROM tracks JOIN videos USING (video_id, faces_id) LIMIT 1"
    track = run_sql(own, query).to_pylist()[0]
    video_id = track.pop("video_id")
    add_edit(own, video_id, "name", value="Ann <b>", **track)
    reply = f"Ann <b> (face {track['track_id']})"
    assert reply in Page(write_report(own, tmp_path / "a.html").read_text(encoding="utf-8")).text
    assert reply not in Page(write_report(own, tmp_path / "b.html", as_found=True).read_text(encoding="utf-8")).text
    add_edit(own, video_id, "exclude")
    left = write_report(own, tmp_path / "c.html", [video_id]).read_text(encoding="utf-8")
    assert not pictures(left)
    assert "No face was found" in left


def test_blur_hides_the_face_and_leaves_the_rest(lake: Lake, tmp_path: Path, page: str) -> None:
    blurred = pictures(write_report(lake, tmp_path / "b.html", blur=True).read_text(encoding="utf-8"))
    for plain, hidden in zip(pictures(page), blurred, strict=True):
        size = len(plain)
        middle = slice(size * 2 // 5, size * 3 // 5)
        fine = [np.abs(np.diff(picture[middle, middle].astype(int), axis=0)).mean() for picture in (plain, hidden)]
        assert fine[1] < fine[0] / 2
        assert np.abs(plain[:8].astype(int) - hidden[:8]).mean() < 6


def test_hidden_faces_keep_nothing_fine_even_at_the_edge_of_the_picture() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    hidden = hide_faces(rgb, [(-10, -10, 30, 30), (70, 50, 90, 90), (200, 200, 220, 220)])
    assert hidden[:25, :25].std() < 40 < rgb[:25, :25].std()
    assert hidden[52:, 72:].std() < 60
    assert (hidden[:45, 50:65] == rgb[:45, 50:65]).all()


def test_a_report_without_the_videos_says_so_and_has_all_the_rest(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(lake.location, folder / "lake")
    videos = lake.location.parent / "videos"
    videos.rename(tmp_path / "elsewhere")
    try:
        page = write_report(Lake.open(folder / "lake"), tmp_path / "r.html").read_text(encoding="utf-8")
    finally:
        (tmp_path / "elsewhere").rename(videos)
    assert "no pictures: there is no such file" in page
    assert "<figure>" in page
    assert not pictures(page)


def test_frames_that_could_not_be_read_and_classes_that_the_model_lacks_count_for_nothing(tmp_path: Path) -> None:
    """Two of ten readable frames have no face; of ten faces three are turned by more than the limit, or unknown."""
    own = Lake.open(tmp_path / "lake", create=True)
    rows = face_rows(100, without_face=(2, 3), undecodable=tuple(range(10, 100)), lacks=("contempt",))
    yaw = np.full(100, 5.0)
    yaw[[0, 1]] = TURNED_DEG + 1, -TURNED_DEG - 1
    shown = pa.array(yaw, pa.float32(), mask=np.isin(np.arange(100), (2, 3, 4, *range(10, 100))))
    rows = rows.set_column(rows.column_names.index("yaw_deg"), "yaw_deg", shown)
    add_video(own, 1, rows)
    page = write_report(own, tmp_path / "r.html", n_moments=0).read_text(encoding="utf-8")
    assert "<b>80 %</b>with a face" in page
    rows_of_page = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)]
    cells = [[cell.strip() for cell in row.split("|") if cell.strip()] for row in rows_of_page]
    assert ["contempt", "–", "–"] in cells
    (of_video, quality) = (row for row in cells if row[0] == "clip 1.mp4" and len(row) > 3)
    assert of_video[2] == "80 %"
    assert quality[1:4] == ["100", "20 %", "90.0 %"]
    assert "38 %" in quality  # three of eight
    text = re.sub(r"\s+", " ", Page(page).text)
    assert f"by more than {TURNED_DEG} degrees" in text


def test_the_command_takes_videos_by_name_and_refuses_unknown_ones(lake: Lake, tmp_path: Path) -> None:
    words = ["report", "bars.mp4", "--lake", str(lake.location), "-o", str(tmp_path / "bars.html")]
    assert CliRunner().invoke(main, words).exit_code == 0
    page = (tmp_path / "bars.html").read_text(encoding="utf-8")
    assert "No face was found" in page
    assert NASTY[:20] not in Page(page).text
    refused = CliRunner().invoke(main, ["report", "nobody.mp4", "--lake", str(lake.location)])
    assert refused.exit_code == 2
    assert "nobody.mp4 is no finished video" in refused.stderr


def test_a_report_that_cannot_be_written_says_so(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LakeError) as error:
        write_report(lake, tmp_path / "file" / "r.html", ["bars.mp4"])
    assert error.value.code == "bad_output"


def test_a_share_bar_fills_its_width_in_the_colours_of_the_palette() -> None:
    bar = share_bar({"happiness": 0.25, "neutral": 0.75})
    assert re.findall(r'<rect x="([\d.]+)%".*?width="([\d.]+)%".*?fill="(#\w+)"', bar) == [
        ("0.000", "75.000", EXPRESSION_COLOURS["neutral"]),
        ("75.000", "25.000", EXPRESSION_COLOURS["happiness"]),
    ]


@pytest.mark.parametrize(("seconds", "text"), [(3, "3 s"), (3.46, "3.5 s"), (125, "2:05"), (3725, "1:02:05")])
def test_a_clock_reads_as_people_write(seconds: float, text: str) -> None:
    assert clock(seconds) == text
