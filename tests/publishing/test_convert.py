"""Converted files match PyTorch, hold everything that screening needs, and are kept only if they pass the check."""

import errno
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

import train
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing import convert, graph
from publishing.export import export_model
from run_folder.layout import ModelFolder
from screening import exported
from screening.loading import load_model
from tests.programs import PROJECT, run_program

if not os.environ.get("CI"):  # in CI a missing package must fail
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)

ROOT = Path(convert.__file__).parent.parent
PROVENANCE = {"cohort": "phantom-clear", "synthetic": True, "run": "demo", "fold": 4, "train_scans": 38}
FORMATS = {"onnx": ".onnx", "openvino": ".xml"}


def make_model(**config):
    """A small network with non-trivial BatchNorm statistics, as after training."""
    torch.manual_seed(0)
    config = {"stem_channels": 8, "widths": [8, 8, 16, 16], "temperature": 1.7, "threshold": 0.3} | config
    model = GloResNetForImageClassification(
        GloResNetConfig(image_size=32, head_init_std=2.0, provenance=PROVENANCE, **config)
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            for tensor, low, high in [
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2),
                (module.weight.data, 0.7, 1.3),
                (module.bias.data, -0.2, 0.2),
            ]:
                tensor.uniform_(low, high)
    return model.eval()


def export(folder, brain_mask="none", **config):
    model = make_model(**config)
    export_model(model, GloResNetImageProcessor(image_size=32, eps=1e-5, brain_mask=brain_mask), folder, "card")
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert") / "model"
    export(folder)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    base = tmp_path_factory.mktemp("scans")
    for number in range(9):
        data = np.random.default_rng(number).gamma(2, 50, (14, 16, 12)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, 1.0, 1.2, 1.0])), base / f"s{number}.nii.gz")
    return sorted(map(str, base.iterdir()))


def run(*arguments):
    """The exit status of the command, in this process."""
    return convert.main([str(argument) for argument in arguments])


def volumes(number, seed=5):
    return torch.randn(number, 1, 32, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tta", [True, False])
@pytest.mark.parametrize("format", FORMATS)
def test_a_converted_model_matches_pytorch_for_any_batch_size(format, tta, tmp_path, capsys):
    model = export(tmp_path / "model", test_time_augmentation=tta)
    assert run(tmp_path / "model", "--format", format) == 0
    file = (tmp_path / "model").with_suffix(FORMATS[format])
    assert f"{file}: float32" in capsys.readouterr().out
    converted, processor = load_model(str(file))
    for number in (1, 3):
        expected = model.predict_views(volumes(number))
        assert expected.shape == (1 + tta, number, 2)
        assert expected.std() > 0.01
        found = converted.predict_views(volumes(number))
        assert found.shape == expected.shape and found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (processor.image_size, processor.eps, processor.brain_mask) == (32, 1e-5, "none")
    names = {"model", file.name} | ({"model.bin"} if format == "openvino" else set())
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_alone_gives_views_and_their_mean_and_contains_no_path(format, folder, tmp_path):
    file = tmp_path / f"m{FORMATS[format]}"
    assert run(folder, "--format", format, "--output", file) == 0
    x = volumes(2).numpy()
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file)
        views, probabilities = session.run(["views", "probabilities"], {"pixel_values": x})
        text = session.get_modelmeta().custom_metadata_map["gloresnet"]
    else:
        import openvino

        network = openvino.Core().read_model(file)
        answer = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"pixel_values": x})
        views, probabilities = answer["views"], answer["probabilities"]
        text = network.get_rt_info(["gloresnet"]).astype(str)
    model = GloResNetForImageClassification.from_pretrained(folder)
    np.testing.assert_allclose(views, model.predict_views(torch.from_numpy(x)), atol=1e-5)
    np.testing.assert_allclose(probabilities, model.predict_proba(torch.from_numpy(x)), atol=1e-5)
    metadata = json.loads(text)
    assert metadata["config"]["provenance"] == PROVENANCE and metadata["dtype"] == "float32"
    for path in tmp_path.iterdir():
        assert not any(word in path.read_bytes() for word in (str(folder.parent).encode(), str(ROOT).encode()))


