"""Which decoders exist, and the protocol that they follow. Quick to import: no torch, no libav.

To add one: a file with a class that follows ``Decoder``, and a line in ``DECODERS``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import numpy as np

    from pipelines.video.scan import Video

__all__ = [
    "DECODERS",
    "DEFAULT_READ",
    "Decoder",
    "DecoderMismatchError",
    "ReadOptions",
    "decoder_name",
    "fallback_decoder",
    "load_decoder",
    "refusal",
]

#: Every decoder by the name that settings and options use: ``module:class`` of a ``Decoder``.
DECODERS = {
    "pyav": "pipelines.video.pyav:PyavDecoder",
    "decord": "pipelines.video.decord:DecordDecoder",
    "torchcodec": "pipelines.video.torchcodec:TorchcodecDecoder",
    "pillow": "pipelines.video.pillow:PillowDecoder",
}
#: What ``auto`` stands for, of videos and of pictures: right on everything that was tried.
_AUTO, _AUTO_OF_PICTURES = "pyav", "pillow"


class DecoderMismatchError(Exception):
    """A decoder failed, or did not deliver exactly the frames that the packets promise."""


@dataclass(frozen=True)
class ReadOptions:
    """How a decoder reads; each may ignore what it has no choice in.

    ``sampled`` int64, rising, are all frames of the video that anybody wants, of which a reader may want a part; None:
    every frame. The others need not be decoded. What is damaged reads the same in every part.
    """

    threads: int = 1
    device: str = "cpu"
    sampled: np.ndarray | None = None


DEFAULT_READ = ReadOptions()


class Decoder(Protocol):
    """Reads the frames of a video that was scanned."""

    #: True if it takes packet by packet (or picture by picture) as the scan did, and says of each frame whether it can
    #: be trusted. Others may read only files of which the packets prove that nothing can go wrong (``Video.doubt``).
    by_packet: bool

    def require(self) -> None:
        """Raise ConfigError where its library cannot be used, with what to install."""

    def refusal(self, video: Video) -> str | None:
        """Why it must not read a file, beyond ``Video.doubt``."""

    def read(self, video: Video, frame_index: np.ndarray, how: ReadOptions) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index, upright RGB uint8 [H,W,3] with square pixels) of the wanted frames that can be read, in order.

        Args:
            frame_index: int64 [S], rising.

        Raises:
            DecoderMismatchError: it failed as a whole, or its frames are not those of the packets.
        """


def decoder_name(name: str, video: Video | None = None) -> str:
    """The decoder that a setting stands for: itself, or PyAV for ``auto``, and Pillow where the video is pictures."""
    if name != "auto":
        return name
    return _AUTO_OF_PICTURES if video is not None and video.pictures else _AUTO


def load_decoder(name: str, video: Video | None = None) -> Decoder:
    """The decoder of a name, or of ``auto`` for a video."""
    return cast(Decoder, resolve_name(DECODERS[decoder_name(name, video)])())


def refusal(name: str, video: Video) -> str | None:
    """Why a decoder must not read a file, or None."""
    decoder = load_decoder(name, video)
    return (None if decoder.by_packet else video.doubt) or decoder.refusal(video)


def fallback_decoder(name: str) -> str:
    """Another decoder for a video with which one crashed or hung."""
    return "decord" if name in ("auto", "pyav") else "pyav"
