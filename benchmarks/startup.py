"""How long programs take to start."""

import os

from .contestants import ROOT
from .program_times import seconds_to_end, seconds_until
from .report import Measurement, spread
from .setting import Setting


def measure_startup(setting: Setting) -> list[Measurement]:
    """6. Start-up: import and load, one scan with predict.py, the first step of train.py with a filled cache.

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
        *([] if setting.quick else [first_step(setting, section)]),
    ]  # fmt: skip


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
