"""Each baseline: its parameter count, its probabilities, and loading its folder without this project."""

import json
import os
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from architectures.cost import parameters
from architectures.networks import ARCHITECTURES, MissingPackageError, build, network_name, new_config
from modeling_gloresnet import BaselineConfig, medicalnet_repository
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from tests.programs import run_program

if not os.environ.get("CI"):
    pytest.importorskip("monai")

BASELINES = ("vit_base", "swin_unet_encoder", "densenet121")


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {name: build(new_config(name, 32)).eval() for name in BASELINES}


# patches of 16^3 voxels; 512 positions and a class token; blocks of 12 w^2 weights and 13 w biases and norms; the head
VIT = 4096 * 768 + 768 + 513 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768 + 2 * 769


@pytest.mark.parametrize(
    ("architecture", "count"),
    [
        ("vit_base", VIT),
        ("densenet121", 11_244_674),
        ("swin_unet_encoder", 29_098_376),
        ("resnet10", 14_356_546),
        ("resnet18", 33_161_026),
        ("resnet50", 46_159_170),
        ("compact", 5_365_794),
    ],
)
def test_parameter_count(architecture, count):
    with torch.device("meta"):
        model = build(new_config(architecture))
    assert parameters(model) == count


def test_densenets_count_follows_from_its_blocks():
    count, channels = 343 * 64 + 2 * 64, 64
    for block, layers in enumerate((6, 12, 24, 16)):
        for _ in range(layers):
            count += 2 * channels + channels * 128 + 2 * 128 + 128 * 32 * 27
            channels += 32
        if block < 3:
            count += 2 * channels + channels * channels // 2
            channels //= 2
    assert count + 2 * channels + 2 * channels + 2 == 11_244_674


def test_swins_count_follows_from_its_blocks():
    count = 64 * 96 + 96  # patches of 4^3
    for stage, (depth, heads) in enumerate(zip((2, 2, 6, 2), (3, 6, 12, 24), strict=True)):
        width = 96 * 2**stage
        count += depth * (12 * width**2 + 13 * width + 7**3 * heads)  # as in a ViT, plus a bias per offset
        if stage < 3:
            count += 8 * width * 2 * width + 2 * 8 * width
    assert count + 2 * 768 + 2 == 29_098_376


@pytest.mark.parametrize("architecture", BASELINES)
def test_both_views_are_averaged(models, architecture):
    model = models[architecture]
    volume = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        output = model(volume, labels=torch.tensor([0, 1]))
        plain, mirrored = output.logits.softmax(-1), model(torch.flip(volume, dims=[2])).logits.softmax(-1)
    assert output.logits.shape == (2, 2)
    assert output.loss.item() == pytest.approx(-(plain[0, 0].log() + plain[1, 1].log()).item() / 2, abs=1e-5)
    assert not torch.allclose(plain, mirrored, atol=1e-4)
    assert torch.allclose(model.train().predict_proba(volume), (plain + mirrored) / 2, atol=1e-5)
    assert model.training and not model.eval().training
    assert torch.allclose(model.predict_proba(volume, test_time_augmentation=False), plain, atol=1e-5)
    assert model.config.id2label == {0: "normal", 1: "injury"}


@pytest.mark.parametrize(
    ("architecture", "image_size", "message"),
    [
        ("vit_base", 40, "multiples of 16 voxels as edges, but image_size is 40: the nearest are 32 and 48"),
        ("swin_unet_encoder", 16, "multiples of 32 voxels as edges, but image_size is 16: the nearest is 32"),
        ("densenet121", 28, "edges of 29 voxels or more, but image_size is 28: the nearest is 29"),
    ],
)
def test_impossible_sizes_are_refused_and_the_nearest_possible_ones_named(architecture, image_size, message):
    with pytest.raises(StrictDataclassError, match=message):
        BaselineConfig(architecture=architecture, image_size=image_size)


def test_a_densenet_works_at_its_smallest_size_and_not_below(models):
    network = models["densenet121"].network
    assert network(torch.zeros(1, 1, 29, 29, 29)).shape == (1, 2)
    with pytest.raises(RuntimeError, match="smaller than kernel size"):
        network(torch.zeros(1, 1, 28, 28, 28))


def test_an_input_of_another_size_is_refused(models):
    with pytest.raises(ValueError, match=r"must be \(batch, 1, 32, 32, 32\), not \(1, 1, 64, 64, 64\)"):
        models["vit_base"](torch.zeros(1, 1, 64, 64, 64))


