"""A small network with random weights evaluated and reported on made faces."""

import base64
import io
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mfer.card import Architecture
from mfer.charts import save_confusion
from mfer.classes import EXPRESSIONS
from mfer.errors import ConfigError
from mfer.evaluate import evaluate
from mfer.explain import grad_cam, overlay
from mfer.faces import LabelledFaces
from mfer.network import MFER
from mfer.report import write_report

N, SIDE = 60, 48


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MFER(Architecture("mfer_atto", in_channels=1, ds="depthwise", layer_scale=1.0)).eval()


@pytest.fixture(scope="module")
def faces():
    rng = np.random.default_rng(0)
    majority = rng.integers(0, 6, N)  # no fear, no contempt
    target = (0.75 * np.eye(8)[majority] + 0.25 / 8).astype(np.float32)
    names = [f"{i}<b>.png" for i in range(N)]
    pictures = rng.integers(0, 256, (N, SIDE, SIDE), dtype=np.uint8)
    agreed = np.arange(N) % 3 > 0
    return LabelledFaces(names, pictures, target, majority, EXPRESSIONS, "made <faces>", "none", agreed, {"lost": 2})


def normalised(crops):
    return (crops.float() / 255 - 0.5) / 0.25


@pytest.fixture(scope="module")
def evaluation(model, faces):
    @torch.inference_mode()
    def predict(crops):
        assert crops.dtype == torch.uint8
        features = model.forward_features(normalised(crops))
        return model.forward_head(features), model.pool(features)

    return evaluate(predict, faces, faces.pictures[:, None], model="tiny@1", split="report", temperature=2.0, batch=16)


