import pytest

from training.errors import RecipeError
from training.recipe import RECIPES, load_recipe, parse_recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_its_file_is_named_after_its_model(path):
    assert path.stem.startswith(load_recipe(path).name)


def test_a_shipped_recipe_is_found_by_its_name():
    assert load_recipe("digits") == load_recipe(RECIPES / "digits.toml")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.epohcs=4"], ["train.epohcs", "unknown key", "epochs"]),
        (["trian.epochs=4"], ["trian", "unknown key", "train"]),
        (["train.epochs=many"], ["train.epochs", "integer", "many"]),
        (["train.epochs=1.5"], ["train.epochs", "integer"]),
        (["train.epochs=true"], ["train.epochs", "integer"]),
        (["train.momentum=1.0"], ["train.momentum", "less than 1"]),
        (["train.schedule=linear"], ["train.schedule", "one-cycle"]),
        (["train.epochs"], ["key=value"]),
        (["name.first=digits"], ["name", "not a section"]),
        (["augment.crop_padding=8"], ["crop_padding", "not smaller"]),
        (["train.small_side=8"], ["go together"]),
        (["input.resize_size=4"], ["resize_size", "smaller than"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_wrong_override_is_refused_by_name(overrides, words):
    with pytest.raises(RecipeError) as error:
        load_recipe("digits", overrides)
    assert all(word in error.value.detail for word in words), error.value.detail


def test_overrides_are_read_as_toml_and_else_as_text():
    recipe = load_recipe("digits", ["train.epochs=3", "model.name=resnet20", 'name="other"', "augment.flip=true"])
    assert (recipe.train.epochs, recipe.model.name, recipe.name, recipe.augment.flip) == (3, "resnet20", "other", True)


def test_an_unknown_recipe_lists_the_shipped_ones(tmp_path):
    with pytest.raises(RecipeError, match="digits"):
        load_recipe(tmp_path / "none.toml")


def test_a_file_that_is_not_toml_is_refused(tmp_path):
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(RecipeError, match="not a TOML file"):
        load_recipe(tmp_path / "broken.toml")


def test_the_recipe_of_a_run_reads_back_as_itself():
    recipe = load_recipe("cifar10")
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("weights", "kept"),
    [
        ("/somewhere/runs/first/best.pt", "first/best.pt"),
        ("DEFAULT", "DEFAULT"),
        ("https://host/file.pth", "https://host/file.pth"),
        (None, None),
    ],
)
def test_a_portable_recipe_names_no_folder_of_this_machine(weights, kept):
    recipe = parse_recipe({"data": {"path": "/somewhere", "feedback": "/elsewhere"}, "model": {"weights": weights}})
    portable = recipe.portable()
    assert (portable["data"]["path"], portable["data"]["feedback"], portable["model"]["weights"]) == (None, None, kept)
    assert portable["train"] == recipe.model_dump(mode="json")["train"]
