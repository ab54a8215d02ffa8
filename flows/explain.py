"""Where in a face the model found its expression, at one moment of a video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from mfer.checkpoint import load_model
from mfer.crop import normalise
from mfer.errors import ConfigError
from mfer.explain import grad_cam, overlay
from pipelines.faces.detectors import DetectorSettings, load_detector
from pipelines.remote import local_copy
from pipelines.scoring.scorer import Scorer
from pipelines.video.decode import decode, open_video
from storage.delta.object_store import place_of
from storage.files import whole_file

__all__ = ["explain_moment"]

_SIDE_PX = 240
_CAPTION_PX = 44


def explain_moment(video: str, at_s: float, model: Path, out: Path, min_face_px: int = 20) -> str:
    """Draw every face of the frame shown at a moment beside its Grad-CAM overlay.

    Args:
        video: the file, or an object in a store.
        at_s: seconds into it, as a player shows them.
        model: a model's folder.
        out: PNG to write; a row per face with the crop that the network saw and the heat for its top class.

    Returns:
        A line of text per face.
    """
    with local_copy(place_of(video)) as path:
        return _explain(path, video, at_s, model, out, min_face_px)


def _explain(path: Path, video: str, at_s: float, model: Path, out: Path, min_face_px: int) -> str:
    opened = open_video(path)
    times_s = opened.pts_s - opened.info.start_s
    if not times_s[0] - 1e-6 <= at_s < (end_s := times_s[-1] + opened.duration_s[-1]):
        raise ConfigError(f"--at {at_s}: the video shows pictures from {times_s[0]:.3f} s to {end_s:.3f} s")
    wanted = int(np.searchsorted(times_s, at_s + 1e-6, side="right")) - 1
    decoding = decode(opened, decoder="pyav", batch_frames=1)
    decoding = replace(  # from the key frame before it
        decoding, frame_index=np.array([wanted]), segment_bounds=np.array([0, 1]), may_read_none=True
    )
    frame = next((batch for batch in decoding if wanted in batch.frame_index), None)
    if frame is None:
        raise ConfigError(f"frame {wanted} of {video} could not be read")
    faces = load_detector(DetectorSettings(min_face_px=min_face_px, mode="exact")).detect(frame.rgb)
    if not len(faces):
        raise ConfigError(f"no face was found in frame {wanted} (shown at {times_s[wanted]:.3f} s); nothing to explain")
    scorer = Scorer(model)
    crops = scorer.align(frame, faces)
    prob = scorer(crops).prob
    top = prob.argmax(1)
    heat = grad_cam(load_model(model)[0], normalise(crops.pixels, scorer.card.crop), torch.from_numpy(top))
    rows, lines = [], []
    for i in range(len(faces)):
        order = np.argsort(-prob[i])[:3]
        text = ", ".join(f"{scorer.card.class_names[k]} {prob[i, k]:.2f}" for k in order)
        lines.append(f"frame {wanted} at {times_s[wanted]:.3f} s, face {i}: {text}")
        crop = crops.pixels[i].numpy()
        plain = np.broadcast_to(crop, (3, *crop.shape[1:])).transpose(1, 2, 0)  # [C,S,S] -> [S,S,3]
        rows.append(_row(plain, overlay(crop, heat[i]), f"face {i}: {text}"))
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
