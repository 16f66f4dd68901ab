"""Turn a labelled head into a T2-weighted image: tissue contrast, point spread, bias field, motion, Rician noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .anatomy import Anatomy
from .fields import SmoothField, named_rng
from .grids import Grid
from .growth import (
    BRAINSTEM,
    CEREBELLUM,
    CORTEX,
    CSF,
    DEEP_GREY,
    HIPPOCAMPUS,
    VENTRICLES,
    WHITE_MATTER,
)
from .pathology import CLOT, CYST, LesionMap

ECHO_TIME_MS = 156.0
T2_CSF_MS = 1500.0
INTENSITY_SCALE = 700.0  # stored units per signal 1.0; at 40 weeks white matter is near 310, CSF near 630
MAX_SHIFT_MM, MAX_ROTATION_DEG = 1.0, 2.0  # of a stack of slices at full motion strength
SKULL_MM = 1.8


@dataclass(frozen=True)
class Acquisition:
    """Imaging conditions of one scan.

    Attributes:
        psf_fwhm_mm: 0.8-1.0.
        snr: white-matter signal divided by the noise SD of one channel, 15-40; `inf` for no noise.
        bias: largest residual intensity non-uniformity, 0-0.05.
        motion: strength, 0 (none) to 1.
        gain: receiver gain, 0.85-1.15.
        scalp_mm: thickness of scalp and skull, 4-6.
        shift: head displacement in the field of view, mm (R, A, S).
        deep_grey, cerebellum, brainstem, blood: signal relative to white matter.
        echo_time_ms: of the spin echo.

    The ranges are those of `draw_acquisition`; a scanner may leave them.
    """

    psf_fwhm_mm: float = 0.9
    snr: float = 25.0
    bias: float = 0.03
    motion: float = 0.0
    gain: float = 1.0
    scalp_mm: float = 5.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    deep_grey: float = 0.65
    cerebellum: float = 0.70
    brainstem: float = 0.55
    blood: float = 0.25
    echo_time_ms: float = ECHO_TIME_MS


def _three_floats(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = map(float, values)
    return x, y, z


def draw_acquisition(rng: np.random.Generator, motion: float = 0.0) -> Acquisition:
    """Draw imaging conditions uniformly from their ranges; `motion` is used as given."""
    return Acquisition(
        psf_fwhm_mm=float(rng.uniform(0.8, 1.0)),
        snr=float(rng.uniform(15.0, 40.0)),
        bias=float(rng.uniform(0.02, 0.05)),
        motion=motion,
        gain=float(rng.uniform(0.85, 1.15)),
        scalp_mm=float(rng.uniform(4.0, 6.0)),
        shift=_three_floats(rng.uniform((-1.5, -3.0, -1.0), (1.5, 3.0, 1.0))),
        deep_grey=float(rng.uniform(0.60, 0.70)),
        cerebellum=float(rng.uniform(0.65, 0.75)),
        brainstem=float(rng.uniform(0.50, 0.60)),
        blood=float(rng.uniform(0.10, 0.40)),
    )


def white_matter_t2(weeks: float) -> float:
    """T2 of white matter in ms at w weeks: 260 - 7 (w - 30), at least 160."""
    return max(160.0, 260.0 - 7.0 * (weeks - 30.0))


def t2_signal(t2_ms: float, echo_time_ms: float = ECHO_TIME_MS) -> float:
    """Spin-echo signal exp(-TE / T2), 0-1."""
    return math.exp(-echo_time_ms / t2_ms)


def tissue_signals(weeks: float, conditions: Acquisition) -> dict[int, float]:
    """Mean signal (0-1) of each DrawEM-9 label."""
    echo = conditions.echo_time_ms
    white = t2_signal(white_matter_t2(weeks), echo)
    cortex = t2_signal(white_matter_t2(weeks) / 1.5, echo)
    fluid = t2_signal(T2_CSF_MS, echo)
    return {
        CSF: fluid,
        CORTEX: cortex,
        WHITE_MATTER: white,
        VENTRICLES: fluid,
        CEREBELLUM: conditions.cerebellum * white,
        DEEP_GREY: conditions.deep_grey * white,
        BRAINSTEM: conditions.brainstem * white,
        HIPPOCAMPUS: cortex,
    }


# Relative spread of a tissue's three sub-clusters, and the spacing in mm of the field that assigns voxels to them.
_CLUSTERS = {
    CSF: (0.02, 12.0),
    CORTEX: (0.05, 10.0),
    WHITE_MATTER: (0.05, 11.0),
    VENTRICLES: (0.015, 9.0),
    CEREBELLUM: (0.12, 8.0),
    DEEP_GREY: (0.06, 7.0),
    BRAINSTEM: (0.06, 6.0),
    HIPPOCAMPUS: (0.04, 6.0),
}


def paint(
    anatomy: Anatomy, lesions: LesionMap, weeks: float, conditions: Acquisition, seed: int, infant: str
) -> np.ndarray:
    """Compute the signal of the head without motion or noise: float32, stored units, RAS order.

    Each tissue has three sub-clusters around its mean signal, chosen by a smooth random field. The tissue's mean stays
    as given.
    """
    signals = tissue_signals(weeks, conditions)
    signals[WHITE_MATTER] *= lesions.white_matter.get("T2w", 1.0)
    values = tissue_values(anatomy, signals, seed, infant)
    clot = lesions.mask.ravel()[anatomy.inside] == CLOT
    if clot.any():
        texture = _texture_field(named_rng(seed, "clot texture", infant), 4.0)
        mottle = 1.0 + 0.12 * np.tanh(texture.at(*anatomy.points[:, clot]))
        values[clot] = conditions.blood * signals[WHITE_MATTER] * mottle

    image = scalp(anatomy.scalp_depth, signals[WHITE_MATTER], conditions.scalp_mm)
    image.ravel()[anatomy.inside] = values
    if lesions.cyst_fraction is not None:
        white = signals[WHITE_MATTER]
        part = lesions.cyst_fraction
        in_cyst = lesions.mask == CYST
        image[in_cyst] = signals[CSF] * part[in_cyst] + white * (1.0 - part[in_cyst])
        rim = (part > 0) & ~in_cyst
        image[rim] += part[rim] * (signals[CSF] - image[rim])
    if lesions.punctate_contrast is not None:
        image += signals[WHITE_MATTER] * lesions.punctate_contrast
    image *= INTENSITY_SCALE * conditions.gain
    return image


def tissue_values(
    anatomy: Anatomy, signals: dict[int, float], seed: int, infant: str, contrast: float = 1.0
) -> np.ndarray:
    """The value of each intracranial voxel (n,) float32: three sub-clusters around the mean of its tissue.

    The sub-clusters lie at the same places in every modality; `contrast` multiplies their spread.
    """
    labels = anatomy.dseg.ravel()[anatomy.inside]
    values = np.zeros(labels.size, dtype=np.float32)
    for label, (spread, spacing) in _CLUSTERS.items():
        voxels = np.flatnonzero(labels == label)
        if not voxels.size:
            continue
        texture = _texture_field(named_rng(seed, "texture", label, infant), spacing)
        level = texture.at(*anatomy.points[:, voxels])
        if label == CEREBELLUM:  # folia: layers 3.4 mm apart, rising to the back
            _, y, z = anatomy.points[:, voxels]
            level = np.sin(2.0 * np.pi * (z + 0.3 * y) / 3.4 + 0.8 * level)
        steps = (level > 0.45).astype(np.float32) - (level < -0.45)
        values[voxels] = signals[label] * (1.0 + contrast * spread * (steps - steps.mean()))
    return values


def _texture_field(rng: np.random.Generator, spacing: float) -> SmoothField:
    return SmoothField(rng, rng, spacing, own_share=1.0)


def scalp(depth: np.ndarray, white: float, thickness: float) -> np.ndarray:
    """Signal of skull (dark) and scalp (fat and skin, bright), by distance from the intracranial space."""
    image = np.zeros(depth.shape, dtype=np.float32)
    image[(depth > 0) & (depth <= SKULL_MM)] = 0.18 * white
    image[(depth > SKULL_MM) & (depth <= thickness)] = 0.80 * white
    image[(depth > thickness - 0.9) & (depth <= thickness)] = 0.55 * white
    return image


def acquire(
    image: np.ndarray, weeks: float, conditions: Acquisition, grid: Grid, rng: np.random.Generator
) -> np.ndarray:
    """Simulate the acquisition of a head from `paint`: point spread, bias field, motion, noise.

    Args:
        image: float32 signal in RAS order, stored units; overwritten.
        rng: draws bias field, motion and noise.

    Returns:
        int16 volume in RAS order, values 0 or more.
    """
    # A voxel averages over its width: a box of variance v^2 / 12, in addition to the scanner's point spread.
    sigma_mm = math.hypot(conditions.psf_fwhm_mm / 2.3548, grid.voxel_size / math.sqrt(12.0))
    image = ndimage.gaussian_filter(image, sigma_mm / grid.voxel_size, truncate=3.0, output=np.float32)
    if conditions.bias > 0:
        image *= bias_field(grid, conditions.bias, rng)
    if conditions.motion > 0:
        image = add_motion(image, conditions.motion, grid, rng)
    if math.isfinite(conditions.snr):
        white = t2_signal(white_matter_t2(weeks), conditions.echo_time_ms)
        noise_sd = white * INTENSITY_SCALE * conditions.gain / conditions.snr
        image = add_rician_noise(image, noise_sd, rng)
    np.rint(image, out=image)
    return np.clip(image, 0, 32767, out=image).astype(np.int16)


def bias_field(grid: Grid, strength: float, rng: np.random.Generator) -> np.ndarray:
    field = SmoothField(rng, rng, 60.0).on_axes(*grid.axes())
    field -= float(field.mean())
    return 1.0 + field * (strength / max(float(np.abs(field).max()), 1e-6))


def add_rician_noise(image: np.ndarray, noise_sd: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of the image with complex Gaussian noise; `noise_sd` is the SD per channel.

    Source: Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618.
    """
    real = rng.standard_normal(image.shape, dtype=np.float32)
    real *= noise_sd
    real += image
    imaginary = rng.standard_normal(image.shape, dtype=np.float32)
    imaginary *= noise_sd
    return np.hypot(real, imaginary, out=real)


