"""Screen scans with a trained model: one row of predictions.csv for each.

    python predict.py scan.nii.gz --model runs/phantom-clear-demo/fold-4/model
    python predict.py /data/bids --model ORG/NAME --output predictions.csv
    python predict.py 'scans/*.nii.gz' /more/scans --model FOLDER --no_tta
    python predict.py scan.nii.gz --model model.onnx        (or .xml: a file of python -m publishing.convert)

Columns: scan, p_injury (test-time augmented), p_injury_no_tta (the plain view), predicted_label, status, message. A
scan that cannot be read has status `error` and the reason; the others are screened all the same. Exit status: 0 all
went well, 1 some scan failed or the run stopped, 2 the call was wrong, 130 interrupted. The table appears when it is
complete; memory does not grow with the number of scans.
"""

import argparse
import csv
import glob
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cohort.images import CohortError, mask_names, session_images
from machine.cores import available_cores
from machine.memory import keep_freed_memory, keep_imported_modules
from machine.programs import one_line
from screening.fast import DTYPES, prepare
from screening.loading import ModelError, load_model

COLUMNS = ["scan", "p_injury", "p_injury_no_tta", "predicted_label", "status", "message"]
EXTENSIONS = (".nii", ".nii.gz", ".mgz", ".mgh")
INJURY = 1  # the column of the probabilities


class WrongCall(Exception):
    """What was asked for cannot be begun. The message is one sentence with what to do."""


class Request(NamedTuple):
    """One row to come: a scan, or the place where none could be chosen and why."""

    scan: str
    problem: str = ""


