"""Load an exported folder in a new process, in another folder, offline, without this project on the path."""

import json
import os

import nibabel as nib
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from evaluation.metrics import screening_metrics
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.card import render_card
from publishing.export import export_model
from tests.programs import run_program
from training.recipe import load_recipe

PROVENANCE = {"cohort": "phantom-clear", "synthetic": True, "run": "demo", "fold": 4, "train_scans": 38}

STRANGER = """
import json, sys
from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel
from transformers import AutoModelForImageClassification, pipeline
folder, scan = sys.argv[1:]
for name in ("modeling_gloresnet", "preprocessing", "publishing", "training", "cohort"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported")
trust = {"trust_remote_code": True}
inputs = AutoImageProcessor.from_pretrained(folder, **trust)(scan, return_tensors="pt")
again = AutoFeatureExtractor.from_pretrained(folder, **trust)(scan, return_tensors="pt")
model = AutoModelForImageClassification.from_pretrained(folder, **trust)
features = AutoModel.from_pretrained(folder, **trust)(**inputs)
scores = {row["label"]: row["score"] for row in pipeline(model=folder, **trust)(scan)}
named = {row["label"]: row["score"] for row in pipeline("image-classification", model=folder, **trust)(scan)}
print(json.dumps({
    "config": AutoConfig.from_pretrained(folder, **trust).image_size,
    "same_processor": bool((inputs["pixel_values"] == again["pixel_values"]).all()),
    "pooler": list(features.pooler_output.shape),
    "id2label": model.config.id2label,
    "proba": model.predict_proba(inputs["pixel_values"])[0].tolist(),
    "pipeline": [scores["normal"], scores["injury"]],
    "named": [named["normal"], named["injury"]],
}))
"""


def exported(tmp_path, **config):
    torch.manual_seed(0)
    config = GloResNetConfig(
        stem_channels=4, widths=[4, 8, 16, 32], image_size=32, temperature=1.5, provenance=PROVENANCE, **config
    )
    model = GloResNetForImageClassification(config).eval()
    processor = GloResNetImageProcessor(image_size=32)
    folder = tmp_path / "fold-4" / "model"
    export_model(model, processor, folder, "---\nlicense: apache-2.0\n---\n")
    return model, processor, folder


@pytest.fixture
def scan(tmp_path):
    volume = np.random.default_rng(0).normal(100, 20, (20, 30, 25)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.diag([-1, 1, 2, 1])), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_every_auto_class_loads_the_folder_and_gives_the_same_probabilities(tmp_path, scan):
    model, processor, folder = exported(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "hf")}
    result = run_program(["-c", STRANGER, folder, scan], elsewhere, environment)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout.splitlines()[-1])
    expected = model.predict_proba(processor(scan, return_tensors="pt")["pixel_values"])[0].tolist()
    assert answer["proba"] == answer["pipeline"] == answer["named"] == expected
    assert answer["config"] == 32 and answer["pooler"] == [1, 32] and answer["same_processor"]
    assert answer["id2label"] == {"0": "normal", "1": "injury"}


def test_the_folder_holds_only_safetensors_configurations_code_and_card(tmp_path):
    _, _, folder = exported(tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "preprocessor_config.json", "model.safetensors", "README.md"} <= names
    assert all(name.endswith(("_gloresnet.py", ".json", ".safetensors", ".md")) for name in names), names
    assert "pipeline_gloresnet.py" in names
    assert oct((folder / "model.safetensors").stat().st_mode)[-3:] == oct((folder / "config.json").stat().st_mode)[-3:]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_second_export_replaces_the_folder(tmp_path):
    model, processor, folder = exported(tmp_path)
    (folder / "stale.txt").write_text("from before")
    model.config.temperature = 2.0
    export_model(model, processor, folder, "new card")
    assert not (folder / "stale.txt").exists() and (folder / "README.md").read_text() == "new card"
    assert json.loads((folder / "config.json").read_text())["temperature"] == 2.0
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_different_image_sizes_are_refused_before_anything_is_written(tmp_path):
    model, _, folder = exported(tmp_path)
    with pytest.raises(ValueError, match="64 voxels per edge, but the model expects 32"):
        export_model(model, GloResNetImageProcessor(image_size=64), tmp_path / "other", "")
    assert not (tmp_path / "other").exists()


