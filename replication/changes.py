"""Scans before and after a change of the field of view, the slice thickness or the bias field; see `framing.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import nibabel
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cohort.phantom import FieldOfView, PhantomScan, make_phantom_scan
from cohort.phantom.grids import FIELD_OF_VIEW_MM

SEED = 20261126  # of no phantom cohort
UNCHANGED, RESCANNED = "none", "scanned again, half a voxel aside"
USUAL = FieldOfView(15.0, 15.0, 15.0, 15.0, 20.0, 14.0)
INJURIES: tuple[dict[str, str], ...] = (  # every second phantom is normal
    {"ventriculomegaly": "severe"},
    {"ivh": "major", "ventriculomegaly": "moderate"},
    {"cystic_pvl": "large", "ventriculomegaly": "moderate"},
    {"atrophy": "severe", "ventriculomegaly": "moderate"},
    {"ventriculomegaly": "moderate"},
    {"cystic_pvl": "confluent", "ventriculomegaly": "moderate"},
)
PADDING_MM, CLOSE_MM = 20.0, 3.0
TURNS = {
    "turned by 15 degrees, nodding forwards": (-15, 0, 0),
    "turned by 15 degrees, nodding backwards": (15, 0, 0),
    "turned by 15 degrees to the side": (0, 15, 0),
}
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


def phantom(number: int, voxel_size: float, field: FieldOfView | None = None, seed: int = SEED) -> PhantomScan:
    """One of the phantoms; the same head for any field of view."""
    return make_phantom_scan(
        30.0 + (number * 2.9) % 14.0,
        INJURIES[number // 2 % len(INJURIES)] if number % 2 else {},
        seed=seed,
        voxel_size=voxel_size,
        family=f"framing {number}",
        field_of_view=field,
    )


def fixed_field(scan: PhantomScan) -> FieldOfView:
    """The field of view of the default phantom cohort, around this head, without a neck."""
    brain = np.argwhere(scan.brain_mask)
    voxel = float(np.abs(scan.affine[0, 0]))
    head = (np.ptp(brain, axis=0) + 1) * voxel * 1.05 + 2 * scan.acquisition.scalp_mm
    r, a, s = (float(edge) for edge in (np.array(FIELD_OF_VIEW_MM) - head) / 2)
    return FieldOfView(r, r, a, a, s, s, neck=False)


def phantom_field(number: int, voxel_size: float, base: str, seed: int = SEED) -> FieldOfView:
    """The unchanged field of view of a phantom: `varied` is a usual one with a neck, `fixed` that of the cohort."""
    return USUAL if base == "varied" else fixed_field(phantom(number, voxel_size, seed=seed))


def changes(number: int, voxel_size: float, base: str, seed: int = SEED) -> Iterator[tuple[str, nibabel.Nifti1Image]]:
    """The unchanged scan of a phantom first, then each change: (its name, the image).

    In another field of view the voxels lie elsewhere on the head, and the noise is drawn again. `RESCANNED` has nothing
    but this: the voxels are half a voxel further right and front. No framing can give a smaller change.
    """
    field = phantom_field(number, voxel_size, base, seed)
    scan = phantom(number, voxel_size, field, seed)
    whole = scan.image()
    yield UNCHANGED, whole
    brain = np.flatnonzero(scan.brain_mask.any(axis=(0, 1)))
    bottom = brain[0] - scan.acquisition.scalp_mm / voxel_size
    height = np.ptp(brain) + 1 + 2 * scan.acquisition.scalp_mm / voxel_size
    for name, share in (("lowest tenth of the head missing", 0.1), ("lowest quarter of the head missing", 0.25)):
        yield name, whole.slicer[:, :, int(round(bottom + share * height)) :]
    width, length, _ = (edge * voxel_size for edge in whole.shape)
    side, face = 0.1 * width, 0.1 * length
    moved = {
        RESCANNED: replace(
            field,
            left_mm=field.left_mm + voxel_size / 2,
            right_mm=field.right_mm + voxel_size / 2,
            back_mm=field.back_mm + voxel_size / 2,
            front_mm=field.front_mm + voxel_size / 2,
        ),
        "20 mm more neck": replace(field, bottom_mm=field.bottom_mm + 20, neck=True),
        "head 10 mm higher": replace(field, bottom_mm=field.bottom_mm + 10, top_mm=field.top_mm - 10),
        "10 % more air": replace(
            field,
            left_mm=field.left_mm + side,
            right_mm=field.right_mm + side,
            back_mm=field.back_mm + face,
            front_mm=field.front_mm + face,
            top_mm=field.top_mm + 0.1 * whole.shape[2] * voxel_size,
        ),
        "30 % larger in plane": replace(
            field,
            left_mm=field.left_mm + 1.5 * side,
            right_mm=field.right_mm + 1.5 * side,
            back_mm=field.back_mm + 1.5 * face,
            front_mm=field.front_mm + 1.5 * face,
        ),
        "head nods by 15 degrees": replace(field, nod=15.0),
        "head tilts by 15 degrees to the side": replace(field, roll=15.0),
    }
    for name, changed in moved.items():
        yield name, phantom(number, voxel_size, changed, seed).image()
    for plane, axis in PLANES.items():
        for times in (2, 3, 4):
            yield f"{plane} slices {times} times as thick", thick_slices(whole, axis, times)
    yield "bias field of 0.61 to 1.65", biased(whole)


def changes_of_scan(image: nibabel.Nifti1Image) -> Iterator[tuple[str, nibabel.Nifti1Image]]:
    """The same for a given scan of a whole head or brain.

    It is padded with its lowest intensity, and turned about its middle with linear interpolation.
    """
    image = nibabel.as_closest_canonical(image)
    data, affine = image.get_fdata(dtype=np.float32), image.affine
    spacing = nibabel.affines.voxel_sizes(affine)
    yield UNCHANGED, image
    seen = np.argwhere(data > 0.05 * np.quantile(data, 0.99))
    margin = np.ceil(PADDING_MM / spacing).astype(int)
    padded = np.pad(data, [(m, m) for m in margin], constant_values=data.min())
    shifted = affine @ nibabel.affines.from_matvec(np.eye(3), -margin)
    yield f"padded by {PADDING_MM:g} mm", nibabel.Nifti1Image(padded, shifted)
    low = np.maximum(seen.min(axis=0) - np.ceil(CLOSE_MM / spacing).astype(int), 0)
    high = seen.max(axis=0) + 1 + np.ceil(CLOSE_MM / spacing).astype(int)
    yield f"cropped to {CLOSE_MM:g} mm around it", image.slicer[tuple(map(slice, low, high))]
    middle = seen.mean(axis=0) + margin
    for name, angles in TURNS.items():
        turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix().T * spacing / spacing[:, None]
        turned = ndimage.affine_transform(padded, turn, middle - turn @ middle, order=1, cval=float(data.min()))
        yield name, nibabel.Nifti1Image(turned, shifted)
    for plane, axis in PLANES.items():
        for times in (2, 4, 6):
            yield f"{plane} slices {times} times as thick", thick_slices(image, axis, times)
    yield "bias field of 0.61 to 1.65", biased(image)


def thick_slices(image: nibabel.Nifti1Image, axis: int, times: int) -> nibabel.Nifti1Image:
    """Each `times` neighbouring slices averaged to one; the last incomplete one is left out."""
    data = np.moveaxis(image.get_fdata(dtype=np.float32), axis, 0)
    count = len(data) // times
    thick = data[: count * times].reshape(count, times, *data.shape[1:]).mean(axis=1)
    affine = image.affine.copy()
    affine[:3, 3] += image.affine[:3, axis] * (times - 1) / 2
    affine[:3, axis] *= times
    return nibabel.Nifti1Image(np.moveaxis(thick, 0, axis), affine)


def biased(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """The image times a smooth field from exp(-0.5) = 0.61 in one corner to exp(0.5) = 1.65 in the opposite one."""
    ramps = [np.linspace(-1, 1, n) for n in image.shape]
    field = np.exp(sum(np.ix_(*ramps)) / 6).astype(np.float32)
    return nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) * field, image.affine)
