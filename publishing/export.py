"""Write model folders for the Hub: weights, configurations, the code that loads them, and a card."""

import shutil
from pathlib import Path

from modeling_gloresnet import (
    BaselineForImageClassification,
    GloResNetEnsembleForImageClassification,
    GloResNetForImageClassification,
)
from preprocessing import GloResNetImageProcessor
from run_folder.files import replacing_folder
from screening.modalities import modalities_of


def export_model(
    model: GloResNetForImageClassification | GloResNetEnsembleForImageClassification | BaselineForImageClassification,
    processor: GloResNetImageProcessor,
    folder: Path,
    card: str,
) -> None:
    """Write a folder that every auto class loads with `trust_remote_code=True`, without this project installed.

    The folder of a baseline needs MONAI to load (the error names it if it is missing), and `AutoModel` does not load
    it, because baselines give no features. An existing folder is replaced when the new one is complete.

    Args:
        model: on any device. Its weights are saved as safetensors in their own precision.
        processor: with the model's image size.
        folder: for example `runs/NAME/fold-4/model`.
        card: the text of README.md.

    Raises:
        ValueError: model and processor disagree on the image size or the modalities.
    """
    if processor.image_size != model.config.image_size:
        raise ValueError(
            f"The processor makes volumes with {processor.image_size} voxels per edge, but the model expects "
            f"{model.config.image_size}: give both the same image_size."
        )
    made, taken = modalities_of(processor), modalities_of(model.config)
    if made != taken:
        raise ValueError(
            f"The processor prepares {made}, but the model expects {taken}: give both the same modalities."
        )
    with replacing_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        # save_pretrained makes the weights readable by their owner only, but a group may share its runs
        shutil.copymode(unfinished / "config.json", unfinished / "model.safetensors")
        (unfinished / "README.md").write_text(card, encoding="utf-8")