def main() -> int:
    args = parse_arguments()
    requests = find_requests(args.scans)
    keep_freed_memory()
    model, processor = load_model(args.model, args.dtype)
    model = prepare(model, args.dtype)
    rows = screen(requests, model, processor, args)
    counts = write_table(rows, args.output, total=len(requests))
    print(
        f"{args.output}: {counts['ok']} of {len(requests)} scan(s) screened,"
        f" {counts[model.config.id2label[INJURY]]} called {model.config.id2label[INJURY]}, {counts['error']} failed."
    )
    return 1 if counts["error"] else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("scans", nargs="+", metavar="SCAN|FOLDER|BIDS|GLOB", help="BIDS gives its T2w images, other folders all scans")
    add("--model", required=True, metavar="FOLDER|HUB_ID|FILE", help="its code is run, unless a converted FILE")
    add("--output", type=Path, default=Path("predictions.csv"), help="default predictions.csv")
    add("--no_tta", action="store_true", help="leave the mirrored view out: half the work of a folder")
    add(
        "--dtype",
        choices=["auto", *DTYPES],
        default="auto",
        help="float32 repeats a run's own predictions to 1e-6; auto takes bfloat16, faster and up to 0.005 off, where "
        "the processor computes in it and this model bears it (a check at the start)",
    )
    # The network fills two cores or a GPU with two scans, four views; larger batches only take memory.
    add("--batch_size", type=int, default=2, help="scans a forward pass, default 2")
    add("--num_workers", type=int, default=min(4, available_cores() // 2), help="processes that read scans")
    args = parser.parse_args()
    if args.batch_size < 1 or args.num_workers < 0:
        parser.error("--batch_size must be at least 1 and --num_workers at least 0")
    if args.output.is_dir() or not os.access(args.output.parent, os.W_OK):
        parser.error(f"--output {args.output} cannot be written: give a file in a folder that exists and is yours")
    return args


def find_requests(sources: list[str]) -> list[Request]:
    """The scans that files, folders, BIDS trees and glob patterns name, in that order, each once."""
    requests = {}
    for source in sources:
        for request in expand(source) or [Request(source, problem=f"{source} holds no scans: check the path.")]:
            requests.setdefault(os.path.abspath(request.scan), request)
    if all(request.problem for request in requests.values()):
        problems = " ".join(request.problem for request in requests.values())
        raise WrongCall(f"no scans found: {problems} Name {', '.join(EXTENSIONS)} files, or their folder")
    return list(requests.values())


def expand(source: str) -> list[Request]:
    if glob.has_magic(source) and not os.path.lexists(source):
        return [request for match in sorted(glob.glob(source, recursive=True)) for request in expand(match)]
    if not os.path.isdir(source):
        return [Request(source)]  # also one that does not exist: its row will say so
    folder = Path(source)
    if (folder / "dataset_description.json").is_file() or any(folder.glob("sub-*/")) or any(folder.glob("ses-*/")):
        patterns = ("ses-*/anat", "sub-*/anat", "sub-*/ses-*/anat")
        anats = sorted(anat for pattern in patterns for anat in folder.glob(pattern))
        return [request for anat in anats for request in choose_image(anat)]
    if (folder / "anat").is_dir() or folder.resolve().name == "anat":
        return choose_image(folder / "anat" if (folder / "anat").is_dir() else folder)
    files = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    return [Request(str(path)) for path in sorted(files) if path.name.endswith(EXTENSIONS) and path.name[0] != "."]


def choose_image(anat: Path) -> list[Request]:
    """The T2w image of a BIDS session, bias-corrected if there is one; nothing where there is none."""
    try:
        image = session_images(anat).image
    except CohortError as error:
        return [Request(str(anat), one_line(error))]
    return [Request(str(anat / Path(image).name))] if image else []


def mask_beside(scan: str) -> str:
    """The brain mask of a scan in a BIDS `anat` folder. Raises CohortError when there is none."""
    anat = os.path.dirname(os.path.abspath(scan))
    mask = session_images(anat).mask if os.path.basename(anat) == "anat" else None
    if mask is None:
        raise CohortError(f"{scan} has no brain mask beside it, which this model needs: add {mask_names()}, in anat.")
    return mask


class Prepared(Dataset):
    """Requests as `(scan, pixel_values (1, R, A, S) or None, message)`, read in worker processes."""

    def __init__(self, requests: list[Request], processor):
        self.requests, self.processor = requests, processor

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> tuple:
        scan, problem = self.requests[index]
        if problem:
            return scan, None, problem
        try:
            mask = mask_beside(scan) if self.processor.brain_mask == "required" else None
            # numpy crosses between processes by pipe, so a container's small /dev/shm is no limit
            return scan, self.processor(scan, mask=mask, return_tensors="np").pixel_values[0], ""
        except Exception as error:  # one bad scan is one bad row, whatever is wrong with it
            return scan, None, one_line(error)


@torch.inference_mode()
def screen(requests: list[Request], model, processor, args: argparse.Namespace) -> Iterator[dict]:
    """Rows of the table, in the order of the requests, as the scans are read and screened."""
    loader = DataLoader(
        Prepared(requests, processor),
        batch_size=args.batch_size,
        num_workers=min(args.num_workers, len(requests) - 1),
        collate_fn=list,
        worker_init_fn=leave_signals_to_the_parent,
    )
    for batch in until_a_signal(loader):
        readable = [torch.from_numpy(pixel_values) for _, pixel_values, _ in batch if pixel_values is not None]
        if readable:
            stack = torch.stack(readable).to(model.device)
            views = model.predict_views(stack, test_time_augmentation=False if args.no_tta else None)
            augmented, plain = iter(views.mean(dim=0)[:, INJURY].tolist()), iter(views[0, :, INJURY].tolist())
        for scan, pixel_values, message in batch:
            if pixel_values is None:
                yield row(scan, status="error", message=message)
                continue
            p_injury, p_plain = next(augmented), next(plain)
            if not 0 <= p_injury <= 1:
                yield row(scan, status="error", message=f"{scan} made the model answer {p_injury}: check the model.")
                continue
            label = model.config.id2label[INJURY if p_injury >= model.config.threshold else 1 - INJURY]
            yield row(scan, f"{p_injury:.9g}", f"{p_plain:.9g}", label, "ok")  # nine digits are a float32 whole


def until_a_signal(batches: Iterable) -> Iterator:
    """The batches, until Ctrl-C or SIGTERM; obeyed between two of them, or at once when it comes a second time.

    Raised at any moment, as Python does, the interrupt can fall into a fork or a destructor and be lost there.
    """
    noted = []

    def note(number, _frame):
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for batch in batches:
            if noted:
                raise KeyboardInterrupt
            yield batch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def row(scan: str, p_injury="", p_plain="", label="", status="", message="") -> dict:
    return dict(zip(COLUMNS, [scan, p_injury, p_plain, label, status, message], strict=True))


def write_table(rows: Iterable[dict], output: Path, total: int) -> Counter:
    """Write rows as they come, beside `output`, and rename at the end. Returns how often each status and label is."""
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    counts = Counter()
    try:
        with open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            for record in tqdm(rows, total=total, desc="screening", unit="scan"):
                table.writerow(record)
                counts.update([record["status"], record["predicted_label"]])
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    return counts


def leave_signals_to_the_parent(_worker: int) -> None:
    """A worker asked to stop would print a traceback; its parent ends it anyway."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stop(_signal, _frame):
    raise KeyboardInterrupt


if __name__ == "__main__":
    keep_imported_modules()
    signal.signal(signal.SIGTERM, stop)
    try:
        status, complaint = main(), ""
    except (WrongCall, ModelError) as error:
        status, complaint = 2, f"{error}."
    except KeyboardInterrupt:
        status, complaint = 130, "interrupted, nothing was written: run it again."
    except (RuntimeError, MemoryError, OSError) as error:  # out of memory, a worker killed, a full disk
        reason = one_line(error).rstrip(".")[:300]
        status, complaint = 1, f"stopped, nothing was written ({reason}): check disk and memory, or lower --batch_size."
    if complaint:
        print(f"predict.py: {complaint}", file=sys.stderr)
    sys.exit(status)
