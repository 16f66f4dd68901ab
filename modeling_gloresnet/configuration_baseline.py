"""Configuration of the paper's other architectures (Table 2), as far as MONAI builds them."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_gloresnet import ScreeningConfig

# the least edge of a volume, and what it must be a multiple of
SIZES = {"vit_base": (16, 16), "swin_unet_encoder": (32, 32), "densenet121": (29, 1)}


def wrong_size(architecture: str, image_size: int) -> str | None:
    """Why this architecture cannot take volumes of `image_size` voxels an edge, and the nearest that it can; or None.

    A ViT cuts them into patches of 16. A Swin transformer cuts patches of 4 and halves the grid three times; MONAI's
    would pad other sizes with zeros. A DenseNet-121 halves its map five times, rounding down after the second.
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
    """Which baseline it is, the lattice it takes, and the labels and inference settings of every screening network.

    Args:
        architecture: `vit_base`, `swin_unet_encoder` or `densenet121`; it fixes the whole geometry.
        image_size: edge of the cubic input lattice, voxels. The network takes no other.
        test_time_augmentation, temperature, threshold, provenance, training_appearance: see `GloResNetConfig`.

    Raises:
        `StrictDataclassError`: for a field of the wrong type, or an image size that the architecture cannot take.
    """

    model_type = "gloresnet_baseline"

    architecture: Literal["vit_base", "swin_unet_encoder", "densenet121"] = "densenet121"

    def validate_geometry(self):
        """The lattice fits the architecture."""
        if self.num_channels != 1:
            raise ValueError(f"A scan has one channel, not {self.num_channels}.")
        if message := wrong_size(self.architecture, self.image_size):
            raise ValueError(message)


__all__ = ["BaselineConfig"]
