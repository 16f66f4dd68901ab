"""Training a baseline with train.py, and the settings that are refused."""

import os

import pandas as pd
import pytest
import torch

from modeling_gloresnet import BaselineForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing import convert
from publishing.leaks import check_contents, model_files, private_words
from publishing.release import export_ensemble, prepare_releases
from run_folder.files import InputError
from screening.loading import load_model
from tests.programs import run_train
from training.build import new_model
from training.recipe import RecipeError, load_recipe

if not os.environ.get("CI"):
    pytest.importorskip("monai")

FLAGS = "--num_folds 2 --num_train_epochs 1 --per_device_train_batch_size 4 --fold 0 --init random".split()


def train(cohort, run, *flags):
    return run_train(["--data_dir", cohort, "--output_dir", run, *FLAGS, *flags], cwd=run.parent)


@pytest.fixture(scope="module")
def run(shared_tiny_cohort, tmp_path_factory):
    """One fold of a DenseNet."""
    run = tmp_path_factory.mktemp("densenet") / "run"
    result = train(shared_tiny_cohort, run, "--architecture", "densenet121", "--image_size", "32")
    assert result.returncode == 0, result.stderr
    return run


def test_training_a_densenet_writes_a_model_folder(run, shared_tiny_cohort):
    folder = run / "fold-0" / "model"
    model = BaselineForImageClassification.from_pretrained(folder)
    processor = GloResNetImageProcessor.from_pretrained(folder)
    assert model.config.provenance["architecture"] == model.config.architecture == "densenet121"
    assert model.config.training_appearance
    served, _ = load_model(str(folder))
    for row in pd.read_csv(run / "fold-0" / "predictions.csv").itertuples():
        scan = next((shared_tiny_cohort / f"sub-{row.participant_id}").glob("ses-1/anat/*_T2w.nii.gz"))
        volume = processor(scan, return_tensors="pt")["pixel_values"]
        assert model.predict_proba(volume)[0, 1].item() == pytest.approx(row.p_injury, abs=1e-5)
        assert served.predict_proba(volume)[0, 1].item() == pytest.approx(row.p_injury, abs=1e-5)
    card = (folder / "README.md").read_text()
    assert "# 3D DenseNet-121, a baseline of GloResNet" in card and "11,244,674 parameters" in card
    assert "the network itself needs `monai` (1.6.1)" in card and "`AutoModel`" not in card


def test_a_fold_is_published_but_not_as_ensemble_or_converted(run, monkeypatch, capsys):
    (release,) = prepare_releases(run, "org/name", "best", fold=0)
    assert "a baseline of GloResNet" in release.card and 'name = "org/name"' in release.card
    check_contents({**model_files(release.folder), "README.md": release.card.encode()}, private_words(run))
    with pytest.raises(InputError, match="trained densenet121, and only ResNets make an ensemble: publish a fold"):
        export_ensemble(run, {"num_folds": 2, "architecture": "densenet121"}, None)
    monkeypatch.setattr(convert, "check_support", lambda format, dtype: None)
    assert convert.main([str(run / "fold-0" / "model"), "--format", "onnx"]) == 2
    assert "is the baseline densenet121, and only ResNets can be converted" in capsys.readouterr().err


@pytest.mark.parametrize("architecture", ["vit_base", "swin_unet_encoder"])
def test_every_weight_gets_a_gradient(architecture):
    torch.manual_seed(0)
    model = new_model(load_recipe("demo", architecture=architecture, image_size=32)).train()
    model(torch.randn(2, 1, 32, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "vit_base", "init": "medicalnet"}, "vit_base has no MedicalNet weights: add --init random"),
        ({"architecture": "compact", "init": "file.pth"}, "compact has no MedicalNet weights: add --init random"),
        ({"architecture": "swin_unet_encoder", "image_size": 48}, "the nearest are 32 and 64"),
        (
            {"architecture": "densenet121", "gradient_checkpointing": True},
            "works with the ResNets only, not with densenet121",
        ),
        ({"architecture": "resnet34"}, "architecture is 'resnet34': choose one of resnet10, resnet18"),
    ],
)
def test_settings_that_cannot_be_combined_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("demo", **settings)


def test_a_recipe_without_an_architecture_means_gloresnet(tmp_path):
    (tmp_path / "recipe.yaml").write_text("image_size: 64\ninit: random\n")
    assert load_recipe(str(tmp_path / "recipe.yaml")).architecture == "resnet10"


def test_the_medicalnet_file_and_the_shortcut_follow_from_the_architecture():
    recipe = load_recipe("demo", architecture="resnet18", init="medicalnet")
    with pytest.raises(FileNotFoundError, match="resnet_18_23dataset.pth of TencentMedicalNet/MedicalNet-Resnet18"):
        new_model(recipe)
    # the model that is exported at the end of a fold
    assert new_model(recipe, pretrained=False).config.shortcut_type == "A"
    assert new_model(load_recipe("demo", architecture="compact")).config.widths == [24, 64, 160, 320]


def test_bfloat16_on_a_cpu_is_refused_where_gradients_would_be_wrong(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="densenet121 cannot be trained in bf16 on a CPU at image_size 64"):
        new_model(load_recipe("demo", architecture="densenet121", mixed_precision="bf16"))


def test_a_wrong_call_prints_one_sentence(shared_tiny_cohort, tmp_path):
    result = train(shared_tiny_cohort, tmp_path / "run", "--architecture", "vit_base", "--image_size", "40")
    assert result.returncode == 2 and "the nearest are 32 and 48" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()
