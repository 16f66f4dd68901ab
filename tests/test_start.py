"""Programs import slow libraries after they have read their arguments: `--help` and wrong calls answer at once."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SLOW = "accelerate datasets gradio matplotlib nibabel pandas scipy sklearn statsmodels torch transformers".split()

# forks a process per call, so that all of them share one start of Python
RUN = """
import io, json, os, runpy, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[2])))  # importing one now raises ImportError
for call in json.loads(sys.argv[1]):
    read, write = os.pipe()
    if os.fork() == 0:
        os.dup2(write, 1), os.dup2(write, 2)
        os.close(read)
        sys.argv, sys.path[0] = call, os.getcwd()
        try:
            if call[0].endswith(".py"):
                runpy.run_path(call[0], run_name="__main__")
            else:
                runpy.run_module(call[0], run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            print("status", ended.code, flush=True)
        os._exit(0)
    os.close(write)
    with open(read) as file:
        print(json.dumps([call, file.read()]), flush=True)
    os.wait()
"""


def programs() -> list[str]:
    """Every program, as `python NAME` or `python -m NAME` starts it."""
    found = []
    rooms = [init.parent for init in ROOT.glob("*/__init__.py") if init.parent.name != "machine"]
    for path in sorted([*ROOT.glob("*.py"), *(file for room in rooms for file in room.rglob("*.py"))]):
        parts = path.relative_to(ROOT).parts
        if "\n    begin_program(" in path.read_text(encoding="utf-8"):
            found.append(parts[0] if len(parts) == 1 else ".".join(parts).removesuffix(".py").removesuffix(".__main__"))
    return found


def said(calls: list[list[str]]) -> list[tuple[list[str], str]]:
    command = [sys.executable, "-c", RUN, json.dumps(calls), json.dumps(SLOW)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [tuple(json.loads(line)) for line in result.stdout.splitlines()]


def test_help_needs_no_slow_library():
    names = programs()
    assert {"train.py", "predict.py", "serve.py", "cohort.phantom", "publishing.convert", "benchmarks"} <= {*names}
    for call, text in said([[name, "--help"] for name in names] + [["benchmarks", "gpu", "--help"]]):
        assert "usage:" in text and text.endswith("status 0\n"), f"{call}: {text}"


def test_a_wrong_call_is_answered_without_a_slow_library():
    calls = {
        ("train.py", "--fold", "first"): "--fold is first: give a number",
        ("train.py", "--num_folds", "1"): "num_folds is 1",
        ("train.py", "--recipe", "gone.yaml"): "There is no recipe gone.yaml",
        ("train.py", "--data_dir", "gone/"): "--data_dir gone/ is not a folder",
        ("reproduce.py", "--all", "--labels", "gone.csv"): "--labels gone.csv is not a file",
        ("predict.py", "a.nii", "--model", "m", "--batch_size", "0"): "--batch_size must be at least 1",
        ("app.py", "--auth", "gone.txt"): "--auth gone.txt is not a file",
        ("publish.py", "--hub_model_id", "ORG/NAME"): "nothing to publish",
        ("cohort.painted", "--data_dir", "gone", "--output", "x"): "--data_dir gone is not a folder",
        ("evaluation.sensitivity", "gone", "p.csv"): "gone is not a folder: give a painted cohort",
        ("benchmarks", "gpu", "--dry", "sleep"): "unknown section sleep",
    }
    for call, text in said([list(call) for call in calls]):
        assert calls[tuple(call)] in text and text.endswith("status 2\n"), f"{call}: {text}"


def test_a_missing_file_is_named_without_a_slow_library():
    calls = {
        ("evaluation.report", "runs/gone"): 1,
        ("evaluation.chance", "runs/gone"): 1,
        ("explanation.embedding", "runs/gone", "--output", "x.csv"): 1,
        ("explanation.localisation", "runs/gone"): 1,
        ("publishing.convert", "./runs/gone", "--format", "onnx"): 2,
        ("replication.newborns", "--scans", "runs/gone", "--output", "x"): 2,
    }
    for call, text in said([list(call) for call in calls]):
        assert "runs/gone does not exist" in text and text.endswith(f"status {calls[tuple(call)]}\n"), f"{call}: {text}"