def add_motion(image: np.ndarray, strength: float, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Add motion as in a multi-slice scan.

    Each stack of axial slices is shifted (+-1 mm) and rotated (+-2 degrees), ghosts appear along the phase-encoding
    direction (A-P), and the image is blurred.

    Args:
        image: float32 in RAS order.
        strength: 0-1; scales every effect.
    """
    moved = np.empty_like(image)
    middle = (np.array(image.shape) - 1) / 2.0
    low = 0
    while low < image.shape[2]:
        high = min(low + max(round(rng.uniform(4.0, 12.0) / grid.voxel_size), 1), image.shape[2])
        shift = rng.uniform(-1.0, 1.0, 3) * strength * MAX_SHIFT_MM / grid.voxel_size
        rotation = rotation_matrix(np.deg2rad(rng.uniform(-1.0, 1.0, 3) * strength * MAX_ROTATION_DEG))
        start = np.array([0, 0, low]) - middle
        offset = rotation @ start + middle + shift
        moved[:, :, low:high] = ndimage.affine_transform(
            image, rotation, offset, output_shape=(*image.shape[:2], high - low), order=1, output=np.float32
        )
        low = high
    blur = strength * float(rng.uniform(0.5, 1.0)) / grid.voxel_size
    moved = ndimage.gaussian_filter(moved, blur, truncate=3.0)
    level = strength * float(rng.uniform(0.05, 0.12))
    distance = int(image.shape[1] * rng.uniform(0.18, 0.45))
    return moved * (1.0 - level) + level * (np.roll(moved, distance, axis=1) + np.roll(moved, -distance, axis=1))


def rotation_matrix(angles: np.ndarray) -> np.ndarray:
    """Matrix of a rotation about R, then A, then S; angles in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    # einsum without optimisation uses NumPy's own loops: BLAS would start a thread pool in a forked worker
    return np.einsum("ij,jk,kl->il", about_z, about_y, about_x)
