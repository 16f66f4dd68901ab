"""Model folders that somebody, or a broken copy, has changed: each is refused in one sentence that names the fault.

Every case changes one thing in a sound folder of a tiny network with seeded weights.
"""

import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageClassification, PreTrainedModel

from modeling_gloresnet import (
    GloResNetConfig,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
    GloResNetModel,
)
from preprocessing import GloResNetImageProcessor
from preprocessing.appearance_gloresnet import DESCRIPTORS
from publishing.export import export_model
from screening.loading import ModelError, load_model

SIZE = 16
WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
INDEX = "model.safetensors.index.json"
CONV = "gloresnet.layer1.0.conv1.weight"
WIDENING = "gloresnet.layer2.0.conv1.weight"
APPEARANCE = {name: [0.5, 0.1] for name in DESCRIPTORS}


def tiny(seed=0, **config):
    torch.manual_seed(seed)
    geometry = {"stem_channels": 4, "widths": [4, 8, 8, 8], "image_size": SIZE, "head_init_std": 1.0}
    return GloResNetForImageClassification(GloResNetConfig(**geometry | config)).eval()


# ---- changes: each takes the folder ----


def weights(change):
    """Change the tensors, a dictionary by name, and write them again."""

    def apply(folder):
        tensors = load_file(folder / WEIGHTS)
        tensors = change(tensors) or tensors
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, {"format": "pt"})

    return apply


def settings(name, **values):
    """Replace settings of a JSON file; None removes one."""

    def apply(folder):
        content = json.loads((folder / name).read_text()) | values
        content = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(content))

    return apply


def remove(name):
    return lambda folder: (folder / name).unlink()


def cut(name, share):
    def apply(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return apply


def each(*changes):
    return lambda folder: [change(folder) for change in changes] and None


def values(name, value, where=slice(-1, None)):
    """Set values of a tensor, the last one by default."""

    def change(tensors):
        tensors[name].view(-1)[where] = value

    return weights(change)


def rename(old, new):
    return weights(lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()})


def as_type(kind, pattern=""):
    return weights(
        lambda tensors: {
            name: (tensor * 100).to(kind) if pattern in name and tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
    )


def pickled(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def running_pickle(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Ran()))


class Ran:
    def __reduce__(self):
        return (os.mkdir, ("a-pickle-ran",))


def sharded(place):
    """Weights in one shard at `place`, relative to the folder."""

    def apply(folder):
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        save_file(tensors, folder / place, {"format": "pt"})
        entries = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, place)}
        (folder / INDEX).write_text(json.dumps(entries))

    return apply


def linked(target):
    def apply(folder):
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).symlink_to(target)

    return apply


def piped(folder):
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def zero_hole(folder):
    """The last half of the file was never written, as after a crash: it reads as zeros."""
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


