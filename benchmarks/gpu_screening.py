"""Screening on a GPU: both views of a volume, heat maps, and the program predict.py."""

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from explanation.gradcam import METHODS, explain
from screening.fast import TOLERANCE, prepare, smooth_noise
from screening.loading import load_model
from screening.pytorch import allow_tf32

from .gpu_plan import Plan, forget_peak, milliseconds, peak, timed
from .program_times import seconds_to_end

CLAIMED_MS = 50  # the paper's time per scan on a GPU
EXACT = 1e-5  # accepted difference of a float32 probability from the CPU's
MAP_TOLERANCE = 0.01  # accepted difference of a float32 map from the CPU's; maps are 0 to 1


def measure_pair(plan: Plan) -> Iterator[dict[str, Any]]:
    """The TTA pair, both views of one volume, network only, from the volume on the GPU or in the CPU's memory to the
    probability. The paper claims 50 ms. The difference is that of the probability from float32 on the CPU."""
    model, _ = load_model(str(plan.model))
    model.module.to(plan.device)
    volume = smooth_noise(1, 1, plan.image_size, seed=7)
    expected = copy.deepcopy(model.module).cpu().predict_proba(volume)[0, 1].item()
    ways = {
        "plain, float32": (model, False, EXACT),
        "prepared, float32": (prepare(model, "float32"), False, EXACT),
        "prepared, tf32": (prepare(model, "float32"), True, TOLERANCE),
        "prepared, bfloat16": (prepare(model, "bfloat16"), False, TOLERANCE),
    }
    for name, (way, tf32, bound) in ways.items():
        if tf32 and plan.dry:
            continue
        places = {"CPU": volume} if plan.dry else {"GPU": volume.to(plan.device), "CPU": volume}
        for place, input_ in places.items():
            allow_tf32(tf32)
            try:
                work = lambda way=way, input_=input_: way.predict_proba(input_.to(plan.device))[0, 1].item()  # noqa: E731
                forget_peak(plan.device)
                seconds = timed(work, plan.device, plan.repeats, warm_up=max(1, plan.repeats // 5))
                difference = abs(work() - expected)
            finally:
                allow_tf32(False)
            columns = milliseconds(seconds)
            yield {
                "way": name,
                "volume in the memory of the": place,
                **columns,
                f"<= {CLAIMED_MS} ms": columns["ms, median"] <= CLAIMED_MS,
                "difference": difference,
                "bound": bound,
                "within the bound": difference <= bound,
                **peak(plan.device),
            }


def measure_maps(plan: Plan) -> Iterator[dict[str, Any]]:
    """Heat maps of one volume and its mirror image, and their largest difference from the same map on the CPU. A map is
    0 to 1."""
    model, _ = load_model(str(plan.model))
    model.module.to(plan.device)
    volume = smooth_noise(1, 1, plan.image_size, seed=7)
    on_cpu, moved = copy.deepcopy(model.module).cpu(), volume.to(plan.device)
    for method in METHODS:
        forget_peak(plan.device)
        work = lambda method=method: explain(model.networks, moved, method)  # noqa: E731
        seconds = timed(work, plan.device, max(2, plan.repeats // 3), warm_up=2)
        difference = (work().cpu() - explain(on_cpu, volume, method)).abs().max().item()
        yield {
            "method": method,
            **milliseconds(seconds),
            "largest difference": difference,
            "bound": MAP_TOLERANCE,
            "within the bound": difference <= MAP_TOLERANCE,
            **peak(plan.device),
        }


def measure_predict(plan: Plan) -> Iterator[dict[str, Any]]:
    """`predict.py` on compressed scans, with its own settings, as whole programs. The seconds per further scan are the
    difference between the largest and the smallest number of scans."""
    taken: dict[int, float] = {}
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if plan.dry else {})
    for number in plan.predicted:
        folder = plan.folder / f"scans-{number}"
        folder.mkdir()
        for index in range(number):
            source = Path(plan.scans[index % len(plan.scans)])
            shutil.copyfile(source, folder / f"{index:03}_T2w.nii.gz")
        output = plan.folder / f"predictions-{number}.csv"
        call = ["predict.py", str(folder), "--model", str(plan.model), "--output", str(output)]
        taken[number] = seconds_to_end(call, env=environment)
        row: dict[str, Any] = {"scans": number, "different files": min(number, len(plan.scans)), "repeats": 1}
        row["seconds in all"] = taken[number]
        if number != plan.predicted[0]:
            first = plan.predicted[0]
            row["seconds per further scan"] = (taken[number] - taken[first]) / (number - first)
        yield row
