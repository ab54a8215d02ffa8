"""A video with what the lake says drawn on it: boxes, names, bars and a running plot below the picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from dashboards.outputs.faces import FaceTrack, read_face_tracks
from dashboards.outputs.palette import EXPRESSION_COLOURS
from dashboards.outputs.pictures import hide_faces
from pipelines.remote import local_copy
from pipelines.video.decode import open_video
from pipelines.video.reencode import remake_video
from pipelines.video.stills import read_still
from storage.delta.object_store import place_of
from storage.delta.relations import read_errors
from storage.errors import LakeError
from storage.files import whole_file
from storage.identity import stream_of_video
from storage.lake import Lake
from storage.originals import place_of_video
from storage.sql.selection import choose_video
from storage.sql.views import connect

__all__ = ["Overlay", "Rendered", "render_video"]

#: A smaller picture is enlarged by a whole number, so that what is written on it can be read.
_MIN_WIDTH_PX = 640
#: The running plot shows this much time; its right edge is now.
_WINDOW_S = 10.0
_MAX_ROWS = 3
#: What a picture can be written as, beside a video.
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
#: Where the bars begin and how wide one is, in heights of the text; from one to the next in widths.
_BARS_LEFT, _BAR, _BAR_STEP = 2.5, 0.9, 1.25
_MAX_NAME = 24
_NAMES = list(EXPRESSION_COLOURS)
_COLOURS = np.array([ImageColor.getrgb(colour) for colour in EXPRESSION_COLOURS.values()], dtype=np.uint8)
_GROUND, _PLOT_GROUND, _INK, _FAINT = (24, 24, 24), (48, 48, 48), (240, 240, 240), (150, 150, 150)


@dataclass(frozen=True)
class Rendered:
    """What was written: frames, and how many times larger the picture is than the source's."""

    output: Path
    n_frames: int
    scale: int


