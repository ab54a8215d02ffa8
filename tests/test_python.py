"""The functions of ``import mfer``: quick to import, and the same as the commands."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import mfer
from flows.demo_clips import carphone_path
from mfer.errors import ConfigError, ModelError
from storage.errors import LakeError


@pytest.fixture(scope="module")
def clip():
    """A man who talks in a car, 120 frames."""
    return carphone_path()


def test_importing_it_loads_nothing_large():
    code = (
        "import sys, mfer; print(mfer.analyze.__doc__[:7], [m for m in ('torch', 'duckdb', 'pyarrow', 'flows', 'numpy')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Analyse []\n"


def test_a_video_is_analysed_asked_about_and_skipped_the_second_time(clip, tmp_path):
    lake = tmp_path / "lake"
    first = mfer.analyze(clip, lake, every=40, progress=False)
    assert [(outcome.status, outcome.n_frames) for outcome in first.outcomes] == [("ok", 3)]
    with mfer.connect(lake) as con:
        rows = con.sql("SELECT time_s, p_neutral FROM scores ORDER BY time_s").fetchall()
        reweighted = con.sql("SELECT time_s, p_neutral FROM reweighted() ORDER BY time_s").fetchall()
    assert len(rows) == 3
    assert all(0 <= p <= 1 for _, p in rows)
    assert all(less < p for (_, p), (_, less) in zip(rows, reweighted, strict=True))  # of the most usual class
    again = mfer.analyze([clip], str(lake), every=40, progress=False)
    assert [outcome.status for outcome in again.outcomes] == ["skipped"]


def test_a_model_reads_aligned_faces():
    model = mfer.load_model(device="cpu")
    crop = model.card.crop
    prob = model(torch.randint(0, 255, (3, crop.channels, crop.side_px, crop.side_px), dtype=torch.uint8))
    assert prob.shape == (3, 8)
    np.testing.assert_allclose(prob.sum(1), 1, atol=1e-5)
    assert model.card.class_names[:2] == ("neutral", "happiness")


def test_what_cannot_be_is_said(clip, tmp_path):
    with pytest.raises(LakeError):
        mfer.connect(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no_such"):
        mfer.load_model("no_such")
    with pytest.raises((ConfigError, TypeError), match="frames_per_s"):
        mfer.analyze(clip, tmp_path / "lake", frames_per_s=5)
