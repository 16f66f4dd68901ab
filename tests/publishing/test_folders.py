"""Several model folders in one process, and folders that transformers saves again. Each runs its own code."""

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from modeling_gloresnet import (
    BaselineConfig,
    BaselineForImageClassification,
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
)
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from publishing.leaks import model_files
from screening.loading import load_model
from tests.programs import run_program

ROOT = Path(__file__).parent.parent.parent
CARD = "---\nlicense: apache-2.0\n---\n"


def run_elsewhere(program, *arguments, folder):
    """Run a program in another folder, offline, without this project on the path; return the JSON that it prints."""
    folder.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    result = run_program(["-c", program, *arguments], folder, environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def single(seed):
    torch.manual_seed(seed)
    config = GloResNetConfig(stem_channels=4, widths=[4, 8, 8, 8], image_size=32, head_init_std=1.0)
    return GloResNetForImageClassification(config).eval()


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    volume = np.random.default_rng(0).normal(100, 20, (20, 30, 25)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.diag([-1, 1, 2, 1])), path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory, scan):
    """Model folders, all with the base name `model`, and the probability of injury that each must give."""
    root = tmp_path_factory.mktemp("folders")
    processor = GloResNetImageProcessor(image_size=32)
    torch.manual_seed(0)
    models = {
        "fold-0": single(0),
        "fold-1": single(1),
        "ensemble": GloResNetEnsembleForImageClassification.from_members([single(0), single(1)]),
        "densenet": BaselineForImageClassification(BaselineConfig(architecture="densenet121", image_size=32)).eval(),
    }
    volume = processor(scan, return_tensors="pt")["pixel_values"]
    expected = {}
    for name, model in models.items():
        export_model(model, processor, root / name / "model", CARD)
        expected[root / name / "model"] = model.predict_proba(volume)[0, 1].item()
    # copies of another version of the project: the classes have the same names and do something else
    old = {"fold-0": "self.classifier(features)", "densenet": "self.network(blank_missing(pixel_values, presence)"}
    for name, code in old.items():
        copy = shutil.copytree(root / name / "model", root / f"{name}-changed" / "model")
        file = copy / ("modeling_gloresnet.py" if name == "fold-0" else "modeling_baseline.py")
        assert code in file.read_text()
        file.write_text(file.read_text().replace(code, f"-{code}"))
        expected[copy] = 1 - expected[root / name / "model"]  # softmax(-z) of two classes
    return expected


ONE_PROCESS = """
import json, sys
checkout, scan, *folders = sys.argv[1:]
if checkout:
    sys.path.insert(0, checkout)
    import modeling_gloresnet, preprocessing
    from screening.loading import load_model
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
trust, answers = {"trust_remote_code": True}, []
for folder in folders:
    inputs = AutoImageProcessor.from_pretrained(folder, **trust)(scan, return_tensors="pt")
    model = AutoModelForImageClassification.from_pretrained(folder, **trust)
    rows = pipeline("image-classification", model=folder, **trust)(scan)
    answer = [model.predict_proba(**inputs)[0, 1].item(), {row["label"]: row["score"] for row in rows}["injury"]]
    if "/fold-" in folder:
        encoder = AutoModel.from_pretrained(folder, **trust)
        outputs = model(**inputs, output_hidden_states=True)
        assert encoder(**inputs).last_hidden_state.equal(outputs.hidden_states[-1])
    if checkout:
        answer.append(load_model(folder)[0].predict_proba(**inputs)[0, 1].item())
    answers.append([folder, answer])
print(json.dumps(answers))
"""


@pytest.mark.parametrize(("checkout", "backwards"), [("", False), (ROOT, True)])
def test_each_folder_answers_as_in_a_process_of_its_own(folders, scan, checkout, backwards, tmp_path):
    order = list(folders)[::-1] if backwards else list(folders)
    # and the first ones again, after all others
    answers = run_elsewhere(ONE_PROCESS, checkout, scan, *order, *order[:2], folder=tmp_path / "elsewhere")
    assert len(answers) == len(folders) + 2
    for folder, found in answers:
        assert found == pytest.approx([folders[Path(folder)]] * len(found), abs=1e-6), folder


@pytest.mark.parametrize("backwards", [False, True])
def test_our_own_loader_tells_folders_of_version_0_1_apart(folders, scan, backwards, tmp_path):
    volume = GloResNetImageProcessor(image_size=32)(scan, return_tensors="pt")["pixel_values"]
    names = ["ensemble", "fold-0-changed", "fold-0"] if backwards else ["fold-0", "fold-0-changed", "ensemble"]
    for name in names:
        folder = next(folder for folder in folders if folder.parent.name == name)
        old = shutil.copytree(folder, tmp_path / name / "model")
        config = json.loads((old / "config.json").read_text())
        config["auto_map"]["AutoConfig"] = "configuration_gloresnet.GloResNetConfig"
        (old / "config.json").write_text(json.dumps(config))
        model, _ = load_model(str(old))
        assert model.predict_proba(volume)[0, 1].item() == pytest.approx(folders[folder], abs=1e-6)


SAVED_AGAIN = """
import os, sys
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments, pipeline
trust = {"trust_remote_code": True}
for folder in sys.argv[1:]:
    name = folder.split("/")[-2]
    processor = AutoImageProcessor.from_pretrained(folder, **trust)
    model = AutoModelForImageClassification.from_pretrained(folder, **trust)
    pipe = pipeline("image-classification", model=folder, **trust)
    pipe.save_pretrained(f"pipeline/{name}")
    model.save_pretrained(f"model/{name}")
    processor.save_pretrained(f"model/{name}")
    arguments = TrainingArguments("runs", use_cpu=True, report_to=[])
    Trainer(model, arguments, processing_class=processor).save_model(f"trainer/{name}")
    os.remove(f"trainer/{name}/training_args.bin")
print("null")
"""


def test_folders_saved_again_by_transformers_are_complete(folders, scan, tmp_path):
    elsewhere, expected = tmp_path / "elsewhere", {}
    run_elsewhere(SAVED_AGAIN, *folders, folder=elsewhere)
    for folder, probability in folders.items():
        for how in ("pipeline", "model", "trainer"):
            saved = elsewhere / how / folder.parent.name
            assert set(model_files(saved)) == {path.name for path in folder.iterdir()} - {"README.md"}
            expected[saved] = probability
    # a process without the code caches of the first one
    answers = run_elsewhere(ONE_PROCESS, "", scan, *expected, folder=tmp_path / "third")
    assert len(answers) == 3 * len(folders)
    for folder, found in answers:
        assert found == pytest.approx([expected[Path(folder)]] * len(found), abs=1e-6), folder


def test_a_new_model_is_saved_with_all_its_code(tmp_path):
    single(0).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "modeling_gloresnet.GloResNetConfig",
        "AutoModel": "modeling_gloresnet.GloResNetModel",
        "AutoModelForImageClassification": "modeling_gloresnet.GloResNetForImageClassification",
    }
    assert "image-classification" in config["custom_pipelines"] and (tmp_path / "pipeline_gloresnet.py").is_file()
