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
        ("[optimisation]\nepochs = 0", r"epochs, batch_size and learning_rate must be positive"),
        ("[optimisation]\noptimizer = 'sgd'", r"optimizer is 'sgd'; allowed: adamw, muon"),
        ("[optimisation]\nlogit_adjustment = 2.0", r"logit_adjustment is 2.0; allowed: 0 \(off\) to 1"),
        ("[optimisation]\nsoft_targets = 1", r"soft_targets is 1; expected true or false"),
        ("crop = 48", r"crop is 48; expected a section \[crop\]"),
        ("[crop]\nside_px = 8", r"side_px is 8; allowed: 16 to 512"),
        ("[crop]\ncolour = 'rgb'\n[architecture]\nin_channels = 1", r"in_channels must be 1 for grey and 3 for rgb"),
        ("[crop", r"mine\.toml: "),
    ],
)
def test_mistake_is_named_with_what_is_allowed(tmp_path, text, output):
    with pytest.raises(ConfigError, match=output):
        Recipe.load(write(tmp_path, text))


def test_unknown_recipe_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"no recipe 'best'; there are .*ferplus_cpu.*, or give a \.toml file"):
        Recipe.load("best")
    with pytest.raises(ConfigError, match=r"no recipe file .*nothing\.toml"):
        Recipe.load(str(tmp_path / "nothing.toml"))
