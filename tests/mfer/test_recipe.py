"""Recipes: the shipped ones load, mistakes are named, and what was loaded can be stored and read again."""

import json
import tomllib
from importlib import resources

import pytest
import torch

from mfer.build import build_network
from mfer.card import CropContract
from mfer.errors import ConfigError
from mfer.recipe import Recipe, recipe_names


def write(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_the_recipes_that_the_documentation_names_are_there():
    assert {"affectnet", "ferplus_cpu", "ferplus_gpu", "paper_base", "rafdb"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_loads_and_says_what_it_is(name):
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.description
    with torch.device("meta"):
        model = build_network(recipe.architecture)
    assert model.architecture.in_channels == recipe.crop.channels


@pytest.mark.parametrize("name", recipe_names())
def test_every_setting_of_a_shipped_file_is_in_the_recipe(name):
    values = tomllib.loads((resources.files("mfer") / "recipes" / f"{name}.toml").read_text())
    stored = Recipe.load(name).to_dict()
    for section in ("architecture", "crop", "optimisation", "augmentation", "distillation"):
        for key, value in values.get(section, {}).items():
            assert stored[section][key] == (tuple(value) if isinstance(value, list) else value), key


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_stored_in_a_card_reads_back_equal(name):
    recipe = Recipe.load(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_published_settings_are_the_published_ones():
    recipe = Recipe.load("paper_base")
    opt = recipe.optimisation
    assert (recipe.architecture.name, recipe.architecture.ds, recipe.architecture.drop_path) == (
        "mfer_base",
        "dense",
        0.25,
    )
    assert (recipe.crop.side_px, recipe.crop.colour, recipe.crop.template) == (224, "rgb", "face_evolve")
    assert (opt.optimizer, opt.learning_rate, opt.schedule, opt.decay) == ("adamw", 1e-3, "exponential", 0.95)
    assert (opt.epochs, opt.batch_size, opt.label_smoothing, opt.soft_targets) == (100, 32, 0.1, False)


def test_recipe_file_is_named_after_itself_and_defaults_fill_the_rest(tmp_path):
    recipe = Recipe.load(
        write(tmp_path, "[architecture]\nin_channels = 1\n[optimisation]\nepochs = 3\nbetas = [0.8, 0.9]\n")
    )
    assert recipe.name == "mine"
    assert recipe.optimisation.epochs == 3
    assert recipe.optimisation.betas == (0.8, 0.9)
    assert recipe.crop == CropContract()


def test_options_replace_settings_and_none_leaves_them():
    recipe = Recipe.load("ferplus_cpu")
    changed = recipe.replace(epochs=2, seed=7, batch_size=None)
    assert (changed.optimisation.epochs, changed.optimisation.seed) == (2, 7)
    assert changed.optimisation.batch_size == recipe.optimisation.batch_size
    assert changed.augmentation == recipe.augmentation


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("[optimisation]\nepoch = 3", r"\[optimisation\] has unknown settings \['epoch'\]; known: .*'epochs'"),
        ("[optimization]\nepochs = 3", r"unknown recipe sections \['optimization'\]; known: .*'optimisation'"),
        ("[optimisation]\nepochs = 'ten'", r"\[optimisation\] epochs is 'ten'; expected a whole number"),
        ("[optimisation]\nepochs = 2.5", r"epochs is 2.5; expected a whole number"),
        ("[optimisation]\nepochs = 0", r"optimisation epochs is 0; allowed: 1 or more"),
        ("[optimisation]\noptimizer = 'sgd'", r"optimizer is 'sgd'; allowed: adamw, muon"),
        ("[optimisation]\nlogit_adjustment = 2.0", r"logit_adjustment is 2.0; allowed: 0 to 1"),
        ("[optimisation]\nsoft_targets = 1", r"soft_targets is 1; expected true or false"),
        ("crop = 48", r"crop is 48; expected a section \[crop\]"),
        ("[crop]\nside_px = 8", r"side_px is 8; allowed: 16 to 512"),
        ("[crop]\ncolour = 'rgb'\n[architecture]\nin_channels = 1", r"in_channels must be 1 for grey and 3 for rgb"),
        ("[optimisation]\nseed = -1", r"optimisation seed is -1; allowed: 0 to 4294967295"),
        ("[optimisation]\nlearning_rate = nan", r"learning_rate is nan; allowed: above 0"),
        ("[optimisation]\nbetas = [0.9]", r"betas is \[0\.9\]; allowed: two numbers, each 0 to below 1"),
        ("[optimisation]\nbetas = [0.9, 1.0]", r"betas is \[0\.9, 1\.0\]; allowed: two numbers"),
        ("[optimisation]\nbetas = [0.9, 'x']", r"allowed: two numbers, each 0 to below 1"),
        ("[optimisation]\nlabel_smoothing = 2.0", r"label_smoothing is 2\.0; allowed: 0 to below 1"),
        ("[optimisation]\nclip_norm = -1.0", r"clip_norm is -1\.0; allowed: 0 or more"),
        ("[optimisation]\nweight_decay = -0.1", r"weight_decay is -0\.1; allowed: 0 or more"),
        ("[optimisation]\ndecay = 0.0", r"decay is 0\.0; allowed: above 0, up to 1"),
        ("[optimisation]\nema = 1.0", r"ema is 1\.0; allowed: 0 to below 1"),
        ("[optimisation]\nsmall_side_px = 8", r"optimisation small_side_px is 8; allowed: 16 to 512"),
        ("[augmentation]\nmixup = -1.0", r"augmentation mixup is -1\.0; allowed: 0 or more"),
        ("[augmentation]\nmixup = inf", r"mixup is inf; allowed: 0 or more"),
        ("[augmentation]\nnoise = nan", r"noise is nan; allowed: 0 to 1"),
        ("[augmentation]\ngamma = -0.3", r"gamma is -0\.3; allowed: 0 to 3"),
        ("[augmentation]\nflip = 1.5", r"flip is 1\.5; allowed: 0 to 1"),
        ("[architecture]\ndrop_path = 1.0", r"architecture drop_path is 1\.0; allowed: 0 to below 1"),
        ("[crop]\nstd = 0.0", r"crop std is 0\.0; allowed: above 0"),
        ("[crop]\nmean = nan", r"crop mean is nan; allowed: 0 to 1"),
        ("[distillation]\ntemperature = nan", r"distillation temperature is nan; allowed: above 0"),
        ("[distillation]\nteachers = [1]", r"teachers is \[1\]; allowed: names or folders of models"),
        ("[crop", r"mine\.toml: "),
    ],
)
def test_mistake_is_named_with_what_is_allowed(tmp_path, text, output):
    with pytest.raises(ConfigError, match=output):
        Recipe.load(write(tmp_path, text))


def test_recipe_that_is_no_utf8_is_refused(tmp_path):
    (tmp_path / "mine.toml").write_bytes('description = "Übung"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine\.toml: 'utf-8' codec"):
        Recipe.load(str(tmp_path / "mine.toml"))


def test_unknown_recipe_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"no recipe 'best'; there are .*ferplus_cpu.*, or give a \.toml file"):
        Recipe.load("best")
    with pytest.raises(ConfigError, match=r"no recipe file .*nothing\.toml"):
        Recipe.load(str(tmp_path / "nothing.toml"))
