"""The image processor of GloResNet, from scans to `pixel_values`: `ScanPreparation` for `transformers`."""

from typing import Any

from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ImagesKwargs

from .framing_gloresnet import FRAME_MM
from .modalities_gloresnet import T2W
from .preparation_gloresnet import ScanPreparation


class GloResNetImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings that `from_pretrained(folder, image_size=...)` can override."""

    image_size: int
    eps: float
    brain_mask: str
    framing: str
    frame_mm: float
    bias_correction: str
    local_stream: bool
    modalities: list[str]


class GloResNetImageProcessor(BaseImageProcessor, ScanPreparation):  # type: ignore[misc]  # two kinds of __call__
    """Reorients a scan to RAS, resamples the whole volume to a cube and standardises it (arXiv 2606.02498).

    The arguments are those of `ScanPreparation`. A model folder contains the settings that its model was trained with.

    Raises:
        ValueError: a setting is invalid.
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = GloResNetImageProcessorKwargs

    def __init__(
        self,
        image_size: int = 128,
        eps: float = 1e-6,
        brain_mask: str = "none",
        framing: str = "field_of_view",
        frame_mm: float = FRAME_MM,
        bias_correction: str = "none",
        local_stream: bool = False,
        modalities: list[str] | tuple[str, ...] = (T2W,),
        **kwargs,
    ):
        # AutoFeatureExtractor and AutoProcessor look for this entry; saving adds that of AutoImageProcessor
        kwargs.setdefault("auto_map", {"AutoFeatureExtractor": "image_processing_gloresnet.GloResNetImageProcessor"})
        BaseImageProcessor.__init__(self, **kwargs)
        ScanPreparation.__init__(
            self, image_size, eps, brain_mask, framing, frame_mm, bias_correction, local_stream, modalities
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings. Those for T2w alone do not name its modality."""
        settings = super().to_dict()
        if settings.get("modalities") == [T2W]:
            del settings["modalities"]
        return settings

    def preprocess(
        self, images, mask=None, return_tensors: str | None = None, local_stream: bool | None = None
    ) -> BatchFeature:
        """Prepare one or several scans. Calling the processor does the same.

        Args:
            images: a path, a nibabel image, an array or tensor `(R, A, S)` or `(1, R, A, S)`; a dictionary of these
                by modality, such as `{"T2w": ..., "T1w": ...}`, which all lie in the T2w scan's world space; a list of
                any of these; or a batch `(B, 1, R, A, S)`. Modalities may be missing, except T2w. Arrays without an
                affine are assumed to be RAS; with `framing="head"` they are refused. See `read_volume`.
            mask: one brain mask per scan, on the grid of its T2w image, in the same forms; only with
                `brain_mask="required"`.
            return_tensors: `"pt"`, `"np"`, or None for a list of numpy arrays.
            local_stream: `False` leaves out the inputs of the local stream; None follows the setting.

        Returns:
            `pixel_values`: `(B, C, image_size, image_size, image_size)` float32, axes R, A, S, one channel per entry of
            `modalities`. Each channel has mean 0 and standard deviation 1, or is 0 if it is missing. With several
            channels also `presence`: `(B, C)` bool, which modalities each scan has. With a local stream also
            `local_patches`, `local_positions`, `local_valid` and `local_shares`, see `stack_local_inputs`.

        Warns:
            VolumeWarning: a scan or mask is doubtful: its `Volume.warnings`; a modality is missing; or the local stream
                cannot judge a scan.

        Raises:
            VolumeError: (a ValueError) a scan or mask cannot be used, or there are no masks, too many or too few.
        """
        data = self.prepare(images, mask, local_stream)
        lists = data if return_tensors else {name: list(rows) for name, rows in data.items()}
        return BatchFeature(data=lists, tensor_type=return_tensors)


GloResNetImageProcessor.register_for_auto_class("AutoImageProcessor")
