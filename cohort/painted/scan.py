"""Paint one scan: find its inside and the level of its white matter, paint, and describe what was painted."""

from __future__ import annotations

from typing import Any, NamedTuple

import nibabel
import numpy as np
from scipy import ndimage

from cohort.phantom.growth import BACKGROUND, CSF, VENTRICLES, WHITE_MATTER
from cohort.scans import Scan
from preprocessing import apply_mask, read_labels, read_volume
from preprocessing.interior_gloresnet import find_interior, is_stripped
from preprocessing.reading_gloresnet import VolumeError, open_image

from .plan import Cell
from .spots import CSF as USUAL_CSF
from .spots import paint_spots
from .ventricles import displaced_labels, find_ventricles, widen_ventricles

# values of desc-lesion_mask; 1 to 3 mean the same as in phantoms
MASK_VALUES = {"cyst": 1, "spot": 3, "streak": 4, "bright": 5, "ventricles": 6}
_LEAST_CSF = 1.2  # a cyst is brighter than white matter by 20 % at least
MIDLINE_MM = 3.0  # an injury nearer to the middle of the brain lies in the midline


class Unpaintable(ValueError):
    """A scan, or one copy of it, cannot be painted. The message says why."""


class Source(NamedTuple):
    """A scan ready to be painted; all arrays are (x, y, z) with axes R, A, S."""

    stored: np.ndarray  # float32, the intensities of the scan
    data: np.ndarray  # float32, white matter is 1
    white: float  # the intensity of white matter
    affine: np.ndarray
    spacing: np.ndarray  # (3,) mm
    brain: np.ndarray  # bool; nothing changes outside
    inside: np.ndarray  # bool, where injuries may lie
    csf: float  # brightness of CSF
    labels: np.ndarray | None  # DrawEM's nine tissues
    mask: np.ndarray | None = None  # uint8, the scan's own brain mask
    dtype: np.dtype = np.dtype(np.float32)  # of the scan's file
    scaling: tuple[float, float] | None = None  # slope and intercept of the scan's file


class Painted(NamedTuple):
    """A copy of a scan with one injury or several."""

    data: np.ndarray  # (x, y, z) float32, in the intensities of the scan
    truth: np.ndarray  # (x, y, z) uint8, see MASK_VALUES
    labels: np.ndarray | None  # the scan's segmentation, with cysts as CSF and ventricles widened
    rows: list[dict[str, Any]]  # one per injury, for lesions.tsv


def read_source(scan: Scan) -> Source:
    """Read a normal scan and find where it can be painted.

    With a segmentation, injuries lie in its white matter, and white matter sets the scale. Without one, the interior of
    the head or brain mask and its levels are found from intensities (`find_interior`).

    Raises:
        Unpaintable: the scan cannot be read, or shows no brain or white matter that could be painted.
    """
    try:
        return _read_source(scan)
    except ValueError as error:  # VolumeError, NoInterior
        raise Unpaintable(" ".join(str(error).split())) from error


