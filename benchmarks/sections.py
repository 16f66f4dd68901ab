"""The sections of the report. Each function measures one section and returns its rows."""

import os
import subprocess
import sys
from pathlib import Path

from machine.cores import available_cores

from .bounds import pass_seconds, precisions
from .contestants import ROOT, Series, interleave
from .report import Measurement, compare, spread
from .screening import MANY_WAYS, OURS, QUICK_WAYS, WAYS
from .setting import GB, Setting, best, bounds_of, race


def measure_bounds(setting: Setting) -> list[Measurement]:
    """0. What the machine can do at best."""
    measured = bounds_of(setting.scans[0])
    names = ["int8", *precisions()]
    figures = {f"matrix product, {name}": (measured[f"{name} op/s"], "op/s") for name in names}
    figures["memory, read and written"] = measured["copy bytes/s"], "B/s"
    section = "0. Bounds, measured on this machine"
    rows = [Measurement(section, name, note=f"{value / GB:.1f} G{unit}") for name, (value, unit) in figures.items()]
    for name in ("gzip", "isal", "all cores"):
        seconds = measured[f"{name} s"]
        rows.append(Measurement(section, f"gunzip of one scan, {name}", seconds and (seconds,) * 3))
    return rows


def measure_scan(setting: Setting) -> list[Measurement]:
    """1. From a full-size scan to its probability, with the model already loaded."""
    section = "1. Full-size scan to TTA probability"
    results = race("scan", setting.ways(*(QUICK_WAYS if setting.quick else WAYS)), setting.paths(setting.turns))
    rows = compare(section, results, {best(): 3, "openvino int8": 6}, _differences(results))
    if isinstance(results["monai"], Series):
        ratio = results["monai"].median / results[best()].median
        what = f"{best()} compared with MONAI"
        rows.append(Measurement(section, what, target=">= 2x MONAI", reached=ratio >= 2, note=f"{ratio:.2f}x"))
    return rows


def measure_network(setting: Setting) -> list[Measurement]:
    """2. The TTA pair (both views of one volume), network only."""
    section = "2. TTA pair, network only"
    names = [name for name in (QUICK_WAYS if setting.quick else WAYS) if name != "torchio"]
    results = race("network", setting.ways(*names), range(setting.turns))
    notes = _differences(results)
    for name in (best(), f"openvino {best()}", "openvino int8"):
        if isinstance(results.get(name), Series):
            rate = bounds_of(setting.scans[0])[f"{name.split()[-1]} op/s"]
            bound = pass_seconds(rate, setting.image_size, 2)
            notes[name] += f"; {results[name].median / bound:.2f}x the matrix bound of {1000 * bound:.0f} ms"
    bound = pass_seconds(bounds_of(setting.scans[0])[f"{best()} op/s"], setting.image_size, 2)
    rows = compare(section, results, {best(): 3, f"openvino {best()}": 3.5}, notes)
    within = results[best()].median / bound
    what = f"{best()} compared with its bound"
    return [*rows, Measurement(section, what, target="<= 1.5x", reached=within <= 1.5, note=f"{within:.2f}x")]


def _differences(results: dict) -> dict[str, str]:
    """How far each contestant's probability is from the reference path's, if both compute the same thing."""
    expected = results["reference"].answer
    other = {"monai": "other weights", "torchio": "resamples to another voxel grid"}
    return {
        name: other.get(name) or f"p off by {abs(series.answer - expected):.1g}"
        for name, series in results.items()
        if isinstance(series, Series) and name != "reference"
    }


def measure_many(setting: Setting) -> list[Measurement]:
    """3. Many scans: reading overlaps with computing, and memory stays constant."""
    number = 10_000 if setting.long else 8 if setting.quick else 200
    section = "3. Many scans (per scan)"
    few = setting.paths(2 if setting.quick else 8)
    reference = interleave("many", setting.ways("reference"), [few] * 3, warm_up=few[:1])["reference"]
    rows = [Measurement(section, "reference", spread(reference.seconds, len(few)), 1.0)]
    links = []
    for index, path in enumerate(setting.paths(number)):
        links.append(str(setting.folder / f"link-{index:05}.nii.gz"))
        if not os.path.lexists(links[-1]):
            os.symlink(os.path.abspath(path), links[-1])
    ways = setting.ways(*(OURS if setting.quick else MANY_WAYS))
    for name, series in race("many", ways, [links], warm_up=few).items():
        if not isinstance(series, Series):
            rows.append(Measurement(section, name, note=series))
            continue
        times = spread(series.seconds, number)
        ratio = reference.median / len(few) / times[0]
        early, late = series.answer
        least = {best(): 4, "openvino int8": 5}.get(name)
        target = (f">= {least}x", ratio >= least) if least else ("", None)
        memory = f"{number} scans; {early / GB:.2f} GB held after an eighth of them, {late / GB:.2f} GB at the end"
        rows.append(Measurement(section, name, times, ratio, *target, memory))
    return rows


