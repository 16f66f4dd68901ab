"""Further images of a session (T1w, FA, MD) as channels on the cube of its T2w scan.

Each image has its own grid and an affine into the T2w scan's world millimetres. The cube's voxels are looked up in that
grid directly: one interpolation, however the image lies. No array of an image is turned or resampled before.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .appearance_gloresnet import FOREGROUND, check_standardised
from .bias_gloresnet import correct_bias
from .reading_gloresnet import VolumeError
from .resampling_gloresnet import standardise, whole_grid
from .volume_gloresnet import Volume, map_volume, read_volume

T2W = "T2w"
MODALITIES = (T2W, "T1w", "FA", "MD")  # FA and MD: fractional anisotropy and mean diffusivity, in any unit
ACQUIRED = ("T1w",)  # images with a bias field; FA and MD are ratios, where it cancels
OUTSIDE = 1e-6  # voxels; rounding does not put a corner outside a grid
COVERED, DOUBTFUL = 0.5, 0.9  # shares of the head that an image must show, and that it should
WITHIN = 0.5  # of what an image shows, the share that must lie in the head
# An image that tells this much more about the T2w scan when mirrored is refused. Measured on ten newborns' T1w: at most
# 0.53, and 0.64 on an oblique grid of 1.5 mm with noise and 1.5 mm aside; mirrored, at least 1.91 and 1.55. T1w, FA and
# MD of six phantoms: at most 0.86.
MIRRORED = 1.3
SIDES = ("left to right", "back to front", "bottom to top")
COARSE = 32  # voxels per edge that are enough to see it
LEVELS = 16  # of intensity, equally filled


class Channels(NamedTuple):
    """The input of a network for one scan.

    Attributes:
        pixel_values: `(C, n, n, n)` float32, each channel with mean 0 and standard deviation 1, or 0 if it is missing.
        presence: `(C,)` bool, which modalities the scan has. The first, T2w, is always there.
        warnings: sentences about missing and doubtful channels. They do not name the scan.
    """

    pixel_values: np.ndarray
    presence: np.ndarray
    warnings: tuple[str, ...] = ()


def check_modalities(modalities: Sequence[str]) -> list[str]:
    """The modalities as a list, in the order of the channels.

    Raises:
        ValueError: one is unknown or named twice, or the first is not T2w.
    """
    named = [modalities] if isinstance(modalities, str) else list(modalities)
    if named[:1] != [T2W] or len(set(named)) < len(named) or not set(named) <= set(MODALITIES):
        raise ValueError(f"modalities is {modalities!r}: give T2w, then any of {', '.join(MODALITIES[1:])}, each once.")
    return named


def images_by_modality(source: Any, modalities: Sequence[str], name: str = "the image") -> dict[str, Any]:
    """The images of one scan by modality.

    Args:
        source: a dictionary, where None means that an image is missing; or the T2w scan alone.
        modalities: those that the model takes.
        name: of the scan in messages.

    Raises:
        VolumeError: there is no T2w scan, or an image of a modality that the model does not take.
    """
    if not isinstance(source, Mapping):
        return {T2W: source}
    images = {modality: image for modality, image in source.items() if image is not None}
    if T2W not in images:
        raise VolumeError(f"{name} has no T2w scan, only {', '.join(map(str, images)) or 'nothing'}: give T2w too.")
    if surplus := [modality for modality in images if modality not in modalities]:
        raise VolumeError(
            f"{name} has an image of modality {surplus[0]!r}, but this model takes {', '.join(modalities)}: leave it "
            "out."
        )
    return images


def map_modalities(
    volume: Volume,
    others: Mapping[str, Any],
    modalities: Sequence[str] = (T2W,),
    image_size: int = 128,
    eps: float = 1e-6,
    brain: np.ndarray | None = None,
    correct: bool = False,
) -> Channels:
    """Map the images of one scan to the channels of a network.

    Args:
        volume: the T2w scan, masked, corrected for its bias field and framed, as far as the model wants that.
        others: the further images by modality, in any form that `read_volume` accepts. They lie in the T2w scan's
            world space. One without an affine, like the scan, has the scan's grid.
        modalities: those of the channels, in order; T2w is the first. An image that is missing gives zeros.
        image_size, eps: see `map_volume`. Further images are divided by their largest value first, so that their unit
            does not matter.
        brain: `(R, A, S)` bool on the T2w scan's grid, to mask the further images; None for no mask.
        correct: whether to also correct the bias field of those that have one, see `correct_bias`.

    Raises:
        VolumeError: an image cannot be used, or cannot lie where its affine says. The message names its modality.
    """
    scan = map_volume(volume, image_size, eps)
    presence = np.array([modality == T2W or modality in others for modality in modalities])
    channels, sentences = [scan], []
    if missing := missing_modalities(modalities, presence):
        sentences.append(missing)
    for modality in modalities[1:]:
        channel = np.zeros_like(scan)
        if modality in others:
            image = read_volume(others[modality], f"the {modality} image")
            image = image if modality in image.source else image._replace(source=f"{image.source} ({modality})")
            if image.affine is None and volume.affine is None and image.data.shape == volume.data.shape:
                image, on = image._replace(affine=np.eye(4)), volume._replace(affine=np.eye(4))
            else:
                on = volume
            corrects = correct and modality in ACQUIRED
            channel, doubts = _map_onto(on, scan, image, eps, brain, corrects)
            sentences += [f"{modality}: {sentence}" for sentence in (*image.warnings, *doubts)]
        channels.append(channel)
    pixel_values = np.stack(channels) if len(channels) > 1 else scan[None]  # one channel is not copied
    return Channels(pixel_values, presence, tuple(sentences))


def missing_modalities(modalities: Sequence[str], presence: Iterable[bool]) -> str:
    """The sentence that says which modalities a scan lacks; empty if it has all."""
    lacks = [modality for modality, present in zip(modalities, presence, strict=True) if not present]
    has = [modality for modality in modalities if modality not in lacks]
    if not lacks:
        return ""
    return f"The scan has no {_listed(lacks, 'or')}: the answer rests on {_listed(has, 'and')} alone."


def _listed(names: list[str], word: str) -> str:
    return f" {word} ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def _map_onto(
    volume: Volume, scan: np.ndarray, image: Volume, eps: float, brain: np.ndarray | None, correct: bool
) -> tuple[np.ndarray, list[str]]:
    """One further image on the cube of a T2w scan, standardised, and doubts about it.

    Args:
        volume, eps, brain: see `map_modalities`.
        scan: `(n, n, n)`, the standardised cube of the T2w scan.
        image: with an affine.
        correct: whether to correct its bias field.
    """
    ndimage, name = import_ndimage(image.source), image.source
    if image.affine is None or volume.affine is None:
        array = name if image.affine is None else volume.source
        raise VolumeError(
            f"{name} cannot be placed on the T2w scan, because {array} is an array without an affine: give a path, or "
            "nibabel.Nifti1Image(array, affine)."
        )
    size, head, frame = len(scan), scan > FOREGROUND, volume.frame or whole_grid(volume.data.shape)
    first, last = np.array(frame.first), np.array(frame.last)
    to_scan = np.diag([*(last - first) / (size - 1), 1.0])
    to_scan[:3, 3] = first
    blank = first[2] + np.arange(size) * to_scan[2, 2] < frame.bottom
    to_image = np.linalg.inv(image.affine) @ volume.affine @ to_scan
    outside = _outside(to_image, image.data.shape, blank)
    covered = 1 - np.count_nonzero(outside & head) / np.count_nonzero(head)
    if covered < COVERED:
        raise VolumeError(
            f"{name} covers {100 * covered:.0f} % of the head in {volume.source}, so it does not lie where the head "
            "is: check that both are of the same session, and its transform to the T2w scan."
        )
    if brain is not None:
        place = np.linalg.inv(volume.affine) @ image.affine
        inside = ndimage.affine_transform(
            brain.astype(np.uint8), place[:3, :3], place[:3, 3], image.data.shape, order=0, mode="grid-constant"
        )
        image = image._replace(data=image.data * inside)
    if correct and not image.bias_corrected:
        image = correct_bias(image, masked=brain is not None)
    background = _border(image.data) if brain is None else 0.0
    cube = _looked_up(image.data, to_image, outside, background)
    if cube.min() == cube.max():
        raise VolumeError(
            f"{name} is constant on the T2w scan's cube: check that both are of the same session, and its transform."
        )
    channel = check_standardised(standardise(cube / np.abs(cube).max(), eps), name)
    shown = channel > FOREGROUND
    within = np.count_nonzero(shown & head) / np.count_nonzero(shown)
    if within < WITHIN:
        raise VolumeError(
            f"{name} shows its content outside the head in {volume.source} ({100 * (1 - within):.0f} % of it): check "
            "that both are of the same session, and its transform to the T2w scan."
        )
    if side := _mirrored(scan, channel, image.data, to_image, blank, background):
        raise VolumeError(
            f"{name} fits {volume.source} better when mirrored from {side}: check its orientation, its transform to "
            "the T2w scan, and that both are of the same session."
        )
    doubts = [f"It covers {100 * covered:.0f} % of the head; the rest is blank."] if covered < DOUBTFUL else []
    return channel, doubts


def _outside(to_image: np.ndarray, shape: tuple[int, ...], blank: np.ndarray) -> np.ndarray:
    """Which voxels of a cube lie outside a grid of this shape, or in its blank planes along S."""
    outside, steps = np.zeros((len(blank),) * 3, bool), np.arange(len(blank))
    for (x, y, z, start), length in zip(to_image[:3], shape, strict=True):
        at = x * steps[:, None, None] + y * steps[:, None] + z * steps + start
        outside |= (at < -OUTSIDE) | (at > length - 1 + OUTSIDE)
    outside[:, :, blank] = True
    return outside


def _looked_up(data: np.ndarray, to_image: np.ndarray, outside: np.ndarray, background: float) -> np.ndarray:
    """Trilinear interpolation of an image at the voxels of a cube, float64."""
    ndimage = import_ndimage("the image")
    matrix, start = to_image[:3, :3], to_image[:3, 3]
    cube = ndimage.affine_transform(data, matrix, start, outside.shape, np.float64, order=1, mode="nearest")
    cube[outside] = background
    return cube


def _mirrored(
    scan: np.ndarray,
    channel: np.ndarray,
    data: np.ndarray,
    to_image: np.ndarray,
    blank: np.ndarray,
    background: float,
) -> str:
    """From which side to which an image fits the T2w scan better if its own grid is mirrored; empty if it is right.

    Two images of one head tell much about each other, whatever their contrast (mutual information). The sides of a
    brain differ enough to see which is which.

    Args:
        scan, channel: standardised cubes of the T2w scan and of the image.
        data, to_image, blank, background: see `_looked_up` and `_outside`.
    """
    step = max(1, len(scan) // COARSE)
    scan, channel, blank = scan[::step, ::step, ::step], channel[::step, ::step, ::step], blank[::step]
    found = _information(scan, channel)
    for axis, side in enumerate(SIDES):
        turn = np.eye(4)
        turn[axis, axis], turn[axis, 3] = -1, data.shape[axis] - 1
        to_voxel = turn @ to_image @ np.diag([step, step, step, 1.0])
        cube = _looked_up(data, to_voxel, _outside(to_voxel, data.shape, blank), background)
        cube -= cube.mean()
        if not (cube > FOREGROUND).any():
            continue
        shift = [round(there - here) for there, here in zip(_centre(scan), _centre(cube), strict=True)]
        if _information(scan, np.roll(cube, shift, (0, 1, 2))) > MIRRORED * found:
            return side
    return ""


def _centre(cube: np.ndarray) -> np.ndarray:
    """Where the middle of a head is, in voxels."""
    return np.argwhere(cube > FOREGROUND).mean(axis=0)


def _information(one: np.ndarray, other: np.ndarray) -> float:
    """The mutual information of two cubes, in nats, where one of them shows a head."""
    shown = (one > FOREGROUND) | (other > FOREGROUND)
    levels = []
    for values in (one[shown], other[shown]):
        borders = np.quantile(values, np.arange(1, LEVELS) / LEVELS)
        levels.append(np.searchsorted(borders, values))
    joint = np.bincount(levels[0] * LEVELS + levels[1], minlength=LEVELS**2).reshape(LEVELS, LEVELS) / len(levels[0])
    alone = joint.sum(axis=1)[:, None] * joint.sum(axis=0)
    return float((joint[joint > 0] * np.log(joint[joint > 0] / alone[joint > 0])).sum())


def _border(data: np.ndarray) -> float:
    """The median of the outermost voxels of a volume."""
    faces = [np.moveaxis(data, axis, 0)[place].ravel() for axis in range(3) for place in (0, -1)]
    return float(np.median(np.concatenate(faces)))


def import_ndimage(name: str) -> Any:
    """`scipy.ndimage`. A model with T2w alone does not need it for its channels.

    Raises:
        VolumeError: scipy is not installed.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise VolumeError(f"{name} cannot be placed on the T2w scan without scipy: run pip install scipy.") from error
    return ndimage