def pictures_of(page):
    found = re.findall(r'data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_evaluation_is_the_network_s_own_answer(evaluation, model, faces):
    with torch.no_grad():
        x = normalised(torch.as_tensor(faces.pictures)[:, None])
        logits, features = model(x).double(), model.embed(x)
    np.testing.assert_allclose(evaluation.prob, torch.softmax(logits / 2, 1).numpy(), atol=1e-6)
    np.testing.assert_allclose(evaluation.features, features.numpy(), atol=1e-4)
    assert evaluation.metrics.accuracy.value == (evaluation.prob.argmax(1) == faces.majority).mean()
    assert evaluation.agreed_metrics.n == faces.agreed.sum()
    assert evaluation.confusion.sum() == N


def test_json_is_one_object_of_numbers_with_nothing_that_json_lacks(evaluation):
    found = json.loads(evaluation.to_json(), parse_constant=lambda s: pytest.fail(s))
    assert found["n"] == N
    assert found["accuracy"] == evaluation.metrics.accuracy.value
    assert found["intervals"]["accuracy"][0] <= found["accuracy"] <= found["intervals"]["accuracy"][1]
    assert {"mean_recall", "ece", "nll", "kl", "split", "temperature", "confusion", "agreed"} <= set(found)
    assert found["per_class_recall"]["fear"] is None
    assert found["dropped"] == {"lost": 2}


def test_table_shows_figures_and_every_class(evaluation):
    text = evaluation.table()
    assert "made <faces> (split report, n = 60)" in text
    assert f"{evaluation.metrics.accuracy.value:.4f} [" in text
    assert "dropped: 2 lost" in text
    for name in EXPRESSIONS:
        assert name in text


def test_crops_and_classes_that_do_not_fit_are_refused(faces):
    def predict(crops):
        return torch.zeros(len(crops), 7), torch.zeros(len(crops), 4)

    crops = faces.pictures[:, None]
    with pytest.raises(ConfigError, match="7 classes"):
        evaluate(predict, faces, crops, model="m")
    with pytest.raises(ConfigError, match="59 crops for 60"):
        evaluate(predict, faces, crops[1:], model="m")
    with pytest.raises(ConfigError, match="no faces"):
        evaluate(predict, faces.take(slice(0, 0)), crops[:0], model="m")


def test_page_shows_every_part_and_needs_nothing_else(tmp_path, evaluation, model, faces):
    def cam(crops, classes):
        return grad_cam(model, normalised(crops), classes)

    quality = {"sharpness": np.where(np.arange(N) < 5, np.nan, np.arange(N, dtype=float))}
    page = write_report(tmp_path / "out", evaluation, faces.pictures[:, None], cam=cam, quality=quality)
    text = page.read_text()
    assert page.name == "index.html"
    for title in ("Confusion", "Recall", "Reliability", "sharpness", "mistakes", "Grad-CAM", "t-SNE"):
        assert re.search(f"<h2>[^<]*{title}", text), title
    assert not re.search(r"https?://|<script|<link", text)
    assert "made &lt;faces&gt;" in text
    assert "<faces>" not in text
    pictures = pictures_of(text)
    assert len(pictures) >= 6
    for picture in pictures:
        assert np.asarray(picture.convert("L")).std() > 5
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["n"] == N


def test_page_without_scikit_learn_says_so(tmp_path, evaluation, faces, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    text = write_report(tmp_path, evaluation, faces.pictures[:, None]).read_text()
    assert "scikit-learn is not installed" in text
    assert "without access to the network" in text


def test_faces_and_quality_that_do_not_fit_are_refused(tmp_path, evaluation, faces):
    with pytest.raises(ConfigError, match="59 crops for 60"):
        write_report(tmp_path, evaluation, faces.pictures[1:, None])
    with pytest.raises(ConfigError, match="3 sharpness for 60"):
        write_report(tmp_path, evaluation, faces.pictures[:, None], quality={"sharpness": np.zeros(3)})


def test_confusion_is_written_as_a_picture(tmp_path, evaluation):
    save_confusion(evaluation, tmp_path / "confusion.png")
    assert min(Image.open(tmp_path / "confusion.png").size) > 400


# Grad-CAM


def test_grad_cam_is_the_weighted_map_of_the_deepest_stage_that_is_wide_enough(model):
    x = torch.randn(3, 1, 128, 128)
    classes = torch.tensor([0, 3, 7])
    heat = grad_cam(model, x, classes)
    feature_map = model.forward_features(x).detach().requires_grad_(True)  # [3,D,4,4]
    model.forward_head(feature_map)[torch.arange(3), classes].sum().backward()
    expected = torch.relu((feature_map.grad.mean((2, 3), keepdim=True) * feature_map).sum(1, keepdim=True)).detach()
    expected = torch.nn.functional.interpolate(expected, size=(128, 128), mode="bilinear")[:, 0]
    expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-12)
    np.testing.assert_allclose(heat, expected.numpy(), atol=1e-4)


def test_grad_cam_of_small_faces_still_tells_places_apart_under_inference_mode(model):
    with torch.inference_mode():
        heat = grad_cam(model, torch.randn(2, 1, SIDE, SIDE), torch.tensor([1, 2]))
    assert heat.shape == (2, SIDE, SIDE)
    assert heat.min() >= 0
    assert heat.max() <= 1
    assert heat.std((1, 2)).max() > 0.05
    assert not any(module._forward_hooks for module in model.modules())


def test_overlay_leaves_the_face_where_there_is_no_heat():
    face = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    heat = np.zeros((8, 8))
    heat[0, 0] = 1
    shown = overlay(face, heat)
    assert shown.shape == (8, 8, 3)
    np.testing.assert_array_equal(shown[1:, :, 1], face[0, 1:])
    assert shown[0, 0].max() > 100


def test_page_shows_the_card_s_metrics_and_people_who_talk_beside_the_others(tmp_path, evaluation, faces):
    own = {"n": 1808, "split": "report", "accuracy": 0.8213, "reweighted": {"accuracy": 0.8021}}
    crops = faces.pictures[:, None]
    text = write_report(tmp_path, evaluation, crops, own=own, talking="5 faces of people who talk").read_text()
    assert re.search(r"<th>accuracy</th>.*<td class=\"n\">0\.8213</td>", text)
    assert "on 1,808 faces of the report part" in text
    assert "5 faces of people who talk." in text
    assert "in its card" not in write_report(tmp_path, evaluation, crops).read_text()
