"""How far `yaw_deg` and `pitch_deg` are off, on heads that were turned by known angles.

Two kinds of heads: five points of heads that differ from the generic one, half a metre from the camera, with noise on
each landmark; and real faces that are wrapped over a relief of a head, turned and found by the detector. The second
kind is compared with its own frontal view, because nobody knows how the head was turned in the photograph.
`python -m benchmarks.head_pose [CLIP ...]`; faces of the clips are added to those of two packages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from flows.demo_clips import astronaut_path, carphone_path
from pipelines.faces.detectors import Detector, DetectorSettings, load_detector
from pipelines.faces.head_pose import GENERIC_HEAD, head_pose

__all__ = ["VIEWS", "rotation", "synthetic_landmarks", "turned_face"]

#: Yaw and pitch in degrees.
VIEWS = [
    (0, 0),
    (15, 0),
    (-15, 0),
    (30, 0),
    (-30, 0),
    (45, 0),
    (0, 15),
    (0, -15),
    (0, 25),
    (0, -25),
    (20, 10),
    (-20, -10),
]
#: Camera to head, in distances between the eyes: about half a metre.
_FAR = 8.0
#: Standard deviation of people's landmarks in those of the generic head: right, down, away. A nose varies most in its
#: length, a mouth with its expression; both corners of a mouth move alike.
_PEOPLE = np.array([[0, 0, 0], [0, 0, 0], [0.01, 0.05, 0.06], [0.04, 0.06, 0.03], [0.04, 0.06, 0.03]])
_SIDE_PX, _EYES_PX = 320, 60


def rotation(yaw_deg: float, pitch_deg: float, roll_deg: float = 0.0) -> np.ndarray:
    """Matrix [3,3] that nods, turns and tilts points given as right, down, away."""
    yaw, pitch, roll = np.radians([yaw_deg, pitch_deg, roll_deg])
    nod = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    tilt = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return np.asarray(tilt @ turn @ nod)


def synthetic_landmarks(
    n: int, yaw_deg: float, pitch_deg: float, *, roll_deg: float = 0.0, noise: float = 0.0, people: float = 1.0
) -> np.ndarray:
    """Landmarks float [n,5,2] in px of n heads, 60 px between the eyes.

    Args:
        noise: standard deviation of each coordinate, in distances between the eyes.
        people: how far the heads differ from the generic one, as a share of how far people do.
    """
    rng = np.random.default_rng(0)
    differ = rng.normal(size=(n, 5, 3))
    differ[:, 4] = differ[:, 3] * (-1, 1, 1)
    heads = GENERIC_HEAD - GENERIC_HEAD.mean(0) + people * _PEOPLE * differ
    seen = heads @ rotation(yaw_deg, pitch_deg, roll_deg).T
    points = seen[..., :2] * _FAR / (_FAR + seen[..., 2:]) + rng.normal(0, noise, (n, 5, 2))
    return np.asarray(_SIDE_PX / 2 + _EYES_PX * points)


def _relief(right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """How far away a head is, from the middle between its eyes: half an ellipsoid with a nose of 0.6."""
    dome = np.clip(1 - (right / 1.25) ** 2 - ((down - 0.5) / 1.75) ** 2, 0, 1)
    ridge = np.where(down < 0.62, np.clip((down + 0.1) / 0.66, 0, 1), np.exp(-(((down - 0.62) / 0.12) ** 2)))
    width = 0.1 + 0.1 * np.clip(down / 0.56, 0, 1)
    return np.asarray(-1.35 * np.sqrt(dome) - 0.42 * ridge * np.exp(-((right / width) ** 2)))


def turned_face(rgb: np.ndarray, landmarks_px: np.ndarray, yaw_deg: float, pitch_deg: float) -> np.ndarray:
    """A picture uint8 [320,320,3] of the face of a photograph uint8 [H,W,3], wrapped over a head that is then turned.

    Args:
        landmarks_px: float [5,2] of the face.
    """
    left, right = landmarks_px[:2]
    unit = float(np.hypot(*(right - left)))
    fine = 2.5 * _EYES_PX / unit  # source pixels must lie closer than those of the picture
    large = np.asarray(Image.fromarray(rgb).resize((round(rgb.shape[1] * fine), round(rgb.shape[0] * fine))))
    x0, y0 = (left + right) / 2 * fine
    rows, columns = np.mgrid[: large.shape[0], : large.shape[1]]
    across, down = (columns - x0) / (unit * fine), (rows - y0) / (unit * fine)
    near = (np.abs(across) < 1.6) & (down > -1.6) & (down < 2.6)
    points = np.stack([across, down, _relief(across, down)], -1)[near] - (0, 0.55, -0.4)
    seen = points @ rotation(yaw_deg, pitch_deg).T
    at = np.round(_SIDE_PX / 2 + _EYES_PX * seen[:, :2] * _FAR / (_FAR + seen[:, 2:])).astype(int)
    shown = ((at >= 0) & (at < _SIDE_PX)).all(1)
    order = np.flatnonzero(shown)[np.argsort(-seen[shown, 2])]  # the nearest is painted last
    picture = np.full((_SIDE_PX, _SIDE_PX, 3), 90, np.uint8)
    picture[at[order, 1], at[order, 0]] = large[near][order]
    return picture


def landmarks_of(rgb: np.ndarray, detector: Detector) -> np.ndarray | None:
    """Landmarks float32 [5,2] of the largest face of a picture."""
    faces = detector.detect(rgb.copy()[None])
    return faces.landmarks_px[0] if len(faces) else None


def _first_frame(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def _print_synthetic(n: int) -> None:
    print("\nfive points: mean absolute error of yaw, of pitch, and share without an answer")
    noises = (0.0, 0.02, 0.03)
    print("yaw pitch | the generic head " + "".join(f"| people, noise {noise:.0%} " for noise in noises))
    for yaw, pitch in [*VIEWS, (60, 0), (75, 0), (0, 40)]:
        cells = []
        for people, noise in [(0.0, 0.0), *((1.0, noise) for noise in noises)]:
            found = head_pose(synthetic_landmarks(n, yaw, pitch, noise=noise, people=people))
            off = [
                np.nanmean(np.abs(a - b)) if np.isfinite(a).any() else np.nan
                for a, b in zip(found, (yaw, pitch), strict=True)
            ]
            cells.append(f"{off[0]:4.1f} {off[1]:4.1f} {np.isnan(found[0]).mean():4.0%}")
        print(f"{yaw:3d} {pitch:4d}  | " + " | ".join(cells))

    smile = synthetic_landmarks(1, 0, 0, people=0.0) + _EYES_PX * np.array([[0, 0]] * 3 + [[-0.1, -0.1], [0.1, -0.1]])
    print("a broad smile, corners of the mouth a tenth outwards and upwards: pitch {:.1f}".format(*head_pose(smile)[1]))


def _print_relief(faces: list[np.ndarray]) -> None:
    detector = load_detector(DetectorSettings(min_face_px=36, mode="exact"))
    sources = [(rgb, points) for rgb in faces if (points := landmarks_of(rgb, detector)) is not None]
    print(f"\n{len(sources)} faces over a relief: mean yaw and pitch beyond the frontal view, and mean absolute errors")
    frontal: list[np.ndarray] = []
    errors = []
    for view in VIEWS:
        rows = []
        for rgb, points in sources:
            seen = landmarks_of(turned_face(rgb, points, *view), detector)
            rows.append(np.full(2, np.nan) if seen is None else np.concatenate(head_pose(seen[None])))
        frontal = frontal or rows
        beyond = np.array(rows) - np.array(frontal)
        off = np.nanmean(np.abs(beyond - view), 0)
        errors.append(off)
        mean = np.nanmean(beyond, 0)
        print(f"{view[0]:3d} {view[1]:4d}  | {mean[0]:5.1f} {mean[1]:5.1f} | {off[0]:4.1f} {off[1]:4.1f}")
    print("all but frontal: yaw {:.1f}, pitch {:.1f} degrees".format(*np.mean(errors[1:], 0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="*", type=Path, help="clips whose first frame shows a face from the front")
    parser.add_argument("--heads", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _print_synthetic(options.heads)
    with Image.open(astronaut_path()) as image:
        faces = [np.asarray(image.convert("RGB"))[17:217, 124:324], _first_frame(carphone_path())]
    _print_relief(faces + [_first_frame(path) for path in options.clips])


if __name__ == "__main__":
    main()
