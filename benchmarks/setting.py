"""What all sections share: the model and scans to measure with, and the precision that the targets apply to."""

import functools
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from cohort.phantom import generate_phantom_cohort
from machine.cores import available_cores
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model

from .bounds import precisions
from .contestants import interleave

GB = 1e9


@dataclass
class Setting:
    """What the sections measure with.

    Attributes:
        folder: scratch space, removed at the end.
        model: model folder with seeded random weights.
        scans: paths of full-size scans.
        image_size: edge of the input cube, voxels.
        turns: rounds of the interleaved measurements.
        quick: skip the slow measurements.
        long: screen 10,000 scans.
    """

    folder: Path
    model: Path
    scans: list[str]
    image_size: int
    turns: int
    quick: bool
    long: bool

    def paths(self, number: int) -> list[str]:
        """A list of `number` scans; scans repeat if there are fewer."""
        return [self.scans[index % len(self.scans)] for index in range(number)]

    def ways(self, *names: str) -> dict[str, dict]:
        """Contestants for `interleave`: name -> settings."""
        common = {"folder": str(self.model), "image_size": self.image_size}
        return {name: {"way": name, **common} for name in names}


def best() -> str:
    """The precision that screening uses on this processor. The targets apply to it."""
    return precisions()[0]


def race(job: str, contestants: dict[str, dict], turns: Iterable, **options) -> dict:
    """`interleave`, without the contestants whose precision this processor would emulate."""
    left_out = {name for name in contestants if name.endswith("bfloat16") and best() != "bfloat16"}
    results = interleave(job, {name: c for name, c in contestants.items() if name not in left_out}, turns, **options)
    return results | {name: "not measured: this processor has no bfloat16 instructions" for name in sorted(left_out)}


@functools.cache
def bounds_of(path: str) -> dict:
    """The answer of the job `bound`, measured once per run."""
    return interleave("bound", {"bound": {"path": path}}, [None] * 2)["bound"].answer


def find_scans(folder: Path | None) -> list[str]:
    """Paths of full-size scans: those in the folder, or phantoms with 0.5 mm voxels if none is given."""
    if folder is None:
        folder = Path("data/phantom-benchmarks")
        generate_phantom_cohort(folder, num_subjects=4, voxel_size=0.5, full_grid=True)
    folder = folder.absolute()  # contestants run in the project's folder
    return sorted(map(str, folder.rglob("*_desc-restore_T2w.nii.gz"))) or sorted(map(str, folder.rglob("*_T2w.nii.gz")))


def random_model(folder: Path, image_size: int) -> Path:
    """Write a model folder with seeded random weights whose probabilities differ between scans."""
    torch.manual_seed(0)
    model = GloResNetForImageClassification(GloResNetConfig(image_size=image_size, head_init_std=0.1)).eval()
    export_model(model, GloResNetImageProcessor(image_size=image_size), folder, "benchmark")
    return folder


def describe_machine() -> dict:
    """What a reader needs to judge the figures. It does not name the machine or its user."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    native = torch.cpu.get_capabilities()
    bfloat16 = "AMX" if native.get("amx_bf16") else "AVX-512" if native.get("avx512_bf16") else "none"
    return {
        "processor": model,
        "cores": available_cores(),
        "native bfloat16": bfloat16,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "load at the start": load(),
    }


def load() -> float:
    """The machine's load average over the last minute; NaN if the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else float("nan")