def test_medicalnets_resnet18_has_shortcut_type_a_and_the_others_b():
    configs = [new_config(name, medicalnet=True) for name in ("resnet10", "resnet18", "resnet50")]
    assert [config.shortcut_type for config in configs] == ["B", "A", "B"]
    assert new_config("resnet18").shortcut_type == "B"
    assert medicalnet_repository(configs[1]) == "TencentMedicalNet/MedicalNet-Resnet18"


def test_every_network_has_its_own_name():
    names = [network_name(new_config(name)) for name in ARCHITECTURES]
    assert len(set(names)) == len(ARCHITECTURES) and "3D ResNet-10" in names and "3D ViT-Base" in names


@pytest.mark.parametrize(("architecture", "package"), [("vit_base", "einops"), ("densenet121", "monai.networks.nets")])
def test_a_missing_package_is_named(monkeypatch, architecture, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{package.split('.')[0]} is not installed: pip install -r"):
        build(new_config(architecture, 32))


OUTSIDE_PROGRAM = """
import json, sys
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "monai":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

trust, answers, (scan, *folders) = {"trust_remote_code": True}, {}, sys.argv[1:]
sys.meta_path.insert(0, blocked := Without())
try:
    AutoModelForImageClassification.from_pretrained(folders[0], **trust)
except ImportError as error:
    answers["without"] = str(error)
sys.meta_path.remove(blocked)
for name in ("modeling_gloresnet", "architectures"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported")
for folder in folders:
    inputs = AutoImageProcessor.from_pretrained(folder, **trust)(scan, return_tensors="pt")
    model = AutoModelForImageClassification.from_pretrained(folder, **trust)
    scores = {row["label"]: row["score"] for row in pipeline(model=folder, **trust)(scan)}
    proba = model.predict_proba(inputs["pixel_values"])[0].tolist()
    answers[model.config.architecture] = [proba, [scores["normal"], scores["injury"]]]
print(json.dumps(answers))
"""


def test_each_folder_loads_without_this_project_and_gives_equal_probabilities(models, tmp_path):
    volume = np.random.default_rng(0).normal(100, 20, (20, 30, 25)).astype(np.float32)
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(volume, np.diag([-1, 1, 2, 1])), scan)
    processor = GloResNetImageProcessor(image_size=32)
    for architecture, model in models.items():
        export_model(model, processor, tmp_path / architecture, "card")
        names = {path.name for path in (tmp_path / architecture).glob("*.py")}
        assert names == {
            *("modeling_baseline.py", "configuration_baseline.py", "configuration_gloresnet.py"),
            *("inference_gloresnet.py", "loading_gloresnet.py", "pipeline_gloresnet.py", "screening_gloresnet.py"),
            *(
                "appearance_gloresnet.py",
                "image_processing_gloresnet.py",
                "preparation_gloresnet.py",
                "reading_gloresnet.py",
                "headers_gloresnet.py",
                "decoding_gloresnet.py",
            ),
            *("bias_gloresnet.py", "framing_gloresnet.py", "resampling_gloresnet.py"),
            *("candidates_gloresnet.py", "interior_gloresnet.py", "local_gloresnet.py"),
            *("arrays_gloresnet.py", "masks_gloresnet.py", "modalities_gloresnet.py", "volume_gloresnet.py"),
        }
    (tmp_path / "elsewhere").mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "hf")}
    call = ["-c", OUTSIDE_PROGRAM, scan, *(tmp_path / name for name in models)]
    result = run_program(call, tmp_path / "elsewhere", environment)
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout.splitlines()[-1])
    assert "not found in your environment: monai" in answers["without"]
    pixel_values = processor(scan, return_tensors="pt")["pixel_values"]
    for architecture, model in models.items():
        loaded, piped = answers[architecture]
        assert loaded == piped == pytest.approx(model.predict_proba(pixel_values)[0].tolist(), abs=1e-6)


def test_missing_modalities_are_zeros_for_the_other_architectures():
    model = build(new_config("densenet121", 32, modalities=["T2w", "FA"])).eval()
    x, blank = torch.randn(2, 2, 32, 32, 32), torch.zeros(2, 2, 32, 32, 32)
    blank[:, 0], blank[1, 1] = x[:, 0], x[1, 1]
    flags = torch.tensor([[True, False], [True, True]])
    assert torch.equal(model(x, presence=flags).logits, model(blank).logits)
    assert parameters(model) - parameters(build(new_config("densenet121", 32))) == 64 * 7**3  # one more input channel


@pytest.mark.parametrize("architecture", ["vit_base", "swin_unet_encoder"])
def test_the_other_architectures_take_several_modalities(architecture):
    with torch.device("meta"):
        model = build(new_config(architecture, 32, modalities=["T2w", "T1w", "MD"])).eval()
        assert model(torch.zeros(1, 3, 32, 32, 32)).logits.shape == (1, 2)
