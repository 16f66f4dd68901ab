"""A disk cache of preprocessed volumes, shared by all folds and runs. Only new or changed scans are processed.

Each shard is a set of Arrow files written by `datasets` and memory-mapped for reading: 8.5 MB per scan at 128^3. A scan
is identified by the path, inode, size and change time of its files, inside a folder named after the processor's
settings and code; a copied or moved cohort is processed again. To free the space, delete `gloresnet/` in the datasets
cache (`HF_DATASETS_CACHE`); it is rebuilt when needed.
"""

import hashlib
import inspect
import json
import math
import shutil
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets import Array4D, Dataset, Features, List, Value, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock
from tqdm import tqdm

from machine.cores import available_cores
from machine.programs import one_line
from machine.workers import in_workers
from preprocessing import GloResNetImageProcessor, VolumeError, VolumeWarning
from preprocessing.preparation_gloresnet import SETTINGS
from run_folder.files import replacing_folder

from .file_state import file_state
from .images import CohortError
from .modalities import Channel, further_files
from .scans import Scan
from .transforms import in_t2w_space

MOST_IN_FILE = 8  # scans; with more, the progress bar would seldom move; with fewer, there would be many files to open
PARTS = 4  # at least so many files per worker, if there are enough scans: workers that are done first get another


def standardised_volumes(
    scans: list[Scan], processor: GloResNetImageProcessor, *, num_workers: int | None = None
) -> tuple[Dataset, list[Scan]]:
    """Preprocess the scans in use, or read them from the cache.

    Args:
        scans: scans of any status; only those with status `used` are read.
        processor: the preprocessing to apply. It gets each scan's brain mask if it requires one, and the channels of
            its modalities.
        num_workers: number of processes; all cores by default.

    Returns:
        A dataset with one row per readable scan, in the order given: `pixel_values` (C, S, S, S) float32, `sha256` of
        the image file and, with several modalities, `presence` (C,) bool and `further_sha256` of `further_files`. And
        all scans, where those that could not be read have the status `unreadable` and a reason.

    Raises:
        CohortError: an image of another modality than T2w cannot be used. The message names it.
    """
    folder = _folder(processor)
    folder.mkdir(parents=True, exist_ok=True)
    # a second run on the same cohort waits here and then finds the volumes in the cache
    with FileLock(folder / ".lock"):
        for unfinished in folder.glob(".*.partial"):
            shutil.rmtree(unfinished)
        rows = _index(folder)[0]
        keys = {
            scan: _key(scan.image, scan.mask, scan.channels if _channels(processor) > 1 else ())
            for scan in scans
            if scan.status == "used"
        }
        missing = {scan: key for scan, key in keys.items() if key not in rows}
        errors = _build(missing, processor, folder, num_workers or available_cores()) if missing else {}
        rows, volumes = _index(folder)
    scans = [
        replace(scan, status="unreadable", reason=errors[keys[scan]])
        if scan.status == "used" and keys[scan] in errors
        else scan
        for scan in scans
    ]
    wanted = [rows[keys[scan]] for scan in scans if scan.status == "used"]
    several = ["presence", "further_sha256"] if _channels(processor) > 1 else []
    return volumes.select(wanted).select_columns(["pixel_values", "sha256", *several]), scans


class _Part(NamedTuple):
    """What became of some scans: how many there were, key -> reason for those not read, problems of further images."""

    scans: int
    unreadable: dict[str, str]
    of_channels: list[str]


def _build(keys: dict[Scan, str], processor: GloResNetImageProcessor, folder: Path, num_workers: int) -> dict[str, str]:
    """Add a shard with the volumes of the scans. Returns key -> reason for scans that could not be read.

    Raises:
        CohortError: an image of another modality than T2w cannot be used; the shard is kept for the other scans.
    """
    scans = list(keys.items())
    num_workers = min(num_workers, len(scans))
    length = min(MOST_IN_FILE, math.ceil(len(scans) / (PARTS * num_workers)))
    parts = [scans[first : first + length] for first in range(0, len(scans), length)]
    unreadable: dict[str, str] = {}
    of_channels: list[str] = []
    finished = folder / uuid.uuid4().hex
    with (
        replacing_folder(finished) as shard,
        in_workers(partial(_write, processor=processor, shard=shard), enumerate(parts), num_workers) as written,
        tqdm(total=len(scans), desc="Standardising scans", unit="scan") as progress,
    ):
        for part in written:
            unreadable |= part.unreadable
            of_channels += part.of_channels
            progress.update(part.scans)
    if not any(finished.iterdir()):
        finished.rmdir()
    if of_channels:
        more = len(of_channels) - 1
        raise CohortError(
            f"{of_channels[0]} Or remove that file: the scan is then used, and counted as lacking it."
            + (f" {more} more such {'file' if more == 1 else 'files'} in other scans." if more else "")
        )
    return unreadable


