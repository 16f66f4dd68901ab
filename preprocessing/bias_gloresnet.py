"""Remove the bias field of a scan: the slow drift of intensities through the head that comes from the coils.

N4 (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908), as SimpleITK implements it, estimates the logarithm of the
field on a coarse copy of the scan, inside the head or the brain mask. The scan is then divided by the field on its own
grid.
It computes with one thread, because the rounding of its sums depends on the number of threads.
"""

import threading
from typing import Any

import numpy as np

from .reading_gloresnet import VolumeError
from .volume_gloresnet import Volume

SHRINK = 4  # every fourth voxel along an axis is used, but
FEWEST = 16  # along an axis with fewer than SHRINK times as many voxels, such as that of thick slices, more are used
LEAST_HEAD = 100  # voxels of the coarse copy; fewer do not determine a field
NEGATIVE = 0.05  # of the 99th percentile; ringing of an interpolation stays above minus this
_ONE_AT_A_TIME = threading.Lock()  # SimpleITK has one number of threads for the whole process


def import_simpleitk(name: str) -> Any:
    """SimpleITK. Only a model that corrects the bias field needs it.

    Args:
        name: of the scan, for the message.

    Raises:
        VolumeError: it is not installed.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise VolumeError(
            f"{name} cannot be corrected for its bias field without SimpleITK, and this model needs that: "
            "run pip install SimpleITK."
        ) from error
    return SimpleITK


def correct_bias(volume: Volume, masked: bool = False) -> Volume:
    """Divide a scan by its bias field, which N4 estimates.

    Args:
        volume: a scan on its own grid. The size of its voxels does not matter, so it needs no affine.
        masked: whether its brain mask has been applied. N4 then uses all voxels above 0, otherwise those of the head
            (above Otsu's threshold). Voxels that are not above 0 have no logarithm and never count.

    Returns:
        The volume with corrected `data` (float32, or float64 if the scan's own type needs it), marked as
        `bias_corrected`.

    Raises:
        VolumeError: SimpleITK is not installed, the intensities are not those of a scan as acquired, or too little of
            the head is above 0.
    """
    field = np.exp(log_bias_field(volume.data, masked, volume.source))
    corrected = np.divide(volume.data, field, dtype=np.result_type(volume.data.dtype, np.float32))
    return volume._replace(data=corrected, bias_corrected=True)


def log_bias_field(data: np.ndarray, masked: bool = False, name: str = "the scan") -> np.ndarray:
    """The natural logarithm of the bias field of a scan, by N4.

    Args:
        data: `(R, A, S)` intensities.
        masked: see `correct_bias`.
        name: of the scan in messages.

    Returns:
        `(R, A, S)` float32. The logarithm is 0 where nothing is known about the field, far from the head.

    Raises:
        VolumeError: see `correct_bias`.
    """
    sitk = import_simpleitk(name)
    lowest, highest = np.quantile(data[::2, ::2, ::2], (0.01, 0.99))
    if lowest < -NEGATIVE * highest:
        raise VolumeError(
            f"{name} has many intensities below 0, such as {lowest:.3g}, so a bias field cannot be divided out: give "
            "the scan as it was acquired, not standardised."
        )
    with _ONE_AT_A_TIME:
        threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        try:
            image = sitk.GetImageFromArray(np.ascontiguousarray(data.T, dtype=np.float32))
            coarse = sitk.Shrink(image, [min(SHRINK, max(1, length // FEWEST)) for length in data.shape])
            inside = coarse > 0 if masked else (coarse > 0) & sitk.OtsuThreshold(coarse, 0, 1)
            if np.count_nonzero(sitk.GetArrayViewFromImage(inside)) < LEAST_HEAD:
                raise VolumeError(
                    f"{name} has too few voxels of a head above 0 to estimate its bias field: check that the scan is "
                    "complete."
                )
            n4 = sitk.N4BiasFieldCorrectionImageFilter()
            n4.Execute(coarse, inside)
            field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T
        except RuntimeError as error:
            raise VolumeError(
                f"{name} has no bias field that N4 can estimate: check that it is a scan of a whole head."
            ) from error
        finally:
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    if not np.isfinite(field).all():
        raise VolumeError(f"{name} has no bias field that N4 can estimate: check that it is a scan of a whole head.")
    return field
