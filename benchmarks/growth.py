"""How the cost of training depends on the size of the cohort, the processes and the GPUs."""

import os

from machine.cores import available_cores
from run_folder.layout import RunFolder
from run_folder.tables import read_table

from .bounds import MACS
from .contestants import ROOT, interleave
from .program_times import seconds_to_end
from .report import Measurement, spread
from .setting import GB, Setting


def measure_growth(setting: Setting) -> list[Measurement]:
    """7. and 8. How cost grows with the cohort, and the computed cost on GPUs."""
    section, sizes = "7. Growth", (16, 32) if setting.quick else (32, 128, 512)
    size = min(setting.image_size, 32)
    per_subject, held = {}, {}
    for subjects in sizes:
        settings = {"image_size": size, "subjects": subjects, "folder": str(setting.folder)}
        series = interleave("growth", {"ours": settings}, range(2))["ours"]
        per_subject[subjects], held[subjects] = spread(series.seconds, subjects), series.answer
    rows = [
        Measurement(section, f"epoch of {subjects} subjects at {size}^3, per subject", per_subject[subjects],
            note=f"{held[subjects] / GB:.2f} GB held")
        for subjects in sizes
    ]  # fmt: skip
    linear = per_subject[sizes[-1]][0] / per_subject[sizes[0]][0]
    what = "per subject, largest compared with smallest cohort"
    rows.append(Measurement(section, what, target="<= 1.2x", reached=linear <= 1.2, note=f"{linear:.2f}x"))
    return rows + ([] if setting.quick else two_processes(setting)) + expected_on_gpus()


def two_processes(setting: Setting) -> list[Measurement]:
    """An epoch of train.py in one process on all cores, and in two that share them, with the same total batch."""
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
        history = read_table(RunFolder(home / f"run-{number}").fold(0).history, ("seconds",))
        seconds = history["seconds"].tolist()[1:]  # the first epoch warms up
        rows.append(Measurement(section, f"epoch of train.py at {size}^3, {number} process(es)", spread(seconds)))
    ratio = rows[1].seconds[0] / rows[0].seconds[0]
    rows[1].note = f"{ratio:.2f}x the time of one process; both share {available_cores()} core(s)"
    return rows


def expected_on_gpus(
    rate: float = 312e12, share: float = 0.3, subjects: int = 128, epochs: int = 150
) -> list[Measurement]:
    """8. Five folds of the paper's recipe on GPUs: computed, not measured.

    Args:
        rate: bfloat16 FLOP/s of one GPU (from the data sheet of an A100).
        share: the part of this rate that the network is assumed to reach.
        subjects: number of scans in the cohort.
        epochs: epochs per fold.
    """
    section = (
        f"8. Computed, not measured: {subjects} scans, five folds of {epochs} epochs, {share:.0%} of "
        f"{rate / 1e12:g} TFLOP/s"
    )
    rows = []
    for gpus in (1, 2, 4, 8, 16, 32, 64):
        # folds are independent: up to five GPUs train one fold each, more GPUs share the samples of a fold
        rounds, gpus_per_fold = (-(-5 // gpus), 1) if gpus < 5 else (1, gpus // 5)
        samples = -(-subjects * 4 // 5 // gpus_per_fold)
        seconds = rounds * epochs * samples * 3 * 2 * MACS / (rate * share)
        note = f"{gpus_per_fold} per fold, each {samples} samples per epoch; {seconds * gpus / 3600:.2f} GPU hours"
        rows.append(Measurement(section, f"{gpus} GPU(s)", (seconds,) * 3, note=note))
    return rows
