from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mfer.card import Architecture, Card, CropContract, packaged_models
from mfer.checkpoint import save_model
from mfer.classes import EXPRESSIONS
from mfer.crop import align_matrix
from mfer.errors import ConfigError, ModelError
from mfer.network import MFER
from pipelines.batches import AlignedFaces
from pipelines.faces.detectors import load_detector
from pipelines.scoring.scorer import Scorer
from pipelines.settings import DetectorSettings
from tests.faces import as_batch, carphone_faces, carphone_frames


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mfer" / "onnx"


def crops(scorer: Scorer, n_faces: int) -> AlignedFaces:
    faces = carphone_faces()
    return AlignedFaces(
        scorer.align(as_batch(carphone_frames()), faces).pixels[:n_faces],
        align_matrix(faces.landmarks_px, scorer.card.crop)[:n_faces],
    )


@pytest.mark.parametrize("folder", packaged_models().values(), ids=packaged_models())
def test_runtimes_give_the_same_probabilities_and_int8_nearly(folder: Path) -> None:
    quick, reference = Scorer(folder, runtime="onnx"), Scorer(folder, runtime="torch")
    small = Scorer(folder, runtime="int8")
    assert quick.model_id == reference.model_id == small.model_id
    for n in (0, 1, 33):
        faces = crops(quick, n)
        expected = reference(faces).prob
        np.testing.assert_allclose(quick(faces).prob, expected, atol=1e-4)
        assert np.abs(small(faces).prob - expected).max(initial=0) < 0.15
    every = crops(quick, 120)
    difference = np.abs(small(every).prob - reference(every).prob)
    assert 1e-4 < difference.mean() < 0.01  # it is another computation, and close
    leading = small(every).prob.argmax(1) == reference(every).prob.argmax(1)
    assert leading.mean() > 0.9  # in half of these frames two expressions are close
    np.testing.assert_array_equal(Scorer(folder)(every).prob, small(every).prob)  # what a CPU uses by itself


def test_a_network_without_bounds_has_no_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    architecture = Architecture("mfer_atto", in_channels=1, ds="depthwise", stem="conv2", layer_scale=1.0)
    crop = CropContract(side_px=32)
    save_model(tmp_path, MFER(architecture).eval(), Card("made", EXPRESSIONS, architecture, crop, 1.0, "", {}, {}, ""))
    with pytest.raises(ConfigError, match="the network mfer_atto cannot run in int8; use --runtime auto or onnx"):
        Scorer(tmp_path, runtime="int8")
    faces = crops(Scorer(tmp_path), 3)
    np.testing.assert_array_equal(Scorer(tmp_path)(faces).prob, Scorer(tmp_path, runtime="onnx")(faces).prob)


def test_an_exported_network_is_used_again_and_made_again_where_it_is_damaged(model: Path, own_cache: Path) -> None:
    first = Scorer(model)
    expected = first(crops(first, 3)).prob
    (path,) = own_cache.glob("mfer-*.onnx")
    written = path.stat().st_mtime_ns
    Scorer(model)
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:1000])
    again = Scorer(model)
    np.testing.assert_array_equal(again(crops(again, 3)).prob, expected)
    assert path.stat().st_size > 1000
    assert [p.name for p in own_cache.iterdir()] == [path.name]


def test_a_cache_that_cannot_be_written_costs_no_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    scorer = Scorer(model)
    np.testing.assert_allclose(scorer(crops(scorer, 3)).prob.sum(1), 1, atol=1e-5)


def test_weights_are_checked_also_where_an_export_is_at_hand(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    Scorer(copy)
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ModelError, match="is damaged or not the model of its card"):
        Scorer(copy)


def test_an_unknown_runtime_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match="'fast'; allowed: auto, torch, onnx"):
        Scorer(model, runtime="fast")


@pytest.mark.needs_cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_sees_what_the_cpu_sees() -> None:
    frames = carphone_frames()[::20].copy()
    here, there = (load_detector(DetectorSettings(min_face_px=36), device).detect(frames) for device in ("cpu", "cuda"))
    assert here.frame_row.tolist() == there.frame_row.tolist()
    np.testing.assert_allclose(here.landmarks_px, there.landmarks_px, atol=1)
    folder = next(iter(packaged_models().values()))
    on_cpu, on_gpu = Scorer(folder), Scorer(folder, "cuda")
    faces = crops(on_cpu, 33)
    np.testing.assert_allclose(on_cpu(faces).prob, on_gpu(faces).prob, atol=0.02)  # bfloat16
