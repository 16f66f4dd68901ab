"""How long programs take to start."""

import os
import subprocess
from importlib.util import find_spec

from .contestants import ROOT
from .program_times import seconds_to_end, seconds_until, usage_to_end
from .report import Measurement, spread
from .screening import calibration_scans
from .setting import GB, Setting, best

PROGRAMS = ("train.py", "predict.py", "app.py", "serve.py", "publish.py", "reproduce.py")


def measure_startup(setting: Setting) -> list[Measurement]:
    """6. Start-up: --help, import and load, one scan with predict.py, the first step of train.py with a filled cache.

    Imports and the first step are timed until they are done, `predict.py` until it exits.
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
        Measurement(section, "import only torch", times["torch"]),
        Measurement(section, "import only the base classes of transformers", times["transformers"]),
        Measurement(section, "import and load the model", times["load"], None, "< 3 s", times["load"][0] < 3),
        Measurement(section, "the same, then prepare it and screen one scan", times["compute"]),
        Measurement(section, "predict.py on one scan", times["predict"], None, "<= 1.3x the row above", ratio <= 1.3,
            f"{ratio:.2f}x"),
        slowest_help(section),
        *with_a_converted_file(setting, section, rounds),
        *([] if setting.quick else [first_step(setting, section)]),
    ]  # fmt: skip


def slowest_help(section: str) -> Measurement:
    """The program whose `--help` takes longest."""
    used = {name: usage_to_end([name, "--help"]) for name in PROGRAMS}
    name = max(used, key=lambda each: used[each].seconds)
    seconds = used[name].seconds
    note = f"{name}; {used[name].cpu_seconds:.2f} s of CPU time"
    return Measurement(section, "the slowest --help", (seconds,) * 3, None, "< 0.5 s", seconds < 0.5, note)


def with_a_converted_file(setting: Setting, section: str, rounds: int) -> list[Measurement]:
    """`predict.py` on one scan with an OpenVINO file, which needs no torch, in the best precision and in int8."""
    if not find_spec("openvino"):
        return [Measurement(section, "predict.py with an OpenVINO file", note="openvino is not installed")]
    rows = []
    for dtype in (best(), "int8"):
        what = f"predict.py on one scan, OpenVINO file in {dtype}"
        file = setting.folder / f"startup-{dtype}.xml"
        convert = ["-m", "publishing.convert", str(setting.model), "--format", "openvino", "--dtype", dtype]
        convert += ["--calibration", *calibration_scans()] if dtype == "int8" else []
        try:
            seconds_to_end([*convert, "--output", str(file)])
        except subprocess.CalledProcessError as error:  # such as int8 that is not accurate enough
            rows.append(Measurement(section, what, note=error.stderr.decode().strip().rpartition("\n")[2]))
            continue
        call = ["predict.py", setting.scans[0], "--model", str(file), "--output", str(setting.folder / "one.csv")]
        used = [usage_to_end(call) for _ in range(rounds)]
        seconds = spread([each.seconds for each in used])
        peak = max(each.peak_bytes for each in used) / GB
        most = 1.0 if best() == "bfloat16" else 1.5
        note = f"{min(each.cpu_seconds for each in used):.2f} s of CPU time"
        rows += [
            Measurement(section, what, seconds, None, f"<= {most} s", seconds[0] <= most, note),
            Measurement(section, f"{what}, peak memory", None, None, "<= 0.5 GB", peak <= 0.5, f"{peak:.2f} GB"),
        ]
    return rows


def first_step(setting: Setting, section: str) -> Measurement:
    """From `python train.py` to its first step. An earlier run generated and standardised the phantom cohort."""
    command = [str(ROOT / "train.py"), "--fold", "0", "--num_train_epochs", "1", "--image_size", "32", "--overwrite"]
    environment = os.environ | {"HF_DATASETS_CACHE": str(setting.folder / "datasets")}
    (home := setting.folder / "train").mkdir()
    seconds_to_end(command, cwd=home, env=environment)
    taken = [seconds_until(command, "loss=", cwd=home, env=environment) for _ in range(3)]
    seconds = spread(taken)
    what = "train.py to its first step, with a filled cache"
    return Measurement(section, what, seconds, target="< 10 s", reached=seconds[0] < 10)
