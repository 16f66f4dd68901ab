"""The sections of the report: each measures and gives rows."""

import csv
import functools
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from machine.cores import available_cores

from .bounds import MACS, pass_seconds, precisions
from .contestants import ROOT, Series, interleave
from .programs import seconds_to_end, seconds_until
from .report import Row, compare, spread
from .screening import QUICK_WAYS, WAYS

GB = 1e9


@dataclass
class Setting:
    """What a run measures with.

    Attributes:
        folder: scratch space, removed at the end.
        model: a model folder with seeded random weights.
        scans: paths of full-size scans.
        image_size: edge of the lattice.
        turns: rounds of the interleaved measurements.
        quick, long: leave out what takes long, or screen 10,000 scans.
    """

    folder: Path
    model: Path
    scans: list[str]
    image_size: int
    turns: int
    quick: bool
    long: bool

    def paths(self, number: int) -> list[str]:
        """So many scans, the same ones again where there are fewer."""
        return [self.scans[index % len(self.scans)] for index in range(number)]

    def ways(self, *names: str) -> dict[str, dict]:
        common = {"folder": str(self.model), "image_size": self.image_size}
        return {name: {"way": name, **common} for name in names}


def best() -> str:
    """The precision that screening takes on this processor, which targets are set for."""
    return precisions()[0]


def race(job: str, contestants: dict[str, dict], turns: Iterable, **options) -> dict:
    """`interleave` without those whose precision would be emulated."""
    left_out = {name for name in contestants if name.endswith("bfloat16") and best() != "bfloat16"}
    results = interleave(job, {name: c for name, c in contestants.items() if name not in left_out}, turns, **options)
    return results | {name: "not measured: this processor has no bfloat16 of its own" for name in sorted(left_out)}


def bounds(setting: Setting) -> list[Row]:
    measured = _bounds(setting.scans[0])
    figures = {f"matrix product, {name}": (measured[f"{name} FLOP/s"], "FLOP/s") for name in precisions()}
    figures["memory, read and written"] = measured["copy bytes/s"], "B/s"
    rows = [
        Row("0. Bounds, measured on the spot", name, note=f"{value / GB:.1f} G{unit}")
        for name, (value, unit) in figures.items()
    ]
    for name in ("gzip", "isal", "all cores"):
        seconds = measured[f"{name} s"]
        rows.append(Row("0. Bounds, measured on the spot", f"gunzip of a scan, {name}", seconds and (seconds,) * 3))
    return rows


@functools.cache
def _bounds(path: str) -> dict:
    return interleave("bound", {"bound": {"path": path}}, [None] * 2)["bound"].answer


def scan(setting: Setting) -> list[Row]:
    """1. From a full-size scan to its probability, the model loaded."""
    section = "1. Full-size scan to TTA probability"
    results = race("scan", setting.ways(*(QUICK_WAYS if setting.quick else WAYS)), setting.paths(setting.turns))
    rows = compare(section, results, {best(): 3}, _differences(results))
    if isinstance(results["monai"], Series):
        ratio = results["monai"].median / results[best()].median
        rows.append(Row(section, f"{best()} beside MONAI", None, None, ">= 2x MONAI", ratio >= 2, f"{ratio:.2f}x"))
    return rows


def network(setting: Setting) -> list[Row]:
    """2. The TTA pair, network only."""
    section = "2. TTA pair, network only"
    names = [name for name in (QUICK_WAYS if setting.quick else WAYS) if name != "torchio"]
    results = race("network", setting.ways(*names), range(setting.turns))
    notes = _differences(results)
    bound = pass_seconds(_bounds(setting.scans[0])[f"{best()} FLOP/s"], setting.image_size, 2)
    for name in (best(), f"openvino {best()}"):
        if isinstance(results.get(name), Series):
            notes[name] += f"; {results[name].median / bound:.2f}x the matrix bound of {1000 * bound:.0f} ms"
    rows = compare(section, results, {best(): 3, f"openvino {best()}": 3.5}, notes)
    within = results[best()].median / bound
    return [*rows, Row(section, f"{best()} beside its bound", None, None, "<= 1.5x", within <= 1.5, f"{within:.2f}x")]


