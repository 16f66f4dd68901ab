"""Recipes: the paper's values, the changes of the others, and errors in settings."""

import argparse
import dataclasses
import sys
from types import ModuleType

import pytest

from training.build import new_processor
from training.recipe import Recipe, RecipeError, add_recipe_flags, load_recipe


def test_the_papers_recipe_has_the_papers_values():
    recipe = load_recipe("paper")
    assert recipe.num_train_epochs == 150
    assert recipe.per_device_train_batch_size == 32
    assert (recipe.learning_rate, recipe.min_learning_rate, recipe.weight_decay) == (2e-3, 1e-6, 0.01)
    assert (recipe.rotation_degrees, recipe.flip_prob) == (10, 0.5)
    assert (recipe.mixup_prob, recipe.mixup_alpha) == (0.5, 1)
    assert (recipe.image_size, recipe.num_folds, recipe.init) == (128, 5, "medicalnet")


def test_demo_changes_only_the_settings_it_lists():
    paper, demo = load_recipe("paper"), load_recipe("demo")
    changed = {line.split(":")[0] for line in demo.differences(paper)}
    small = {"image_size", "init", "num_train_epochs", "per_device_train_batch_size", "learning_rate"}
    assert changed == small | {"framing"} and demo.framing == "head"
    assert demo.mixed_precision == "no"


def test_flags_override_only_their_settings():
    parser = argparse.ArgumentParser()
    add_recipe_flags(parser)
    flags = vars(parser.parse_args(["--learning_rate", "1e-4", "--max_birth_age", "37", "--gradient_checkpointing"]))
    assert flags == {"learning_rate": 1e-4, "max_birth_age": 37.0, "gradient_checkpointing": True}
    recipe = load_recipe("demo", **flags)
    assert recipe.learning_rate == 1e-4
    assert recipe.differences(load_recipe("demo")) == [
        "max_birth_age: 37.0, not None",
        "gradient_checkpointing: True, not False",
        "learning_rate: 0.0001, not 0.001",
    ]


def test_every_setting_has_a_flag_with_its_name():
    parser = argparse.ArgumentParser()
    add_recipe_flags(parser)
    text = parser.format_help()
    for field in dataclasses.fields(Recipe):
        assert f"--{field.name}" in text


def test_a_saved_recipe_reads_back_equal(tmp_path):
    recipe = load_recipe("demo", max_birth_age=36.5, mixed_precision="bf16", min_learning_rate=1e-7)
    recipe.save(tmp_path / "recipe.yaml")
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_file_lists_only_its_changes(tmp_path):
    # YAML 1.1 reads `no` as false and 1e-3 as text; the recipe takes both as meant
    (tmp_path / "mine.yaml").write_text("mixed_precision: no\nlearning_rate: 1e-3\nrotation_degrees: 5\n")
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert (recipe.mixed_precision, recipe.learning_rate, recipe.rotation_degrees) == ("no", 1e-3, 5.0)
    assert recipe.num_train_epochs == 150


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 15}, "image_size is 15: it must be from 16 to 512"),
        ({"image_size": 64.5}, "image_size is 64.5: it must be an int"),
        ({"num_train_epochs": True}, "num_train_epochs is True: it must be an int"),
        ({"flip_prob": 1.5}, "flip_prob is 1.5: it must be from 0 to 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast': it must be a float"),
        ({"min_learning_rate": 1.0}, "min_learning_rate 1.0 is above learning_rate 0.001"),
        ({"split": "scan"}, "split is 'scan': choose one of family, paper"),
        ({"per_device_train_batch_size": 1}, "per_device_train_batch_size is 1: it must be 2 or more"),
        ({"seed": None}, "seed is None"),
        ({"num_train_epochs": 10**9}, "num_train_epochs is 1000000000: it must be from 1 to 100000"),
        ({"num_folds": 10**9}, "num_folds is 1000000000: it must be from 2 to 100"),
        ({"image_size": 10**6}, "image_size is 1000000: it must be from 16 to 512"),
        ({"weight_decay": -1}, "weight_decay is -1.0: it must be 0 or more"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("demo", **settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3\n", "unknown settings epochs: the known ones are image_size"),
        ("- 1\n", "must hold `name: value` lines, found list"),
        ("a: [1\n", "is not valid YAML"),
    ],
)
def test_broken_recipe_files_are_named(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(tmp_path / "bad.yaml"))


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(RecipeError, match="There is no recipe fast: choose one of clinical, demo, paper"):
        load_recipe("fast")


def test_the_clinical_recipe_frames_the_head_and_calibrates_on_inner_scans():
    recipe, paper = load_recipe("clinical"), load_recipe("paper")
    assert (recipe.framing, recipe.split, recipe.selection) == ("head", "family", "inner")
    assert paper.framing == "field_of_view"
    assert {line.split(":")[0] for line in recipe.differences(paper)} == {"framing", "selection"}
    assert new_processor(recipe).framing == "head"


def test_a_bias_correction_that_this_machine_lacks_is_refused_before_any_scan_is_read(monkeypatch):
    recipe = load_recipe("demo", bias_correction="n4")
    assert load_recipe("demo").bias_correction == load_recipe("paper").bias_correction == "none"
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(RecipeError, match="bias field without SimpleITK, .* pip install SimpleITK"):
        new_processor(recipe)
    monkeypatch.setitem(sys.modules, "SimpleITK", ModuleType("SimpleITK"))
    assert new_processor(recipe).bias_correction == "n4"
