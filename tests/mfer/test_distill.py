"""Distillation: teachers' predictions for fixed views, kept between runs, and a student that learns from it."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from mfer.augment import Augmentation
from mfer.card import Card
from mfer.checkpoint import load_model, save_model
from mfer.crop import align_matrix, normalise, warp_faces
from mfer.distill import Views, predict_views
from mfer.errors import ConfigError
from mfer.network import ExpressionNetwork
from mfer.recipe import Distillation
from mfer.train import Trainer, predict_logits
from tests.labelled import MADE_CLASSES, prepared_faces
from tests.mfer.test_train import TINY, Break, assert_equal_weights, break_at, weights

torch.set_num_threads(1)

#: Nothing that changes pixels at random.
TURNED = Augmentation(noise=0.0, blur=0.0, low_resolution=0.0, erase=0.0, gamma=0.0, contrast=0.0, brightness=0.0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model that knows the made classes."""
    folder = tmp_path_factory.mktemp("teacher")
    recipe = TINY.replace(epochs=6, feature_loss="none", seed=5)
    trained = Trainer(recipe, prepared_faces(96), prepared_faces(24, seed=1), folder / "run").run()
    architecture = dataclasses.replace(recipe.architecture, n_classes=len(MADE_CLASSES), mirror=True)
    card = Card("mfer_atto.made_v1", MADE_CLASSES, architecture, recipe.crop, 0.8, "")
    save_model(folder / "model", trained.model, card)
    return folder / "model"


def ask(teacher, cache, n=40, augmentation=TURNED, n_views=3, labelled=None):
    labelled = np.ones(n, bool) if labelled is None else labelled
    return predict_views([teacher], prepared_faces(n), labelled, Views(augmentation, n_views, n), cache)


def test_the_word_is_what_the_teacher_says_of_the_view(teacher, tmp_path):
    predictions = ask(teacher, tmp_path)
    network, card = load_model(teacher)
    network.mirror = False
    faces, rows, view = prepared_faces(40), np.array([3, 17, 39]), np.array([0, 2, 1])
    drawn = predictions.views.of(rows, view)
    matrix = drawn.of_matrix(align_matrix(faces.landmarks_px[rows], card.crop), card.crop)
    with torch.inference_mode():
        logits = network(normalise(warp_faces(faces.pictures, rows, matrix, card.crop), card.crop))
    expected = torch.softmax(logits / card.temperature, 1).numpy()
    np.testing.assert_allclose(predictions.probabilities(rows, view), expected, atol=2e-3)
    soft = predictions.probabilities(rows, view, temperature=4.0)
    assert (soft.max(1) < predictions.probabilities(rows, view).max(1)).all()
    assert np.allclose(soft.sum(1), 1)