def render_video(
    lake: Lake,
    name: str | Path,
    output: str | Path,
    *,
    file: Path | None = None,
    blur: bool = False,
    plot: bool = True,
    sound: bool = True,
    model: str | None = None,
    as_found: bool = False,
    between_s: tuple[float, float] | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Rendered:
    """Write a video again with boxes, track numbers, leading expressions, bars and a running plot.

    Args:
        lake: which has the video.
        name: the video, as ``choose_videos`` takes it; the file itself must still be there.
        output: .mp4, .mov or .mkv; of a picture also .png, .jpg or .webp.
        file: where the video is, if it is not where it was analysed.
        blur: hide every face that was found, also where a person excluded it.
        model: whose scores; None: see ``storage.sql.views.connect``.
        as_found: leave out what people said: names, splits and exclusions.
        plot: draw bars and the running plot below the picture.
        sound: False leaves the sound out.
        between_s: only what is shown between two times, in time_s.
        progress: called with (stage, frames done, frames in all).

    Raises:
        LakeError: ``unknown_video``, also where the name stands for several; ``bad_output`` for the source itself, or a
            picture that cannot be written.
        VideoError: the file cannot be read.
        ConfigError: the output cannot be written.
    """
    output = Path(output)
    with connect(lake, model=model, as_found=as_found) as con, read_errors(lake.location):
        chosen = choose_video(con, name)
        named = place_of(name) if Path(name).is_file() else None
        place = file or named or place_of_video(con, chosen.video_id, chosen.path)
        tracks = read_face_tracks(con, chosen.video_id)
        hidden = read_face_tracks(con, chosen.video_id, as_found=True) if blur else []
    with local_copy(place) as source:
        if output.exists() and source.exists() and output.samefile(source):
            raise LakeError(f"{output} is the video itself; name another file", "bad_output")
        video = open_video(source, chosen.video_id, stream=stream_of_video(chosen.video_id))
        is_still = len(video.pictures) == 1
        overlay = Overlay(tracks, video.info.width_px, video.info.height_px, hidden=hidden, plot=plot and not is_still)

        def draw(frame_index: int, pts_s: float, rgb: np.ndarray) -> np.ndarray:
            return overlay(pts_s - video.info.start_s, rgb)

        def report(done: int, total: int) -> None:
            progress("render", done, total)

        if is_still and output.suffix.lower() in _PICTURE_SUFFIXES:
            _save_picture(output, draw(0, video.info.start_s, read_still(source, video.info.start_s)))
            return Rendered(output, 1, overlay.scale)
        n_frames = remake_video(video, output, draw, report, between_s=between_s, sound=sound)
    return Rendered(output, n_frames, overlay.scale)


def _save_picture(output: Path, rgb: np.ndarray) -> None:
    try:
        with whole_file(output) as partial:
            Image.fromarray(rgb).save(partial)
    except OSError as error:
        message = f"cannot write {output}: {error.strerror or error}; name another file"
        raise LakeError(message, "bad_output") from error


class Overlay:
    """Draws on frames of one size. ``scale`` is how many times larger the result shows the picture, ``hidden`` are the
    faces to hide."""

    def __init__(
        self,
        tracks: list[FaceTrack],
        width_px: int,
        height_px: int,
        *,
        hidden: Sequence[FaceTrack] = (),
        plot: bool = True,
    ) -> None:
        self.tracks, self.hidden = tracks, hidden
        self.scale = max(1, math.ceil(_MIN_WIDTH_PX / width_px)) if width_px < _MIN_WIDTH_PX else 1
        self.width_px = width_px * self.scale + width_px * self.scale % 2
        self._picture_px = (width_px * self.scale, height_px * self.scale)
        self._text_px = max(13, round(self.width_px / 60))
        self._font = ImageFont.load_default(self._text_px)
        self._plot_left = round(self._text_px * (_BARS_LEFT + len(_NAMES) * _BAR * _BAR_STEP + 1))
        self._row_px = 4 * self._text_px if plot else 0
        self._n_rows = min(_MAX_ROWS, max(len(tracks), 1)) if plot else 0
        strip_px = self._n_rows * self._row_px + 2 * self._text_px if plot else 0
        self.height_px = height_px * self.scale + strip_px
        self.height_px += self.height_px % 2

    def __call__(self, at_s: float, rgb: np.ndarray) -> np.ndarray:
        """The frame shown at a time (in time_s), uint8 RGB [H,W,3], as a picture [height_px,width_px,3]."""
        if self.hidden:
            boxes = [box for track in self.hidden if (box := track.hidden_box_at(at_s)) is not None]
            rgb = hide_faces(rgb, boxes)
        picture = Image.fromarray(rgb)
        if self.scale > 1:
            picture = picture.resize(self._picture_px, Image.Resampling.BICUBIC)
        canvas = Image.new("RGB", (self.width_px, self.height_px), _GROUND)
        canvas.paste(picture, (0, 0))
        draw = ImageDraw.Draw(canvas)
        labels: list[tuple[float, float, float, float]] = []
        for track in self.tracks:
            self._draw_box(draw, track, at_s, labels)
        if self._n_rows:
            self._draw_strip(canvas, draw, at_s)
        return np.asarray(canvas)

    def _draw_box(
        self,
        draw: ImageDraw.ImageDraw,
        track: FaceTrack,
        at_s: float,
        labels: list[tuple[float, float, float, float]],
    ) -> None:
        """A box in the colour of the leading expression, with a label above or below it, which is the face's name alone
        where the whole would cover another face's label; none where that would, too."""
        sample, box = track.sample_at(at_s), track.box_at(at_s)
        if sample is None or box is None:
            return
        top = int(track.prob[sample].argmax())
        colour = tuple(_COLOURS[top].tolist())
        x1, y1, x2, y2 = (round(value * self.scale) for value in box)
        line = max(3, self._text_px // 6)
        draw.rectangle((x1, y1, x2, min(y2, self._picture_px[1] - 1)), outline=colour, width=line)
        high = self._text_px * 1.4
        below = min(y2, self._picture_px[1] - high)
        who = _short(track.name) or str(track.track_id)
        whole = f" {who}  {_NAMES[top]} {100 * track.prob[sample, top]:.0f} % "
        for text, y in ((text, y) for text in (whole, f" {who} ") for y in (y1 - high if y1 >= high else below, below)):
            width = draw.textlength(text, font=self._font)
            x = min(max(x1, 0), max(self._picture_px[0] - width, 0))
            label = (x, y, x + width, y + high)
            if not any(_overlap(label, other) for other in labels):
                break
        else:
            return
        labels.append(label)
        draw.rectangle(label, fill=colour)
        ink = "white" if _NAMES[top] == "sadness" else "black"
        draw.text((x, y + self._text_px * 0.1), text, fill=ink, font=self._font)

    def _draw_strip(self, canvas: Image.Image, draw: ImageDraw.ImageDraw, at_s: float) -> None:
        recent = [t for t in self.tracks if ((t.end_s > at_s - _WINDOW_S) & (t.time_s <= at_s + 1e-6)).any()]
        top = self._picture_px[1]
        for row, track in enumerate(sorted(recent[: self._n_rows], key=lambda track: track.track_id)):
            self._draw_row(canvas, draw, track, at_s, top + row * self._row_px)
        if recent:
            text, font = f" last {_WINDOW_S:g} s ", ImageFont.load_default(self._text_px * 0.8)
            box = draw.textbbox(
                (self._plot_left, top + self._row_px - self._text_px // 2), text, font=font, anchor="lb"
            )
            draw.rectangle(box, fill=_GROUND)
            draw.text(box[:2], text, fill=_FAINT, font=font, anchor="lt")
        else:
            draw.text((self._text_px, top + self._text_px), "no face yet", fill=_FAINT, font=self._font)
        y = top + self._n_rows * self._row_px + self._text_px * 0.3
        step = self.width_px / len(_NAMES)
        for k, name in enumerate(_NAMES):
            side = self._text_px * 0.7
            x = k * step + 4
            draw.rectangle((x, y + side * 0.4, x + side, y + side * 1.4), fill=tuple(_COLOURS[k].tolist()))
            draw.text((x + side * 1.5, y), name, fill=_INK, font=ImageFont.load_default(self._text_px * 0.85))

    def _draw_row(
        self, canvas: Image.Image, draw: ImageDraw.ImageDraw, track: FaceTrack, at_s: float, top: float
    ) -> None:
        """Number and bars of one face at the left, its last seconds at the right."""
        unit, height = self._text_px, self._row_px - self._text_px // 2
        sample = track.sample_at(at_s)
        ink = _FAINT if sample is None else _INK
        draw.text((unit // 2, top + height / 2 - unit * 0.7), f"{track.track_id}", fill=ink, font=self._font)
        left, bar = _BARS_LEFT * unit, _BAR * unit
        for k in range(len(_NAMES)):
            x = left + k * bar * _BAR_STEP
            draw.rectangle((x, top + unit // 3, x + bar, top + height), fill=_PLOT_GROUND)
            share = 0.0 if sample is None else float(track.prob[sample, k])
            if share > 0.01:
                draw.rectangle(
                    (x, top + height - share * (height - unit // 3), x + bar, top + height),
                    fill=tuple(_COLOURS[k].tolist()),
                )
        plot_left = self._plot_left
        size = (self.width_px - plot_left - unit // 2, round(height - unit // 3))
        canvas.paste(Image.fromarray(_plot(track, at_s, *size)), (plot_left, round(top + unit // 3)))
        if track.name:
            text = f" {_short(track.name)} "
            box = draw.textbbox((plot_left, top + unit // 3), text, font=self._font)
            draw.rectangle(box, fill=_GROUND)
            draw.text((plot_left, top + unit // 3), text, fill=ink, font=self._font)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _plot(track: FaceTrack, at_s: float, width_px: int, height_px: int) -> np.ndarray:
    """The stacked shares of the last seconds, uint8 RGB [height_px,width_px,3]; grey where the face was not seen."""
    column_s = at_s - _WINDOW_S * (1 - (np.arange(width_px) + 1) / width_px)
    k = np.searchsorted(track.time_s, column_s + 1e-6, side="right") - 1
    seen = (k >= 0) & (column_s < track.end_s[np.maximum(k, 0)]) & (column_s >= 0)
    upper = np.cumsum(track.prob[np.maximum(k, 0)], axis=1)  # [width_px,8]
    upper /= np.maximum(upper[:, -1:], 1e-9)
    level = 1 - (np.arange(height_px) + 0.5) / height_px
    which = (level[:, None, None] > upper[None, :, :-1]).sum(axis=2)  # [height_px,width_px]
    return np.where(seen[None, :, None], _COLOURS[which], np.array(_PLOT_GROUND, np.uint8))
