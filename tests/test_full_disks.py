"""Jobs on a full disk end with one sentence and status 1, leave nothing half-written, and can be run again."""

import os
import shutil
from functools import partial

import pytest
import torch
from datasets import config as datasets_config

import predict
from benchmarks import report as benchmarks_report
from cohort import to_hub
from cohort.from_hub import open_cohort
from cohort.painted import __main__ as painted
from cohort.phantom import __main__ as phantom
from cohort.phantom import generate_phantom_cohort
from evaluation import drawing, report
from explanation import embedding
from machine.programs import run_program
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing import convert
from publishing.export import export_model
from replication import phantoms
from replication.patches import patch_cohort
from tests.processes import leftovers
from training.recipe import load_recipe

PAINT = "--kinds cyst --diameters 14 --copies 2"


def small_model():
    torch.manual_seed(0)
    return GloResNetForImageClassification(GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16]))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    export_model(small_model(), GloResNetImageProcessor(image_size=32), folder, "card")
    return folder


@pytest.fixture
def jobs(request, shared_tiny_cohort, finished_run, model, tmp_path, monkeypatch):
    """Each job writes to the folder it is given, and returns the exit status of its program."""
    bids = str(shared_tiny_cohort)
    dataset = tmp_path / "dataset"
    heads = tmp_path / "heads"
    if "painted" in request.node.name:
        generate_phantom_cohort(heads, num_subjects=3, voxel_size=5, num_workers=1, progress=False)

    def share(folder):
        return to_hub.main([bids, "--output", str(folder / "dataset"), "--license", "other"])

    def unpack(folder):
        if not dataset.exists():
            assert share(tmp_path) == 0
        monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", folder)
        return run_program("unpack", lambda: print(open_cohort(str(dataset))))

    def cache_and_embed(folder):
        monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", folder)
        return embedding.main([str(finished_run), "--init", "random", "--output", str(folder / "table.csv")])

    def write_report(folder):
        monkeypatch.setattr(drawing, "rendered", lambda figure, kind: bytes(20_000))  # rendering takes seconds
        run = folder / "run"
        if not run.exists():
            shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("*.safetensors", "checkpoints"))
        (run / "report.html").unlink(missing_ok=True)
        return report.main([str(run), "--draws", "100", "--permutations", "100"])

    def export(folder):
        processor = GloResNetImageProcessor(image_size=32)
        return run_program("export", lambda: export_model(small_model(), processor, folder / "model", "card"))

    def converted(file, folder):
        return convert.main([str(model), "--format", "onnx" if file.endswith("x") else "openvino"] + [
            "--output", str(folder / file)
        ])  # fmt: skip

    def cut(folder):
        recipe = load_recipe("demo", image_size=16)
        return run_program("cut", lambda: print(patch_cohort(shared_tiny_cohort, None, recipe, folder / "patches", 2)))

    def measure(folder):
        job = phantoms.Job(0, 16, "none", "punctate", "few", voxel_size=5.0)
        return run_program("measure", lambda: phantoms.measure_all([job], folder) and None)

    def benchmark(folder):
        rows = [benchmarks_report.Measurement("section", "what")]
        return run_program("benchmarks", lambda: benchmarks_report.write(rows, {}, folder))

    return {
        "predict": lambda folder: predict.main(
            [bids, "--model", str(model), "--output", str(folder / "p.csv"), "--dtype", "float32", "--num_workers", "1"]
        ),
        "phantom": lambda folder: phantom.main(
            ["--output", str(folder / "phantom"), *"--num_subjects 2 --voxel_size 5 --num_workers 2".split()]
        ),
        "painted": lambda folder: painted.main(
            ["--data_dir", str(heads), "--output", str(folder / "painted"), *PAINT.split(), "--num_workers", "2"]
        ),
        "to_hub": share,
        "from_hub": unpack,
        "cache and embedding": cache_and_embed,
        "report": write_report,
        "model folder": export,
        "onnx": partial(converted, "model.onnx"),
        "openvino": partial(converted, "model.xml"),
        "patches": cut,
        "error analysis": measure,
        "benchmarks": benchmark,
    }


def fill(disk, free):
    """Leave this number of bytes on a disk."""
    (disk / "ballast").unlink(missing_ok=True)
    with open(disk / "ballast", "wb") as file:
        file.write(bytes(max(shutil.disk_usage(disk).free - free, 0) // 4096 * 4096))


def written(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "ballast"}


@pytest.mark.parametrize(
    "name",
    [
        "predict",
        "phantom",
        "painted",
        "to_hub",
        "from_hub",
        "cache and embedding",
        "report",
        "model folder",
        "onnx",
        "openvino",
    ]
    + ["patches", "error analysis", "benchmarks"],
)
def test_a_full_disk(jobs, small_disk, tmp_path, capfd, name):
    job, whole = jobs[name], tmp_path / "whole"
    whole.mkdir()
    assert job(whole) == 0
    size = sum(path.stat().st_blocks * 512 for path in whole.rglob("*") if path.is_file())
    disk = small_disk(8 * size + (1 << 20))
    if name == "report":
        shutil.copytree(whole / "run", disk / "run", ignore=shutil.ignore_patterns("report.html", "figures"))
    statuses = []
    for share in (0, 0.3, 0.8) if name not in ("report", "openvino") else (0.3,):  # these take seconds
        fill(disk, int(share * size))
        capfd.readouterr()
        statuses.append(job(disk))
        error = capfd.readouterr().err
        if statuses[-1]:
            last = error.strip().splitlines()[-1]
            assert "Traceback" not in error and last.endswith("."), error
            assert "disk is full" in last or "space" in last, last
        assert not leftovers(disk)
    assert statuses[0] == 1 and set(statuses) <= {0, 1}
    os.unlink(disk / "ballast")
    assert job(disk) == 0
    names = [{name.split("/")[-1] if name.endswith(".arrow") else name for name in written(f)} for f in (whole, disk)]
    assert names[0] == names[1] and not leftovers(disk)
