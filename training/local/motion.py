"""Motion of the head during a scan, simulated in k-space: its ghosts and stripes must not count as injuries."""

import numpy as np
from scipy import fft

MOVES = (2, 6)  # how often the head moves
SHIFT_MM = (0.4, 1.4)  # size of a move: SD along each axis
STILL = 0.1  # share of the lines around the centre of k-space during which the head does not move; they give the place


def move_head(data: np.ndarray, spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A scan whose lines of k-space were recorded while the head was at different places.

    The lines along one random axis are recorded in order. A translation by d multiplies the line k by
    exp(-2 pi i k d) (Fourier shift theorem).

    Args:
        data: (x, y, z).
        spacing: (3,) mm.
        rng: determines the moves.

    Returns:
        (x, y, z) float32, of the same mean.
    """
    axis, moves = int(rng.integers(3)), int(rng.integers(MOVES[0], MOVES[1] + 1))
    spectrum = fft.fftn(np.asarray(data, np.float32))
    frequencies = [fft.fftfreq(n).astype(np.float32) for n in data.shape]  # cycles per voxel
    order = np.argsort(np.argsort(frequencies[axis]))  # the place of each line in time
    lines = len(order)
    starts = np.sort(rng.uniform(0, lines, moves))
    places = rng.normal(0, rng.uniform(*SHIFT_MM), (moves + 1, 3)) / np.asarray(spacing)
    shift = places[np.searchsorted(starts, order)]  # (lines, 3), voxels
    shift[np.abs(frequencies[axis]) < STILL / 2] = 0.0
    for other in range(3):
        shape = [1, 1, 1]
        shape[axis] = lines
        along = shift[:, other].astype(np.float32).reshape(shape)
        shape = [1, 1, 1]
        shape[other] = data.shape[other]
        spectrum *= np.exp(-2j * np.pi * along * frequencies[other].reshape(shape)).astype(np.complex64)
    return np.ascontiguousarray(fft.ifftn(spectrum).real.astype(np.float32))
