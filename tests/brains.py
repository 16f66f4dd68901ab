"""A small artificial brain that the local stream can search: round, without skull, with one dark spot."""

import nibabel
import numpy as np
from scipy import ndimage

SPOT = (20.0, -3.0, 41.0)  # mm, right of the middle
MIDDLE = (2.0, -2.0, 40.0)


def brain_with_spot(spacing=0.8, seed=5, radius=30.0):
    """A NIfTI image of a brain of this radius (mm), stored LAS, with a ventricle and a spot of 3 mm at `SPOT`."""
    shape = tuple(int(np.ceil(length / spacing)) for length in (77, 72, 74))
    affine = np.array([[-spacing, 0, 0, 40], [0, spacing, 0, -38], [0, 0, spacing, 4], [0, 0, 0, 1.0]])
    places = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    data = 300 + ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 60, shape), 0.8)
    data[np.linalg.norm(places - MIDDLE, axis=-1) < 6] = 500
    data[np.linalg.norm(places - SPOT, axis=-1) < 1.5] = 150
    data[np.linalg.norm(places - MIDDLE, axis=-1) > radius] = 0
    return nibabel.Nifti1Image(data.astype(np.float32), affine)
