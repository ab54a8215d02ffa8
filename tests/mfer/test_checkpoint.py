"""Models on disk: what is stored comes back, and what is damaged or strange is refused in words."""

import copy
import hashlib
import json
import pickle

import pytest
import safetensors.torch
import torch

from mfer.card import CARD_FILE, WEIGHTS_FILE, Architecture, Card, CropContract, packaged_models, read_card
from mfer.checkpoint import load_model, save_model
from mfer.classes import EXPRESSIONS
from mfer.errors import ModelError
from mfer.network import MFER

torch.set_num_threads(1)

ARCHITECTURE = Architecture("mfer_atto", in_channels=1, ds="depthwise", stem="conv2", layer_scale=1.0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MFER(ARCHITECTURE).eval()


@pytest.fixture
def folder(tmp_path, model):
    crop = CropContract(side_px=32)
    training, metrics = {"data": {"source": "made"}}, {"accuracy": 0.5}
    card = Card("mfer_atto.made_v1", EXPRESSIONS, ARCHITECTURE, crop, 1.5, "", training, metrics, "free")
    save_model(tmp_path / "model", model, card)
    return tmp_path / "model"


def change_card(folder, **values):
    path = folder / CARD_FILE
    card = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in card.items() if v is not ...}))


def test_loaded_model_gives_the_same_probabilities_to_the_accuracy_of_int8(folder, model):
    loaded, card = load_model(folder)
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prob, expected = (torch.softmax(m(x) / card.temperature, 1) for m in (loaded, model))
    torch.testing.assert_close(prob, expected, rtol=0, atol=2e-3)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_second_saving_changes_nothing(folder, tmp_path):
    loaded, card = load_model(folder)
    again = save_model(tmp_path / "again", loaded, card)
    assert again == card
    assert (tmp_path / "again" / WEIGHTS_FILE).read_bytes() == (folder / WEIGHTS_FILE).read_bytes()
    assert (tmp_path / "again" / CARD_FILE).read_bytes() == (folder / CARD_FILE).read_bytes()


def test_card_comes_back_whole_and_its_id_names_the_weights(folder):
    card = read_card(folder)
    assert card.class_names == EXPRESSIONS
    assert (card.architecture, card.crop, card.temperature) == (ARCHITECTURE, CropContract(side_px=32), 1.5)
    assert (card.training, card.metrics, card.licence) == ({"data": {"source": "made"}}, {"accuracy": 0.5}, "free")
    assert card.model_id == f"mfer_atto.made_v1@{card.weights_sha256[:12]}"
    assert len(card.weights_sha256) == 64


def test_most_weights_take_a_byte(folder, model):
    n = sum(p.numel() for p in model.parameters())
    assert n < (folder / WEIGHTS_FILE).stat().st_size < 1.4 * n


def test_rounding_is_by_output_channel_and_keeps_channels_without_weights(tmp_path, folder, model):
    changed = copy.deepcopy(model)
    weight = changed.stages[3].blocks[0].mlp.fc1.weight.data
    weight[0], weight[1], weight[2] = 0, weight[1] * 1e-9, weight[2] * 1e9
    save_model(tmp_path / "changed", changed, read_card(folder))
    loaded = load_model(tmp_path / "changed")[0].stages[3].blocks[0].mlp.fc1.weight.data
    torch.testing.assert_close(loaded[0], torch.zeros_like(loaded[0]))
    steps = weight[1:].abs().amax(1, keepdim=True) / 127
    assert ((loaded[1:] - weight[1:]).abs() <= 0.7 * steps).all()


def test_files_of_float16_alone_are_read(folder, model):
    state = {name: value.half() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / WEIGHTS_FILE)
    change_card(folder, weights_sha256=hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest())
    for name, value in load_model(folder)[0].state_dict().items():
        torch.testing.assert_close(value, state[name].float(), rtol=0, atol=0)


def test_damaged_weights_are_refused(folder):
    path = folder / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"weights\.safetensors is damaged or not the model of its card.*restore"):
        load_model(folder)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="is damaged"):
        load_model(folder)


def test_weights_of_another_shape_are_refused_even_with_the_right_hash(folder):
    other = {**ARCHITECTURE.to_dict(), "ds": "none"}
    change_card(folder, architecture=other)
    with pytest.raises(ModelError, match="does not fit its card"):
        load_model(folder)


def test_pickle_is_never_read(folder):
    class Harm:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was read",))

    content = pickle.dumps(Harm())
    (folder / WEIGHTS_FILE).write_bytes(content)
    change_card(folder, weights_sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(ModelError, match="does not fit its card"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changed", "output"),
    [
        ({"card_version": 99}, "model card version 99; this version reads 1: update mfer"),
        ({"card_version": ...}, "model card version None"),
        ({"class_names": [*EXPRESSIONS[:7], "boredom"]}, "boredom.*allowed, each once: neutral"),
        ({"class_names": ["neutral"] * 8}, "each once"),
        ({"class_names": ...}, "model classes None; allowed, each once: neutral"),
        ({"class_names": list(EXPRESSIONS[:7])}, "7 classes for 8 logits"),
        ({"temperature": 0}, "temperature 0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": "warm"}, "does not fit this version"),
        ({"licence": ...}, "does not fit this version: 'licence'"),
        ({"crop": {"margin": 3}}, "does not know the crop settings"),
        ({"architecture": {"name": "resnet"}}, "allowed: mfer_base"),
    ],
    ids=str,
)
def test_card_that_does_not_fit_is_refused(folder, changed, output):
    change_card(folder, **changed)
    with pytest.raises(ModelError, match=output):
        load_model(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_card_that_is_no_card_is_refused(folder, content):
    (folder / CARD_FILE).write_text(content)
    with pytest.raises(ModelError, match=r"cannot be read|one JSON object"):
        read_card(folder)


def test_missing_files_are_named(folder, tmp_path):
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors cannot be read"):
        load_model(folder)
    with pytest.raises(ModelError, match=r"nowhere holds no model: card\.json is missing"):
        load_model(tmp_path / "nowhere")


def test_every_packaged_model_loads():
    for name, folder in packaged_models().items():
        model, card = load_model(folder)
        assert card.name == name
        assert sum(f.stat().st_size for f in folder.iterdir()) <= 24e6
        assert model.architecture.n_classes == len(card.class_names)
