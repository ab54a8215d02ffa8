from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipelines.video.resize import pyramid
from tests.faces import astronaut


@pytest.mark.parametrize(("height_px", "width_px"), [(301, 280), (97, 118), (12, 12)])
def test_a_smaller_picture_is_the_mean_of_what_each_pixel_covers(height_px: int, width_px: int) -> None:
    frames = np.stack([astronaut()[:400], astronaut()[100:500]])
    (small,) = pyramid(frames, [(height_px, width_px)])
    assert (small.dtype, small.shape) == (np.uint8, (2, height_px, width_px, 3))
    for frame, found in zip(frames, small, strict=True):
        expected = Image.fromarray(frame).resize((width_px, height_px), Image.Resampling.BILINEAR)
        difference = np.abs(np.asarray(expected).astype(int) - found)[1:-1, 1:-1]  # borders are weighed otherwise
        assert difference.max() <= 6  # its weights are integers
        assert difference.mean() < 0.3


def test_a_level_is_the_level_two_before_shrunk_again() -> None:
    sizes_px = [(200, 240), (142, 170), (100, 120), (71, 85), (50, 60)]
    frames = astronaut()[None, :400]
    levels = pyramid(frames, sizes_px)
    assert [level.shape[1:3] for level in levels] == sizes_px
    for i, level in enumerate(levels):
        (alone,) = pyramid(frames if i < 2 else levels[i - 2], sizes_px[i : i + 1])
        assert (level == alone).all()


def test_a_part_of_a_picture_is_shrunk_as_a_copy_of_it_is() -> None:
    part = astronaut()[None, 17:301, 20:411]
    assert (pyramid(part, [(60, 80)])[0] == pyramid(part.copy(), [(60, 80)])[0]).all()
