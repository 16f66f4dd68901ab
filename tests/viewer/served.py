"""The page of app.py in a process of its own, on loopback, with tiny models."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import torch

import app
from cohort.phantom import make_phantom_scan
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from screening.out_of_distribution import training_appearance
from tests.programs import Program
from tests.viewer.shut_in import ASKED

ROOT = Path(app.__file__).parent
SHUT_IN = ROOT / "tests" / "viewer" / "shut_in.py"
SIZE = 32


def tiny_models(base: Path) -> Path:
    """Write models with and without a brain mask, scans, and files that are not scans."""
    for number, injuries in enumerate([{}, {"ivh": "major"}]):
        phantom = make_phantom_scan(38, injuries, seed=number, voxel_size=4.0)
        nibabel.save(phantom.image(), base / f"scan{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(phantom.brain_mask.astype(np.uint8), phantom.affine), base / "mask.nii.gz")
    torch.manual_seed(0)
    config = GloResNetConfig(image_size=SIZE, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=2.0)
    untrained = GloResNetForImageClassification(config)
    export_model(untrained, GloResNetImageProcessor(image_size=SIZE), base / "untrained", "card")
    processor = GloResNetImageProcessor(image_size=SIZE)
    scans = [processor(base / f"scan{number}.nii.gz", return_tensors="np").pixel_values[0, 0] for number in (0, 1)]
    config.provenance = {"cohort": "phantom-test", "synthetic": True, "run": "r1", "fold": 3, "train_scans": 8}
    config.training_appearance = training_appearance(scans)
    model = GloResNetForImageClassification(config)
    export_model(model, processor, base / "model", "card")
    export_model(model, GloResNetImageProcessor(image_size=SIZE, brain_mask="required"), base / "masked", "card")
    flat = nibabel.Nifti1Image(np.ones((9, 9, 9), np.float32), np.eye(4))
    nibabel.save(flat, base / "flat.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9, 5), np.float32), np.eye(4)), base / "bold.nii.gz")
    (base / "cut.nii.gz").write_bytes((base / "scan0.nii.gz").read_bytes()[:2000])
    return base


def further_model(base: Path) -> tuple[GloResNetForImageClassification, GloResNetImageProcessor]:
    """Write a model that also takes T1w and FA, to `further`, and return it with its processor."""
    names = ["T2w", "T1w", "FA"]
    torch.manual_seed(1)
    config = GloResNetConfig(
        image_size=SIZE, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=0.5, modalities=names
    )
    config.provenance = {"cohort": "phantom-test", "synthetic": True, "run": "r1", "fold": 3, "train_scans": 8}
    model, processor = (
        GloResNetForImageClassification(config),
        GloResNetImageProcessor(image_size=SIZE, modalities=names),
    )
    torch.nn.init.normal_(model.presence.weight, std=0.3)
    export_model(model, processor, base / "further", "card")
    return model, processor


def start(*arguments, cwd, temp, **environment) -> SimpleNamespace:
    """Start app.py on a free port and wait until it accepts connections. Its temporary files are in `temp`.

    It can connect to this machine only, and `stop` fails if it asked for another.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    temp.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(temp), "GLORESNET_MODEL": "", **environment}
    process = Program([SHUT_IN, *arguments, "--port", port], cwd, environment)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return SimpleNamespace(process=process, url=f"http://127.0.0.1:{port}", temp=temp)
        time.sleep(0.1)
    process.kill()
    process.wait()
    raise AssertionError(process.stdout + process.stderr)


def stop(served: SimpleNamespace) -> str:
    """Stop the page. Returns what it has printed."""
    served.process.send_signal(signal.SIGTERM)
    served.process.wait(timeout=60)
    output = served.process.stdout + served.process.stderr
    assert ASKED not in output, output
    return output


@contextmanager
def served_page(*arguments, **settings) -> Iterator[SimpleNamespace]:
    """`start` and `stop` as a context."""
    served = start(*arguments, **settings)
    try:
        yield served
    finally:
        served.output = stop(served)


def expected(base: Path, scan: Path) -> float:
    """The probability that the model gives without the page."""
    model = GloResNetForImageClassification.from_pretrained(base / "model")
    pixel_values = GloResNetImageProcessor(image_size=SIZE)(scan, return_tensors="pt").pixel_values
    return model.predict_proba(pixel_values)[0, 1].item()
