"""Screening with a converted file gives the same answers as its model folder; bad files give one sentence."""

import csv
import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
import torch

import predict
from cohort.phantom import make_phantom_scan
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor, ScanPreparation
from publishing import convert
from publishing.export import export_model
from screening.exported import METADATA
from screening.loading import ModelError, load_model
from tests.dicomfiles.deliveries import save, slices_of, volume
from tests.programs import ROOT

if not os.environ.get("CI"):  # in CI a missing package must fail
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)

FILES = {"onnx": "model.onnx", "openvino": "model.xml"}
TRAINED = {"cohort": "tiny", "synthetic": True, "run": "r", "fold": 0, "train_scans": 9, "architecture": "resnet10"}
CONFIG = {"temperature": 1.4, "id2label": {0: "fine", 1: "hurt"}, "provenance": {"cohort": "tiny"}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model as a folder, an ONNX file and an OpenVINO file, and five scans."""
    base = tmp_path_factory.mktemp("exported")
    torch.manual_seed(3)
    config = GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16], head_init_std=3.0, **CONFIG)
    model = GloResNetForImageClassification(config).eval()
    processor = GloResNetImageProcessor(image_size=32)
    (base / "scans").mkdir()
    for number in range(5):
        data = np.random.default_rng(number).gamma(2, 50, (14, 16, 12)).astype(np.float32)
        path = base / "scans" / f"s{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, 1.0, 1.2, 1.0])), path)
    scans = processor(sorted(map(str, (base / "scans").iterdir())), return_tensors="pt").pixel_values
    p_injury = model.predict_proba(scans)[:, 1].sort().values
    config.threshold = round(p_injury[2:4].mean().item(), 6)  # two of five scans are above it
    export_model(model, processor, base / "model", "card")
    for format, name in FILES.items():
        convert.convert(model, processor, format, "float32", convert.random_volumes(config), base / name)
    return base


@pytest.fixture(params=FILES)
def file(request, folders):
    return folders / FILES[request.param]


def table(folders, model, output, *arguments):
    call = [folders / "scans", "--model", model, "--output", output, *arguments]
    assert predict.main(list(map(str, call))) == 0
    with open(output, newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


def copy_of(file, folder):
    """A copy of the file, and of its `.bin`, that a test may damage."""
    for suffix in {file.suffix, ".bin" if file.suffix == ".xml" else file.suffix}:
        (folder / file.name).with_suffix(suffix).write_bytes(file.with_suffix(suffix).read_bytes())
    return folder / file.name


def config_of(metadata, **values):
    return metadata | {"config": metadata["config"] | values}


def rewrite_metadata(file, change):
    """Replace the metadata of the file by `change(metadata)`, as another version of this project might write it."""
    if file.suffix == ".onnx":
        import onnx

        network = onnx.load(file)
        text = change(json.loads(network.metadata_props[0].value))
        del network.metadata_props[:]
        if text is not None:
            onnx.helper.set_model_props(network, {METADATA: json.dumps(text)})
        onnx.save(network, file)
    else:
        tree = ElementTree.parse(file)
        information = tree.getroot().find("rt_info")
        entry = information.find(METADATA)
        text = change(json.loads(entry.get("value")))
        if text is None:
            information.remove(entry)
        else:
            entry.set("value", json.dumps(text))
        tree.write(file)


@pytest.mark.parametrize("arguments", [[], ["--no_tta", "--num_workers", "0"], ["--batch_size", "3"]])
def test_predict_writes_the_same_table_as_with_the_folder(folders, file, tmp_path, arguments):
    expected = table(folders, folders / "model", tmp_path / "folder.csv", "--dtype", "float32", *arguments)
    found = table(folders, file, tmp_path / "file.csv", *arguments)
    assert {row["predicted_label"] for row in expected} == {"hurt", "fine"}
    for one, other in zip(expected, found, strict=True):
        for column in ("p_injury", "p_injury_no_tta"):
            assert float(one.pop(column)) == pytest.approx(float(other.pop(column)), abs=1e-4)
        assert one == other


def test_it_implements_the_screening_model_protocol(folders, file):
    model, processor = load_model(str(file))
    config = model.config
    original = GloResNetForImageClassification.from_pretrained(folders / "model")
    assert (config.temperature, config.image_size, config.number_of_labels) == (1.4, 32, 2)
    assert config.threshold == original.config.threshold != 0.5
    assert config.id2label == {0: "fine", 1: "hurt"} and config.provenance == {"cohort": "tiny"}
    assert isinstance(processor, ScanPreparation)
    assert model.device.type == "cpu" and model.dtype == "float32" and model.networks == ()
    x = torch.randn(2, 1, 32, 32, 32)
    for augmentation in (None, True, False):
        expected = original.predict_views(x, test_time_augmentation=augmentation)
        torch.testing.assert_close(model.predict_views(x, augmentation), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(model.predict_members(x, augmentation), expected[None], atol=1e-5, rtol=0)
        torch.testing.assert_close(model.predict_proba(x, augmentation), expected.mean(0), atol=1e-5, rtol=0)


def test_a_file_with_one_view_mirrors_on_request(folders, file, tmp_path):
    model = GloResNetForImageClassification.from_pretrained(folders / "model", test_time_augmentation=False).eval()
    format = next(format for format, name in FILES.items() if name == file.name)
    volumes = convert.random_volumes(model.config)
    convert.convert(model, GloResNetImageProcessor(image_size=32), format, "float32", volumes, tmp_path / file.name)
    converted, _ = load_model(str(tmp_path / file.name))
    x = torch.randn(2, 1, 32, 32, 32)
    assert len(converted.predict_views(x)) == 1
    torch.testing.assert_close(converted.predict_views(x, True), model.predict_views(x, True), atol=1e-5, rtol=0)


def test_results_are_not_overwritten_by_the_next_call(file):
    model, _ = load_model(str(file))
    first = model.predict_views(torch.randn(1, 1, 32, 32, 32))
    kept = first.clone()
    model.predict_views(torch.randn(1, 1, 32, 32, 32))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("shape", [(1, 1, 16, 16, 16), (1, 2, 32, 32, 32), (1, 32, 32, 32)])
def test_volumes_of_another_shape_are_refused(file, shape):
    model, _ = load_model(str(file))
    with pytest.raises(ValueError, match=r"must be \(batch, 1, 32, 32, 32\)"):
        model.predict_views(torch.zeros(shape))


def test_its_precision_is_fixed(folders, file):
    assert load_model(str(file), dtype="float32")[0].dtype == "float32"
    with pytest.raises(ModelError, match="computes in float32, .* convert the model folder with --dtype bfloat16"):
        load_model(str(file), dtype="bfloat16")
    with pytest.raises(ModelError, match="--dtype int8 needs one: python -m publishing.convert .*model "):
        load_model(str(folders / "model"), dtype="int8")


def test_damaged_files_are_refused(file, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load_model(str(tmp_path / file.name))
    spoiled = copy_of(file, tmp_path)
    for content in (b"", b"no model", spoiled.read_bytes()[: len(spoiled.read_bytes()) // 2]):
        spoiled.write_bytes(content)
        with pytest.raises(ModelError, match="cannot be used .*(copy it again|converted GloResNet)"):
            load_model(str(spoiled))


def test_weights_of_another_conversion_are_refused(folders, tmp_path):
    file = copy_of(folders / "model.xml", tmp_path)
    weights = bytearray((tmp_path / "model.bin").read_bytes())
    weights[1000] ^= 1
    (tmp_path / "model.bin").write_bytes(weights)
    with pytest.raises(ModelError, match="model.bin does not hold the weights of model.xml"):
        load_model(str(file))
    (tmp_path / "model.bin").write_bytes(weights[:1000])
    with pytest.raises(ModelError, match="cannot be used"):
        load_model(str(file))
    (tmp_path / "model.bin").unlink()
    with pytest.raises(ModelError, match="no model.bin next to it"):
        load_model(str(file))


@pytest.mark.parametrize("early", [True, False])
def test_weights_that_are_replaced_during_loading_are_refused(folders, tmp_path, monkeypatch, early):
    openvino = pytest.importorskip("openvino")
    file = copy_of(folders / "model.xml", tmp_path)
    weights = bytearray((tmp_path / "model.bin").read_bytes())
    weights[1000] ^= 1
    read_model = openvino.Core.read_model

    def read_while_they_are_replaced(core, path):
        if early:
            (tmp_path / "model.bin").write_bytes(weights)
        network = read_model(core, path)
        (tmp_path / "model.bin").write_bytes(weights)
        return network

    monkeypatch.setattr(openvino.Core, "read_model", read_while_they_are_replaced)
    with pytest.raises(ModelError, match="model.bin does not hold the weights of model.xml"):
        load_model(str(file))


@pytest.mark.parametrize(
    "change, needle",
    [
        (lambda metadata: None, "is not a converted GloResNet"),
        (lambda metadata: metadata | {"format": 99}, "another version of this project .*99"),
        (lambda metadata: {"format": 1}, "invalid settings"),
        (lambda metadata: ["format"], "(invalid settings|cannot be used)"),
        (lambda metadata: metadata | {"config": metadata["config"] | {"temperature": -1}}, "temperature must be"),
        (lambda metadata: metadata | {"processor": {"image_size": 2}}, "image_size is 2"),
        (lambda metadata: metadata | {"processor": {"image_size": 64}}, "64 voxels per edge, but the model expects 32"),
        (lambda metadata: metadata | {"processor": {"image_size": 32, "eps": 1e9}}, "eps is 1000000000.0"),
        (
            lambda metadata: config_of(metadata, image_size=64) | {"processor": {"image_size": 64}},
            r"pixel_values has shape \(batch, 1, 64, 64, 64\), but in its graph it has shape \(batch, 1, 32, 32, 32\)",
        ),
        (
            lambda metadata: config_of(metadata, test_time_augmentation=False),
            r"views has shape \(1, batch, 2\), but in its graph it has shape \(2, batch, 2\)",
        ),
        (lambda metadata: config_of(metadata, num_channels=2), "num_channels 2"),
        (lambda metadata: config_of(metadata, id2label={"0": "a", "1": "b", "2": "c"}), "two labels, .* has 3"),
        (lambda metadata: config_of(metadata, id2label={"0": "injury", "1": "normal"}), "output 1 is the probability"),
        (lambda metadata: config_of(metadata, threshold=float("nan")), "threshold is a probability"),
        (lambda metadata: metadata | {"dtype": "int4"}, "'int4' is not a precision"),
    ],
)
def test_foreign_and_incompatible_files_are_refused(file, tmp_path, change, needle):
    changed = copy_of(file, tmp_path)
    rewrite_metadata(changed, change)
    with pytest.raises(ModelError, match=needle):
        load_model(str(changed))


def test_a_missing_package_is_named_with_the_command_that_installs_it(file, monkeypatch):
    package = "onnxruntime" if file.suffix == ".onnx" else "openvino"
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=f"{package} .*pip install -r requirements-export.txt"):
        load_model(str(file))


def test_framing_and_bias_correction_travel_and_earlier_versions_refuse_it(folders, file, tmp_path, monkeypatch):
    written = {}
    monkeypatch.setattr(convert, "for_inference", lambda *_, **__: None)
    monkeypatch.setattr(convert, "write_onnx", lambda graph, path, metadata: written.update(metadata))
    model = load_model(str(folders / "model"))[0].module
    for framing, bias, number in (("field_of_view", "none", 1), ("field_of_view", "n4", 3), ("head", "none", 2)):
        processor = GloResNetImageProcessor(image_size=32, framing=framing, frame_mm=140, bias_correction=bias)
        convert.write(model, processor, "onnx", "float32", [], tmp_path / "x.onnx")
        assert written["format"] == number and written["processor"]["framing"] == framing
        assert written["processor"]["bias_correction"] == bias
    both = GloResNetImageProcessor(image_size=32, bias_correction="n4", local_stream=True)
    convert.write(model, both, "onnx", "float32", [], tmp_path / "x.onnx")
    assert written["format"] == 4 and written["processor"]["local_stream"]
    convert.write(model, processor, "onnx", "float32", [], tmp_path / "x.onnx")
    copy = copy_of(file, tmp_path)
    rewrite_metadata(copy, lambda text: text | {"format": 2, "processor": written["processor"]})
    _, processor = load_model(str(copy))
    assert (processor.framing, processor.frame_mm) == ("head", 140)
    settings = written["processor"] | {"bias_correction": "n4"}
    rewrite_metadata(copy, lambda text: text | {"format": 3, "processor": settings})
    assert load_model(str(copy))[1].bias_correction == "n4"
    rewrite_metadata(copy, lambda text: text | {"processor": {"image_size": 32}})  # as version 0.1 wrote it
    processor = load_model(str(copy))[1]
    assert (processor.framing, processor.bias_correction) == ("field_of_view", "none")


WITHOUT_TORCH = """
import json, sys
from pathlib import Path

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, Refuses())
"""
PREDICT = """
import predict
assert [predict.main(call) for call in json.loads(sys.argv[1])] == [0, 0, 1]  # one file is no scan
"""
PAGE_AND_DOCUMENTS = """
import app, serve
from hospital.documents import write_documents
from hospital.service import Service
from hospital.software import describe_software
from hospital.study import screen_study
from viewer.page import Page
from viewer.workspace import Workspace

