"""Read a delivery: the one T2w series as a volume, or one sentence."""

from collections.abc import Sequence
from typing import NamedTuple

import nibabel
import numpy as np

from preprocessing import Volume, VolumeError, read_volume

from .age import CONTRADICTED, UNKNOWN, age_in_days, contradicted, too_old
from .choice import choose, find_series
from .delivery import File, Opened, Source, list_files, name_of
from .errors import SeriesError
from .headers import Instance
from .packages import quiet, require
from .pixels import check_syntaxes, decode
from .stacking import Stack, stack_up
from .thresholds import CUT_SHARE, HEAD_SHARE


class Series(NamedTuple):
    """The T2w series of a delivery.

    Attributes:
        image: the volume, for the processor and for screening. It carries the `warnings`.
        sources: the files that hold its slices, in their order along the normal; `File.read()` gives their bytes.
        plane: of the slices: `"axial"`, `"coronal"` or `"sagittal"`.
        number: SeriesNumber, if the header has it.
        warnings: sentences about doubts. They name neither the delivery nor its patient.
        missing: those of them that say that slices may be missing.
        frames: of each slice, in their order along the normal: its file, as an index of `sources`, and its frame there,
            from 0.
    """

    image: Volume
    sources: tuple[File, ...]
    plane: str
    number: int | None
    warnings: tuple[str, ...]
    missing: tuple[str, ...] = ()
    frames: tuple[tuple[int, int], ...] = ()


def read(source: Source | Sequence[Source], series: int | str | None = None) -> Series:
    """Find the T2w series in a delivery, check it and read it.

    Args:
        source: a folder, a `.zip`, one multi-frame file, or a list of these. Other files in it are ignored, and so are
            zips inside it.
        series: SeriesNumber or SeriesInstanceUID of the series to read, where several fit.

    Raises:
        SeriesError: (a VolumeError) there is none, there are several, or it cannot be used. The message is one sentence
            that names the delivery as `source` does, and nothing that is inside it.
        VolumeError: the voxels are constant.
    """
    where = name_of(source)
    try:
        return _read(source, None if series is None else str(series).strip(), where)
    except VolumeError:
        raise
    except Exception as error:  # a vanished file or exhausted memory; its message may name what is inside
        kind = type(error).__name__
    raise SeriesError(f"{where} cannot be read ({kind}): copy it again, or convert it to NIfTI.")


def _read(source: Source | Sequence[Source], wanted: str | None, where: str) -> Series:
    with Opened() as opened:
        files = list_files(source, opened, where)
        require(where, "pydicom", "pydicom.pixels")
        with quiet():
            found, warnings = choose(find_series(files, opened, where), wanted, where)
            if any(map(too_old, found)):
                raise SeriesError(f"{where}: the patient is a year old or older, and the method is for newborns.")
            stack = stack_up(found, where)
            check_syntaxes(stack, where)
            voxels = decode(stack, opened, where)
    if all(age_in_days(instance) is None for instance in found):
        warnings.append(UNKNOWN)
    if any(map(contradicted, found)):
        warnings.append(CONTRADICTED)
    missing = _incomplete(found, stack) + _cut(voxels)
    warnings += missing
    volume = read_volume(nibabel.Nifti1Image(voxels, stack.affine), where)
    volume = volume._replace(source=where, warnings=(*volume.warnings, *warnings))
    sources = tuple(dict.fromkeys(instance.file for instance, _ in stack.slices))
    frames = tuple((sources.index(instance.file), frame.place) for instance, frame in stack.slices)
    return Series(volume, sources, stack.plane, found[0].number, tuple(warnings), tuple(missing), frames)


def _cut(voxels: np.ndarray) -> list[str]:
    """A warning if the first or last slice `voxels[:, :, 0]`, `[:, :, -1]` shows about as much head as any other."""
    low, high = np.quantile(voxels[::3, ::3], (0.02, 0.998))
    head = (voxels > low + HEAD_SHARE * (high - low)).mean(axis=(0, 1))
    if max(head[0], head[-1]) < CUT_SHARE * head.max():
        return []
    return ["The first or last slice shows nearly the largest section of the head: slices may be missing at an end."]


def _incomplete(series: Sequence[Instance], stack: Stack) -> list[str]:
    """A warning if the headers speak of more slices than there are. Positions cannot tell: the end may be missing."""
    count = len(stack.slices)
    expected = max((instance.expected or 0 for instance in series), default=0)
    if expected > count:
        return [f"The header states {expected} images, but the series has {count}: slices may be missing at an end."]
    parts = max((instance.parts or 0 for instance in series), default=0)
    if parts > len(series):
        return [f"The header states {parts} files, but the series has {len(series)}: slices may be missing at an end."]
    numbers = [instance.instance_number for instance in series if instance.instance_number is not None]
    if (
        len(series) == count
        and len(set(numbers)) == count
        and (min(numbers), max(numbers))
        not in (
            (1, count),
            (0, count - 1),
        )
    ):
        return [
            f"The instance numbers run from {min(numbers)} to {max(numbers)} over {count} slices: slices may be missing"
            " at an end."
        ]
    return []
