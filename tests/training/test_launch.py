"""What `accelerate launch` and the environment may change about a fold: rounding, and nothing else."""

import json
import os
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

import train as train_script
from run_folder.layout import RunFolder
from training.fold import open_fold
from training.launch import REFUSED, overridden_settings, start_accelerator
from training.recipe import RecipeError, load_recipe

SETTINGS = {"architecture": "compact", "image_size": 16, "per_device_train_batch_size": 2, "num_folds": 2}
RECIPE = load_recipe("demo", num_train_epochs=2, **SETTINGS)
INNER = load_recipe("demo", num_train_epochs=2, selection="inner", **SETTINGS)


@pytest.fixture(autouse=True)
def launch(monkeypatch):
    """Start Accelerate again with these variables, as the launcher does. It reads them once per process."""

    def reset():
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        torch.compiler.reset()

    def launch(**variables):
        reset()
        for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(f"ACCELERATE_{name}", value)

    yield launch
    reset()


def train(data, run, recipe=RECIPE, epochs=2, finish=False):
    with open_fold(0, data, recipe, RunFolder(run)) as fold:
        for number in range(1, epochs + 1):
            fold.epoch(number)
        result = fold.finish() if finish else None
        weights = (result.network if result else fold.network).state_dict()
        assert list(fold.state()) == list(weights)
        return {name: value.clone() for name, value in weights.items()}


def assert_equal(first, second):
    assert list(first) == list(second)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize(
    ("setting", "value"), [("gradient_accumulation_steps", 2), ("mixed_precision", "bf16")], ids=["steps", "precision"]
)
def test_the_recipe_wins_over_the_environment(data, tmp_path, launch, setting, value):
    launch()
    expected = train(data, tmp_path / "expected")
    variable = setting.upper()
    launch(**{variable: str(value)})
    assert_equal(expected, train(data, tmp_path / "run"))
    (sentence,) = overridden_settings(RECIPE)
    assert f"ACCELERATE_{variable} is {value}" in sentence and f"{setting} is {getattr(RECIPE, setting)}" in sentence
    launch()
    changed = train(data, tmp_path / "changed", replace(RECIPE, **{setting: value}))
    assert any(not torch.equal(expected[name], changed[name]) for name in expected)  # the setting itself has an effect


def test_nothing_is_said_about_a_plain_launch(launch):
    launch(MIXED_PRECISION="no", DYNAMO_BACKEND="no", USE_CPU="true")  # what `accelerate launch --cpu` sets
    assert overridden_settings(RECIPE) == overridden_settings(load_recipe("demo", mixed_precision="bf16")) == []


@pytest.mark.parametrize("variable", REFUSED)
def test_what_no_recipe_records_is_refused(launch, tmp_path, shared_tiny_cohort, capsys, variable):
    value = "TE" if variable == "ACCELERATE_FP8_BACKEND" else "true"
    launch(**{variable.removeprefix("ACCELERATE_"): value})
    run = tmp_path / "run"
    assert train_script.main(["--data_dir", str(shared_tiny_cohort), "--output_dir", str(run)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"train.py: {variable} is {value}") and "accelerate config" in message
    assert not run.exists()
    launch(**{variable.removeprefix("ACCELERATE_"): "NO"})
    start_accelerator(RECIPE, tmp_path, "none")


@pytest.mark.parametrize(("variable", "value"), [("DYNAMO_BACKEND", "nowhere"), ("USE_CPU", "perhaps")])
def test_an_unknown_value_is_one_sentence(launch, tmp_path, variable, value):
    launch(**{variable: value})
    with pytest.raises(RecipeError, match=f"(?i)settings it was launched with: .*{value}"):
        start_accelerator(RECIPE, tmp_path, "none")


def test_a_backend_that_torch_lacks_is_one_sentence(data, launch, tmp_path):
    launch(DYNAMO_BACKEND="ofi")
    with pytest.raises(RecipeError, match="torch.compile failed with --dynamo_backend ofi"):
        train(data, tmp_path)


@pytest.mark.parametrize("selection", [RECIPE, INNER], ids=["last", "inner"])
@pytest.mark.parametrize("options", [{}, {"DYNAMO_USE_REGIONAL_COMPILATION": "true"}], ids=["whole", "regional"])
def test_a_compiled_fold_gives_a_model_with_the_names_of_the_network(data, tmp_path, launch, selection, options):
    launch()
    expected = train(data, tmp_path / "expected", selection, finish=True)
    launch(DYNAMO_BACKEND="eager", **options)  # the operations of the network itself, called by the compiler
    assert_equal(expected, train(data, tmp_path / "run", selection, finish=True))
    for name in ("predictions.csv", "checkpoints/epoch-002/model.safetensors"):
        assert (tmp_path / "run/fold-0" / name).read_bytes() == (tmp_path / "expected/fold-0" / name).read_bytes()


@pytest.mark.parametrize("first", ["no", "aot_eager"])
def test_a_run_continues_with_and_without_the_compiler(data, tmp_path, launch, first):
    launch()
    expected = train(data, tmp_path / "expected", INNER, finish=True)
    second = {"no": "aot_eager", "aot_eager": "no"}[first]
    launch(DYNAMO_BACKEND=first)
    train(data, tmp_path / "run", INNER, epochs=1)
    launch(DYNAMO_BACKEND=second)
    weights = train(data, tmp_path / "run", INNER, finish=True)
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=1e-3, atol=1e-5)
    history = json.loads((tmp_path / "run/fold-0/checkpoints/epoch-002/progress.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [1, 2]


def test_products_on_a_gpu_are_rounded_to_tf32_only_if_the_recipe_says_so(data, tmp_path, launch):
    rounded = replace(RECIPE, mixed_precision="tf32", num_train_epochs=1)

    def allowed():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    launch(DYNAMO_BACKEND="eager")  # with which Accelerate would allow it
    start_accelerator(RECIPE, tmp_path, "none")
    assert allowed() == (False, False)
    launch()
    with open_fold(0, data, rounded, RunFolder(tmp_path / "run")) as fold:
        assert allowed() == (True, True)
        fold.epoch(1)
        fold.finish()
        assert allowed() == (False, False)  # the predictions are those of the exported folder, in float32