def _write(part: tuple[int, list[tuple[Scan, str]]], processor: GloResNetImageProcessor, shard: Path) -> _Part:
    """Standardise some scans, and write those that can be read to a file of the shard, if there are any."""
    number, scans = part
    unreadable, of_channels = {}, []
    file = shard / f"{number:05}.arrow"
    # without a fingerprint, whoever opens the file computes one
    with ArrowWriter(path=str(file), features=_features(processor), fingerprint=f"{shard.name}-{number}") as writer:
        for scan, key in scans:
            try:
                row = _standardise(scan, key, processor)
            except CohortError as error:
                of_channels.append(one_line(error))
            except (VolumeError, OSError) as error:
                unreadable[key] = one_line(error)
            else:
                writer.write_batch({name: [value] for name, value in row.items()})
        written, _ = writer.finalize()
    if not written:
        file.unlink()
    return _Part(len(scans), unreadable, of_channels)


def _standardise(scan: Scan, key: str, processor: GloResNetImageProcessor) -> dict[str, Any]:
    """One row of the cache.

    Raises:
        CohortError: a further image of the scan cannot be used.
        VolumeError, OSError: the scan cannot.
    """
    assert scan.image is not None  # it has the status `used`
    channels = scan.channels if _channels(processor) > 1 else ()
    masks = {"mask": scan.mask} if processor.brain_mask == "required" else {}
    without_search: dict[str, Any] = {"local_stream": False} if getattr(processor, "local_stream", False) else {}
    options: dict[str, Any] = {"return_tensors": "np", **masks, **without_search}
    with warnings.catch_warnings():
        if _channels(processor) > 1:  # the cohort counts what is missing
            warnings.filterwarnings("ignore", message=r"(?s).*: The scan has no ", category=VolumeWarning)
        try:
            images: Any = _with_channels(scan.image, channels) if channels else scan.image
            inputs = processor(images, **options)
        except (VolumeError, CohortError) as error:
            if channels:
                processor(scan.image, **options)  # type: ignore[arg-type]  # raises if the T2w scan is to blame
                raise CohortError(str(error)) from error
            raise
    row = {"key": key, "sha256": _digest(scan.image), "pixel_values": inputs["pixel_values"][0]}
    if _channels(processor) > 1:
        row["presence"] = inputs["presence"][0].tolist()
        row["further_sha256"] = [_digest(path) for path in further_files(channels)]
    if _key(scan.image, scan.mask, channels) != key:  # volume and hash may be of different files
        raise VolumeError(f"{scan.image} or its mask changed while it was read.")
    return row


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_channels(image: str, channels: Sequence[Channel]) -> dict[str, Any]:
    """The images of a scan by modality, all in the world of its T2w scan. Errors name the file."""
    images: dict[str, Any] = {"T2w": image}
    for channel in channels:
        images[channel.modality] = in_t2w_space(channel.image, channel.transform, image)
    return images


def _key(image: str | None, mask: str | None, channels: Sequence[Channel] = ()) -> str:
    """A hash of the state of a scan's files, without reading them."""
    state: list = [file_state(image), file_state(mask)]
    state += [[c.modality, file_state(c.image), file_state(c.transform)] for c in channels]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _channels(processor: GloResNetImageProcessor) -> int:
    """How many channels its volumes have. Processors of earlier versions know T2w only."""
    return len(getattr(processor, "modalities", ("T2w",)))


def _folder(processor: GloResNetImageProcessor) -> Path:
    """The cache folder for these preprocessing settings and this version of the preprocessing code."""
    settings = {name: getattr(processor, name, None) for name in SETTINGS}  # earlier versions lack some
    if settings["local_stream"]:
        settings["local_stream"] = False  # the volumes are the same
    if _channels(processor) > 1:
        settings["modalities"] = list(processor.modalities)
        settings["transforms"] = Path(inspect.getfile(in_t2w_space)).read_text()
    settings["columns"] = sorted(_features(processor))
    package = Path(inspect.getfile(GloResNetImageProcessor)).parent
    code = "".join(path.read_text() for path in sorted(package.glob("*_gloresnet.py")))
    digest = hashlib.sha256((json.dumps(settings, sort_keys=True) + code).encode()).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE) / "gloresnet" / f"{processor.image_size}-{digest[:16]}"


def _features(processor: GloResNetImageProcessor) -> Features:
    count = _channels(processor)
    volume = Array4D((count, *[processor.image_size] * 3), "float32")
    several: dict[str, Any] = {}
    if count > 1:
        several = {"presence": List(Value("bool"), length=count), "further_sha256": List(Value("string"))}
    return Features(key=Value("string"), sha256=Value("string"), pixel_values=volume, **several)


def _index(folder: Path) -> tuple[dict[str, int], Dataset]:
    """Return key -> row, and the dataset of all shards."""
    shards = [Dataset.from_file(str(path)) for path in sorted(folder.glob("[0-9a-f]*/*.arrow"))]
    if not shards:
        return {}, Dataset.from_dict({"pixel_values": [], "sha256": []})
    volumes = concatenate_datasets(shards)
    return {key: row for row, key in enumerate(volumes["key"])}, volumes
