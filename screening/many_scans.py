"""From requests to the rows of a table: scans are read in worker processes and screened in batches."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from machine.programs import one_line
from machine.workers import leave_signals_to_the_parent
from run_folder.cells import quoted
from run_folder.files import replacing

from .model import INJURY, ScreeningModel, predicted_label
from .one_scan import all_warnings, open_scan, read_scan
from .requests import Request, find_mask

COLUMNS = ["scan", "p_injury", "p_injury_no_tta", "predicted_label", "status", "message", "warnings"]


class PreparedScan(NamedTuple):
    """A request after reading: the input `(1, R, A, S)` and warnings of a scan, or the message why there are none."""

    scan: str
    pixel_values: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    message: str = ""


class PreparedScans(Dataset):
    """Requests as `PreparedScan`, for reading in worker processes.

    Args:
        requests: from `find_requests`.
        processor: of the model.
        trained_on: `training_appearance` of the model's configuration.
        series: see `screen`.
    """

    def __init__(
        self, requests: list[Request], processor, trained_on: dict[str, list[float]] | None, series: str | None = None
    ):
        self.requests, self.processor, self.trained_on, self.series = requests, processor, trained_on, series

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> PreparedScan:
        scan, problem = self.requests[index]
        if problem:
            return PreparedScan(scan, message=problem)
        try:
            mask = find_mask(scan) if self.processor.brain_mask == "required" else None
            # numpy arrays travel between processes through a pipe, so a container's small /dev/shm does not matter
            volume, pixel_values = read_scan(self.processor, open_scan(scan, self.series), mask)
            return PreparedScan(scan, pixel_values, tuple(all_warnings(volume, pixel_values[0], self.trained_on)))
        except Exception as error:  # any error costs the row of this scan, not the run
            return PreparedScan(scan, message=one_line(error))


@torch.inference_mode()
def screen(
    requests: list[Request],
    model: ScreeningModel,
    processor,
    *,
    batch_size: int = 2,
    num_workers: int = 0,
    test_time_augmentation: bool | None = None,
    series: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Screen scans, and yield one row of `COLUMNS` per request, in their order.

    A scan that cannot be read, or gets no probability, has status `error` and a message. `warnings` holds the sentences
    of `all_warnings`, separated by spaces; they are collected where the scan is read. Memory does not grow with the
    number of scans.

    Args:
        requests: from `find_requests`.
        model, processor: from `load_model`, the model also from `prepare`.
        batch_size: scans per forward pass.
        num_workers: processes that read scans; 0 reads in this process.
        test_time_augmentation: `False` skips the mirrored view; `None` follows the model's configuration.
        series: number or UID of the series to use in DICOM studies where several fit.
    """
    loader = DataLoader(
        PreparedScans(requests, processor, model.config.training_appearance, series),
        batch_size=batch_size,
        num_workers=min(num_workers, len(requests) - 1),
        collate_fn=list,
        worker_init_fn=leave_signals_to_the_parent,
    )
    for batch in loader:
        readable = [torch.from_numpy(item.pixel_values) for item in batch if item.pixel_values is not None]
        if readable:
            stack = torch.stack(readable).to(model.device)
            views = model.predict_views(stack, test_time_augmentation)
            augmented, plain = iter(views.mean(dim=0)[:, INJURY].tolist()), iter(views[0, :, INJURY].tolist())
        for scan, pixel_values, warnings, message in batch:
            doubts = " ".join(warnings)
            if pixel_values is None:
                yield _row(scan, status="error", message=message)
                continue
            p_injury, p_plain = next(augmented), next(plain)
            try:
                label = predicted_label(p_injury, model.config, scan)
            except ValueError as error:
                yield _row(scan, status="error", message=str(error), warnings=doubts)
                continue
            # 9 digits keep a float32 exactly
            yield _row(scan, f"{p_injury:.9g}", f"{p_plain:.9g}", label, "ok", warnings=doubts)


def write_table(rows: Iterable[dict[str, Any]], output: Path, total: int) -> Counter[str]:
    """Write the rows as they come, with a progress bar. The file appears when it is complete.

    Args:
        rows: from `screen`.
        output: the CSV file; an existing one is replaced.
        total: the number of rows, for the progress bar.

    Returns:
        How many rows have each status and each label, and under `warnings` how many have warnings.
    """
    counts: Counter[str] = Counter()
    with (
        replacing(output) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for row in tqdm(rows, total=total, desc="screening", unit="scan"):
            table.writerow({column: quoted(text) for column, text in row.items()})
            counts.update([row["status"], row["predicted_label"], *(["warnings"] if row["warnings"] else [])])
    return counts


def _row(scan: str, p_injury="", p_plain="", label="", status="", message="", warnings="") -> dict[str, Any]:
    return dict(zip(COLUMNS, [scan, p_injury, p_plain, label, status, message, warnings], strict=True))
