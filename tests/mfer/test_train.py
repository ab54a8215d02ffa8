"""Training runs of a tiny network on cuts of two real photographs."""

import dataclasses
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from mfer.augment import Augmentation
from mfer.card import Architecture, CropContract
from mfer.errors import ConfigError
from mfer.metrics import fit_temperature
from mfer.recipe import Optimisation, Recipe
from mfer.train import Trainer, predict_logits
from tests.labelled import MADE_CLASSES, prepared_faces

torch.set_num_threads(1)

TINY = Recipe(
    "tiny",
    architecture=Architecture("mfer_atto", in_channels=1, ds="depthwise", stem="conv2", layer_scale=1.0),
    crop=CropContract(side_px=24),
    optimisation=Optimisation(
        epochs=3, batch_size=16, optimizer="adamw", learning_rate=1e-3, ema=0.9, label_smoothing=0.0
    ),
    augmentation=Augmentation(flip=0.0, rotate_deg=5.0, erase=0.0, mixup=0.1),
)


def train(folder, recipe=TINY, progress=None, n=48, save_every_s=1e9, **options):
    trainer = Trainer(recipe, prepared_faces(n), prepared_faces(24, seed=1), folder, **options)
    return trainer.run(progress, save_every_s)


def weights(trained):
    return trained.model.state_dict()


def assert_equal_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


class Break(Exception):  # noqa: N818
    pass


def break_at(step):
    def progress(done, total, loss):
        if done == step:
            raise Break

    return progress


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, train(folder)


def test_faces_are_learned(tmp_path):
    losses = []
    recipe = TINY.replace(epochs=4, feature_loss="none")
    trained = train(tmp_path, recipe, lambda done, total, loss: losses.append(loss), n=96)
    chance = 3 * np.log(len(MADE_CLASSES))  # three heads
    assert losses[0] > 0.7 * chance
    assert trained.reports[-1].loss < 0.5 * chance
    unseen = prepared_faces(40, seed=2)
    logits = predict_logits(trained.model, unseen.crops(recipe.crop), recipe.crop)
    assert (logits.argmax(1) == unseen.faces.majority).mean() > 0.9
    assert trained.reports[trained.epoch].accuracy == max(r.accuracy for r in trained.reports)
    assert 0.04 < trained.temperature < 21


def test_the_temperature_is_for_sharp_faces_and_for_such_as_the_recipe_shows(tmp_path):
    faces, valid = prepared_faces(48), prepared_faces(24, seed=1)
    for blur in (0.0, 1.0):
        settings = dataclasses.replace(TINY.augmentation, blur=blur, low_resolution=0.0)
        recipe = dataclasses.replace(TINY, augmentation=settings).replace(epochs=1)
        trained = Trainer(recipe, faces, valid, tmp_path / str(blur)).run()
        logits = predict_logits(trained.model, valid.crops(recipe.crop), recipe.crop)
        of_sharp = fit_temperature(logits, valid.faces.majority)
        assert (trained.temperature == pytest.approx(of_sharp, rel=1e-6)) == (blur == 0)


def test_logit_adjustment_leaves_the_shares_of_the_classes_out(tmp_path):
    faces = prepared_faces(80)
    rare = faces.faces.majority == 3
    faces = faces.take(~rare | (np.cumsum(rare) <= 5))  # 20, 20, 20 and 5
    faces.pictures[:] = 128  # nothing to see: all that can be learned is how likely each class is
    blank = prepared_faces(8, seed=1)
    blank.pictures[:] = 128
    lead = {}
    for power in (0.0, 1.0):
        one_head = dataclasses.replace(TINY.architecture, multiscale=False)
        unchanged = Augmentation(brightness=0.0, gamma=0.0, noise=0.0)
        recipe = dataclasses.replace(TINY, architecture=one_head, augmentation=unchanged).replace(
            epochs=10, feature_loss="none", logit_adjustment=power
        )
        trained = Trainer(recipe, faces, blank, tmp_path / str(power)).run()
        logits = predict_logits(trained.model, blank.crops(recipe.crop), recipe.crop)
        lead[power] = float((logits[:, :3].mean(1) - logits[:, 3]).mean())
    assert lead[0.0] == pytest.approx(np.log(4), abs=0.4)
    assert lead[1.0] == pytest.approx(0, abs=0.4)