def _differences(results: dict) -> dict[str, str]:
    """How far each is from the reference path's probability, where it computes the same."""
    expected = results["reference"].answer
    other = {"monai": "other weights", "torchio": "resamples onto another lattice"}
    return {
        name: other.get(name) or f"p off by {abs(series.answer - expected):.1g}"
        for name, series in results.items()
        if isinstance(series, Series) and name != "reference"
    }


def many(setting: Setting) -> list[Row]:
    """3. Many scans: reading overlapped with compute, memory flat."""
    number = 10_000 if setting.long else 8 if setting.quick else 200
    section = "3. Many scans (per scan)"
    few = setting.paths(2 if setting.quick else 8)
    reference = interleave("many", setting.ways("reference"), [few] * 3, warm_up=few[:1])["reference"]
    rows = [Row(section, "reference", spread(reference.seconds, len(few)), 1.0)]
    links = []
    for index, path in enumerate(setting.paths(number)):
        links.append(str(setting.folder / f"link-{index:05}.nii.gz"))
        if not os.path.lexists(links[-1]):
            os.symlink(os.path.abspath(path), links[-1])
    for name, series in race("many", setting.ways("float32", "bfloat16"), [links], warm_up=few).items():
        if not isinstance(series, Series):
            rows.append(Row(section, name, note=series))
            continue
        times = spread(series.seconds, number)
        ratio = reference.median / len(few) / times[0]
        early, late = series.answer
        target = (">= 4x", ratio >= 4) if name == best() else ("", None)
        memory = f"{number} scans; {early / GB:.2f} GB held after an eighth, {late / GB:.2f} GB at the end"
        rows.append(Row(section, name, times, ratio, *target, memory))
    return rows


def step(setting: Setting) -> list[Row]:
    """4. A training step."""
    size, batch = setting.image_size, 2 if setting.quick else 4
    section = f"4. Training step at {size}^3 (per sample)"
    contestants = {
        way: {"way": way, "image_size": size, "batch_size": batch} for way in ("reference", "float32", "bfloat16")
    }
    # the first few steps still ask the kernel for memory; the median leaves them out, as thousands follow
    results = race("step", contestants, range(setting.turns))
    bound = pass_seconds(_bounds(setting.scans[0])[f"{best()} FLOP/s"], size, 3)
    notes = {best(): f"{results[best()].median / batch / bound:.2f}x the matrix bound, 1.5x asked for"}
    rows = compare(section, results, {best(): 4.5}, notes, batch)
    if setting.quick:
        return rows
    # one after the other, as three batches of 8 at once need much memory
    ways = [way for way, series in results.items() if isinstance(series, Series)]
    alone = {way: {way: contestants[way] | {"batch_size": 8}} for way in ways}
    peaks = {way: interleave("step", alone[way], range(2))[way].peak_bytes for way in ways}
    for way, peak in peaks.items():
        share = peak / peaks["reference"]
        target = ("below reference", share < 1) if way == best() else ("", None)
        rows.append(Row(section, f"peak memory, batch of 8, {way}", None, None, *target, f"{peak / GB:.2f} GB"))
    alone = {"way": best(), "image_size": size, "batch_size": 32, "checkpointing": True}
    peak = interleave("step", {"checkpointed": alone}, range(1))["checkpointed"].peak_bytes
    what = f"peak memory, batch of 32, {best()}, checkpointing"
    return [*rows, Row(section, what, None, None, "<= 10 GB", peak <= 10 * GB, f"{peak / GB:.2f} GB")]


def epoch(setting: Setting) -> list[Row]:
    """5. An epoch with its data: read anew (reference) or from the cache; and the building of the cache."""
    number, batch = (4, 2) if setting.quick else (8, 4)
    common = {"image_size": setting.image_size, "batch_size": batch, "folder": str(setting.folder)}
    common["paths"] = setting.paths(number)
    contestants = {way: {"way": way, **common} for way in ("reference", "float32", "bfloat16")}
    turns = range(1 if setting.quick else 3)
    section = "5. An epoch with data (per sample)"
    rows = compare(section, race("epoch", contestants, turns), {best(): 5}, {}, number)

    seconds, count = build_cache(setting, 4 if setting.quick else 128)
    gunzip = _bounds(setting.scans[0])["all cores s"]
    note = f"{seconds / count / gunzip:.2f}x gunzip alone on {available_cores()} core(s), {count} scans"
    return rows + [Row(section, "building the cache", (seconds / count,) * 3, note=note)]


