"""Programs interrupted while they import, standardise scans, or run under a launcher. See also test_predict.py."""

import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from tests.processes import descendants, leftovers, wait_until, wait_until_gone
from tests.programs import PROJECT, ROOT, Program, run_train

# train.py with two workers that never finish a scan, and an empty cache
SLOW_TRAIN = """
import runpy, sys, time
import cohort.cache, datasets
datasets.config.HF_DATASETS_CACHE = "cache"
cohort.cache.available_cores = lambda: 2
cohort.cache._standardise = lambda *scan: time.sleep(1000)
sys.argv[0] = sys.argv.pop(1)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SETTINGS = "--image_size 16 --num_folds 2 --init random --fold 0 --per_device_train_batch_size 4".split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_training_that_standardises_scans(shared_tiny_cohort, tmp_path, number):
    call = ["--data_dir", shared_tiny_cohort, "--output_dir", tmp_path / "run", "--num_train_epochs", "1", *SETTINGS]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = Program(["-c", SLOW_TRAIN, ROOT / "train.py", *call], tmp_path, environment, PROJECT)
    wait_until(lambda: process.poll() is not None or (tmp_path / "cache").exists() and workers(process.pid) == 2)
    children = descendants(process.pid)
    process.send_signal(number)
    assert process.wait() == (-signal.SIGKILL if number == signal.SIGKILL else 130), process.stderr
    wait_until_gone(children)
    if number == signal.SIGKILL:
        result = run_train(call, tmp_path)
        assert result.returncode == 0, result.stderr
    else:
        assert "Traceback" not in process.stderr and "ignored" not in process.stderr
        last = process.stderr.strip().splitlines()[-1]
        assert last.endswith("train.py: interrupted; run the same command again to continue from the last epoch.")
        assert not leftovers(tmp_path)


def workers(process):
    """Number of running workers; other children, such as `git`, end by themselves."""
    names = [child.name() for child in descendants(process) if child.status() != psutil.STATUS_ZOMBIE]
    return sum(name.startswith("python") for name in names)


def test_a_training_ends_with_accelerate_launch(shared_tiny_cohort, tmp_path):
    run = tmp_path / "run"
    flags = ["--data_dir", shared_tiny_cohort, "--output_dir", run, "--num_train_epochs", "1000", *SETTINGS]
    accelerate = shutil.which("accelerate", path=os.path.dirname(sys.executable)) or "accelerate"
    process = subprocess.Popen(
        [accelerate, "launch", "--cpu", ROOT / "train.py", *flags], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: process.poll() is not None or any(run.glob("fold-0/checkpoints/epoch-*")))
    children = descendants(process.pid)
    assert children
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    wait_until_gone(children)
    assert "train.py: interrupted" in error and "Traceback" not in error and not leftovers(run)


def test_a_program_that_imports_torch(tmp_path):
    process = subprocess.Popen(
        [sys.executable, ROOT / "predict.py", "scan.nii", "--model", "ORG/NAME"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: "libtorch" in str(psutil.Process(process.pid).memory_maps()))
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == "predict.py: interrupted, nothing was written: run it again.\n"
    assert process.returncode == 130