def card(
    selection="last", synthetic=True, labels=(0, 1, 1, 0), probabilities=(0.2, 0.9, 0.4, 0.6), local=None, **provenance
):
    metrics = screening_metrics(labels, probabilities)
    metrics |= {"fold": 4, "selection": selection, "selected_epoch": 20}
    config = GloResNetConfig(
        image_size=64, provenance=PROVENANCE | {"synthetic": synthetic} | provenance, **(local or {})
    )
    recipe = load_recipe("demo", init="/home/somebody/secret.pth").__dict__
    return render_card(config, recipe, metrics)


def test_the_card_says_that_injuries_were_painted():
    painted, plain = card(synthetic=False, painted=True), card(synthetic=False)
    assert "**Trained on painted injuries, not on real ones.**" in painted and "painted" not in plain
    data = ModelCard(painted).data
    assert "painted-injuries" in data.tags
    assert {result.dataset_name for result in data.eval_results} == {"painted injuries, never clinical evidence"}
    assert "into which a program painted injuries" in painted.replace("\n", " ")


def test_the_card_of_a_local_stream_says_what_it_was_trained_on_and_how_to_use_it():
    plain, local = (
        " ".join(card(local=config).split()) for config in (None, {"local_stream": True, "local_scorers": 4})
    )
    assert "trained on painted injuries, not on real ones" in local and "4 small networks judge" in local
    assert "voxel edge above 1.2 mm" in local and "Myelination" in local and "show on T1-weighted scans first" in local
    assert 'predict_proba(**processor("scan.nii.gz", return_tensors="pt"))' in local
    assert "`nibabel` and `pillow`, and `scipy`." in local
    assert "local stream" not in plain.lower() and 'return_tensors="pt")["pixel_values"])' in plain


def test_the_card_names_the_modalities_and_how_to_pass_them():
    plain, several = (" ".join(card(local=config).split()) for config in (None, {"modalities": ["T2w", "FA", "MD"]}))
    assert "with FA, MD of the same session where they exist, and returns" in several
    assert 'Channels: T2w, FA, MD. `processor({"T2w": scan, "FA": other})` also returns `presence`.' in several
    assert 'predict_proba(**processor("scan.nii.gz", return_tensors="pt"))' in several
    assert "resampled volume. FA, MD are looked up" in several and "`pillow`, and `scipy`." in several
    assert "Channels" not in plain and "resampled volume. The processor" in plain


def test_the_metadata_of_the_card_holds_the_figures_of_the_fold():
    data = ModelCard(card()).data
    results = {result.metric_type: result for result in data.eval_results}
    assert results["accuracy"].metric_value == 0.5 and results["roc_auc"].metric_value == 0.75
    assert results["accuracy"].dataset_split == "fold4"
    assert data.license == "apache-2.0" and data.pipeline_tag == "image-classification" and "synthetic" in data.tags


def test_the_card_states_what_it_must():
    synthetic, real = card(), card(synthetic=False)
    assert "Trained on synthetic phantoms, not on infants" in synthetic and "synthetic" not in real
    assert "nothing was chosen" in synthetic and "**Optimistic:**" in card("paper")
    assert "14,356,546 parameters" in synthetic
    assert "| True positives, false negatives | 1, 1 |" in synthetic
    assert "secret" not in synthetic and "/home" not in synthetic
    assert "{{" not in synthetic and "{%" not in synthetic


def test_undefined_figures_are_marked_undefined():
    text = card(labels=(0, 0), probabilities=(0.1, 0.2))
    assert "| ROC AUC | undefined (" in text
    assert "roc_auc" not in {result.metric_type for result in ModelCard(text).data.eval_results}
