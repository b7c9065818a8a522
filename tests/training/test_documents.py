import re
from pathlib import Path

import pytest

from training.__main__ import parser
from training.models import names
from training.recipe import RECIPES, Recipe

DOCUMENT = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
SECTIONS = {
    name: field.annotation for name, field in Recipe.model_fields.items() if hasattr(field.annotation, "model_fields")
}
KEYS = {f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields}


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_key_of_a_recipe_is_documented(key):
    assert f"`{key}`" in DOCUMENT


def test_every_documented_key_exists():
    documented = set(re.findall(r"`((?:data|input|model|augment|train|export|gate)\.[a-z_]+)`", DOCUMENT))
    assert documented and documented <= KEYS


def test_every_documented_command_exists():
    [commands] = [action for action in parser()._actions if action.choices]
    documented = set(re.findall(r"python -m training ([a-z-]+)", DOCUMENT))
    assert documented == set(commands.choices)


def test_the_shipped_recipes_are_listed():
    assert all(f"`{path.stem}`" in DOCUMENT for path in RECIPES.glob("*.toml"))


def test_the_networks_named_exist():
    table = DOCUMENT.split("## Networks")[1].split("##")[0]
    whole = set(re.findall(r"`((?:resnet|plain|vgg|alexnet|lenet|perceptron|linear)[a-z0-9_]*)`", table))
    assert whole and whole <= set(names())
