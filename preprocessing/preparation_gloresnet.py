"""From scans to the arrays that a network takes, and the settings that decide about them. Imports no torch.

`GloResNetImageProcessor` offers this to `transformers`. Converted files are screened with it as it is.
"""

import numbers
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .appearance_gloresnet import coarser, unusual
from .arrays_gloresnet import is_array, longest_edge
from .bias_gloresnet import correct_bias
from .candidates_gloresnet import LocalInputs, local_inputs, stack_local_inputs
from .framing_gloresnet import FRAME_MM, frame_head
from .masks_gloresnet import brain_voxels
from .modalities_gloresnet import T2W, Channels, check_modalities, images_by_modality, map_modalities
from .reading_gloresnet import VolumeError, VolumeWarning
from .volume_gloresnet import Volume, apply_mask, is_volume, read_labels, read_volume

SETTINGS = (
    "image_size",
    "eps",
    "brain_mask",
    "framing",
    "frame_mm",
    "bias_correction",
    "local_stream",
)  # what decides about the T2w channel; `modalities`, which decides about the others, is also in the model's config


class PreparedScans(dict):
    """The inputs of a network by name; each is also an attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class ScanPreparation:
    """Reorients a scan to RAS, resamples the whole volume to a cube and standardises it (arXiv 2606.02498).

    Args:
        image_size: edge of the cube in voxels, from 16 to 512.
        eps: added to the standard deviation, in the intensity units of the scan; at most 1e-3.
        brain_mask: `"none"` takes whole-head scans; `"required"` needs a brain mask for every scan and sets all voxels
            outside it to 0. A model folder contains the setting that its model was trained with.
        framing: `"field_of_view"` maps the whole field of view to the cube, as the paper does; `"head"` maps a frame of
            fixed size in millimetres around the head, see `frame_head`. It needs scipy.
        frame_mm: edge of that frame in mm.
        bias_correction: `"none"` takes scans as they are; `"n4"` divides each by its bias field, see `correct_bias`,
            after the mask and before the frame. It needs SimpleITK.
        local_stream: whether to also prepare what the local stream of a model needs, see `local_inputs`. It needs
            scipy.
        modalities: what each channel shows: T2w, then any of T1w, FA and MD, see `map_modalities`. Several need scipy.

    Raises:
        ValueError: a setting is invalid.
    """

    image_size: int
    eps: float
    brain_mask: str
    framing: str
    frame_mm: float
    bias_correction: str
    local_stream: bool
    modalities: list[str]

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
    ):
        if isinstance(image_size, bool) or not isinstance(image_size, numbers.Integral) or not 16 <= image_size <= 512:
            raise ValueError(f"image_size is {image_size!r}: give one whole number of voxels, from 16 to 512.")
        # a larger eps would leave scans with a small intensity range without a standard deviation of 1
        if not isinstance(eps, numbers.Real) or not 0 < eps <= 1e-3:
            raise ValueError(f"eps is {eps!r}: give a small number above 0 and at most 1e-3, such as 1e-6.")
        if brain_mask not in ("none", "required"):
            raise ValueError(f'brain_mask is {brain_mask!r}: give "none" or "required".')
        if framing not in ("field_of_view", "head"):
            raise ValueError(f'framing is {framing!r}: give "field_of_view" or "head".')
        if isinstance(frame_mm, bool) or not isinstance(frame_mm, numbers.Real) or not 50 <= frame_mm <= 500:
            raise ValueError(f"frame_mm is {frame_mm!r}: give the edge of the frame in mm, from 50 to 500.")
        if bias_correction not in ("none", "n4"):
            raise ValueError(f'bias_correction is {bias_correction!r}: give "none" or "n4".')
        if not isinstance(local_stream, bool):
            raise ValueError(f"local_stream is {local_stream!r}: give true or false.")
        self.image_size = int(image_size)
        self.eps = float(eps)
        self.brain_mask = brain_mask
        self.framing = framing
        self.frame_mm = float(frame_mm)
        self.bias_correction = bias_correction
        self.local_stream = local_stream
        self.modalities = check_modalities(modalities)

    def __call__(
        self, images, mask=None, return_tensors: str | None = None, local_stream: bool | None = None
    ) -> "PreparedScans":
        """What calling a `GloResNetImageProcessor` does: the same arguments and results. Only `"pt"` needs torch."""
        data = self.prepare(images, mask, local_stream)
        if return_tensors == "pt":
            import torch

            return PreparedScans({name: torch.from_numpy(rows) for name, rows in data.items()})
        return PreparedScans(data if return_tensors else {name: list(rows) for name, rows in data.items()})

    def prepare(self, images, mask=None, local_stream: bool | None = None) -> dict[str, np.ndarray]:
        """The arrays that `GloResNetImageProcessor.preprocess` returns, from the same arguments."""
        scans = _as_list(images, "image")
        if mask is not None and self.brain_mask == "none":
            raise VolumeError('A mask was given, but this processor has brain_mask="none": leave the mask out.')
        if mask is None and self.brain_mask == "required":
            raise VolumeError(
                f'No mask was given for {len(scans)} scan(s), but this model has brain_mask="required":'
                " pass the brain mask of each scan as mask=."
            )
        masks = [(None, "")] * len(scans) if mask is None else _as_list(mask, "mask")
        if len(masks) != len(scans):
            raise VolumeError(f"{len(scans)} scans came with {len(masks)} masks: give one mask per scan.")

        local_stream = self.local_stream if local_stream is None else local_stream
        found = []
        pixel_values = np.empty((len(scans), len(self.modalities)) + (self.image_size,) * 3, dtype=np.float32)
        presence = np.empty(pixel_values.shape[:2], bool)
        for number, ((scan, name), (brain, mask_name)) in enumerate(zip(scans, masks, strict=True)):
            images = images_by_modality(scan, self.modalities, name)
            volume = read_volume(images.pop(T2W), name)
            if mask is not None:
                volume = apply_mask(volume, brain, mask_name)
            volume = self.frame(self.correct(volume))
            channels = self.map(volume, images, brain)
            pixel_values[number], presence[number] = channels.pixel_values, channels.presence
            sentences = volume.warnings + channels.warnings
            if local_stream:
                found.append(self.search(volume))
                sentences += (found[-1].warning,) if found[-1].warning else ()
            for sentence in sentences:
                warnings.warn(f"{volume.source}: {sentence}", VolumeWarning, stacklevel=4)
        data = {"pixel_values": pixel_values} | (stack_local_inputs(found) if local_stream else {})
        return data | ({"presence": presence} if len(self.modalities) > 1 else {})

    def correct(self, volume: Volume) -> Volume:
        """The volume without its bias field, if this processor corrects it.

        Args:
            volume: with its mask applied, if there is one. It is returned as it is if it was corrected before.

        Raises:
            VolumeError: see `correct_bias`.
        """
        if self.bias_correction == "none" or volume.bias_corrected:
            return volume
        return correct_bias(volume, masked=self.brain_mask == "required")

    def frame(self, volume: Volume) -> Volume:
        """The volume with the part that the network sees as its `frame`, and the warnings about it.

        Args:
            volume: with its mask applied, if there is one, and corrected. A frame that it already has is kept.

        Raises:
            VolumeError: see `frame_head`.
        """
        return frame_head(volume, self.frame_mm) if self.framing == "head" and volume.frame is None else volume

    def map(self, volume: Volume, others: Mapping[str, Any], mask: Any = None) -> Channels:
        """The input of the network for one scan.

        Args:
            volume: the T2w scan as `frame` returns it.
            others: its further images by modality, see `map_modalities`.
            mask: its brain mask, if there is one.

        Raises:
            VolumeError: see `map_modalities`.
        """
        masked = mask is not None and bool(others)
        brain = brain_voxels(read_labels(mask).data, "the mask")[0] if masked else None
        corrects = self.bias_correction == "n4"
        return map_modalities(volume, others, self.modalities, self.image_size, self.eps, brain, corrects)

    def search(self, volume: Volume) -> LocalInputs:
        """What the local stream needs of one scan.

        Args:
            volume: with its mask applied, if there is one, and corrected. Its frame does not matter.

        Raises:
            VolumeError: scipy is not installed.
        """
        return local_inputs(volume, masked=self.brain_mask == "required")

    def unusual(self, pixel_values, trained_on: dict[str, list[float]] | None) -> list[list[str]]:
        """Warnings about prepared scans that differ from a model's training scans.

        Args:
            pixel_values: `(B, C, R, A, S)`, as this processor makes them: tensor or arrays. T2w, the first channel,
                counts.
            trained_on: `model.config.training_appearance`.

        Returns:
            One list of sentences per scan, empty for a scan that looks like the training scans.
        """
        return [unusual(np.asarray(scan)[0], trained_on) for scan in pixel_values]

    def coarser(self, image, trained_on: dict[str, list[float]] | None) -> list[str]:
        """Warnings about one scan whose voxels are longer than those of a model's training scans.

        Args:
            image: the scan, as `preprocess` takes it. Its header is read again, not its voxels.
            trained_on: `model.config.training_appearance`.
        """
        return coarser(longest_edge(image[T2W] if isinstance(image, Mapping) else image), trained_on)


def _as_list(sources, kind: str) -> list[tuple]:
    """`(source, name)` of each volume. Messages use the name if the volume has no path."""
    if is_array(sources):
        if sources.ndim == 4 and 1 not in (sources.shape[0], sources.shape[-1]):
            raise VolumeError(
                f"The {kind} array has shape {tuple(sources.shape)}, which could be frames or a batch:"
                " give a list of 3D arrays, or (B, 1, R, A, S)."
            )
        batch = sources.ndim == 5 and sources.shape[1] == 1
        if batch and len(sources) > 1 and hasattr(sources, "affine") and not getattr(sources, "is_batch", False):
            raise VolumeError(f"The {kind} batch was stacked and has only the affine of its first scan: give a list.")
        sources = [sources[n] for n in range(len(sources))] if batch else [sources]
    elif is_volume(sources) or not isinstance(sources, (list, tuple)):
        sources = [sources]
    if len(sources) == 0:
        raise VolumeError(f"The list of {kind}s is empty: give at least one scan.")
    return [(source, f"the {kind}" if len(sources) == 1 else f"{kind} {n}") for n, source in enumerate(sources)]
