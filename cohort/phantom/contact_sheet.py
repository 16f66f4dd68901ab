"""Draw every kind of phantom in one picture:  python -m cohort.phantom.contact_sheet --output docs/phantom.png

With --modalities it draws T2w, T1w, FA and MD of a few infants instead.

Radiological display: the patient's right is on the left of the picture. Needs matplotlib.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m cohort.phantom.contact_sheet")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "python -m cohort.phantom.contact_sheet"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Draw every kind of phantom in one picture.")
    parser.add_argument("--output", type=Path, default=Path("docs/phantom.png"), help="PNG file to write")
    parser.add_argument("--seed", type=int, default=42, help="determines the infant that is drawn")
    parser.add_argument("--modalities", action="store_true", help="draw T2w, T1w, FA and MD of a few infants instead")
    return parser.parse_args(argv)


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

import io
import math
from dataclasses import replace

import numpy as np
from scipy import ndimage

from machine.programs import FAILED, complain, explain, run_program
from run_folder.files import replacing

from .acquisition import Acquisition
from .growth import CSF, VENTRICLES
from .options import MODALITIES
from .pathology import PUNCTATE, Injury
from .scan import PhantomScan, make_phantom_scan

_STILL = Acquisition(snr=35.0, bias=0.02)
_HALF_WIDTH_MM, _HALF_LENGTH_MM, _HALF_HEIGHT_MM = 58.0, 68.0, 50.0
_GAP_MM = 8.0
_SCALE_BAR_MM = 20.0

# title, age in weeks, injuries, imaging conditions
_CASES: tuple[tuple[str, float, tuple[Injury, ...], Acquisition], ...] = (
    ("Normal, 30 weeks", 30, (), _STILL),
    ("Normal, 36 weeks", 36, (), _STILL),
    ("Normal, 42 weeks", 42, (), _STILL),
    ("Atrophy, severe (38 weeks)", 38, (Injury("atrophy", "severe"),), _STILL),
    ("Ventriculomegaly, mild", 36, (Injury("ventriculomegaly", "mild"),), _STILL),
    ("Ventriculomegaly, moderate", 36, (Injury("ventriculomegaly", "moderate"),), _STILL),
    ("Ventriculomegaly, severe", 36, (Injury("ventriculomegaly", "severe"),), _STILL),
    ("Ventriculomegaly, left > right", 36, (Injury("ventriculomegaly", "severe", "left"),), _STILL),
    ("Cystic PVL, 8-10 mm", 36, (Injury("cystic_pvl", "large"),), _STILL),
    ("Cystic PVL, confluent", 36, (Injury("cystic_pvl", "confluent"),), _STILL),
    ("IVH under 50 %, left", 36, (Injury("ivh", "minor", "left"), Injury("ventriculomegaly", "mild")), _STILL),
    ("IVH over 50 %, both", 36, (Injury("ivh", "major"), Injury("ventriculomegaly", "moderate")), _STILL),
    ("Punctate lesions (inset x2.5)", 36, (Injury("punctate", "many"),), _STILL),
    ("Motion, full strength", 36, (), replace(_STILL, motion=1.0)),
    ("Noise, SNR 15", 36, (), replace(_STILL, snr=15.0)),
    ("Bias field 5 %, no noise", 36, (), replace(_STILL, snr=math.inf, bias=0.05)),
)


def draw_contact_sheet(output: str | Path, seed: int = 42, voxel_size: float = 1.0) -> Path:
    """Generate the cases and save the figure as a PNG of at most 32 grey levels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 4
    rows = math.ceil(len(_CASES) / columns)
    width = 2 * _HALF_WIDTH_MM * 2 + _GAP_MM
    figure, axes = plt.subplots(rows, columns, figsize=(13.2, 13.2 * rows / columns * 0.70), facecolor="black")
    for axis, (title, weeks, injuries, conditions) in zip(axes.ravel(), _CASES, strict=True):
        # punctate lesions are too small for the voxel size of the other pictures
        size = 0.7 * voxel_size if any(injury.name == "punctate" for injury in injuries) else voxel_size
        scan = make_phantom_scan(weeks, injuries, seed=seed, infant="a", voxel_size=size, acquisition=conditions)
        _draw_case(axis, scan, size)
        axis.set_title(title, color="white", fontsize=11, pad=3)
        axis.set_xlim(0, width)
    figure.suptitle(
        "Synthetic phantoms, T2-weighted, axial and coronal, one infant; never clinical evidence",
        color="white",
        fontsize=12,
        y=0.995,
    )
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=0.95, wspace=0.02, hspace=0.10)
    return _save(figure, output)


