"""Measure training and screening on one CUDA GPU; write gpu.md and gpu.json. See `gpu_arguments.py`."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cohort.phantom import PhantomFolderError
from machine.programs import FAILED, one_line, run_program
from machine.version import project_version
from run_folder.files import write_text

from .gpu_arguments import NAME, parse_arguments
from .gpu_plan import Plan, dry_plan, gpu_plan
from .gpu_screening import measure_maps, measure_pair, measure_predict
from .gpu_training import measure_epoch, measure_fold, measure_resume, measure_steps
from .setting import describe_machine, load

SECTIONS: dict[str, Callable[[Plan], Iterator[dict[str, Any]]]] = {  # the longest last
    "pair": measure_pair,
    "maps": measure_maps,
    "steps": measure_steps,
    "predict": measure_predict,
    "resume": measure_resume,
    "epoch": measure_epoch,
    "fold": measure_fold,
}
DRY = "A dry run on the CPU in tiny sizes. It shows that the command works; no figure here says anything about a GPU."


def main(argv: Sequence[str]) -> int:
    args = parse_arguments(argv)
    interrupted = f"interrupted; the rows so far are in {args.output}"
    return run_program(NAME, lambda: measure(args), wrong_call=(PhantomFolderError,), interrupted=interrupted)


def measure(args: argparse.Namespace) -> int:
    """Measure the sections one after another. Returns the exit status: 1 if one of them failed."""
    started = time.perf_counter()
    report: dict[str, Any] = {"dry": args.dry, "machine": describe_gpu(args.dry), "sections": []}
    with tempfile.TemporaryDirectory(prefix="gloresnet-benchmarks-") as folder:
        plan = dry_plan(Path(folder)) if args.dry else gpu_plan(Path(folder))
        for name in args.sections or SECTIONS:
            print(f"measuring: {name}", file=sys.stderr, flush=True)
            rows: list[dict[str, Any]] = []
            section = {"name": name, "title": " ".join((SECTIONS[name].__doc__ or name).split()), "rows": rows}
            report["sections"].append(section)
            begun = time.perf_counter()
            try:
                for row in SECTIONS[name](plan):
                    rows.append(row)
                    write(report, args.output)
            except Exception as error:  # any error costs this section, not the others
                traceback.print_exc()
                section["error"] = sentence(error)
            section["seconds"] = round(time.perf_counter() - begun, 1)
            report["machine"] |= {"load at the end": load(), "minutes": round((time.perf_counter() - started) / 60, 1)}
            write(report, args.output)
    print(to_markdown(report))
    errors = [row for section in report["sections"] for row in (section, *section["rows"]) if "error" in row]
    return FAILED if errors else 0


def sentence(error: Exception) -> str:
    """The error in one line. The error of a program ends with the last line that it printed."""
    said = getattr(error, "stderr", None)
    lines = (said.decode(errors="replace") if isinstance(said, bytes) else said or "").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"{type(error).__name__}: {one_line(error)[:300]} {last[:300]}".rstrip()


def describe_gpu(dry: bool) -> dict[str, Any]:
    """What a reader needs to judge the figures: the machine, the card, the driver, the versions, the commit."""
    facts = describe_machine()
    facts["commit"] = project_version()["commit"] or "not known"
    if dry:
        return facts | {"card": "none used"}
    card = torch.cuda.get_device_properties(0)
    return facts | {
        "card": card.name,
        "memory of the card": f"{card.total_memory / 1e9:.1f} GB",
        "driver": _driver(),
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
    }


def _driver() -> str:
    try:
        call = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=30).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "not known"


def to_markdown(report: dict[str, Any]) -> str:
    """One table per section; its columns are the keys of its rows."""
    lines = ["# Measured on a GPU" if not report["dry"] else "# Dry run", ""]
    lines += [DRY, ""] if report["dry"] else []
    lines += [", ".join(f"{name} {value}" for name, value in report["machine"].items()) + ".", ""]
    for section in report["sections"]:
        lines += [f"## {section['name']}", "", section["title"], ""]
        if columns := list(dict.fromkeys(name for row in section["rows"] for name in row)):
            lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in section["rows"]]
            lines.append("")
        if "error" in section:
            lines += [f"**This section failed.** {section['error']}", ""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_cell(item) for item in value)
    return "" if value is None else str(value).replace("|", "/")


def write(report: dict[str, Any], folder: Path) -> None:
    """Write `gpu.md` and `gpu.json`."""
    write_text(folder / "gpu.md", to_markdown(report))
    write_text(folder / "gpu.json", json.dumps(report, indent=1) + "\n")
