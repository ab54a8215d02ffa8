"""A decoder as somebody else would write it: libav, from the first frame to the last."""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np

from pipelines.video.decoders import ReadOptions
from pipelines.video.scan import Video


class ToyDecoder:
    by_packet = False

    def require(self) -> None:
        pass

    def refusal(self, video: Video) -> str | None:
        return "it is a toy" if video.info.n_frames > 100 else None

    def read(self, video: Video, frame_index: np.ndarray, how: ReadOptions) -> Iterator[tuple[int, np.ndarray]]:
        wanted = set(frame_index.tolist())
        with av.open(str(video.info.path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    yield index, frame.to_ndarray(format="rgb24")
