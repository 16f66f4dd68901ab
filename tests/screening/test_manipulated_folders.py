"""Manipulated model folders: each is refused in one sentence that names the fault, and sound ones still load.

Every case changes one thing in the folder of a tiny network with seeded weights.
"""

import re
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageClassification, PreTrainedModel

from modeling_gloresnet import (
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
    GloResNetModel,
)
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from screening.loading import ModelError, load_model
from tests.screening.manipulations import APPEARANCE, CASES, CONFIG, WEIGHTS, rename, settings, weights

SIZE = 16


def tiny(seed=0, **config):
    torch.manual_seed(seed)
    geometry = {"stem_channels": 4, "widths": [4, 8, 8, 8], "image_size": SIZE, "head_init_std": 1.0}
    return GloResNetForImageClassification(GloResNetConfig(**geometry | config)).eval()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound folder, and its answer for a fixed scan."""
    folder = tmp_path_factory.mktemp("sound") / "model"
    model = tiny(training_appearance=APPEARANCE, provenance={"cohort": "tiny", "train_scans": 5})
    export_model(model, GloResNetImageProcessor(image_size=SIZE), folder, "card")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One path for all folders: transformers imports the code of each path again."""
    return tmp_path_factory.mktemp("place") / "model"


@pytest.fixture
def folder(sound, place, monkeypatch, tmp_path):
    """A copy of the sound folder that a test may change."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sound, place)
    yield place
    shutil.rmtree(place)
    (place.parent / "outside.safetensors").unlink(missing_ok=True)


def scan():
    return np.random.default_rng(0).normal(100, 20, (20, 18, 19)).astype(np.float32)


def answer(folder):
    model, processor = load_model(str(folder))
    return model.predict_proba(processor(scan(), return_tensors="pt").pixel_values)[0, 1].item()


def test_the_sound_folder_answers(folder):
    expected = tiny().predict_proba(GloResNetImageProcessor(image_size=SIZE)(scan(), return_tensors="pt").pixel_values)
    assert answer(folder) == pytest.approx(expected[0, 1].item(), abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_manipulated_folder_is_refused(folder, case, tmp_path, capfd):
    change, words = CASES[case]
    change(folder)
    with pytest.raises(ModelError, match=words) as caught:
        load_model(str(folder))
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message and len(message) < 600
    assert capfd.readouterr().err == ""  # the table that transformers would print
    assert list(tmp_path.iterdir()) == []  # no code of a pickle ran


# the folder's own code cannot refuse these: networks with more labels or channels are legitimate elsewhere, and the
# others are faults of files other than the model's
OF_SCREENING = [
    *("a processor with another framing than in training", "a processor with another frame than in training"),
    *("three labels", "two channels", "eps of 1e9", "a mask setting of another name", "half a record"),
    *("no processor", "no configuration", "no code", "another processor", "the encoder as classifier"),
    "another kind of model",
]


@pytest.mark.parametrize("case", [case for case in CASES if case not in OF_SCREENING])
def test_plain_transformers_refuses_it_too(folder, case):
    change, words = CASES[case]
    change(folder)
    with pytest.raises((ValueError, OSError, StrictDataclassError)) as caught:
        GloResNetForImageClassification.from_pretrained(folder)
    if not isinstance(caught.value, OSError):  # of transformers, which names the file
        assert re.search(words, " ".join(str(caught.value).split()))


def test_the_code_in_the_folder_refuses_it(folder):
    sound = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    assert not isinstance(sound, GloResNetForImageClassification)  # of the folder, not of this checkout
    CASES["a stage renamed"][0](folder)
    for auto in (AutoModelForImageClassification, AutoModel):
        with pytest.raises(ValueError, match=r"model .* is refused: .*layer3.* and \d+ others"):
            auto.from_pretrained(folder, trust_remote_code=True)


@pytest.mark.parametrize(
    "case", ["the head renamed", "a surplus tensor in the head", "whole numbers", "swapped labels"]
)
def test_folders_whose_code_is_older_are_checked(folder, case):
    """The code of version 0.1 takes `from_pretrained` from transformers, and its configuration accepts any labels."""
    for name, new, old in [
        ("modeling_gloresnet.py", "from .loading_gloresnet import", "from transformers import PreTrainedModel as"),
        ("configuration_gloresnet.py", "def validate_labels", "def unused"),
    ]:
        code = (folder / name).read_text()
        assert new in code
        (folder / name).write_text(code.replace(new, old))
    model, _ = load_model(str(folder))
    assert type(model.module).from_pretrained.__func__ is PreTrainedModel.from_pretrained.__func__
    change, words = CASES[case]
    change(folder)
    with pytest.raises(ModelError, match=words):
        load_model(str(folder))


def test_the_caller_may_judge_what_is_missing(folder):
    rename("classifier", "head")(folder)
    model, found = GloResNetForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert found["missing_keys"] == {"classifier.bias", "classifier.weight"}
    assert found["unexpected_keys"] == {"head.bias", "head.weight"}


def test_a_head_for_other_labels_is_initialised_on_request(folder):
    with pytest.raises(ValueError, match=r"2 are of another shape \(classifier.bias \(2,\) instead of \(3,\)"):
        GloResNetForImageClassification.from_pretrained(folder, num_labels=3)
    model = GloResNetForImageClassification.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    assert model.classifier.weight.shape == (3, 8) and len(model.config.id2label) == 3
    CASES["a convolution missing"][0](folder)
    with pytest.raises(ValueError, match="1 is missing"):
        GloResNetForImageClassification.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)


def test_settings_given_while_loading_are_checked(folder):
    assert GloResNetForImageClassification.from_pretrained(folder, threshold=0.3).config.threshold == 0.3
    with pytest.raises(StrictDataclassError, match="threshold is a probability"):
        GloResNetForImageClassification.from_pretrained(folder, threshold=3)


def test_the_encoder_leaves_out_the_head_and_nothing_else(folder):
    encoder, found = GloResNetModel.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    assert torch.equal(encoder.stem.conv1.weight, load_file(folder / WEIGHTS)["gloresnet.stem.conv1.weight"])
    encoder.save_pretrained(folder / "encoder")
    GloResNetModel.from_pretrained(folder / "encoder")
    with pytest.raises(ValueError, match="2 are missing .*classifier"):  # it would answer with a random head
        GloResNetForImageClassification.from_pretrained(folder / "encoder")


def test_weights_in_several_files_and_links_are_read(folder, tmp_path):
    expected = answer(folder)
    model = GloResNetForImageClassification.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    assert answer(folder) == expected
    for file in folder.glob("*.safetensors"):  # as in the cache of the Hub
        file.rename(tmp_path / file.name)
        file.symlink_to(tmp_path / file.name)
    assert answer(folder) == expected


def test_half_precision_is_accepted(folder):
    GloResNetForImageClassification.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    assert load_file(folder / WEIGHTS)["classifier.weight"].dtype == torch.float16
    model, _ = load_model(str(folder))
    assert model.dtype == "float16"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (weights(lambda t: t.pop("members.1.classifier.bias") is None), r"1 is missing \(members.1.classifier.bias\)"),
        (settings(CONFIG, member_temperatures=[1.0, 2.0, 3.0]), "are missing .*members.2"),
        (settings(CONFIG, member_temperatures=[1.0]), "are unexpected .*members.1"),
        (settings(CONFIG, member_temperatures=None), "needs config.member_temperatures"),
        (settings(CONFIG, member_temperatures=[1.0, 0]), "every member temperature must be"),
        (settings(CONFIG, temperature=2.0), "temperature is 2.0, but the members"),
    ],
)
def test_a_manipulated_ensemble_is_refused(place, change, words):
    ensemble = GloResNetEnsembleForImageClassification.from_members([tiny(0), tiny(1, temperature=2.0)])
    export_model(ensemble, GloResNetImageProcessor(image_size=SIZE), place, "card")
    try:
        load_model(str(place))
        change(place)
        with pytest.raises(ModelError, match=words):
            load_model(str(place))
    finally:
        shutil.rmtree(place)