# name -> (change, words of the refusal)
CASES = {
    # tensors: names, shapes, kinds, values
    "a weight missing": (weights(lambda t: t.pop("classifier.weight") is None), r"1 is missing \(classifier.weight\)"),
    "a convolution missing": (weights(lambda t: t.pop(CONV) is None), "1 is missing .*layer1.0.conv1.weight"),
    "a running mean missing": (weights(lambda t: t.pop("gloresnet.stem.bn1.running_mean") is None), "1 is missing"),
    "the head renamed": (
        rename("classifier", "head"),
        "2 are missing .*classifier.bias.* 2 are unexpected .*head.bias",
    ),
    "a stage renamed": (rename("layer3", "layer5"), r"missing \(.*layer3.* and \d+ others\).*unexpected \(.*layer5"),
    "names in upper case": (weights(lambda t: {n.upper(): v for n, v in t.items()}), "are missing .* are unexpected"),
    "a surplus tensor": (weights(lambda t: t.update(extra=torch.ones(2))), r"1 is unexpected \(extra\)"),
    "a surplus tensor in the head": (
        weights(lambda t: t.update({"classifier.extra": torch.ones(2)})),
        r"1 is unexpected \(classifier.extra\)",
    ),
    "a whole surplus member": (
        weights(lambda t: t.update({f"members.1.{n}": v.clone() for n, v in t.items()})),
        "unexpected .*members.1",
    ),
    "no tensor at all": (weights(lambda t: {"nothing": torch.ones(1)}), "are missing"),
    "an empty dictionary": (lambda folder: save_file({}, folder / WEIGHTS), "are missing"),
    "a transposed head": (
        weights(lambda t: t.update({"classifier.weight": t["classifier.weight"].T.contiguous()})),
        r"of another shape \(classifier.weight \(8, 2\) instead of \(2, 8\)\)",
    ),
    "a transposed convolution": (
        weights(
            lambda t: t.update(
                {"gloresnet.layer2.0.conv1.weight": t["gloresnet.layer2.0.conv1.weight"].mT.transpose(0, 1)}
            )
        ),
        r"layer2.0.conv1.weight \(4, 8, 3, 3, 3\) instead of \(8, 4, 3, 3, 3\)",
    ),
    "widths of another network": (settings(CONFIG, widths=[4, 8, 8, 16]), "of another shape"),
    "depths of another network": (settings(CONFIG, depths=[2, 1, 1, 1]), "are missing .*layer1.1"),
    "whole numbers": (as_type(torch.int8), r"floating-point numbers, but .* is I8 .* others"),
    "whole numbers in one statistic": (as_type(torch.int64, "stem.bn1.running_var"), "running_var is I64"),
    "complex numbers": (as_type(torch.complex64, "classifier.weight"), "classifier.weight is C64"),
    "NaN": (values("classifier.bias", float("nan")), "not finite in classifier.bias:"),
    "infinity": (values(CONV, float("inf")), "not finite in .*conv1.weight:"),
    "NaN in a running mean": (values("gloresnet.stem.bn1.running_mean", float("nan")), "not finite in .*running_mean:"),
    "a negative variance": (values("gloresnet.stem.bn1.running_var", -0.5), "negative variances in .*running_var:"),
    "a convolution of zeros": (values(CONV, 0.0, slice(None)), "only zeros in .*conv1.weight:"),
    "half the file is zeros": (zero_hole, "only zeros in .* others:"),
    # files
    "an empty file": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "model.safetensors is damaged"),
    "a file cut in the middle": (cut(WEIGHTS, 0.5), "model.safetensors is damaged"),
    "a file without its last byte": (cut(WEIGHTS, 0.99999), "model.safetensors is damaged"),
    "a huge header": (lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 64), "model.safetensors is damaged"),
    "a pickle instead of safetensors": (pickled, "model.safetensors"),
    "a pickle that runs code": (running_pickle, "model.safetensors"),
    "no weights": (remove(WEIGHTS), "model.safetensors"),
    "a shard outside the folder": (sharded("../outside.safetensors"), "'../outside.safetensors', which is not a file"),
    "a shard that is missing": (each(sharded("model-1.safetensors"), remove("model-1.safetensors")), "not a file"),
    "an index without a map": (
        each(sharded("model-1.safetensors"), settings(INDEX, weight_map=None)),
        "index.json names",
    ),
    "a link to nowhere": (linked("nowhere"), "model.safetensors"),
    "a link to itself": (linked(WEIGHTS), "model.safetensors"),
    "a pipe instead of weights": (piped, "model.safetensors"),
    "no processor": (remove(PROCESSOR), "has no preprocessor_config.json"),
    "no configuration": (remove(CONFIG), "has no config.json"),
    "half a configuration": (cut(CONFIG, 0.5), "config.json is not valid JSON"),
    "half the settings of the processor": (cut(PROCESSOR, 0.5), "preprocessor_config.json is not valid JSON"),
    "a list as configuration": (
        lambda folder: (folder / CONFIG).write_text("[1]"),
        "must hold a JSON object, found list",
    ),
    "a thousand nested lists": (
        lambda folder: (folder / CONFIG).write_text("[" * 100_000 + "]" * 100_000),
        "config.json is not valid JSON",
    ),
    "no code": (remove("modeling_gloresnet.py"), "modeling_gloresnet.py"),
    # settings
    "a processor of another size": (settings(PROCESSOR, image_size=32), "32 voxels per edge, .*expects 16"),
    "a model of another size": (settings(CONFIG, image_size=32), "16 voxels per edge, .*expects 32"),
    "swapped labels": (
        settings(CONFIG, id2label={"0": "injury", "1": "normal"}, label2id={"injury": 0, "normal": 1}),
        "output 1 is the probability of injury, but id2label says",
    ),
    "swapped labels in one direction": (
        settings(CONFIG, id2label={"0": "injury", "1": "normal"}),
        "contradict each other",
    ),
    "renamed labels in one direction": (settings(CONFIG, id2label={"0": "fine", "1": "hurt"}), "contradict each other"),
    "labels of other outputs": (settings(CONFIG, label2id={"normal": 1, "injury": 0}), "contradict each other"),
    "equal labels": (settings(CONFIG, id2label={"0": "injury", "1": "injury"}, label2id=None), "a name of its own"),
    "labels that count from 1": (settings(CONFIG, id2label={"1": "normal", "2": "injury"}, label2id=None), "from 0 on"),
    "three labels": (
        each(
            settings(CONFIG, id2label={"0": "a", "1": "b", "2": "c"}, label2id=None),
            weights(lambda t: t.update({"classifier.weight": torch.ones(3, 8), "classifier.bias": torch.ones(3)})),
        ),
        "two labels, .* has 3",
    ),
    "two channels": (
        each(
            settings(CONFIG, num_channels=2),
            weights(lambda t: t.update({"gloresnet.stem.conv1.weight": torch.ones(4, 2, 7, 7, 7)})),
        ),
        "num_channels 2",
    ),
    "eps of 1e9": (settings(PROCESSOR, eps=1e9), "eps is 1000000000.0"),
    "a mask setting of another name": (settings(PROCESSOR, brain_mask="maybe"), "brain_mask is 'maybe'"),
    "a threshold above 1": (settings(CONFIG, threshold=1.5), "threshold is a probability"),
    "a threshold of NaN": (settings(CONFIG, threshold=float("nan")), "threshold is a probability"),
    "a temperature of 0": (settings(CONFIG, temperature=0), "temperature must be"),
    "a negative temperature": (settings(CONFIG, temperature=-1.0), "temperature must be"),
    "an infinite temperature": (settings(CONFIG, temperature=float("inf")), "temperature must be"),
    "a temperature of 1e30": (settings(CONFIG, temperature=1e30), "temperature must be"),
    "the settings of an ensemble": (settings(CONFIG, member_temperatures=[1.0, 2.0]), "ensemble of 2 networks"),
    "a record with NaN": (
        settings(CONFIG, training_appearance=APPEARANCE | {"dark": [float("nan"), 1.0]}),
        "mean and a standard deviation of dark",
    ),
    "half a record": (settings(CONFIG, training_appearance={"dark": [0.5, 0.1]}), "training_appearance lacks bright"),
}


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
    *("three labels", "two channels", "eps of 1e9", "a mask setting of another name", "half a record"),
    *("no processor", "no configuration", "no code"),
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
