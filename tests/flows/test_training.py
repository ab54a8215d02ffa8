"""The road from labelled faces to a model with figures, and to ONNX, with a tiny recipe on real faces."""

import dataclasses
import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from flows.cli.main import main
from flows.training import evaluate_model, export_onnx, train_model
from mfer.augment import Augmentation
from mfer.card import Architecture, CropContract, read_card
from mfer.checkpoint import load_model
from mfer.errors import ConfigError, ModelError
from mfer.recipe import Optimisation, Recipe
from tests.labelled import MADE_CLASSES, made_faces, write_parquet

torch.set_num_threads(1)

TINY = Recipe(
    "tiny",
    architecture=Architecture("mfer_atto", in_channels=1, ds="depthwise", stem="conv2", layer_scale=1.0),
    crop=CropContract(side_px=24),
    optimisation=Optimisation(epochs=4, batch_size=16, optimizer="adamw", learning_rate=1e-3, ema=0.9),
    augmentation=Augmentation(flip=0.0, rotate_deg=5.0, erase=0.0),
)
ONE_EPOCH = TINY.replace(epochs=1)
#: The same in a file.
RECIPE = """
[architecture]
name = "mfer_atto"
in_channels = 1
ds = "depthwise"
stem = "conv2"
layer_scale = 1.0
[crop]
side_px = 24
[optimisation]
epochs = 1
batch_size = 16
optimizer = "adamw"
learning_rate = 1e-3
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_parquet(folder / "train.parquet", made_faces(48, prefix="fer00"))  # called as FER+'s own
    write_parquet(folder / "valid.parquet", made_faces(32, seed=1, prefix="v"))
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    stages = []
    out = tmp_path_factory.mktemp("out") / "model"

    def note(stage, done, total):
        stages.append((stage, done, total))
        assert not (out / "card.json").exists()  # whoever finds a model finds a measured one

    card, _ = train_model(TINY, data, out, progress=note)
    return out, card, stages


def save_pictures(root, faces):
    for name, picture, k in zip(faces.names, faces.pictures, faces.majority, strict=True):
        place = root / faces.class_names[k]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / name)


# training


def test_trained_model_says_what_made_it_and_how_good_it_is(trained):
    out, card, _ = trained
    assert read_card(out) == card
    assert card.name == "mfer_atto.ferplus_v1"
    assert set(MADE_CLASSES) < set(card.class_names)  # FER+ has eight
    assert card.training["recipe"]["optimisation"]["epochs"] == 4
    assert card.training["recipe"]["architecture"]["n_classes"] == 8
    described = card.training["data"]
    assert described["n_train"] == 48
    assert described["n_selection"] + described["n_report"] == 32
    assert described["n_train_by_class"]["happiness"] == 12
    assert described["source"] == "FERPlus train"
    assert "FER+" in described["licence"]
    assert "FER+" in card.licence
    assert 0 <= described["landmarks_found"] <= 1
    assert len(card.training["epochs"]["loss"]) == 4
    assert card.training["versions"]["torch"].startswith("2")
    assert "code_revision" in card.training
    json.dumps(card.to_dict(), allow_nan=False)


def test_figures_are_those_of_the_saved_model_on_the_report_half(trained, data):
    out, card, _ = trained
    found = evaluate_model(out, data, "report")
    assert card.metrics["split"] == "report"
    assert card.metrics["n"] == len(found) == card.training["data"]["n_report"]
    for figure in ("accuracy", "mean_recall", "ece", "nll", "kl"):
        low, high = card.metrics["intervals"][figure]
        value = card.metrics[figure]
        assert value == found.to_dict()[figure]
        assert low <= high
    assert card.metrics["accuracy"] > 0.6
    assert card.metrics["selection"]["n"] == card.training["data"]["n_selection"]
    assert card.metrics["temperature"] == card.temperature
    assert "report half" in card.metrics["protocol"]


def test_progress_goes_through_every_stage(trained):
    stages = {stage.partition(":")[0] for stage, _, _ in trained[2]}
    assert stages == {"find faces", "train", "evaluate"}
    assert max(done for stage, done, _ in trained[2] if stage.startswith("train")) == 12
    assert all(0 < done <= total for _, done, total in trained[2])


def test_same_command_again_makes_no_step_and_the_same_model(trained, data):
    out, card, _ = trained
    stages = []
    again, _ = train_model(TINY, data, out, progress=lambda stage, done, total: stages.append(stage))
    assert again == card
    assert not any(stage.startswith(("train", "find faces")) for stage in stages)


def test_refreshed_model_starts_from_its_parent_and_names_it(trained, data, tmp_path):
    out, parent, _ = trained
    gentle = TINY.replace(epochs=1, learning_rate=1e-6, ema=0.0)
    card, _ = train_model(gentle, data, tmp_path, initial=out, name="mfer_atto.mine_v2")
    assert (card.name, card.parent, card.class_names) == ("mfer_atto.mine_v2", parent.model_id, parent.class_names)
    (before, _), (after, _) = load_model(out), load_model(tmp_path)
    name = "classifier.heads.0.0.weight"
    torch.testing.assert_close(after.state_dict()[name], before.state_dict()[name], rtol=0.02, atol=1e-3)


def test_what_a_person_should_know_is_said_before_the_training(trained, data, tmp_path):
    out, _, _ = trained
    shutil.copytree(out, tmp_path / "mirrored")
    card = json.loads((out / "card.json").read_text())
    card["architecture"]["mirror"] = True
    (tmp_path / "mirrored" / "card.json").write_text(json.dumps(card))
    notes = []
    train_model(ONE_EPOCH, data, tmp_path / "out", initial=tmp_path / "mirrored", tell=notes.append)
    assert len(notes) == 2
    assert "averages each face with its mirror image" in notes[0]
    assert notes[1].startswith("48 faces are few to learn from")


def test_the_command_ends_with_the_table_of_evaluate(trained, data, tmp_path):
    out, _, _ = trained
    (tmp_path / "tiny.toml").write_text(RECIPE)
    words = ["--recipe", tmp_path / "tiny.toml", "--data", data, "--out", tmp_path / "out", "--initial", out]
    done = CliRunner().invoke(main, ["train", *map(str, words)])
    assert done.exit_code == 0, done.output
    assert evaluate_model(tmp_path / "out", data, "report").table() in done.stdout
    assert "48 faces are few" in done.stderr


def test_parent_of_another_shape_is_refused_with_what_differs(trained, data, tmp_path):
    other = dataclasses.replace(TINY, architecture=dataclasses.replace(TINY.architecture, ds="none"))
    with pytest.raises(ConfigError, match=r"cannot start this recipe: it has ds 'depthwise' \(recipe: 'none'\)"):
        train_model(other, data, tmp_path, initial=trained[0])


def test_single_parquet_holds_a_tenth_out_and_says_so(tmp_path):
    path = write_parquet(tmp_path / "faces.parquet", made_faces(80))
    card, _ = train_model(ONE_EPOCH, path, tmp_path / "out")
    described = card.training["data"]
    assert described["n_train"] + described["n_selection"] + described["n_report"] == 80
    assert 64 <= described["n_train"] <= 77
    assert "a tenth" in described["parts"]
    assert "a tenth" in card.metrics["protocol"]


def test_plain_folders_are_one_part_and_faces_of_other_classes_are_left_out_and_counted(tmp_path):
    faces = made_faces(120)
    save_pictures(tmp_path / "my faces", faces.take(faces.majority < 3))
    card, _ = train_model(ONE_EPOCH, tmp_path / "my faces", tmp_path / "out")
    assert set(card.class_names) == set(MADE_CLASSES[:3])
    assert card.name == "mfer_atto.my_v1"
    assert "a tenth" in card.training["data"]["parts"]
    save_pictures(tmp_path / "others", faces.take(slice(0, 16)))
    found = evaluate_model(tmp_path / "out", tmp_path / "others", "all")
    assert len(found) == 12
    assert found.dropped == {f"{MADE_CLASSES[3]}, not a class of the model": 4}
    assert "rater" not in found.table()  # one label a face, whoever gave it
    assert "label" in found.table()


@pytest.mark.full
def test_same_names_for_other_pictures_are_no_overlap(tmp_path):
    for part, seed in (("train", 0), ("valid", 1)):
        save_pictures(tmp_path / "set" / part, made_faces(32, seed=seed))
    card, _ = train_model(ONE_EPOCH, tmp_path / "set", tmp_path / "out")
    assert card.training["data"]["n_train"] == 32
    assert card.name == "mfer_atto.set_v1"


def test_faces_in_both_parts_are_refused_and_counted(tmp_path):
    train, valid = made_faces(32), made_faces(32, seed=1, prefix="v")
    leaked = dataclasses.replace(
        valid,
        names=[*train.names[:3], *valid.names[3:]],
        pictures=np.concatenate([train.pictures[:3], valid.pictures[3:]]),
    )
    write_parquet(tmp_path / "train.parquet", train)
    write_parquet(tmp_path / "valid.parquet", leaked)
    with pytest.raises(ConfigError, match=r"3 faces are in both .* \(the first: face00000\.png\); take them out"):
        train_model(TINY, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_equal_pictures_under_other_names_are_told_and_counted(tmp_path):
    train, valid = made_faces(32), made_faces(32, seed=1, prefix="v")
    leaked = dataclasses.replace(valid, pictures=np.concatenate([train.pictures[:3], valid.pictures[3:]]))
    write_parquet(tmp_path / "train.parquet", train)
    write_parquet(tmp_path / "valid.parquet", leaked)
    notes = []
    card, _ = train_model(ONE_EPOCH, tmp_path, tmp_path / "out", tell=notes.append)
    assert card.training["data"]["n_seen_in_training"] == 3
    assert notes[1].startswith("3 of the 32 faces to select and to report on are also learned")


def save_nobody(folder, n):
    """Larger pictures without a face, which are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        noise = np.random.default_rng(i).integers(0, 255, (150, 200), np.uint8)
        Image.fromarray(noise).save(folder / f"nobody{i}.png")


