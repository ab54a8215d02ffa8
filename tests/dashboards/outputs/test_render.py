"""A rendered video has every frame at its own time, the sound as it was, boxes where the lake says, hidden faces."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import ImageColor

from dashboards.outputs.faces import FaceTrack
from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.outputs.render import Overlay, render_video
from flows.analyze import analyze_folder
from flows.cli.main import main
from flows.run import FolderRun
from mfer.errors import ConfigError
from pipelines.settings import AnalysisSettings, DetectorSettings
from pipelines.video.decode import open_video
from pipelines.video.reencode import remake_video
from storage.annotations.edits import add_edit
from storage.errors import LakeError
from storage.lake import Lake
from storage.sql.views import run_sql
from tests.clips import read_number, write_clip


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return sorted(float(p.pts * p.time_base) for p in container.demux(video=0) if p.size)


def sound_of(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        return [(round(float(p.pts * p.time_base), 3), bytes(p)) for p in container.demux(audio=0) if p.size]


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("start_ms", [0, 480])
def test_a_variable_rate_keeps_every_time_and_the_sound(tmp_path: Path, suffix: str, start_ms: int) -> None:
    pts_ms = [start_ms + t for t in (0, 40, 60, 180, 200, 220, 500, 540, 580, 900)]
    source = write_clip(tmp_path / "a.mkv", n_frames=10, pts_ms=pts_ms, with_audio=True)
    output = tmp_path / f"b{suffix}"
    seen = []
    n_frames = remake_video(open_video(source), output, lambda index, pts_s, rgb: seen.append((index, pts_s)) or rgb)
    assert n_frames == 10
    assert seen == [(k, pytest.approx(t / 1000)) for k, t in enumerate(pts_ms)]
    assert times_of(output) == pytest.approx([t / 1000 for t in pts_ms], abs=1e-6)
    assert [read_number(rgb) for rgb in frames_of(output)] == list(range(10))
    assert sound_of(output) == sound_of(source)
    assert open_video(output).duration_s[-1] == pytest.approx(open_video(source).duration_s[-1], abs=0.002)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_turned_picture_is_written_upright(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", n_frames=3, rotation_deg=90)
    remake_video(open_video(source), tmp_path / "b.mp4", lambda index, pts_s, rgb: rgb)
    assert [read_number(rgb) for rgb in frames_of(tmp_path / "b.mp4")] == [0, 1, 2]


@pytest.mark.parametrize("start_ms", [0, 480])
def test_a_part_begins_at_0_and_keeps_the_steps_and_the_sound_of_its_span(tmp_path: Path, start_ms: int) -> None:
    pts_ms = [start_ms + t for t in (0, 40, 60, 180, 200, 220, 500, 540, 580, 900)]
    source = write_clip(tmp_path / "a.mkv", n_frames=10, pts_ms=pts_ms, with_audio=True)
    output = tmp_path / "b.mp4"
    between_s = (0.19 + start_ms / 1000, 0.54 + start_ms / 1000)  # times count from the sound, which begins at 0
    n_frames = remake_video(open_video(source), output, lambda index, pts_s, rgb: rgb, between_s=between_s)
    assert n_frames == 4
    assert [read_number(rgb) for rgb in frames_of(output)] == [3, 4, 5, 6]  # the one at 0.18 s is still shown at 0.19
    assert times_of(output) == pytest.approx([0, 0.02, 0.04, 0.32], abs=1e-6)
    from_s, until_s = 0.19 + start_ms / 1000, 0.54 + start_ms / 1000
    wanted = [data for at_s, data in sound_of(source) if from_s <= at_s < until_s]
    assert [data for _, data in sound_of(output)] == wanted
    with pytest.raises(ConfigError, match="no frame"):
        remake_video(open_video(source), output, lambda index, pts_s, rgb: rgb, between_s=(5.0, 6.0))


def write_with_sound(path: Path, codec: str, layout: str = "mono") -> Path:
    """Ten numbered frames with 0.4 s of a tone of 440 Hz."""
    silent = write_clip(path.with_name("silent.avi"), codec="mpeg4", n_frames=10)
    with av.open(str(silent)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        rate = 8000 if codec == "libmp3lame" else 16000  # MP4 takes no MP3 at 8 kHz
        sound = out.add_stream(codec, rate=rate, layout=layout)
        sound.codec_context.bit_rate = 64_000
        sound.codec_context.open()
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
        tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(6400) / 16000)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        fit = av.AudioResampler(sound.codec_context.format, layout, rate, sound.codec_context.frame_size or 1000)
        for part in (*fit.resample(frame), *fit.resample(None)):
            out.mux(sound.encode(part))
        out.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("asf", "wmav2"), ("mov", "pcm_mulaw"), ("avi", "adpcm_ms"), ("mkv", "libmp3lame")],
)
@pytest.mark.parametrize("result", [".mp4", ".mkv", ".mov"])
def test_sound_that_the_result_cannot_hold_is_encoded_again(
    tmp_path: Path, suffix: str, codec: str, result: str
) -> None:
    source, output = write_with_sound(tmp_path / f"a.{suffix}", codec), tmp_path / f"b{result}"
    video = open_video(source)
    remake_video(video, output, lambda index, pts_s, rgb: rgb)
    assert times_of(output) == pytest.approx(list(video.pts_s), abs=2e-3)
    with av.open(str(output)) as container:
        heard = np.concatenate([f.to_ndarray().astype(float).ravel() for f in container.decode(audio=0)])
        rate = container.streams.audio[0].rate
    assert len(heard) / rate == pytest.approx(0.4, abs=0.15)
    spectrum = np.abs(np.fft.rfft(heard))
    assert np.fft.rfftfreq(len(heard), 1 / rate)[spectrum.argmax()] == pytest.approx(440, abs=10)
    remake_video(video, output, lambda index, pts_s, rgb: rgb, sound=False)
    with av.open(str(output)) as container:
        assert not container.streams.audio


def test_sound_of_joined_recordings_stays_in_order(tmp_path: Path) -> None:
    one = write_clip(tmp_path / "one.ts", n_frames=25, with_audio=True)
    joined, output = tmp_path / "joined.ts", tmp_path / "b.mp4"
    joined.write_bytes(2 * one.read_bytes())
    remake_video(open_video(joined), output, lambda index, pts_s, rgb: rgb)
    times = [at_s for at_s, _ in sound_of(output)]
    assert times == sorted(times)
    assert times[-1] - times[0] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("name", ["b.txt", "b", "file/b.mp4"])
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    source = write_clip(tmp_path / "a.mp4", n_frames=2)
    with pytest.raises(ConfigError, match=r"b|mp4"):
        remake_video(open_video(source), tmp_path / name, lambda index, pts_s, rgb: rgb)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "file"]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, talk: Path, model: Path) -> Lake:
    folder = tmp_path_factory.mktemp("render")
    settings = AnalysisSettings(detector=DetectorSettings(min_face_px=36))
    analyze_folder(FolderRun((str(talk),), str(folder / "lake"), model=str(model), device="cpu", settings=settings))
    return Lake.open(folder / "lake")


def faces(lake: Lake) -> list[dict[str, float]]:
    return pa.Table.to_pylist(run_sql(lake, "SELECT * FROM scores ORDER BY frame_index"))


def test_boxes_are_drawn_where_the_lake_says_in_the_colour_of_the_expression(
    lake: Lake, talk: Path, tmp_path: Path
) -> None:
    done = render_video(lake, talk, tmp_path / "r.mp4", plot=False)
    shown = frames_of(tmp_path / "r.mp4")
    assert done.n_frames == len(shown) == 10
    assert times_of(tmp_path / "r.mp4") == pytest.approx(times_of(talk), abs=1e-6)
    plain = frames_of(talk)
    assert shown[0].shape[1] == done.scale * plain[0].shape[1]
    found = faces(lake)
    assert {face["frame_index"] for face in found} == {0, 1, 2, 3, 7, 8, 9}
    for face in found:
        rgb = shown[int(face["frame_index"])].astype(int)
        colour = np.array(ImageColor.getrgb(EXPRESSION_COLOURS[str(face["expression"])]))
        x1, y1, x2, y2 = (round(face[f"box_{side}_px"] * done.scale) for side in ("x1", "y1", "x2", "y2"))
        middle = (y1 + y2) // 2
        for x in (x1 + 1, x2 - 1):  # the middle of a line of three; only its brightness has full resolution
            edge = rgb[middle - 10 : middle + 10, x].mean(0)
            assert abs((edge - colour) @ [0.299, 0.587, 0.114]) < 30
            assert np.abs(edge - colour).max() < 100
    for away in (4, 5, 6):  # black frames stay black
        assert shown[away].max() < 30


def test_blur_changes_the_pixels_in_the_box_also_where_the_face_was_missed(
    lake: Lake, talk: Path, tmp_path: Path
) -> None:
    words = ["render", str(talk), "--lake", str(lake.location), "-o", str(tmp_path / "b.mp4"), "--blur", "--no-plot"]
    assert CliRunner().invoke(main, words).exit_code == 0
    render_video(lake, talk, tmp_path / "p.mp4", plot=False)
    blurred, plain = frames_of(tmp_path / "b.mp4"), frames_of(tmp_path / "p.mp4")
    scale = plain[0].shape[1] // 176
    for face in faces(lake):
        k = int(face["frame_index"])
        x1, y1, x2, y2 = (round(face[f"box_{side}_px"] * scale) for side in ("x1", "y1", "x2", "y2"))
        inside = (slice(y1 + 12, y2 - 12), slice(x1 + 12, x2 - 12))
        assert np.abs(blurred[k][inside].astype(int) - plain[k][inside]).mean() > 8
        assert np.abs(np.diff(blurred[k][inside].astype(int), axis=1)).mean() < 2
        corner = np.abs(blurred[k][-40:, :40].astype(int) - plain[k][-40:, :40]).mean()
        assert corner < 4


def test_blur_hides_also_a_face_that_a_person_excluded_and_no_box_is_drawn_there(
    lake: Lake, talk: Path, tmp_path: Path
) -> None:
    own = Lake.open(shutil.copytree(lake.location, tmp_path / "lake"))
    add_edit(own, str(faces(lake)[0]["video_id"]), "exclude")
    done = render_video(own, talk, tmp_path / "b.mp4", blur=True, plot=False)
    as_found = render_video(own, talk, tmp_path / "f.mp4", blur=True, plot=False, as_found=True)
    hidden, boxed = frames_of(tmp_path / "b.mp4"), frames_of(tmp_path / "f.mp4")
    assert done.scale == as_found.scale
    for face in faces(lake):
        k = int(face["frame_index"])
        x1, y1, x2, y2 = (round(face[f"box_{side}_px"] * done.scale) for side in ("x1", "y1", "x2", "y2"))
        inside = (slice(y1 + 12, y2 - 12), slice(x1 + 12, x2 - 12))
        assert np.abs(np.diff(hidden[k][inside].astype(int), axis=1)).mean() < 2
        edge = slice((y1 + y2) // 2 - 10, (y1 + y2) // 2 + 10), x1 + 1
        assert np.abs(hidden[k][edge].astype(int) - boxed[k][edge]).mean() > 30


def test_a_name_is_written_where_the_number_was() -> None:
    prob = np.zeros((1, 8))
    prob[0, 1] = 1
    plain = FaceTrack(3, np.array([0.0]), np.array([1.0]), np.array([[5.0, 40, 25, 60]]), prob)
    named = dataclasses.replace(plain, name="Ann")
    black = np.zeros((90, 640, 3), np.uint8)
    pictures = [Overlay([track], 640, 90)(0.5, black).astype(int) for track in (plain, named)]
    assert np.abs(pictures[0][:40] - pictures[1][:40]).max() > 100


def test_a_hidden_face_stays_hidden_through_a_short_miss_and_around_its_track() -> None:
    box = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [100, 0, 110, 10]], float)
    time_s = np.array([1.0, 1.8, 5.0])
    track = FaceTrack(0, time_s, time_s + 0.1, box, np.zeros((3, 8)))
    assert track.box_at(1.4) is None
    assert track.hidden_box_at(1.4) == pytest.approx([10, 0, 20, 10])
    assert track.hidden_box_at(0.7) == pytest.approx(box[0])
    assert track.hidden_box_at(0.5) is None
    assert track.hidden_box_at(2.2) == pytest.approx(box[1])
    assert track.hidden_box_at(3.0) is None
    assert track.hidden_box_at(4.7) == pytest.approx(box[2])
    assert track.hidden_box_at(5.4) == pytest.approx(box[2])


def test_sampled_faces_move_between_their_samples() -> None:
    box = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], float)
    track = FaceTrack(0, np.array([0.0, 0.2]), np.array([0.2, 0.4]), box, np.zeros((2, 8)))
    assert track.box_at(0.1) == pytest.approx([10, 0, 20, 10])
    assert track.box_at(0.3) == pytest.approx(box[1])
    assert track.box_at(0.4) is None


def test_the_plot_shows_now_at_the_right_and_the_bars_of_the_face() -> None:
    prob = np.zeros((2, 8))
    prob[0, 1] = prob[1, 3] = 1  # happiness, then sadness
    track = FaceTrack(0, np.array([0.0, 1.0]), np.array([1.0, 2.0]), np.full((2, 4), [5.0, 30, 25, 60]), prob)
    overlay = Overlay([track], 640, 90)
    first, later = (overlay(at_s, np.zeros((90, 640, 3), np.uint8)) for at_s in (0.5, 1.5))
    row = 90 + overlay.height_px // 8
    happiness, sadness = (ImageColor.getrgb(EXPRESSION_COLOURS[name]) for name in ("happiness", "sadness"))
    assert tuple(first[110, 620]) == happiness
    assert tuple(later[110, 628]) == sadness
    assert tuple(later[110, 580]) == happiness
    assert row < overlay.height_px
    assert first.shape == (overlay.height_px, overlay.width_px, 3)


def test_the_video_itself_and_unknown_names_are_refused(lake: Lake, talk: Path, tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="the video itself"):
        render_video(lake, talk, talk)
    with pytest.raises(LakeError, match="no finished video"):
        render_video(lake, "nobody.mp4", tmp_path / "r.mp4")
