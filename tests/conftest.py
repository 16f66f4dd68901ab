"""Shared fixtures: tiny cohorts, a run, a Hub on loopback, browsers. Caches are separate from the user's."""

import ctypes
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

# the libraries read these on import, so set them before any test imports one
_CACHE = tempfile.mkdtemp(prefix="gloresnet-tests-")
os.environ["HF_HOME"] = _CACHE
os.environ["HF_DATASETS_CACHE"] = str(Path(_CACHE) / "datasets")
os.environ["HF_HUB_OFFLINE"] = "1"
# idle threads sleep instead of spinning, so that tests that run in parallel do not block each other's cores
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402

from tests.hub_server import Hub  # noqa: E402
from tests.programs import SMALL, start_train  # noqa: E402

# these take one or two minutes each, so they start first: otherwise one worker would wait for the other at the end
LONG = [
    *("test_app.py", "hospital/test_service.py", "viewer/test_viewer.py", "federated/test_network.py"),
    *("publishing/test_hub.py", "test_train.py"),
]


def pytest_collection_modifyitems(items):
    folder = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(folder).as_posix() not in LONG)


@pytest.fixture(scope="session", autouse=True)
def _remove_the_cache():
    yield
    shutil.rmtree(_CACHE, ignore_errors=True)


class _SignalStack(ctypes.Structure):  # stack_t of sigaltstack(2)
    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@pytest.fixture(autouse=True)
def _no_signal_stack_of_openvino():
    """Disable the alternate signal stack. OpenVINO sets one per model and can leave one behind that is freed.

    The next signal with a handler would then end the process. A DataLoader with workers leaves one for SIGCHLD.
    """
    yield
    if sys.platform == "linux":
        disabled = _SignalStack(None, 2, 0)  # SS_DISABLE
        ctypes.CDLL(None).sigaltstack(ctypes.byref(disabled), None)


def write_tiny_cohort(folder: Path, num_subjects: int = 12, seed: int = 0, edge: int = 12) -> Path:
    """Write a BIDS cohort of noise. Every second scan has a bright corner and a score of 5; two infants are twins."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    participants = ["participant_id\tbirth_age\tbirth_weight\tsingleton\tsex"]
    for number in range(num_subjects):
        # the last two share a family, as twins do
        family = min(number, num_subjects - 2)
        letter = "X" if number < num_subjects - 2 else "AB"[number - num_subjects + 2]
        subject = f"CC{family:05d}{letter}N{number % 90 + 10}"
        score = 5 if number % 2 else 1
        volume = rng.normal(100, 10, (edge, edge + 2, edge - 1)).astype(np.float32)
        if score == 5:
            volume[: edge // 2, : edge // 2] += 80
        anat = folder / f"sub-{subject}" / "ses-1" / "anat"
        anat.mkdir(parents=True)
        stem = f"sub-{subject}_ses-1"
        nib.save(nib.Nifti1Image(volume, np.diag([0.5, 0.5, 0.5, 1])), anat / f"{stem}_desc-restore_T2w.nii.gz")
        mask = np.zeros(volume.shape, np.uint8)
        mask[2:-2, 2:-2, 2:-2] = 1
        nib.save(nib.Nifti1Image(mask, np.diag([0.5, 0.5, 0.5, 1])), anat / f"{stem}_desc-brain_mask.nii.gz")
        (folder / f"sub-{subject}" / f"sub-{subject}_sessions.tsv").write_text(
            f"session_id\tscan_age\tradiology_score\n1\t{36 + number / 10:.1f}\t{score}\n"
        )
        participants.append(f"{subject}\t{30 + number / 10:.1f}\t1.5\tS\t{'MF'[number % 2]}")
    (folder / "participants.tsv").write_text("\n".join(participants) + "\n")
    return folder


@pytest.fixture
def tiny_cohort(tmp_path):
    return write_tiny_cohort(tmp_path / "bids")


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    """`built_once(name, build)`: a folder that the first of the parallel test processes builds and all of them read."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name, build):
        place, complete = base / f"once-{name}", base / f"once-{name}.complete"
        with FileLock(base / f"once-{name}.lock"):
            if not complete.exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                build(place)
                complete.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def shared_tiny_cohort(built_once):
    """A tiny cohort for tests that only read it."""
    return built_once("cohort", lambda folder: write_tiny_cohort(folder / "bids")) / "bids"


@pytest.fixture(scope="session")
def finished_training(built_once, shared_tiny_cohort, tmp_path_factory):
    """Two folds and the refit of a small run: the folder `run`, where it was `trained`, its output, and its seconds."""

    def build(folder):
        flags = ["--data_dir", shared_tiny_cohort, "--output_dir", folder / "run", *SMALL, "--refit"]
        program, started = start_train(flags, cwd=folder), time.perf_counter()
        assert program.wait() == 0, program.stderr
        seconds = time.perf_counter() - started
        (folder / "training.json").write_text(json.dumps({"stdout": program.stdout, "seconds": seconds}))

    def copy(source, target):  # weights and checkpoints are only ever replaced as a whole
        (os.link if os.path.getsize(source) > 1e6 else shutil.copy2)(source, target)

    folder = built_once("training", build)
    run = shutil.copytree(folder / "run", tmp_path_factory.mktemp("finished") / "run", copy_function=copy)
    return SimpleNamespace(run=run, trained=folder / "run", **json.loads((folder / "training.json").read_text()))


@pytest.fixture(scope="session")
def finished_run(finished_training):
    """The run folder of `finished_training`. Tests that change it must copy it."""
    return finished_training.run


@pytest.fixture
def small_disk(tmp_path):
    """Mount an empty disk of a number of bytes, or change its size."""
    import subprocess

    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size):
        options = "remount," if folder.is_mount() else ""
        call = ["mount", "-t", "tmpfs", "-o", f"{options}size={size}", "tmpfs", folder]
        if shutil.which("mount") is None or subprocess.run(call, capture_output=True).returncode:
            pytest.skip("this test mounts a small disk, which needs root")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def hub():
    """An empty Hub on loopback."""
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def shared_hub():
    """A Hub for tests that check what another test has published."""
    with Hub() as hub:
        yield hub


# ---- a real browser, for the tests of the page ----

# software WebGL2: the same picture on every machine, also without a graphics card
WEBGL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
NO_WEBGL = ["--no-sandbox", "--disable-gpu", "--disable-3d-apis"]


@pytest.fixture(scope="session")
def _playwright():
    if not os.environ.get("CI"):
        pytest.importorskip("playwright.sync_api")
    from playwright.sync_api import sync_playwright

    playwright = sync_playwright().start()
    yield playwright
    playwright.stop()


def _chromium(playwright, arguments):
    """Start the system's Chromium or Chrome, else playwright's. Without any, skip the test, or fail it under CI."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    path = next(filter(None, found), playwright.chromium.executable_path)
    if not Path(path).exists():
        message = "no Chromium: install one, or run `playwright install chromium`"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    return playwright.chromium.launch(executable_path=path, args=arguments)


@pytest.fixture(scope="session")
def browser(_playwright):
    """Chromium with software WebGL2. Open pages with `new_page(...)` and close them."""
    chromium = _chromium(_playwright, WEBGL)
    yield chromium
    chromium.close()


@pytest.fixture(scope="session")
def browser_without_webgl(_playwright):
    chromium = _chromium(_playwright, NO_WEBGL)
    yield chromium
    chromium.close()