def test_only_neutral_faces_speak(tmp_path):
    faces = prepared_faces(48)
    for name, some in (("all", faces), ("not neutral", faces.take(faces.faces.majority != 0))):
        learned = []
        for share in (0.0, 1.0):
            recipe = dataclasses.replace(
                TINY.replace(epochs=1), augmentation=dataclasses.replace(TINY.augmentation, open_mouth=share)
            )
            trained = Trainer(recipe, some, prepared_faces(24, seed=1), tmp_path / f"{name} {share}").run()
            learned.append(torch.cat([value.flatten() for value in weights(trained).values()]))
        assert torch.equal(*learned) == (name == "not neutral")


def test_every_epoch_is_in_the_log(unbroken):
    folder, trained = unbroken
    lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    assert lines == [dataclasses.asdict(report) for report in trained.reports]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert {"loss", "accuracy", "mean_recall", "nll", "images_per_s"} <= lines[0].keys()


@pytest.mark.parametrize(
    "step",
    [2, pytest.param(3, marks=pytest.mark.full), pytest.param(8, marks=pytest.mark.full)],
    ids=["within an epoch", "at its end", "in the last"],
)
def test_broken_run_ends_with_the_weights_of_an_unbroken_one(tmp_path, unbroken, step):
    with pytest.raises(Break):
        train(tmp_path, progress=break_at(step), save_every_s=0)
    resumed = train(tmp_path)
    assert_equal_weights(weights(resumed), weights(unbroken[1]))
    assert resumed.temperature == unbroken[1].temperature
    assert [(r.epoch, r.loss, r.accuracy) for r in resumed.reports] == [
        (r.epoch, r.loss, r.accuracy) for r in unbroken[1].reports
    ]


@pytest.mark.full
def test_broken_run_with_drop_path_growing_faces_and_exponential_decay_does_too(tmp_path):
    recipe = TINY.replace(epochs=2, small_side_px=16, small_share=0.5, schedule="exponential")
    recipe = dataclasses.replace(
        recipe,
        architecture=dataclasses.replace(recipe.architecture, drop_path=0.3),
        augmentation=dataclasses.replace(recipe.augmentation, open_mouth=0.5),
    )
    whole = train(tmp_path / "whole", recipe)
    with pytest.raises(Break):
        train(tmp_path / "broken", recipe, break_at(5), save_every_s=0)
    assert_equal_weights(weights(train(tmp_path / "broken", recipe)), weights(whole))


@pytest.mark.full
def test_broken_run_with_muon_in_threads_does_too(tmp_path):
    recipe = TINY.replace(optimizer="muon", epochs=1, feature_loss="island")
    whole = train(tmp_path / "whole", recipe, n=32, threads=2)
    with pytest.raises(Break):
        train(tmp_path / "broken", recipe, break_at(2), n=32, save_every_s=0, threads=2)
    assert_equal_weights(weights(train(tmp_path / "broken", recipe, n=32, threads=2)), weights(whole))


def test_finished_run_started_again_gives_the_same_at_once(unbroken):
    folder, trained = unbroken
    again = train(folder, progress=lambda *_: pytest.fail("a step was made"))
    assert_equal_weights(weights(again), weights(trained))


CHILD = """
import os, signal, sys
from pathlib import Path
from tests.mfer.test_train import train
train(
    Path(sys.argv[1]),
    progress=lambda done, total, loss: done == 5 and os.kill(os.getpid(), signal.SIGKILL),
    save_every_s=0,
)
"""


@pytest.mark.full
def test_run_killed_with_sigkill_ends_with_the_weights_of_an_unbroken_one(tmp_path, unbroken, request):
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], cwd=request.config.rootpath, timeout=600)
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / "state.safetensors").exists()
    first = []
    resumed = train(tmp_path, progress=lambda done, total, loss: first.append(done))
    assert first[0] > 1
    assert_equal_weights(weights(resumed), weights(unbroken[1]))


def test_another_recipe_or_other_faces_in_the_same_folder_are_refused(unbroken):
    folder, _ = unbroken
    with pytest.raises(ConfigError, match="is of another recipe; give another folder, or delete it"):
        train(folder, TINY.replace(learning_rate=2e-3))
    with pytest.raises(ConfigError, match="is of other faces; give another folder, or delete it"):
        train(folder, n=52)


@pytest.mark.parametrize("changed", ["a vote", "a pixel", "a face to select on"])
def test_faces_that_differ_in_votes_or_pixels_alone_are_other_faces(unbroken, changed):
    folder, _ = unbroken
    learned, chosen = prepared_faces(48), prepared_faces(24, seed=1)
    side = chosen if changed == "a face to select on" else learned
    if changed == "a vote":
        side.faces.target[0] = 0.7, 0.1, 0.1, 0.1  # the majority is the same
    else:
        side.pictures[0, 0, 0, 0] += 1
    with pytest.raises(ConfigError, match="is of other faces; give another folder, or delete it"):
        Trainer(TINY, learned, chosen, folder).run()