file, study, folder = json.loads(sys.argv[1])
model, processor, name, problem = app.choose_model(file)
Page(model, processor, name, Workspace(), problem)
for path in write_documents(screen_study(model, processor, study), describe_software(model, file), Path(folder)):
    print(path.name)
"""


def run_without_torch(code, arguments):
    command = [sys.executable, "-c", WITHOUT_TORCH + code, json.dumps(arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_predict_with_a_file_needs_neither_torch_nor_transformers(folders, tmp_path):
    model = GloResNetForImageClassification.from_pretrained(folders / "model")
    export_model(model, GloResNetImageProcessor(image_size=32, framing="head"), tmp_path / "framed", "card")
    framed = copy_of(folders / "model.xml", tmp_path)
    settings = {"image_size": 32, "framing": "head"}
    rewrite_metadata(framed, lambda text: text | {"format": 2, "processor": settings})
    (tmp_path / "heads").mkdir()
    nibabel.save(make_phantom_scan(36.0, voxel_size=4.0).image(), tmp_path / "heads" / "a.nii.gz")
    (tmp_path / "heads" / "b.nii.gz").write_bytes(b"no scan")
    cases = [(folders / "scans", folders / "model", folders / file) for file in FILES.values()]
    cases.append((tmp_path / "heads", tmp_path / "framed", framed))
    calls = [
        [str(scans), "--model", str(file), "--output", str(tmp_path / f"{number}.csv"), "--num_workers", "1"]
        for number, (scans, _, file) in enumerate(cases)
    ]
    assert "1 of 2 scan(s) screened" in run_without_torch(PREDICT, calls)
    for number, (scans, folder, _) in enumerate(cases):
        call = [str(scans), "--model", str(folder), "--output", str(tmp_path / "expected.csv"), "--dtype", "float32"]
        assert predict.main(call) == (1 if scans.name == "heads" else 0)
        tables = [list(csv.DictReader(open(tmp_path / name))) for name in (f"{number}.csv", "expected.csv")]
        for found, expected in zip(*tables, strict=True):
            for column in ("p_injury", "p_injury_no_tta"):
                one, other = (float(row.pop(column) or 2) for row in (found, expected))
                assert one == pytest.approx(other, abs=1e-4)
            assert found == expected


def test_predict_with_a_file_does_not_import_pydicom_for_a_nifti_scan(folders, tmp_path):
    scan = next((folders / "scans").glob("*.nii.gz"))
    call = ["predict.py", scan, "--model", folders / "model.xml", "--output", tmp_path / "p.csv"]
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *map(str, call)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0 and "nibabel.nifti1" in result.stderr and "pydicom." not in result.stderr


def test_the_page_and_dicom_documents_need_neither_torch_nor_transformers(folders, tmp_path):
    trained = copy_of(folders / "model.xml", tmp_path)
    rewrite_metadata(trained, lambda text: config_of(text, provenance=TRAINED))
    study = save(slices_of(volume(), study="light"), tmp_path / "study")
    written = run_without_torch(PAGE_AND_DOCUMENTS, [str(trained), str(study), str(tmp_path / "documents")])
    assert written.split()[0] == "report.dcm" and "map.dcm" not in written