def draw_modalities(output: str | Path, seed: int = 42, voxel_size: float = 1.0) -> Path:
    """Draw an axial slice of each modality, maps on the grid of the T2-weighted image; see `draw_contact_sheet`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = (
        ("Normal, 30 weeks", 30, ()),
        ("Normal, 36 weeks", 36, ()),
        ("Diffuse injury, 36 weeks", 36, (Injury("diffuse_wmi", "moderate"),)),
        ("Normal, 42 weeks", 42, ()),
    )
    figure, axes = plt.subplots(len(cases), len(MODALITIES), figsize=(9.0, 10.8), facecolor="black")
    for row, (title, weeks, injuries) in zip(axes, cases, strict=True):
        scan = make_phantom_scan(
            weeks, injuries, seed=seed, infant="a", voxel_size=voxel_size, acquisition=_STILL, modalities=MODALITIES
        )
        centre, (_, _, axial) = _slices(scan)
        half = (round(_HALF_WIDTH_MM / voxel_size), round(_HALF_LENGTH_MM / voxel_size))
        tops = {"T2w": 700, "T1w": 800, "FA": 0.45, "MD": 3e-3}  # white
        for axis, name in zip(row, MODALITIES, strict=True):
            plane = _crop(_on_t2w_grid(scan, name)[:, :, axial], centre[:2], half)
            axis.imshow(plane[::-1].T[::-1], cmap="gray", vmin=0, vmax=tops[name], interpolation="bilinear")
            axis.set_title(f"{title}: T2w" if name == "T2w" else name, color="white", fontsize=9, pad=3)
            axis.axis("off")
    figure.suptitle("Synthetic phantoms, axial, one infant; never clinical evidence", color="white", fontsize=11)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=0.93, wspace=0.02, hspace=0.08)
    return _save(figure, output)


def _on_t2w_grid(scan: PhantomScan, name: str) -> np.ndarray:
    """A modality on the grid of the T2-weighted image."""
    if name not in scan.channels:
        return scan.volume
    array, affine = scan.channels[name]
    if scan.diffusion is None or name == "T1w":
        return array
    place = np.linalg.inv(scan.diffusion.to_t2w @ affine) @ scan.affine
    return ndimage.affine_transform(array, place[:3, :3], place[:3, 3], output_shape=scan.volume.shape, order=1)


def _save(figure, output: str | Path) -> Path:
    import matplotlib.pyplot as plt
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, facecolor="black")
    plt.close(figure)
    picture = Image.open(buffer).convert("L").quantize(32, dither=Image.Dither.NONE)
    with replacing(output) as temporary:
        picture.save(temporary, format="PNG", optimize=True)
    return Path(output)


def _draw_case(axis, scan: PhantomScan, voxel_size: float) -> None:
    """Draw an axial and a coronal slice next to each other, in mm, with R/L marks and a scale bar."""
    centre, (_, coronal, axial) = _slices(scan)
    window = float(np.percentile(scan.volume[np.isin(scan.dseg, (CSF, VENTRICLES))], 90)) * 1.02
    half_width, half_length = round(_HALF_WIDTH_MM / voxel_size), round(_HALF_LENGTH_MM / voxel_size)
    half_height = round(_HALF_HEIGHT_MM / voxel_size)
    views = (
        _crop(scan.volume[:, :, axial], centre[:2], (half_width, half_length)),
        _crop(scan.volume[:, coronal, :], centre[::2], (half_width, half_height)),
    )
    left = 0.0
    for view in views:
        picture = view[::-1].T[::-1]  # the patient's right on the left, front or top upwards
        height, width = (n * voxel_size for n in picture.shape)
        axis.imshow(
            picture,
            cmap="gray",
            vmin=0,
            vmax=window,
            extent=(left, left + width, -height / 2, height / 2),
            interpolation="bilinear",
        )
        for mark, x in (("R", left + 3), ("L", left + width - 3)):
            axis.text(x, 0, mark, color="white", fontsize=9, ha="center", va="center")
        left += width + _GAP_MM
    right = left - _GAP_MM - 4
    axis.plot([right - _SCALE_BAR_MM, right], [-_HALF_LENGTH_MM + 4] * 2, color="white", linewidth=2)
    axis.text(
        right - _SCALE_BAR_MM - 3,
        -_HALF_LENGTH_MM + 4,
        f"{_SCALE_BAR_MM:.0f} mm",
        color="white",
        fontsize=8,
        ha="right",
        va="center",
    )
    axis.set_ylim(-_HALF_LENGTH_MM, _HALF_LENGTH_MM)
    axis.set_aspect("equal")
    axis.axis("off")
    if (scan.lesion_mask == PUNCTATE).any():
        _draw_inset(axis, scan, axial, centre, voxel_size, window)


def _draw_inset(axis, scan: PhantomScan, axial: int, centre: np.ndarray, voxel_size: float, window: float) -> None:
    """Draw the neighbourhood of a punctate lesion, enlarged, in the air below the coronal view. Arrows mark lesions."""
    lesions, count = ndimage.label(scan.lesion_mask[:, :, axial] == PUNCTATE)
    centres = np.array(ndimage.center_of_mass(lesions > 0, lesions, range(1, count + 1)))
    distances = np.linalg.norm(centres[:, None] - centres[None, :], axis=2)
    most = int(np.argmax((distances < 9.0 / voxel_size).sum(axis=1)))  # the lesion with most neighbours
    middle, half = np.round(centres[most]).astype(int), round(9.0 / voxel_size)
    part = _crop(scan.volume[:, :, axial], middle, (half, half))
    x = _HALF_WIDTH_MM - (middle[0] - centre[0]) * voxel_size
    y = (middle[1] - centre[1]) * voxel_size
    axis.plot([x - 9, x + 9, x + 9, x - 9, x - 9], [y - 9, y - 9, y + 9, y + 9, y - 9], color="white", linewidth=0.8)
    size, left, top = 45.0, 2 * _HALF_WIDTH_MM - 18.0, -_HALF_LENGTH_MM + 46.0
    axis.imshow(
        part[::-1].T[::-1],
        cmap="gray",
        vmin=0.3 * window,
        vmax=0.75 * window,
        interpolation="bilinear",
        extent=(left, left + size, top - size, top),
        zorder=3,
    )
    axis.plot(
        [left, left + size, left + size, left, left],
        [top, top, top - size, top - size, top],
        color="white",
        linewidth=0.8,
        zorder=4,
    )
    for lesion in centres[np.abs(centres - middle).max(axis=1) * voxel_size < 5.5]:
        tip = (
            left + size / 2 - (lesion[0] - middle[0]) * voxel_size * size / 18.0,
            top - size / 2 + (lesion[1] - middle[1]) * voxel_size * size / 18.0,
        )
        axis.annotate(
            "",
            (tip[0] - 3, tip[1] - 3),
            (tip[0] - 9, tip[1] - 9),
            zorder=5,
            arrowprops={"arrowstyle": "->", "color": "white"},
        )


def _slices(scan: PhantomScan) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The centre of the brain, and the slices to show: where focal lesions are largest, or else at fixed positions."""
    inside = np.argwhere(scan.brain_mask)
    low, high = inside.min(axis=0), inside.max(axis=0)
    centre = np.round((low + high) / 2).astype(int)
    chosen = np.round(low + (high - low) * np.array([0.5, 0.47, 0.57])).astype(int)
    if scan.lesion_mask.any():
        for axis in (1, 2):
            others = tuple(k for k in range(3) if k != axis)
            chosen[axis] = int(np.argmax((scan.lesion_mask > 0).sum(axis=others)))
    right, anterior, superior = (int(v) for v in chosen)
    return centre, (right, anterior, superior)


def _crop(plane: np.ndarray, centre: np.ndarray, half: tuple[int, int]) -> np.ndarray:
    """A window of size 2 * half + 1 around `centre`; zero outside the plane."""
    padded = np.pad(plane, [(h, h) for h in half])
    return padded[centre[0] : centre[0] + 2 * half[0] + 1, centre[1] : centre[1] + 2 * half[1] + 1]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the picture that the arguments ask for; returns the exit status."""
    options = parse_arguments(argv)

    def draw() -> int:
        try:
            print((draw_modalities if options.modalities else draw_contact_sheet)(options.output, options.seed))
        except ImportError as error:
            return complain(PROGRAM, f"the picture needs matplotlib ({error}): pip install matplotlib", FAILED)
        except OSError as error:
            raise OSError(f"the picture could not be written: {explain(error)}") from error
        return 0

    return run_program(PROGRAM, draw)


if __name__ == "__main__":
    sys.exit(main())
