"""Where in a face the model found its expression, at one moment of a video."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from PIL import Image, ImageDraw

from mfer.checkpoint import load_model
from mfer.crop import align_matrix, normalise, warp_faces
from mfer.errors import ConfigError
from mfer.explain import grad_cam, overlay
from mfer.network import CalibratedMFER
from pipelines.batches import Detections, FrameBatch
from pipelines.faces.detectors import DetectorSettings, load_detector
from pipelines.faces.finder import StoredFaces
from pipelines.faces.rotation import Turn
from pipelines.remote import local_copy
from pipelines.video.decode import decode, open_video
from pipelines.video.scan import Video
from storage.delta.object_store import StoragePath, is_uri, place_of
from storage.delta.relations import read_errors
from storage.errors import LakeError
from storage.files import whole_file
from storage.identity import as_stored, stream_of_video
from storage.lake import Lake
from storage.originals import place_of_video
from storage.sql.selection import ChosenVideo, choose_video
from storage.sql.views import connect

__all__ = ["explain_moment"]

_SIDE_PX = 240
_CAPTION_PX = 44


def explain_moment(
    video: str, at_s: float, model: Path, out: Path, lake: Lake | None = None, *, file: Path | None = None
) -> str:
    """Draw every face of the frame shown at a moment beside its Grad-CAM overlay.

    Args:
        video: the file, an object in a store, or a file name or video_id that the lake knows.
        at_s: seconds into it, as a player shows them.
        model: a model's folder.
        out: PNG to write; a row per face with the crop that the network saw and the heat for its top class.
        file: where the video is, if it is not where it was analysed.
        lake: its faces are taken where it has the frame; else the default detector looks for them.

    Returns:
        A line of text per face.

    Raises:
        LakeError: ``unknown_video`` where the name is no file and the lake knows no video by it, or several.
        VideoError: the file cannot be read.
        ConfigError: a moment outside the video or without a face, or an output that cannot be written.
    """
    place, known = _find_video(video, lake)
    with local_copy(file or place) as path:
        opened = open_video(path, stream=None if known is None else stream_of_video(known.video_id))
        wanted = _frame_at(opened, at_s)
        frame = _read_frame(opened, wanted)
    found = None if lake is None or known is None else _stored_faces(frame, lake, known)
    frame, faces = found or (frame, load_detector(DetectorSettings()).detect(frame.rgb))
    moment = f"frame {wanted} at {opened.pts_s[wanted] - opened.info.start_s:.3f} s"
    if not len(faces):
        raise ConfigError(f"no face was found in {moment}; nothing to explain")
    return _draw(frame, faces, model, out, moment)


def _find_video(name: str, lake: Lake | None) -> tuple[StoragePath, ChosenVideo | None]:
    """Where the video is, and the finished analysis that the lake's views show of it."""
    name = name if is_uri(name) else str(as_stored(name))
    is_place = is_uri(name) or os.path.exists(name)
    if lake is None:
        return place_of(name), None
    with connect(lake) as con, read_errors(lake.location):
        try:
            known = choose_video(con, name)
        except LakeError as error:
            if error.code != "unknown_video" or not is_place:
                raise
            return place_of(name), None
        if is_place and not os.path.isdir(name):  # a folder may be that of one sequence
            return place_of(name), known
        return place_of_video(con, known.video_id, known.path), known


def _frame_at(video: Video, at_s: float) -> int:
    times_s = video.pts_s - video.info.start_s
    if not times_s[0] - 1e-6 <= at_s < (end_s := times_s[-1] + video.duration_s[-1]):
        raise ConfigError(f"--at {at_s}: the video shows pictures from {times_s[0]:.3f} s to {end_s:.3f} s")
    return int(np.searchsorted(times_s, at_s + 1e-6, side="right")) - 1


def _read_frame(video: Video, wanted: int) -> FrameBatch:
    decoding = decode(video, batch_frames=1)
    decoding = replace(  # from the key frame before it
        decoding, frame_index=np.array([wanted]), segment_bounds=np.array([0, 1]), may_read_none=True
    )
    frame = next((batch for batch in decoding if wanted in batch.frame_index), None)
    if frame is None:
        raise ConfigError(f"frame {wanted} of {video.info.path} could not be read")
    return frame


def _stored_faces(frame: FrameBatch, lake: Lake, known: ChosenVideo) -> tuple[FrameBatch, Detections] | None:
    """The frame, turned as it was analysed, with the lake's faces; None where the lake has not that frame."""
    rows = lake.stored_faces(known.faces_id, known.video_id)
    if rows is None or not pc.any(pc.equal(rows["frame_index"], int(frame.frame_index[0]))).as_py():
        return None
    _, height_px, width_px, _ = frame.rgb.shape
    turn = Turn(json.loads(known.settings).get("rotation_deg", 0) // 90, width_px, height_px)
    turned, faces, _ = next(StoredFaces(rows, turn)(turn.frames([frame])))
    return turned, faces


def _draw(frame: FrameBatch, faces: Detections, folder: Path, out: Path, moment: str) -> str:
    model, card = load_model(folder)
    crops = warp_faces(frame.rgb, faces.frame_row, align_matrix(faces.landmarks_px, card.crop), card.crop)
    pixels = torch.from_numpy(normalise(crops, card.crop))
    with torch.inference_mode():
        prob = CalibratedMFER(model, card.temperature).eval()(pixels).numpy()
    heat = grad_cam(model, pixels, torch.from_numpy(prob.argmax(1)))
    rows, lines = [], []
    for i in range(len(faces)):
        text = ", ".join(f"{card.class_names[k]} {prob[i, k]:.2f}" for k in np.argsort(-prob[i])[:3])
        lines.append(f"{moment}, face {i}: {text}")
        plain = np.broadcast_to(crops[i], (3, *crops.shape[2:])).transpose(1, 2, 0)  # [C,S,S] -> [S,S,3]
        rows.append(_row(plain, overlay(crops[i], heat[i]), f"face {i}: {text}"))
    try:
        with whole_file(out) as fresh:
            Image.fromarray(np.concatenate(rows)).save(fresh)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}; name another file") from error
    return "\n".join([*lines, str(out)])


def _row(crop: np.ndarray, explained: np.ndarray, caption: str) -> np.ndarray:
    """Two enlarged pictures with a caption, uint8 RGB [h,w,3]."""
    canvas = Image.new("RGB", (2 * _SIDE_PX, _SIDE_PX + _CAPTION_PX), "white")
    for at, picture in enumerate((crop, explained)):
        enlarged = Image.fromarray(np.ascontiguousarray(picture)).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC)
        canvas.paste(enlarged, (at * _SIDE_PX, 0))
    first, _, rest = caption.partition(", ")
    ImageDraw.Draw(canvas).multiline_text((6, _SIDE_PX + 6), f"{first}\n{rest}", fill="black")
    return np.asarray(canvas)
