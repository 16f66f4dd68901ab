"""From requests to the rows of a table: scans are read in worker processes and screened in batches."""

import contextlib
import csv
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from machine.programs import one_line
from machine.workers import leave_signals_to_the_parent
from preprocessing import LocalInputs
from run_folder.cells import quoted
from run_folder.files import replacing

from .exported import ExportedModel
from .modalities import presence_arrays, used_and_missing
from .model import INJURY, ScreeningModel, predicted_label
from .one_scan import all_warnings, local_arrays, open_scan, read_inputs
from .places import COLUMNS as PLACE_COLUMNS
from .places import list_places, rows_of_places
from .requests import Request, find_mask

COLUMNS = ["scan", "p_injury", "p_injury_no_tta", "predicted_label", "status", "message", "warnings"]


def no_others(scan: str) -> Mapping[str, Any]:
    """The further images of a scan that is screened by its T2w image alone."""
    return {}


class PreparedScan(NamedTuple):
    """A request after reading: the inputs and warnings of a scan, or the message why there are none.

    `pixel_values` is `(C, R, A, S)`; `local` is None for a model without a local stream, `presence` for one that takes
    T2w alone.
    """

    scan: str
    pixel_values: np.ndarray | None = None
    local: LocalInputs | None = None
    warnings: tuple[str, ...] = ()
    message: str = ""
    presence: np.ndarray | None = None


class PreparedScans:
    """Requests as `PreparedScan`, for reading in worker processes or threads.

    Args:
        requests: from `find_requests`.
        processor: of the model.
        trained_on: `training_appearance` of the model's configuration.
        series, others: see `screen`.
    """

    def __init__(
        self,
        requests: list[Request],
        processor,
        trained_on: dict[str, list[float]] | None,
        series: str | None = None,
        others: Callable[[str], Mapping[str, Any]] = no_others,
    ):
        self.requests, self.processor, self.trained_on, self.series = requests, processor, trained_on, series
        self.others = others

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> PreparedScan:
        scan, problem = self.requests[index]
        if problem:
            return PreparedScan(scan, message=problem)
        try:
            mask = find_mask(scan) if self.processor.brain_mask == "required" else None
            # numpy arrays travel between processes through a pipe, so a container's small /dev/shm does not matter
            found = read_inputs(self.processor, open_scan(scan, self.series), mask, others=self.others(scan))
            doubts = all_warnings(found.volume, found.pixel_values[0], self.trained_on)
            return PreparedScan(scan, found.pixel_values, found.local, tuple(doubts), presence=found.presence)
        except Exception as error:  # any error costs the row of this scan, not the run
            return PreparedScan(scan, message=one_line(error))


def screen(
    requests: list[Request],
    model: ScreeningModel,
    processor,
    *,
    batch_size: int = 2,
    num_workers: int = 0,
    test_time_augmentation: bool | None = None,
    series: str | None = None,
    others: Callable[[str], Mapping[str, Any]] = no_others,
) -> Iterator[dict[str, Any]]:
    """Screen scans, and yield one row of `COLUMNS` per request, in their order.

    A scan that cannot be read, or gets no probability, has status `error` and a message. `warnings` holds the sentences
    of `all_warnings`, separated by spaces; they are collected where the scan is read. Memory does not grow with the
    number of scans. With a local stream, each row of a screened scan has one more entry, `places`, see `list_places`.

    Args:
        requests: from `find_requests`.
        model, processor: from `load_model`, the model also from `prepare`.
        batch_size: scans per forward pass.
        num_workers: processes that read scans, or threads for a converted file; 0 reads in this process.
        test_time_augmentation: `False` skips the mirrored view; `None` follows the model's configuration.
        series: number or UID of the series to use in DICOM studies where several fit.
        others: the further images of a scan by modality, see `read_inputs`. It is called where the scan is read.
    """
    prepared = PreparedScans(requests, processor, model.config.training_appearance, series, others)
    read = read_in_threads if isinstance(model, ExportedModel) else read_in_processes
    for batch in read(prepared, batch_size, min(num_workers, len(requests) - 1)):
        readable = [item for item in batch if item.pixel_values is not None]
        places: Iterator[list] = iter([])
        if readable:
            local = local_arrays([item.local for item in readable])
            flags = presence_arrays([item.presence for item in readable])
            stack = np.stack([item.pixel_values for item in readable if item.pixel_values is not None])
            said = model.answer({"pixel_values": stack} | local | flags, test_time_augmentation)
            views = said["members"].mean(axis=0)
            if local:
                both = zip(said["candidates"], local["local_positions"], strict=True)
                places = iter([list_places(*scores) for scores in both])
            augmented, plain = iter(views.mean(axis=0)[:, INJURY].tolist()), iter(views[0, :, INJURY].tolist())
        for scan, pixel_values, _, warnings, message, presence in batch:
            doubts = " ".join(warnings)
            if pixel_values is None:
                yield _row(scan, status="error", message=message)
                continue
            p_injury, p_plain = next(augmented), next(plain)
            found: dict[str, Any] = {"places": next(places)} if local else {}
            missing = used_and_missing(processor, presence)["missing_modalities"]
            # one sentence about the missing modalities is among the warnings; others are doubts
            found |= {"missing": missing, "doubted": len(warnings) > 1} if missing else {}
            try:
                label = predicted_label(p_injury, model.config, scan)
            except ValueError as error:
                yield _row(scan, status="error", message=str(error), warnings=doubts)
                continue
            # 9 digits keep a float32 exactly
            yield _row(scan, f"{p_injury:.9g}", f"{p_plain:.9g}", label, "ok", warnings=doubts) | found


