"""Smooth random fields from cubic B-splines, and named random generators.

A field is a function of position in mm, not of the voxel grid, so an infant has the same gyri at any voxel size. All
arithmetic runs in NumPy and SciPy loops without BLAS: results do not depend on threads, and workers may be forked.
"""

from __future__ import annotations

import zlib

import numpy as np
from scipy import fft, ndimage

_EXTENT_MM = 110.0  # control points reach from -110 to 110 mm: beyond the field of view
_BAND_EXTENT_MM = 80.0  # fields of one wavelength are evaluated in the brain only
_SPLINE_SD = (151.0 / 315.0) ** 1.5  # of a 3D cubic B-spline with unit white-noise coefficients, mean over positions


def named_rng(seed: int, *names: str | int) -> np.random.Generator:
    """A random generator that depends only on the seed and its names, not on what was drawn elsewhere."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


class SmoothField:
    """A zero-mean, unit-variance (before mixing) Gaussian field with correlation length near `spacing` mm.

    Args:
        family, own: random generators. Twins share the first.
        spacing: distance between control points in mm; zero crossings along a line are about 2.7 spacings apart.
        own_share: the part of the variance that comes from `own`, 0-1.
        wavelength: in mm, for a field of one wavelength (+-20 %). Its zero levels are evenly spaced, half a wavelength
            apart, like gyri. The spacing is then a fifth of the wavelength, and `spacing` is ignored.
    """

    def __init__(
        self,
        family: np.random.Generator,
        own: np.random.Generator,
        spacing: float = 10.0,
        own_share: float = 0.2,
        wavelength: float | None = None,
    ):
        spacing = spacing if wavelength is None else wavelength / 5.0
        self.extent = _EXTENT_MM if wavelength is None else _BAND_EXTENT_MM
        size = int(2 * self.extent / spacing) + 5
        shared = family.standard_normal((size, size, size), dtype=np.float32)
        single = own.standard_normal((size, size, size), dtype=np.float32)
        self.spacing = spacing
        mixed = np.sqrt(1.0 - own_share) * shared + np.sqrt(own_share) * single
        if wavelength is None:
            self.coefficients = (mixed / _SPLINE_SD).astype(np.float32)
            return
        step, half_step = np.fft.fftfreq(size), np.fft.rfftfreq(size)
        cycles = np.sqrt(step[:, None, None] ** 2 + step[None, :, None] ** 2 + half_step[None, None, :] ** 2)
        band = np.exp(-0.5 * ((cycles * 5.0 - 1.0) / 0.2) ** 2).astype(np.float32)
        filtered = fft.irfftn(fft.rfftn(mixed) * band, s=mixed.shape)
        # with five points per wavelength, the spline keeps about 0.76 of the amplitude of its coefficients
        self.coefficients = (filtered / (0.76 * filtered.std())).astype(np.float32)

    def on_axes(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The field on the grid spanned by three 1-D coordinate arrays (mm): float32, (len(x), len(y), len(z))."""
        values = self.coefficients
        for axis, positions in enumerate((x, y, z)):
            values = _spline_along(values, (np.asarray(positions) + self.extent) / self.spacing + 1.0, axis)
        return values

    def at(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The field at scattered points: three arrays of one shape (mm), float32 of that shape."""
        last = self.coefficients.shape[0] - 3.0
        where = [np.clip((p + self.extent) / self.spacing + 1.0, 1.0, last) for p in (x, y, z)]
        return ndimage.map_coordinates(self.coefficients, where, order=3, prefilter=False, output=np.float32)


def _spline_along(values: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """Evaluate a cubic B-spline along one axis at fractional control-point positions."""
    positions = np.clip(positions, 1.0, values.shape[axis] - 3.0)
    first = np.floor(positions).astype(int)
    t = (positions - first).astype(np.float32)
    weights = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    shape = [1, 1, 1]
    shape[axis] = -1
    terms = (
        np.take(values, first - 1 + step, axis=axis) * weight.reshape(shape).astype(np.float32)
        for step, weight in enumerate(weights)
    )
    total = next(terms)
    for term in terms:
        np.add(total, term, out=total)
    return total