def test_the_card_counts_what_was_learned_and_measured(tmp_path):
    for part, seed in (("train", 0), ("valid", 1)):
        save_pictures(tmp_path / "set" / part, made_faces(32, seed=seed, prefix=part))
    save_nobody(tmp_path / "set" / "train" / MADE_CLASSES[1], 5)
    save_nobody(tmp_path / "set" / "valid" / MADE_CLASSES[0], 2)
    notes = []
    card, found = train_model(ONE_EPOCH, tmp_path / "set", tmp_path / "out", tell=notes.append)
    described = card.training["data"]
    assert described["n_train"] == 32
    assert described["n_train_by_class"] == dict.fromkeys(card.class_names, 8)
    assert card.class_shares().tolist() == [0.25] * 4
    assert described["dropped"] == {"no face found in the picture": 7}
    assert described["n_selection"] + described["n_report"] == 32
    assert described["n_selection"] == card.metrics["selection"]["n"]
    assert described["n_report"] == card.metrics["n"] == len(found)
    assert notes[0].startswith(f"32 faces are few to learn from, and {len(found)} few to measure with")


def test_a_part_whose_pictures_show_nobody_is_refused_before_training(tmp_path):
    save_pictures(tmp_path / "set" / "train", made_faces(16))
    save_nobody(tmp_path / "set" / "valid" / MADE_CLASSES[0], 8)
    stages = []
    with pytest.raises(ConfigError, match="leaves 16 faces to train, 0 to select and 0 to report on"):
        train_model(TINY, tmp_path / "set", tmp_path / "out", progress=lambda stage, *_: stages.append(stage))
    assert not any(stage.startswith("train") for stage in stages)