def test_a_run_that_began_with_another_model_is_not_resumed(tmp_path, unbroken):
    initial = weights(unbroken[1])

    def run(initial, initial_id):
        faces = prepared_faces(48), prepared_faces(24, seed=1)
        return Trainer(TINY.replace(epochs=1), *faces, tmp_path, initial=initial, initial_id=initial_id).run()

    first = run(initial, "one@1")
    assert_equal_weights(weights(run(initial, "one@1")), weights(first))
    with pytest.raises(ConfigError, match="began with one@1, this run with two@2; give another folder, or delete it"):
        run(initial, "two@2")
    with pytest.raises(ConfigError, match="began with one@1, this run with no model"):
        run(None, None)


def test_a_gradient_norm_of_0_clips_nothing(tmp_path):
    ended = [weights(train(tmp_path / str(norm), TINY.replace(epochs=1, clip_norm=norm))) for norm in (0.0, 1e9, 0.1)]
    assert_equal_weights(*ended[:2])
    assert any(not torch.equal(ended[0][name], value) for name, value in ended[2].items())


def test_finished_run_may_be_measured_with_mirror_images_too(unbroken):
    folder, plain = unbroken
    changed = dataclasses.replace(TINY.architecture, mirror=True)
    mirrored = train(folder, dataclasses.replace(TINY, name="renamed", architecture=changed))
    assert_equal_weights(weights(mirrored), weights(plain))
    assert mirrored.model.mirror


def test_gradients_of_a_batch_in_threads_are_those_of_the_whole(tmp_path):
    faces = prepared_faces(48)
    found = []
    for threads in (1, 3):
        trainer = Trainer(TINY.replace(batch_size=14), faces, faces, tmp_path, threads=threads)
        found.append(trainer._gradients(trainer._batch(0)))
    (loss, grads), (sharded_loss, sharded) = found
    torch.testing.assert_close(sharded_loss, loss, rtol=1e-5, atol=1e-5)
    for whole, parts in zip(grads, sharded, strict=True):
        assert (parts - whole).norm() <= 0.1 * whole.norm() + 1e-5  # bfloat16 where the CPU has units for it


def test_training_goes_on_from_given_weights(tmp_path, unbroken):
    initial = weights(unbroken[1])
    trainer = Trainer(TINY, prepared_faces(48), prepared_faces(24, seed=1), tmp_path, initial=initial)
    assert_equal_weights(dict(trainer.model.state_dict()), dict(initial))
    with pytest.raises(RuntimeError, match="Missing key"):
        Trainer(TINY, prepared_faces(48), prepared_faces(24), tmp_path, initial={})


def test_a_finished_run_may_keep_a_share_of_its_first_weights(tmp_path, unbroken):
    initial = weights(unbroken[1])
    faces = prepared_faces(48), prepared_faces(24, seed=1)

    def ended(**changed):
        return Trainer(TINY.replace(epochs=1, **changed), *faces, tmp_path, initial=initial).run()

    learned = weights(ended())
    state = tmp_path / "state.safetensors"
    before = state.stat().st_mtime_ns
    mixed = weights(ended(keep_initial=0.25))
    assert state.stat().st_mtime_ns == before  # nothing was trained
    for name, value in mixed.items():
        torch.testing.assert_close(value, 0.75 * learned[name] + 0.25 * initial[name])
    with pytest.raises(ConfigError, match="keep_initial is for a training that begins with a model's weights"):
        Trainer(TINY.replace(keep_initial=0.25), *faces, tmp_path)
    with pytest.raises(ConfigError, match="keep_initial is 1; allowed: 0"):
        TINY.replace(keep_initial=1)


def test_faces_that_cannot_be_trained_on_are_refused(tmp_path):
    some = prepared_faces(8)
    other = dataclasses.replace(some, faces=some.faces.with_classes(("happiness", "neutral", "surprise", "sadness")))
    with pytest.raises(ConfigError, match=r"training classes .* are not"):
        Trainer(TINY, some, other, tmp_path)
    with pytest.raises(ConfigError, match="8 faces to train and 0 to select on; too few"):
        Trainer(TINY, some, some.take(slice(0, 0)), tmp_path)


def test_diverging_run_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"the loss is (nan|inf) at step \d+; lower learning_rate"):
        train(tmp_path, TINY.replace(learning_rate=1e30))
