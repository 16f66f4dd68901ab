"""The whole way of a study on one machine: Orthanc, the service, a synthetic study, and the report that comes back.

    python -m hospital.demonstration --model runs/phantom-clear-demo/fold-4/model
    python -m hospital.demonstration                 with a model of random weights

Everything runs in a network of its own that has nothing but loopback (Linux, `unshare -rn`). Needs Debian's packages
orthanc and orthanc-dicomweb; `apt install` would also start Orthanc as a service: see docs/hospital.md. For research
use only.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("python -m hospital.demonstration")

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from machine.programs import run_program
from machine.version import PROJECT
from run_folder.files import InputError

from .orthanc import Orthanc, alone, free_port, missing
from .packages import require
from .synthetic import write_study

NAME = "python -m hospital.demonstration"
LONG = 300.0  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    return run_program(NAME, lambda: run(args), wrong_call=(InputError,), interrupted="interrupted, nothing is left")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=NAME, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", metavar="FOLDER", help="a model folder (default: random weights)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/hospital-demonstration"),
        help="for what comes back (default %(default)s)",
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    require("pydicom", "highdicom", "pynetdicom", "dicomweb_client")
    if args.model and not (Path(args.model) / "config.json").is_file():
        raise InputError(
            f"{args.model} is not a model folder, it has no config.json: give the folder fold-K/model of a run"
        )
    if problem := missing():
        raise OSError(f"the demonstration cannot run here: {problem}")
    chosen = ["--model", str(Path(args.model).absolute())] if args.model else []
    alone("hospital.demonstration", ["--output", str(args.output.absolute()), *chosen])
    with tempfile.TemporaryDirectory(prefix="gloresnet-demonstration-") as folder:
        demonstrate(Path(folder), args.model, args.output)


def demonstrate(folder: Path, model: str | None, output: Path) -> None:
    """Print each step.

    Raises:
        OSError: a part did not do what it should.
    """
    step = Steps()
    if model is None:
        model = str(untrained_model(folder / "model"))
        step("No --model was given: a model with random weights answers. Its number means nothing.")
    port = free_port()
    orthanc = Orthanc(folder / "orthanc", ("GLORESNET", port), free_port(), free_port())
    lines = folder / "lines.txt"
    service = None
    try:
        step(f"Orthanc runs as the archive, {orthanc.web}.")
        slices = write_study(phantom(), folder / "study")
        study = orthanc.upload(folder / "study")
        step(f"A synthetic study of {slices} slices is in it: a computer-generated phantom with injury.")
        command = [sys.executable, str(PROJECT / "serve.py"), "--model", model, "--listen", str(port)]
        command += ["--archive", orthanc.web, "--spool", str(folder / "spool"), "--settle", "2"]
        with open(lines, "wb") as file:
            service = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        wait(lambda: "listens as" in lines.read_text(), service, lines)
        step(f"The service runs: serve.py --listen {port} --archive {orthanc.web}")
        orthanc.send(study)
        step("Orthanc sends the study to it by C-STORE.")
        wait(lambda: " sent: " in lines.read_text(), service, lines)
        step("The service says: " + lines.read_text().splitlines()[-1])
        show(orthanc, output, step)
        orthanc.send(study)
        received = folder / "spool" / "received"  # walked without an error if a folder is deleted meanwhile
        wait(lambda: not any(names for _, _, names in os.walk(received)), service, lines)
        step(f"The study was sent once more. The archive still has {len(orthanc.reports())} report of it.")
    finally:
        if service:
            service.kill()  # its spool is deleted; to wait for its end could take longer than Ctrl-C has
            service.wait()
        orthanc.stop()


def show(orthanc: Orthanc, output: Path, step: Callable[[str], None]) -> None:
    """Fetch what came back, save it and print the report."""
    from PIL import Image
    from pydicom import dcmread

    output.mkdir(parents=True, exist_ok=True)
    (report,) = [dcmread(io.BytesIO(orthanc.file(each))) for each in orthanc.reports()]
    report.save_as(output / "report.dcm")
    others = [dcmread(io.BytesIO(orthanc.file(each))) for each in orthanc.reports("OT")]
    pictures = 0
    for one in others:
        if "FloatPixelData" in one:
            one.save_as(output / "map.dcm")
        else:
            pictures += 1
            Image.fromarray(one.pixel_array).save(output / f"picture-{one.InstanceNumber}.png")
    step(f"In the archive now: 1 report, {len(others) - pictures} map, {pictures} pictures. Copies are in {output}.")
    step("The report says:")
    for line in text_of(report):
        print(f"       {line}")


def text_of(item: Any) -> list[str]:
    """The comments, numbers, answers and parameters of a report, one a line."""
    found = []
    for child in item.get("ContentSequence", []):
        name = child.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in child else ""
        if child.ValueType == "TEXT" and name in ("Comment", "Algorithm Parameters"):
            found.append(child.TextValue)
        elif child.ValueType == "NUM":
            found.append(f"{name}: {float(child.MeasuredValueSequence[0].NumericValue):.4g}")
        elif child.ValueType == "CODE" and child.RelationshipType == "CONTAINS":
            found.append(f"{name}: {child.ConceptCodeSequence[0].CodeMeaning}")
        found += text_of(child)
    return found


class Steps:
    """Prints numbered lines with the time since the start."""

    def __init__(self) -> None:
        self.start, self.number = time.perf_counter(), 0

    def __call__(self, text: str) -> None:
        self.number += 1
        print(f"{self.number:2} {time.perf_counter() - self.start:5.1f} s  {text}", flush=True)


def wait(condition: Callable[[], bool], service: subprocess.Popen, lines: Path) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        if service.poll() is not None or time.monotonic() > deadline:
            raise OSError(f"the service did not do it; its last line: {lines.read_text().strip().splitlines()[-1:]}")
        time.sleep(0.1)


def untrained_model(folder: Path, image_size: int = 64) -> Path:
    """A model folder with seeded random weights."""
    import torch
    from transformers.utils import logging

    from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
    from preprocessing import GloResNetImageProcessor

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = GloResNetConfig(image_size=image_size, head_init_std=0.1)
    GloResNetForImageClassification(config).save_pretrained(folder)
    GloResNetImageProcessor(image_size=image_size).save_pretrained(folder)
    return folder


def phantom() -> Any:
    """A synthetic head with wide ventricles, a nibabel image."""
    from cohort.phantom import make_phantom_scan

    return make_phantom_scan(38.0, {"ventriculomegaly": "severe"}, seed=7).image()


if __name__ == "__main__":
    sys.exit(main())