def test_places_for_results_that_are_files_are_refused_at_once(trained, data, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "deep"):
        stages = []
        with pytest.raises(ConfigError, match=r"file is a file; give the name of a folder"):
            train_model(TINY, data, place, progress=lambda stage, *_, seen=stages: seen.append(stage))
        with pytest.raises(ConfigError, match=r"file is a file; give the name of a folder"):
            evaluate_model(trained[0], data, "all", report=place, progress=lambda *_, seen=stages: seen.append("score"))
        assert not stages


@pytest.mark.full
def test_landmarks_of_unlabelled_faces_are_not_counted(trained, data, tmp_path):
    out, card, _ = trained
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for i in range(8):  # black: no landmarks
        Image.fromarray(np.zeros((48, 48), np.uint8)).save(folder / f"{i}.png")
    taught, _ = train_model(ONE_EPOCH, data, tmp_path / "out", teachers=[out], unlabelled=folder)
    assert taught.training["n_unlabelled"] == 8
    assert taught.training["data"]["landmarks_found"] == card.training["data"]["landmarks_found"]


def test_a_run_that_began_with_another_model_is_refused(trained, data, tmp_path):
    out, parent, _ = trained
    train_model(ONE_EPOCH, data, tmp_path / "out", initial=out)
    with pytest.raises(ConfigError, match=rf"began with {parent.model_id}, this run with no model"):
        train_model(ONE_EPOCH, data, tmp_path / "out")


