"""Screening with a model that has a local stream: answers, places, warnings, and the table of places."""

import csv
import json
import os

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

import predict
from modeling_gloresnet import GloResNetConfig, GloResNetEnsembleForImageClassification, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor, apply_mask, correct_bias, local_inputs, read_volume
from publishing import convert
from publishing.export import export_model
from screening import fast
from screening.loading import ModelError, load_model, load_pytorch_model
from screening.one_scan import read_inputs, screen_scan
from screening.places import list_places
from screening.pytorch import PyTorchModel
from tests.brains import SPOT, brain_with_spot

if not os.environ.get("CI"):  # in CI a missing package must fail
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)

FORMATS = {"onnx": "onnx", ".xml": "openvino"}


def suspicious_of_spots(seed, **settings):
    """A network with a local stream whose scorers say how dark the middle of the fine cube is."""
    torch.manual_seed(seed)
    config = GloResNetConfig(
        image_size=32,
        stem_channels=4,
        widths=[4, 8, 8, 16],
        head_init_std=3.0,
        local_stream=True,
        local_scorers=1,  # conversion takes time for each
        **settings,
    )
    model = GloResNetForImageClassification(config).eval()
    with torch.no_grad():
        for scorer in model.local.scorers:
            for weight in scorer.parameters():
                weight.mul_(0.1)  # a little of everything
            convolutions = [layer for layer in scorer.scales[0] if isinstance(layer, torch.nn.Conv3d)]
            norms = [layer for layer in scorer.scales[0] if isinstance(layer, torch.nn.BatchNorm3d)]
            convolutions[0].weight[0] = -1 / 27  # darkness, through one channel
            convolutions[1].weight[0, 0, 1, 1, 1] = convolutions[2].weight[0, 0, 1, 1, 1] = 1
            for norm in norms:
                norm.weight[0] = 1
            scorer.head[1].weight[0, 0] = scorer.head[3].weight[0, 0] = 2
            scorer.head[3].bias.fill_(-4)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model and an ensemble with a local stream, two brains, and a scan that is too coarse for it."""
    base = tmp_path_factory.mktemp("local")
    processor = GloResNetImageProcessor(image_size=32, local_stream=True)
    members = [suspicious_of_spots(1, temperature=1.3, local_calibration=[0.8, 0.1]), suspicious_of_spots(2)]
    export_model(members[0], processor, base / "model", "card")
    export_model(GloResNetEnsembleForImageClassification.from_members(members), processor, base / "ensemble", "card")
    (base / "scans").mkdir()
    nibabel.save(brain_with_spot(), base / "scans" / "a.nii.gz")
    nibabel.save(brain_with_spot(radius=26), base / "scans" / "b.nii.gz")
    nibabel.save(brain_with_spot(1.5), base / "scans" / "coarse.nii.gz")
    return base


def test_the_answer_says_which_stream_spoke_and_where(folders):
    model, processor = load_model(str(folders / "model"))
    answer = screen_scan(model, processor, str(folders / "scans" / "a.nii.gz"))
    json.dumps(answer, allow_nan=False)
    original = GloResNetForImageClassification.from_pretrained(folders / "model").eval()
    inputs = processor(str(folders / "scans" / "a.nii.gz"), return_tensors="pt")
    assert answer["p_injury"] == pytest.approx(original.predict_proba(**inputs)[0, 1].item(), abs=1e-6)
    assert answer["streams"] == ["global", "local"] and answer["p_shares"] is None
    views = original.predict_streams(inputs["pixel_values"], **{n: v for n, v in inputs.items() if n != "pixel_values"})
    assert answer["p_global"] == pytest.approx(views["p_global"].item(), abs=1e-6)
    with pytest.warns(UserWarning, match="that of the global stream"):
        own = original.predict_views(inputs["pixel_values"])[:, 0, 1].numpy()
    each = 1 - (1 - np.maximum(0, 2 * own - 1)) * (1 - answer["p_local"])
    assert answer["p_injury"] == pytest.approx(each.mean(), abs=1e-6)
    places = answer["places"]
    assert len(places) == 24 and places[0]["probability"] == pytest.approx(answer["p_local"], abs=1e-6)
    np.testing.assert_allclose(places[0]["position_mm"], SPOT, atol=0.8)
    assert places[0]["side"] == "right" and not any("global stream" in text for text in answer["warnings"])
    ranked = [place["probability"] for place in places]
    assert ranked == sorted(ranked, reverse=True) and ranked[0] > 2 * ranked[1]


def test_a_scan_that_is_too_coarse_is_answered_by_the_global_stream_alone(folders):
    model, processor = load_model(str(folders / "model"))
    answer = screen_scan(model, processor, str(folders / "scans" / "coarse.nii.gz"))
    assert any(text.startswith("answered by the global stream alone: ") for text in answer["warnings"])
    assert answer["streams"] == ["global"] and answer["p_local"] is None and answer["places"] == []
    with pytest.warns(UserWarning, match="answered by the global stream alone"):
        inputs = processor(str(folders / "scans" / "coarse.nii.gz"), return_tensors="pt")
    with pytest.warns(UserWarning, match="that of the global stream"):
        own = model.module.predict_views(inputs["pixel_values"])[:, 0, 1].numpy()
    assert answer["p_global"] == pytest.approx(own.mean(), abs=1e-6)
    assert answer["p_injury"] == pytest.approx(np.maximum(0, 2 * own - 1).mean(), abs=1e-6)


def test_an_ensemble_reports_what_both_streams_of_each_member_say(folders):
    model, processor = load_model(str(folders / "ensemble"))
    scan = str(folders / "scans" / "a.nii.gz")
    answer = screen_scan(model, processor, scan)
    inputs = processor(scan, return_tensors="pt")
    members = [suspicious_of_spots(1, temperature=1.3, local_calibration=[0.8, 0.1]), suspicious_of_spots(2)]
    each = [member.predict_proba(**inputs)[0, 1].item() for member in members]
    assert answer["p_injury_members"] == pytest.approx(each, abs=1e-6) and answer["streams"] == ["global", "local"]
    np.testing.assert_allclose(answer["places"][0]["position_mm"], SPOT, atol=0.8)


@pytest.mark.parametrize("name", ["model", "ensemble"])
def test_a_prepared_model_gives_the_same_answers(folders, name):
    model, processor = load_model(str(folders / name))
    scan = str(folders / "scans" / "a.nii.gz")
    expected, found = (screen_scan(m, processor, scan) for m in (model, fast.prepare(model, "float32")))
    for key in ("p_injury", "p_injury_no_tta", "p_global", "p_local"):
        assert found[key] == pytest.approx(expected[key], abs=1e-6)
    assert [p["position_mm"] for p in found["places"][:3]] == [p["position_mm"] for p in expected["places"][:3]]
    rounded = screen_scan(fast.prepare(model, "bfloat16"), processor, scan)
    assert rounded["p_local"] == pytest.approx(expected["p_local"], abs=1e-6)
    assert rounded["p_injury"] == pytest.approx(expected["p_injury"], abs=5e-3)


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("name", "shares"), [("m.onnx", True), ("m.xml", True), ("int8.xml", False)])
def test_a_converted_file_holds_both_streams(folders, tmp_path, name, shares):
    original, processor = load_pytorch_model(str(folders / "model"))
    if shares:
        weights = {"mean": [0.1] * 9, "scale": [0.5] * 9, "weights": [0.4] * 9, "intercept": -1.0}
        original.config.local_share_weights = original.local.share_weights = weights
    scans = [str(folders / "scans" / f"{scan}.nii.gz") for scan in ("b", "coarse", "a")]
    volumes = convert.random_volumes(original.config)
    if name == "int8.xml":  # a tiny network of random weights loses more than the check allows
        exact = 0.1
        convert.write(original, processor, "openvino", "int8", volumes, tmp_path / name)
    else:
        exact = 1e-5
        assert convert.convert(original, processor, FORMATS[name[-4:]], "float32", volumes, tmp_path / name) < exact
    model, processor = load_model(str(tmp_path / name))
    assert processor.local_stream and model.config.local_stream
    for part in ([scans[2]], scans):  # other numbers of scans and candidates
        inputs = processor(part, return_tensors="pt")
        for augmentation in (None, False):
            expected = original.predict_streams(**inputs, test_time_augmentation=augmentation)
            found = model.predict_streams(**inputs, test_time_augmentation=augmentation)
            assert found.keys() == expected.keys()
            for key in ("members", "p_global"):
                torch.testing.assert_close(found[key], expected[key], atol=exact, rtol=0)
            for key in ("p_local", "p_shares", "candidates"):  # int8 is for the global stream only
                torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=0, equal_nan=True)
    with pytest.warns(UserWarning, match="global stream"):
        alone = model.predict_proba(inputs["pixel_values"])
    with pytest.warns(UserWarning, match="global stream"):
        torch.testing.assert_close(alone, original.predict_proba(inputs["pixel_values"]), atol=exact, rtol=0)
    answer, expected = (screen_scan(m, processor, scans[2]) for m in (model, PyTorchModel(original)))
    assert answer["places"][0]["position_mm"] == expected["places"][0]["position_mm"]
    assert answer["streams"] == ["global", "local"] + ["shares"] * shares


def test_the_check_of_a_conversion_sees_the_global_stream_below_one_half(folders):
    """There q is 0, so the probability of both streams does not show it. Above, q changes twice as much."""
    model, changed = (load_pytorch_model(str(folders / "model"))[0] for _ in range(2))
    with torch.no_grad():
        for network, bias in ((model, -4.0), (changed, -6.0)):
            network.classifier.weight.zero_()
            network.classifier.bias.copy_(torch.tensor([0.0, bias]))
    apart = [1 / (1 + np.exp(-bias / model.config.temperature)) for bias in (-4, -6)]
    found = convert.difference(model, changed, convert.random_volumes(model.config), in_log_odds=False)
    assert found == pytest.approx(2 * (apart[0] - apart[1]), abs=1e-6) and found > 0.02


def test_predict_writes_both_tables(folders, tmp_path):
    call = [folders / "scans", "--model", folders / "model", "--output", tmp_path / "p.csv", "--batch_size", "3"]
    call += ["--places", tmp_path / "places.csv", "--num_workers", "0", "--dtype", "float32"]
    assert predict.main(list(map(str, call))) == 0
    rows, places = table(tmp_path / "p.csv"), table(tmp_path / "places.csv")
    assert list(rows[0]) == predict_columns()
    model, processor = load_model(str(folders / "model"))
    for row in rows:
        answer = screen_scan(model, processor, row["scan"])
        assert float(row["p_injury"]) == pytest.approx(answer["p_injury"], abs=1e-5)
        assert ("global stream alone" in row["warnings"]) == (answer["streams"] == ["global"])
        own = [place for place in places if place["scan"] == row["scan"]]
        assert all(place["warnings"] == row["warnings"] for place in own)
        assert [int(place["rank"]) for place in own] == list(range(1, len(answer["places"]) + 1))
        for place, expected in zip(own[:3], answer["places"], strict=False):
            assert float(place["probability"]) == pytest.approx(expected["probability"], abs=1e-5)
            assert [float(place[f"{axis}_mm"]) for axis in "xyz"] == expected["position_mm"]
            assert place["side"] == expected["side"]
    assert {row["scan"] for row in rows} - {place["scan"] for place in places} == {
        str(folders / "scans" / "coarse.nii.gz")
    }


def predict_columns():
    return "scan,p_injury,p_injury_no_tta,predicted_label,status,message,warnings".split(",")


def test_places_need_a_model_with_a_local_stream_and_a_file_of_their_own(folders, tmp_path, capsys):
    model = GloResNetForImageClassification(GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16]))
    export_model(model, GloResNetImageProcessor(image_size=32), tmp_path / "plain", "card")
    call = [str(folders / "scans"), "--model", str(tmp_path / "plain"), "--output", str(tmp_path / "p.csv")]
    assert predict.main([*call, "--places", str(tmp_path / "places.csv")]) == 2
    assert "no local stream" in capsys.readouterr().err and not (tmp_path / "p.csv").exists()
    with pytest.raises(SystemExit):
        predict.main([*call, "--places", str(tmp_path / "p.csv")])
    assert "the same file" in capsys.readouterr().err


def test_processor_and_model_must_agree(folders, tmp_path):
    import shutil

    folder = shutil.copytree(folders / "model", tmp_path / "model")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"local_stream": False}))
    with pytest.raises(ModelError, match="local stream"):
        load_model(str(folder))


def test_sides_are_those_of_the_brain_and_not_of_the_scanner():
    positions = local_inputs(read_volume(brain_with_spot())).positions + np.float32([100, 0, 0])
    middle = np.median(positions[:, 0])
    probabilities = 0.2 + 0.6 * (np.abs(positions[:, 0] - middle) / 100)
    found = list_places([*probabilities, np.nan], [*positions, [0, 0, 0]])
    assert {place["side"] for place in found} == {"left", "right"}
    for place in found:
        assert (place["position_mm"][0] > middle) == (place["side"] == "right")
    assert list_places([0.5, 0.6], [[0, 0, 0], [1, 9, 9]])[0]["side"] == "middle"
    assert list_places([], np.zeros((0, 3))) == []


def test_the_search_sees_the_masked_and_corrected_scan_on_its_own_grid(folders, tmp_path):
    scan = str(folders / "scans" / "a.nii.gz")
    volume = read_volume(scan)
    framed = GloResNetImageProcessor(image_size=32, local_stream=True, framing="head", frame_mm=100)
    found = read_inputs(framed, scan)
    np.testing.assert_array_equal(found.local.positions, local_inputs(volume).positions)
    assert found.volume.frame is not None
    both = GloResNetImageProcessor(
        image_size=32, local_stream=True, framing="head", frame_mm=100, bias_correction="n4", brain_mask="required"
    )
    inner = binary_erosion(volume.data > 0, iterations=2).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(inner, volume.affine), tmp_path / "mask.nii.gz")
    found = read_inputs(both, scan, str(tmp_path / "mask.nii.gz"))
    expected = local_inputs(correct_bias(apply_mask(volume, inner), masked=True), masked=True)
    np.testing.assert_array_equal(found.local.patches, expected.patches)
    np.testing.assert_array_equal(found.local.positions, expected.positions)
    direct = both(scan, mask=str(tmp_path / "mask.nii.gz"), return_tensors="np")
    np.testing.assert_array_equal(direct["local_patches"][0], expected.patches)
    np.testing.assert_array_equal(direct["pixel_values"][0], found.pixel_values)
