"""Changes to a sound model folder, as an attacker or a broken copy makes them, and the words of each refusal."""

import json
import os
import pickle

import torch
from safetensors.torch import load_file, save_file

from preprocessing.appearance_gloresnet import DESCRIPTORS

WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
INDEX = "model.safetensors.index.json"
CONV = "gloresnet.layer1.0.conv1.weight"
WIDENING = "gloresnet.layer2.0.conv1.weight"
APPEARANCE = {name: [0.5, 0.1] for name in DESCRIPTORS}


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


def encoder_as_classifier(folder):
    entries = json.loads((folder / CONFIG).read_text())["auto_map"]
    settings(CONFIG, auto_map=entries | {"AutoModelForImageClassification": entries["AutoModel"]})(folder)


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
    "a surplus tensor with a long name": (
        weights(lambda t: t.update({"a\nb" * 9999: torch.ones(2)})),
        "1 is unexpected",
    ),
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
    "an empty file": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "model.safetensors cannot be read"),
    "a file cut in the middle": (cut(WEIGHTS, 0.5), "model.safetensors cannot be read"),
    "a file without its last byte": (cut(WEIGHTS, 0.99999), "model.safetensors cannot be read"),
    "a huge header": (lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 64), "model.safetensors cannot be read"),
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
    "half a configuration": (cut(CONFIG, 0.5), "config.json cannot be read as JSON"),
    "half the settings of the processor": (cut(PROCESSOR, 0.5), "preprocessor_config.json cannot be read as JSON"),
    "a list as configuration": (
        lambda folder: (folder / CONFIG).write_text("[1]"),
        "must hold a JSON object, found list",
    ),
    "a thousand nested lists": (
        lambda folder: (folder / CONFIG).write_text("[" * 100_000 + "]" * 100_000),
        "config.json cannot be read as JSON",
    ),
    "no code": (remove("modeling_gloresnet.py"), "modeling_gloresnet.py"),
    # settings
    "the encoder as classifier": (encoder_as_classifier, "is a GloResNetModel, not a model of this project"),
    "another processor": (
        settings(PROCESSOR, image_processor_type="ViTImageProcessor", auto_map=None),
        "processor is a ViTImageProcessor",
    ),
    "another kind of model": (settings(CONFIG, model_type="vit", auto_map=None), "not a model of this project"),
    "a processor with another framing than in training": (
        each(
            settings(CONFIG, provenance={"preprocessing": {"framing": "field_of_view"}}),
            settings(PROCESSOR, framing="head"),
        ),
        "the processor has framing head, but the model was trained with field_of_view",
    ),
    "a processor with another frame than in training": (
        each(settings(CONFIG, provenance={"preprocessing": {"frame_mm": 150.0}}), settings(PROCESSOR, frame_mm=300)),
        "the processor has frame_mm 300.*, but the model was trained with 150",
    ),
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
