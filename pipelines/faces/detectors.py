"""Which face detectors exist, their settings, and the protocol that they follow. Quick to import: no torch.

To add one: a file with a class that follows ``Detector`` and ``DetectorClass``, and a line in ``DETECTORS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal, Protocol, cast, get_args

from mfer.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from pipelines.batches import Detections

__all__ = [
    "DEFAULT_DETECTOR",
    "DETECTORS",
    "DETECT_MODES",
    "LARGE_FACE",
    "DetectMode",
    "Detector",
    "DetectorClass",
    "DetectorKind",
    "DetectorSettings",
    "Network",
    "Networks",
    "detector_networks",
    "load_detector",
    "parse_min_face",
]


@dataclass(frozen=True)
class DetectorKind:
    """Facts about a detector that are needed before it is loaded.

    ``location`` is ``module:class`` of a ``DetectorClass``. ``min_face_px`` is the side of the smallest face that it
    can see. ``follows`` is true if it has ``refine``, which the mode ``tracked`` needs.
    """

    location: str
    min_face_px: int = 1
    follows: bool = False


#: Every detector by the name that settings, options and ids use.
DETECTORS: dict[str, DetectorKind] = {
    "mtcnn": DetectorKind("pipelines.faces.mtcnn:Mtcnn", min_face_px=12, follows=True),
}
DEFAULT_DETECTOR = "mtcnn"
#: A detection of large faces only looks for those of at least so many sides of the smallest face.
LARGE_FACE = 2.0
DetectMode = Literal["tracked", "exact"]
DETECT_MODES: tuple[DetectMode, ...] = get_args(DetectMode)


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """How faces are found.

    ``name`` is one of ``DETECTORS``. ``min_face_px`` is the smallest face side looked for, or ``min_face_share`` of the
    frame's shorter side where that is larger; the time of a detection falls with its square. A face needs the
    probability ``min_prob``.

    ``mode`` ``exact`` detects on every frame. ``tracked`` detects every ``interval_s`` seconds (every other time only
    faces from ``LARGE_FACE`` times the smallest side on), at cuts, and ``refresh_s`` seconds after a face was lost. It
    follows the faces in between with the detector's ``refine``, which has to give a followed face the probability
    ``keep_prob``; see ``pipelines/faces/propagate.py`` and docs/performance.md.
    """

    name: str = DEFAULT_DETECTOR
    min_face_px: int = 20
    min_face_share: float = 0.0
    min_prob: float = 0.7
    mode: DetectMode = "tracked"
    interval_s: float = 1.0
    refresh_s: float = 0.2
    keep_prob: float = 0.5

    def __post_init__(self) -> None:
        kind = DETECTORS.get(self.name)
        if kind is None:
            raise ConfigError(f"the detector is {self.name!r}; allowed: {', '.join(DETECTORS)}")
        if self.min_face_px < kind.min_face_px:
            raise ConfigError(
                f"the smallest face is {self.min_face_px} px; {self.name} sees none below {kind.min_face_px} px"
            )
        if not 0 <= self.min_face_share < 1:
            raise ConfigError(
                f"the smallest face is {self.min_face_share:.0%} of the frame; allowed: 0 % to below 100 %"
            )
        if self.mode not in DETECT_MODES:
            raise ConfigError(f"detection is {self.mode!r}; allowed: {', '.join(DETECT_MODES)}")
        if self.mode == "tracked" and not kind.follows:
            raise ConfigError(f"the detector {self.name} cannot follow faces; use --detect exact with it")
        if not (self.interval_s >= 0 and self.refresh_s >= 0):
            raise ConfigError(
                f"detection every {self.interval_s} s, {self.refresh_s} s after a loss; both must be >= 0"
            )
        for what, prob in (("found face", self.min_prob), ("followed face", self.keep_prob)):
            if not 0 < prob <= 1:
                raise ConfigError(f"a {what} is kept from a probability of {prob}; allowed: above 0, to 1")

    def smallest_px(self, height_px: int, width_px: int) -> float:
        """Side of the smallest face looked for in a frame of that size, in pixels."""
        return max(self.min_face_px, self.min_face_share * min(height_px, width_px))


def parse_min_face(text: str) -> dict[str, float]:
    """Parse the smallest face, ``60`` (pixels) or ``5%`` (of the frame's shorter side), into settings."""
    number, share = text.removesuffix("%"), text.endswith("%")
    try:
        return {"min_face_share": float(number) / 100} if share else {"min_face_px": int(number)}
    except ValueError:
        raise ConfigError(f"the smallest face is {text!r}; give pixels, such as 60, or a share, such as 5%") from None


class Detector(Protocol):
    """A loaded detector."""

    @property
    def settings(self) -> DetectorSettings: ...

    def detect(self, rgb: np.ndarray, min_prob: float | None = None, *, large_only: bool = False) -> Detections:
        """Find the faces of every frame.

        Args:
            rgb: uint8 [T,H,W,3].
            min_prob: least probability of a face, in place of the settings'.
            large_only: faces below ``LARGE_FACE`` times the smallest side need not be found, if that saves time.

        Returns:
            Faces in frame pixels, by frame and then falling box area. A frame's faces must not depend on the others.
        """

    def refine(
        self, rgb: np.ndarray, frame_row: np.ndarray, box_xyxy_px: np.ndarray, min_prob: float | None = None
    ) -> Detections:
        """Find the faces near some boxes; only called where ``DetectorKind.follows``.

        Args:
            rgb: uint8 [T,H,W,3].
            frame_row: int64 [F], the frame of each box.
            box_xyxy_px: float [F,4].
            min_prob: as of ``detect``.

        Returns:
            The boxes that hold a face, moved onto it, without doubles; in the order of ``detect``.
        """


@dataclass(frozen=True)
class Network:
    """Turns uint8 pixels into arrays. ``by_row``: rows do not affect each other, so requests can be joined."""

    run: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    by_row: bool = False

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.run(pixels)


class Networks(Protocol):
    """A detector's networks by name, in this process or in another one."""

    def __getitem__(self, name: str, /) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]: ...


class DetectorClass(Protocol):
    """The class of a detector: it loads the networks, which may run in another process, and is made from them."""

    def networks(self, settings: DetectorSettings, device: str) -> dict[str, Network]:
        """Load the networks on a device (a static method)."""

    def __call__(self, settings: DetectorSettings, networks: Networks) -> Detector:
        """Make the detector from them."""


def detector_networks(settings: DetectorSettings, device: str) -> dict[str, Network]:
    """Load the networks of the detector that the settings name."""
    return _class_of(settings).networks(settings, device)


def load_detector(
    settings: DetectorSettings | None = None, device: str = "cpu", networks: Networks | None = None
) -> Detector:
    """Load the detector that the settings name.

    Args:
        settings: the default detector with its defaults, if None.
        device: where its networks run.
        networks: its networks, if another process has loaded them.
    """
    settings = settings or DetectorSettings()
    return _class_of(settings)(settings, networks or detector_networks(settings, device))


def _class_of(settings: DetectorSettings) -> DetectorClass:
    return cast(DetectorClass, resolve_name(DETECTORS[settings.name].location))