def measure_step(setting: Setting) -> list[Measurement]:
    """4. A training step."""
    size, batch = setting.image_size, 2 if setting.quick else 4
    section = f"4. Training step at {size}^3 (per sample)"
    contestants = {
        way: {"way": way, "image_size": size, "batch_size": batch} for way in ("reference", "float32", "bfloat16")
    }
    # the first few steps still allocate memory; the median ignores them, because a real run has thousands of steps
    results = race("step", contestants, range(setting.turns))
    bound = pass_seconds(bounds_of(setting.scans[0])[f"{best()} op/s"], size, 3)
    notes = {best(): f"{results[best()].median / batch / bound:.2f}x the matrix bound; the target is 1.5x"}
    rows = compare(section, results, {best(): 4.5}, notes, batch)
    if setting.quick:
        return rows
    # one after another, because three batches of 8 at once need too much memory
    ways = [way for way, series in results.items() if isinstance(series, Series)]
    alone = {way: {way: contestants[way] | {"batch_size": 8}} for way in ways}
    peaks = {way: interleave("step", alone[way], range(2))[way].peak_bytes for way in ways}
    returned = {"float32, --freed_memory return": contestants["float32"] | {"batch_size": 8, "returning": True}}
    peaks |= {what: series.peak_bytes for what, series in interleave("step", returned, range(2)).items()}
    for way, peak in peaks.items():
        share = peak / peaks["reference"]
        target = ("below reference", share < 1) if way == best() else ("", None)
        what = f"peak memory, batch of 8, {way}"
        rows.append(Measurement(section, what, None, None, *target, note=f"{peak / GB:.2f} GB"))
    alone = {"way": best(), "image_size": size, "batch_size": 32, "checkpointing": True}
    peak = interleave("step", {"checkpointed": alone}, range(1))["checkpointed"].peak_bytes
    what = f"peak memory, batch of 32, {best()}, checkpointing"
    reached = peak <= 10 * GB
    return [*rows, Measurement(section, what, target="<= 10 GB", reached=reached, note=f"{peak / GB:.2f} GB")]


def measure_epoch(setting: Setting) -> list[Measurement]:
    """5. An epoch with its data, read from the scans (reference) or from the cache, and building that cache."""
    number, batch = (4, 2) if setting.quick else (8, 4)
    common = {"image_size": setting.image_size, "batch_size": batch, "folder": str(setting.folder)}
    common["paths"] = setting.paths(number)
    contestants = {way: {"way": way, **common} for way in ("reference", "float32", "bfloat16")}
    turns = range(1 if setting.quick else 3)
    section = "5. An epoch with data (per sample)"
    rows = compare(section, race("epoch", contestants, turns), {best(): 5}, {}, number)

    seconds, count = build_cache(setting, 4 if setting.quick else 128)
    gunzip = bounds_of(setting.scans[0])["all cores s"]
    note = f"{seconds / count / gunzip:.2f}x gunzip alone on {available_cores()} core(s), {count} scans"
    return rows + [Measurement(section, "building the cache", (seconds / count,) * 3, note=note)]


def build_cache(setting: Setting, number: int) -> tuple[float, int]:
    """Standardise `number` scans into a new cache, on all cores.

    Returns:
        The seconds taken, and the number of scans in the cache.
    """
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
        # copies, because a link would be recognised as the scan it points to
        (anat / f"{anat.parts[-3]}_ses-1_desc-restore_T2w.nii.gz").write_bytes(Path(path).read_bytes())
        lines.append(f"CC{index:05}XX01\t{1 + 4 * (index % 2)}")
    (bids / "participants.tsv").write_text("\n".join(lines) + "\n")
    environment = os.environ | {"HF_DATASETS_CACHE": str(setting.folder / "datasets")}
    command = [sys.executable, "-c", code, str(bids), str(setting.image_size)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    seconds, count = result.stdout.split()[-2:]
    return float(seconds), int(count)
