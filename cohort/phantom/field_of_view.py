"""Fields of view that differ between scans: more or less air and neck, another place of the head, a tilted head.

The head is built on a grid of its own, then turned and moved into the field of view before noise, bias field and motion
are added. A neck fills what the field of view shows below the head. The head itself is never cut.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .acquisition import INTENSITY_SCALE, T2_CSF_MS, Acquisition, t2_signal, white_matter_t2
from .fields import named_rng
from .grids import Grid

SIDE_MM, TOP_MM, BOTTOM_MM = (4.0, 30.0), (3.0, 25.0), (3.0, 40.0)  # ranges of the margins
NOD_DEGREES, OTHER_DEGREES = 15.0, 8.0  # largest rotation about the left-right axis, and about the two others
HULL = 1.05  # the head is up to 5 % longer than the ellipsoid of its volume
ROOM_MM = 4.0  # around the head on its own grid
# The neck, relative to the half axes of the head with its scalp: where its axis is, and its half axes (R, A).
NECK_BACK, NECK_HALF_AXES = 0.15, (0.55, 0.5)
CANAL_MM, CORD_MM = 6.5, 4.0  # radii
MUSCLE, FAT, CORD = 0.45, 0.8, 0.55  # signal relative to white matter
SKIN = 0.85  # fat fills the neck beyond this share of its radius


@dataclass(frozen=True)
class FieldOfView:
    """The part of space that a scan shows, relative to the head.

    Attributes:
        left_mm, right_mm, back_mm, front_mm, bottom_mm, top_mm: distance from the head to each face.
        nod, roll, yaw: degrees about the left-right, back-front and bottom-top axis.
        neck: whether there is a neck below the head, or air.
    """

    left_mm: float
    right_mm: float
    back_mm: float
    front_mm: float
    bottom_mm: float
    top_mm: float
    nod: float = 0.0
    roll: float = 0.0
    yaw: float = 0.0
    neck: bool = field(default=True, kw_only=True)

    @property
    def rotation(self) -> np.ndarray:
        """3x3, from the head's own directions to those of the scanner."""
        return Rotation.from_euler("xyz", [self.nod, self.roll, self.yaw], degrees=True).as_matrix()

    @property
    def truth(self) -> dict[str, float]:
        """Columns of truth.tsv."""
        return {f"field_of_view_{name}": value for name, value in asdict(self).items() if name != "neck"}


def draw_field_of_view(seed: int, infant: str, session: str) -> FieldOfView:
    """Draw a field of view, independent of everything else about the scan."""
    rng = named_rng(seed, "field of view", infant, session)
    margins = [rng.uniform(*SIDE_MM) for _ in range(4)] + [rng.uniform(*BOTTOM_MM), rng.uniform(*TOP_MM)]
    angles = rng.uniform(-1, 1, 3) * (NOD_DEGREES, OTHER_DEGREES, OTHER_DEGREES)
    return FieldOfView(*(round(float(value), 2) for value in (*margins, *angles)))


def head_grid(half_axes: tuple[float, float, float], scalp_mm: float, voxel_size: float) -> Grid:
    """The grid on which a head is built: just large enough for it, its centre in the middle."""
    r, a, s = (2 * math.ceil((HULL * axis + scalp_mm + ROOM_MM) / voxel_size) + 1 for axis in half_axes)
    return Grid((r, a, s), voxel_size)


class Placement:
    """Where a head lies in a field of view.

    Args:
        field: the field of view.
        half_axes: of the intracranial space, mm.
        scalp_mm: thickness of scalp and skull.
        grid: voxel size, axis order and origin of the scan; its shape is replaced.
    """

    def __init__(self, field: FieldOfView, half_axes: tuple[float, float, float], scalp_mm: float, grid: Grid):
        self.rotation = field.rotation
        self.half_axes = tuple(HULL * axis + scalp_mm for axis in half_axes)
        reach = np.sqrt((self.rotation**2) @ np.square(self.half_axes))
        below = reach + (field.left_mm, field.back_mm, field.bottom_mm)
        above = reach + (field.right_mm, field.front_mm, field.top_mm)
        r, a, s = (math.ceil(length / grid.voxel_size) for length in below + above)
        self.grid = replace(grid, ras_shape=(r, a, s))
        self.centre = (below - above) / 2  # of the head, mm from the centre of the field of view

    def placed(self, array: np.ndarray, order: int) -> np.ndarray:
        """An array of `head_grid` on the grid of the scan: linear (order 1), or labels (order 0)."""
        step, middle = self.grid.voxel_size, (np.array(array.shape) - 1) / 2
        start = np.array([axis[0] for axis in self.grid.axes()]) - self.centre
        return ndimage.affine_transform(
            array,
            self.rotation.T,
            self.rotation.T @ start / step + middle,
            output_shape=self.grid.ras_shape,
            order=order,
            output=array.dtype,
        )

    def add_neck(self, image: np.ndarray, weeks: float, conditions: Acquisition) -> None:
        """Fill the air below the head with a neck: fat, muscle, and the spinal cord in its fluid. In place."""
        x, y, z = (axis - at for axis, at in zip(self.grid.axes(), self.centre, strict=True))
        points = [
            (self.rotation[0, k] * x)[:, None, None]
            + (self.rotation[1, k] * y)[None, :, None]
            + (self.rotation[2, k] * z)[None, None, :]
            for k in range(3)
        ]
        across, along = points[0], points[1] + NECK_BACK * self.half_axes[1]
        radius = np.hypot(
            across / (NECK_HALF_AXES[0] * self.half_axes[0]), along / (NECK_HALF_AXES[1] * self.half_axes[1])
        )
        white = t2_signal(white_matter_t2(weeks), conditions.echo_time_ms)
        neck = np.where(radius < SKIN, MUSCLE * white, FAT * white)
        canal = np.hypot(across, along)
        neck[canal < CANAL_MM] = t2_signal(T2_CSF_MS, conditions.echo_time_ms)
        neck[canal < CORD_MM] = CORD * white
        inside = (image == 0) & (radius < 1) & (points[2] < 0)
        image[inside] = neck[inside] * INTENSITY_SCALE * conditions.gain