@pytest.mark.parametrize("kernel, channels", [(3, 1), (5, 1), (7, 1), (7, 2)])
def test_folded_batchnorm_and_regrouped_stem_do_not_change_the_output(kernel, channels):
    model = make_model(
        stem_kernel_size=kernel, modalities=["T2w", "MD"][:channels], block="bottleneck", depths=[1, 2, 1, 1]
    )
    x = torch.randn(2, channels, 32, 32, 32)
    for block in graph.BLOCKS.values():
        faster = graph.for_inference(model, block)
        assert not [module for module in faster.modules() if isinstance(module, nn.BatchNorm3d)]
        assert isinstance(faster.model.gloresnet.stem.conv1, graph.SpaceToDepthConv3d) == (max(block) > 1)
        torch.testing.assert_close(faster(x)[0], model.predict_views(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("block", [(2, 2, 2), (2, 2, 1), (1, 2, 1), (1, 1, 2)])
@pytest.mark.parametrize("edges", [(32, 32, 32), (31, 32, 33), (9, 8, 7)])
@pytest.mark.parametrize("kernel, channels", [(1, 1), (3, 2), (5, 1), (7, 1), (9, 1)])
def test_the_regrouped_stem_computes_the_same_sums(kernel, channels, edges, block):
    torch.manual_seed(0)
    conv = nn.Conv3d(channels, 4, kernel, stride=2, padding=kernel // 2).double()
    x = torch.randn(2, channels, *edges, dtype=torch.double)
    torch.testing.assert_close(graph.SpaceToDepthConv3d(conv, block)(x), conv(x), atol=1e-12, rtol=0)


def test_a_stem_without_stride_2_is_not_regrouped():
    faster = graph.for_inference(make_model(stem_stride=1), (2, 2, 2))
    assert not isinstance(faster.model.gloresnet.stem.conv1, graph.SpaceToDepthConv3d)


def test_bfloat16_is_close_to_float32_and_used_only_if_the_cpu_has_it(folder, tmp_path, monkeypatch, capsys):
    if "BF16" not in convert.cpu_capabilities():
        assert run(folder, "--format", "openvino", "--dtype", "bfloat16") == 2
        assert "no bfloat16" in capsys.readouterr().err
        return
    assert run(folder, "--format", "openvino", "--dtype", "bfloat16", "--output", tmp_path / "b.xml") == 0
    converted, _ = load_model(str(tmp_path / "b.xml"))
    exact = GloResNetForImageClassification.from_pretrained(folder).predict_views(volumes(2))
    off = (converted.predict_views(volumes(2)) - exact).abs().max()
    assert converted.dtype == "bfloat16" and 1e-6 < off < 2e-2  # a steep head rounds more than a real one
    # on a CPU without bfloat16, the file computes in float32
    monkeypatch.setattr(exported, "cpu_capabilities", lambda: ["FP32"])
    converted, _ = load_model(str(tmp_path / "b.xml"))
    torch.testing.assert_close(converted.predict_views(volumes(2)), exact, atol=1e-5, rtol=0)


def test_a_cpu_without_bfloat16_is_reported(folder, monkeypatch, capsys):
    monkeypatch.setattr(convert, "cpu_capabilities", lambda: ["FP32"])
    assert run(folder, "--format", "openvino", "--dtype", "bfloat16") == 2
    assert "this CPU has no bfloat16" in capsys.readouterr().err


def test_int8_is_calibrated_on_half_of_the_scans_and_checked_on_all_of_them(scans, tmp_path, monkeypatch, capsys):
    model = export(tmp_path / "model", widths=[16, 16, 16, 16], stem_channels=16, temperature=8.0)
    calibrating, checked = [], []

    def quantise(graph_, volumes, folder):
        calibrating.extend(volumes)
        return graph.to_openvino_int8(graph_, volumes, folder)

    def compare(model_, converted, volumes, in_log_odds):
        checked.extend(volumes)
        return difference(model_, converted, volumes, in_log_odds)

    difference = convert.difference
    monkeypatch.setattr(convert, "to_openvino_int8", quantise)
    monkeypatch.setattr(convert, "difference", compare)
    call = [tmp_path / "model", "--format", "openvino", "--dtype", "int8"]
    assert run(*call, "--calibration", *scans) == 0
    assert "on 9 volumes, of which 4 did not calibrate it (allowed 0.02)" in capsys.readouterr().out
    assert len(calibrating) == 5 and len(checked) == 9
    assert sum(any(one is other for other in calibrating) for one in checked) == 5
    converted, processor = load_model(str(tmp_path / "model-int8.xml"))
    x = processor(scans, return_tensors="pt").pixel_values
    off = (converted.predict_views(x) - model.predict_views(x)).abs().max()
    assert converted.dtype == "int8" and 1e-6 < off <= 2e-2
    sizes = [path.stat().st_size for path in (tmp_path / "model-int8.bin", tmp_path / "model" / "model.safetensors")]
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize("format", FORMATS)
def test_a_conversion_that_differs_from_pytorch_is_not_kept(format, folder, tmp_path, monkeypatch, capsys):
    right = graph.for_inference

    def wrong(model, block):
        faster = right(model, block)
        faster.model.config.temperature *= 1.01
        return faster

    monkeypatch.setattr(convert, "for_inference", wrong)
    file = tmp_path / f"m{FORMATS[format]}"
    file.write_text("of an earlier conversion")
    assert run(folder, "--format", format, "--output", file) == 1
    assert re.search(r"differs from PyTorch by [\d.e-]+, and float32 allows 0.0001", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.read_text() == "of an earlier conversion"


def test_the_next_conversion_removes_what_killed_ones_left_and_nothing_else(tmp_path):
    killed, running, foreign, other = (
        tmp_path / name
        for name in (".m.onnx.a.converting", ".m.onnx.b.converting", ".m.onnx.backup", ".n.onnx.a.converting")
    )
    for folder in (killed, running, foreign, other):
        folder.mkdir()
        (folder / ".lock").touch()
        (folder / "m.onnx").write_text("half a model")
    unlocked = tmp_path / ".m.onnx.c.converting"
    unlocked.mkdir()
    with FileLock(running / ".lock"):
        with convert.temporary_folder(tmp_path / "m.onnx") as own:
            assert set(tmp_path.iterdir()) == {running, foreign, other, unlocked, own}
    assert set(tmp_path.iterdir()) == {running, foreign, other, unlocked}


def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder, tmp_path, monkeypatch, capsys):
    def full(graph, file, metadata):
        file.write_text("half a model")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def silently_full(network, file, metadata):  # OpenVINO's own writer does not report it
        graph.write_openvino(network, file, metadata)
        weights = file.with_suffix(".bin")
        weights.write_bytes(weights.read_bytes()[:5000])

    monkeypatch.setattr(convert, "write_onnx", full)
    monkeypatch.setattr(convert, "write_openvino", silently_full)
    for format, words in (("onnx", "m.onnx could not be written: its disk is full"), ("openvino", "no file was kept")):
        assert run(folder, "--format", format, "--output", tmp_path / f"m{FORMATS[format]}") == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


def test_log_odds_show_a_difference_between_saturated_probabilities():
    class Sure:
        def __init__(self, logit):
            self.logit = logit

        def predict_views(self, x):
            return torch.tensor([self.logit, 0.0]).softmax(0).repeat(2, len(x), 1)

    x = list(volumes(4).split(1))
    assert convert.difference(Sure(30.0), Sure(31.0), x, in_log_odds=True) == pytest.approx(0.25, abs=1e-3)
    assert convert.difference(Sure(30.0), Sure(31.0), x, in_log_odds=False) < 1e-6
    assert np.isnan(convert.difference(Sure(30.0), Sure(float("nan")), x, in_log_odds=True))


def test_wrong_calls_are_explained_and_write_nothing(folder, scans, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    int8 = ["--format", "openvino", "--dtype", "int8"]
    for arguments, needle in [
        ([], "required"),
        ([folder], "--format"),
        ([folder, "--format", "tflite"], "tflite"),
        ([folder, "--format", "onnx", "--output", "m.xml"], "m.xml must be a .onnx file"),
        ([folder, *int8], "with 8 or more scans"),
        ([folder, "--format", "onnx", "--calibration", scans[0]], "--dtype int8 and --calibration go together"),
    ]:
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2
        assert needle in capsys.readouterr().err
    export(tmp_path / "masked", brain_mask="required")
    Path("flat.nii").write_text("no volume")
    for arguments, needle in [
        ([folder, "--format", "onnx", "--dtype", "bfloat16"], "no bfloat16 convolutions"),
        (
            [folder, "--format", "onnx", "--dtype", "int8", "--calibration", *scans],
            "more slowly in int8 than in float32",
        ),
        ([folder, *int8, "--calibration", *scans[:7]], "has 7 different scans"),
        ([folder, *int8, "--calibration", *scans[:5] * 2], "has 5 different scans"),
        ([folder, *int8, "--calibration", *scans, "flat.nii"], "flat.nii"),
        (["masked", *int8, "--calibration", *scans], "brain masks"),
        (["nowhere", "--format", "onnx"], "nowhere does not exist"),
        ([folder, "--format", "onnx", "--output", "absent/m.onnx"], "absent cannot be written"),
        ([folder, "--format", "onnx", "--output", "flat.nii/m.onnx"], "flat.nii cannot be written"),
    ]:
        assert run(*arguments) == 2
        assert needle in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"masked", "flat.nii"}


def test_a_converted_file_is_not_converted_again(folder, tmp_path, capsys):
    file = tmp_path / "m.onnx"
    assert run(folder, "--format", "onnx", "--output", file) == 0
    assert run(file, "--format", "openvino") == 2
    assert "converted file already" in capsys.readouterr().err


@pytest.mark.parametrize("format, package", [("onnx", "onnx"), ("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(format, package, folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert run(folder, "--format", format) == 2
    assert re.search(f"package {package} .*pip install -r requirements-export.txt", capsys.readouterr().err)


def test_the_command_in_a_shell(folder, tmp_path):
    def shell(*arguments):
        return run_program(["-m", "publishing.convert", *arguments], ROOT, os.environ, PROJECT)

    done = shell(folder, "--format", "onnx", "--output", tmp_path / "m.onnx")
    assert done.returncode == 0 and "m.onnx: float32" in done.stdout, done.stderr
    assert "Warning" not in done.stderr
    refused = shell(tmp_path / "gone", "--format", "onnx")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert refused.stderr.startswith("publishing.convert: ") and refused.stderr.count("\n") == 1


def test_the_optional_packages_are_installed_in_ci():
    assert all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime", "openvino"))


@pytest.mark.parametrize("format", FORMATS)
def test_presence_is_the_second_input_of_a_file_for_several_modalities(format, tmp_path, capsys):
    names, file = ["T2w", "T1w", "MD"], tmp_path / f"m{FORMATS[format]}"
    model = make_model(modalities=names)
    nn.init.normal_(model.presence.weight)
    export_model(model, GloResNetImageProcessor(image_size=32, modalities=names), tmp_path / "model", "card")
    assert run(tmp_path / "model", "--format", format, "--output", file) == 0
    converted, processor = load_model(str(file))
    assert processor.modalities == converted.config.modalities == names
    x = torch.randn(3, 3, 32, 32, 32, generator=torch.Generator().manual_seed(5))
    flags = torch.tensor([[True, True, True], [True, False, True], [True, False, False]])
    for given in ({}, {"presence": flags}):
        expected = model.predict_views(x, **given)
        torch.testing.assert_close(converted.predict_views(x, **given), expected, atol=1e-5, rtol=0)
    assert graph.ScreeningGraph(model).inputs == ["pixel_values", "presence"]
    calibration = [str(tmp_path / f"{number}.nii") for number in range(8)]
    assert run(tmp_path / "model", "--format", "openvino", "--dtype", "int8", "--calibration", *calibration) == 2
    assert "int8 is not available for models of several modalities" in capsys.readouterr().err


def test_training_converts_each_model_once(folder, capsys):
    trained = ModelFolder(folder.parent)
    for _ in range(2):
        train.convert_models([trained], "onnx")
    assert capsys.readouterr().out.count("differs from PyTorch by at most") == 1
    assert load_model(str(trained.converted(".onnx")))[0].dtype == "float32"