def _read_source(scan: Scan) -> Source:
    assert scan.image is not None
    volume = read_volume(scan.image)
    if volume.affine is None or volume.data.dtype.kind not in "iuf":
        raise VolumeError(f"{scan.image} has {volume.data.dtype} voxels: give real numbers.")
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    mask = None
    if scan.mask is not None:
        mask = np.asarray(apply_mask(volume._replace(data=np.ones_like(volume.data)), scan.mask).data > 0)
    labels = None
    if scan.segmentation is not None:
        labels = np.asarray(read_labels(scan.segmentation).data)
        if labels.shape != volume.data.shape:
            raise VolumeError(
                f"{scan.segmentation} has the shape {labels.shape}, its scan {volume.data.shape}: "
                "give a segmentation on the grid of the scan."
            )
        labels = np.round(labels).astype(np.uint8)
    data = np.array(volume.data, dtype=np.float32, order="C")
    header: Any = open_image(scan.image)
    proxy = header.dataobj
    scaling = (float(proxy.slope), float(proxy.inter)) if hasattr(proxy, "slope") else None
    own_mask = None if mask is None else mask.astype(np.uint8)
    if labels is not None:
        if not (labels == WHITE_MATTER).any():
            raise VolumeError(f"{scan.segmentation} has no white matter (label {WHITE_MATTER}): give DrawEM's tissues.")
        source = labelled_source(data, labels, volume.affine)
    else:
        interior = find_interior(apply_mask(volume, scan.mask) if scan.mask else volume, mask is not None)
        white = interior.white
        to_interior = np.linalg.inv(interior.affine) @ volume.affine  # axes are the same, so it is diagonal
        inside = ndimage.affine_transform(
            interior.inside.astype(np.uint8), np.diag(to_interior)[:3], to_interior[:3, 3], data.shape, order=0
        ).astype(bool)
        if mask is not None:
            brain = ndimage.binary_fill_holes(mask)
        elif is_stripped(data, spacing):
            brain = ndimage.binary_fill_holes(data != 0)
        else:
            brain = inside
        fluid = data[inside & (data >= interior.thresholds[1])] / white
        csf = max(float(np.median(fluid)), _LEAST_CSF) if fluid.size else USUAL_CSF
        scaled = data / np.float32(white)
        source = Source(data, scaled, white, volume.affine, spacing, brain, inside, csf, None)
    return source._replace(mask=own_mask, dtype=header.get_data_dtype(), scaling=scaling)


def labelled_source(data: np.ndarray, labels: np.ndarray, affine: np.ndarray) -> Source:
    """A scan with DrawEM's tissues, both (x, y, z) with axes R, A, S: injuries lie in its white matter.

    Raises:
        VolumeError: its white matter is not bright.
    """
    white = float(np.median(data[labels == WHITE_MATTER]))
    if not white > 0:
        raise VolumeError(f"the median intensity of its white matter is {white:g}: give the scan as acquired.")
    fluid = data[labels == VENTRICLES] / white
    return Source(
        stored=np.asarray(data, dtype=np.float32),
        data=np.asarray(data / white, dtype=np.float32),
        white=white,
        affine=affine,
        spacing=np.linalg.norm(affine[:3, :3], axis=0),
        brain=ndimage.binary_fill_holes(labels > 0),
        inside=~np.isin(labels, (0, CSF, BACKGROUND, VENTRICLES)),
        csf=max(float(np.median(fluid)), _LEAST_CSF) if fluid.size else USUAL_CSF,
        labels=labels,
    )


def paint(source: Source, cell: Cell, lesions: int, rng: np.random.Generator) -> Painted:
    """Paint what a cell asks for.

    Raises:
        Unpaintable: there is no room for it, or no ventricles were found.
    """
    truth = np.zeros(source.data.shape, dtype=np.uint8)
    labels = None if source.labels is None else source.labels.copy()
    rows: list[dict[str, Any]] = []
    if cell.kind == "ventricles":
        painted = _widened(source, cell, truth, rows)
        data, displacement = painted
        labels = None if labels is None else displaced_labels(labels, displacement, tuple(source.spacing))
    else:
        assert cell.diameter_mm is not None
        contrast = cell.contrast or 0.5  # cysts take theirs from the CSF
        data, found = paint_spots(
            source.data, source.inside, tuple(source.spacing), rng, lesions,
            kinds={cell.kind: 1.0}, diameters_mm=(cell.diameter_mm,) * 2, contrasts=(contrast,) * 2, csf=source.csf,
            white_matter=None if labels is None else labels == WHITE_MATTER,
        )  # fmt: skip
        if len(found) < lesions:
            raise Unpaintable(
                f"there is room for {len(found)} of {lesions} injuries of the kind {cell.kind} and "
                f"{cell.diameter_mm:g} mm."
            )
        for lesion in found:
            truth[lesion.box][lesion.mask()] = MASK_VALUES[lesion.kind]
            if labels is not None and lesion.kind == "cyst":
                labels[lesion.box][lesion.mask()] = CSF
            volume = float(lesion.share.sum() * source.spacing.prod())
            rows.append(_row(source, lesion.kind, lesion.centre, cell.diameter_mm, lesion.contrast, None, volume))
    changed = data != source.data
    result = source.stored.copy()
    result[changed] = data[changed] * np.float32(source.white)
    _require_room(source, result[changed], source.stored[changed])
    return Painted(result, truth, labels, rows)


