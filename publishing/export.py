"""The one writer of Hub folders: weights, configurations, the code to run them, and a card."""

import shutil
from pathlib import Path

from transformers.dynamic_module_utils import custom_object_save

from architectures.networks import is_resnet
from modeling_gloresnet import (
    BaselineForImageClassification,
    GloResNetForImageClassification,
    VolumeClassificationPipeline,
)
from preprocessing import GloResNetImageProcessor


def export_model(
    model: GloResNetForImageClassification | BaselineForImageClassification,
    processor: GloResNetImageProcessor,
    folder: Path,
    card: str,
) -> None:
    """Write a folder that every auto class loads with `trust_remote_code=True`, with nothing of this project installed.

    A baseline's needs MONAI, which loading asks for by name, and has no `AutoModel`: it gives no features. The folder
    is written beside and renamed; one that is there already is replaced.

    Args:
        model: on any device; its weights are saved as safetensors in their own precision.
        processor: with the model's image size.
        folder: for instance `runs/NAME/fold-4/model`.
        card: the text of its README.md.

    Raises:
        ValueError: model and processor disagree on the image size.
    """
    if processor.image_size != model.config.image_size:
        raise ValueError(
            f"The processor makes volumes of {processor.image_size} voxels an edge, the model expects "
            f"{model.config.image_size}: give both the same image_size."
        )
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    # `save_pretrained` registers the head only; without these two, AutoModel and pipeline() do not find their class
    if is_resnet(model.config):
        model.config.auto_map = {"AutoModel": "modeling_gloresnet.GloResNetModel"}
    model.config.custom_pipelines = {
        "image-classification": {
            "impl": "pipeline_gloresnet.VolumeClassificationPipeline",
            "pt": ["AutoModelForImageClassification"],
        }
    }
    model.save_pretrained(beside)
    processor.save_pretrained(beside)
    custom_object_save(VolumeClassificationPipeline, beside)
    # the library writes the weights for their owner only; a group shares its runs
    shutil.copymode(beside / "config.json", beside / "model.safetensors")
    (beside / "README.md").write_text(card, encoding="utf-8")
    if folder.exists():
        retired = folder.with_name(f".{folder.name}.retired")
        shutil.rmtree(retired, ignore_errors=True)
        folder.rename(retired)
        beside.rename(folder)
        shutil.rmtree(retired)
    else:
        beside.rename(folder)