def test_answers_are_kept_and_a_killed_run_goes_on(teacher, tmp_path, monkeypatch):
    first = ask(teacher, tmp_path)
    (kept,) = tmp_path.glob("*.npy")
    stored = np.load(kept)
    stored[1, 5:] = np.nan
    np.save(kept, stored)
    query = []
    read = ExpressionNetwork.forward
    monkeypatch.setattr(ExpressionNetwork, "forward", lambda self, x: query.append(len(x)) or read(self, x))
    again = ask(teacher, tmp_path)
    np.testing.assert_array_equal(again.log_prob, first.log_prob)
    assert sum(query) == 40  # the one batch of one view that was not complete
    ask(teacher, tmp_path)
    assert sum(query) == 40
    ask(teacher, tmp_path, augmentation=dataclasses.replace(TURNED, shift=0.0))
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_the_teacher_sees_sharp_what_the_student_sees_blurred(teacher, tmp_path):
    first = ask(teacher, tmp_path)
    unsharp = ask(teacher, tmp_path, augmentation=dataclasses.replace(TURNED, blur=1.0, low_resolution=1.0))
    np.testing.assert_array_equal(unsharp.log_prob, first.log_prob)
    assert (unsharp.views.of(np.arange(40), 0).blur > 0).all()
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_two_teachers_are_averaged(teacher, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    network, card = load_model(other)
    for p in network.classifier.parameters():
        p.data.mul_(0.5)
    save_model(other, network, card)
    faces, views = prepared_faces(20), Views(TURNED, 2, 20)
    one, two, both = (
        predict_views(folders, faces, np.ones(20, bool), views, tmp_path)
        for folders in ([teacher], [other], [teacher, other])
    )
    rows, view = np.arange(20), np.zeros(20, int)
    mean = (one.probabilities(rows, view) + two.probabilities(rows, view)) / 2
    np.testing.assert_allclose(both.probabilities(rows, view), mean, atol=2e-3)


def test_what_a_teacher_left_out_of_its_logits_is_added_again(teacher, tmp_path):
    adjusted = tmp_path / "adjusted"
    network, card = load_model(teacher)
    training = {
        "recipe": {"optimisation": {"logit_adjustment": 0.5}},
        "data": {"n_train_by_class": dict(zip(MADE_CLASSES, (60, 30, 9, 1), strict=True))},
    }
    save_model(adjusted, network, dataclasses.replace(card, training=training))
    rows, view = np.arange(40), np.zeros(40, int)
    plain, word = (ask(folder, tmp_path).probabilities(rows, view) for folder in (teacher, adjusted))
    expected = plain * np.sqrt([0.6, 0.3, 0.09, 0.01])
    np.testing.assert_allclose(word, expected / expected.sum(1, keepdims=True), atol=2e-3)


def test_a_teacher_of_other_classes_is_refused(teacher, tmp_path):
    faces = prepared_faces(20)
    faces = faces.take(faces.faces.majority < 2).with_classes(MADE_CLASSES[:2])
    n = len(faces)
    with pytest.raises(ConfigError, match="train the teacher on the same classes"):
        predict_views([teacher], faces, np.ones(n, bool), Views(TURNED, 1, n), tmp_path)
    with pytest.raises(ConfigError, match="has no teachers"):
        predict_views([], faces, np.ones(n, bool), Views(TURNED, 1, n), tmp_path)


def student(teacher, folder, labelled, progress=None, epochs=2, save_every_s=1e9):
    recipe = TINY.replace(epochs=epochs, feature_loss="none")
    how = Distillation(("teacher",), weight=0.8, temperature=2.0, views=3)
    recipe = dataclasses.replace(recipe, distillation=how, augmentation=dataclasses.replace(TURNED, mixup=0.1))
    faces = prepared_faces(len(labelled))
    predictions = predict_views(
        [teacher], faces, labelled, Views(recipe.augmentation, how.views, len(labelled)), folder / "cache"
    )
    wrong = faces.faces.target[:, ::-1].copy()  # of a face without a label the votes mean nothing
    unknown = np.where(labelled[:, None], faces.faces.target, wrong)
    faces = dataclasses.replace(faces, faces=dataclasses.replace(faces.faces, target=unknown))
    return Trainer(recipe, faces, prepared_faces(24, seed=1), folder / "run", predictions=predictions).run(
        progress, save_every_s
    )


def test_a_student_learns_faces_without_labels_from_the_teacher_s_predictions(teacher, tmp_path):
    trained = student(teacher, tmp_path, np.zeros(96, bool), epochs=6)
    unseen = prepared_faces(40, seed=2)
    logits = predict_logits(trained.model, unseen.crops(TINY.crop), TINY.crop)
    assert (logits.argmax(1) == unseen.faces.majority).mean() > 0.9


def test_a_killed_student_ends_with_the_same_weights(teacher, tmp_path):
    labelled = np.arange(48) % 2 == 0
    whole = student(teacher, tmp_path / "whole", labelled)
    with pytest.raises(Break):
        student(teacher, tmp_path / "killed", labelled, break_at(4), save_every_s=0.0)
    assert_equal_weights(weights(whole), weights(student(teacher, tmp_path / "killed", labelled)))


def test_faces_after_those_of_the_teacher_are_learned_from_their_votes(teacher, tmp_path):
    faces = prepared_faces(192)
    by_teacher, by_votes = (faces.take(rows) for rows in (faces.faces.majority < 2, faces.faces.majority >= 2))
    n = len(by_teacher)
    views = Views(TURNED, 2, n)
    predictions = predict_views([teacher], by_teacher, np.zeros(n, bool), views, tmp_path / "cache")
    recipe = dataclasses.replace(TINY.replace(epochs=6, feature_loss="none"), augmentation=TURNED)
    both = by_teacher.joined(by_votes)
    trained = Trainer(recipe, both, prepared_faces(24, seed=1), tmp_path / "run", predictions=predictions).run()
    unseen = prepared_faces(80, seed=2)
    found = predict_logits(trained.model, unseen.crops(TINY.crop), TINY.crop).argmax(1)
    for side in (unseen.faces.majority < 2, unseen.faces.majority >= 2):
        assert (found[side] == unseen.faces.majority[side]).mean() > 0.8
    with pytest.raises(ConfigError, match="the teachers saw"):
        Trainer(recipe, by_teacher.take(slice(1, None)), by_votes, tmp_path / "few", predictions=predictions)
