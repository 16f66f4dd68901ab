"""Configuration of the paper's baselines (Table 2) that are built with MONAI."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_gloresnet import ScreeningConfig

# the smallest edge of a volume, and the number that it must be a multiple of
SIZES = {"vit_base": (16, 16), "swin_unet_encoder": (32, 32), "densenet121": (29, 1)}


def wrong_size(architecture: str, image_size: int) -> str | None:
    """Say why this architecture cannot take volumes of this edge and which sizes are nearest; None if it can.

    A ViT cuts the volume into patches of 16 voxels. A Swin transformer cuts patches of 4 and halves the grid three
    times; MONAI's version pads other sizes with zeros. A DenseNet-121 halves its feature map five times, rounding down
    after the second time.
    """
    least, multiple = SIZES[architecture]
    if image_size >= least and image_size % multiple == 0:
        return None
    below = image_size // multiple * multiple
    nearest = [size for size in (below, below + multiple) if size >= least] or [least]
    sizes = "edges" if multiple == 1 else f"multiples of {multiple} voxels as edges"
    at_least = f" of {least} voxels or more" if multiple == 1 else ""
    return (
        f"{architecture} takes {sizes}{at_least}, but image_size is {image_size}: "
        f"the nearest {'is' if len(nearest) == 1 else 'are'} {' and '.join(map(str, nearest))}."
    )


@strict
class BaselineConfig(ScreeningConfig):
    """Architecture and input size of a baseline, plus the labels and inference settings of every screening network.

    Args:
        architecture: `vit_base`, `swin_unet_encoder` or `densenet121`. It determines the whole geometry.
        image_size: edge of the cubic input volume, voxels. The network accepts no other size.
        modalities, test_time_augmentation, temperature, threshold, provenance, training_appearance: see
            `GloResNetConfig`.

    Raises:
        `StrictDataclassError`: for a field of the wrong type, or an image size that the architecture cannot take.
    """

    model_type = "gloresnet_baseline"

    architecture: Literal["vit_base", "swin_unet_encoder", "densenet121"] = "densenet121"

    def validate_geometry(self):
        """Check that the architecture can take this image size."""
        if message := wrong_size(self.architecture, self.image_size):
            raise ValueError(message)


# `save_pretrained` then copies the code into the model folder
BaselineConfig.register_for_auto_class()

__all__ = ["BaselineConfig"]