def build_cache(setting: Setting, number: int) -> tuple[float, int]:
    """Seconds to standardise so many scans into a new cache, on all cores."""
    code = (
        "import sys, time; from cohort.cache import standardised_volumes; from cohort.scans import find_scans\n"
        "from machine.memory import keep_freed_memory; from preprocessing import GloResNetImageProcessor\n"
        "keep_freed_memory()\n"
        "scans = [s for s in find_scans(sys.argv[1]) if s.status == 'used']\n"
        "started = time.perf_counter()\n"
        "volumes, _ = standardised_volumes(scans, GloResNetImageProcessor(image_size=int(sys.argv[2])))\n"
        "print(time.perf_counter() - started, len(volumes))"
    )
    bids = setting.folder / "cache-cohort"
    lines = ["participant_id\tradiology_score"]
    for index, path in enumerate(setting.paths(number)):
        anat = bids / f"sub-CC{index:05}XX01" / "ses-1" / "anat"
        anat.mkdir(parents=True)
        # copies, as a link to a scan already standardised counts as that scan
        (anat / f"{anat.parts[-3]}_ses-1_desc-restore_T2w.nii.gz").write_bytes(Path(path).read_bytes())
        lines.append(f"CC{index:05}XX01\t{1 + 4 * (index % 2)}")
    (bids / "participants.tsv").write_text("\n".join(lines) + "\n")
    environment = os.environ | {"HF_DATASETS_CACHE": str(setting.folder / "datasets")}
    command = [sys.executable, "-c", code, str(bids), str(setting.image_size)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    seconds, count = result.stdout.split()[-2:]
    return float(seconds), int(count)


def startup(setting: Setting) -> list[Row]:
    """6. Starting: import and load, one scan with predict.py, the first step of train.py once cached.

    Imports and the first step are timed until they are done, `predict.py` until it has ended.
    """
    section, rounds = "6. Start-up", 1 if setting.quick else 3
    load = f"from screening.loading import load_model; load_model({str(setting.model)!r})"
    prepared = "from screening.loading import load_model; from screening.fast import prepare\n" + (
        f"import time; model, processor = load_model({str(setting.model)!r}); started = time.perf_counter()\n"
        "model = prepare(model)\n"
        f"model.predict_proba(processor({setting.scans[0]!r}, return_tensors='pt').pixel_values)"
    )
    predict = ["predict.py", setting.scans[0], "--model", str(setting.model), "--output"]
    predict += [str(setting.folder / "one.csv")]
    codes = {
        "torch": "import torch",
        "transformers": "from transformers import BaseImageProcessor, PreTrainedModel",
        "load": load,
        "compute": prepared,
    }
    taken = {name: [] for name in (*codes, "predict")}
    for _ in range(rounds):
        for name, code in codes.items():
            taken[name].append(seconds_until(["-c", f"{code}\nprint('done')"], "done"))
        taken["predict"].append(seconds_to_end(predict))
    times = {name: spread(seconds) for name, seconds in taken.items()}
    ratio = times["predict"][0] / times["compute"][0]
    return [
        Row(section, "import torch alone", times["torch"]),
        Row(section, "import the base classes of transformers alone", times["transformers"]),
        Row(section, "import and load the model", times["load"], None, "< 3 s", times["load"][0] < 3),
        Row(section, "the same, prepared, and one scan screened", times["compute"]),
        Row(section, "predict.py on one scan", times["predict"], None, "<= 1.3x the row above", ratio <= 1.3,
            f"{ratio:.2f}x"),
        *([] if setting.quick else [first_step(setting, section)]),
    ]  # fmt: skip


def first_step(setting: Setting, section: str) -> Row:
    """From `python train.py` to its first step, the phantom cohort generated and standardised by an earlier run."""
    command = [str(ROOT / "train.py"), "--fold", "0", "--num_train_epochs", "1", "--image_size", "32", "--overwrite"]
    environment = os.environ | {"HF_DATASETS_CACHE": str(setting.folder / "datasets")}
    (home := setting.folder / "train").mkdir()
    seconds_to_end(command, cwd=home, env=environment)
    taken = [seconds_until(command, "loss=", cwd=home, env=environment) for _ in range(3)]
    seconds = spread(taken)
    return Row(section, "train.py to its first step, cached", seconds, None, "< 10 s", seconds[0] < 10)


def growth(setting: Setting) -> list[Row]:
    """7. How cost grows with the cohort, and what it would be on GPUs."""
    section, sizes = "7. Growth", (16, 32) if setting.quick else (32, 128, 512)
    size = min(setting.image_size, 32)
    per_subject, held = {}, {}
    for subjects in sizes:
        settings = {"image_size": size, "subjects": subjects, "folder": str(setting.folder)}
        series = interleave("growth", {"ours": settings}, range(2))["ours"]
        per_subject[subjects], held[subjects] = spread(series.seconds, subjects), series.answer
    rows = [
        Row(section, f"epoch of {subjects} subjects at {size}^3, per subject", per_subject[subjects],
            note=f"{held[subjects] / GB:.2f} GB held")
        for subjects in sizes
    ]  # fmt: skip
    linear = per_subject[sizes[-1]][0] / per_subject[sizes[0]][0]
    rows.append(Row(section, "per subject, most to fewest", None, None, "<= 1.2x", linear <= 1.2, f"{linear:.2f}x"))
    return rows + ([] if setting.quick else two_processes(setting)) + expected_on_gpus()


def two_processes(setting: Setting) -> list[Row]:
    """An epoch of train.py in one process on all cores, and in two that share them; the same batch in all."""
    section, size = "7. Growth", min(setting.image_size, 64)
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1", "--mixed_precision", "no"]
    environment = os.environ | {"HF_DATASETS_CACHE": str(setting.folder / "datasets")}
    (home := setting.folder / "processes").mkdir()
    rows = []
    for number in (1, 2):
        command = [*launch, "--num_processes", str(number), "--dynamo_backend", "no"]
        command += [str(ROOT / "train.py"), "--fold", "0", "--num_train_epochs", "4", "--image_size", str(size)]
        command += ["--per_device_train_batch_size", str(8 // number), "--output_dir", str(home / f"run-{number}")]
        seconds_to_end(command, cwd=home, env=environment)
        with open(home / f"run-{number}" / "fold-0" / "history.csv", encoding="utf-8", newline="") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)][1:]  # the first warms up
        rows.append(Row(section, f"epoch of train.py at {size}^3, {number} process(es)", spread(seconds)))
    ratio = rows[1].seconds[0] / rows[0].seconds[0]
    rows[1].note = f"{ratio:.2f}x the time of one; both share {available_cores()} core(s)"
    return rows


def expected_on_gpus(rate: float = 312e12, share: float = 0.3, subjects: int = 128, epochs: int = 150) -> list[Row]:
    """Five folds of the paper's recipe on GPUs: computed, not measured.

    Args:
        rate: bfloat16 FLOP/s of one GPU (an A100's data sheet).
        share: of it that the network is assumed to reach.
    """
    rows = []
    for gpus in (1, 2, 4, 8, 16, 32, 64):
        # folds are independent: up to five GPUs take a fold each, more share its samples
        rounds, gpus_a_fold = (-(-5 // gpus), 1) if gpus < 5 else (1, gpus // 5)
        samples = -(-subjects * 4 // 5 // gpus_a_fold)
        seconds = rounds * epochs * samples * 3 * 2 * MACS / (rate * share)
        rows.append(
            Row(f"8. Computed, not measured: {subjects} scans, five folds of {epochs} epochs, {share:.0%} of "
                f"{rate / 1e12:g} TFLOP/s", f"{gpus} GPU(s)", (seconds,) * 3,
                note=f"{gpus_a_fold} a fold, {samples} samples each an epoch; {seconds * gpus / 3600:.2f} GPU hours")
        )  # fmt: skip
    return rows


SECTIONS = {
    "bounds": bounds,
    "scan": scan,
    "network": network,
    "many": many,
    "step": step,
    "epoch": epoch,
    "startup": startup,
    "growth": growth,
}