def _require_room(source: Source, painted: np.ndarray, before: np.ndarray) -> None:
    """Raise Unpaintable if the voxel type of the scan's file cuts off more than 5 % of what was painted."""
    if not _keeps_type(source):
        return
    slope, intercept = source.scaling or (1.0, 0.0)
    limits = np.iinfo(source.dtype)
    low, high = sorted((limits.min * slope + intercept, limits.max * slope + intercept))
    lost = np.abs(painted - np.clip(painted, low, high)).sum(dtype=float)
    if lost > 0.05 * np.abs(painted - before).sum(dtype=float):
        raise Unpaintable(
            f"its voxels are {source.dtype.name} and end at {low:.4g} and {high:.4g}, which cuts the painted "
            "intensities off: convert the scan to float32."
        )


def _keeps_type(source: Source) -> bool:
    """Whether the painted cohort stores a scan with the voxel type of its file."""
    return source.dtype.kind in "iu" and source.dtype.itemsize <= 4


def as_nifti(values: np.ndarray, source: Source, kind: str) -> nibabel.Nifti1Image:
    """An image for the painted cohort. A scan keeps the voxel type and scaling of its file, if NIfTI has them.

    Args:
        kind: `scan`, or `labels` for masks and segmentations.
    """
    scaling = None
    if kind == "labels":
        values = values.astype(np.uint8)
    elif _keeps_type(source):
        scaling = source.scaling or (1.0, 0.0)
        limits = np.iinfo(source.dtype)
        stored = np.round((values.astype(np.float64) - scaling[1]) / scaling[0])
        values = np.clip(stored, limits.min, limits.max).astype(source.dtype.newbyteorder("="))
    image = nibabel.Nifti1Image(values, source.affine)
    image.set_sform(source.affine, code=1)
    image.set_qform(source.affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"gloresnet-painted: never clinical evidence"
    if scaling is not None:
        image.header.set_slope_inter(*scaling)  # nibabel then writes the voxels as they are
    return image


def _widened(
    source: Source, cell: Cell, truth: np.ndarray, rows: list[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    assert cell.factor is not None
    spacing = tuple(source.spacing)
    try:
        if source.labels is not None:
            ventricles = source.labels == VENTRICLES
        else:
            ventricles = find_ventricles(source.data, source.brain, spacing)
        data, done = widen_ventricles(source.data, ventricles, source.brain, spacing, cell.factor)
    except ValueError as error:
        raise Unpaintable(f"{error}.") from error
    truth[done.mask] = MASK_VALUES["ventricles"]
    added = 1000.0 * (done.after_ml - done.before_ml)
    centre = ndimage.center_of_mass(done.mask)
    row = _row(source, "ventricles", centre, None, None, done.after_ml / done.before_ml, added)
    rows.append(row | {"side": "both"})
    return data, done.displacement


def _row(
    source: Source,
    kind: str,
    centre: tuple[float, ...],
    diameter: float | None,
    contrast: float | None,
    factor: float | None,
    volume: float,
) -> dict[str, Any]:
    x, y, z = (source.affine @ [*centre, 1.0])[:3]
    beyond = (centre[0] - ndimage.center_of_mass(source.brain.any(axis=(1, 2)))[0]) * source.spacing[0]
    side = "midline" if abs(beyond) < MIDLINE_MM else "right" if beyond > 0 else "left"
    return {
        "kind": kind,
        "x_mm": f"{x:.2f}",
        "y_mm": f"{y:.2f}",
        "z_mm": f"{z:.2f}",
        "side": side,
        "diameter_mm": "n/a" if diameter is None else f"{diameter:g}",
        "contrast": "n/a" if contrast is None else f"{contrast:.4f}",
        "volume_factor": "n/a" if factor is None else f"{factor:.3f}",
        "volume_mm3": f"{volume:.2f}",
    }
