"""The files of the Space, and that a clone of it runs."""

import os
import signal
import socket
import time
from importlib.metadata import packages_distributions
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from gradio_client import Client, handle_file

from modeling_gloresnet import GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.space import imported_sources, is_space_file, requirements, space_files
from tests.programs import Program, run_program

ROOT = Path(__file__).parent.parent.parent

CLONE = """
import sys
from huggingface_hub import snapshot_download
snapshot_download("lab/page", repo_type="space", local_dir=sys.argv[1])
"""


def test_the_space_holds_exactly_what_the_page_imports():
    files = space_files("lab/net", "page")
    assert {"app.py", "viewer/static/niivue.umd.js", "viewer/static/LICENSE-niivue.txt", "LICENSE"} <= set(files)
    assert not any(name.startswith(("training/", "evaluation/", "publishing/", "tests/")) for name in files)
    assert not any(name.endswith((".pyc", ".pyi")) for name in files)
    assert all(is_space_file(name) for name in files if name != "LICENSE")
    pins = files["requirements.txt"].decode().splitlines()
    named = {line.split("==")[0] for line in pins[1:]}
    assert {"torch", "transformers", "nibabel", "gradio", "scipy", "jinja2"} <= named
    # it reads compressed DICOM, and serves models that correct the bias field and networks of MONAI
    assert {"pydicom", "python-gdcm", "SimpleITK", "monai", "einops"} <= named
    assert not named & {"accelerate", "datasets", "scikit-learn", "statsmodels", "highdicom", "pynetdicom"}
    assert set(pins[1:]) <= {line for file in ROOT.glob("requirements*.txt") for line in file.read_text().splitlines()}


def test_a_space_needs_the_same_packages_if_some_are_not_installed_here(monkeypatch):
    sources = imported_sources(ROOT / "app.py")
    complete, found = requirements(sources), packages_distributions()
    fewer = {name: names for name, names in found.items() if name not in ("pydicom", "SimpleITK", "monai")}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: fewer)
    assert requirements(sources) == complete


def test_the_settings_of_a_space_are_those_of_the_readme():
    files = space_files("lab/net", "page")
    pins = files["requirements.txt"].decode().splitlines()
    header = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert header["models"] == ["lab/net"] and header["app_file"] == "app.py" and header["sdk"] == "gradio"
    assert f"gradio=={header['sdk_version']}" in pins


def test_imports_are_followed_from_file_to_file():
    names = {path.relative_to(ROOT).as_posix() for path in imported_sources(ROOT / "app.py")}
    # found inside a function, by a relative import, and as the __init__ of a package
    assert {"viewer/page.py", "viewer/fragments.py", "cohort/phantom/pathology.py", "cohort/__init__.py"} <= names


@pytest.mark.filterwarnings("ignore")
def test_a_clone_of_the_space_serves_its_model(hub, publish, finished_run, shared_tiny_cohort, tmp_path):
    model_call = [finished_run, "--hub_model_id", "lab/net"]
    first, again, wrong = publish(
        hub,
        [*model_call, "--space", "lab/page"],
        ["--hub_model_id", "lab/net", "--space", "lab/page"],
        ["--hub_model_id", "lab/net"],
    )
    assert first.code == 0 and "lab/page" in first.out, first.err
    assert again.code == 0 and "lab/page, branch main: nothing has changed" in again.out
    assert wrong.code == 2 and "nothing to publish" in wrong.err

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= hub.environment(tmp_path / "home") | {"TMPDIR": str(tmp_path), "GLORESNET_MODEL": ""}
    clone = tmp_path / "clone"
    cloned = run_program(["-c", CLONE, clone], tmp_path, environment)
    assert cloned.returncode == 0, cloned.stderr
    everything = "".join(path.read_text(errors="ignore") for path in clone.rglob("*") if path.is_file())
    for row in pd.read_csv(finished_run / "cohort.csv", dtype=str).itertuples():
        assert row.participant_id not in everything
    assert str(shared_tiny_cohort) not in everything

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = Program(["app.py", "--port", port], clone, environment)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        scan = tmp_path / "scan.nii.gz"
        volume = np.random.default_rng(0).gamma(2, 50, (14, 16, 12)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), scan)
        answer = Client(f"http://127.0.0.1:{port}", verbose=False).predict(handle_file(scan), api_name="/screen")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert "Model: lab/net" in process.stdout, process.stderr
    fold = answer["model"]["fold"]
    model = GloResNetForImageClassification.from_pretrained(finished_run / f"fold-{fold}" / "model")
    processor = GloResNetImageProcessor.from_pretrained(finished_run / f"fold-{fold}" / "model")
    expected = model.predict_proba(processor(scan, return_tensors="pt").pixel_values)[0, 1].item()
    assert answer["p_injury"] == pytest.approx(expected, abs=1e-6)