def test_training_starts_from_a_model_of_the_lake(trained, data, tmp_path):
    out, parent, _ = trained
    lake = str(tmp_path / "lake")
    assert CliRunner().invoke(main, ["models", "promote", str(out), "--lake", lake]).exit_code == 0
    (tmp_path / "tiny.toml").write_text(RECIPE)
    words = ["train", "--recipe", tmp_path / "tiny.toml", "--data", data, "--out", tmp_path / "out", "--lake", lake]
    done = CliRunner().invoke(main, [*map(str, words), "--initial", "default", "--teacher", parent.name])
    assert done.exit_code == 0, done.output
    card = read_card(tmp_path / "out")
    assert card.parent == parent.model_id
    assert card.training["recipe"]["distillation"]["teachers"] == [parent.model_id]


@pytest.mark.parametrize("present", ["train", "valid"])
def test_folder_with_one_part_alone_is_refused_with_what_to_do(tmp_path, present):
    write_parquet(tmp_path / f"{present}.parquet", made_faces(8))
    with pytest.raises(ConfigError, match=rf"holds {present}\.parquet alone; .* name the one file itself"):
        train_model(TINY, tmp_path, tmp_path / "out")


def test_too_few_faces_and_a_bad_name_are_refused_before_training(tmp_path, data):
    path = write_parquet(tmp_path / "faces.parquet", made_faces(4))
    with pytest.raises(ConfigError, match="every part needs some"):
        train_model(TINY, path, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"model name 'my model'; use letters"):
        train_model(TINY, data, tmp_path / "out", name="my model")


# evaluation


def test_json_has_what_scripts_read(trained, data):
    found = json.loads(evaluate_model(trained[0], data / "valid.parquet", "all").to_json())
    assert {"accuracy", "mean_recall", "ece", "n"} <= set(found)
    assert found["n"] == 32
    assert found["model"] == trained[1].model_id


@pytest.mark.full
def test_report_is_a_page_with_evidence(trained, data, tmp_path):
    evaluate_model(trained[0], data, "all", report=tmp_path / "page")
    text = (tmp_path / "page" / "index.html").read_text()
    for title in ("Confusion", "Reliability", "sharpness", "eye distance in px", "turn of the head", "Grad-CAM"):
        assert title in text
    assert json.loads((tmp_path / "page" / "evaluation.json").read_text())["n"] == 32


def test_flip_averages_with_the_mirror_image_and_is_named(trained, data):
    plain, flipped = (evaluate_model(trained[0], data, "all", flip=flip) for flip in (False, True))
    assert "mirror" in flipped.title
    assert "mirror" not in plain.title
    assert np.abs(plain.features - flipped.features).max() > 1e-3
    np.testing.assert_allclose(flipped.prob.sum(1), 1)


def test_folder_without_a_model_is_refused(data, tmp_path):
    with pytest.raises(ModelError, match="holds no model"):
        evaluate_model(tmp_path, data, "all")


# export


def test_onnx_gives_the_probabilities_of_the_model_for_any_number_of_faces(trained, tmp_path):
    out, card, _ = trained
    path = tmp_path / "deep" / "model.onnx"
    assert export_onnx(out, path) <= 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["model_id"] == card.model_id
    assert tuple(json.loads(facts["class_names"])) == card.class_names
    assert CropContract.from_dict(json.loads(facts["crop"])) == card.crop
    model, _ = load_model(out)
    x = torch.randn(5, 1, 24, 24)
    (prob,) = session.run(None, {"faces": x.numpy()})
    with torch.no_grad():
        expected = torch.softmax(model(x) / card.temperature, 1)
    np.testing.assert_allclose(prob, expected.numpy(), atol=1e-5)
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