def read_in_processes(scans: PreparedScans, batch_size: int, num_workers: int) -> Iterable[list[PreparedScan]]:
    """Batches of scans, read ahead in processes."""
    from torch.utils.data import DataLoader

    return DataLoader(
        scans,  # type: ignore[arg-type]  # it needs a length and items only
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
        worker_init_fn=leave_signals_to_the_parent,
    )


def read_in_threads(scans: PreparedScans, batch_size: int, num_workers: int) -> Iterator[list[PreparedScan]]:
    """Batches of scans, read ahead in threads. Needs no torch; a converted file computes outside Python's lock."""
    todo = iter(range(len(scans)))
    if num_workers < 1:
        while batch := [scans[index] for index in islice(todo, batch_size)]:
            yield batch
        return
    pool = ThreadPoolExecutor(num_workers)
    try:
        reading = deque(pool.submit(scans.__getitem__, index) for index in islice(todo, num_workers + 2 * batch_size))
        while reading:
            yield [reading.popleft().result() for _ in range(min(batch_size, len(reading)))]
            reading.extend(pool.submit(scans.__getitem__, index) for index in islice(todo, batch_size))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def write_table(rows: Iterable[dict[str, Any]], output: Path, total: int, places: Path | None = None) -> Counter[str]:
    """Write the rows as they come, with a progress bar. The files appear when they are complete.

    Args:
        rows: from `screen`.
        output: the CSV file; an existing one is replaced.
        total: the number of rows, for the progress bar.
        places: a second CSV file, for the most suspicious places of each scan; None for none.

    Returns:
        How many rows have each status and each label; under `warnings` how many have warnings, apart from the one that
        names missing modalities; under `missing` how many have that one.
    """
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        table = _new_table(stack, output, COLUMNS)
        table_of_places = _new_table(stack, places, PLACE_COLUMNS) if places else None
        for row in tqdm(rows, total=total, desc="screening", unit="scan"):
            table.writerow({column: quoted(row[column]) for column in COLUMNS})
            if table_of_places:
                found = rows_of_places(quoted(row["scan"]), row.get("places", []), quoted(row["warnings"]))
                table_of_places.writerows(found)
            counts.update([row["status"], row["predicted_label"], *(["missing"] if row.get("missing") else [])])
            counts.update(["warnings"] if row.get("doubted", row["warnings"]) else [])
    return counts


def _new_table(stack: contextlib.ExitStack, path: Path, columns: list[str]) -> csv.DictWriter:
    temporary = stack.enter_context(replacing(path))
    file = stack.enter_context(open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape"))
    table = csv.DictWriter(file, columns)
    table.writeheader()
    return table


def _row(scan: str, p_injury="", p_plain="", label="", status="", message="", warnings="") -> dict[str, Any]:
    return dict(zip(COLUMNS, [scan, p_injury, p_plain, label, status, message, warnings], strict=True))
